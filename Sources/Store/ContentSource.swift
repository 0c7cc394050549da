import CKernel
import Files
import Glibc
import Layers
import OCI
import SystemPackage

/// Files of an image as it was handed over, by their path inside: a layout directory or an archive.
protocol ContentSource: Sendable {
    /// nil where there is no such file.
    func open(_ path: String) throws(StoreError) -> OwnedFD?
    /// The digest and size of a file, where they are known already.
    func known(_ path: String) -> (digest: Digest, size: Int64)?
}

extension ContentSource {
    /// The whole of a small file; nil where there is none.
    func read(_ path: String, limit: Int) throws(StoreError) -> [UInt8]? {
        guard let fd = try open(path) else { return nil }
        return try filing { () throws(FileError) in try readAll(fd.raw, limit: limit, name: path) }
    }

    /// Opens a blob that should have `size` bytes.
    ///
    /// git writes a symbolic link as a file with the target as its text where links are switched off
    /// (core.symlinks=false, archives for Windows); the official busybox repository, whose blobs are links, then
    /// arrives in that form. Such a file is followed like the link, inside the source; the digest decides in the end.
    func openBlob(_ path: String, size: Int64) throws(StoreError) -> OwnedFD? {
        guard let fd = try open(path) else { return nil }
        let length = try filing { () throws(FileError) in try status(of: fd.raw).size }
        guard length != size, (1...512).contains(length) else { return fd }
        let text = try filing { () throws(FileError) in try readAll(fd.raw, limit: 512, name: path) }
        if text.starts(with: "../".utf8), !text.contains(where: { $0 <= 0x20 || $0 >= 0x7f }),
            let target = joinPath(
                path.utf8.split(separator: UInt8(ascii: "/")).dropLast().map { Array($0) }, text),
            let file = try open(target)
        {
            return file
        }
        lseek(fd.raw, 0, SEEK_SET)
        return fd
    }

    /// A document, its size and digest checked; nil where it is not there.
    func document(_ descriptor: Descriptor, limit: Int) throws(StoreError) -> [UInt8]? {
        guard descriptor.size <= Int64(limit) else {
            throw StoreError(
                .refused,
                "the document \(descriptor.digest) has \(descriptor.size) bytes; at most \(limit) are read")
        }
        guard let fd = try openBlob(Store.blobPath(descriptor.digest), size: descriptor.size) else {
            return nil
        }
        let bytes = try filing { () throws(FileError) in
            try readAll(fd.raw, limit: limit, name: descriptor.digest.description)
        }
        guard Int64(bytes.count) == descriptor.size else {
            throw StoreError(
                .damaged,
                "the blob \(descriptor.digest) has \(bytes.count) bytes, its descriptor says \(descriptor.size)"
            )
        }
        let digest = Digest(of: bytes, descriptor.digest.algorithm)
        guard digest == descriptor.digest else {
            throw StoreError(.damaged, "the blob \(descriptor.digest) has the digest \(digest)")
        }
        return bytes
    }
}

/// A directory. Links are followed inside it (the official busybox repository's blobs are links), never out of it.
struct DirectoryContent: ContentSource {
    private let directory: Shared

    private final class Shared: Sendable {
        let fd: OwnedFD
        init(_ fd: consuming OwnedFD) { self.fd = fd }
    }

    init(_ fd: consuming OwnedFD) { directory = Shared(fd) }

    func open(_ path: String) throws(StoreError) -> OwnedFD? {
        // O_NONBLOCK: a pipe in the place of a blob must not make us wait for ever.
        let fd = ck_openat2(
            directory.fd.raw, path, UInt64(O_RDONLY | O_NONBLOCK | O_CLOEXEC), 0, Resolve.beneath)
        guard fd >= 0 else {
            let code = Errno(rawValue: Glibc.errno)
            if code == .noSuchFileOrDirectory || code == .notDirectory { return nil }
            if code == .improperLink {
                throw StoreError(.refused, "'\(path)' is a link that leads out of the image's directory")
            }
            throw StoreError(FileError("open", path, code))
        }
        let handle = OwnedFD(fd)
        let kind = try filing { () throws(FileError) in try status(of: handle.raw).kind }
        guard kind == .file else { throw StoreError(.refused, "'\(path)' in the image is no regular file") }
        return handle
    }

