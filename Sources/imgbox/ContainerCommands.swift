import ArgumentParser
import Cgroups
import Files
import Glibc
import Kernel
import OCI
import Runtime
import Store

/// `imgbox ps`
struct PsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "ps", abstract: "List containers.")

    @OptionGroup var store: RootOption

    @Flag(name: [.short, .long], help: "List those that have ended as well.")
    var all = false

    @Flag(name: [.short, .long], help: "Print only the ids.")
    var quiet = false

    @Flag(help: "Print whole ids and commands.")
    var noTrunc = false

    @Option(help: "table or json.")
    var format: ListFormat = .table

    func run() throws {
        let store = try self.store.open()
        try ContainerDirectory.sweep(store, limit: .max, patient: true)
        let records = try ContainerDirectory.list(store).filter { all || $0.status == .running }
        if quiet {
            return writeText(
                records.map { (noTrunc ? $0.id : String($0.id.prefix(12))) + "\n" }.joined(), to: 1)
        }
        let now = Int64(time(nil))
        let rows = records.map { record in
            let command = printable(record.command.joined(separator: " "))
            return [
                noTrunc ? record.id : String(record.id.prefix(12)), record.image,
                noTrunc || command.count <= 30 ? command : command.prefix(29) + "…",
                age(rfc3339(record.created), now: now),
                record.status == .exited ? "exited (\(record.exitCode))" : record.status.rawValue,
                record.name,
            ]
        }
        printList(
            format, header: ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAME"], rows: rows,
            json: records.map(\.json))
    }
}

/// `imgbox rm`
struct RemoveContainerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "rm", abstract: "Remove containers.")

    @OptionGroup var store: RootOption

    @Flag(name: [.short, .long], help: "End a container that runs.")
    var force = false

    @Argument(help: "Names, ids or beginnings of ids.")
    var containers: [String]

    func run() throws {
        let store = try self.store.open()
        for word in containers {
            let record = try ContainerDirectory.find(word, in: store)
            try ContainerDirectory.remove(record, in: store, force: force)
            writeText("\(word)\n", to: 1)
        }
    }
}

/// What `inspect` says of a container: its state, its ids, its limits as they were asked for and as the kernel has them now, and
/// its specification.
func containerDocument(_ record: ContainerRecord, _ store: Store) -> JSON {
    let limits = record.limits.map { limit -> JSON in
        var limit = limit
        // While the group is there the kernel is asked again.
        if let now = CgroupTree.value(of: limit.file) { limit.effective = now }
        return limit.json
    }
    let path = "containers/\(record.id)/config.json"
    let spec = (try? readFile(path, at: store.root, limit: 16 << 20)).flatMap { try? JSON(parsing: $0) }
    return [
        "Id": .string(record.id), "Name": .string(record.name),
        "Created": .string(rfc3339(record.created) ?? ""),
        "Image": .string(record.image), "Command": .array(record.command.map { .string($0) }),
        "State": [
            "Status": .string(record.status.rawValue), "Running": .bool(record.status == .running),
            "Pid": .integer(record.pid), "ExitCode": .integer(record.exitCode),
            "OOMKilled": .bool(record.isOutOfMemory),
        ],
        "Limits": .array(limits), "Cgroups": .array(record.cgroups.map { .string($0) }),
        "Disk": .string(record.disk), "UIDMap": .array(record.uidMap.map { .string($0.line) }),
        "GIDMap": .array(record.gidMap.map { .string($0.line) }),
        "Labels": .object(record.labels.map { ($0.key, .string($0.value)) }), "Spec": spec ?? .null,
    ]
}
