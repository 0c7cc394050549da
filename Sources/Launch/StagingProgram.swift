import CLaunch
import Glibc

/// The operations of a helper that mounts layers in a mount namespace of its own and makes an overlay of them. The overlay
/// keeps its own hold on them when the helper ends.
struct StagingProgram {
    let program = ChildProgram()

    /// A directory that every machine has, hidden in the helper's mount namespace only.
    private static let place = "/tmp"

    init(
        layers: [Int32], overlay: Int32, disk: Int32, upper: String, work: String, oneByOne: Bool
    ) {
        let place = StagingProgram.place
        // MS_REC | MS_PRIVATE
        program.call(
            Int(CL_SYS_mount), .number(0), .text("/"), .number(0), .number(0x4000 | 0x40000), .number(0))
        // Opened before the place is covered: the store may lie below it.
        open(upper, at: Int64(AT_FDCWD), to: .master, if: disk < 0)
        open(work, at: Int64(AT_FDCWD), to: .terminal, if: disk < 0)
        program.call(
            Int(CL_SYS_mount), .text("tmpfs"), .text(place), .text("tmpfs"), .number(0), .text("mode=700"))
        program.call(Int(CL_SYS_chdir), .text(place))
        var names: [String] = []
        for (index, layer) in layers.enumerated() {
            names.append("l\(index)")
            attach(layer, names[index])
        }
        let (upperName, workName) = ("d/upper", "d/work")
        if disk >= 0 {
            attach(disk, "d")
        } else {
            program.call(Int(CL_SYS_mkdirat), .number(Int64(AT_FDCWD)), .text("d"), .number(0o700))
            bind(.master, "d/upper")
            bind(.terminal, "d/work")
        }
        if oneByOne {
            for name in names { option(overlay, "lowerdir+", name) }
        } else {
            option(overlay, "lowerdir", names.joined(separator: ":"))
        }
        option(overlay, "upperdir", upperName)
        option(overlay, "workdir", workName)
        program.call(
            Int(CL_SYS_fsconfig), .number(Int64(overlay)), .number(6), .number(0), .number(0), .number(0))
        program.special(CL_END)
    }

    private func open(
        _ path: String, at directory: Int64, to register: ChildProgram.Register, if wanted: Bool
    ) {
        guard wanted else { return }
        program.call(
            Int(CL_SYS_openat), .number(directory), .text(path),
            .number(Int64(O_RDONLY | O_DIRECTORY | O_CLOEXEC)), .number(0), to: register)
    }

    private func attach(_ mount: Int32, _ name: String) {
        program.call(Int(CL_SYS_mkdirat), .number(Int64(AT_FDCWD)), .text(name), .number(0o700))
        program.call(
            Int(CL_SYS_move_mount), .number(Int64(mount)), .text(""), .number(Int64(AT_FDCWD)), .text(name),
            .number(Lowering.moveEmptySource))
    }

    /// upper and work must be on one mount: two binds of one file system's directories are two, so they are reached by links
    /// to what was opened.
    private func bind(_ register: ChildProgram.Register, _ name: String) {
        program.special(CL_LINK_DESCRIPTOR, .register(register), .text(name))
    }

    private func option(_ overlay: Int32, _ key: String, _ value: String) {
        program.call(
            Int(CL_SYS_fsconfig), .number(Int64(overlay)), .number(1), .text(key), .text(value), .number(0))
    }
}
