import Foundation
import OCI
import Testing

@testable import Cgroups

@Suite struct HostTests {
    static let mounts = """
        30 25 0:27 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
        31 30 0:28 / /sys/fs/cgroup/cpu\\040and rw - cgroup cgroup rw,cpu,cpuacct
        32 30 0:29 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
        33 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
        34 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
        35 30 0:31 / /mnt/again rw - cgroup2 cgroup2 rw
        """
    static let own = "4:name=systemd:/a\n3:memory:/x/y\n2:cpu,cpuacct:/\n0::/s\n"

    @Test func findsEachControllerWhereItIs() {
        let host = CgroupHost(mounts: Array(Self.mounts.utf8), own: Array(Self.own.utf8), parent: "/p") { _ in
            ["hugetlb"]
        }
        #expect(
            host.hierarchies == [
                .init(
                    version: 1, mountPoint: "/sys/fs/cgroup/cpu and", controllers: ["cpu", "cpuacct"],
                    own: "/"),
                .init(version: 1, mountPoint: "/sys/fs/cgroup/memory", controllers: ["memory"], own: "/x/y"),
                .init(
                    version: 1, mountPoint: "/sys/fs/cgroup/systemd", controllers: ["name=systemd"], own: "/a"
                ),
                .init(version: 2, mountPoint: "/sys/fs/cgroup/unified", controllers: ["hugetlb"], own: "/s"),
            ])
        #expect(host.hierarchy(of: "cpuacct")?.version == 1)
        #expect(host.hierarchy(of: "hugetlb")?.version == 2)
        #expect(host.hierarchy(of: "io") == nil)
    }

    @Test func everyContainerHasAGroupOfV2WhereThereIsOne() {
        let host = CgroupHost(mounts: Array(Self.mounts.utf8), own: Array(Self.own.utf8), parent: "/p") { _ in
            []
        }
        let group = CgroupGroup(host, path: "/p/id", resources: Resources())
        #expect(group.directories.map(\.absolute).contains("/sys/fs/cgroup/unified/p/id"))
        #expect(!group.directories.map(\.absolute).contains("/sys/fs/cgroup/systemd/p/id"))
    }

    @Test func nothingWhereThereIsNothing() {
        #expect(CgroupHost(mounts: [], own: [], parent: nil) { _ in [] }.hierarchies.isEmpty)
    }
}

@Suite struct LimitTests {
    static let old = CgroupHost(
        ["cpu", "memory", "pids", "blkio", "cpuset", "hugetlb"].map {
            .init(version: 1, mountPoint: "/c/\($0)", controllers: [$0], own: "/")
        }, parent: "/p")
    static let new = CgroupHost(
        [
            .init(
                version: 2, mountPoint: "/c",
                controllers: ["cpu", "memory", "pids", "io", "cpuset", "hugetlb"],
                own: "/")
        ], parent: "/p")

    static func resources(_ change: (inout Resources) -> Void) -> Resources {
        var resources = Resources()
        change(&resources)
        return resources
    }

    static func writes(_ host: CgroupHost, _ change: (inout Resources) -> Void) throws -> [String] {
        let resources = resources(change)
        let group = CgroupGroup(host, path: "/p/id", resources: resources)
        return try CgroupLimits.limits(resources, host, group).filter { !$0.flag.isEmpty }.map {
            "\($0.choices[0].file)=\($0.choices[0].value)"
        }
    }

    /// The table of the facts, section 3.
    @Test func eachLimitHasItsFile() throws {
        func check(_ change: (inout Resources) -> Void, _ old: [String], _ new: [String]) throws {
            #expect(try Self.writes(Self.old, change) == old)
            #expect(try Self.writes(Self.new, change) == new)
        }
        try check(
            {
                $0.cpuQuota = 20_000; $0.cpuPeriod = 50_000
            }, ["cpu.cfs_period_us=50000", "cpu.cfs_quota_us=20000"],
            ["cpu.max=20000 50000"])
        try check(
            { $0.cpuQuota = -1 }, ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=-1"], ["cpu.max=max 100000"])
        try check({ $0.cpuShares = 512 }, ["cpu.shares=512"], ["cpu.weight=59"])
        try check({ $0.cpuWeight = 100 }, ["cpu.shares=1024"], ["cpu.weight=100"])
        try check({ $0.cpus = "0-1" }, ["cpuset.cpus=0-1"], ["cpuset.cpus=0-1"])
        try check(
            {
                $0.memory = 100; $0.memorySwap = 300
            }, ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=300"],
            ["memory.max=100", "memory.swap.max=200"])
        try check(
            {
                $0.memory = 100; $0.memorySwap = -1
            }, ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=-1"],
            ["memory.max=100", "memory.swap.max=max"])
        // As docker has it: without --memory-swap as much swap as memory.
        try check(
            { $0.memory = 100 }, ["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=200"],
            ["memory.max=100", "memory.swap.max=100"])
        try check({ $0.memoryReservation = 7 }, ["memory.soft_limit_in_bytes=7"], ["memory.low=7"])
        try check({ $0.pids = 5 }, ["pids.max=5"], ["pids.max=5"])
        try check({ $0.pids = -1 }, ["pids.max=max"], ["pids.max=max"])
        try check({ $0.blockWeight = 500 }, ["blkio.weight=500"], ["io.bfq.weight=500"])
        try check(
            { $0.writeBytes = [.init(major: 8, minor: 0, rate: 9)] },
            ["blkio.throttle.write_bps_device=8:0 9"],
            ["io.max=8:0 wbps=9"])
        try check(
            { $0.hugePages = [.init(pageSize: "2MB", limit: 4)] }, ["hugetlb.2MB.limit_in_bytes=4"],
            ["hugetlb.2MB.max=4"])
    }

    @Test func whatAHostCannotDoIsAnError() {
        func error(_ host: CgroupHost, _ change: (inout Resources) -> Void) -> CgroupError? {
            let resources = Self.resources(change)
            let group = CgroupGroup(host, path: "/p/id", resources: resources)
            return #expect(throws: CgroupError.self) { try CgroupLimits.limits(resources, host, group) }
        }
        #expect(error(Self.old) { $0.memoryHigh = 1 }?.message.contains("--memory-high") == true)
        #expect(error(Self.new) { $0.swappiness = 1 }?.hint?.contains("--memory-swap") == true)
        let none = CgroupHost([], parent: "/p")
        #expect(error(none) { $0.memory = 1 << 30 }?.message.contains("no cgroup file system") == true)
        let user = CgroupHost(Self.old.hierarchies, parent: nil)
        let message = #expect(throws: CgroupError.self) {
            try CgroupLimits.limits(Self.resources { $0.pids = 7 }, user, CgroupGroup([]))
        }
        #expect(message?.hint?.contains("run as root") == true)
    }

