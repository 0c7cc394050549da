import Files
import Layers
package import OCI

/// An image of the store, for one platform.
package struct ResolvedImage: Sendable {
    /// As the user asked for it.
    package let name: String
    /// The names that the index has for it.
    package let references: [Reference]
    /// What the index names: the manifest, or an index over several platforms.
    package let root: Descriptor
    package let manifestDescriptor: Descriptor
    package let manifest: Manifest
    package let config: ImageConfig

    package var manifestDigest: Digest { manifestDescriptor.digest }
    package var configDigest: Digest { manifest.config.digest }
}

extension Store {
    /// The names of the descriptors in the index, the nameless ones among them.
    package func images() throws(StoreError) -> [(reference: Reference?, descriptor: Descriptor)] {
        try index().manifests.map {
            ($0.annotation(Descriptor.refName).flatMap { try? Reference(parsing: $0) }, $0)
        }
    }

    /// Finds what a name stands for: a reference, a digest of an index, manifest or configuration, or the beginning of
    /// one.
    package func find(_ name: ImageName) throws(StoreError) -> [Descriptor] {
        let all = try index().manifests
        func named(_ reference: Reference) -> [Descriptor] {
            all.filter { descriptor in
                guard let text = descriptor.annotation(Descriptor.refName),
                    let other = try? Reference(parsing: text)
                else { return false }
                if let digest = reference.digest {
                    return other.name == reference.name && (reference.tag ?? other.tag) == other.tag
                        && descriptor.digest == digest
                }
                return other.canonical == reference.canonical
            }
        }
        switch name {
        case .reference(let reference):
            let found = named(reference)
            guard !found.isEmpty else { throw notFound(name, all) }
            return found
        case .digest(let digest): return try matching(name, all) { $0 == digest }
        case .prefix(let hex, let reference):
            let found = named(reference)
            if !found.isEmpty { return found }
            return try matching(name, all) { $0.hex.hasPrefix(hex) }
        }
    }

    private func matching(
        _ name: ImageName, _ all: [Descriptor], _ isWanted: (Digest) -> Bool
    ) throws(StoreError) -> [Descriptor] {
        var found: [Descriptor] = []
        for descriptor in all {
            if isWanted(descriptor.digest) {
                found.append(descriptor)
                continue
            }
            // People know an image by the digest of its configuration as well: docker's image ID.
            let members = (try? manifests(of: descriptor)) ?? []
            if members.contains(where: {
                isWanted($0.descriptor.digest) || isWanted($0.manifest.config.digest)
            }) {
                found.append(descriptor)
            }
        }
        let digests = Set(found.map(\.digest))
        guard digests.count <= 1 else {
            throw StoreError(
                .ambiguous, "'\(name)' is the beginning of \(digests.count) images", hint: "give more digits")
        }
        guard !found.isEmpty else { throw notFound(name, all) }
        return found
    }

    private func notFound(_ name: ImageName, _ all: [Descriptor]) -> StoreError {
        let known = Set(all.compactMap { $0.annotation(Descriptor.refName) }).sorted()
        let near = nearest(name.description, known)
        let hint = near.map { "is '\($0)' meant? All images: imgbox images" }
        return StoreError(
            .notFound, "no image '\(printable(name.description))' in the store",
            hint: hint ?? "take one in with: imgbox pull-local PATH \(printable(name.description))")
    }

    /// The manifests that a descriptor leads to: itself, or those of the platforms in an index that are here.
    package func manifests(
        of root: Descriptor, depth: Int = 0
    ) throws(StoreError) -> [(descriptor: Descriptor, manifest: Manifest)] {
        guard depth < 4 else { throw StoreError(.malformed, "indexes are nested deeper than 4") }
        let bytes = try document(root, limit: maximumManifestSize)
        let document = try parsing("the manifest \(root.digest)") { () throws(OCIError) in
            try ImageDocument(parsing: bytes, mediaType: root.mediaType)
        }
        switch document {
        case .manifest(let manifest): return [(root, manifest)]
        case .index(let index):
            var result: [(descriptor: Descriptor, manifest: Manifest)] = []
            for child in index.manifests where isImageDocument(child) {
                // An archive may bring only some platforms of an index.
                guard try hasBlob(child.digest) else { continue }
                result += try manifests(of: child, depth: depth + 1)
            }
            return result
        }
    }