    func known(_ path: String) -> (digest: Digest, size: Int64)? { nil }
}

/// The members of an archive, each written once to the staging directory, hashed on the way. Their names are
/// keys and never become paths.
struct SpooledArchive: ContentSource {
    private struct Member: Sendable {
        let number: Int
        let digest: Digest
        let size: Int64
    }

    private enum Entry: Sendable {
        case file(Member)
        case link(String)
    }

    private let staging: Staging
    private var entries: [String: Entry] = [:]

    /// Reads the whole archive.
    init(_ fd: Int32, _ compression: Compression, maximumSize: Int64, into staging: Staging)
        throws(StoreError)
    {
        self.staging = staging
        do throws(LayerError) {
            let stream = try LayerStream(fd, LayerSource(compression: compression, maximumSize: maximumSize))
            do throws(LayerError) {
                let reader = try TarReader(stream)
                while let entry = try reader.next() { try add(entry, reader) }
                _ = try stream.finish()
            } catch {
                stream.cancel()
                throw error
            }
        } catch {
            throw StoreError(error, "the archive")
        }
    }

    private mutating func add(_ entry: TarEntry, _ reader: TarReader) throws(LayerError) {
        let name = String(decoding: entry.path.bytes, as: UTF8.self)
        switch entry.kind {
        case .file: entries[name] = .file(try spool(entry, reader))
        case .hardLink(let target):
            entries[name] = .link(String(decoding: try LayerPath(parsing: target).bytes, as: UTF8.self))
        case .symbolicLink(let target):
            // Old docker archives link a layer to the same layer of another image: ../<id>/layer.tar.
            if let path = joinPath(entry.path.parent.parts.map { Array($0) }, target) {
                entries[name] = .link(path)
            }
        default: break
        }
    }

    private func spool(_ entry: TarEntry, _ reader: TarReader) throws(LayerError) -> Member {
        let number = entries.count
        var hasher = Digest.Hasher()
        let name = entry.path.description
        let file: OwnedFD
        do throws(FileError) {
            file = try Files.open(
                "member-\(number)", O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644, at: staging.fd.raw)
        } catch { throw LayerError(error, entry: name) }
        while let piece = try reader.data() {
            guard piece.offset == hasher.count else {
                throw LayerError(.refused, "'\(name)': a sparse member of an image archive")
            }
            hasher.update(piece.bytes)
            do throws(FileError) { try write(file.raw, piece.bytes, name: name) } catch {
                throw LayerError(error, entry: name)
            }
        }
        return Member(number: number, digest: hasher.finish(), size: hasher.count)
    }

    private func member(_ path: String) -> Member? {
        var path = path
        for _ in 0..<16 {
            switch entries[path] {
            case .file(let member): return member
            case .link(let target): path = target
            case nil: return nil
            }
        }
        return nil
    }

    func open(_ path: String) throws(StoreError) -> OwnedFD? {
        guard let member = member(path) else { return nil }
        return try filing { () throws(FileError) in
            try Files.open("member-\(member.number)", O_RDONLY, at: staging.fd.raw)
        }
    }

    func known(_ path: String) -> (digest: Digest, size: Int64)? {
        member(path).map { ($0.digest, $0.size) }
    }
}

/// Where a link in a directory leads, without leaving the top; nil where it does.
private func joinPath(_ directory: [[UInt8]], _ target: [UInt8]) -> String? {
    var parts = target.first == UInt8(ascii: "/") ? [] : directory
    for part in target.split(separator: UInt8(ascii: "/")) {
        if part.elementsEqual("..".utf8) {
            if parts.popLast() == nil { return nil }
        } else if !part.elementsEqual(".".utf8) {
            parts.append(Array(part))
        }
    }
    return String(decoding: Array(parts.joined(separator: [UInt8(ascii: "/")])), as: UTF8.self)
}
