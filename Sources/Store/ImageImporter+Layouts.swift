import Files
import Layers
import OCI

extension ImageImporter {
    /// The images of an OCI layout.
    func layoutCandidates(_ source: any ContentSource, name: String) throws(StoreError) -> [ImageCandidate] {
        let words = "'\(printable(name))'"
        guard let marker = try source.read("oci-layout", limit: 4096),
            let indexBytes = try source.read("index.json", limit: Store.maximumIndexSize)
        else {
            throw StoreError(.malformed, "\(words) is no OCI layout: oci-layout or index.json is missing")
        }
        let (version, index) = try parsing("\(words)") { () throws(OCIError) in
            (
                try JSON(parsing: marker)["imageLayoutVersion"]?.string,
                try ImageIndex(parsingLayoutIndex: indexBytes)
            )
        }
        guard version?.hasPrefix("1.") == true else {
            throw StoreError(
                .unsupported, "\(words) is an OCI layout of version \(version ?? "?"); version 1 is known")
        }
        var candidates: [ImageCandidate] = []
        for descriptor in index.manifests {
            guard MediaType.isIndex(descriptor.mediaType) || MediaType.isManifest(descriptor.mediaType) else {
                if index.manifests.count == 1 {
                    throw StoreError(
                        .unsupported,
                        "\(words): the media type '\(printable(descriptor.mediaType))' is no image")
                }
                continue
            }
            guard isImageDocument(descriptor) else { continue }
            var candidate = ImageCandidate(root: descriptor)
            candidate.name = ImageImporter.name(of: descriptor, input: name)
            candidate.root.annotations = descriptor.annotations.filter {
                $0.key != Descriptor.refName && $0.key != Descriptor.containerdName
            }
            candidates.append(candidate)
        }
        if let ref = request.ref, candidates.count > 1 {
            // Only what is asked for has to be whole.
            let wanted = candidates.filter { $0.name?.description == ref || $0.name?.tag == ref }
            if !wanted.isEmpty { candidates = wanted }
        }
        for index in candidates.indices {
            let words =
                "the image \(candidates[index].name?.description ?? candidates[index].root.digest.description)"
            try collect(
                candidates[index].root, source, into: &candidates[index], words, isRoot: true, depth: 0)
            try choosePlatform(&candidates[index], words)
        }
        return candidates
    }

    /// Reads a manifest or index and what it leads to.
    private func collect(
        _ descriptor: Descriptor, _ source: any ContentSource, into candidate: inout ImageCandidate,
        _ words: String,
        isRoot: Bool, depth: Int
    ) throws(StoreError) {
        guard depth < 4 else { throw StoreError(.malformed, "\(words): indexes are nested deeper than 4") }
        guard let bytes = try source.document(descriptor, limit: maximumManifestSize) else {
            if !isRoot { return }
            throw StoreError(
                .damaged, "\(words) lacks its manifest \(descriptor.digest)",
                hint: "the layout or archive is incomplete; get it again")
        }
        let document = try parsing(words) { () throws(OCIError) in
            try ImageDocument(parsing: bytes, mediaType: descriptor.mediaType)
        }
        switch document {
        case .index(let index):
            candidate.documents.append((descriptor.digest, bytes))
            for child in index.manifests where isImageDocument(child) {
                try collect(child, source, into: &candidate, words, isRoot: false, depth: depth + 1)
            }
        case .manifest(let manifest):
            try collect(manifest, (descriptor.digest, bytes), source, &candidate, words, isRoot: isRoot)
        }
    }

