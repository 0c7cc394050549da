import CLaunch
import Files
import Glibc

/// The steps that mount, and those that hide and seal what is mounted.
extension Lowering {
    func setOption(_ object: ChildProgram.Register, _ key: String, _ value: String) {
        let isFlag = value.isEmpty
        program.call(
            Int(CL_SYS_fsconfig), .register(object), .number(isFlag ? 0 : 1), .text(key),
            isFlag ? .number(0) : .text(value), .number(0))
    }

    func create(_ object: ChildProgram.Register) {
        program.call(Int(CL_SYS_fsconfig), .register(object), .number(6), .number(0), .number(0), .number(0))
    }

    /// /proc and /sys of an image may be links that lead elsewhere (CVE-2023-27561): no link is followed to them.
    func openTarget(_ path: String, make mode: Int64 = 0o755) {
        let isKernel =
            path == "/proc" || path == "/sys" || path.hasPrefix("/sys/") || path.hasPrefix("/dev/")
            || path == "/dev"
        program.special(
            CL_DIRECTORY, .register(.root), .text(path), .number(mode),
            .number(isKernel ? Lowering.noLinks : 0),
            to: .target)
    }

    func mount(
        _ type: String, _ path: String, _ options: [LaunchPlan.Option], _ flags: LaunchPlan.MountFlags
    ) {
        let place: ChildProgram.Register =
            switch (type, path) {
            case ("proc", "/proc"): .proc
            case ("tmpfs", "/dev"): .dev
            case ("devpts", _): .pts
            default: .object
            }
        openTarget(path)
        guard plan.mountAPI else {
            let data = options.map { $0.value.isEmpty ? $0.key : "\($0.key)=\($0.value)" }.joined(
                separator: ",")
            program.special(
                CL_MOUNT_AT, .number(-1), .register(.target), .text(type), .flags(flags.classic), .text(data),
                .text(type))
            return program.special(CL_DIRECTORY, .register(.root), .text(path), .number(0), to: place)
        }
        program.call(Int(CL_SYS_fsopen), .text(type), .number(1), to: .other)
        for option in options { setOption(.other, option.key, option.value) }
        create(.other)
        program.call(Int(CL_SYS_fsmount), .register(.other), .number(1), .flags(flags.rawValue), to: place)
        move(place)
    }

    func move(_ mount: ChildProgram.Register) {
        program.call(
            Int(CL_SYS_move_mount), .register(mount), .text(""), .register(.target), .text(""),
            .number(Lowering.moveEmptyPaths))
    }

    func bind(
        _ number: Int, _ source: LaunchPlan.Source, _ path: String, _ isDirectory: Bool
    ) {
        let kind = isDirectory ? CL_DIRECTORY : CL_FILE
        program.special(
            kind, .register(.root), .text(path), .number(isDirectory ? 0o755 : 0o644),
            .number(source.device == nil ? 0 : Lowering.noLinks), to: .target)
        guard plan.mountAPI else {
            program.special(
                CL_MOUNT_AT, .number(-1), .register(.target), .number(0),
                .number(0x1000 | (source.isRecursive ? 0x4000 : 0)), .number(0), .text(source.path))
            if !source.flags.isEmpty {
                program.special(kind, .register(.root), .text(path), .number(0), to: .target)
                remount(.target, source.flags)
            }
            return reopenDevices(path)
        }
        program.call(
            Int(CL_SYS_move_mount), .number(Int64(inherited.sources[number])), .text(""), .register(.target),
            .text(""), .number(Lowering.moveEmptyPaths))
        reopenDevices(path)
    }

    func deviceNode(_ node: LaunchPlan.DeviceNode) {
        let kind = node.isBlock ? S_IFBLK : S_IFCHR
        if let cut = node.name.lastIndex(of: "/") {
            program.special(
                CL_DIRECTORY, .register(.dev), .text(String(node.name[..<cut])), .number(0o755), to: .other)
        }
        // The kernel's own encoding of device numbers (linux/kdev_t.h, new_encode_dev).
        let (major, minor) = (Int64(node.major), Int64(node.minor))
        program.call(
            Int(CL_SYS_mknodat), .register(.dev), .text(node.name), .number(Int64(kind | node.mode)),
            .number(minor & 0xff | major << 8 | (minor & ~0xff) << 12))
        if node.uid != 0 || node.gid != 0 {
            program.special(CL_FILE, .register(.dev), .text(node.name), .number(0), to: .other)
            program.call(
                Int(CL_SYS_fchownat), .register(.other), .text(""), .number(Int64(node.uid)),
                .number(Int64(node.gid)), .number(Lowering.emptyPath))
        }
    }

    /// Later steps take their devices from the user's own /dev when it was bound.
    private func reopenDevices(_ path: String) {
        if path == "/proc" {
            program.special(
                CL_DIRECTORY, .register(.root), .text(path), .number(0), .number(Lowering.noLinks), to: .proc)
        }
        guard path == "/dev" else { return }
        hasForeignDevices = true
        program.special(
            CL_DIRECTORY, .register(.root), .text(path), .number(0), .number(Lowering.noLinks), to: .dev)
    }

