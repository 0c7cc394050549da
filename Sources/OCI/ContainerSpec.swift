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
        /// -1000 to 1000; nil: the caller's own.
        package var oomScoreAdjustment: Int32?
        package init() {}
    }

    package struct Mount: Sendable, Equatable {
        package var destination: String
        package var type: String
        package var source: String
        package var options: [String]
        /// From ids on disk to ids of the host, in place of the container's own maps.
        package var uidMappings: [IDMap] = []
        package var gidMappings: [IDMap] = []
        package init(_ destination: String, type: String, source: String, options: [String]) {
            (self.destination, self.type, self.source, self.options) = (destination, type, source, options)
        }
    }

    /// A namespace of the container's own, or somebody else's by its file.
    package struct Namespace: Sendable, Equatable {
        /// In the specification's words: mount, uts, ipc, pid, network, cgroup, time, user.
        package var type: String
        package var path: String?
        package init(_ type: String, path: String? = nil) { (self.type, self.path) = (type, path) }
    }

    /// One line of an id map: `size` ids from `containerID` are `hostID` and following outside.
    package struct IDMap: Sendable, Equatable {
        package var containerID: UInt32
        package var hostID: UInt32
        package var size: UInt32
        package init(containerID: UInt32, hostID: UInt32, size: UInt32) {
            (self.containerID, self.hostID, self.size) = (containerID, hostID, size)
        }
    }

    /// A device node to be made, beside those that every container has.
    package struct Device: Sendable, Equatable {
        /// Inside, absolute.
        package var path: String
        /// `c` or `b`.
        package var type: Character
        package var major: UInt32
        package var minor: UInt32
        /// Permission bits.
        package var mode: UInt32
        /// Ids inside.
        package var uid: UInt32
        package var gid: UInt32
        package init(
            path: String, type: Character, major: UInt32, minor: UInt32, mode: UInt32, uid: UInt32,
            gid: UInt32
        ) {
            (self.path, self.type, self.major, self.minor) = (path, type, major, minor)
            (self.mode, self.uid, self.gid) = (mode, uid, gid)
        }
    }

    package struct TimeOffset: Sendable, Equatable {
        /// `monotonic` or `boottime`.
        package var clock: String
        package var seconds: Int64
        package var nanoseconds: UInt32
        package init(clock: String, seconds: Int64, nanoseconds: UInt32) {
            (self.clock, self.seconds, self.nanoseconds) = (clock, seconds, nanoseconds)
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
    package var namespaces: [Namespace] = []
    package var uidMappings: [IDMap] = []
    package var gidMappings: [IDMap] = []
    package var timeOffsets: [TimeOffset] = []
    package var devices: [Device] = []
    package var resources = Resources()
    /// Below the parent group of each hierarchy; empty: the container's groups are named by its id.
    package var cgroupsPath = ""
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
            ("namespaces", .array(namespaces.map(\.json)))
        ]
        if !uidMappings.isEmpty { linux.append(("uidMappings", .array(uidMappings.map(\.json)))) }
        if !gidMappings.isEmpty { linux.append(("gidMappings", .array(gidMappings.map(\.json)))) }
        if !timeOffsets.isEmpty {
            linux.append(
                (
                    "timeOffsets",
                    .object(
                        timeOffsets.map {
                            ($0.clock, ["secs": .integer($0.seconds), "nanosecs": .integer($0.nanoseconds)])
                        })
                ))
        }
        if !devices.isEmpty { linux.append(("devices", .array(devices.map(\.json)))) }
        if resources != Resources() { linux.append(("resources", resources.json)) }
        if !cgroupsPath.isEmpty { linux.append(("cgroupsPath", .string(cgroupsPath))) }
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
                .array(mounts.map(\.json))
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
            var mount = Mount(
                destination, type: item["type"]?.string ?? "", source: item["source"]?.string ?? "",
                options: (item["options"]?.array ?? []).compactMap(\.string))
            mount.uidMappings = try ContainerSpec.maps(item["uidMappings"])
            mount.gidMappings = try ContainerSpec.maps(item["gidMappings"])
            mounts.append(mount)
        }
        annotations = ContainerSpec.pairs(json["annotations"])
        let linux = json["linux"]
        for item in linux?["namespaces"]?.array ?? [] {
            guard let type = item["type"]?.string else {
                throw OCIError(.document, "a namespace in config.json has no type")
            }
            namespaces.append(Namespace(type, path: item["path"]?.string))
        }
        uidMappings = try ContainerSpec.maps(linux?["uidMappings"])
        gidMappings = try ContainerSpec.maps(linux?["gidMappings"])
        for (clock, value) in linux?["timeOffsets"]?.object ?? [] {
            timeOffsets.append(
                TimeOffset(
                    clock: clock, seconds: value["secs"]?.integer ?? 0,
                    nanoseconds: UInt32(clamping: value["nanosecs"]?.integer ?? 0)))
        }
        devices = try (linux?["devices"]?.array ?? []).mapTyped { item throws(OCIError) in
            try Device(json: item)
        }
        if let part = linux?["resources"] { resources = try Resources(json: part) }
        cgroupsPath = linux?["cgroupsPath"]?.string ?? ""
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
        if let oomScoreAdjustment { members.append(("oomScoreAdj", .integer(oomScoreAdjustment))) }
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
        oomScoreAdjustment = json["oomScoreAdj"]?.integer.flatMap { Int32(exactly: $0) }
    }
}

