/// A container as the OCI runtime specification describes it (config.json): the one description of a container in this
/// program.
package struct ContainerSpec: Sendable, Equatable {
    package struct User: Sendable, Equatable {
        package var uid: UInt32 = 0
        package var gid: UInt32 = 0
        package var additionalGids: [UInt32] = []
        package init() {}
    }

    package struct ResourceLimit: Sendable, Equatable {
        /// `RLIMIT_NOFILE` and its like.
        package var type: String
        package var soft: UInt64
        package var hard: UInt64
        package init(type: String, soft: UInt64, hard: UInt64) {
            (self.type, self.soft, self.hard) = (type, soft, hard)
        }
    }

    package struct Process: Sendable, Equatable {
        package var terminal = false
        package var user = User()
        package var args: [String] = []
        package var env: [String] = []
        package var cwd = "/"
        /// Bounding, effective and permitted set; inheritable and ambient stay empty.
        package var capabilities: [String] = []
        package var limits: [ResourceLimit] = []
        package var noNewPrivileges = true
        package init() {}
    }

    package struct Mount: Sendable, Equatable {
        package var destination: String
        package var type: String
        package var source: String
        package var options: [String]
        package init(_ destination: String, type: String, source: String, options: [String]) {
            (self.destination, self.type, self.source, self.options) = (destination, type, source, options)
        }
    }

    package var process = Process()
    /// The root directory; for an image of the store its name, since the layers are mounted.
    package var rootPath = "rootfs"
    package var rootIsReadOnly = false
    package var hostname = ""
    package var domainname = ""
    package var mounts: [Mount] = []
    package var annotations: [(key: String, value: String)] = []
    /// In the specification's words: mount, uts, ipc, pid, network, cgroup, time.
    package var namespaces: [String] = []
    package var sysctl: [(key: String, value: String)] = []
    package var maskedPaths: [String] = []
    package var readonlyPaths: [String] = []

    package init() {}

    package static func == (left: ContainerSpec, right: ContainerSpec) -> Bool { left.json == right.json }
}

extension ContainerSpec {
    /// The document.
    package var json: JSON {
        func strings(_ list: [String]) -> JSON { .array(list.map { .string($0) }) }
        var linux: [(key: String, value: JSON)] = [
            ("namespaces", .array(namespaces.map { ["type": .string($0)] }))
        ]
        if !sysctl.isEmpty { linux.append(("sysctl", .object(sysctl.map { ($0.key, .string($0.value)) }))) }
        if !maskedPaths.isEmpty { linux.append(("maskedPaths", strings(maskedPaths))) }
        if !readonlyPaths.isEmpty { linux.append(("readonlyPaths", strings(readonlyPaths))) }
        var members: [(key: String, value: JSON)] = [
            ("ociVersion", "1.0.2"), ("process", process.json),
            ("root", ["path": .string(rootPath), "readonly": .bool(rootIsReadOnly)]),
        ]
        if !hostname.isEmpty { members.append(("hostname", .string(hostname))) }
        if !domainname.isEmpty { members.append(("domainname", .string(domainname))) }
        members.append(
            (
                "mounts",
                .array(
                    mounts.map { mount in
                        [
                            "destination": .string(mount.destination), "type": .string(mount.type),
                            "source": .string(mount.source), "options": strings(mount.options),
                        ]
                    })
            ))
        if !annotations.isEmpty {
            members.append(("annotations", .object(annotations.map { ($0.key, .string($0.value)) })))
        }
        members.append(("linux", .object(linux)))
        return .object(members)
    }

