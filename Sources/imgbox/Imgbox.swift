import ArgumentParser
import CKernel
import Files
import Glibc
import Launch
import Runtime
import Store
import SystemPackage

/// The program: its commands, and the one place where errors become lines and exit codes.
@main
struct Imgbox: ParsableCommand {
    static let version = "0.1.0"

    static let configuration = CommandConfiguration(
        commandName: "imgbox",
        abstract: "Images in, containers out: one static binary, no daemon.",
        discussion: """
            Take an image in, look at it, unpack it, run it:

              imgbox pull-local alpine-minirootfs.tar.gz alpine:3.20
              imgbox run --rm -it alpine:3.20 sh

            Images are kept in /var/lib/imgbox, for ordinary users in ~/.local/share/imgbox; --root DIR or the \
            environment variable IMGBOX_ROOT choose another place.
            """,
        version: "imgbox \(version)",
        groupedSubcommands: [
            CommandGroup(
                name: "CONTAINERS",
                subcommands: [RunCommand.self, PsCommand.self, RemoveContainerCommand.self]),
            CommandGroup(
                name: "IMAGES",
                subcommands: [
                    PullLocalCommand.self, UnpackCommand.self, ImagesCommand.self, InspectCommand.self,
                    HistoryCommand.self, TagCommand.self, RemoveImageCommand.self, SaveCommand.self,
                ]),
            CommandGroup(
                name: "LOOKING INTO IMAGES",
                subcommands: [ListFilesCommand.self, CatCommand.self, DiffCommand.self]),
            CommandGroup(
                name: "THE STORE",
                subcommands: [
                    DiskUsageCommand.self, CollectCommand.self, CheckCommand.self, ManualCommand.self,
                ]),
            CommandGroup(name: "THIS MACHINE", subcommands: [DoctorCommand.self, UnshareCommand.self]),
        ])

    static func main() {
        // The shell's own rule for programs that a signal must not end half-way: errors of write(2) tell.
        signal(SIGPIPE, SIG_IGN)
        // With a standard descriptor closed, the next file to be opened would take its place, and go into a container as such.
        for fd in Int32(0)...2 where fcntl(fd, F_GETFD) < 0 { _ = Glibc.open("/dev/null", O_RDWR) }
        var arguments = Array(CommandLine.arguments.dropFirst())
        RootOption.takeLeading(&arguments)
        do {
            try settle(arguments)
            if arguments.first == "run" { ck_prefault() }
            if arguments.first == "run", let words = RunWords(parsing: Array(arguments.dropFirst())) {
                return try words.run()
            }
            RunCommand.separateCommand(&arguments)
            var command = try parseQuickly(arguments) ?? parseAsRoot(arguments)
            try command.run()
        } catch let error as ExitCode {
            Glibc.exit(error.rawValue)
        } catch let error as LaunchError {
            complain(error.message, hint: error.hint)
            Glibc.exit(error.exitCode)
        } catch let error as any DescribedError {
            complain(error.message, hint: error.hint)
            Glibc.exit(125)
        } catch {
            finish(parsing: error)
        }
    }

    /// Commands that make, read or remove files with the owners of an image. An ordinary user becomes root of a user namespace
    /// for them.
    private static let ownersMatter: Set<String> = [
        "run", "pull-local", "gc", "fsck", "rmi", "rm", "ps", "ls", "cat", "diff", "df", "unshare",
    ]

    /// Before anything else: a process with threads cannot enter a user namespace.
    private static func settle(_ arguments: [String]) throws {
        // Where nobody limits anything, an ordinary user needs no groups.
        if arguments.first == "run", let words = RunWords(parsing: Array(arguments.dropFirst())),
            !words.dryRun,
            !RootOption.isOrdinaryUser || !words.limits.isEmpty || words.oomKillDisable
        {
            // Root does without: then the groups are made as plain files.
            if let reason = SystemdDelegation.enter(), RootOption.isOrdinaryUser {
                remark("systemd gives no scope with delegation: \(reason)")
            }
        }
        guard RootOption.isOrdinaryUser, let command = arguments.first, ownersMatter.contains(command),
            !arguments.contains("--help"), !arguments.contains("-h") || command == "run"
        else { return }
        if command == "run", let words = RunWords(parsing: Array(arguments.dropFirst())),
            let other = words.joinedContainer
        {
            let store = try Store(at: RootOption.path(words.root))
            return try OwnNamespace.join(ContainerDirectory.find(other, in: store))
        }
        try OwnNamespace.enter(mounts: command == "run")
    }

    /// Parses a right command line by its command alone: ArgumentParser looks at every command of the tree otherwise, which
    /// takes longer than starting a container. Whatever is wrong, or asks for help, takes the full way.
    private static func parseQuickly(_ arguments: [String]) -> (any ParsableCommand)? {
        guard let word = arguments.first,
            let type = commands.first(where: { $0.configuration.commandName == word })
        else {
            return nil
        }
        return try? type.parseAsRoot(Array(arguments.dropFirst()))
    }

    static var commands: [any ParsableCommand.Type] {
        configuration.groupedSubcommands.flatMap(\.subcommands)
    }

    /// Help and version go out with 0; a wrong command line is exit code 125, as container engines have it.
    private static func finish(parsing error: any Error) -> Never {
        let code = exitCode(for: error)
        if code.isSuccess {
            writeText(fullMessage(for: error) + "\n", to: 1)
            Glibc.exit(0)
        }
        writeText("imgbox: " + message(for: error) + "\n", to: 2)
        writeText("hint: imgbox help shows the commands, imgbox COMMAND --help the options of one\n", to: 2)
        Glibc.exit(125)
    }
}

/// One line about what went wrong, and one about what to do.
func complain(_ message: String, hint: String?) {
    writeText("imgbox: \(message)\n" + (hint.map { "hint: \($0)\n" } ?? ""), to: 2)
}

/// A remark that does not end the command.
func remark(_ message: String) {
    writeText("imgbox: \(message)\n", to: 2)
}
