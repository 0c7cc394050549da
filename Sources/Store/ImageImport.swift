import Files
import Glibc
package import Layers
package import OCI
package import SystemPackage

/// What to take in, and under which name.
package struct ImportRequest: Sendable {
    package enum Input: Sendable {
        case path(FilePath)
        case standardInput
    }

    package var input: Input
    /// The name to give; nil for the names in the input.
    package var name: Reference?
    /// Which image of several: a name or tag in the input.
    package var ref: String?
    package var platform: Platform?
    package var options: UnpackOptions
    /// RFC 3339, for images that are made here from a root file system.
    package var created: String?

    package init(_ input: Input, name: Reference? = nil, options: UnpackOptions = UnpackOptions()) {
        self.input = input
        self.name = name
        self.options = options
    }
}

/// What was taken in.
package struct ImportResult: Sendable {
    package var images: [(reference: Reference?, descriptor: Descriptor)] = []
    package var report = UnpackReport()
    /// Other things that the user should know.
    package var notes: [String] = []
}

/// An image found in the input, checked and ready to be staged.
struct ImageCandidate: Sendable {
    var root: Descriptor
    var name: Reference?
    /// Manifests, indexes and configurations, whole.
    var documents: [(digest: Digest, bytes: [UInt8])] = []
    var images: [PlatformImage] = []

    struct PlatformImage: Sendable {
        var manifest: Manifest
        var config: ImageConfig
        /// Where each layer's blob is in the input.
        var layerPaths: [String]
        var isUnpacked: Bool
    }
}

extension Store {
    /// Takes images in from a file, a directory or standard input. All or nothing: an image whose every digest
    /// is right appears in the index at the end, and else nothing stays.
    package func importImages(
        _ request: ImportRequest, progress: ProgressHandler? = nil
    ) throws(StoreError) -> ImportResult {
        let content = try holdContent()
        let staging = try Staging(in: self)
        var importer = ImageImporter(store: self, staging: staging, request: request, progress: progress)
        let result = try importer.run()
        _ = consume content
        return result
    }
}

/// The steps of taking images in.
struct ImageImporter {
    let store: Store
    let staging: Staging
    let request: ImportRequest
    let progress: ProgressHandler?
    var result = ImportResult()
    private var staged: [StagedLayer] = []
    private var stagedBlobs: Set<Digest> = []
    private var group = 0

    init(store: Store, staging: Staging, request: ImportRequest, progress: ProgressHandler?) {
        (self.store, self.staging, self.request, self.progress) = (store, staging, request, progress)
    }

    mutating func run() throws(StoreError) -> ImportResult {
        let candidates: [ImageCandidate]
        let source: any ContentSource
        let input = try openInput()
        let name = inputName
        let form = try detect(input.raw, name)
        switch form {
        case .layoutDirectory:
            source = DirectoryContent(input)
            candidates = try layoutCandidates(source, name: name)
        case .imageArchive(let compression):
            let archive = try SpooledArchive(
                input.raw, compression, maximumSize: request.options.maximumSize, into: staging)
            source = archive
            candidates = try archiveCandidates(archive, name: name)
        case .rootfs(let compression):
            source = StagedContent(staging: staging)
            candidates = [try rootfsCandidate(input.raw, compression, name)]
        case .tree:
            source = StagedContent(staging: staging)
            candidates = [try treeCandidate(input.raw, name)]
        }
        try stage(select(candidates, name), from: source)
        return result
    }

    // MARK: - The input

    private var inputName: String {
        switch request.input {
        case .standardInput: "standard input"
        case .path(let path): path.string
        }
    }

    private func openInput() throws(StoreError) -> OwnedFD {
        switch request.input {
        case .standardInput:
            guard isatty(0) == 0 else {
                throw StoreError(
                    .refused, "standard input is a terminal",
                    hint: "pipe an image in: docker save IMAGE | imgbox pull-local - NAME")
            }
            return try spoolStream(0, inputName)
        case .path(let path):
            let name = path.string
            let fd = try filing { () throws(FileError) in try open(name, O_RDONLY) }
            let kind = try filing { () throws(FileError) in try status(of: fd.raw).kind }
            switch kind {
            case .file, .directory: return fd
            case .fifo, .socket: return try spoolStream(fd.raw, name)
            default: throw StoreError(.refused, "'\(printable(name))' is a device, no image")
            }
        }
    }

