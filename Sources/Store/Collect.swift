import CKernel
import Files
import Glibc
import Layers
package import OCI
import SystemPackage

/// What `gc` would remove, or has removed.
package struct GarbageReport: Sendable {
    /// Name below the store, and bytes on disk.
    package var removed: [(name: String, size: Int64)] = []
    package var freed: Int64 { removed.reduce(0) { $0 + $1.size } }
}

/// Where the store's bytes are, as `du` counts them.
package struct StoreUsage: Sendable {
    package struct Part: Sendable {
        package let name: String
        package let count: Int
        /// Bytes on disk.
        package let size: Int64
        /// Bytes that gc would free.
        package let reclaimable: Int64
    }

    package var parts: [Part]
    package var total: Int64 { parts.reduce(0) { $0 + $1.size } }
}

/// Everything that images and containers need.
private struct Reachable {
    var blobs: Set<Digest> = []
    var layers: Set<Digest> = []
}

extension Store {
    /// Removes blobs and layers that no image and no container needs, and what dead processes left behind.
    /// With `prunesUnnamed`, images without a name go first.
    package func collectGarbage(
        dryRun: Bool = false, prunesUnnamed: Bool = false
    ) throws(StoreError) -> GarbageReport {
        let content = try lock(LockRange.content, .exclusive)
        defer { _ = content }
        var report = GarbageReport()
        if prunesUnnamed, !dryRun {
            try updateIndex { index throws(StoreError) in
                index.manifests.removeAll { $0.annotation(Descriptor.refName) == nil }
            }
        }
        let reachable = try self.reachable()
        for (name, isDirectory, isWanted) in try stored(reachable) where !isWanted {
            let size = try filing { () throws(FileError) in try diskUsage(of: name, at: root) }
            if !dryRun { try remove(name, isDirectory: isDirectory) }
            report.removed.append((name, size))
        }
        if !dryRun {
            let freed = try filing { () throws(FileError) in try Staging.sweep(self) }
            if freed > 0 { report.removed.append(("staging", freed)) }
            try sweepTemporaries()
        }
        return report
    }

    /// A directory leaves its place by one rename: half a layer is never seen under a layer's name.
    private func remove(_ name: String, isDirectory: Bool) throws(StoreError) {
        try filing { () throws(FileError) in
            guard isDirectory else { return try unlink(name, at: root, missingIsFine: true) }
            let trash = "staging/trash-\(getpid())-\(name.split(separator: "/").last ?? "")"
            try rename(name, at: root, to: trash, at: root)
            try removeTree(trash, at: root)
        }
    }

    /// Files that a killed process had begun to put in the place of others.
    private func sweepTemporaries() throws(StoreError) {
        try filing { () throws(FileError) in
            for entry in try entries(of: root) {
                let name = String(decoding: entry.bytes, as: UTF8.self)
                if name.hasPrefix("."), name.hasSuffix(".new") {
                    try unlink(name, at: root, missingIsFine: true)
                }
            }
        }
    }

    /// The names of all blobs and layers, and whether something needs them.
    private func stored(
        _ reachable: Reachable
    ) throws(StoreError) -> [(name: String, isDirectory: Bool, isWanted: Bool)] {
        var result: [(name: String, isDirectory: Bool, isWanted: Bool)] = []
        for algorithm in try names(in: "blobs") {
            for hex in try names(in: "blobs/\(algorithm)") {
                let digest = try? Digest(parsing: "\(algorithm):\(hex)")
                let isWanted = digest.map(reachable.blobs.contains) ?? false
                result.append(("blobs/\(algorithm)/\(hex)", false, isWanted))
            }
        }
        for name in try names(in: "layers") {
            let isWanted = Store.layerKey(name).map(reachable.layers.contains) ?? false
            result.append(("layers/\(name)", true, isWanted))
        }
        return result
    }

    func names(in directory: String) throws(StoreError) -> [String] {
        try filing { () throws(FileError) in
            let fd = try open(directory, O_RDONLY | O_DIRECTORY, at: root)
            return try entries(of: fd.raw).map { String(decoding: $0.bytes, as: UTF8.self) }
        }
    }

