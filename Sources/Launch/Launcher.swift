import CKernel
import CLaunch
package import Files
import Glibc
import SystemPackage

/// A started child: it has run its steps up to the point where it waits, or has failed.
package struct LaunchedChild: ~Copyable {
    package let pid: Int32
    /// A descriptor of the process, for waiting and signals that can hit no other process.
    package let pidfd: OwnedFD
    /// The terminal's master, when one was asked for.
    package private(set) var terminal: Int32 = -1

    private let report: OwnedFD
    private let release: OwnedFD
    /// The other end of `release`, kept so that writing to a child that is gone sends no SIGPIPE.
    private let gate: OwnedFD
    private let socket: Int32
    private let stamps: UnsafeMutablePointer<Int64>?
    private let plan: LaunchPlan
    private let started: Int64

    init(
        pid: Int32, pidfd: Int32, report: consuming OwnedFD, release: consuming OwnedFD,
        gate: consuming OwnedFD,
        socket: Int32,
        stamps: UnsafeMutablePointer<Int64>?, plan: LaunchPlan, started: Int64
    ) {
        self.pid = pid
        self.pidfd = OwnedFD(pidfd)
        self.report = report
        self.release = release
        self.gate = gate
        self.socket = socket
        self.stamps = stamps
        self.plan = plan
        self.started = started
    }

    /// Lets the command run, and waits until it does. `whenReady` is called before, with the time that each step
    /// took, when the plan is being explained.
    package mutating func start(
        whenReady: ((_ nanoseconds: [Int64?]) -> Void)? = nil
    ) throws(LaunchError) {
        if let whenReady {
            try awaitReady()
            whenReady(durations())
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
        let count = readReport(&failure)
        guard count == 0 else {
            reap()
            throw Launcher.describe(failure, plan)
        }
    }

    private func awaitReady() throws(LaunchError) {
        var message = cl_report()
        guard readReport(&message) > 0 else {
            reap()
            throw LaunchError("the container's first process ended before it was ready")
        }
        if message.error != 0 {
            reap()
            throw Launcher.describe(message, plan)
        }
    }

    private func readReport(_ message: inout cl_report) -> Int {
        while true {
            let count = Glibc.read(report.raw, &message, MemoryLayout<cl_report>.size)
            if count >= 0 || Glibc.errno != EINTR { return count }
        }
    }

    private func reap() {
        _ = ck_wait_status(pid)
    }

    private func durations() -> [Int64?] {
        guard let stamps else { return [] }
        var before = started
        return plan.steps.indices.map { index in
            let stamp = stamps[index]
            guard stamp != 0 else { return nil }
            defer { before = stamp }
            return stamp - before
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

    /// Clones the child, which begins with its steps at once.
    package static func launch(
        _ plan: LaunchPlan, _ descriptors: Descriptors, explained: Bool = false
    ) throws(LaunchError) -> LaunchedChild {
        var sources: [OwnedSource] = []
        if plan.mountAPI {
            for case .bind(let source, _, _, let isRecursive, _) in plan.steps {
                sources.append(try OwnedSource(source, isRecursive))
            }
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
        var inherited = Lowering.Inherited()
        inherited.release = releaseRead
        inherited.releaseWriter = releaseWrite
        inherited.socket = sockets[1]
        inherited.standard = [descriptors.standardInput, -1, -1]
        inherited.sources = sources.map { $0.fd.raw }
        inherited.announcesWait = explained
        let lowering = Lowering(plan, inherited)
        lowering.lower()

        let stamps = explained ? sharedStamps(plan.steps.count) : nil
        let started = monotonicNow()
        var pidfd: Int32 = -1
        let pid = lowering.program.ops.withUnsafeBufferPointer { ops in
            var program = cl_program()
            program.ops = ops.baseAddress
            program.count = UInt32(ops.count)
            program.stamps = stamps
            program.report = reportWrite
            program.clone_flags = plan.namespaces.reduce(0) { $0 | $1.flag }
            program.cgroup = -1
            return cl_launch(&program, &pidfd)
        }
        for fd in [reportWrite, sockets[1]] where fd >= 0 { close(fd) }
        guard pid > 0 else {
            for fd in [reportRead, releaseRead, releaseWrite, sockets[0]] where fd >= 0 { close(fd) }
            throw describeClone(Errno(rawValue: Int32(-pid)), plan)
        }
        return LaunchedChild(
            pid: Int32(pid), pidfd: pidfd, report: OwnedFD(reportRead), release: OwnedFD(releaseWrite),
            gate: OwnedFD(releaseRead),
            socket: sockets[0],
            stamps: stamps, plan: plan, started: started)
    }

    /// A detached copy of the mount that is to be bound. The parent makes it, in whose mount namespace the path is
    /// valid; it is resolved once, and a wrong path has a clear message.
    private final class OwnedSource {
        let fd: OwnedFD

        init(_ path: String, _ isRecursive: Bool) throws(LaunchError) {
            let flags = Lowering.openTreeClone | Lowering.cloexec | (isRecursive ? Lowering.recursive : 0)
            let raw = path.withCString { name in
                ck_syscall(Int(CL_SYS_open_tree), Int(AT_FDCWD), Int(bitPattern: name), Int(flags), 0, 0, 0)
            }
            guard raw >= 0 else {
                let code = Errno(rawValue: Glibc.errno)
                throw LaunchError("cannot bind '\(printable(path))': \(code.description)", errno: code)
            }
            fd = OwnedFD(Int32(raw))
        }
    }

    private static func pipe() throws(LaunchError) -> (Int32, Int32) {
        var ends: [Int32] = [-1, -1]
        guard ck_pipe(&ends) == 0 else {
            throw LaunchError("pipe: \(Errno(rawValue: Glibc.errno).description)")
        }
        return (ends[0], ends[1])
    }

    /// Memory that the child shares with the parent. It lives as long as the process.
    private static func sharedStamps(_ count: Int) -> UnsafeMutablePointer<Int64>? {
        let size = count * MemoryLayout<Int64>.stride
        let space = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
        guard let space, space != MAP_FAILED else { return nil }
        return space.bindMemory(to: Int64.self, capacity: count)
    }

    private static func monotonicNow() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }

    // MARK: - Failures in words

    private static func describeClone(_ code: Errno, _ plan: LaunchPlan) -> LaunchError {
        let names = plan.namespaces.map(\.rawValue).joined(separator: ", ")
        let hint: String? =
            switch code {
            case .notPermitted: "new namespaces take root; run imgbox as root"
            case .noSpace: "too many namespaces: raise user.max_*_namespaces with sysctl"
            default: nil
            }
        return LaunchError(
            "cannot make the namespaces \(names): clone3: \(code.description)", hint: hint, errno: code)
    }

    static func describe(_ report: cl_report, _ plan: LaunchPlan) -> LaunchError {
        let code = Errno(rawValue: report.error)
        guard Int(report.step) < plan.steps.count else {
            return LaunchError("the launch failed: \(code.description)", errno: code)
        }
        let step = plan.steps[Int(report.step)]
        if case .exec(_, let arguments, _) = step { return describeExec(arguments.first ?? "", code, step) }
        return LaunchError(
            "cannot \(step.wording.title): \(code.description)", hint: hint(step, code), errno: code,
            step: step)
    }

    private static func describeExec(_ command: String, _ code: Errno, _ step: LaunchPlan.Step) -> LaunchError
    {
        let name = printable(command)
        switch code {
        case .noSuchFileOrDirectory, .notDirectory:
            let hint =
                command.contains("/")
                ? "there is no such file in the image, or the interpreter or loader that it asks for is missing"
                : "it is in no directory of PATH in the image; see what is there with: imgbox ls IMAGE /bin"
            return LaunchError(
                "cannot run '\(name)': not found in the image", hint: hint, errno: code, step: step)
        case .permissionDenied:
            return LaunchError(
                "cannot run '\(name)': permission denied",
                hint: "it is a directory, or has no x bit for this user",
                errno: code, step: step)
        case .init(rawValue: ENOEXEC):
            return LaunchError(
                "cannot run '\(name)': no program of this machine's kind",
                hint: "a script needs '#!' in its first line; an image may be made for another architecture",
                errno: code,
                step: step)
        default: return LaunchError("cannot run '\(name)': \(code.description)", errno: code, step: step)
        }
    }

    private static func hint(_ step: LaunchPlan.Step, _ code: Errno) -> String? {
        switch (step, code) {
        case (.mount, .tooManySymbolicLinkLevels):
            "the image has a link in that place; a link there could lead out of the container"
        case (.resourceLimit, .notPermitted):
            "raising a hard limit takes CAP_SYS_RESOURCE, which this process does not have"
        case (.switchRoot(.pivot), .invalidArgument): "try --root-switch chroot"
        case (.overlayRoot, .invalidArgument):
            "the store lies on a file system that overlayfs cannot use; choose another with --root"
        case (.sysctl, .noSuchFileOrDirectory): "this kernel has no such setting"
        case (_, .notPermitted): "this takes root"
        default: nil
        }
    }
}
