import CLaunch
import Files
import Glibc

/// Turns the child's steps into operations.
final class Lowering {
    /// Descriptors that the parent opened for the child, which inherits them.
    struct Inherited {
        /// The pipe whose byte lets the command start.
        var release: Int32 = -1
        /// The end of that pipe that only the parent may hold: its end is how the child learns that the parent is gone.
        var releaseWriter: Int32 = -1
        /// Where the terminal's master is sent.
        var socket: Int32 = -1
        /// What becomes standard input, output and error; -1 leaves one as it is.
        var standard: [Int32] = [-1, -1, -1]
        /// Detached copies of the mounts to bind, in the order of the steps; the classic calls use paths instead.
        var sources: [Int32] = []
        /// The namespaces to join, in the order of the plan.
        var joins: [Int32] = []
        /// An overlay that the parent completes, a /dev and a disk that it has made.
        var overlay: Int32 = -1
        var devices: Int32 = -1
        var disk: Int32 = -1
        /// The v2 group to start in.
        var cgroup: Int32 = -1
        /// For tests: the step before which the child stands still.
        var pauseAt: Int?
        /// The child says when it waits.
        var announcesWait = false
    }

    let program = ChildProgram()
    let plan: LaunchPlan
    let inherited: Inherited
    /// /dev is a directory of the user's, where nothing is known to be what its name says.
    var hasForeignDevices = false

    // linux/mount.h, linux/fcntl.h
    static let cloexec: Int64 = 0x80000
    static let openTreeClone: Int64 = 1
    static let emptyPath: Int64 = 0x1000
    static let recursive: Int64 = 0x8000
    static let moveEmptyPaths: Int64 = 0x4 | 0x40
    static let moveEmptySource: Int64 = 0x4
    /// RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_IN_ROOT
    static let noLinks: Int64 = 0x04 | 0x02 | 0x10

    init(_ plan: LaunchPlan, _ inherited: Inherited) {
        (self.plan, self.inherited) = (plan, inherited)
    }

    func lower() {
        prepare()
        for (index, step) in plan.steps.enumerated() {
            program.step = UInt16(index)
            guard step.actor == .child else { continue }
            if inherited.pauseAt == index { program.special(CL_PAUSE) }
            lower(step)
        }
    }

    /// Files get the modes that are asked for.
    private func prepare() {
        program.call(Int(CL_SYS_close), .number(Int64(inherited.releaseWriter)))
        program.call(Int(CL_SYS_umask), .number(0))
        dieWithParent()
        // PR_SET_DUMPABLE: nobody looks into this process, which still is imgbox (CVE-2016-9962). In a user namespace it waits
        // until the maps are written, by a parent who may have no more rights than the owner.
        let waits = plan.steps.contains { if case .becomeRoot = $0 { true } else { false } }
        if !waits { program.call(Int(CL_SYS_prctl), .number(4), .number(0)) }
    }

    /// PR_SET_PDEATHSIG. A change of user clears it, and a fork: from the first moment on, and again after each of those.
    func dieWithParent() {
        program.call(Int(CL_SYS_prctl), .number(1), .number(Int64(SIGKILL)))
    }

    private func lower(_ step: LaunchPlan.Step) {
        switch step {
        case .joinNamespaces, .fork, .newNamespaces, .joinCgroups, .awaitParent, .becomeRoot,
            .cgroupNamespace, .timeOffsets, .keyring:
            lowerEntry(step)
        case .privateMounts:
            // MS_REC | MS_PRIVATE
            program.call(
                Int(CL_SYS_mount), .number(0), .text("/"), .number(0), .number(0x4000 | 0x40000), .number(0))
        case .overlayRoot(let layers, let upper, let work, let place, let form):
            overlay(layers, upper, work, place, form)
        case .attachOverlay(let place):
            program.call(
                Int(CL_SYS_fsmount), .number(Int64(inherited.overlay)), .number(1), .number(0), to: .root)
            attachRoot(place)
        case .bindRoot(let source, let place): bindRoot(source, place)
        case .mount(let type, let path, let options, let flags): mount(type, path, options, flags)
        case .bind(let number, let source, let path, let isDirectory): bind(number, source, path, isDirectory)
        case .attachDevices:
            openTarget("/dev")
            program.call(
                Int(CL_SYS_move_mount), .number(Int64(inherited.devices)), .text(""), .register(.target),
                .text(""), .number(Lowering.moveEmptyPaths))
            program.special(
                CL_DIRECTORY, .register(.root), .text("/dev"), .number(0), .number(Lowering.noLinks), to: .dev
            )
        case .volume(let path): volume(path)
        case .deviceNodes(let nodes):
            for node in nodes { deviceNode(node) }
        case .deviceLinks(let links):
            for link in links {
                program.call(Int(CL_SYS_symlinkat), .text(link.target), .register(.dev), .text(link.name))
            }
        case .terminal(let owner): terminal(owner)
        case .sysctl(let key, let value):
            program.special(
                CL_WRITE_FILE, .register(.proc), .text("sys/" + key.replacing(".", with: "/")), .text(value))
        case .maskPaths(let paths): for path in paths { mask(path) }
        case .readOnlyPaths(let paths): for path in paths { readOnly(path) }
        case .makeDirectory(let path):
            program.special(CL_DIRECTORY, .register(.root), .text(path), .number(0o755), to: .target)
        case .readOnlyRoot: setAttributes(.register(.root), .readOnly, recursive: false)
        case .switchRoot(let way): switchRoot(way)
        default: lowerProcess(step)
        }
    }

