import CKernel
import Cgroups
package import Files
import Glibc
import OCI
package import Store
import SystemPackage

/// The directory of one container: `containers/<id>/{config.json,state.json,upper,work,...}`. Who runs the container
/// holds a lock on it for life; when the lock is free and the state says "running", the owner was killed.
package final class ContainerDirectory {
    package let id: String
    package let fd: OwnedFD
    private let containers: OwnedFD
    /// Absolute.
    package let path: String

    private init(id: String, fd: consuming OwnedFD, containers: consuming OwnedFD, path: String) {
        self.id = id
        self.fd = fd
        self.containers = containers
        self.path = path
    }

    static let names = ".names"

    /// Makes the directory of a new container and locks it.
    package static func make(in store: Store) throws(RuntimeError) -> ContainerDirectory {
        do throws(FileError) {
            let containers = try open("containers", O_RDONLY | O_DIRECTORY, at: store.root)
            while true {
                let id = newID()
                guard try Files.makeDirectory(id, mode: 0o700, at: containers.raw) else { continue }
                // Between mkdir and the lock a sweeper may have taken it for a leftover.
                guard let fd = try openIfThere(id, at: containers.raw),
                    try tryExclusiveLock(fd.raw, name: id),
                    try status(of: id, at: containers.raw)?.inode == status(of: fd.raw).inode
                else { continue }
                return ContainerDirectory(
                    id: id, fd: fd, containers: containers,
                    path: store.path.appending("containers").appending(id).string)
            }
        } catch { throw RuntimeError(error, "cannot make the container's directory") }
    }

    private static func openIfThere(_ name: String, at directory: Int32) throws(FileError) -> OwnedFD? {
        do throws(FileError) {
            return try open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, at: directory)
        } catch {
            guard error.errno == .noSuchFileOrDirectory else { throw error }
            return nil
        }
    }

    private static func newID() -> String {
        // Eight bytes a system call.
        var generator = SystemRandomNumberGenerator()
        return hexadecimal((0..<4).flatMap { _ in withUnsafeBytes(of: generator.next()) { Array($0) } })
    }

    /// Takes a name for this container. A name whose container is gone is free.
    package func reserve(_ name: String) throws(RuntimeError) {
        do throws(FileError) {
            try Files.makeDirectory(ContainerDirectory.names, mode: 0o700, at: containers.raw)
            for _ in 0..<3 {
                if symlinkat(id, containers.raw, "\(ContainerDirectory.names)/\(name)") == 0 { return }
                guard Glibc.errno == EEXIST else { throw FileError.last("symlink", name) }
                let owner = try readLink("\(ContainerDirectory.names)/\(name)", at: containers.raw)
                if try status(of: String(decoding: owner, as: UTF8.self), at: containers.raw) != nil { break }
                try unlink("\(ContainerDirectory.names)/\(name)", at: containers.raw, missingIsFine: true)
            }
        } catch { throw RuntimeError(error, "the container's name") }
        throw RuntimeError(
            "the name '\(name)' is in use by another container",
            hint: "remove that one with: imgbox rm \(name)")
    }

    package func write(_ record: ContainerRecord) throws(RuntimeError) {
        try write(record.json.serialized(), to: "state.json")
    }

    /// Replaces a file of the directory. It survives a killed process; after a power failure no container runs anyway.
    package func write(_ content: [UInt8], to name: String) throws(RuntimeError) {
        do throws(FileError) { try replaceFile(name, at: fd.raw, with: content, durable: false) } catch {
            throw RuntimeError(error, "the container's \(name)")
        }
    }

    package func makeDirectory(
        _ name: String, mode: UInt32, owner: (uid: UInt32, gid: UInt32) = (0, 0)
    ) throws(RuntimeError) {
        do throws(FileError) {
            _ = try Files.makeDirectory(name, mode: mode, at: fd.raw)
            guard owner == (0, 0) || fchownat(fd.raw, name, owner.uid, owner.gid, AT_SYMLINK_NOFOLLOW) == 0
            else {
                throw FileError.last("chown", name)
            }
        } catch {
            throw RuntimeError(error, "the container's directory")
        }
    }

    /// Removes the groups of the container, then its directory, and frees the name.
    package func remove(name: String) throws(RuntimeError) {
        let record = record()
        // A project without a limit and without files is forgotten by the file system.
        if let project = record?.project, project > 0 { _ = ck_limit_project(fd.raw, project, 0) }
        for path in record?.cgroups ?? [] where !CgroupTree.remove(path) {
            throw RuntimeError(
                "the cgroup \(path) does not go away",
                hint: "a process in it does not end: cat \(path)/cgroup.procs")
        }
        do throws(FileError) {
            if !name.isEmpty {
                try unlink("\(ContainerDirectory.names)/\(name)", at: containers.raw, missingIsFine: true)
            }
            try removeTree(id, at: containers.raw)
        } catch { throw RuntimeError(error, "cannot remove the container \(id.prefix(12))") }
    }

    // MARK: - Other containers

    /// The containers of a store.
    package static func list(_ store: Store) throws(RuntimeError) -> [ContainerRecord] {
        do throws(FileError) {
            let containers = try open("containers", O_RDONLY | O_DIRECTORY, at: store.root)
            var result: [ContainerRecord] = []
            for entry in try entries(of: containers.raw) {
                let id = String(decoding: entry.bytes, as: UTF8.self)
                // It may go away between the listing and the look.
                guard id != names,
                    let bytes = try? readFile("\(id)/state.json", at: containers.raw, limit: 16 << 20),
                    let record = ContainerRecord(parsing: bytes)
                else { continue }
                result.append(record)
            }
            return result.sorted { $0.created > $1.created }
        } catch { throw RuntimeError(error, "the containers") }
    }

    /// Opens the directory of a container that nobody runs; nil when somebody does.
    package static func take(_ id: String, in store: Store) throws(RuntimeError) -> ContainerDirectory? {
        do throws(FileError) {
            let containers = try open("containers", O_RDONLY | O_DIRECTORY, at: store.root)
            let fd = try open(id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, at: containers.raw)
            guard try tryExclusiveLock(fd.raw, name: id) else { return nil }
            return ContainerDirectory(
                id: id, fd: fd, containers: containers,
                path: store.path.appending("containers").appending(id).string)
        } catch { throw RuntimeError(error, "the container \(id.prefix(12))") }
    }

    /// Cleans up after owners that were killed: their processes, if any is left, and with --rm their directories.
    /// At most `limit` directories are looked at, so that a run does not cost more the more containers there are.
    /// `patient`: a container whose imgbox was killed a moment ago may still be on its way out, and is waited for.
    package static func sweep(_ store: Store, limit: Int = 64, patient: Bool = false) throws(RuntimeError) {
        do throws(FileError) {
            let containers = try open("containers", O_RDONLY | O_DIRECTORY, at: store.root)
            for entry in try entries(of: containers.raw).prefix(limit) {
                let id = String(decoding: entry.bytes, as: UTF8.self)
                if id == names { continue }
                // Whatever goes wrong with one leftover must not stop the command that came across it.
                var directory = try? take(id, in: store)
                if directory == nil, patient { directory = outlast(id, in: store) }
                try? directory?.sweepIfOwnerless()
            }
        } catch { throw RuntimeError(error, "the containers") }
    }

    /// Takes a container whose imgbox is gone as soon as its processes are; nil when there is an imgbox.
    private static func outlast(_ id: String, in store: Store) -> ContainerDirectory? {
        for _ in 0..<100 {
            guard let bytes = try? readFile("containers/\(id)/state.json", at: store.root, limit: 16 << 20),
                let record = ContainerRecord(parsing: bytes), record.keeper > 0,
                startTime(of: record.keeper) != record.keeperStart
            else { return nil }
            if record.pid > 0, startTime(of: record.pid) == record.startTime { kill(record.pid, SIGKILL) }
            if let directory = try? take(id, in: store) { return directory }
            usleep(10_000)
        }
        return nil
    }

    private func record() -> ContainerRecord? {
        (try? readFile("state.json", at: fd.raw)).flatMap { ContainerRecord(parsing: $0) }
    }

    private func sweepIfOwnerless() throws(RuntimeError) {
        guard var record = record() else { return try remove(name: "") }
        guard record.status != .exited else { return }
        if record.pid > 0, ContainerDirectory.startTime(of: record.pid) == record.startTime {
            kill(record.pid, SIGKILL)
        }
        if record.isRemovedOnExit { return try remove(name: record.name) }
        for path in record.cgroups { CgroupTree.remove(path) }
        record.status = .exited
        record.exitCode = 137
        try write(record)
    }

    /// When a process began, from /proc; nil when there is none.
    package static func startTime(of pid: Int32) -> UInt64? {
        guard let bytes = try? readFile("/proc/\(pid)/stat", limit: 4096) else { return nil }
        // The name in parentheses may hold anything: what counts comes after the last one (proc(5), field 22).
        guard let end = bytes.lastIndex(of: UInt8(ascii: ")")) else { return nil }
        let fields = bytes[(end + 1)...].split(separator: UInt8(ascii: " "))
        return fields.count > 19 ? UInt64(String(decoding: fields[19], as: UTF8.self)) : nil
    }
}

