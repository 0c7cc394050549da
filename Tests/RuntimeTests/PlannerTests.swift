import Cgroups
import Foundation
import Kernel
import OCI
import Testing

@testable import Launch
@testable import Runtime

@Suite struct PlannerTests {
    static func spec() -> ContainerSpec {
        var spec = ContainerSpec.standard()
        spec.hostname = "box"
        spec.process.args = ["sh", "-c", "echo hi"]
        spec.process.env = ["PATH=/bin:/usr/bin"]
        return spec
    }

    static let overlay = RootSource.overlay(
        layers: ["/l/1", "/l/2"], upper: "/c/upper", work: "/c/work", place: "/c/root")

    static func facts(_ change: (inout HostFacts) -> Void = { _ in }) -> HostFacts {
        var facts = HostFacts()
        facts.bounding = 0x1ff_ffff_ffff
        change(&facts)
        return facts
    }

    /// A plan as text: steps, reasons, shell equivalents.
    static func text(_ plan: LaunchPlan) -> String {
        plan.steps.map { "\($0.wording.title)\n    \($0.wording.reason)\n    $ \($0.wording.shell)\n" }
            .joined()
            + plan.notes.map { "note: \($0)\n" }.joined()
    }

    private func compare(_ name: String, _ text: String) throws {
        let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent(
            "Golden/\(name).txt")
        if ProcessInfo.processInfo.environment["IMGBOX_RENEW_GOLDEN"] != nil {
            try text.write(to: source, atomically: true, encoding: .utf8)
        }
        #expect(
            text == (try? String(contentsOf: source, encoding: .utf8)),
            "renew with IMGBOX_RENEW_GOLDEN=1 swift test --filter PlannerTests")
    }

    @Test func standardContainer() throws {
        try compare("standard", Self.text(Planner.plan(Self.spec(), Self.facts(), root: Self.overlay)))
    }

    @Test func everythingAsked() throws {
        var spec = Self.spec()
        spec.process.terminal = true
        spec.process.user.uid = 1000
        spec.process.user.gid = 100
        spec.process.user.additionalGids = [5, 6]
        spec.process.cwd = "/work"
        spec.process.limits = [.init(type: "RLIMIT_NOFILE", soft: 10, hard: 20)]
        spec.rootIsReadOnly = true
        spec.domainname = "example"
        spec.sysctl = [("net.ipv4.ip_forward", "1")]
        spec.mounts.append(.init("/data", type: "bind", source: "/host/data", options: ["rbind", "ro"]))
        var options = PlanOptions()
        options.hasInit = true
        options.rootSwitch = .chroot
        try compare(
            "everything", Self.text(Planner.plan(spec, Self.facts(), root: Self.overlay, options: options)))
    }

    /// The hierarchies of a hybrid host, and of one with v2 alone.
    static let hybrid = CgroupHost(
        ["cpu", "memory", "pids", "devices", "cpuset"].map {
            .init(version: 1, mountPoint: "/sys/fs/cgroup/\($0)", controllers: [$0], own: "/")
        } + [.init(version: 2, mountPoint: "/sys/fs/cgroup/unified", controllers: ["hugetlb"], own: "/")],
        parent: "/imgbox")
    static let unified = CgroupHost(
        [
            .init(
                version: 2, mountPoint: "/sys/fs/cgroup",
                controllers: ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"], own: "/")
        ], parent: "/imgbox")

    /// A container with ids of its own and limits.
    static func mapped(_ host: CgroupHost) -> (ContainerSpec, PlanOptions) {
        var spec = Self.spec()
        spec.namespaces.insert(.init("user"), at: 0)
        spec.uidMappings = [.init(containerID: 0, hostID: 100_000, size: 65536)]
        spec.gidMappings = spec.uidMappings
        spec.cgroupsPath = "abc"
        spec.resources.pids = 100
        spec.resources.cpuQuota = 20_000
        spec.resources.memory = 64 << 20
        spec.resources.memorySwap = 128 << 20
        spec.resources.devices = Resources.standardDevices
        spec.mounts.append(.init("/data", type: "bind", source: "/srv", options: ["rbind", "imgbox.idmap"]))
        var options = PlanOptions()
        options.cgroups = host
        options.seccomp = ("standard", Array(repeating: 0, count: 16))
        return (spec, options)
    }

    @Test(arguments: [("mapped-hybrid", hybrid), ("mapped-v2", unified)])
    func containerWithIdsOfItsOwn(name: String, host: CgroupHost) throws {
        let (spec, options) = Self.mapped(host)
        try compare(name, Self.text(Planner.plan(spec, Self.facts(), root: Self.overlay, options: options)))
    }

    @Test func joinedContainer() throws {
        var (spec, options) = Self.mapped(Self.hybrid)
        spec.namespaces[0].path = "/proc/7/ns/user"
        spec.namespaces.removeAll { $0.type == "network" }
        spec.namespaces.append(.init("network", path: "/proc/7/ns/net"))
        options.preservedDescriptors = 2
        let plan = try Planner.plan(spec, Self.facts(), root: Self.overlay, options: options)
        // The user namespace first: the right to enter the others comes with it.
        #expect(plan.joins.map(\.namespace) == [.user, .network])
        try compare("joined", Self.text(plan))
    }

    @Test func containerOfAnOrdinaryUser() throws {
        var spec = Self.spec()
        spec.namespaces.insert(.init("user"), at: 0)
        spec.uidMappings = [.init(containerID: 0, hostID: 0, size: 1)]
        spec.gidMappings = spec.uidMappings
        spec.process.oomScoreAdjustment = 100
        let facts = Self.facts {
            $0.privilege = .userNamespace(
                uid: [.init(inside: 0, outside: 1000, count: 1)],
                gid: [.init(inside: 0, outside: 1000, count: 1)],
                canSetGroups: false)
        }
        try compare("rootless", Self.text(Planner.plan(spec, facts, root: Self.overlay)))
        spec.process.user.uid = 33
        #expect(throws: RuntimeError.self) { try Planner.plan(spec, facts, root: Self.overlay) }
    }

    @Test func initialRootFallsBackToChrootAndSaysSo() throws {
        let plan = try Planner.plan(Self.spec(), Self.facts { $0.rootIsInitial = true }, root: Self.overlay)
        #expect(plan.steps.contains(.switchRoot(.chroot)))
        #expect(plan.notes.contains { $0.contains("chroot instead") })
        #expect(
            try Planner.plan(Self.spec(), Self.facts(), root: Self.overlay).steps.contains(
                .switchRoot(.pivot)))
    }

    @Test func onlyHeldCapabilitiesArePassedOn() throws {
        let plan = try Planner.plan(Self.spec(), Self.facts { $0.bounding = 0b1011 }, root: Self.overlay)
        // CHOWN, DAC_OVERRIDE and FOWNER are 0, 1 and 3.
        #expect(plan.steps.contains(.capabilities(0b1011)))
        var user = Self.spec()
        user.process.user.uid = 7
        #expect(try Planner.plan(user, Self.facts(), root: Self.overlay).steps.contains(.capabilities(0)))
    }

    @Test func refusesWhatCannotBe() {
        var empty = Self.spec()
        empty.process.args = []
        var relative = Self.spec()
        relative.mounts.append(.init("data", type: "tmpfs", source: "", options: []))
        var shared = Self.spec()
        shared.namespaces.removeAll { $0.type == "uts" }
        for spec in [empty, relative, shared] {
            #expect(throws: RuntimeError.self) { try Planner.plan(spec, Self.facts(), root: Self.overlay) }
        }
        #expect(throws: RuntimeError.self) {
            try Planner.plan(
                Self.spec(), Self.facts(), root: .overlay(layers: [], upper: "", work: "", place: ""))
        }
    }

    @Test func everyStepHasWords() throws {
        let (spec, options) = Self.mapped(Self.hybrid)
        let mapped = try Planner.plan(spec, Self.facts(), root: Self.overlay, options: options)
        for step in try Planner.plan(Self.spec(), Self.facts(), root: Self.overlay).steps + mapped.steps {
            #expect(
                !step.wording.title.isEmpty && !step.wording.reason.isEmpty && !step.wording.shell.isEmpty)
        }
    }

    @Test func specSurvivesItsDocument() throws {
        var spec = Self.spec()
        spec.process.limits = [.init(type: "RLIMIT_CORE", soft: 0, hard: .max)]
        spec.annotations = [("a", "b")]
        spec.uidMappings = [.init(containerID: 0, hostID: 5, size: 6)]
        spec.timeOffsets = [.init(clock: "boottime", seconds: -3, nanoseconds: 4)]
        spec.devices = [
            .init(path: "/dev/fuse", type: "c", major: 10, minor: 229, mode: 0o660, uid: 1, gid: 2)
        ]
        spec.resources = Self.mapped(Self.unified).0.resources
        spec.resources.writeBytes = [.init(major: 8, minor: 0, rate: 1 << 20)]
        spec.resources.hugePages = [.init(pageSize: "2MB", limit: 4 << 20)]
        spec.resources.cpuWeight = 50
        spec.resources.memoryHigh = 1 << 20
        #expect(try ContainerSpec(parsing: spec.json.serialized()) == spec)
    }
}

