import CKernel
import Glibc

/// One name in a directory.
package struct DirectoryEntry: Sendable {
    /// The name's bytes with a closing NUL.
    package let name: [CChar]
    package let inode: UInt64

    /// The bytes without the NUL.
    package var bytes: [UInt8] { name.dropLast().map { UInt8(bitPattern: $0) } }
}

/// The names in an open directory but "." and "..", in bytewise order. The descriptor's offset is rewound.
package func entries(of directory: Int32) throws(FileError) -> [DirectoryEntry] {
    let copy = ck_openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
    guard copy >= 0 else { throw FileError.last("open", ".") }
    guard let stream = fdopendir(copy) else {
        let failure = FileError.last("opendir", ".")
        close(copy)
        throw failure
    }
    defer { closedir(stream) }
    var result: [DirectoryEntry] = []
    while true {
        Glibc.errno = 0
        guard let entry = readdir(stream) else { break }
        let name = withUnsafePointer(to: &entry.pointee.d_name) { tuple in
            tuple.withMemoryRebound(to: CChar.self, capacity: Int(entry.pointee.d_reclen)) { start in
                Array(UnsafeBufferPointer(start: start, count: strlen(start) + 1))
            }
        }
        if name == [46, 0] || name == [46, 46, 0] { continue }
        result.append(DirectoryEntry(name: name, inode: UInt64(entry.pointee.d_ino)))
    }
    if Glibc.errno != 0 { throw FileError.last("readdir", ".") }
    return result.sorted {
        $0.bytes.lexicographicallyPrecedes($1.bytes)
    }
}

/// Removes a tree by descriptors, without following a link or leaving the file system by a mount.
/// Modes that shut the owner out are opened first. A name that is not there is no error.
package func removeTree(_ name: UnsafePointer<CChar>, at directory: Int32) throws(FileError) {
    if try removeSimple(name, at: directory) { return }
    try removeContents(of: name, at: directory)
    if unlinkat(directory, name, AT_REMOVEDIR) != 0 && Glibc.errno != ENOENT {
        throw FileError.last("rmdir", String(cString: name))
    }
}

/// Removes all that is in a directory, and keeps the directory.
package func removeContents(of name: UnsafePointer<CChar>, at directory: Int32) throws(FileError) {
    let top = try openForRemoval(name, at: directory)
    var removal = Removal(top: top.raw)
    // What was too deep has come up meanwhile, and is removed in the next round.
    repeat {
        removal.moved = false
        try removal.empty(top.raw, depth: 0)
    } while removal.moved
}

/// A file, or an empty directory. False when it is a directory with something in it.
private func removeSimple(_ name: UnsafePointer<CChar>, at directory: Int32) throws(FileError) -> Bool {
    if unlinkat(directory, name, 0) == 0 { return true }
    switch Glibc.errno {
    case ENOENT: return true
    case EISDIR, EPERM: break
    default: throw FileError.last("unlink", String(cString: name))
    }
    if unlinkat(directory, name, AT_REMOVEDIR) == 0 { return true }
    switch Glibc.errno {
    case ENOENT: return true
    case ENOTEMPTY, EEXIST, EACCES: return false
    default: throw FileError.last("rmdir", String(cString: name))
    }
}

private func openForRemoval(_ name: UnsafePointer<CChar>, at directory: Int32) throws(FileError) -> OwnedFD {
    let flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC
    var fd = ck_openat(directory, name, flags, 0)
    if fd < 0 && Glibc.errno == EACCES {
        _ = fchmodat(directory, name, 0o700, 0)
        fd = ck_openat(directory, name, flags, 0)
    }
    guard fd >= 0 else { throw FileError.last("open", String(cString: name)) }
    if geteuid() != 0 { _ = fchmod(fd, 0o700) }
    return OwnedFD(fd)
}

/// A removal in progress. A layer may nest directories two thousand levels deep, and each level costs a descriptor: what
/// is deeper than `maximumDepth` is moved up first.
private struct Removal {
    private static let maximumDepth = 100
    let top: Int32
    var moved = false
    private var number = 0

    init(top: Int32) { self.top = top }

