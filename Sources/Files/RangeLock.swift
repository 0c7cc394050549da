import CKernel
import Glibc

/// A lock on a byte range of a file, bound to its own open file description: it goes when the holder dies, in
/// whatever way, and it excludes threads of one process as well (F_OFD_SETLK, fcntl(2)).
package struct RangeLock: ~Copyable {
    private let fd: OwnedFD

    package enum Mode: Sendable { case shared, exclusive }

    /// Locks `length` bytes from `start`. Returns nil when somebody else holds them and `wait` is false.
    package init?(
        file: String, at directory: Int32, start: Int64, length: Int64 = 1, mode: Mode, wait: Bool
    ) throws(FileError) {
        let flags = mode == .exclusive ? O_RDWR : O_RDONLY
        let handle = try open(file, flags, at: directory)
        let type = Int16(mode == .exclusive ? F_WRLCK : F_RDLCK)
        if ck_lock_range(handle.raw, type, start, length, wait ? 1 : 0) != 0 {
            if Glibc.errno == EAGAIN || Glibc.errno == EACCES { return nil }
            throw FileError.last("lock", file)
        }
        fd = handle
    }
}

/// An exclusive flock(2) on an open file or directory; nil when somebody else holds it. It lasts as long as the
/// descriptor.
package func tryExclusiveLock(_ fd: Int32, name: String) throws(FileError) -> Bool {
    while flock(fd, LOCK_EX | LOCK_NB) != 0 {
        if Glibc.errno == EWOULDBLOCK { return false }
        if Glibc.errno != EINTR { throw FileError.last("flock", name) }
    }
    return true
}
