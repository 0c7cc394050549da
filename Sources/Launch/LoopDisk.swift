import CKernel
import Files
import Glibc
import Kernel
import SystemPackage

/// A container's own disk: a sparse file with a file system in it, on a loop device that goes when nobody uses it.
enum LoopDisk {
    /// Makes the file and mounts it, detached. In it are `upper`, which belongs to the container's root, and `work`.
    static func make(_ plan: LaunchPlan.DiskPlan) throws -> OwnedFD {
        let file = try open(plan.file, O_RDWR | O_CREAT | O_EXCL, mode: 0o600)
        // What the file system needs for itself comes on top: inodes, a 64th, and its tables.
        let whole = plan.size + plan.size / 60 + (2 << 20)
        guard ftruncate(file.raw, Int(whole)) == 0 else { throw FileError.last("truncate", plan.file) }
        try format(plan.file)
        let device = try attach(file.raw)
        let context = try Mounts.open("ext4")
        try Mounts.set(context.raw, "source", device.path)
        // What is deleted inside is given back to the disk outside.
        try Mounts.set(context.raw, "discard")
        try Mounts.create(context.raw, "ext4")
        let mount = try Mounts.mount(context.raw, "ext4")
        try makeDirectory("upper", mode: 0o755, at: mount.raw)
        try makeDirectory("work", mode: 0o700, at: mount.raw)
        guard fchownat(mount.raw, "upper", plan.uid, plan.gid, 0) == 0 else {
            throw FileError.last("chown", "upper")
        }
        return mount
    }

    /// Without a journal: after a crash there is nothing here that anybody goes on with. Without reserved blocks: the
    /// size is the user's.
    private static func format(_ path: String) throws {
        let words = [
            "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal,^resize_inode", "-m", "0", "-i", "16384",
            "-E",
            "lazy_itable_init=1,nodiscard,root_owner=0:0", path,
        ]
        let places: [String] = ["/sbin/mke2fs", "/usr/sbin/mke2fs"]
        let program = places.first { access($0, X_OK) == 0 }
        guard let program else {
            throw LaunchError("--disk-size needs mke2fs", hint: "apt-get install e2fsprogs")
        }
        let status = run([program] + words.dropFirst())
        guard status == 0 else {
            throw LaunchError(
                "mke2fs could not make a file system in \(path)", hint: "is the size too small?")
        }
    }

    /// The status of wait(2), -1 where the program cannot be started.
    private static func run(_ words: [String]) -> Int32 {
        let pointers = words.map { strdup($0) } + [nil]
        defer { for pointer in pointers { free(pointer) } }
        return pointers.map { UnsafePointer($0) }.withUnsafeBufferPointer { ck_run($0.baseAddress) }
    }

    private struct Loop: ~Copyable {
        let fd: OwnedFD
        let path: String
    }

    private static func attach(_ file: Int32) throws -> Loop {
        let control: OwnedFD
        do throws(FileError) { control = try open("/dev/loop-control", O_RDWR) } catch {
            throw LaunchError(
                "--disk-size: no loop devices: \(error.message)", hint: "modprobe loop", errno: error.errno)
        }
        for _ in 0..<64 {
            let number = ck_free_loop(control.raw)
            guard number >= 0 else { throw FileError.last("LOOP_CTL_GET_FREE", "/dev/loop-control") }
            let path = "/dev/loop\(number)"
            if access(path, F_OK) != 0 { mknod(path, S_IFBLK | 0o660, ck_makedev(7, UInt32(number))) }
            let device = try open(path, O_RDWR)
            if ck_configure_loop(device.raw, file) == 0 { return Loop(fd: device, path: path) }
            // Somebody else was faster.
            guard Glibc.errno == EBUSY else { throw FileError.last("LOOP_CONFIGURE", path) }
        }
        throw LaunchError("--disk-size: no free loop device")
    }
}