    func volume(_ path: String) {
        program.special(CL_DIRECTORY, .register(.root), .text(path), .number(0o755), to: .target)
        guard plan.mountAPI else {
            return program.special(
                CL_MOUNT_AT, .register(.target), .register(.target), .number(0), .number(0x1000), .number(0))
        }
        program.call(
            Int(CL_SYS_open_tree), .register(.target), .text(""),
            .number(Lowering.openTreeClone | Lowering.cloexec | Lowering.emptyPath), to: .object)
        move(.object)
    }

    /// mount_setattr(2) on an open mount.
    func setAttributes(
        _ mount: ChildProgram.Value, _ flags: LaunchPlan.MountFlags, recursive: Bool
    ) {
        guard plan.mountAPI else {
            if case .register(let register) = mount { remount(register, flags) }
            return
        }
        let attributes = memoryBytes([flags.rawValue, 0, 0, 0])
        program.call(
            Int(CL_SYS_mount_setattr), mount, .text(""),
            .number(Lowering.emptyPath | (recursive ? Lowering.recursive : 0)),
            program.block(attributes), .number(32))
    }

    private func remount(_ mount: ChildProgram.Register, _ flags: LaunchPlan.MountFlags) {
        // MS_BIND | MS_REMOUNT
        program.special(
            CL_MOUNT_AT, .number(-1), .register(mount), .number(0), .flags(0x1000 | 0x20 | flags.classic),
            .number(0))
    }

    // MARK: - Hidden and read-only paths

    /// A file is covered by our own /dev/null, whose numbers are known (CVE-2025-31133), a directory by an empty read-only
    /// tmpfs. What is not there needs no cover.
    func mask(_ path: String) {
        let missing = [ENOENT, ENOTDIR, EACCES]
        program.special(
            CL_DIRECTORY, .register(.root), .text(path), .number(0), .number(Lowering.noLinks), to: .target,
            tolerating: missing, skip: plan.mountAPI ? 5 : 2)
        if plan.mountAPI {
            program.call(Int(CL_SYS_fsopen), .text("tmpfs"), .number(1), to: .other)
            create(.other)
            program.call(
                Int(CL_SYS_fsmount), .register(.other), .number(1),
                .flags(LaunchPlan.MountFlags.safe.union(.readOnly).rawValue), to: .object)
            move(.object)
            // A directory is done: the operations for a file are left out by a call that fails on purpose.
            program.call(
                Int(CL_SYS_close), .number(-1), tolerating: [-1], skip: hasForeignDevices ? 5 : 3)
        } else {
            program.special(
                CL_MOUNT_AT, .number(-1), .register(.target), .text("tmpfs"),
                .flags(LaunchPlan.MountFlags.safe.union(.readOnly).classic),
                .number(0), .text("tmpfs"))
            program.call(
                Int(CL_SYS_close), .number(-1), tolerating: [-1], skip: hasForeignDevices ? 5 : 3)
        }
        program.special(
            CL_FILE, .register(.root), .text(path), .number(0), .number(Lowering.noLinks), to: .target,
            tolerating: missing, skip: hasForeignDevices ? 4 : 2)
        if hasForeignDevices {
            program.special(
                CL_FILE, .register(.dev), .text("null"), .number(0), .number(Lowering.noLinks), to: .other)
            program.special(CL_CHECK_DEVICE, .register(.other), .number(1), .number(3))
        }
        if plan.mountAPI {
            let (place, name): (ChildProgram.Register, String) =
                hasForeignDevices ? (.other, "") : (.dev, "null")
            program.call(
                Int(CL_SYS_open_tree), .register(place), .text(name),
                .number(Lowering.openTreeClone | Lowering.cloexec | Lowering.emptyPath), to: .object)
            move(.object)
        } else {
            program.special(CL_FILE, .register(.dev), .text("null"), .number(0), to: .object)
            program.special(
                CL_MOUNT_AT, .register(.object), .register(.target), .number(0), .number(0x1000), .number(0))
        }
    }

    func readOnly(_ path: String) {
        program.special(
            CL_FILE, .register(.root), .text(path), .number(0), .number(Lowering.noLinks), to: .target,
            tolerating: [ENOENT, ENOTDIR], skip: 3)
        if plan.mountAPI {
            program.call(
                Int(CL_SYS_open_tree), .register(.target), .text(""),
                .number(Lowering.openTreeClone | Lowering.cloexec | Lowering.emptyPath | Lowering.recursive),
                to: .object)
            setAttributes(.register(.object), .readOnly, recursive: true)
            move(.object)
        } else {
            program.special(
                CL_MOUNT_AT, .register(.target), .register(.target), .number(0), .number(0x1000 | 0x4000),
                .number(0))
            program.special(
                CL_FILE, .register(.root), .text(path), .number(0), .number(Lowering.noLinks), to: .object)
            remount(.object, [.readOnly, .noSetID, .noDevices, .noExec])
        }
    }
}
