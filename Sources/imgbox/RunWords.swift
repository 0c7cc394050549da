import Files
import Glibc
import Launch
import OCI
import Runtime
import SystemPackage

/// What stands on the command line of `run`, as it was written. ArgumentParser fills it for help, completion and
/// errors; a right command line is read by `init(parsing:)`, since starting a container takes the kernel
/// less time than ArgumentParser needs for its thirty options. A test compares the two.
struct RunWords: Equatable {
    var root: String?
    var interactive: Bool = false
    var tty: Bool = false
    var env: [String] = []
    var envFile: [String] = []
    var workdir: String?
    var user: String?
    var entrypoint: String?
    var hasInit: Bool = false
    var platform: String?
    var pull: PullPolicy = .missing
    var volume: [String] = []
    var mount: [String] = []
    var tmpfs: [String] = []
    var readOnly: Bool = false
    var shmSize: String?
    var rootfs: Bool = false
    var rootSwitch: LaunchPlan.RootSwitch?
    var name: String?
    var hostname: String?
    var domainname: String?
    var network: String = "none"
    var addHost: [String] = []
    var dns: [String] = []
    var label: [String] = []
    var ulimit: [String] = []
    var sysctl: [String] = []
    var capAdd: [String] = []
    var capDrop: [String] = []
    var securityOpt: [String] = []
    var allowSetuid: Bool = false
    var privileged: Bool = false
    var preserveFds: Int = 0
    /// By the names of the flags.
    var limits: [String: [String]] = [:]
    var oomKillDisable: Bool = false
    var pid: String?
    var ipc: String?
    var uts: String?
    var cgroupns: String?
    var userns: String?
    var uidmap: [String] = []
    var gidmap: [String] = []
    var subuidname: String?
    var subgidname: String?
    var timeOffset: String?
    var remove: Bool = false
    var explain: Bool = false
    var dryRun: Bool = false
    var format: ListFormat = .table
    var cidfile: String?
    var image = ""
    var command: [String] = []

    init() {}

    /// Reads a right command line (without the word `run`); nil for one that is wrong or asks for help.
    init?(parsing arguments: [String]) {
        var rest = arguments[...]
        while let word = rest.first, word != "--" {
            guard word.hasPrefix("-"), word.utf8.count > 1 else { break }
            rest.removeFirst()
            guard word.hasPrefix("--") ? readLong(word, &rest) : readShort(word, &rest) else { return nil }
        }
        if rest.first == "--" { rest.removeFirst() }
        guard let image = rest.popFirst() else { return nil }
        if rest.first == "--" { rest.removeFirst() }
        self.image = image
        command = Array(rest)
    }

    private mutating func readLong(_ word: String, _ rest: inout ArraySlice<String>) -> Bool {
        if switchOn(word) { return true }
        if let (flag, format) = RunCommand.explanation(word) {
            return switchOn(flag) && set("--format", to: format)
        }
        if let cut = word.firstIndex(of: "=") {
            return set(String(word[..<cut]), to: String(word[word.index(after: cut)...]))
        }
        // Whatever is no flag takes a value; a name that is unknown is refused by set.
        guard let value = rest.popFirst() else { return false }
        return set(word, to: value)
    }

    /// `-it`, `-eA=1`, `-itw /x`: the first letter that takes a value takes what is left, or the next word.
    private mutating func readShort(_ word: String, _ rest: inout ArraySlice<String>) -> Bool {
        var letters = word.dropFirst()
        while let letter = letters.popFirst() {
            let name = "-\(letter)"
            if switchOn(name) { continue }
            if !letters.isEmpty { return set(name, to: String(letters)) }
            guard let value = rest.popFirst() else { return false }
            return set(name, to: value)
        }
        return true
    }

    private mutating func switchOn(_ name: String) -> Bool {
        switch name {
        case "-i", "--interactive": interactive = true
        case "-t", "--tty": tty = true
        case "--init": hasInit = true
        case "--read-only": readOnly = true
        case "--rootfs": rootfs = true
        case "--rm": remove = true
        case "--explain": explain = true
        case "--dry-run": dryRun = true
        case "--allow-setuid": allowSetuid = true
        case "--privileged": privileged = true
        case "--oom-kill-disable": oomKillDisable = true
        default: return false
        }
        return true
    }

    private mutating func set(_ name: String, to value: String) -> Bool {
        switch name {
        case "--root": root = value
        case "--env", "-e": env.append(value)
        case "--env-file": envFile.append(value)
        case "--workdir", "-w": workdir = value
        case "--user", "-u": user = value
        case "--entrypoint": entrypoint = value
        case "--platform": platform = value
        case "--pull":
            guard let known = PullPolicy(rawValue: value) else { return false }
            pull = known
        case "--volume", "-v": volume.append(value)
        case "--mount": mount.append(value)
        case "--tmpfs": tmpfs.append(value)
        case "--shm-size": shmSize = value
        case "--root-switch":
            guard let known = LaunchPlan.RootSwitch(rawValue: value) else { return false }
            rootSwitch = known
        case "--name": self.name = value
        case "--hostname", "-h": hostname = value
        case "--domainname": domainname = value
        case "--network", "--net": network = value
        case "--add-host": addHost.append(value)
        case "--dns": dns.append(value)
        case "--label", "-l": label.append(value)
        case "--ulimit": ulimit.append(value)
        case "--sysctl": sysctl.append(value)
        case "--cap-add": capAdd.append(value)
        case "--cap-drop": capDrop.append(value)
        case "--security-opt": securityOpt.append(value)
        case "--format":
            guard let known = ListFormat(rawValue: value) else { return false }
            format = known
        case "--cidfile": cidfile = value
        case "--pid": pid = value
        case "--ipc": ipc = value
        case "--uts": uts = value
        case "--cgroupns": cgroupns = value
        case "--userns": userns = value
        case "--uidmap": uidmap.append(value)
        case "--gidmap": gidmap.append(value)
        case "--subuidname": subuidname = value
        case "--subgidname": subgidname = value
        case "--time-offset": timeOffset = value
        case "--preserve-fds":
            guard let count = Int(value) else { return false }
            preserveFds = count
        default: return setLimit(name, to: value)
        }
        return true
    }
}

