import Files
import Glibc
import Layers
import OCI
package import SystemPackage

/// The shapes that an image leaves the store in.
package enum SaveFormat: String, Sendable, CaseIterable {
    /// What `docker load` and `podman load` read in every version, and an OCI archive at once, as docker 25 writes it.
    case dockerArchive = "docker-archive"
    case ociArchive = "oci-archive"
    case ociDirectory = "oci-dir"
}

extension Store {
    /// The bytes of the images as they came, so that digests stay: documents, configurations, layers.
    private func closure(_ roots: [Descriptor]) throws(StoreError) -> [Digest] {
        var seen: Set<Digest> = []
        func visit(_ descriptor: Descriptor, depth: Int) throws(StoreError) {
            guard depth < 4, try hasBlob(descriptor.digest), seen.insert(descriptor.digest).inserted else {
                return
            }
            guard MediaType.isIndex(descriptor.mediaType) || MediaType.isManifest(descriptor.mediaType) else {
                return
            }
            let bytes = try document(descriptor, limit: maximumManifestSize)
            let document = try parsing("the manifest \(descriptor.digest)") { () throws(OCIError) in
                try ImageDocument(parsing: bytes, mediaType: descriptor.mediaType)
            }
            switch document {
            case .index(let index): for child in index.manifests { try visit(child, depth: depth + 1) }
            case .manifest(let manifest):
                for blob in [manifest.config] + manifest.layers { try visit(blob, depth: depth + 1) }
            }
        }
        for root in roots { try visit(root, depth: 0) }
        return seen.sorted { ($0.algorithm.rawValue, $0.hex) < ($1.algorithm.rawValue, $1.hex) }
    }

    /// Writes images as an archive. The same images give the same bytes: sorted, times 0.
    package func saveArchive(_ names: [String], _ format: SaveFormat, to fd: Int32) throws(StoreError) {
        let content = try holdContent()
        defer { _ = content }
        let images = try savedImages(names)
        let writer = TarWriter { bytes throws(FileError) in try write(fd, bytes, name: "the archive") }
        let blobs = try closure(images.map(\.descriptor))
        var entries: [(path: String, content: Content)] = blobs.map { (Store.blobPath($0), .blob($0)) }
        entries.append(("index.json", .bytes(ImageIndex(manifests: images.map(\.descriptor)).serialized())))
        entries.append(("oci-layout", .bytes(Store.layoutFile)))
        if format == .dockerArchive {
            entries.append(("manifest.json", .bytes(try dockerManifest(images))))
        }
        for directory in ["blobs"] + Set(blobs.map { "blobs/\($0.algorithm.rawValue)" }).sorted() {
            entries.append((directory, .directory))
        }
        for entry in entries.sorted(by: { $0.path < $1.path }) {
            try add(entry.path, entry.content, to: writer, fd)
        }
        try filing("the archive") { () throws(FileError) in try writer.finish() }
    }

    private enum Content {
        case directory
        case bytes([UInt8])
        case blob(Digest)
    }

    private func add(_ path: String, _ content: Content, to writer: TarWriter, _ fd: Int32) throws(StoreError)
    {
        let name: LayerPath
        do throws(LayerError) { name = try LayerPath(parsing: Array(path.utf8)) } catch {
            throw StoreError(error)
        }
        var entry = TarEntry(
            path: name, kind: .file, permissions: 0o644, uid: 0, gid: 0,
            modified: Timestamp(seconds: 0, nanoseconds: 0))
        switch content {
        case .directory:
            (entry.kind, entry.permissions) = (.directory, 0o755)
            try filing { () throws(FileError) in try writer.begin(entry) }
        case .bytes(let bytes):
            try filing { () throws(FileError) in try writer.add(entry, content: bytes) }
        case .blob(let digest):
            let source = try openBlob(digest)
            try filing("the archive") { () throws(FileError) in
                entry.size = try status(of: source.raw).size
                try writer.begin(entry)
                try copyContent(from: source.raw, to: fd, name: path)
                try writer.pad(after: entry.size)
            }
        }
    }

    /// Writes images as an OCI layout into a new or empty directory.
    package func saveDirectory(_ names: [String], to path: FilePath) throws(StoreError) {
        let content = try holdContent()
        defer { _ = content }
        let images = try savedImages(names)
        let isNew = try filing { () throws(FileError) in
            let isNew = try makeDirectory(path.string)
            let there = try open(path.string, O_RDONLY | O_DIRECTORY)
            guard try entries(of: there.raw).isEmpty else {
                throw FileError("open", path.string, .directoryNotEmpty)
            }
            return isNew
        }
        do throws(StoreError) {
            let directory = try filing { () throws(FileError) in try open(path.string, O_RDONLY | O_DIRECTORY)
            }
            try writeLayout(images, into: directory.raw)
        } catch {
            try filing { () throws(FileError) in
                try removeContents(of: path.string, at: currentDirectory)
                if isNew { try unlink(path.string, at: currentDirectory, isDirectory: true) }
            }
            throw error
        }
    }

    private func writeLayout(_ images: [SavedImage], into directory: Int32) throws(StoreError) {
        for digest in try closure(images.map(\.descriptor)) {
            let source = try openBlob(digest)
            try filing { () throws(FileError) in
                try makeDirectory("blobs", at: directory)
                try makeDirectory("blobs/\(digest.algorithm.rawValue)", at: directory)
                let target = try open(
                    Store.blobPath(digest), O_WRONLY | O_CREAT | O_EXCL, mode: 0o644, at: directory)
                try copyContent(from: source.raw, to: target.raw, name: digest.description)
            }
        }
        let index = ImageIndex(manifests: images.map(\.descriptor)).serialized()
        try filing { () throws(FileError) in
            try replaceFile("oci-layout", at: directory, with: Store.layoutFile, durable: false)
            try replaceFile("index.json", at: directory, with: index)
        }
    }

    private struct SavedImage {
        let descriptor: Descriptor
        let reference: Reference?
        let resolved: ResolvedImage?
    }

    private func savedImages(_ names: [String]) throws(StoreError) -> [SavedImage] {
        var result: [SavedImage] = []
        for text in names {
            let name = try parsing("") { () throws(OCIError) in try ImageName(parsing: text) }
            let found = try find(name)
            guard var descriptor = found.first else { continue }
            var reference: Reference?
            switch name {
            case .digest: break
            case .reference(let wanted), .prefix(_, let wanted):
                if descriptor.annotation(Descriptor.refName) == wanted.tagged.description {
                    reference = wanted.tagged
                }
            }
            if reference == nil {
                descriptor.annotations.removeAll {
                    $0.key == Descriptor.refName || $0.key == Descriptor.containerdName
                }
            }
            result.append(
                SavedImage(descriptor: descriptor, reference: reference, resolved: try? resolve(text)))
        }
        return result
    }

    /// The `manifest.json` of a docker archive.
    private func dockerManifest(_ images: [SavedImage]) throws(StoreError) -> [UInt8] {
        var items: [JSON] = []
        for image in images {
            guard let resolved = image.resolved else {
                throw StoreError(
                    .unsupported,
                    "a docker archive holds images for one platform, and one is not for this machine",
                    hint: "save it with --format oci-archive")
            }
            let tags: [JSON] = image.reference.map { [.string($0.description)] } ?? []
            items.append([
                "Config": .string(Store.blobPath(resolved.configDigest)), "RepoTags": .array(tags),
                "Layers": .array(resolved.manifest.layers.map { .string(Store.blobPath($0.digest)) }),
            ])
        }
        return JSON.array(items).serialized()
    }
}
