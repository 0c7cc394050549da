import CKernel
import Glibc
package import SystemPackage

/// rename(2) must not replace what is there (RENAME_NOREPLACE).
package let renameNoReplace: UInt32 = 1

/// The directory that relative names start from when none is given (AT_FDCWD).
package let currentDirectory: Int32 = AT_FDCWD

/// O_PATH: a descriptor that names a file without opening it.
package let pathOnly: Int32 = CK_O_PATH

/// How openat2(2) may walk a path.
package enum Resolve {
    /// Every link and ".." stays inside the directory, as after chroot(2).
    package static let inRoot = UInt64(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    /// Links are followed while they stay below the directory; leaving it is an error.
    package static let beneath = UInt64(RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    /// No link is followed at all.
    package static let noLinks = UInt64(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
}

/// A point in time: seconds since 1970, and nanoseconds 0 to 999,999,999.
package struct Timestamp: Sendable, Equatable {
    package var seconds: Int64
    package var nanoseconds: Int32

    package init(seconds: Int64, nanoseconds: Int32) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }
}

/// The part of struct stat that this package uses.
package struct FileStatus: Sendable {
    let raw: stat

    package enum Kind: Sendable, Equatable {
        case file, directory, link, fifo, socket, characterDevice, blockDevice
    }

    init(_ raw: stat) { self.raw = raw }

    package var kind: Kind {
        switch raw.st_mode & S_IFMT {
        case S_IFDIR: .directory
        case S_IFLNK: .link
        case S_IFIFO: .fifo
        case S_IFSOCK: .socket
        case S_IFCHR: .characterDevice
        case S_IFBLK: .blockDevice
        default: .file
        }
    }

    package var permissions: UInt32 { raw.st_mode & 0o7777 }
    package var size: Int64 { Int64(raw.st_size) }
    package var inode: UInt64 { UInt64(raw.st_ino) }
    package var device: UInt64 { UInt64(raw.st_dev) }
    package var uid: UInt32 { raw.st_uid }
    package var gid: UInt32 { raw.st_gid }
    package var linkCount: Int { Int(raw.st_nlink) }
    package var modified: Timestamp {
        Timestamp(
            seconds: Int64(raw.st_mtim.tv_sec), nanoseconds: Int32(truncatingIfNeeded: raw.st_mtim.tv_nsec))
    }
    /// The type and permission bits as the kernel has them.
    package var mode: UInt32 { raw.st_mode }
    /// The numbers of a device node.
    package var node: (major: UInt32, minor: UInt32) { (ck_major(raw.st_rdev), ck_minor(raw.st_rdev)) }
    /// Space on disk in bytes.
    package var allocated: Int64 { Int64(raw.st_blocks) * 512 }
    /// What overlayfs stores for "not here any more": a character device 0:0.
    package var isWhiteout: Bool { kind == .characterDevice && raw.st_rdev == 0 }
}

/// Opens `name` below `directory`; O_CLOEXEC is always set. The corresponding C function is `openat`.
package func open(
    _ name: String, _ flags: Int32, mode: UInt32 = 0, at directory: Int32 = currentDirectory
) throws(FileError) -> OwnedFD {
    let fd = ck_openat(directory, name, flags | O_CLOEXEC, mode)
    guard fd >= 0 else { throw FileError.last("open", name) }
    return OwnedFD(fd)
}

/// Opens `path` below `directory` under the rules of `resolve`. The corresponding C function is `openat2`.
package func open(
    _ path: String, _ flags: Int32, mode: UInt32 = 0, at directory: Int32, resolve: UInt64
) throws(FileError) -> OwnedFD {
    let fd = ck_openat2(directory, path, UInt64(flags | O_CLOEXEC), UInt64(mode), resolve)
    guard fd >= 0 else { throw FileError.last("openat2", path) }
    return OwnedFD(fd)
}

/// The status of an open file.
package func status(of fd: Int32) throws(FileError) -> FileStatus {
    var info = stat()
    guard fstat(fd, &info) == 0 else { throw FileError.last("fstat", "descriptor \(fd)") }
    return FileStatus(info)
}

/// The status of a name, of a link itself and not of its target; nil where there is nothing.
package func status(
    of name: UnsafePointer<CChar>, at directory: Int32, follow: Bool = false
) throws(FileError) -> FileStatus? {
    var info = stat()
    if fstatat(directory, name, &info, follow ? 0 : AT_SYMLINK_NOFOLLOW) == 0 { return FileStatus(info) }
    let code = Errno(rawValue: Glibc.errno)
    if code == .noSuchFileOrDirectory || code == .notDirectory { return nil }
    throw FileError("stat", String(cString: name), code)
}

/// Makes one directory; true when it was made now, false when it was there.
@discardableResult
package func makeDirectory(
    _ name: String, mode: UInt32 = 0o755, at directory: Int32 = currentDirectory
) throws(FileError) -> Bool {
    if mkdirat(directory, name, mode) == 0 { return true }
    guard Glibc.errno == EEXIST else { throw FileError.last("mkdir", name) }
    return false
}

/// Makes a directory and those above it that are missing.
package func makeDirectories(_ path: FilePath, mode: UInt32 = 0o755) throws(FileError) {
    if mkdir(path.string, mode) == 0 { return }
    switch Glibc.errno {
    case EEXIST: return
    case ENOENT where path.components.count > 1 || (path.isAbsolute && !path.components.isEmpty):
        let parent = path.removingLastComponent()
        if parent.isEmpty { throw FileError("mkdir", path.string, .noSuchFileOrDirectory) }
        try makeDirectories(parent, mode: mode)
        try makeDirectory(path.string, mode: mode)
    default: throw FileError.last("mkdir", path.string)
    }
}

/// rename(2) between two directories.
package func rename(
    _ from: String, at source: Int32, to: String, at target: Int32, flags: UInt32 = 0
) throws(FileError) {
    guard ck_renameat2(source, from, target, to, flags) == 0 else { throw FileError.last("rename", to) }
}

/// unlinkat(2); a name that is not there is no error when `missingIsFine`.
package func unlink(
    _ name: String, at directory: Int32, isDirectory: Bool = false, missingIsFine: Bool = false
) throws(FileError) {
    guard unlinkat(directory, name, isDirectory ? AT_REMOVEDIR : 0) != 0 else { return }
    if missingIsFine && Glibc.errno == ENOENT { return }
    throw FileError.last("unlink", name)
}

/// The bytes of a symbolic link.
package func readLink(_ name: UnsafePointer<CChar>, at directory: Int32) throws(FileError) -> [UInt8] {
    var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX) + 1)
    let count = buffer.withUnsafeMutableBytes { space in
        space.withMemoryRebound(to: CChar.self) { text in
            text.baseAddress.map { readlinkat(directory, name, $0, text.count) } ?? -1
        }
    }
    guard count >= 0 else { throw FileError.last("readlink", String(cString: name)) }
    return Array(buffer[..<count])
}

/// A path to an open descriptor that calls without an `*at` form can use.
package func procPath(_ fd: Int32) -> String { "/proc/self/fd/\(fd)" }