    private func collect(
        _ manifest: Manifest, _ document: (digest: Digest, bytes: [UInt8]), _ source: any ContentSource,
        _ candidate: inout ImageCandidate, _ words: String, isRoot: Bool
    ) throws(StoreError) {
        guard let configBytes = try source.document(manifest.config, limit: maximumConfigSize) else {
            if !isRoot { return }
            throw StoreError(
                .damaged, "\(words) lacks its configuration \(manifest.config.digest)",
                hint: "the layout or archive is incomplete; get it again")
        }
        let config = try parsing(words) { () throws(OCIError) in try ImageConfig(parsing: configBytes) }
        guard config.diffIDs.count == manifest.layers.count else {
            throw StoreError(
                .malformed,
                "\(words) has \(manifest.layers.count) layers, its configuration \(config.diffIDs.count) diff IDs"
            )
        }
        let paths = manifest.layers.map { Store.blobPath($0.digest) }
        if !isRoot {
            // An index may come with the layers of some platforms only (docker save since 25).
            for path in paths where try source.open(path) == nil { return }
        }
        candidate.documents += [document, (manifest.config.digest, configBytes)]
        candidate.images.append(
            .init(manifest: manifest, config: config, layerPaths: paths, isUnpacked: false))
    }

    /// Marks the image for this machine, or for the wished platform, to be unpacked.
    private func choosePlatform(_ candidate: inout ImageCandidate, _ words: String) throws(StoreError) {
        let wanted = request.platform ?? .host
        if let index = candidate.images.firstIndex(where: { wanted.accepts($0.config.platform) }) {
            candidate.images[index].isUnpacked = true
            return
        }
        let list = candidate.images.map(\.config.platform.description).joined(separator: ", ")
        guard !candidate.images.isEmpty, request.platform == nil else {
            throw StoreError(
                .unsupported,
                "\(words) is for \(list.isEmpty ? "no platform that is complete" : list), not for \(wanted)",
                hint: candidate.images.first.map { "take it as it is: --platform \($0.config.platform)" })
        }
        throw StoreError(
            .unsupported, "\(words) is for \(list), this machine is \(wanted)",
            hint: candidate.images.first.map { "take it in all the same: --platform \($0.config.platform)" })
    }

    /// The name that a layout gives an image: containerd's full name first, then the reference name, which is a name or
    /// a tag only.
    static func name(of descriptor: Descriptor, input: String) -> Reference? {
        if let full = descriptor.annotation(Descriptor.containerdName),
            let name = try? Reference(parsing: full)
        {
            return name
        }
        guard let text = descriptor.annotation(Descriptor.refName) else { return nil }
        if text.contains(":") || text.contains("/") { return try? Reference(parsing: text) }
        guard Reference.isTag(text), let base = repository(fromInput: input) else {
            return try? Reference(parsing: text)
        }
        return try? Reference(parsing: "\(base):\(text)")
    }

    /// A repository's name from the name of a file or directory, for layouts that say only a tag.
    private static func repository(fromInput input: String) -> String? {
        guard input != "standard input" else { return nil }
        let file = input.split(separator: "/").last.map(String.init) ?? ""
        let stem = file.split(separator: ".").first.map { $0.lowercased() } ?? ""
        return (try? Reference(parsing: stem))?.name
    }

    // MARK: - Archives

    /// The images of an OCI archive, or of `docker save` in any of its shapes.
    func archiveCandidates(_ source: SpooledArchive, name: String) throws(StoreError) -> [ImageCandidate] {
        let hasLayout = source.known("oci-layout") != nil && source.known("index.json") != nil
        let manifest = try source.read("manifest.json", limit: maximumManifestSize)
        // docker 25 and newer write both; the layout keeps the digest of the manifest.
        if hasLayout, try isComplete(source) || manifest == nil {
            return try layoutCandidates(source, name: name)
        }
        guard let manifest else {
            throw StoreError(
                .malformed, "'\(printable(name))' is neither an OCI archive nor a docker archive",
                hint: "manifest.json, or oci-layout and index.json, are missing; the file may be cut short")
        }
        return try dockerCandidates(source, manifest, name)
    }

    private func isComplete(_ source: SpooledArchive) throws(StoreError) -> Bool {
        guard let bytes = try source.read("index.json", limit: Store.maximumIndexSize),
            let index = try? ImageIndex(parsingLayoutIndex: bytes)
        else { return false }
        for descriptor in index.manifests where try source.open(Store.blobPath(descriptor.digest)) == nil {
            return false
        }
        return !index.manifests.isEmpty
    }