    private func lowerProcess(_ step: LaunchPlan.Step) {
        switch step {
        case .hostname(let name):
            program.call(Int(CL_SYS_sethostname), .text(name), .number(Int64(name.utf8.count)))
        case .domainname(let name):
            program.call(Int(CL_SYS_setdomainname), .text(name), .number(Int64(name.utf8.count)))
        case .loopbackUp: loopbackUp()
        case .resourceLimit(_, let resource, let soft, let hard):
            let bytes = memoryBytes([soft, hard])
            program.call(
                Int(CL_SYS_prlimit64), .number(0), .number(Int64(resource)), program.block(bytes), .number(0))
        case .session(let hasTerminal): session(hasTerminal)
        case .workingDirectory(let path):
            program.call(Int(CL_SYS_chdir), .text(path))
            program.special(CL_CHECK_DIRECTORY)
        case .boundingSet(let keep, let last):
            // PR_CAPBSET_DROP
            for number in 0...last where keep & (1 << UInt64(number)) == 0 {
                program.call(Int(CL_SYS_prctl), .number(24), .number(Int64(number)))
            }
        case .noNewPrivileges: program.call(Int(CL_SYS_prctl), .number(38), .number(1))
        case .user(let user, let setsGroups):
            let groups = memoryBytes(user.groups)
            if setsGroups {
                program.call(Int(CL_SYS_setgroups), .number(Int64(user.groups.count)), program.block(groups))
            }
            let (uid, gid) = (Int64(user.uid), Int64(user.gid))
            program.call(Int(CL_SYS_setresgid), .number(gid), .number(gid), .number(gid))
            program.call(Int(CL_SYS_setresuid), .number(uid), .number(uid), .number(uid))
        case .capabilities(let mask): capabilities(mask)
        case .dieWithParent: dieWithParent()
        case .seccomp(_, let filter): seccomp(filter)
        case .initProcess:
            let words = commandLine()
            program.special(CL_INIT, .number(words.start), .number(words.length))
        case .waitForParent:
            program.special(
                CL_WAIT, .number(Int64(inherited.release)), .number(inherited.announcesWait ? 1 : 0))
        case .closeDescriptors(let first):
            // CLOSE_RANGE_CLOEXEC: all of them go at the very moment of execve(2), the report pipe among them.
            program.call(
                Int(CL_SYS_close_range), .number(Int64(first)), .number(Int64(UInt32.max)), .number(4))
        case .exec(let candidates, let arguments, let environment):
            program.call(Int(CL_SYS_umask), .number(0o022))
            program.special(
                CL_EXEC, program.list(candidates), program.list(arguments), program.list(environment))
        default: break
        }
    }

    // MARK: - The root

    private func overlay(
        _ layers: [String], _ upper: String, _ work: String, _ place: String, _ form: LaunchPlan.OverlayForm
    ) {
        if inherited.disk >= 0, let cut = upper.lastIndex(of: "/") {
            program.call(
                Int(CL_SYS_move_mount), .number(Int64(inherited.disk)), .text(""), .number(Int64(AT_FDCWD)),
                .text(String(upper[..<cut])), .number(Lowering.moveEmptySource))
        }
        let topFirst = layers.reversed()
        guard plan.mountAPI && plan.layerOption else {
            let places =
                ",upperdir=\(escaped(upper)),workdir=\(escaped(work))" + (form == .user ? ",userxattr" : "")
            var options = "lowerdir=" + topFirst.map(escaped).joined(separator: ":") + places
            if options.utf8.count >= Lowering.optionSpace {
                options = "lowerdir=" + openNumbered(Array(topFirst)).joined(separator: ":") + places
            }
            program.call(
                Int(CL_SYS_mount), .text("overlay"), .text(place), .text("overlay"), .number(0),
                .text(options))
            return reopenRoot(place)
        }
        program.call(Int(CL_SYS_fsopen), .text("overlay"), .number(1), to: .object)
        for layer in topFirst { setOption(.object, "lowerdir+", layer) }
        setOption(.object, "upperdir", upper)
        setOption(.object, "workdir", work)
        if form == .user { setOption(.object, "userxattr", "") }
        create(.object)
        program.call(Int(CL_SYS_fsmount), .register(.object), .number(1), .number(0), to: .root)
        attachRoot(place)
    }

