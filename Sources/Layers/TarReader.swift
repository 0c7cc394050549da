import CArchive
package import Files
import Glibc

/// One entry of a tar archive.
package struct TarEntry: Sendable {
    package enum Kind: Sendable, Equatable {
        case file
        case directory
        case symbolicLink([UInt8])
        /// The name of the target as it is written in the archive.
        case hardLink([UInt8])
        case fifo
        case characterDevice(major: UInt32, minor: UInt32)
        case blockDevice(major: UInt32, minor: UInt32)
    }

    package var path: LayerPath
    package var kind: Kind
    /// Permission, set-id and sticky bits.
    package var permissions: UInt32
    package var uid: UInt32
    package var gid: UInt32
    package var modified: Timestamp
    /// Of a regular file, in bytes.
    package var size: Int64 = 0
    package var isSparse = false
    /// Extended attributes, access control lists among them in the kernel's binary form.
    package var attributes: [(name: String, value: [UInt8])] = []

    package init(
        path: LayerPath, kind: Kind, permissions: UInt32, uid: UInt32, gid: UInt32, modified: Timestamp
    ) {
        (self.path, self.kind, self.permissions) = (path, kind, permissions)
        (self.uid, self.gid, self.modified) = (uid, gid, modified)
    }
}

/// Reads tar with libarchive, in the formats ustar, pax, GNU and v7. No other format or filter of libarchive is
/// enabled: the rest is most of its security record.
package final class TarReader {
    /// More entries than any honest layer has.
    private static let maximumEntries = 10_000_000
    private static let maximumLinkLength = 4095
    private static let maximumAttributeSize = 64 << 10
    private static let maximumAttributesSize = 1 << 20

    private let archive: OpaquePointer
    private let feed: Feed
    private var entryCount = 0
    private var isEmpty = false

    /// The bytes as libarchive asks for them.
    private final class Feed {
        let stream: LayerStream
        var current: Chunk?
        /// The offset of `current` in the expanded stream.
        var offset: Int64 = 0
        var failure: LayerError?

        init(_ stream: LayerStream) { self.stream = stream }

        func advance() -> UnsafeRawBufferPointer? {
            if let current {
                offset += Int64(current.count)
                current.release()
            }
            current = nil
            do throws(LayerError) { current = try stream.next() } catch { failure = error }
            return current?.bytes
        }

        deinit { current?.release() }
    }

    package init(_ stream: LayerStream) throws(LayerError) {
        // pax names are UTF-8: without this libarchive cannot give them back as bytes (images.md 3.3).
        setlocale(LC_CTYPE, "C.UTF-8")
        guard let archive = archive_read_new() else { throw LayerError(.system, "out of memory") }
        self.archive = archive
        feed = Feed(stream)
        archive_read_support_format_tar(archive)
        archive_read_support_format_empty(archive)
        archive_read_support_filter_none(archive)
        let code = archive_read_open(
            archive, Unmanaged.passUnretained(feed).toOpaque(), nil,
            { _, context, buffer in
                guard let context else { return -1 }
                let feed = Unmanaged<Feed>.fromOpaque(context).takeUnretainedValue()
                let bytes = feed.advance()
                buffer?.pointee = bytes?.baseAddress
                return feed.failure == nil ? bytes?.count ?? 0 : -1
            }, nil)
        // The archive is freed by deinit, which runs in this case as well.
        guard code == ARCHIVE_OK else { throw failure("this is no tar archive") }
    }

    deinit { archive_read_free(archive) }

    private func failure(_ what: String) -> LayerError {
        if let failure = feed.failure { return failure }
        let reason = archive_error_string(archive).map { String(cString: $0) } ?? ""
        return LayerError(.malformed, reason.isEmpty ? what : "\(what): \(printable(reason))")
    }

    /// The next entry; nil at the end of the archive. Data of the entry before that nobody read is passed over.
    package func next() throws(LayerError) -> TarEntry? {
        var raw: OpaquePointer?
        let code = archive_read_next_header(archive, &raw)
        if code == ARCHIVE_EOF { return nil }
        // ARCHIVE_WARN: a pax name that is no UTF-8, say; the bytes are there all the same.
        guard code == ARCHIVE_OK || code == ARCHIVE_WARN, let raw else {
            throw failure("the tar archive is damaged")
        }
        entryCount += 1
        guard entryCount <= TarReader.maximumEntries else {
            throw LayerError(.limit, "the archive has more than \(TarReader.maximumEntries) entries")
        }
        guard let name = archive_entry_pathname(raw) ?? archive_entry_pathname_utf8(raw) else {
            throw LayerError(.malformed, "the tar archive is damaged: an entry without a name")
        }
        let path = try LayerPath(parsing: bytes(name))
        var entry = TarEntry(
            path: path, kind: try kind(raw, path), permissions: UInt32(archive_entry_perm(raw)) & 0o7777,
            uid: try identifier(archive_entry_uid(raw), path),
            gid: try identifier(archive_entry_gid(raw), path),
            modified: Timestamp(
                seconds: Int64(archive_entry_mtime(raw)),
                nanoseconds: Int32(clamping: archive_entry_mtime_nsec(raw))))
        if entry.kind == .file {
            entry.size = archive_entry_size(raw)
            entry.isSparse = archive_entry_sparse_count(raw) > 0
        }
        try checkType(entry, raw)
        entry.attributes = try attributes(raw, path)
        return entry
    }

    private func bytes(_ text: UnsafePointer<CChar>) -> [UInt8] {
        Array(UnsafeRawBufferPointer(start: text, count: strlen(text)))
    }

    private func identifier(_ value: la_int64_t, _ path: LayerPath) throws(LayerError) -> UInt32 {
        // -1 means "do not change" to chown(2).
        guard let id = UInt32(exactly: value), id != .max else {
            throw .refused(path.bytes, "the owner \(value) is no user or group id")
        }
        return id
    }

    private func kind(_ raw: OpaquePointer, _ path: LayerPath) throws(LayerError) -> TarEntry.Kind {
        if let target = archive_entry_hardlink(raw) ?? archive_entry_hardlink_utf8(raw) {
            return .hardLink(bytes(target))
        }
        func device() -> (major: UInt32, minor: UInt32) {
            (
                UInt32(truncatingIfNeeded: archive_entry_rdevmajor(raw)),
                UInt32(truncatingIfNeeded: archive_entry_rdevminor(raw))
            )
        }
        switch mode_t(archive_entry_filetype(raw)) {
        case S_IFREG: return .file
        case S_IFDIR: return .directory
        case S_IFIFO: return .fifo
        case S_IFCHR: return .characterDevice(major: device().major, minor: device().minor)
        case S_IFBLK: return .blockDevice(major: device().major, minor: device().minor)
        case S_IFLNK:
            guard let target = archive_entry_symlink(raw) ?? archive_entry_symlink_utf8(raw) else {
                throw .refused(path.bytes, "a symbolic link without a target")
            }
            let content = bytes(target)
            guard !content.isEmpty, content.count <= TarReader.maximumLinkLength else {
                throw .refused(
                    path.bytes, "the link's target has \(content.count) bytes; 1 to 4095 are possible")
            }
            return .symbolicLink(content)
        default: throw .refused(path.bytes, "an entry of a kind that no file system has")
        }
    }

    /// libarchive takes an unknown type byte for a regular file, as POSIX suggests; here nobody knows what was meant,
    /// and it is refused. The header block is the one before the entry's data. A sparse file has maps between
    /// the two, and libarchive knew its type.
    private func checkType(_ entry: TarEntry, _ raw: OpaquePointer) throws(LayerError) {
        guard entry.kind == .file, !entry.isSparse, let chunk = feed.current else { return }
        let start = archive_filter_bytes(archive, 0) - 512 - feed.offset
        guard start >= 0, start + 512 <= Int64(chunk.count) else { return }
        let type = chunk.bytes[Int(start) + 156]
        let known: [UInt8] = Array("\u{0}01234567SDM".utf8)
        guard known.contains(type) else {
            throw .refused(entry.path.bytes, "the entry has the unknown type '\(printable([type]))'")
        }
    }

    private func attributes(
        _ raw: OpaquePointer, _ path: LayerPath
    ) throws(LayerError) -> [(name: String, value: [UInt8])] {
        var result: [(name: String, value: [UInt8])] = []
        var sum = 0
        if archive_entry_xattr_reset(raw) > 0 {
            var name: UnsafePointer<CChar>?
            var value: UnsafeRawPointer?
            var size = 0
            while archive_entry_xattr_next(raw, &name, &value, &size) == ARCHIVE_OK {
                guard let name else { continue }
                sum += size
                guard size <= TarReader.maximumAttributeSize, sum <= TarReader.maximumAttributesSize else {
                    throw .refused(
                        path.bytes, "its extended attributes are larger than 64 KiB, or 1 MiB together")
                }
                result.append(
                    (String(cString: name), Array(UnsafeRawBufferPointer(start: value, count: size))))
            }
        }
        result += accessControlLists(raw)
        return result
    }

    /// The next piece of the entry's data and its offset in the file; nil at the end. What lies between the pieces of
    /// a sparse file is a hole.
    package func data() throws(LayerError) -> (bytes: UnsafeRawBufferPointer, offset: Int64)? {
        var start: UnsafeRawPointer?
        var size = 0
        var offset: la_int64_t = 0
        let code = archive_read_data_block(archive, &start, &size, &offset)
        if code == ARCHIVE_EOF { return nil }
        guard code == ARCHIVE_OK || code == ARCHIVE_WARN else { throw failure("the tar archive is damaged") }
        return (UnsafeRawBufferPointer(start: start, count: size), offset)
    }
}

