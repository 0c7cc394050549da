import ArgumentParser
import Files
import Glibc
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
        try ContainerDirectory.sweep(store, limit: .max)
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