@Suite struct UserLookupTests {
    static let users = UserLookup(
        passwd: Array(
            "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/srv:/bin/sh\nbroken\nneg:x:-1:1::/:\n".utf8),
        group: Array("root:x:0:\nwww:x:34:\nextra:x:50:web,other\n".utf8))

    @Test func looksUp() throws {
        let web = try Self.users.resolve("web")
        #expect((web.user.uid, web.user.gid, web.home) == (33, 34, "/srv"))
        #expect(web.user.additionalGids == [50])
        #expect(try Self.users.resolve("").home == "/root")
        #expect(try Self.users.resolve("33").user.gid == 34)
        #expect(try Self.users.resolve("1234:www").user.gid == 34)
        #expect(try Self.users.resolve("1234").user.gid == 0)
        #expect(try Self.users.resolve("web:7").user.additionalGids == [])
    }

    @Test(arguments: ["nobody", "33x", "web:nogroup", "-1", "4294967295", "4294967296", "1 ", "web:1:2"])
    func refuses(text: String) {
        #expect(throws: RuntimeError.self) { try Self.users.resolve(text) }
    }
}

@Suite struct LauncherTests {
    private static let isRoot = geteuid() == 0

    private func run(_ steps: [LaunchPlan.Step]) throws -> Int32 {
        let plan = LaunchPlan(namespaces: [.mount, .pid], steps: steps, notes: [], facts: HostFacts())
        var child = try Launcher.launch(plan, Launcher.Descriptors())
        try child.start()
        var status: Int32 = 0
        waitpid(child.pid, &status, 0)
        return (status >> 8) & 0xff
    }

