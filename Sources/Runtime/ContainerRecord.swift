import Files
package import Kernel
package import OCI

/// What `state.json` says about a container.
package struct ContainerRecord: Sendable {
    package enum Status: String, Sendable { case created, running, exited }

    package let id: String
    package let name: String
    package let image: String
    package let command: [String]
    /// Seconds since 1970.
    package let created: Int64
    package var status: Status = .created
    package var pid: Int32 = 0
    /// The start time of the process in clock ticks since boot: with the pid it names one process for ever.
    package var startTime: UInt64 = 0
    package var exitCode: Int32 = 0
    package let isRemovedOnExit: Bool
    /// The layer directories in use, so that gc keeps them.
    package let layers: [String]
    package let labels: [(key: String, value: String)]
    /// Directories of its cgroups, made before it starts and removed after it.
    package var cgroups: [String] = []
    package var limits: [Limit] = []
    /// Ids inside and on the host; empty without a user namespace of its own.
    package var uidMap: [IDExtent] = []
    package var gidMap: [IDExtent] = []
    /// The imgbox that runs it.
    package var keeper: Int32 = 0
    package var keeperStart: UInt64 = 0
    /// How --disk-size was done.
    package var disk = ""
    /// The number of its quota project; 0: none.
    package var project: UInt32 = 0
    package var isOutOfMemory = false

    /// A limit as it was asked for and as the kernel has it.
    package struct Limit: Sendable, Equatable {
        package let flag: String
        package let controller: String
        package let wanted: String
        package var effective: String
        package let file: String
    }

    package init(
        id: String, name: String, image: String, command: [String], created: Int64, isRemovedOnExit: Bool,
        layers: [String], labels: [(key: String, value: String)]
    ) {
        (self.id, self.name, self.image, self.command) = (id, name, image, command)
        (self.created, self.isRemovedOnExit, self.layers, self.labels) = (
            created, isRemovedOnExit, layers, labels
        )
    }

    package var json: JSON {
        [
            "id": .string(id), "name": .string(name), "image": .string(image),
            "command": .array(command.map { .string($0) }), "created": .integer(created),
            "status": .string(status.rawValue), "pid": .integer(pid), "startTime": .integer(startTime),
            "exitCode": .integer(exitCode), "removeOnExit": .bool(isRemovedOnExit),
            "layers": .array(layers.map { .string($0) }),
            "labels": .object(labels.map { ($0.key, .string($0.value)) }),
            "cgroups": .array(cgroups.map { .string($0) }), "limits": .array(limits.map(\.json)),
            "uidMap": .array(uidMap.map { .string($0.line) }),
            "gidMap": .array(gidMap.map { .string($0.line) }), "disk": .string(disk),
            "project": .integer(project), "oomKilled": .bool(isOutOfMemory), "keeper": .integer(keeper),
            "keeperStart": .integer(keeperStart),
        ]
    }

    package init?(parsing bytes: [UInt8]) {
        guard let json = try? JSON(parsing: bytes), let id = json["id"]?.string,
            let name = json["name"]?.string,
            let status = json["status"]?.string.flatMap(Status.init(rawValue:)),
            let created = json["created"]?.integer
        else { return nil }
        self.init(
            id: id, name: name, image: json["image"]?.string ?? "",
            command: (json["command"]?.array ?? []).compactMap(\.string), created: created,
            isRemovedOnExit: json["removeOnExit"]?.bool ?? false,
            layers: (json["layers"]?.array ?? []).compactMap(\.string),
            labels: (json["labels"]?.object ?? []).compactMap { member in
                member.value.string.map { (member.key, $0) }
            })
        self.status = status
        pid = Int32(clamping: json["pid"]?.integer ?? 0)
        startTime = UInt64(clamping: json["startTime"]?.integer ?? 0)
        exitCode = Int32(clamping: json["exitCode"]?.integer ?? 0)
        cgroups = (json["cgroups"]?.array ?? []).compactMap(\.string)
        limits = (json["limits"]?.array ?? []).compactMap { Limit(json: $0) }
        func map(_ key: String) -> [IDExtent] {
            [IDExtent](
                parsingMap: (json[key]?.array ?? []).compactMap(\.string).joined(separator: "\n"))
        }
        uidMap = map("uidMap")
        gidMap = map("gidMap")
        disk = json["disk"]?.string ?? ""
        keeper = Int32(clamping: json["keeper"]?.integer ?? 0)
        keeperStart = UInt64(clamping: json["keeperStart"]?.integer ?? 0)
        project = UInt32(clamping: json["project"]?.integer ?? 0)
        isOutOfMemory = json["oomKilled"]?.bool ?? false
    }
}

extension ContainerRecord.Limit {
    package var json: JSON {
        [
            "flag": .string(flag), "controller": .string(controller), "wanted": .string(wanted),
            "effective": .string(effective), "file": .string(file),
        ]
    }

    init?(json: JSON) {
        guard let flag = json["flag"]?.string, let controller = json["controller"]?.string,
            let wanted = json["wanted"]?.string, let effective = json["effective"]?.string,
            let file = json["file"]?.string
        else { return nil }
        (self.flag, self.controller, self.wanted) = (flag, controller, wanted)
        (self.effective, self.file) = (effective, file)
    }
}