    /// Resolves a name to the image for a platform.
    package func resolve(_ text: String, platform: Platform? = nil) throws(StoreError) -> ResolvedImage {
        let name = try parsing("") { () throws(OCIError) in try ImageName(parsing: text) }
        let found = try find(name)
        guard let root = found.first else { throw StoreError(.notFound, "no image '\(text)'") }
        let references = found.compactMap {
            $0.annotation(Descriptor.refName).flatMap { try? Reference(parsing: $0) }
        }
        let candidates = try manifests(of: root)
        let wanted = platform ?? .host
        var known: [Platform] = []
        for (descriptor, manifest) in candidates {
            let config = try self.config(manifest)
            known.append(config.platform)
            if case .digest(let digest) = name,
                digest == descriptor.digest || digest == manifest.config.digest
            {
                guard platform == nil || wanted.accepts(config.platform) else { continue }
            } else if !wanted.accepts(descriptor.platform ?? config.platform) {
                continue
            }
            return ResolvedImage(
                name: text, references: references, root: root, manifestDescriptor: descriptor,
                manifest: manifest,
                config: config)
        }
        let list = known.map(\.description).joined(separator: ", ")
        throw StoreError(
            .unsupported,
            "the image '\(printable(text))' is for \(list.isEmpty ? "no platform" : list), not for \(wanted)",
            hint: known.first.map { "use it as it is with --platform \($0)" })
    }

    package func config(_ manifest: Manifest) throws(StoreError) -> ImageConfig {
        let bytes = try document(manifest.config, limit: maximumConfigSize)
        let config = try parsing("the configuration \(manifest.config.digest)") { () throws(OCIError) in
            try ImageConfig(parsing: bytes)
        }
        guard config.diffIDs.count == manifest.layers.count else {
            throw StoreError(
                .malformed,
                "the image has \(manifest.layers.count) layers, its configuration \(config.diffIDs.count) diff IDs"
            )
        }
        return config
    }

    /// The unpacked layers of an image, bottom first, absolute paths. Those that are missing are unpacked now.
    /// The caller holds the content lock as long as it uses them.
    package func layerTrees(_ image: ResolvedImage) throws(StoreError) -> [String] {
        if let trees = try layerTreesIfPresent(image) { return trees }
        try unpackLayers(of: image)
        guard let trees = try layerTreesIfPresent(image) else {
            throw StoreError(
                .damaged, "the layers of '\(image.name)' cannot be unpacked", hint: "imgbox fsck --deep")
        }
        return trees
    }

    func layerTreesIfPresent(_ image: ResolvedImage) throws(StoreError) -> [String]? {
        var trees: [String] = []
        for number in image.config.diffIDs.indices {
            guard let key = try findLayer(image.config.diffIDs, number) else { return nil }
            trees.append(treePath(key))
        }
        return trees
    }
}

/// Whether a descriptor leads to an image document; artifacts and attestations do not run.
func isImageDocument(_ descriptor: Descriptor) -> Bool {
    guard MediaType.isIndex(descriptor.mediaType) || MediaType.isManifest(descriptor.mediaType) else {
        return false
    }
    return descriptor.annotation("vnd.docker.reference.type") == nil
}

/// The known word with the fewest differences, if it is near at all.
func nearest(_ word: String, _ known: [String]) -> String? {
    func distance(_ a: [UInt8], _ b: [UInt8]) -> Int {
        var row = Array(0...b.count)
        for (i, x) in a.enumerated() {
            var corner = row[0]
            row[0] = i + 1
            for (j, y) in b.enumerated() {
                let next = min(row[j] + 1, row[j + 1] + 1, corner + (x == y ? 0 : 1))
                corner = row[j + 1]
                row[j + 1] = next
            }
        }
        return row[b.count]
    }
    let target = Array(word.utf8.prefix(100))
    let scored = known.prefix(1000).map { ($0, distance(target, Array($0.utf8.prefix(100)))) }
    return scored.filter { $0.1 <= max(2, target.count / 3) }.min { $0.1 < $1.1 }?.0
}
