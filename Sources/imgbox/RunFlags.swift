import ArgumentParser
import Launch

/// Flags about the process.
struct ProcessFlags: ParsableArguments {
    @Flag(name: [.short, .long], help: "Connect standard input.")
    var interactive = false

    @Flag(name: [.short, .long], help: "Give the command a terminal.")
    var tty = false

    @Option(
        name: [.customShort("e", allowingJoined: true), .long],
        help: ArgumentHelp("Set a variable; without a value it comes from here.", valueName: "KEY[=VALUE]"))
    var env: [String] = []

    @Option(help: ArgumentHelp("Read variables from a file.", valueName: "file"))
    var envFile: [String] = []

    @Option(
        name: [.customShort("w", allowingJoined: true), .long],
        help: ArgumentHelp("Start in this directory.", valueName: "dir"))
    var workdir: String?

    @Option(
        name: [.customShort("u", allowingJoined: true), .long],
        help: ArgumentHelp("Run as this user.", valueName: "USER[:GROUP]"))
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

    func fill(_ words: inout RunWords) {
        words.interactive = interactive
        words.tty = tty
        words.env = env
        words.envFile = envFile
        words.workdir = workdir
        words.user = user
        words.entrypoint = entrypoint
        words.hasInit = hasInit
        words.platform = platform
        words.pull = pull
    }
}

/// Flags about files.
struct FileFlags: ParsableArguments {
    @Option(
        name: [.customShort("v", allowingJoined: true), .long],
        help: ArgumentHelp(
            "Show a file or directory of the host inside.", valueName: "SOURCE:TARGET[:OPTIONS]"))
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

    func fill(_ words: inout RunWords) {
        words.volume = volume
        words.mount = mount
        words.tmpfs = tmpfs
        words.readOnly = readOnly
        words.shmSize = shmSize
        words.rootfs = rootfs
        words.rootSwitch = rootSwitch
    }
}

/// Flags about names and the network.
struct NetworkFlags: ParsableArguments {
    @Option(help: ArgumentHelp("The container's name.", valueName: "name"))
    var name: String?

    @Option(
        name: [.customShort("h", allowingJoined: true), .long],
        help: ArgumentHelp("The host name inside.", valueName: "name"))
    var hostname: String?

    @Option(help: ArgumentHelp("The domain name inside.", valueName: "name"))
    var domainname: String?

    @Option(
        name: [.long, .customLong("net")],
        help: ArgumentHelp(
            "none: loopback only; host: the host's own; container:ID: another's (default: none).",
            valueName: "network"))
    var network = "none"

    @Option(help: ArgumentHelp("A line for /etc/hosts.", valueName: "NAME:IP"))
    var addHost: [String] = []

    @Option(help: ArgumentHelp("A name server for /etc/resolv.conf.", valueName: "IP"))
    var dns: [String] = []

    @Option(
        name: [.customShort("l", allowingJoined: true), .long],
        help: ArgumentHelp("A label of the container.", valueName: "KEY[=VALUE]"))
    var label: [String] = []

    func fill(_ words: inout RunWords) {
        words.name = name
        words.hostname = hostname
        words.domainname = domainname
        words.network = network
        words.addHost = addHost
        words.dns = dns
        words.label = label
    }
}

/// Flags about namespaces: what of the host or of another container is shared.
struct NamespaceFlags: ParsableArguments {
    @Option(help: ArgumentHelp("Processes: host or container:ID.", valueName: "ns"))
    var pid: String?

    @Option(
        help: ArgumentHelp(
            "Message queues, semaphores and shared memory: host, private or container:ID.", valueName: "ns"))
    var ipc: String?

    @Option(help: ArgumentHelp("The host name: host.", valueName: "ns"))
    var uts: String?

    @Option(help: ArgumentHelp("The tree of cgroups: private or host.", valueName: "ns"))
    var cgroupns: String?

    @Option(
        help: ArgumentHelp(
            "Ids: auto, host, keep-id[:uid=N,gid=N], nomap or container:ID (default: auto, or a user's own).",
            valueName: "ns"))
    var userns: String?

    @Option(help: ArgumentHelp("A line of the map of user ids.", valueName: "INSIDE:OUTSIDE:COUNT"))
    var uidmap: [String] = []

    @Option(help: ArgumentHelp("A line of the map of group ids.", valueName: "INSIDE:OUTSIDE:COUNT"))
    var gidmap: [String] = []

    @Option(help: ArgumentHelp("Use the ids that /etc/subuid gives to this name.", valueName: "name"))
    var subuidname: String?

    @Option(help: ArgumentHelp("Use the ids that /etc/subgid gives to this name.", valueName: "name"))
    var subgidname: String?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Move the monotonic clock and the time since boot: 3600, -5d, 1h30m.", valueName: "time"))
    var timeOffset: String?

    func fill(_ words: inout RunWords) {
        words.pid = pid
        words.ipc = ipc
        words.uts = uts
        words.cgroupns = cgroupns
        words.userns = userns
        words.uidmap = uidmap
        words.gidmap = gidmap
        words.subuidname = subuidname
        words.subgidname = subgidname
        words.timeOffset = timeOffset
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
        help: ArgumentHelp(
            "no-new-privileges=false, seccomp=FILE, seccomp=unconfined or unmask=ALL.", valueName: "option"))
    var securityOpt: [String] = []

    @Flag(help: "Let set-user-ID programs work: the same as --security-opt no-new-privileges=false.")
    var allowSetuid = false

    @Flag(help: "All capabilities and devices, nothing hidden, no filter, no ids of its own.")
    var privileged = false

    @Option(
        help: ArgumentHelp("Let the command inherit this many descriptors from 3 on.", valueName: "count"))
    var preserveFds: Int = 0

    func fill(_ words: inout RunWords) {
        words.ulimit = ulimit
        words.sysctl = sysctl
        words.capAdd = capAdd
        words.capDrop = capDrop
        words.securityOpt = securityOpt
        words.allowSetuid = allowSetuid
        words.privileged = privileged
        words.preserveFds = preserveFds
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

    func fill(_ words: inout RunWords) {
        words.remove = remove
        words.explain = explain
        words.dryRun = dryRun
        words.format = format
        words.cidfile = cidfile
    }
}
