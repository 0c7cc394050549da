import Glibc
package import OCI

/// One value to write into one file of a group.
package struct CgroupLimit: Sendable, Equatable {
    /// The option that asked for it; empty for what every container gets.
    package let flag: String
    package let controller: String
    /// What was asked for, in the words of the flag.
    package let wanted: String
    /// Absolute.
    package let directory: String
    /// Of the hierarchy that the directory is in.
    package let version: Int
    /// The files that can take it and what to write; the first that is there is used.
    package let choices: [Choice]
    /// Nobody asked for it: where no file can take it, it is left out.
    package var isOptional = false

    package struct Choice: Sendable, Equatable {
        package let file: String
        package let value: String
    }

    package init(
        flag: String, controller: String, wanted: String, directory: CgroupGroup.Directory, choices: [Choice]
    ) {
        (self.flag, self.controller, self.wanted) = (flag, controller, wanted)
        (self.directory, self.choices) = (directory.absolute, choices)
        version = directory.version
    }
}

/// Turns resources into writes.
package struct CgroupLimits {
    let host: CgroupHost
    let group: CgroupGroup
    private(set) var limits: [CgroupLimit] = []

    /// The writes for a container, in the order in which the kernel takes them.
    package static func limits(
        _ resources: Resources, _ host: CgroupHost, _ group: CgroupGroup
    ) throws(CgroupError) -> [CgroupLimit] {
        var list = CgroupLimits(host: host, group: group)
        try list.cpu(resources)
        try list.cpuset(resources)
        try list.memory(resources)
        if let pids = resources.pids {
            // Nobody asked for the standard limit: a host without the controller goes without.
            if group.directory(of: "pids") != nil || pids != standardPids {
                try list.add(
                    "--pids-limit", "pids", "\(pids)", pids < 0 ? "max" : "\(pids)", "pids.max", "pids.max")
            }
        }
        try list.block(resources)
        for pages in resources.hugePages {
            try list.add(
                "--hugetlb", "hugetlb", "\(pages.pageSize)=\(pages.limit)", "\(pages.limit)",
                "hugetlb.\(pages.pageSize).limit_in_bytes", "hugetlb.\(pages.pageSize).max")
        }
        try list.devices(resources)
        return list.limits
    }

    /// podman's default: far more than a service needs, far less than a fork bomb.
    package static let standardPids: Int64 = 2048

    /// Where a controller's file is; an error that says what to do where there is none.
    private func place(_ controller: String, _ flag: String) throws(CgroupError) -> CgroupGroup.Directory {
        if let directory = group.directory(of: controller) { return directory }
        throw CgroupLimits.missing(controller, flag, host)
    }

    static func missing(_ controller: String, _ flag: String, _ host: CgroupHost) -> CgroupError {
        let name = controller == "io" ? "io (blkio)" : controller
        guard host.parent != nil else {
            return CgroupError(
                "\(flag) cannot be applied: the cgroup controller \(name) is not delegated to this user",
                hint: host.known.first { $0.controllers.contains(controller) }?.version == 2
                    ? "run in a delegated scope: systemd-run --user --scope -p Delegate=yes imgbox ..., or as root"
                    : "controllers of cgroup v1 cannot be delegated to users: run as root")
        }
        if host.hierarchies.isEmpty {
            return CgroupError(
                "\(flag) cannot be applied: no cgroup file system is mounted",
                hint: "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        }
        return CgroupError(
            "\(flag) cannot be applied: this host has no cgroup controller \(name)",
            hint:
                "see what there is with: imgbox doctor; the kernel may have it switched off (cgroup_disable=)"
        )
    }

    private mutating func add(
        _ flag: String, _ controller: String, _ wanted: String, _ value: String, _ old: String?,
        _ new: String?, newValue: String? = nil
    ) throws(CgroupError) {
        try add(
            flag, controller, wanted, old: old.map { [.init(file: $0, value: value)] } ?? [],
            new: new.map { [.init(file: $0, value: newValue ?? value)] } ?? [])
    }

    private mutating func add(
        _ flag: String, _ controller: String, _ wanted: String, old: [CgroupLimit.Choice],
        new: [CgroupLimit.Choice]
    ) throws(CgroupError) {
        let directory = try place(controller, flag)
        let choices = directory.version == 1 ? old : new
        guard !choices.isEmpty else {
            throw CgroupError(
                "\(flag) cannot be applied: cgroup v\(directory.version), where this host has the controller "
                    + "\(controller), does not know it",
                hint: CgroupLimits.instead[flag])
        }
        limits.append(
            CgroupLimit(
                flag: flag, controller: controller, wanted: wanted, directory: directory,
                choices: choices))
    }

    private static let instead = [
        "--memory-swappiness": "limit swap with --memory-swap instead",
        "--oom-kill-disable": "throttle with --memory-high instead",
        "--memory-high": "use --memory or --memory-reservation",
    ]

    // MARK: - Processor time

    private mutating func cpu(_ resources: Resources) throws(CgroupError) {
        if let shares = resources.cpuShares {
            try add(
                "--cpu-shares", "cpu", "\(shares)", "\(shares)", "cpu.shares", "cpu.weight",
                newValue: "\(weight(shares: shares))")
        }
        if let weight = resources.cpuWeight {
            try add(
                "--cpu-weight", "cpu", "\(weight)", "\(shares(weight: weight))", "cpu.shares", "cpu.weight",
                newValue: "\(weight)")
        }
        guard resources.cpuQuota != nil || resources.cpuPeriod != nil else { return }
        let period = resources.cpuPeriod ?? 100_000
        let flag = resources.cpuQuota == nil ? "--cpu-period" : "--cpu-quota"
        if try place("cpu", flag).version == 1 {
            // The period first: a quota is checked against it.
            try add("--cpu-period", "cpu", "\(period)", "\(period)", "cpu.cfs_period_us", nil)
            if let quota = resources.cpuQuota {
                try add("--cpu-quota", "cpu", "\(quota)", "\(max(-1, quota))", "cpu.cfs_quota_us", nil)
            }
        } else {
            let quota = resources.cpuQuota.map { $0 < 0 ? "max" : "\($0)" } ?? "max"
            try add(flag, "cpu", "\(quota) of \(period)", "\(quota) \(period)", nil, "cpu.max")
        }
    }

    private mutating func cpuset(_ resources: Resources) throws(CgroupError) {
        for (flag, value, name) in [
            ("--cpuset-cpus", resources.cpus, "cpus"), ("--cpuset-mems", resources.memoryNodes, "mems"),
        ] {
            guard let value else { continue }
            // A v1 hierarchy that was mounted with `noprefix` (cpuset(7)).
            try add(
                flag, "cpuset", value,
                old: [.init(file: "cpuset.\(name)", value: value), .init(file: name, value: value)],
                new: [.init(file: "cpuset.\(name)", value: value)])
        }
    }

    // MARK: - Memory

    private mutating func memory(_ resources: Resources) throws(CgroupError) {
        func words(_ value: Int64) -> String { value < 0 ? "max" : "\(value)" }
        if let limit = resources.memory {
            try add(
                "--memory", "memory", "\(limit)", "\(limit)", "memory.limit_in_bytes", "memory.max",
                newValue: words(limit))
        }
        if let total = resources.memorySwap {
            let swap = total < 0 ? total : max(0, total - (resources.memory ?? 0))
            try add(
                "--memory-swap", "memory", "\(total)", "\(total)", "memory.memsw.limit_in_bytes",
                "memory.swap.max", newValue: words(swap))
        }
        if let memory = resources.memory, memory > 0, resources.memorySwap == nil {
            // As docker has it: as much swap as memory, or a limit would only move memory to the disk.
            try add(
                "--memory-swap", "memory", "\(memory * 2) (twice --memory)", "\(memory * 2)",
                "memory.memsw.limit_in_bytes", "memory.swap.max", newValue: "\(memory)")
            limits[limits.count - 1].isOptional = true
        }
        if let reservation = resources.memoryReservation {
            try add(
                "--memory-reservation", "memory", "\(reservation)", "\(reservation)",
                "memory.soft_limit_in_bytes", "memory.low", newValue: words(reservation))
        }
        if let high = resources.memoryHigh {
            try add("--memory-high", "memory", "\(high)", words(high), nil, "memory.high")
        }
        if let swappiness = resources.swappiness {
            try add(
                "--memory-swappiness", "memory", "\(swappiness)", "\(swappiness)", "memory.swappiness", nil)
        }
        if resources.oomKillDisabled {
            try add("--oom-kill-disable", "memory", "true", "1", "memory.oom_control", nil)
        }
        // Out of memory, the whole container goes: half of one is no use to anybody.
        if let directory = group.directory(of: "memory"), directory.version == 2 {
            try add("", "memory", "the whole container", "1", nil, "memory.oom.group")
            limits[limits.count - 1].isOptional = true
        }
    }

    // MARK: - Block devices

    private mutating func block(_ resources: Resources) throws(CgroupError) {
        let controller = group.directory(of: "blkio") != nil ? "blkio" : "io"
        if let weight = resources.blockWeight {
            let scaled = 1 + (UInt64(weight) - 10) * 9999 / 990
            try add(
                "--blkio-weight", controller, "\(weight)",
                old: [
                    .init(file: "blkio.weight", value: "\(weight)"),
                    .init(file: "blkio.bfq.weight", value: "\(weight)"),
                ],
                new: [
                    .init(file: "io.bfq.weight", value: "\(weight)"),
                    .init(file: "io.weight", value: "\(scaled)"),
                ])
        }
        for (flag, rates, old, new) in [
            ("--device-read-bps", resources.readBytes, "read_bps", "rbps"),
            ("--device-write-bps", resources.writeBytes, "write_bps", "wbps"),
            ("--device-read-iops", resources.readOperations, "read_iops", "riops"),
            ("--device-write-iops", resources.writeOperations, "write_iops", "wiops"),
        ] {
            for rate in rates {
                let device = "\(rate.major):\(rate.minor)"
                try add(
                    flag, controller, "\(device) \(rate.rate)", "\(device) \(rate.rate)",
                    "blkio.throttle.\(old)_device", "io.max", newValue: "\(device) \(new)=\(rate.rate)")
            }
        }
    }

    // MARK: - Devices

    /// v1 only: the list of v2 is a program (`DeviceFilter`).
    private mutating func devices(_ resources: Resources) throws(CgroupError) {
        guard let directory = group.directory(of: "devices") else { return }
        for rule in resources.devices {
            limits.append(
                CgroupLimit(
                    flag: "", controller: "devices", wanted: rule.words, directory: directory,
                    choices: [
                        .init(file: rule.allow ? "devices.allow" : "devices.deny", value: rule.words)
                    ]))
        }
    }
}

extension Resources.DeviceRule {
    /// As v1 writes it: `c 1:3 rwm`; everything is `a`.
    package var words: String {
        if type == "a", major == nil, minor == nil, access == "rwm" { return "a" }
        return "\(type) \(major.map(String.init) ?? "*"):\(minor.map(String.init) ?? "*") \(access)"
    }
}

/// cpu.weight for docker's shares: the kernel's default becomes the kernel's default, and the ends meet (the formula that
/// runc 1.3.2 and crun 1.23 agree on; older ones make 1024 a weight of 39).
package func weight(shares: UInt64) -> UInt64 {
    if shares == 0 { return 0 }
    if shares <= 2 { return 1 }
    if shares >= 262_144 { return 10_000 }
    let log = log2(Double(shares))
    let exponent = (log * log + 125 * log) / 612 - 7.0 / 34
    return min(10_000, max(1, UInt64(pow(10, exponent).rounded(.up))))
}

/// The most shares of v1 that weigh no more: the formula above, backwards.
package func shares(weight wanted: UInt64) -> UInt64 {
    var (low, high): (UInt64, UInt64) = (2, 262_144)
    while low < high {
        let middle = (low + high + 1) / 2
        if weight(shares: middle) <= wanted { low = middle } else { high = middle - 1 }
    }
    return low
}