    /// Reads the document.
    package init(parsing bytes: [UInt8]) throws(OCIError) {
        let json = try JSON(parsing: bytes)
        guard json["ociVersion"]?.string?.hasPrefix("1.") == true else {
            throw OCIError(.document, "config.json has no ociVersion 1.x")
        }
        guard let root = json["root"]?["path"]?.string, !root.isEmpty else {
            throw OCIError(.document, "config.json names no root.path")
        }
        rootPath = root
        rootIsReadOnly = json["root"]?["readonly"]?.bool ?? false
        if let part = json["process"] { process = try Process(json: part) }
        hostname = json["hostname"]?.string ?? ""
        domainname = json["domainname"]?.string ?? ""
        for item in json["mounts"]?.array ?? [] {
            guard let destination = item["destination"]?.string else {
                throw OCIError(.document, "a mount in config.json has no destination")
            }
            mounts.append(
                Mount(
                    destination, type: item["type"]?.string ?? "", source: item["source"]?.string ?? "",
                    options: (item["options"]?.array ?? []).compactMap(\.string)))
        }
        annotations = ContainerSpec.pairs(json["annotations"])
        namespaces = (json["linux"]?["namespaces"]?.array ?? []).compactMap { $0["type"]?.string }
        sysctl = ContainerSpec.pairs(json["linux"]?["sysctl"])
        maskedPaths = (json["linux"]?["maskedPaths"]?.array ?? []).compactMap(\.string)
        readonlyPaths = (json["linux"]?["readonlyPaths"]?.array ?? []).compactMap(\.string)
    }

    private static func pairs(_ json: JSON?) -> [(key: String, value: String)] {
        (json?.object ?? []).compactMap { member in member.value.string.map { (member.key, $0) } }
    }
}

extension ContainerSpec.Process {
    var json: JSON {
        func strings(_ list: [String]) -> JSON { .array(list.map { .string($0) }) }
        var user: [(key: String, value: JSON)] = [
            ("uid", .integer(self.user.uid)), ("gid", .integer(self.user.gid)),
        ]
        if !self.user.additionalGids.isEmpty {
            user.append(("additionalGids", .array(self.user.additionalGids.map { .integer($0) })))
        }
        var members: [(key: String, value: JSON)] = [
            ("terminal", .bool(terminal)), ("user", .object(user)), ("args", strings(args)),
            ("env", strings(env)),
            ("cwd", .string(cwd)),
            (
                "capabilities",
                [
                    "bounding": strings(capabilities), "effective": strings(capabilities),
                    "permitted": strings(capabilities),
                ]
            ),
        ]
        if !limits.isEmpty {
            members.append(
                (
                    "rlimits",
                    .array(
                        limits.map { limit in
                            [
                                "type": .string(limit.type), "hard": .integer(limit.hard),
                                "soft": .integer(limit.soft),
                            ]
                        })
                ))
        }
        members.append(("noNewPrivileges", .bool(noNewPrivileges)))
        return .object(members)
    }

    init(json: JSON) throws(OCIError) {
        func number(_ value: JSON?) throws(OCIError) -> UInt32 {
            guard let value else { return 0 }
            guard let integer = value.integer, let id = UInt32(exactly: integer) else {
                throw OCIError(.document, "an id in config.json is no number from 0 to 4294967295")
            }
            return id
        }
        terminal = json["terminal"]?.bool ?? false
        user.uid = try number(json["user"]?["uid"])
        user.gid = try number(json["user"]?["gid"])
        for item in json["user"]?["additionalGids"]?.array ?? [] {
            user.additionalGids.append(try number(item))
        }
        args = (json["args"]?.array ?? []).compactMap(\.string)
        env = (json["env"]?.array ?? []).compactMap(\.string)
        cwd = json["cwd"]?.string ?? "/"
        guard cwd.hasPrefix("/") else {
            throw OCIError(.document, "process.cwd in config.json is not absolute")
        }
        capabilities = (json["capabilities"]?["bounding"]?.array ?? []).compactMap(\.string)
        for item in json["rlimits"]?.array ?? [] {
            guard let type = item["type"]?.string, let soft = item["soft"].flatMap(ContainerSpec.unsigned),
                let hard = item["hard"].flatMap(ContainerSpec.unsigned)
            else { throw OCIError(.document, "an rlimit in config.json lacks its type, soft or hard limit") }
            limits.append(.init(type: type, soft: soft, hard: hard))
        }
        noNewPrivileges = json["noNewPrivileges"]?.bool ?? false
    }
}

extension ContainerSpec {
    fileprivate static func unsigned(_ json: JSON) -> UInt64? {
        if case .number(let text) = json { UInt64(text) } else { nil }
    }
}