// MARK: - Access control lists

/// ACLs that stand in the archive as text (SCHILY.acl.*), in the form that the kernel wants them in
/// (linux/posix_acl_xattr.h): version 2, then tag, permissions and id of each line, little endian.
private func accessControlLists(_ raw: OpaquePointer) -> [(name: String, value: [UInt8])] {
    var result: [(name: String, value: [UInt8])] = []
    let kinds = [
        (Int32(ARCHIVE_ENTRY_ACL_TYPE_ACCESS), "system.posix_acl_access"),
        (Int32(ARCHIVE_ENTRY_ACL_TYPE_DEFAULT), "system.posix_acl_default"),
    ]
    for (kind, name) in kinds {
        // The three lines that only repeat the mode are no list.
        let count = archive_entry_acl_reset(raw, kind)
        guard count > (kind == Int32(ARCHIVE_ENTRY_ACL_TYPE_ACCESS) ? 3 : 0) else { continue }
        var lines: [(tag: UInt16, permissions: UInt16, id: UInt32)] = []
        var (type, permissions, tag, id) = (Int32(0), Int32(0), Int32(0), Int32(0))
        var text: UnsafePointer<CChar>?
        while archive_entry_acl_next(raw, kind, &type, &permissions, &tag, &id, &text) == ARCHIVE_OK {
            guard let known = kernelTag(tag) else { continue }
            let qualifier = known == 0x02 || known == 0x08 ? UInt32(bitPattern: id) : .max
            lines.append((known, UInt16(truncatingIfNeeded: permissions & 7), qualifier))
        }
        // The kernel wants them in the order of tag and id.
        lines.sort { ($0.tag, $0.id) < ($1.tag, $1.id) }
        var value: [UInt8] = [2, 0, 0, 0]
        for line in lines {
            value += littleEndian(line.tag) + littleEndian(line.permissions) + littleEndian(line.id)
        }
        result.append((name, value))
    }
    return result
}

private func kernelTag(_ tag: Int32) -> UInt16? {
    switch tag {
    case Int32(ARCHIVE_ENTRY_ACL_USER_OBJ): 0x01
    case Int32(ARCHIVE_ENTRY_ACL_USER): 0x02
    case Int32(ARCHIVE_ENTRY_ACL_GROUP_OBJ): 0x04
    case Int32(ARCHIVE_ENTRY_ACL_GROUP): 0x08
    case Int32(ARCHIVE_ENTRY_ACL_MASK): 0x10
    case Int32(ARCHIVE_ENTRY_ACL_OTHER): 0x20
    default: nil
    }
}

func littleEndian<Integer: FixedWidthInteger>(_ value: Integer) -> [UInt8] {
    withUnsafeBytes(of: value.littleEndian) { Array($0) }
}