    /// mount(2) copies one page of options, and the paths of some forty layers fill it. Each layer is opened as a descriptor
    /// of known number instead, and named by that number from within /proc/self/fd.
    private func openNumbered(_ layers: [String]) -> [String] {
        let names = layers.indices.map { String(Lowering.firstLayerNumber + $0) }
        for (index, layer) in layers.enumerated() {
            program.call(
                Int(CL_SYS_openat), .number(Int64(AT_FDCWD)), .text(layer),
                .number(Int64(pathOnly | O_DIRECTORY | O_CLOEXEC)), .number(0), to: .object)
            program.call(
                Int(CL_SYS_dup3), .register(.object), .number(Int64(Lowering.firstLayerNumber + index)),
                .number(Lowering.cloexec))
            program.call(Int(CL_SYS_close), .register(.object))
        }
        program.call(Int(CL_SYS_chdir), .text("/proc/self/fd"))
        return names
    }

    /// The smallest page that Linux has, which is what mount(2) takes of its options.
    private static let optionSpace = 4096
    /// Above the few descriptors that this process has, and below the usual limit of 1024.
    private static let firstLayerNumber = 512

    /// In a list of directories overlayfs takes a backslash as an escape.
    private func escaped(_ path: String) -> String {
        path.replacing("\\", with: "\\\\").replacing(":", with: "\\:").replacing(",", with: "\\,")
    }

    /// The place is the container's own directory. Its descriptor in the parent belongs to the parent's mount
    /// namespace, where this process must not mount, so the path is used.
    private func attachRoot(_ place: String) {
        program.call(
            Int(CL_SYS_move_mount), .register(.root), .text(""), .number(Int64(AT_FDCWD)), .text(place),
            .number(Lowering.moveEmptySource))
        program.call(Int(CL_SYS_fchdir), .register(.root))
    }

    /// After mount(2) the old descriptor still shows what is below the mount.
    private func reopenRoot(_ place: String) {
        program.call(
            Int(CL_SYS_openat), .number(Int64(AT_FDCWD)), .text(place),
            .number(Int64(pathOnly | O_DIRECTORY | O_CLOEXEC)), .number(0), to: .root)
        program.call(Int(CL_SYS_fchdir), .register(.root))
    }

    private func bindRoot(_ number: Int, _ place: String) {
        guard plan.mountAPI else {
            program.call(
                Int(CL_SYS_mount), .text(place), .text(place), .number(0), .number(0x1000 | 0x4000),
                .number(0))
            return reopenRoot(place)
        }
        program.call(
            Int(CL_SYS_dup3), .number(Int64(inherited.sources[number])), .number(Lowering.rootNumber),
            .number(Lowering.cloexec), to: .root)
        attachRoot(place)
    }

    /// A free number for the root's descriptor: what is inherited stays as it is.
    private static let rootNumber: Int64 = 500

    private func switchRoot(_ way: LaunchPlan.RootSwitch) {
        program.call(Int(CL_SYS_fchdir), .register(.root))
        switch way {
        case .pivot:
            // Both paths the same: the old root comes to lie on top of the new one, and is let go (pivot_root(2)).
            program.call(Int(CL_SYS_pivot_root), .text("."), .text("."))
            program.call(Int(CL_SYS_umount2), .text("."), .number(2))
        case .chroot:
            // MS_MOVE
            program.call(Int(CL_SYS_mount), .text("."), .text("/"), .number(0), .number(0x2000), .number(0))
            program.call(Int(CL_SYS_chroot), .text("."))
        }
        program.call(Int(CL_SYS_chdir), .text("/"))
    }
}

extension LaunchPlan.MountFlags {
    /// The MS_* bits of mount(2).
    var classic: UInt64 {
        var bits: UInt64 = 0
        if contains(.readOnly) { bits |= 1 }
        if contains(.noSetID) { bits |= 2 }
        if contains(.noDevices) { bits |= 4 }
        if contains(.noExec) { bits |= 8 }
        if contains(.strictAccessTime) { bits |= 1 << 24 }
        return bits
    }
}

/// Integers as they lie in memory.
func memoryBytes(_ values: [some FixedWidthInteger]) -> [UInt8] {
    values.withUnsafeBytes { Array($0) }
}

/// Where this process's command line lies in memory, as ps shows it.
private func commandLine() -> (start: Int64, length: Int64) {
    let words = CommandLine.unsafeArgv
    guard let first = words[0], CommandLine.argc > 0, let last = words[Int(CommandLine.argc) - 1] else {
        return (0, 0)
    }
    let end = Int(bitPattern: last) + strlen(last)
    return (Int64(Int(bitPattern: first)), Int64(max(0, end - Int(bitPattern: first))))
}
