import ArgumentParser
import Files
import Glibc
import Launch
import OCI
import Runtime

/// Flags about the process.
struct ProcessFlags: ParsableArguments {
    @Flag(name: [.short, .long], help: "Connect standard input.")
    var interactive = false

    @Flag(name: [.short, .long], help: "Give the command a terminal.")
    var tty = false

    @Option(
        name: [.short, .long],
        help: ArgumentHelp("Set a variable; without a value it comes from here.", valueName: "KEY[=VALUE]"))
    var env: [String] = []

    @Option(help: ArgumentHelp("Read variables from a file.", valueName: "file"))
    var envFile: [String] = []

    @Option(name: [.short, .long], help: ArgumentHelp("Start in this directory.", valueName: "dir"))
    var workdir: String?

    @Option(name: [.short, .long], help: ArgumentHelp("Run as this user.", valueName: "USER[:GROUP]"))
    var user: String?

    @Option(help: ArgumentHelp("Run this in place of the image's entry point.", valueName: "command"))
    var entrypoint: String?

    @Flag(
        name: .customLong("init"), help: "Put a small init in front that reaps orphans and passes signals on."
    )
    var hasInit = false

    @Option(help: ArgumentHelp("The platform of the image, if not this machine's.", valueName: "platform"))
    var platform: String?

    @Option(help: ArgumentHelp("missing or never: images come from the store only.", valueName: "policy"))
    var pull: PullPolicy = .missing

    func apply(to options: inout RunOptions) throws {
        options.isInteractive = interactive
        options.hasTerminal = tty
        if tty, interactive, isatty(0) == 0 {
            throw UsageError("the input device is not a TTY", hint: "leave out -t when input is piped in")
        }
        for path in envFile { options.environment += try EnvFile.read(path) }
        options.environment += try env.compactMap(EnvFile.variable)
        options.workingDirectory = workdir
        options.user = user
        options.entrypoint = entrypoint.map { $0.isEmpty ? [] : [$0] }
        options.hasInit = hasInit
    }
}

/// Flags about files.
struct FileFlags: ParsableArguments {
    @Option(
        name: [.short, .long],
        help: ArgumentHelp("Show a file or directory of the host inside.", valueName: "SOURCE:TARGET[:ro]"))
    var volume: [String] = []

    @Option(
        help: ArgumentHelp(
            "The same in words: type=bind,source=...,target=...,readonly or type=tmpfs,target=....",
            valueName: "mount"))
    var mount: [String] = []

    @Option(help: ArgumentHelp("An empty file system in memory.", valueName: "TARGET[:OPTIONS]"))
    var tmpfs: [String] = []

    @Flag(help: "Make the root file system read-only.")
    var readOnly = false

    @Option(help: ArgumentHelp("The size of /dev/shm (default: 64m).", valueName: "size"))
    var shmSize: String?

    @Flag(help: "IMAGE is a directory with a root file system; it is used as it is.")
    var rootfs = false

    @Option(help: ArgumentHelp("pivot or chroot; default: pivot_root where it can work.", valueName: "way"))
    var rootSwitch: LaunchPlan.RootSwitch?

    func apply(to options: inout RunOptions) throws {
        options.mounts =
            try volume.map(MountSyntax.volume) + mount.map(MountSyntax.mount) + tmpfs.map(MountSyntax.tmpfs)
        options.isReadOnly = readOnly
        options.rootSwitch = rootSwitch
        if let text = shmSize { options.shmSize = try byteCount(text, flag: "--shm-size") }
    }
}

/// Flags about names and the network.
struct NetworkFlags: ParsableArguments {
    @Option(help: ArgumentHelp("The container's name.", valueName: "name"))
    var name: String?

    @Option(name: [.customShort("h"), .long], help: ArgumentHelp("The host name inside.", valueName: "name"))
    var hostname: String?

    @Option(help: ArgumentHelp("The domain name inside.", valueName: "name"))
    var domainname: String?

    @Option(
        name: [.long, .customLong("net")],
        help: ArgumentHelp("none: loopback only; host: the host's own (default: none).", valueName: "network")
    )
    var network = "none"

    @Option(help: ArgumentHelp("A line for /etc/hosts.", valueName: "NAME:IP"))
    var addHost: [String] = []

    @Option(help: ArgumentHelp("A name server for /etc/resolv.conf.", valueName: "IP"))
    var dns: [String] = []

    @Option(name: [.short, .long], help: ArgumentHelp("A label of the container.", valueName: "KEY[=VALUE]"))
    var label: [String] = []

