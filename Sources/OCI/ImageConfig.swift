/// An image's configuration (image-spec config.md).
package struct ImageConfig: Sendable {
    /// What a container of the image does unless told otherwise.
    package struct Execution: Sendable {
        package var user = ""
        package var exposedPorts: [String] = []
        package var env: [String] = []
        package var entrypoint: [String] = []
        package var cmd: [String] = []
        package var volumes: [String] = []
        package var workingDirectory = ""
        package var labels: [(key: String, value: String)] = []
        package var stopSignal: String?

        package init() {}
    }

    package struct History: Sendable {
        package var created: String?
        package var createdBy = ""
        package var comment = ""
        /// No layer belongs to this line.
        package var isEmptyLayer = false
    }

    package var platform: Platform
    /// RFC 3339.
    package var created: String?
    package var author: String?
    package var config: Execution
    /// Bottom first.
    package var diffIDs: [Digest]
    package var history: [History]

    package init(platform: Platform, diffIDs: [Digest], created: String?) {
        self.platform = platform
        self.diffIDs = diffIDs
        self.created = created
        config = Execution()
        history = []
    }

    package init(parsing bytes: [UInt8]) throws(OCIError) {
        let json = try JSON(parsing: bytes)
        guard let platform = Platform(json: json) else {
            throw OCIError(.document, "the image configuration names no os and architecture")
        }
        self.platform = platform
        guard json["rootfs"]?["type"]?.string == "layers", let list = json["rootfs"]?["diff_ids"] else {
            throw OCIError(.document, "the image configuration has no rootfs of type 'layers'")
        }
        // Go writes an empty list as null.
        diffIDs = []
        for item in list.array ?? [] {
            guard let text = item.string else { throw OCIError(.document, "a diff ID is no string") }
            diffIDs.append(try Digest(parsing: text))
        }
        created = json["created"]?.string
        author = json["author"]?.string
        config = try Execution(json: json["config"] ?? .null)
        history = (json["history"]?.array ?? []).map(History.init(json:))
    }

    /// The bytes of this configuration as this program writes it.
    package func serialized() -> [UInt8] {
        var members: [(key: String, value: JSON)] = []
        if let created { members.append(("created", .string(created))) }
        members.append(("architecture", .string(platform.architecture)))
        if let variant = platform.variant { members.append(("variant", .string(variant))) }
        members.append(("os", .string(platform.os)))
        members.append(("config", config.json))
        members.append(
            (
                "rootfs",
                ["type": "layers", "diff_ids": .array(diffIDs.map { .string($0.description) })]
            ))
        members.append(("history", .array(history.map(\.json))))
        return JSON.object(members).serialized()
    }
}

extension ImageConfig.Execution {
    init(json: JSON) throws(OCIError) {
        func strings(_ key: String) throws(OCIError) -> [String] {
            guard let value = json[key], !value.isNull else { return [] }
            guard let items = value.array else {
                throw OCIError(.document, "'\(key)' of the image configuration is no list")
            }
            var result: [String] = []
            for item in items {
                guard let text = item.string, !text.utf8.contains(0) else {
                    throw OCIError(
                        .document, "'\(key)' of the image configuration has an item that is no text")
                }
                result.append(text)
            }
            return result
        }
        user = json["User"]?.string ?? ""
        exposedPorts = (json["ExposedPorts"]?.object ?? []).map(\.key)
        env = try strings("Env")
        entrypoint = try strings("Entrypoint")
        cmd = try strings("Cmd")
        volumes = (json["Volumes"]?.object ?? []).map(\.key)
        workingDirectory = json["WorkingDir"]?.string ?? ""
        labels = (json["Labels"]?.object ?? []).compactMap { member in
            member.value.string.map { (member.key, $0) }
        }
        stopSignal = json["StopSignal"]?.string
    }

    /// In the words of the specification; what is empty is left out.
    package var json: JSON {
        var members: [(key: String, value: JSON)] = []
        func add(_ key: String, _ list: [String]) {
            if !list.isEmpty { members.append((key, .array(list.map { .string($0) }))) }
        }
        func addKeys(_ key: String, _ list: [String]) {
            if !list.isEmpty { members.append((key, .object(list.map { ($0, .object([])) }))) }
        }
        if !user.isEmpty { members.append(("User", .string(user))) }
        addKeys("ExposedPorts", exposedPorts)
        add("Env", env)
        add("Entrypoint", entrypoint)
        add("Cmd", cmd)
        addKeys("Volumes", volumes)
        if !workingDirectory.isEmpty { members.append(("WorkingDir", .string(workingDirectory))) }
        if !labels.isEmpty { members.append(("Labels", .object(labels.map { ($0.key, .string($0.value)) }))) }
        if let stopSignal { members.append(("StopSignal", .string(stopSignal))) }
        return .object(members)
    }
}

extension ImageConfig.History {
    package init(created: String?, createdBy: String) {
        self.created = created
        self.createdBy = createdBy
    }

    init(json: JSON) {
        created = json["created"]?.string
        createdBy = json["created_by"]?.string ?? ""
        comment = json["comment"]?.string ?? ""
        isEmptyLayer = json["empty_layer"]?.bool ?? false
    }

    var json: JSON {
        var members: [(key: String, value: JSON)] = []
        if let created { members.append(("created", .string(created))) }
        if !createdBy.isEmpty { members.append(("created_by", .string(createdBy))) }
        if !comment.isEmpty { members.append(("comment", .string(comment))) }
        if isEmptyLayer { members.append(("empty_layer", .bool(true))) }
        return .object(members)
    }
}
