import CKernel
import Files
import Glibc
import OCI
import SystemPackage

/// A directory for work in progress. Its owner holds a lock on it for life: when the lock is free, the owner is gone,
/// however it went, and the directory is swept.
final class Staging: Sendable {
    let fd: OwnedFD
    let name: String
    private let store: Store

    /// Sweeps what others left, and makes a directory.
    init(in store: Store) throws(StoreError) {
        self.store = store
        do throws(FileError) {
            try Staging.sweep(store)
            let made = try Staging.make(in: store.root)
            name = made.name
            fd = made.release()
        } catch {
            throw StoreError(error, "staging")
        }
    }

    private struct HeldDirectory: ~Copyable {
        private let fd: OwnedFD
        let name: String

        init(fd: consuming OwnedFD, name: String) {
            self.fd = fd
            self.name = name
        }

        consuming func release() -> OwnedFD { fd }
    }

    private static func make(in root: Int32) throws(FileError) -> HeldDirectory {
        let staging = try open("staging", O_RDONLY | O_DIRECTORY, at: root)
        var number = 0
        while true {
            let name = "\(getpid()).\(number)"
            number += 1
            guard try makeDirectory(name, mode: 0o700, at: staging.raw) else { continue }
            let handle = try open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, at: staging.raw)
            // Between mkdir and the lock somebody may have swept it.
            guard try tryExclusiveLock(handle.raw, name: name),
                try status(of: name, at: staging.raw)?.inode == status(of: handle.raw).inode
            else { continue }
            return HeldDirectory(fd: handle, name: name)
        }
    }

    /// Removes what processes that are gone have left.
    @discardableResult
    static func sweep(_ store: Store) throws(FileError) -> Int64 {
        let staging = try open("staging", O_RDONLY | O_DIRECTORY, at: store.root)
        var freed: Int64 = 0
        for entry in try entries(of: staging.raw) {
            let fd = ck_openat(staging.raw, entry.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)
            guard fd >= 0 else { continue }
            let handle = OwnedFD(fd)
            guard try tryExclusiveLock(handle.raw, name: "staging") else { continue }
            freed += try diskUsage(of: String(decoding: entry.bytes, as: UTF8.self), at: staging.raw)
            try removeTree(entry.name, at: staging.raw)
        }
        return freed
    }

    deinit {
        guard let staging = try? open("staging", O_RDONLY | O_DIRECTORY, at: store.root) else { return }
        // What cannot be removed now is swept later.
        try? removeTree(name, at: staging.raw)
    }
}