    private func exec(_ command: String...) -> [LaunchPlan.Step] {
        [
            .clone([.mount, .pid], cgroup: nil), .dieWithParent, .waitForParent, .closeDescriptors(from: 3),
            .exec(candidates: [command[0]], arguments: command, environment: ["PATH=/bin:/usr/bin"]),
        ]
    }

    @Test(.enabled(if: isRoot, "SKIPPED: namespaces take root")) func startsWithBusyThreads() throws {
        let stop = Flag()
        let threads = (0..<4).map { _ in
            let thread = Thread {
                // Allocation keeps locks busy that a careless child would wait for for ever.
                while !stop.isSet { _ = (0..<100).map { String($0) }.joined() }
            }
            thread.start()
            return thread
        }
        for _ in 0..<50 { #expect(try run(exec("/bin/sh", "-c", "exit 7")) == 7) }
        stop.set()
        #expect(threads.count == 4)
    }

    @Test(.enabled(if: isRoot, "SKIPPED: namespaces take root")) func namesTheStepThatFailed() {
        let steps: [LaunchPlan.Step] = [
            .clone([.mount, .pid], cgroup: nil), .privateMounts, .workingDirectory("/nowhere/at/all"),
        ]
        let error = #expect(throws: LaunchError.self) { try run(steps) }
        #expect(error?.step == .workingDirectory("/nowhere/at/all"))
        #expect(error?.errno?.rawValue == ENOENT)
        #expect(error?.exitCode == 125)
    }

    @Test(
        .enabled(if: isRoot, "SKIPPED: namespaces take root"),
        arguments: [
            ("/nonexistent", Int32(127)), ("/etc", 126), ("/etc/passwd", 126),
        ])
    func tellsCommandsApart(path: String, code: Int32) {
        let error = #expect(throws: LaunchError.self) { try run(exec(path)) }
        #expect(error?.exitCode == code)
    }

    private final class Flag: @unchecked Sendable {
        private let lock = NSLock()
        private var value = false
        var isSet: Bool { lock.withLock { value } }
        func set() { lock.withLock { value = true } }
    }
}
