import CKernel
import Files
import Glibc
import Layers
import SystemPackage

/// The forms that an image can be handed over in. What is there is found out from the content, never from the name.
enum ImageForm: Equatable {
    /// A directory with `oci-layout` and `index.json`.
    case layoutDirectory
    /// A directory that is itself the root file system.
    case tree
    /// A tar with an OCI layout or the files of `docker save` in it.
    case imageArchive(Compression)
    /// A tar of a root file system.
    case rootfs(Compression)

    static func sniffDirectory(_ fd: Int32) throws(FileError) -> ImageForm {
        let layout = try status(of: "oci-layout", at: fd)
        let index = try status(of: "index.json", at: fd)
        return layout != nil && index != nil ? .layoutDirectory : .tree
    }

    /// Looks into a seekable file, and leaves its offset at the start.
    static func sniffFile(_ fd: Int32, name: String) throws(StoreError) -> ImageForm {
        var magic = [UInt8](repeating: 0, count: 512)
        let count = try filing(name) { () throws(FileError) in
            let count = pread(fd, &magic, magic.count, 0)
            guard count >= 0 else { throw FileError.last("read", name) }
            return count
        }
        guard count > 0 else {
            throw StoreError(.malformed, "'\(printable(name))' is empty: this is no image and no archive")
        }
        let compression = Compression.sniff(magic[..<count])
        if compression == .none, count < 512 || !looksLikeTar(magic) {
            throw StoreError(
                .malformed, "'\(printable(name))' is no archive: neither tar nor gzip, zstd, xz or bzip2",
                hint: "give an OCI layout or archive, a docker archive, a rootfs tar, or a directory")
        }
        defer { lseek(fd, 0, SEEK_SET) }
        lseek(fd, 0, SEEK_SET)
        do throws(LayerError) {
            return try holdsImage(fd, compression) ? .imageArchive(compression) : .rootfs(compression)
        } catch {
            throw StoreError(error, "'\(printable(name))'")
        }
    }

    private static func looksLikeTar(_ block: [UInt8]) -> Bool {
        let isEnd = block.allSatisfy { $0 == 0 }
        return isEnd || block[257..<262].elementsEqual("ustar".utf8) || hasChecksum(block)
    }

    /// Archives older than ustar have nothing but the checksum of their header.
    private static func hasChecksum(_ block: [UInt8]) -> Bool {
        let digits = block[148..<156].drop { $0 == 0x20 }.prefix { (0x30...0x37).contains($0) }
        guard let wanted = Int(String(decoding: digits, as: UTF8.self), radix: 8) else { return false }
        var sum = 0
        for (index, byte) in block.enumerated() { sum += (148..<156).contains(index) ? 0x20 : Int(byte) }
        return sum == wanted
    }

    /// Reads names until one tells: image archives have nothing but blobs and a few documents at the top.
    private static func holdsImage(_ fd: Int32, _ compression: Compression) throws(LayerError) -> Bool {
        let stream = try LayerStream(fd, LayerSource(compression: compression))
        defer { stream.cancel() }
        let reader = try TarReader(stream)
        var sawDocument = false
        while let entry = try reader.next() {
            let parts = entry.path.parts.map { String(decoding: $0, as: UTF8.self) }
            switch parts.first {
            case nil: continue
            case "oci-layout" where parts.count == 1: return true
            case "blobs":
                if parts.count == 3 { return isHash(parts[2]) }
            case "manifest.json" where parts.count == 1, "index.json" where parts.count == 1,
                "repositories" where parts.count == 1:
                sawDocument = true
            case .some(let first):
                let stem = first.split(separator: ".").first.map(String.init) ?? ""
                return isHash(stem)
            }
        }
        return sawDocument
    }

    private static func isHash(_ text: String) -> Bool {
        (text.utf8.count == 64 || text.utf8.count == 128)
            && text.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
    }
}
