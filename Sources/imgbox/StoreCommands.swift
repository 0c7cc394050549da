import ArgumentParser
import Cgroups
import Files
import OCI
import Runtime
import Store

/// `imgbox df`
struct DiskUsageCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "df", abstract: "Show where the store's bytes are; the sum is what du says.")

    @OptionGroup var store: RootOption

    @Option(help: "table or json.")
    var format: ListFormat = .table

    func run() throws {
        let usage = try store.open().usage()
        var rows = usage.parts.map { [$0.name, "\($0.count)", readable($0.size), readable($0.reclaimable)] }
        rows.append([
            "Total", "", readable(usage.total), readable(usage.parts.reduce(0) { $0 + $1.reclaimable }),
        ])
        let json = usage.parts.map { part -> JSON in
            [
                "Type": .string(part.name), "Count": .integer(part.count), "Size": .integer(part.size),
                "Reclaimable": .integer(part.reclaimable),
            ]
        }
        printList(format, header: ["TYPE", "COUNT", "SIZE", "RECLAIMABLE"], rows: rows, json: json)
    }
}

/// `imgbox gc`
struct CollectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gc", abstract: "Remove what no image and no container needs.",
        discussion: "It waits until pulls that are under way have ended.")

    @OptionGroup var store: RootOption

    @Flag(help: "Only say what would go.")
    var dryRun = false

    @Flag(name: [.short, .long], help: "Remove images without a name as well.")
    var all = false

    @Flag(name: [.short, .long], help: "Print only the number of bytes.")
    var quiet = false

    func run() throws {
        let store = try self.store.open()
        // Containers whose imgbox was killed: their processes, cgroups and, with --rm, directories.
        if !dryRun {
            try ContainerDirectory.sweep(store, limit: .max, patient: true)
            CgroupTree.removeEmptyParents(CgroupHost.probe(delegated: RootOption.isOrdinaryUser))
        }
        let report = try store.collectGarbage(dryRun: dryRun, prunesUnnamed: all)
        if quiet { return writeText("\(report.freed)\n", to: 1) }
        for (name, size) in report.removed { writeText("\(name)  \(readable(size))\n", to: 1) }
        writeText("\(dryRun ? "to free" : "freed"): \(readable(report.freed))\n", to: 1)
    }
}

/// `imgbox fsck`
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fsck", abstract: "Check that the store is whole.",
        discussion: "The exit code is 0 when nothing is wrong or all was repaired, and 1 otherwise.")

    @OptionGroup var store: RootOption

    @Flag(help: "Read every byte: digests of blobs, and unpacked layers against their archives.")
    var deep = false

    @Flag(help: "Mend what can be mended; images that cannot be are removed from the index.")
    var repair = false

    @Option(help: "table or json.")
    var format: ListFormat = .table

    func run() throws {
        let problems = try store.open().check(deep: deep, repair: repair)
        switch format {
        case .json:
            let list = problems.map { problem -> JSON in
                [
                    "Object": .string(problem.object), "Problem": .string(problem.message),
                    "Remedy": .string(problem.remedy), "Repaired": .bool(problem.isRepaired),
                ]
            }
            writeText(JSON.array(list).pretty() + "\n", to: 1)
        case .table:
            for problem in problems {
                let state = problem.isRepaired ? "repaired" : "remedy"
                writeText("\(problem.object): \(problem.message) (\(state): \(problem.remedy))\n", to: 1)
            }
            if problems.isEmpty { writeText("the store is whole\n", to: 1) }
        }
        if problems.contains(where: { !$0.isRepaired }) { throw ExitCode(1) }
    }
}
