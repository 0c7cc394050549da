import CKernel
import CLaunch
package import Cgroups
package import Files
import Glibc
import SystemPackage

/// When a step was done, in nanoseconds.
package struct StepTime: Sendable, Equatable {
    /// Since the launch began.
    package let start: Int64
    package let duration: Int64
}

/// A started child: it has run its steps up to the point where it waits, or has failed.
package struct LaunchedChild: ~Copyable {
    package let pid: Int32
    /// A descriptor of the process, for waiting and signals that can hit no other process.
    package let pidfd: OwnedFD
    /// The terminal's master, when one was asked for.
    package private(set) var terminal: Int32 = -1
    /// What the limits came to be.
    package let effects: [CgroupTree.Effect]
    /// What could not be done as asked, in words for the user.
    package let notes: [String]

    private let report: OwnedFD
    private let release: OwnedFD
    /// The other end of `release`, kept so that writing to a child that is gone sends no SIGPIPE.
    private let gate: OwnedFD
    private let socket: Int32
    private let clock: LaunchClock
    private let plan: LaunchPlan

    init(
        pid: Int32, pidfd: consuming OwnedFD, report: consuming OwnedFD, release: consuming OwnedFD,
        gate: consuming OwnedFD, socket: Int32, clock: LaunchClock, plan: LaunchPlan, work: ParentWork
    ) {
        self.pid = pid
        self.pidfd = pidfd
        self.report = report
        self.release = release
        self.gate = gate
        self.socket = socket
        self.clock = clock
        self.plan = plan
        effects = work.effects
        notes = work.notes
    }

    /// Lets the command run, and waits until it does. `whenReady` is called before, with the time of each step, when the
    /// plan is being explained.
    package mutating func start(
        whenReady: ((_ times: [StepTime?]) -> Void)? = nil
    ) throws(LaunchError) {
        if let whenReady {
            try awaitReady()
            whenReady(clock.times(plan))
        }
        if socket >= 0 {
            terminal = ck_receive_descriptor(socket)
            close(socket)
            // The size is right before the command can ask for it.
            if let own = (0..<3).first(where: { isatty(Int32($0)) == 1 }) {
                ck_copy_window_size(Int32(own), terminal)
            }
        }
        var byte: UInt8 = 1
        // When the child is gone already, the report says why.
        _ = Glibc.write(release.raw, &byte, 1)
        var failure = cl_report()
        let count = Launcher.readReport(report.raw, &failure)
        guard count == 0 else {
            reap()
            throw Launcher.describe(failure, plan, clock)
        }
    }

    private func awaitReady() throws(LaunchError) {
        var message = cl_report()
        guard Launcher.readReport(report.raw, &message) > 0 else {
            reap()
            throw LaunchError("the container's first process ended before it was ready")
        }
        if message.error != 0 {
            reap()
            throw Launcher.describe(message, plan, clock)
        }
    }

    private func reap() {
        _ = ck_wait_status(pid)
    }
}

/// The times of a launch: the parent's steps by itself, the child's in memory that both share.
final class LaunchClock {
    private let started: Int64
    private let stamps: UnsafeMutablePointer<Int64>?
    private var own: [Int: StepTime] = [:]

    init(explained: Bool, count: Int) {
        started = LaunchClock.now()
        stamps = explained ? LaunchClock.shared(count) : nil
    }

    var pointer: UnsafeMutablePointer<Int64>? { stamps }

    static func now() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }

    /// Memory that the child shares with the parent. It lives as long as the process.
    private static func shared(_ count: Int) -> UnsafeMutablePointer<Int64>? {
        let size = max(1, count) * MemoryLayout<Int64>.stride
        let space = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
        guard let space, space != MAP_FAILED else { return nil }
        return space.bindMemory(to: Int64.self, capacity: count)
    }

    /// Notes a step of the parent's that began at `begin`.
    func note(_ step: Int, since begin: Int64) {
        guard stamps != nil else { return }
        own[step] = StepTime(start: begin - started, duration: LaunchClock.now() - begin)
    }

    /// nil for steps that were not done.
    func times(_ plan: LaunchPlan) -> [StepTime?] {
        guard let stamps else { return [] }
        var before: Int64 = 0
        return plan.steps.indices.map { index in
            if let time = own[index] {
                if case .clone = plan.steps[index] { before = time.start + time.duration }
                return time
            }
            guard stamps[index] != 0 else { return nil }
            let end = stamps[index] - started
            defer { before = end }
            return StepTime(start: before, duration: end - before)
        }
    }
}