    mutating func empty(_ directory: Int32, depth: Int) throws(FileError) {
        for entry in try entries(of: directory) {
            if try removeSimple(entry.name, at: directory) { continue }
            guard depth < Removal.maximumDepth else {
                try moveUp(entry.name, directory)
                continue
            }
            let child = try openForRemoval(entry.name, at: directory)
            try empty(child.raw, depth: depth + 1)
            if unlinkat(directory, entry.name, AT_REMOVEDIR) != 0 && Glibc.errno != ENOENT {
                throw FileError.last("rmdir", String(decoding: entry.bytes, as: UTF8.self))
            }
        }
    }

    private mutating func moveUp(_ name: [CChar], _ directory: Int32) throws(FileError) {
        // A directory can only be renamed by who may write into it.
        if geteuid() != 0 { _ = fchmodat(directory, name, 0o700, 0) }
        while true {
            number += 1
            if ck_renameat2(directory, name, top, ".imgbox-deep-\(number)", renameNoReplace) == 0 { break }
            guard Glibc.errno == EEXIST else {
                throw FileError.last(
                    "rename", String(decoding: name.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self))
            }
        }
        moved = true
    }
}

/// The extended attributes of a file, link or directory that is not opened: by a path through /proc, since Linux has
/// no `*at` form before 6.13, and with the `l` calls so that a link is not followed. Sorted by name.
package func extendedAttributes(
    of name: UnsafePointer<CChar>, at directory: Int32
) throws(FileError) -> [(name: String, value: [UInt8])] {
    try extendedAttributes(path: "\(procPath(directory))/\(String(cString: name))", bytes: name, directory)
}

private func extendedAttributes(
    path: String, bytes: UnsafePointer<CChar>, _ directory: Int32
) throws(FileError) -> [(name: String, value: [UInt8])] {
    // The name may be no UTF-8: the path is put together as bytes.
    let full: [CChar] =
        Array(procPath(directory).utf8CString.dropLast()) + [47]
        + Array(UnsafeBufferPointer(start: bytes, count: strlen(bytes) + 1))
    var list = [CChar](repeating: 0, count: 256)
    var count = llistxattr(full, &list, list.count)
    while count < 0 && Glibc.errno == ERANGE {
        list = [CChar](repeating: 0, count: list.count * 8)
        count = llistxattr(full, &list, list.count)
    }
    if count < 0 {
        if Glibc.errno == EOPNOTSUPP { return [] }
        throw FileError.last("listxattr", path)
    }
    var result: [(name: String, value: [UInt8])] = []
    for key in list[..<count].split(separator: 0) {
        let name = String(decoding: key.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        var value = [UInt8](repeating: 0, count: 65536)
        let length = lgetxattr(full, name, &value, value.count)
        if length < 0 {
            if Glibc.errno == ENODATA { continue }
            throw FileError.last("getxattr \(name)", path)
        }
        result.append((name, Array(value[..<length])))
    }
    return result.sorted { $0.name < $1.name }
}

/// The space on disk that a tree takes, in bytes, as `du` counts it: each inode once. One descriptor at a time is open,
/// however deep the tree is: the way back up is "..".
package func diskUsage(of name: String, at directory: Int32) throws(FileError) -> Int64 {
    guard let info = try status(of: name, at: directory) else { return 0 }
    guard info.kind == .directory else { return info.allocated }
    var sum = info.allocated
    var seen: Set<UInt64> = []
    var current = try open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, at: directory)
    var levels = [try entries(of: current.raw)]
    while let entry = levels.last?.last {
        levels[levels.count - 1].removeLast()
        if let info = try status(of: entry.name, at: current.raw) {
            if info.kind == .directory {
                sum += info.allocated
                let fd = ck_openat(
                    current.raw, entry.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)
                if fd >= 0 {
                    current = OwnedFD(fd)
                    levels.append(try entries(of: current.raw))
                }
            } else if info.linkCount == 1 || seen.insert(info.inode).inserted {
                sum += info.allocated
            }
        }
        while levels.count > 1, levels.last?.isEmpty == true {
            levels.removeLast()
            current = try open("..", O_RDONLY | O_DIRECTORY, at: current.raw)
        }
    }
    return sum
}