extension ContainerSpec {
    fileprivate static func unsigned(_ json: JSON) -> UInt64? {
        if case .number(let text) = json { UInt64(text) } else { nil }
    }
}

extension ContainerSpec {
    package func hasOwn(_ type: String) -> Bool {
        namespaces.contains { $0.type == type && $0.path == nil }
    }
}

extension ContainerSpec {
    fileprivate static func maps(_ json: JSON?) throws(OCIError) -> [IDMap] {
        try (json?.array ?? []).mapTyped { item throws(OCIError) in try IDMap(json: item) }
    }
}

extension ContainerSpec.Mount {
    var json: JSON {
        var members: [(key: String, value: JSON)] = [
            ("destination", .string(destination)), ("type", .string(type)), ("source", .string(source)),
            ("options", .array(options.map { .string($0) })),
        ]
        if !uidMappings.isEmpty { members.append(("uidMappings", .array(uidMappings.map(\.json)))) }
        if !gidMappings.isEmpty { members.append(("gidMappings", .array(gidMappings.map(\.json)))) }
        return .object(members)
    }
}

extension ContainerSpec.Namespace {
    var json: JSON {
        if let path { ["type": .string(type), "path": .string(path)] } else { ["type": .string(type)] }
    }
}

extension ContainerSpec.IDMap {
    var json: JSON {
        ["containerID": .integer(containerID), "hostID": .integer(hostID), "size": .integer(size)]
    }

    init(json: JSON) throws(OCIError) {
        func number(_ key: String) throws(OCIError) -> UInt32 {
            guard let value = json[key]?.integer.flatMap({ UInt32(exactly: $0) }) else {
                throw OCIError(.document, "an id map in config.json has no \(key) from 0 to 4294967295")
            }
            return value
        }
        self.init(
            containerID: try number("containerID"), hostID: try number("hostID"), size: try number("size"))
    }
}

extension ContainerSpec.Device {
    var json: JSON {
        [
            "path": .string(path), "type": .string(String(type)), "major": .integer(major),
            "minor": .integer(minor), "fileMode": .integer(mode), "uid": .integer(uid), "gid": .integer(gid),
        ]
    }

    init(json: JSON) throws(OCIError) {
        guard let path = json["path"]?.string, path.hasPrefix("/"), let type = json["type"]?.string?.first,
            let major = json["major"]?.integer.flatMap({ UInt32(exactly: $0) }),
            let minor = json["minor"]?.integer.flatMap({ UInt32(exactly: $0) })
        else { throw OCIError(.document, "a device in config.json lacks its path, type, major or minor") }
        func number(_ key: String, _ otherwise: UInt32) -> UInt32 {
            json[key]?.integer.flatMap { UInt32(exactly: $0) } ?? otherwise
        }
        self.init(
            path: path, type: type, major: major, minor: minor, mode: number("fileMode", 0o666),
            uid: number("uid", 0), gid: number("gid", 0))
    }
}
