import ArgumentParser
import Files
import Glibc
import Launch
import OCI
import Runtime
import Store
import SystemPackage

extension LaunchPlan.RootSwitch: ExpressibleByArgument {}

/// When an image is looked for elsewhere. There is no registry to ask yet, so only two of docker's values have a meaning.
enum PullPolicy: String, ExpressibleByArgument, CaseIterable { case missing, never, always }

/// `imgbox run`
struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Run a command in a new container.",
        usage: "imgbox run [OPTIONS] IMAGE [COMMAND] [ARGUMENT ...]",
        discussion: """
            The exit code is the command's own; 125 when imgbox could not start it, 126 when the command cannot be run, \
            127 when it is not there, 128 and the number of the signal that ended it.
            """,
        helpNames: .long)

    @OptionGroup var store: RootOption
    @OptionGroup(title: "The process") var process: ProcessFlags
    @OptionGroup(title: "Files") var files: FileFlags
    @OptionGroup(title: "Names and network") var network: NetworkFlags
    @OptionGroup(title: "Rights") var rights: RightsFlags
    @OptionGroup(title: "Limits") var limits: LimitFlags
    @OptionGroup(title: "Namespaces and ids") var namespaces: NamespaceFlags
    @OptionGroup(title: "Looking on") var watching: WatchingFlags

    @Argument(help: "The image, or with --rootfs a directory.")
    var image: String

    @Argument(parsing: .postTerminator, help: "The command and its arguments.")
    var command: [String] = []

    func run() throws { try words.run() }

    /// The command line as it was written.
    var words: RunWords {
        var words = RunWords()
        words.root = store.root
        process.fill(&words)
        files.fill(&words)
        network.fill(&words)
        rights.fill(&words)
        limits.fill(&words)
        namespaces.fill(&words)
        watching.fill(&words)
        words.image = image
        words.command = command
        return words
    }
}

extension RunWords {
    /// Runs the container to its end, and ends with its exit code.
    func run() throws {
        let options = try self.options()
        let store = try Store(at: RootOption.path(root))
        let source: RunSource
        if rootfs {
            source = .directory(try absolute(image))
        } else {
            if pull == .always {
                throw UsageError(
                    "--pull always: there is no registry to pull from",
                    hint: "take images in with: imgbox pull-local")
            }
            source = .image(try store.resolve(image, platform: platform.map { try Platform(parsing: $0) }))
        }
        var run = ContainerRun(source, options, in: store)
        if dryRun { return PlanPrinter(format: format).print(try run.plan(), to: 1) }
        if explain {
            let printer = PlanPrinter(format: format)
            run.explain = { plan, times, failed in printer.print(plan, times, failed: failed, to: 2) }
        }
        if let path = cidfile { run.onCreate = { id in try writeNew(path, id) } }
        throw ExitCode(try run.run(note: remark))
    }

    private func writeNew(_ path: String, _ id: String) throws {
        let file: OwnedFD
        do { file = try open(path, O_WRONLY | O_CREAT | O_EXCL, mode: 0o644) } catch {
            guard error.errno == .fileExists else { throw error }
            throw UsageError(
                "the file '\(printable(path))' of --cidfile is there already",
                hint: "remove it, or name another")
        }
        try write(file.raw, Array(id.utf8), name: path)
    }
}

/// An absolute path of the host, links resolved.
func absolute(_ path: String) throws -> String {
    guard let resolved = realpath(path, nil) else {
        throw FileError.last("open", path)
    }
    defer { free(resolved) }
    return String(cString: resolved)
}

extension RunCommand {
    /// The options of `run` that take a value; needed to see where the image stands, since everything after it belongs
    /// to the command. A test compares the list with the declarations.
    static let valued: Set<String> = Set([
        "--root", "--name", "--env", "-e", "--env-file", "--workdir", "-w", "--user", "-u", "--hostname",
        "-h",
        "--domainname", "--volume", "-v", "--mount", "--tmpfs", "--entrypoint", "--ulimit", "--sysctl",
        "--shm-size",
        "--add-host", "--dns", "--label", "-l", "--cidfile", "--pull", "--platform", "--network", "--net",
        "--root-switch", "--cap-add", "--cap-drop", "--security-opt", "--format", "--pid", "--ipc", "--uts",
        "--cgroupns", "--userns", "--uidmap", "--gidmap", "--subuidname", "--subgidname", "--time-offset",
        "--preserve-fds", "-m", "-c",
    ]).union(RunWords.singleLimits).union(RunWords.listedLimits)

    /// A flag with a form, which ArgumentParser cannot declare. In three words; nil for any other.
    static func explanation(_ word: String) -> (flag: String, format: String)? {
        switch word {
        case "--explain=json": ("--explain", "json")
        case "--explain=table": ("--explain", "table")
        case "--dry-run=json": ("--dry-run", "json")
        case "--dry-run=table": ("--dry-run", "table")
        default: nil
        }
    }

    /// Puts a `--` behind the image, so that the command keeps its own options.
    static func separateCommand(_ arguments: inout [String]) {
        guard arguments.first == "run" else { return }
        var index = 1
        while index < arguments.count {
            let word = arguments[index]
            if word == "--" {
                // The image follows: what stands before it is done.
                arguments.remove(at: index)
                break
            }
            guard word.hasPrefix("-"), word.count > 1 else { break }
            if let (flag, format) = explanation(word) {
                arguments.replaceSubrange(index...index, with: [flag, "--format", format])
                index += 3
                continue
            }
            if word.hasPrefix("--") {
                index += !word.contains("=") && valued.contains(word) ? 2 : 1
                continue
            }
            // Short options in one word: the first that takes a value takes the rest, or the next word.
            let letters = Array(word.dropFirst())
            let taking = letters.firstIndex { valued.contains("-\($0)") }
            if let taking, taking < letters.count - 1 {
                // ArgumentParser cannot read -eA=1.
                arguments[index] = "-" + String(letters[...taking])
                arguments.insert(String(letters[(taking + 1)...]), at: index + 1)
            }
            index += taking == nil ? 1 : 2
        }
        // A `--` that the user wrote after the image is taken as just that.
        guard index < arguments.count else { return }
        if index + 1 == arguments.count || arguments[index + 1] != "--" {
            arguments.insert("--", at: index + 1)
        }
    }
}