    /// What cannot be read twice is written to the staging directory first.
    private func spoolStream(_ fd: Int32, _ name: String) throws(StoreError) -> OwnedFD {
        try filing(name) { () throws(FileError) in
            let file = try open("stream", O_RDWR | O_CREAT | O_EXCL, mode: 0o600, at: staging.fd.raw)
            try copyContent(from: fd, to: file.raw, name: name)
            lseek(file.raw, 0, SEEK_SET)
            return file
        }
    }

    private func detect(_ fd: Int32, _ name: String) throws(StoreError) -> ImageForm {
        let isDirectory = try filing(name) { () throws(FileError) in try status(of: fd).kind == .directory }
        if isDirectory {
            return try filing(name) { () throws(FileError) in try ImageForm.sniffDirectory(fd) }
        }
        return try ImageForm.sniffFile(fd, name: name)
    }

    // MARK: - Which images, under which names

    /// Applies `--ref` and the wished name.
    private func select(_ candidates: [ImageCandidate], _ input: String) throws(StoreError)
        -> [ImageCandidate]
    {
        var chosen = candidates
        let names = candidates.map { $0.name?.description ?? "(no name)" }
        if let ref = request.ref {
            chosen = candidates.filter { candidate in
                guard let name = candidate.name else { return false }
                return name.description == ref || name.tag == ref || name.canonical == ref
                    || (try? Reference(parsing: ref))?.canonical == name.canonical
            }
            guard !chosen.isEmpty else {
                throw StoreError(
                    .notFound, "no image '\(printable(ref))' in '\(printable(input))'",
                    hint: "it has: \(names.joined(separator: ", "))")
            }
        }
        guard let name = request.name else { return chosen }
        let roots = Set(chosen.map(\.root.digest))
        guard roots.count == 1, var one = chosen.first else {
            throw StoreError(
                .ambiguous, "'\(printable(input))' has \(roots.count) images, and one name was given",
                hint: "choose one with --ref: \(names.joined(separator: ", "))")
        }
        one.name = name
        return [one]
    }

    // MARK: - Staging

    private mutating func stage(_ candidates: [ImageCandidate], from source: any ContentSource)
        throws(StoreError)
    {
        guard !candidates.isEmpty else { throw StoreError(.notFound, "there is no image in the input") }
        let diffIDs = candidates.flatMap(\.images).flatMap(\.config.diffIDs)
        let locks = try LayerLocks(store, diffIDs)
        for candidate in candidates {
            for document in candidate.documents { try stageDocument(document) }
            for image in candidate.images { try stageImage(image, source) }
        }
        let blobs = stagedBlobs.sorted { $0.hex < $1.hex }
        try store.publish(staged, blobs: blobs, from: staging)
        for candidate in candidates {
            try store.addToIndex(candidate.root, name: candidate.name)
            result.images.append((candidate.name, candidate.root))
        }
        _ = locks
    }

    private mutating func stageDocument(_ document: (digest: Digest, bytes: [UInt8])) throws(StoreError) {
        guard !stagedBlobs.contains(document.digest) else { return }
        try filing { () throws(FileError) in
            let file = try open(
                "blob-\(document.digest.hex)", O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644, at: staging.fd.raw)
            try write(file.raw, document.bytes, name: document.digest.description)
        }
        stagedBlobs.insert(document.digest)
    }

    private mutating func stageImage(
        _ image: ImageCandidate.PlatformImage, _ source: any ContentSource
    ) throws(StoreError) {
        var inputs: [LayerInput] = []
        for (number, descriptor) in image.manifest.layers.enumerated() {
            let digest = descriptor.digest
            progress?(digest, .waiting(descriptor.size))
            let isKept = try store.isIntact(descriptor)
            if !isKept, !stagedBlobs.contains(digest) {
                try stageBlob(descriptor, image.layerPaths[number], source)
                stagedBlobs.insert(digest)
            }
            let store = self.store
            let staging = self.staging
            inputs.append(
                LayerInput(
                    descriptor: descriptor,
                    source: LayerSource(
                        compression: MediaType.compression(ofLayer: descriptor.mediaType).map {
                            Compression($0)
                        } ?? .none,
                        blob: (digest, descriptor.size), diffID: image.config.diffIDs[number],
                        maximumSize: request.options.maximumSize),
                    open: { () throws(StoreError) in
                        if isKept { return try store.openBlob(digest) }
                        return try filing { () throws(FileError) in
                            try open("blob-\(digest.hex)", O_RDONLY, at: staging.fd.raw)
                        }
                    }))
        }
        let unpacking = LayerUnpacking(
            store: store, staging: staging, options: request.options, progress: progress)
        guard image.isUnpacked else {
            for input in inputs { try unpacking.verify(input) }
            return
        }
        group += 1
        let done = try unpacking.run(inputs, diffIDs: image.config.diffIDs, group: group)
        staged += done.staged
        result.report.add(done.report)
    }