    private func reachable() throws(StoreError) -> Reachable {
        var reachable = Reachable()
        for descriptor in try index().manifests { try mark(descriptor, &reachable, depth: 0) }
        for name in try names(in: "containers") where !name.hasPrefix(".") {
            // A container keeps its layers, whatever becomes of the image.
            guard let bytes = try? readFile("containers/\(name)/state.json", at: root, limit: 16 << 20),
                let state = try? JSON(parsing: bytes)
            else { continue }
            for layer in state["layers"]?.array ?? [] {
                let parts = (layer.string ?? "").split(separator: "/").map(String.init)
                for part in parts { if let key = Store.layerKey(part) { reachable.layers.insert(key) } }
            }
        }
        return reachable
    }

    private func mark(_ descriptor: Descriptor, _ reachable: inout Reachable, depth: Int) throws(StoreError) {
        guard depth < 4, reachable.blobs.insert(descriptor.digest).inserted else { return }
        guard MediaType.isIndex(descriptor.mediaType) || MediaType.isManifest(descriptor.mediaType) else {
            return
        }
        // What cannot be read keeps what it may need: gc must not turn damage into loss.
        guard try hasBlob(descriptor.digest) else { return }
        let bytes = try self.document(descriptor, limit: maximumManifestSize)
        let document = try parsing("the manifest \(descriptor.digest)") { () throws(OCIError) in
            try ImageDocument(parsing: bytes, mediaType: descriptor.mediaType)
        }
        switch document {
        case .index(let index):
            for child in index.manifests { try mark(child, &reachable, depth: depth + 1) }
        case .manifest(let manifest):
            reachable.blobs.insert(manifest.config.digest)
            for layer in manifest.layers { reachable.blobs.insert(layer.digest) }
            guard let config = try? self.config(manifest) else { return }
            for number in config.diffIDs.indices {
                reachable.layers.insert(config.diffIDs[number])
                if let chain = chainID(config.diffIDs[...number]) { reachable.layers.insert(chain) }
            }
        }
    }

    /// The space that the store takes, part by part; the sum is what `du` says.
    package func usage() throws(StoreError) -> StoreUsage {
        let reachable = try self.reachable()
        var sums: [String: (count: Int, size: Int64, reclaimable: Int64)] = [:]
        for (name, isDirectory, isWanted) in try stored(reachable) {
            let size = try filing { () throws(FileError) in try diskUsage(of: name, at: root) }
            let key = isDirectory ? "layers" : "blobs"
            sums[key, default: (0, 0, 0)].count += 1
            sums[key, default: (0, 0, 0)].size += size
            if !isWanted { sums[key, default: (0, 0, 0)].reclaimable += size }
        }
        var parts: [StoreUsage.Part] = []
        for (title, key) in [
            ("Blobs", "blobs"), ("Layers", "layers"), ("Containers", "containers"), ("Staging", "staging"),
        ] {
            let all = try filing { () throws(FileError) in try diskUsage(of: key, at: root) }
            let count = try names(in: key).filter { !$0.hasPrefix(".") }.count
            let sum = sums[key] ?? (key == "blobs" ? 0 : count, 0, 0)
            parts.append(.init(name: title, count: sum.count, size: all, reclaimable: sum.reclaimable))
        }
        let whole = try filing { () throws(FileError) in try diskUsage(of: ".", at: root) }
        let rest = whole - parts.reduce(0) { $0 + $1.size }
        parts.append(
            .init(name: "Index and lock", count: try index().manifests.count, size: rest, reclaimable: 0))
        return StoreUsage(parts: parts)
    }

    /// Takes a name from its image, or with a digest all names. The content stays until `collectGarbage`.
    /// The result: the names and digests that went, as docker prints them.
    package func remove(_ text: String) throws(StoreError) -> (untagged: [String], deleted: Digest?) {
        let name = try parsing("") { () throws(OCIError) in try ImageName(parsing: text) }
        let found = try find(name)
        var untagged: [String] = []
        var deleted: Digest?
        try updateIndex { index throws(StoreError) in
            for descriptor in found {
                index.manifests.removeAll { $0 == descriptor }
                if let name = descriptor.annotation(Descriptor.refName) { untagged.append(name) }
            }
            if let first = found.first, !index.manifests.contains(where: { $0.digest == first.digest }) {
                deleted = first.digest
            }
        }
        return (untagged, deleted)
    }

    /// Gives an image one more name.
    package func tag(_ text: String, as name: Reference) throws(StoreError) {
        guard name.digest == nil else {
            throw StoreError(.refused, "a name to give has no digest: '\(name)'")
        }
        let source = try parsing("") { () throws(OCIError) in try ImageName(parsing: text) }
        guard let descriptor = try find(source).first else { return }
        try addToIndex(descriptor, name: name)
    }
}