    private func dockerCandidates(
        _ source: SpooledArchive, _ manifest: [UInt8], _ name: String
    ) throws(StoreError) -> [ImageCandidate] {
        let words = "the docker archive '\(printable(name))'"
        let json = try parsing(words) { () throws(OCIError) in try JSON(parsing: manifest) }
        guard let items = json.array, !items.isEmpty else {
            throw StoreError(.malformed, "\(words): manifest.json is no list of images")
        }
        var candidates: [ImageCandidate] = []
        for item in items {
            guard let configPath = item["Config"]?.string, let layers = item["Layers"]?.array else {
                throw StoreError(.malformed, "\(words): an image in manifest.json has no Config or Layers")
            }
            let paths = layers.compactMap(\.string)
            let candidate = try dockerCandidate(source, configPath, paths, words)
            let tags = (item["RepoTags"]?.array ?? []).compactMap(\.string).compactMap {
                try? Reference(parsing: $0)
            }
            if tags.isEmpty { candidates.append(candidate) }
            for tag in tags {
                var named = candidate
                named.name = tag
                candidates.append(named)
            }
        }
        return candidates
    }

    private func dockerCandidate(
        _ source: SpooledArchive, _ configPath: String, _ paths: [String], _ words: String
    ) throws(StoreError) -> ImageCandidate {
        guard let bytes = try source.read(configPath, limit: maximumConfigSize) else {
            throw StoreError(.damaged, "\(words) lacks the configuration '\(printable(configPath))'")
        }
        // docker names the configuration by its digest; a name that says otherwise is a lie or damage.
        let stem = configPath.split(separator: "/").last.map(String.init)?.split(separator: ".").first.map(
            String.init)
        let digest = Digest(of: bytes)
        if let stem, let promised = try? Digest(parsing: "sha256:\(stem)"), promised != digest {
            throw StoreError(
                .damaged, "\(words): the configuration '\(printable(configPath))' has the digest \(digest)")
        }
        let config = try parsing(words) { () throws(OCIError) in try ImageConfig(parsing: bytes) }
        guard config.diffIDs.count == paths.count else {
            throw StoreError(
                .malformed,
                "\(words) has \(paths.count) layers, its configuration \(config.diffIDs.count) diff IDs")
        }
        var layers: [Descriptor] = []
        for path in paths {
            guard let fd = try source.open(path), let known = source.known(path) else {
                throw StoreError(.damaged, "\(words) lacks the layer '\(printable(path))'")
            }
            let start = try filing { () throws(FileError) in
                try readStart(fd.raw, Compression.magicLength)
            }
            let compression: LayerCompression
            switch Compression.sniff(start) {
            case .none: compression = .none
            case .gzip: compression = .gzip
            case .zstd: compression = .zstd
            case .xz, .bzip2:
                throw StoreError(
                    .unsupported, "\(words): the layer '\(printable(path))' is compressed with xz or bzip2")
            }
            layers.append(
                Descriptor(mediaType: compression.mediaType, digest: known.digest, size: known.size))
        }
        let manifest = Manifest(
            config: Descriptor(mediaType: MediaType.config, digest: digest, size: Int64(bytes.count)),
            layers: layers)
        let text = manifest.serialized()
        var candidate = ImageCandidate(
            root: Descriptor(
                mediaType: MediaType.manifest, digest: Digest(of: text), size: Int64(text.count),
                platform: config.platform))
        candidate.documents = [(candidate.root.digest, text), (digest, bytes)]
        candidate.images = [.init(manifest: manifest, config: config, layerPaths: paths, isUnpacked: false)]
        try choosePlatform(&candidate, words)
        return candidate
    }
}

/// The first bytes of a file.
func readStart(_ fd: Int32, _ count: Int) throws(FileError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    let length = try bytes.withUnsafeMutableBytes { space in
        attempt { () throws(FileError) in try read(fd, into: space) }
    }.get()
    return Array(bytes[..<length])
}