extension ContainerDirectory {
    /// Finds a container by its name, its id or the beginning of its id.
    package static func find(_ word: String, in store: Store) throws(RuntimeError) -> ContainerRecord {
        let all = try list(store)
        if let exact = all.first(where: { $0.name == word || $0.id == word }) { return exact }
        let found = all.filter { !word.isEmpty && $0.id.hasPrefix(word) }
        guard found.count <= 1 else {
            throw RuntimeError(
                "'\(printable(word))' is the beginning of \(found.count) ids", hint: "give more digits")
        }
        guard let one = found.first else {
            throw RuntimeError("no container '\(printable(word))'", hint: "see all with: imgbox ps -a")
        }
        return one
    }

    /// Removes a container; one that runs only with `force`.
    package static func remove(_ record: ContainerRecord, in store: Store, force: Bool) throws(RuntimeError) {
        if let directory = try take(record.id, in: store) { return try directory.remove(name: record.name) }
        guard force else {
            throw RuntimeError(
                "the container '\(record.name)' is running",
                hint: "end it first, or use: imgbox rm -f \(record.name)")
        }
        if record.pid > 0, startTime(of: record.pid) == record.startTime { kill(record.pid, SIGKILL) }
        // Its owner sees it end and lets go of the lock, and with --rm removes it himself.
        for _ in 0..<500 {
            usleep(10_000)
            let there = (try? status(of: "containers/\(record.id)", at: store.root)) ?? nil
            guard there != nil else { return }
            if let directory = try? take(record.id, in: store) {
                return try directory.remove(name: record.name)
            }
        }
        throw RuntimeError("the container '\(record.name)' does not end")
    }
}