/// Carries out launch plans.
package enum Launcher {
    /// Descriptors that the parent has opened for the plan.
    package struct Descriptors {
        /// What becomes standard input; -1: the caller's own.
        package var standardInput: Int32 = -1

        package init() {}
    }

    /// Does the parent's first steps, clones the child, which begins with its own at once, and does what the child waits for.
    package static func launch(
        _ plan: LaunchPlan, _ descriptors: Descriptors, explained: Bool = false
    ) throws(LaunchError) -> LaunchedChild {
        let clock = LaunchClock(explained: explained, count: plan.steps.count)
        let work = ParentWork(plan)
        for (index, step) in plan.steps.enumerated() where step.actor == .before {
            if case .clone = step { break }
            try perform(index, step, pid: 0, work, plan, clock)
        }
        let (reportRead, reportWrite) = try pipe()
        let (releaseRead, releaseWrite) = try pipe()
        let hasTerminal = plan.steps.contains { if case .terminal = $0 { true } else { false } }
        var sockets: [Int32] = [-1, -1]
        if hasTerminal {
            guard
                socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &sockets)
                    == 0
            else {
                throw LaunchError("socketpair: \(Errno(rawValue: Glibc.errno).description)")
            }
        }
        let joins = try plan.joins.map { join throws(LaunchError) in try JoinTarget(join) }
        let group = try plan.cgroup.map { path throws(LaunchError) in
            try openGroup(path, pathOnly | O_DIRECTORY)
        }
        var inherited = Lowering.Inherited()
        inherited.release = releaseRead
        inherited.releaseWriter = releaseWrite
        inherited.socket = sockets[1]
        inherited.standard = [descriptors.standardInput, -1, -1]
        inherited.sources = work.sources.map { $0.held.fd.raw }
        inherited.joins = joins.map { $0.held.fd.raw }
        inherited.overlay = work.overlay?.fd.raw ?? -1
        inherited.devices = work.devices?.fd.raw ?? -1
        inherited.disk = work.disk?.fd.raw ?? -1
        inherited.cgroup = group?.fd.raw ?? -1
        inherited.announcesWait = explained
        inherited.pauseAt = testPause
        let lowering = Lowering(plan, inherited)
        lowering.lower()

        let begin = LaunchClock.now()
        var pidfd: Int32 = -1
        let first = lowering.program.ops.withUnsafeBufferPointer { ops in
            var program = cl_program()
            program.ops = ops.baseAddress
            program.count = UInt32(ops.count)
            program.stamps = clock.pointer
            program.report = reportWrite
            program.clone_flags = plan.clonedNamespaces.reduce(0) { $0 | $1.flag }
            program.cgroup = plan.joins.isEmpty ? inherited.cgroup : -1
            return cl_launch(&program, &pidfd)
        }
        // The child has them now; Swift would close them after their last mention.
        withExtendedLifetime((joins, group)) {}
        for fd in [reportWrite, sockets[1]] where fd >= 0 { close(fd) }
        guard first > 0 else {
            for fd in [reportRead, releaseRead, releaseWrite, sockets[0]] where fd >= 0 { close(fd) }
            throw describeClone(Errno(rawValue: Int32(-first)), plan)
        }
        if let index = plan.steps.firstIndex(where: { if case .clone = $0 { true } else { false } }) {
            clock.note(index, since: begin)
        }
        let report = OwnedFD(reportRead)
        let release = OwnedFD(releaseWrite)
        var (pid, handle) = (Int32(first), pidfd)
        if !plan.joins.isEmpty {
            (pid, handle) = try follow(pid, handle, report.raw, plan, clock)
        }
        let process = OwnedFD(handle)
        do throws(LaunchError) {
            for (index, step) in plan.steps.enumerated() where step.actor == .parent {
                try perform(index, step, pid: pid, work, plan, clock)
            }
        } catch {
            // A child that failed by itself meanwhile knows the reason better.
            _ = ck_signal_process(process.raw, SIGKILL)
            _ = ck_wait_status(pid)
            throw error
        }
        if plan.steps.contains(.awaitParent) {
            var byte: UInt8 = 1
            _ = Glibc.write(release.raw, &byte, 1)
        }
        return LaunchedChild(
            pid: pid, pidfd: process, report: report, release: release, gate: OwnedFD(releaseRead),
            socket: sockets[0], clock: clock, plan: plan, work: work)
    }

    private static func perform(
        _ index: Int, _ step: LaunchPlan.Step, pid: Int32, _ work: ParentWork, _ plan: LaunchPlan,
        _ clock: LaunchClock
    ) throws(LaunchError) {
        if testPause == index { while true { pause() } }
        let begin = LaunchClock.now()
        do throws(LaunchError) { try work.perform(step, pid: pid) } catch {
            throw error.at(index, clock.times(plan))
        }
        clock.note(index, since: begin)
    }

    /// For the tests of kill -9: the step before which everything stands still.
    private static var testPause: Int? {
        getenv("IMGBOX_TEST_PAUSE_STEP").flatMap { Int(String(cString: $0)) }
    }

    /// After joining namespaces the child goes on as another process, whose pid it tells.
    private static func follow(
        _ pid: Int32, _ pidfd: Int32, _ report: Int32, _ plan: LaunchPlan, _ clock: LaunchClock
    ) throws(LaunchError) -> (Int32, Int32) {
        var message = cl_report()
        let count = readReport(report, &message)
        close(pidfd)
        _ = ck_wait_status(pid)
        guard count > 0 else { throw LaunchError("the container's first process ended before it was ready") }
        guard message.error == 0, message.pid > 0 else { throw describe(message, plan, clock) }
        let handle = ck_syscall(Int(CK_SYS_PIDFD_OPEN), Int(message.pid), 0, 0, 0, 0, 0)
        guard handle >= 0 else {
            throw LaunchError("pidfd_open: \(Errno(rawValue: Glibc.errno).description)")
        }
        return (message.pid, Int32(handle))
    }

    static func readReport(_ fd: Int32, _ message: inout cl_report) -> Int {
        while true {
            let count = Glibc.read(fd, &message, MemoryLayout<cl_report>.size)
            if count >= 0 || Glibc.errno != EINTR { return count }
        }
    }

    private final class JoinTarget {
        let held: ParentWork.Held

        init(_ join: LaunchPlan.Join) throws(LaunchError) {
            do throws(FileError) { held = ParentWork.Held(try open(join.path, O_RDONLY)) } catch {
                throw LaunchError(
                    "cannot join the \(join.namespace.rawValue) namespace \(join.path): \(error.errno.description)",
                    hint: error.errno == .noSuchFileOrDirectory ? "the container has ended: imgbox ps" : nil,
                    errno: error.errno)
            }
        }
    }

    private static func openGroup(_ path: String, _ flags: Int32) throws(LaunchError) -> ParentWork.Held {
        do throws(FileError) { return ParentWork.Held(try open(path, flags)) } catch {
            throw LaunchError(
                "cannot open the cgroup \(path): \(error.errno.description)", errno: error.errno)
        }
    }

    /// Runs operations in a process with a mount namespace of its own, to their end.
    static func runHelper(_ operations: ChildProgram) throws(LaunchError) {
        let (reportRead, reportWrite) = try pipe()
        let report = OwnedFD(reportRead)
        var pidfd: Int32 = -1
        let pid = operations.ops.withUnsafeBufferPointer { ops in
            var program = cl_program()
            program.ops = ops.baseAddress
            program.count = UInt32(ops.count)
            program.report = reportWrite
            program.clone_flags = LaunchPlan.Namespace.mount.flag
            program.cgroup = -1
            return cl_launch(&program, &pidfd)
        }
        close(reportWrite)
        guard pid > 0 else {
            throw LaunchError("clone3: \(Errno(rawValue: Int32(-pid)).description)")
        }
        close(pidfd)
        var message = cl_report()
        let count = readReport(report.raw, &message)
        _ = ck_wait_status(Int32(pid))
        guard count == 0 else {
            let code = Errno(rawValue: message.error)
            throw LaunchError(
                "cannot mount the layers with mapped owners: \(code.description) (operation \(message.op))",
                hint: "use --userns host, or a store on ext4, xfs or btrfs", errno: code)
        }
    }

    private static func pipe() throws(LaunchError) -> (Int32, Int32) {
        var ends: [Int32] = [-1, -1]
        guard ck_pipe(&ends) == 0 else {
            throw LaunchError("pipe: \(Errno(rawValue: Glibc.errno).description)")
        }
        return (ends[0], ends[1])
    }
}
