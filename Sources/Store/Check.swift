import Files
import Glibc
import Layers
import OCI
import SystemPackage

/// Something that is wrong with the store.
package struct StoreProblem: Sendable {
    /// A blob, layer or image.
    package let object: String
    package let message: String
    /// What `--repair` did, or would do.
    package let remedy: String
    package var isRepaired = false
}

extension Store {
    /// Looks at all that the index names: blobs there and of the right size, documents readable, layers unpacked. With
    /// `deep` every byte is read: digests of blobs, and unpacked layers compared with their archives.
    package func check(deep: Bool, repair: Bool) throws(StoreError) -> [StoreProblem] {
        let content = try lock(LockRange.content, repair ? .exclusive : .shared)
        defer { _ = content }
        var problems: [StoreProblem] = []
        try checkMarker(repair, &problems)
        var seen: Set<Digest> = []
        var lost: Set<Digest> = []
        for descriptor in try index().manifests where seen.insert(descriptor.digest).inserted {
            let before = problems.count
            try checkImage(descriptor, deep: deep, repair: repair, &problems, &seen)
            let isLost = problems[before...].contains { $0.remedy == StoreProblem.lostImage }
            if isLost { lost.insert(descriptor.digest) }
        }
        if repair, !lost.isEmpty {
            try updateIndex { index throws(StoreError) in
                index.manifests.removeAll { lost.contains($0.digest) }
            }
        }
        return problems
    }

    private func checkMarker(_ repair: Bool, _ problems: inout [StoreProblem]) throws(StoreError) {
        let bytes = (try? readFile("oci-layout", at: root, limit: 4096)) ?? []
        guard bytes != Store.layoutFile else { return }
        var problem = StoreProblem(
            object: "oci-layout", message: "the file is missing or damaged", remedy: "write it anew")
        if repair {
            try filing { () throws(FileError) in
                try replaceFile("oci-layout", at: root, with: Store.layoutFile)
            }
            problem.isRepaired = true
        }
        problems.append(problem)
    }

    private func checkImage(
        _ descriptor: Descriptor, deep: Bool, repair: Bool, _ problems: inout [StoreProblem],
        _ seen: inout Set<Digest>
    ) throws(StoreError) {
        let name = descriptor.annotation(Descriptor.refName) ?? descriptor.digest.description
        func lose(_ message: String) {
            problems.append(
                StoreProblem(
                    object: "image \(name)", message: message, remedy: StoreProblem.lostImage,
                    isRepaired: repair))
        }
        let manifests: [(descriptor: Descriptor, manifest: Manifest)]
        do throws(StoreError) { manifests = try self.manifests(of: descriptor) } catch {
            return lose(error.message)
        }
        for (_, manifest) in manifests {
            let config: ImageConfig
            do throws(StoreError) { config = try self.config(manifest) } catch { return lose(error.message) }
            for layer in manifest.layers {
                guard try hasBlob(layer.digest) else { return lose("the blob \(layer.digest) is missing") }
                guard deep || !seen.contains(layer.digest) else { continue }
                if let message = try checkBlob(layer, deep: deep && seen.insert(layer.digest).inserted) {
                    return lose(message)
                }
            }
            try checkLayers(manifest, config, name, deep: deep, repair: repair, &problems)
        }
    }

    private func checkBlob(_ layer: Descriptor, deep: Bool) throws(StoreError) -> String? {
        let fd = try openBlob(layer.digest)
        let size = try filing { () throws(FileError) in try status(of: fd.raw).size }
        guard size == layer.size else {
            return "the blob \(layer.digest) has \(size) bytes instead of \(layer.size)"
        }
        guard deep else { return nil }
        let (digest, _) = try filing { () throws(FileError) in try hashFile(fd.raw, layer.digest.algorithm) }
        return digest == layer.digest ? nil : "the blob \(layer.digest) has the digest \(digest)"
    }

    /// Layers can always be made again from their blobs.
    private func checkLayers(
        _ manifest: Manifest, _ config: ImageConfig, _ name: String, deep: Bool, repair: Bool,
        _ problems: inout [StoreProblem]
    ) throws(StoreError) {
        var keys: [Digest] = []
        for number in config.diffIDs.indices {
            // The layers of other platforms are not unpacked.
            guard let key = try findLayer(config.diffIDs, number) else { return }
            keys.append(key)
        }
        guard deep else { return }
        let staging = try Staging(in: self)
        let unpacking = LayerUnpacking(store: self, staging: staging, options: UnpackOptions(), progress: nil)
        let inputs = layerInputs(manifest, config)
        for (number, key) in keys.enumerated() {
            let fresh = try unpacking.unpackAgain(
                inputs[number], config.diffIDs, number, below: keys[..<number].map(treePath))
            guard let difference = try firstDifference(treePath(key), fresh) else { continue }
            var problem = StoreProblem(
                object: "layer \(key)", message: "the unpacked layer differs from its archive: \(difference)",
                remedy: "unpack it again")
            if repair {
                try filing { () throws(FileError) in
                    try rename(Store.layerPath(key) + "/tree", at: root, to: "old", at: staging.fd.raw)
                    try rename(
                        "layer-0-\(number)/tree", at: staging.fd.raw, to: Store.layerPath(key) + "/tree",
                        at: root)
                    try removeTree("old", at: staging.fd.raw)
                }
                problem.isRepaired = true
            }
            problems.append(problem)
        }
    }

    private func firstDifference(_ stored: String, _ fresh: String) throws(StoreError) -> String? {
        try filing { () throws(FileError) in
            let first = try LayerStack([stored], form: overlayForm)
            let second = try LayerStack([fresh], form: overlayForm)
            var found: String?
            try TreeComparison(first, second, rawLayers: true).run { change in
                if found == nil { found = "\(change.kind.rawValue) \(change.path)" }
            }
            return found
        }
    }
}

extension StoreProblem {
    static let lostImage = "remove the image from the index; get it again from where it came"
}