    /// Copies a blob into the staging directory; its digest is checked when the layer is read from there.
    private func stageBlob(
        _ descriptor: Descriptor, _ path: String, _ source: any ContentSource
    ) throws(StoreError) {
        guard let input = try source.openBlob(path, size: descriptor.size) else {
            throw StoreError(
                .damaged, "the image lacks the blob \(descriptor.digest)",
                hint: "the layout or archive is incomplete; get it again")
        }
        try filing("blob \(descriptor.digest)") { () throws(FileError) in
            let size = try status(of: input.raw).size
            guard size == descriptor.size else {
                throw FileError(
                    "read (\(size) bytes, the descriptor says \(descriptor.size))", path, .invalidArgument)
            }
            let file = try open(
                "blob-\(descriptor.digest.hex)", O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644, at: staging.fd.raw
            )
            try copyContent(from: input.raw, to: file.raw, name: path)
        }
    }
}

/// Blobs that were made in the staging directory.
struct StagedContent: ContentSource {
    let staging: Staging

    func open(_ path: String) throws(StoreError) -> OwnedFD? {
        try filing { () throws(FileError) in try Files.open(path, O_RDONLY | O_NOFOLLOW, at: staging.fd.raw) }
    }

    func known(_ path: String) -> (digest: Digest, size: Int64)? { nil }
}

extension Store {
    /// Whether a blob is in the store with the right content: what rotted on the disk is taken in anew.
    func isIntact(_ descriptor: Descriptor) throws(StoreError) -> Bool {
        guard try hasBlob(descriptor.digest) else { return false }
        let fd = try openBlob(descriptor.digest)
        let (digest, size) = try filing { () throws(FileError) in
            try hashFile(fd.raw, descriptor.digest.algorithm)
        }
        return digest == descriptor.digest && size == descriptor.size
    }

    /// Puts a name on an image, and takes it from the one that had it.
    package func addToIndex(_ descriptor: Descriptor, name: Reference?) throws(StoreError) {
        try updateIndex { index throws(StoreError) in
            var entry = descriptor
            entry.annotations.removeAll {
                $0.key == Descriptor.refName || $0.key == Descriptor.containerdName
            }
            guard let name else {
                if !index.manifests.contains(where: { $0.digest == descriptor.digest }) {
                    index.manifests.append(entry)
                }
                return
            }
            let text = name.tagged.description
            let old = index.manifests.filter { $0.annotation(Descriptor.refName) == text }
            index.manifests.removeAll { item in
                item.annotation(Descriptor.refName) == text
                    || (item.digest == descriptor.digest && item.annotation(Descriptor.refName) == nil)
            }
            entry.annotations += [
                (Descriptor.refName, text), (Descriptor.containerdName, name.tagged.canonical),
            ]
            index.manifests.append(entry)
            // The image that had the name stays, without one, until gc is asked to take such images.
            for var item in old where !index.manifests.contains(where: { $0.digest == item.digest }) {
                item.annotations.removeAll {
                    $0.key == Descriptor.refName || $0.key == Descriptor.containerdName
                }
                index.manifests.append(item)
            }
        }
    }
}

/// The digest and size of what is left of an open file.
func hashFile(_ fd: Int32, _ algorithm: Digest.Algorithm) throws(FileError) -> (Digest, Int64) {
    var hasher = Digest.Hasher(algorithm)
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
    defer { buffer.deallocate() }
    while true {
        let count = try read(fd, into: buffer)
        if count == 0 { return (hasher.finish(), hasher.count) }
        hasher.update(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
    }
}
