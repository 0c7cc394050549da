import ArgumentParser
import Files
import Glibc
import Store
import SystemPackage

/// Where the store is. `--root` may stand before the command, as in podman, or after it.
struct RootOption: ParsableArguments {
    @Option(name: .customLong("root"), help: ArgumentHelp("The directory of the store.", valueName: "dir"))
    var root: String?

    /// What stood before the command.
    nonisolated(unsafe) private static var leading: String?

    static func takeLeading(_ arguments: inout [String]) {
        while let first = arguments.first {
            if first == "--root", arguments.count > 1 {
                leading = arguments[1]
                arguments.removeFirst(2)
            } else if first.hasPrefix("--root=") {
                leading = String(first.dropFirst("--root=".count))
                arguments.removeFirst()
            } else {
                return
            }
        }
    }

    var path: FilePath { RootOption.path(root) }

    /// The store's directory: as given here, before the command, in the environment, or the usual place.
    static func path(_ root: String?) -> FilePath {
        let chosen = root ?? RootOption.leading ?? environment("IMGBOX_ROOT") ?? RootOption.standard
        let path = FilePath(chosen)
        if path.isAbsolute { return path.lexicallyNormalized() }
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        guard getcwd(&buffer, buffer.count) != nil else { return path }
        let here = FilePath(
            String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self))
        return here.appending(path.components).lexicallyNormalized()
    }

    /// Who called, before this process became root of a user namespace of its own.
    static let caller = geteuid()
    static var isOrdinaryUser: Bool { caller != 0 }

    /// The usual place: of the system for root, in the home directory for others.
    private static var standard: String {
        if !isOrdinaryUser { return "/var/lib/imgbox" }
        if let data = environment("XDG_DATA_HOME"), data.hasPrefix("/") { return data + "/imgbox" }
        return (environment("HOME") ?? "/tmp/imgbox-\(caller)") + "/.local/share/imgbox"
    }

    func open() throws -> Store { try Store(at: path) }
}

/// An environment variable that is set and not empty.
func environment(_ name: String) -> String? {
    getenv(name).map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
}
