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
    if unlinkat(directory, name, 0) == 0 { return }
    switch Glibc.errno {
    case ENOENT: return
    case EISDIR, EPERM: break
    default: throw FileError.last("unlink", String(cString: name))
    }
    if unlinkat(directory, name, AT_REMOVEDIR) == 0 { return }
    switch Glibc.errno {
    case ENOENT: return
    case ENOTEMPTY, EEXIST, EACCES: break
    default: throw FileError.last("rmdir", String(cString: name))
    }
    try removeContents(of: name, at: directory)
    if unlinkat(directory, name, AT_REMOVEDIR) != 0 && Glibc.errno != ENOENT {
        throw FileError.last("rmdir", String(cString: name))
    }
}

/// Removes all that is in a directory, and keeps the directory.
package func removeContents(of name: UnsafePointer<CChar>, at directory: Int32) throws(FileError) {
    let flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC
    var fd = ck_openat(directory, name, flags, 0)
    if fd < 0 && Glibc.errno == EACCES {
        _ = fchmodat(directory, name, 0o700, 0)
        fd = ck_openat(directory, name, flags, 0)
    }
    guard fd >= 0 else { throw FileError.last("open", String(cString: name)) }
    let handle = OwnedFD(fd)
    if geteuid() != 0 { _ = fchmod(handle.raw, 0o700) }
    // Deep trees must not use up the descriptors or the stack of a thread: a level costs one of each, and a
    // name of 4,096 bytes ends at 2,048 levels for anything that a layer can hold.
    for entry in try entries(of: handle.raw) {
        try removeTree(entry.name, at: handle.raw)
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

/// The space on disk that a tree takes, in bytes, as `du` counts it: each inode once.
package func diskUsage(of name: String, at directory: Int32) throws(FileError) -> Int64 {
    var seen: Set<UInt64> = []
    return try diskUsage(name, directory, &seen)
}

private func diskUsage(
    _ name: UnsafePointer<CChar>, _ directory: Int32, _ seen: inout Set<UInt64>
) throws(FileError) -> Int64 {
    guard let info = try status(of: name, at: directory) else { return 0 }
    if info.kind != .directory {
        if info.linkCount > 1 && !seen.insert(info.inode).inserted { return 0 }
        return info.allocated
    }
    var sum = info.allocated
    let fd = ck_openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)
    if fd < 0 { return sum }
    let handle = OwnedFD(fd)
    for entry in try entries(of: handle.raw) { sum += try diskUsage(entry.name, handle.raw, &seen) }
    return sum
}