    /// The figures that runc 1.3.2 and crun 1.23 give.
    @Test(arguments: [(UInt64(2), UInt64(1)), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000)])
    func sharesAsWeights(shares: UInt64, weight: UInt64) {
        #expect(Cgroups.weight(shares: shares) == weight)
        #expect(Cgroups.weight(shares: Cgroups.shares(weight: weight)) == weight)
    }

    @Test func comparesAsTheKernelRounds() {
        #expect(CgroupTree.agrees("67108864", "67110000", "memory.max"))
        #expect(!CgroupTree.agrees("67108864", "68200000", "memory.max"))
        #expect(!CgroupTree.agrees("max", "68200000", "memory.max"))
        #expect(CgroupTree.agrees("0-1", "0,1", "cpuset.cpus"))
        #expect(CgroupTree.agrees("9223372036854771712", "-1", "memory.limit_in_bytes"))
        #expect(!CgroupTree.agrees("99", "100", "pids.max"))
    }

    @Test(arguments: ["", "a", "3-1", "1,,2", "-1", "99999"]) func refusesLists(text: String) {
        #expect(cpuList(text) == nil)
    }
}

/// The BPF program is run by a small machine of the test's own.
@Suite struct DeviceFilterTests {
    private func ask(
        _ rules: [Resources.DeviceRule], _ type: UInt64, _ access: UInt64, _ major: UInt64, _ minor: UInt64
    ) -> Bool {
        let program = DeviceFilter.program(rules)
        let context = [Int16(0): access << 16 | type, 4: major, 8: minor]
        var registers = [UInt64](repeating: 0, count: 11)
        var at = 0
        while at < program.count {
            let i = program[at]
            at += 1
            let (t, s, v) = (Int(i.target), Int(i.source), UInt64(UInt32(bitPattern: i.value)))
            switch i.code {
            case 0x61: registers[t] = context[i.offset] ?? 0
            case 0xbc: registers[t] = registers[s] & 0xffff_ffff
            case 0xb7: registers[t] = UInt64(bitPattern: Int64(i.value))
            case 0x54: registers[t] &= v
            case 0x74: registers[t] >>= v
            case 0x15: if registers[t] == UInt64(bitPattern: Int64(i.value)) { at += Int(i.offset) }
            case 0x55: if registers[t] != UInt64(bitPattern: Int64(i.value)) { at += Int(i.offset) }
            case 0x95: return registers[0] == 1
            default: Issue.record("unknown instruction \(i.code)")
            }
        }
        Issue.record("the program ran off its end")
        return false
    }

    /// Types: 1 block, 2 character. Access: 1 mknod, 2 read, 4 write.
    @Test func allowsWhatTheListAllows() {
        let standard = [
            Resources.DeviceRule(allow: false, type: "a", major: nil, minor: nil, access: "rwm"),
            .init(allow: true, type: "b", major: nil, minor: nil, access: "m"),
            .init(allow: true, type: "c", major: 1, minor: 3, access: "rwm"),
            .init(allow: true, type: "c", major: 136, minor: nil, access: "rw"),
            .init(allow: false, type: "c", major: 136, minor: 9, access: "w"),
        ]
        #expect(ask(standard, 2, 6, 1, 3))
        #expect(!ask(standard, 1, 6, 1, 3))
        #expect(!ask(standard, 2, 2, 1, 4))
        #expect(ask(standard, 1, 1, 8, 0))
        #expect(!ask(standard, 1, 3, 8, 0))
        #expect(ask(standard, 2, 2, 136, 9))
        #expect(!ask(standard, 2, 6, 136, 9))
        #expect(!ask(standard, 2, 1, 136, 8))
        #expect(!ask([], 2, 2, 1, 3))
        #expect(ask([.init(allow: true, type: "a", major: nil, minor: nil, access: "rwm")], 1, 7, 8, 0))
    }
}
