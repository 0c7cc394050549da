import ArgumentParser
import Files
import Glibc
import Layers
import OCI
import Store
import SystemPackage

/// Opens an image as a tree without mounting or unpacking it anew.
private func stack(_ image: String, in store: Store) throws -> LayerStack {
    try LayerStack(store.layerTrees(store.resolve(image)), form: store.overlayForm)
}

private func path(_ text: String) throws -> LayerPath { try LayerPath(parsing: Array(text.utf8)) }

/// `imgbox ls`
struct ListFilesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ls", abstract: "List the files of an image without running it.")

    @OptionGroup var store: RootOption

    @Argument(help: "The image.")
    var image: String

    @Argument(help: "A path in the image.")
    var path: String = "/"

    @Flag(name: [.customShort("R"), .long], help: "List what is in directories, and in those, too.")
    var recursive = false

    @Option(help: "table or json.")
    var format: ListFormat = .table

    func run() throws {
        let store = try self.store.open()
        let content = try store.holdContent()
        let tree = try stack(image, in: store)
        guard let object = try tree.resolve(imgbox.path(path)) else {
            throw UsageError("no '\(printable(path))' in '\(printable(image))'")
        }
        var rows: [[String]] = []
        var json: [JSON] = []
        if object.status.kind == .directory {
            try list(object, tree, &rows, &json)
        } else {
            try add(object, tree, &rows, &json)
        }
        switch format {
        case .table: for row in rows { writeText(row.joined(separator: "  ") + "\n", to: 1) }
        case .json: writeText(JSON.array(json).pretty() + "\n", to: 1)
        }
        _ = consume content
    }

    private func list(
        _ directory: LayerStack.Object, _ tree: LayerStack, _ rows: inout [[String]], _ json: inout [JSON]
    ) throws {
        for object in try tree.list(directory) {
            try add(object, tree, &rows, &json)
            if recursive, object.status.kind == .directory { try list(object, tree, &rows, &json) }
        }
    }

    private func add(
        _ object: LayerStack.Object, _ tree: LayerStack, _ rows: inout [[String]], _ json: inout [JSON]
    ) throws {
        let info = object.status
        let target = info.kind == .link ? try tree.readLink(object) : nil
        let name = recursive ? object.path.description : printable(object.path.name)
        let time =
            rfc3339(info.modified.seconds).map { String($0.prefix(16)).replacing("T", with: " ") } ?? "?"
        let size =
            info.kind == .characterDevice || info.kind == .blockDevice
            ? "\(info.node.major), \(info.node.minor)" : "\(info.size)"
        rows.append([
            modeText(info), "\(info.uid):\(info.gid)",
            String(repeating: " ", count: max(0, 9 - size.count)) + size, time,
            name + (target.map { " -> \(printable($0))" } ?? ""),
        ])
        json.append([
            "Path": .string("/" + printable(object.path.bytes)), "Mode": .string(modeText(info)),
            "Uid": .integer(info.uid),
            "Gid": .integer(info.gid), "Size": .integer(info.size),
            "Modified": .integer(info.modified.seconds),
            "Target": target.map { .string(printable($0)) } ?? .null,
        ])
    }
}

/// The ten characters of `ls -l`.
private func modeText(_ info: FileStatus) -> String {
    let kinds: [FileStatus.Kind: String] = [
        .file: "-", .directory: "d", .link: "l", .fifo: "p", .socket: "s", .characterDevice: "c",
        .blockDevice: "b",
    ]
    var text = kinds[info.kind] ?? "?"
    for (shift, special, letter) in [(6, UInt32(0o4000), "s"), (3, 0o2000, "s"), (0, 0o1000, "t")] {
        let bits = info.permissions >> UInt32(shift)
        text += bits & 4 != 0 ? "r" : "-"
        text += bits & 2 != 0 ? "w" : "-"
        let isSpecial = info.permissions & special != 0
        text += isSpecial ? (bits & 1 != 0 ? letter : letter.uppercased()) : (bits & 1 != 0 ? "x" : "-")
    }
    return text
}

/// `imgbox cat`
struct CatCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cat", abstract: "Write a file of an image to standard output.")

    @OptionGroup var store: RootOption

    @Argument(help: "The image.")
    var image: String

    @Argument(help: "The path of a file in the image.")
    var path: String

    func run() throws {
        let store = try self.store.open()
        let content = try store.holdContent()
        let tree = try stack(image, in: store)
        guard let object = try tree.resolve(imgbox.path(path)) else {
            throw UsageError("no '\(printable(path))' in '\(printable(image))'")
        }
        guard object.status.kind == .file else { throw UsageError("'\(printable(path))' is no regular file") }
        let file = try tree.open(object)
        try copyContent(from: file.raw, to: 1, name: path)
        _ = consume content
    }
}

/// `imgbox diff`
struct DiffCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "diff", abstract: "Show in which files two images differ.",
        discussion: "A is added, D deleted, C changed in content, mode, owner, time or attributes.")

    @OptionGroup var store: RootOption

    @Argument(help: "The image to start from.")
    var old: String

    @Argument(help: "The image to compare with it.")
    var new: String

    @Option(help: "table or json.")
    var format: ListFormat = .table

    func run() throws {
        let store = try self.store.open()
        let content = try store.holdContent()
        let format = self.format
        var json: [JSON] = []
        try TreeComparison(stack(old, in: store), stack(new, in: store)).run { change in
            let path = change.path.isRoot ? "/" : "/\(change.path)"
            switch format {
            case .table: writeText("\(change.kind.rawValue) \(path)\n", to: 1)
            case .json: json.append(["Kind": .string(change.kind.rawValue), "Path": .string(path)])
            }
        }
        if format == .json { writeText(JSON.array(json).pretty() + "\n", to: 1) }
        _ = consume content
    }
}