extension RunWords {
    private mutating func setLimit(_ name: String, to value: String) -> Bool {
        let name = name == "-m" ? "--memory" : name == "-c" ? "--cpu-shares" : name
        if RunWords.singleLimits.contains(name) {
            limits[name] = [value]
        } else if RunWords.listedLimits.contains(name) {
            limits[name, default: []].append(value)
        } else {
            return false
        }
        return true
    }

    /// Flags about limits with one value, and those that can be given several times.
    static let singleLimits = [
        "--cpus", "--cpu-quota", "--cpu-period", "--cpu-shares", "--cpu-weight", "--cpuset-cpus",
        "--cpuset-mems", "--memory", "--memory-swap", "--memory-reservation", "--memory-high",
        "--memory-swappiness", "--pids-limit", "--blkio-weight", "--oom-score-adj", "--disk-size",
        "--cgroup-parent",
    ]
    static let listedLimits = [
        "--device-read-bps", "--device-write-bps", "--device-read-iops", "--device-write-iops", "--device",
        "--device-cgroup-rule", "--hugetlb",
    ]
}

extension RunWords {
    /// What the words ask for.
    func options() throws -> RunOptions {
        var options = RunOptions()
        options.command = command
        options.isRemoved = remove
        try applyProcess(to: &options)
        try applyFile(to: &options)
        try applyNetwork(to: &options)
        try applyRights(to: &options)
        try NamespaceSyntax.apply(self, to: &options)
        try ResourceSyntax.apply(self, to: &options)
        return options
    }

    private func applyProcess(to options: inout RunOptions) throws {
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

    private func applyFile(to options: inout RunOptions) throws {
        options.mounts =
            try volume.map(MountSyntax.volume) + mount.map(MountSyntax.mount) + tmpfs.map(MountSyntax.tmpfs)
        options.isReadOnly = readOnly
        options.rootSwitch = rootSwitch
        if let text = shmSize { options.shmSize = try byteCount(text, flag: "--shm-size") }
    }

    private func applyNetwork(to options: inout RunOptions) throws {
        if let name { try ContainerName.check(name) }
        options.name = name
        if let hostname { try RunWords.checkHostName(hostname, "--hostname") }
        if let domainname { try RunWords.checkHostName(domainname, "--domainname") }
        options.hostname = hostname
        options.domainname = domainname
        options.hosts = try addHost.map(RunWords.host)
        for address in dns where !RunWords.isAddress(address) {
            throw UsageError("--dns: '\(printable(address))' is no IP address")
        }
        options.nameServers = dns
        options.labels = label.map { text in
            let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(
                String.init)
            return (parts[0], parts.count > 1 ? parts[1] : "")
        }
    }

    private func applyRights(to options: inout RunOptions) throws {
        options.limits = try ulimit.map(LimitSyntax.parse)
        options.sysctl = try sysctl.map { text in
            let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(
                String.init)
            guard parts.count == 2, !parts[0].isEmpty else {
                throw UsageError("--sysctl: '\(printable(text))' is no KEY=VALUE")
            }
            return (parts[0], parts[1])
        }
        options.capabilities = try CapabilitySyntax.apply(add: capAdd, drop: capDrop, privileged: privileged)
        options.isPrivileged = privileged
        options.noNewPrivileges = !privileged && !allowSetuid
        for text in securityOpt { try applySecurity(text, &options) }
        guard (0...1024).contains(preserveFds) else {
            throw UsageError("--preserve-fds: \(preserveFds) is not from 0 to 1024")
        }
        for number in 0..<preserveFds where fcntl(Int32(3 + number), F_GETFD) < 0 {
            throw UsageError(
                "--preserve-fds \(preserveFds): the descriptor \(3 + number) is not open",
                hint: "open it in the shell first: exec \(3 + number)<FILE")
        }
        options.preservedDescriptors = preserveFds
    }

    private func applySecurity(_ text: String, _ options: inout RunOptions) throws {
        let parts = text.split(separator: text.contains("=") ? "=" : ":", maxSplits: 1).map(String.init)
        switch (parts.first ?? "", parts.count > 1 ? parts[1] : "") {
        case ("no-new-privileges", ""), ("no-new-privileges", "true"): options.noNewPrivileges = true
        case ("no-new-privileges", "false"): options.noNewPrivileges = false
        case ("seccomp", "unconfined"): options.seccomp = .unconfined
        case ("seccomp", "builtin"), ("seccomp", "default"): options.seccomp = .standard
        case ("seccomp", let path) where !path.isEmpty:
            do { options.seccomp = .document(path: path, bytes: try readFile(path, limit: 4 << 20)) } catch {
                throw UsageError(
                    "--security-opt seccomp: '\(printable(path))' cannot be read: \(error.errno.description)",
                    hint: "give a profile in docker's form, or seccomp=unconfined")
            }
        case ("unmask", "ALL"): options.isUnmasked = true
        default:
            throw UsageError(
                "--security-opt: '\(printable(text))' is not known",
                hint: "known are no-new-privileges=true|false, seccomp=FILE|unconfined and unmask=ALL")
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