    func apply(to options: inout RunOptions) throws {
        if let name { try ContainerName.check(name) }
        options.name = name
        if let hostname { try NetworkFlags.checkHostName(hostname, "--hostname") }
        if let domainname { try NetworkFlags.checkHostName(domainname, "--domainname") }
        options.hostname = hostname
        options.domainname = domainname
        guard network == "none" || network == "host" else {
            throw UsageError(
                "--network \(printable(network)): only 'none' and 'host' are there",
                hint: "none has the loopback interface only")
        }
        options.sharesNetwork = network == "host"
        options.hosts = try addHost.map(NetworkFlags.host)
        for address in dns where !NetworkFlags.isAddress(address) {
            throw UsageError("--dns: '\(printable(address))' is no IP address")
        }
        options.nameServers = dns
        options.labels = label.map { text in
            let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(
                String.init)
            return (parts[0], parts.count > 1 ? parts[1] : "")
        }
    }

    /// 1 to 64 bytes, the kernel's limit, of what a host name is made of.
    private static func checkHostName(_ name: String, _ flag: String) throws {
        let isPlain = name.utf8.allSatisfy {
            (0x30...0x39).contains($0) || (0x41...0x5a).contains($0) || (0x61...0x7a).contains($0)
                || "._-".utf8.contains($0)
        }
        guard isPlain, (1...64).contains(name.utf8.count) else {
            throw UsageError(
                "\(flag): '\(printable(name))' is no host name",
                hint: "1 to 64 letters, digits, '.', '_' and '-'")
        }
    }

    private static func host(_ text: String) throws -> (name: String, address: String) {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(
            String.init)
        guard parts.count == 2, !parts[0].isEmpty, isAddress(parts[1]) else {
            throw UsageError(
                "--add-host: '\(printable(text))' is no NAME:IP", hint: "for example db:10.0.0.5")
        }
        try checkHostName(parts[0], "--add-host")
        return (parts[0], parts[1])
    }

    private static func isAddress(_ text: String) -> Bool {
        var space = [UInt8](repeating: 0, count: 16)
        return inet_pton(AF_INET, text, &space) == 1 || inet_pton(AF_INET6, text, &space) == 1
    }
}

/// Flags about what the container may do.
struct RightsFlags: ParsableArguments {
    @Option(help: ArgumentHelp("Set a resource limit.", valueName: "NAME=SOFT[:HARD]"))
    var ulimit: [String] = []

    @Option(
        help: ArgumentHelp("Set a kernel setting of the container's own namespaces.", valueName: "KEY=VALUE"))
    var sysctl: [String] = []

    @Option(help: ArgumentHelp("Give a capability, or ALL.", valueName: "capability"))
    var capAdd: [String] = []

    @Option(help: ArgumentHelp("Take a capability away, or ALL.", valueName: "capability"))
    var capDrop: [String] = []

    @Option(
        help: ArgumentHelp("no-new-privileges=false lets set-user-ID programs work.", valueName: "option"))
    var securityOpt: [String] = []

    func apply(to options: inout RunOptions) throws {
        options.limits = try ulimit.map(LimitSyntax.parse)
        options.sysctl = try sysctl.map { text in
            let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(
                String.init)
            guard parts.count == 2, !parts[0].isEmpty else {
                throw UsageError("--sysctl: '\(printable(text))' is no KEY=VALUE")
            }
            return (parts[0], parts[1])
        }
        options.capabilities = try CapabilitySyntax.apply(add: capAdd, drop: capDrop)
        for text in securityOpt {
            switch text {
            case "no-new-privileges", "no-new-privileges=true", "no-new-privileges:true":
                options.noNewPrivileges = true
            case "no-new-privileges=false", "no-new-privileges:false": options.noNewPrivileges = false
            default:
                throw UsageError(
                    "--security-opt: '\(printable(text))' is not known",
                    hint: "known is no-new-privileges=true|false")
            }
        }
    }
}

/// Flags about what one gets to see.
struct WatchingFlags: ParsableArguments {
    @Flag(name: .customLong("rm"), help: "Remove the container when it ends.")
    var remove = false

    @Flag(help: "Show each step with its reason, a shell equivalent and the time it took.")
    var explain = false

    @Flag(help: "Show the steps, and do nothing.")
    var dryRun = false

    @Option(help: "How --explain and --dry-run print: table or json.")
    var format: ListFormat = .table

    @Option(help: ArgumentHelp("Write the container's id to a new file.", valueName: "file"))
    var cidfile: String?
}
