import CKernel
import Glibc

/// A file descriptor with one owner; it is closed when the owner goes away.
package struct OwnedFD: ~Copyable, Sendable {
    /// The number, valid while this value lives.
    package let raw: Int32

    /// Takes over a descriptor that nobody else will close.
    package init(_ raw: Int32) {
        self.raw = raw
    }

    deinit { _ = Glibc.close(raw) }

    /// Gives the number to somebody else, who closes it.
    package consuming func release() -> Int32 {
        let number = raw
        discard self
        return number
    }

    /// Closes, and reports what close(2) reports: on a network file system a failed write may show only here.
    package consuming func close() throws(FileError) {
        let number = raw
        discard self
        if Glibc.close(number) != 0 { throw FileError.last("close", "descriptor \(number)") }
    }

    package func duplicate() throws(FileError) -> OwnedFD {
        let copy = ck_fcntl_int(raw, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else { throw FileError.last("dup", "descriptor \(raw)") }
        return OwnedFD(copy)
    }
}
