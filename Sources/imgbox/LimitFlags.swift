import ArgumentParser

/// Flags about what the container may use.
struct LimitFlags: ParsableArguments {
    @Option(help: ArgumentHelp("Processor time, in processors: 0.5 is half of one.", valueName: "number"))
    var cpus: String?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Processor time in each period, in microseconds.", valueName: "us"))
    var cpuQuota: String?

    @Option(help: ArgumentHelp("The period, in microseconds (default: 100000).", valueName: "us"))
    var cpuPeriod: String?

    @Option(
        name: [.customShort("c", allowingJoined: true), .long],
        help: ArgumentHelp(
            "A share of the processor relative to others: 2 to 262144 (others have 1024).",
            valueName: "shares"))
    var cpuShares: String?

    @Option(
        help: ArgumentHelp(
            "The same in the words of cgroup v2: 1 to 10000 (others have 100).", valueName: "weight"))
    var cpuWeight: String?

    @Option(help: ArgumentHelp("Run on these processors only: 0-3,5.", valueName: "list"))
    var cpusetCpus: String?

    @Option(help: ArgumentHelp("Take memory of these NUMA nodes only.", valueName: "list"))
    var cpusetMems: String?

    @Option(
        name: [.customShort("m", allowingJoined: true), .long],
        help: ArgumentHelp("The most memory: 256m.", valueName: "size"))
    var memory: String?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "The most memory and swap together; -1: unlimited swap (default: twice --memory).",
            valueName: "size"))
    var memorySwap: String?

    @Option(
        help: ArgumentHelp("Memory that is left alone while others can give some back.", valueName: "size"))
    var memoryReservation: String?

    @Option(
        help: ArgumentHelp(
            "From here on allocation is slowed down, and nothing killed (cgroup v2).", valueName: "size"))
    var memoryHigh: String?

    @Option(
        help: ArgumentHelp("How readily memory is swapped out: 0 to 100 (cgroup v1).", valueName: "number"))
    var memorySwappiness: String?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "The most processes and threads; -1: unlimited (default: 2048).", valueName: "number"))
    var pidsLimit: String?

    @Option(help: ArgumentHelp("A share of block io relative to others: 10 to 1000.", valueName: "weight"))
    var blkioWeight: String?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "How readily the kernel kills it when the host is out of memory: -1000 to 1000.",
            valueName: "number"))
    var oomScoreAdj: String?

    @Option(help: ArgumentHelp("The most that the container's own layer can hold.", valueName: "size"))
    var diskSize: String?

    @Option(
        help: ArgumentHelp(
            "Make the container's cgroups below this group (default: /imgbox).", valueName: "group"))
    var cgroupParent: String?

    @Option(help: ArgumentHelp("Bytes a second that can be read from a disk.", valueName: "DEVICE:RATE"))
    var deviceReadBps: [String] = []

    @Option(help: ArgumentHelp("Bytes a second that can be written to a disk.", valueName: "DEVICE:RATE"))
    var deviceWriteBps: [String] = []

    @Option(help: ArgumentHelp("Reads a second from a disk.", valueName: "DEVICE:RATE"))
    var deviceReadIops: [String] = []

    @Option(help: ArgumentHelp("Writes a second to a disk.", valueName: "DEVICE:RATE"))
    var deviceWriteIops: [String] = []

    @Option(help: ArgumentHelp("Give a device node of the host.", valueName: "SOURCE[:TARGET][:rwm]"))
    var device: [String] = []

    @Option(help: ArgumentHelp("Allow a kind of devices: 'c 10:229 rwm'.", valueName: "rule"))
    var deviceCgroupRule: [String] = []

    @Option(help: ArgumentHelp("The most memory in huge pages of a size.", valueName: "PAGESIZE=LIMIT"))
    var hugetlb: [String] = []

    @Flag(help: "Let processes wait for memory, and never kill one for it (cgroup v1).")
    var oomKillDisable = false

    func fill(_ words: inout RunWords) {
        let single = [
            ("--cpus", cpus),
            ("--cpu-quota", cpuQuota),
            ("--cpu-period", cpuPeriod),
            ("--cpu-shares", cpuShares),
            ("--cpu-weight", cpuWeight),
            ("--cpuset-cpus", cpusetCpus),
            ("--cpuset-mems", cpusetMems),
            ("--memory", memory),
            ("--memory-swap", memorySwap),
            ("--memory-reservation", memoryReservation),
            ("--memory-high", memoryHigh),
            ("--memory-swappiness", memorySwappiness),
            ("--pids-limit", pidsLimit),
            ("--blkio-weight", blkioWeight),
            ("--oom-score-adj", oomScoreAdj),
            ("--disk-size", diskSize),
            ("--cgroup-parent", cgroupParent),
        ]
        for case (let name, let value?) in single { words.limits[name] = [value] }
        let lists = [
            ("--device-read-bps", deviceReadBps),
            ("--device-write-bps", deviceWriteBps),
            ("--device-read-iops", deviceReadIops),
            ("--device-write-iops", deviceWriteIops),
            ("--device", device),
            ("--device-cgroup-rule", deviceCgroupRule),
            ("--hugetlb", hugetlb),
        ]
        for (name, values) in lists where !values.isEmpty { words.limits[name] = values }
        words.oomKillDisable = oomKillDisable
    }
}
