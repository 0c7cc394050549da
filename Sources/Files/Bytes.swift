import CKernel
import Glibc
import SystemPackage

/// Reads up to `space.count` bytes; 0 at the end of the file. EINTR is tried again.
package func read(_ fd: Int32, into space: UnsafeMutableRawBufferPointer) throws(FileError) -> Int {
    while true {
        let count = Glibc.read(fd, space.baseAddress, space.count)
        if count >= 0 { return count }
        if Glibc.errno != EINTR { throw FileError.last("read", "descriptor \(fd)") }
    }
}

/// Writes all bytes. EINTR and short writes are continued.
package func write(_ fd: Int32, _ bytes: UnsafeRawBufferPointer, name: String = "") throws(FileError) {
    var done = 0
    while done < bytes.count {
        let count = Glibc.write(fd, bytes.baseAddress.map { $0 + done }, bytes.count - done)
        if count > 0 {
            done += count
        } else if count == 0 {
            throw FileError("write", name, .noSpace)
        } else if Glibc.errno != EINTR {
            throw FileError.last("write", name.isEmpty ? "descriptor \(fd)" : name)
        }
    }
}

package func write(_ fd: Int32, _ bytes: [UInt8], name: String = "") throws(FileError) {
    try bytes.withUnsafeBytes { space in
        attempt { () throws(FileError) in try write(fd, space, name: name) }
    }.get()
}

/// The whole content of an open file, from where its offset stands. A file above `limit` bytes is refused (EFBIG),
/// so that nothing from outside can fill the memory.
package func readAll(_ fd: Int32, limit: Int, name: String) throws(FileError) -> [UInt8] {
    var content: [UInt8] = []
    let size = (try? status(of: fd).size) ?? 0
    var buffer = [UInt8](repeating: 0, count: min(limit + 1, max(4096, Int(clamping: size) + 1)))
    while true {
        let count = try buffer.withUnsafeMutableBytes { space in
            attempt { () throws(FileError) in try read(fd, into: space) }
        }.get()
        if count == 0 { return content }
        if content.count + count > limit { throw FileError("read", name, .fileTooLarge) }
        content += buffer[..<count]
    }
}

/// The whole content of a named file of at most `limit` bytes.
package func readFile(
    _ name: String, at directory: Int32 = currentDirectory, limit: Int = 16 << 20
) throws(FileError) -> [UInt8] {
    let fd = try open(name, O_RDONLY, at: directory)
    return try readAll(fd.raw, limit: limit, name: name)
}

/// Replaces a file so that a reader, or a power failure, sees the old content or the new one, never a part:
/// temporary file, fsync, rename, fsync of the directory.
package func replaceFile(
    _ name: String, at directory: Int32, with content: [UInt8], mode: UInt32 = 0o644, durable: Bool = true
) throws(FileError) {
    let temporary = ".\(name).\(getpid()).new"
    do throws(FileError) {
        let fd = try open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode: mode, at: directory)
        try write(fd.raw, content, name: name)
        if durable, fsync(fd.raw) != 0 { throw FileError.last("fsync", name) }
        try rename(temporary, at: directory, to: name, at: directory)
    } catch {
        _ = unlinkat(directory, temporary, 0)
        throw error
    }
    if durable {
        let itself = try open(".", O_RDONLY | O_DIRECTORY, at: directory)
        _ = fsync(itself.raw)
    }
}

/// Writes all of the file system that holds `fd` to the disk. The corresponding C function is `syncfs`.
package func syncFileSystem(_ fd: Int32, name: String) throws(FileError) {
    guard ck_sync_filesystem(fd) == 0 else { throw FileError.last("syncfs", name) }
}

/// A stream that cannot be moved in memory and knows its name: where bytes for people and programs go.
package func writeText(_ text: String, to fd: Int32) {
    var text = text
    text.withUTF8 { bytes in
        // A reader that went away (EPIPE) is no reason to fail: what it wanted, it has.
        _ = try? write(fd, UnsafeRawBufferPointer(bytes))
    }
}

/// Carries a typed error out of a closure of the standard library that rethrows only `any Error`.
package func attempt<Success, Failure: Error>(
    _ body: () throws(Failure) -> Success
) -> Result<Success, Failure> {
    do throws(Failure) { return .success(try body()) } catch { return .failure(error) }
}

/// The width of the terminal at `fd` in columns; 80 where it cannot be told.
package func terminalColumns(_ fd: Int32) -> Int {
    let columns = Int(ck_terminal_columns(fd))
    return columns > 0 ? columns : 80
}
