import ArgumentParser
import Files
import Glibc
import Runtime

/// `imgbox unshare`
struct UnshareCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unshare", abstract: "Run a command of the host as root of your own user namespace.",
        discussion: """
            Files that belong to subordinate ids, such as those in volumes of containers, can be looked at and removed there: \
            imgbox unshare rm -r volume
            """)

    @Argument(parsing: .captureForPassthrough, help: "The command and its arguments (default: a shell).")
    var command: [String] = []

    func run() throws {
        guard RootOption.isOrdinaryUser else {
            throw UsageError("unshare is for ordinary users: root has all ids already")
        }
        let words = command.isEmpty ? [environment("SHELL") ?? "/bin/sh"] : command
        var pointers: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        execvp(words[0], &pointers)
        complain("cannot run '\(printable(words[0]))': \(String(cString: strerror(errno)))", hint: nil)
        Glibc.exit(errno == ENOENT ? 127 : 126)
    }
}
