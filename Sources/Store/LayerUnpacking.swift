import Files
import Glibc
import Layers
import OCI
import SystemPackage

/// Where the bytes of a layer are, and what is promised of them.
struct LayerInput: Sendable {
    /// The blob's digest, also its name in progress.
    let descriptor: Descriptor
    let source: LayerSource
    /// Opens the compressed bytes; called from any thread.
    let open: @Sendable () throws(StoreError) -> OwnedFD
}

/// A layer that was unpacked into the staging directory.
struct StagedLayer: Sendable {
    let record: LayerRecord
    /// The directory below staging that holds `tree` and `layer.json`.
    let name: String
}

/// Unpacks the layers of one image that the store does not have yet.
struct LayerUnpacking: Sendable {
    let store: Store
    let staging: Staging
    let options: UnpackOptions
    let progress: ProgressHandler?

    private enum Attempt: Sendable {
        case present
        case staged(StagedLayer, [LayerPath], UnpackReport)
        case needsLower
        case failed(StoreError)
    }

    /// First every layer alone and at once; then, in order, those that turned out to depend on the layers below.
    /// The blob of each layer is verified in any case.
    func run(
        _ inputs: [LayerInput], diffIDs: [Digest], group: Int
    ) throws(StoreError) -> (staged: [StagedLayer], report: UnpackReport) {
        let attempts: [Attempt]
        do throws(LayerError) {
            attempts = try parallelMap(inputs, width: max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))) {
                number, input in
                do throws(StoreError) {
                    if try store.findLayer(diffIDs, number) != nil {
                        try verify(input)
                        return .present
                    }
                    return try unpack(input, diffIDs, number, group, below: nil)
                } catch {
                    return .failed(error)
                }
            }
        } catch { throw StoreError(error) }
        for case .failed(let error) in attempts { throw error }

        var trees: [String] = []
        var staged: [StagedLayer] = []
        var report = UnpackReport()
        for (number, attempt) in attempts.enumerated() {
            if case .present = attempt, let key = try store.findLayer(diffIDs, number) {
                trees.append(store.treePath(key))
                continue
            }
            var result = attempt
            if try dependsOnLower(attempt, trees) {
                result = try unpack(inputs[number], diffIDs, number, group, below: trees)
            }
            guard case .staged(let layer, _, let part) = result else {
                throw StoreError(.damaged, "layer \(inputs[number].descriptor.digest) cannot be unpacked")
            }
            staged.append(layer)
            report.add(part)
            trees.append(stagedTree(layer.name))
        }
        return (staged, report)
    }

    private func dependsOnLower(_ attempt: Attempt, _ trees: [String]) throws(StoreError) -> Bool {
        switch attempt {
        case .needsLower: return true
        case .staged(_, let whiteouts, _) where !whiteouts.isEmpty:
            return try filing { () throws(FileError) in
                let stack = try LayerStack(trees, form: store.overlayForm)
                for path in whiteouts where try stack.lookup(path) == nil { return true }
                return false
            }
        default: return false
        }
    }

    /// Unpacks one layer into the staging directory whatever the store has, on the given layers; for comparing.
    /// The result is the path of the tree.
    func unpackAgain(
        _ input: LayerInput, _ diffIDs: [Digest], _ number: Int, below: [String]
    ) throws(StoreError) -> String {
        _ = try unpack(input, diffIDs, number, 0, below: below)
        return stagedTree("layer-0-\(number)")
    }

    private func stagedTree(_ name: String) -> String {
        store.path.appending("staging").appending(staging.name).appending(name).appending("tree").string
    }

    /// Reads the blob to its end and compares its digests, without writing.
    func verify(_ input: LayerInput) throws(StoreError) {
        progress?(input.descriptor.digest, .verifying)
        let fd = try input.open()
        do throws(LayerError) {
            _ = try applyLayer(fd.raw, input.source, to: nil, progress: reporter(input))
        } catch {
            throw StoreError(error, "layer \(input.descriptor.digest)")
        }
        progress?(input.descriptor.digest, .done)
    }

    private func reporter(_ input: LayerInput) -> (@Sendable (Int64) -> Void)? {
        guard let progress else { return nil }
        return { progress(input.descriptor.digest, .advanced($0)) }
    }

    private func unpack(
        _ input: LayerInput, _ diffIDs: [Digest], _ number: Int, _ group: Int, below: [String]?
    ) throws(StoreError) -> Attempt {
        progress?(input.descriptor.digest, .unpacking)
        let words = "layer \(input.descriptor.digest)"
        let name = "layer-\(group)-\(number)"
        let fd = try input.open()
        let tree = try filing(words) { () throws(FileError) in
            try removeTree(name, at: staging.fd.raw)
            try makeDirectory(name, mode: 0o755, at: staging.fd.raw)
            try makeDirectory("\(name)/tree", mode: 0o755, at: staging.fd.raw)
            return try open("\(name)/tree", O_RDONLY | O_DIRECTORY, at: staging.fd.raw)
        }
        do throws(LayerError) {
            let stack: LayerStack?
            do throws(FileError) {
                stack = try below.map { trees throws(FileError) in
                    try LayerStack(trees, form: store.overlayForm)
                }
            } catch { throw LayerError(error, entry: "/") }
            let writer = try TreeWriter(
                root: tree.raw, form: .overlay(store.overlayForm, below: stack, isBottom: number == 0),
                options: options)
            let summary = try applyLayer(fd.raw, input.source, to: writer, progress: reporter(input))
            try writer.finish()
            let record = LayerRecord(
                diffID: summary.diffID, chainID: chainID(diffIDs[...number]) ?? summary.diffID,
                expandedSize: summary.expandedSize,
                isSelfContained: writer.isSelfContained && writer.whiteoutPaths.isEmpty,
                entries: writer.report.entries)
            let json = record.json.serialized()
            do throws(FileError) {
                let file = try open(
                    "\(name)/layer.json", O_WRONLY | O_CREAT | O_EXCL, mode: 0o644, at: staging.fd.raw)
                try write(file.raw, json, name: "layer.json")
            } catch { throw LayerError(error, entry: "layer.json") }
            progress?(input.descriptor.digest, .done)
            return .staged(StagedLayer(record: record, name: name), writer.whiteoutPaths, writer.report)
        } catch {
            if error.code == .needsLower, below == nil { return .needsLower }
            throw StoreError(error, "cannot unpack \(words)")
        }
    }
}

extension Store {
    /// Moves what was staged to its place, blobs and layers first. What is there already stays: it is the same.
    func publish(_ layers: [StagedLayer], blobs: [Digest], from staging: Staging) throws(StoreError) {
        try filing("the store") { () throws(FileError) in
            // One flush for all: then each rename shows whole content, even after a power failure.
            try syncFileSystem(staging.fd.raw, name: path.string)
            for digest in blobs {
                try makeDirectory("blobs/\(digest.algorithm.rawValue)", at: root)
                try rename("blob-\(digest.hex)", at: staging.fd.raw, to: Store.blobPath(digest), at: root)
            }
            for layer in layers {
                try publish(layer, from: staging)
            }
        }
    }

    private func publish(_ layer: StagedLayer, from staging: Staging) throws(FileError) {
        let target = Store.layerPath(layer.record.key)
        do throws(FileError) {
            try rename(layer.name, at: staging.fd.raw, to: target, at: root)
        } catch {
            guard error.errno == .directoryNotEmpty || error.errno == .fileExists else { throw error }
            // A layer that is there is used as it is, unless its record is missing: then it is a leftover.
            if try status(of: "\(target)/layer.json", at: root) == nil {
                try rename(target, at: root, to: "\(layer.name)-old", at: staging.fd.raw)
                try rename(layer.name, at: staging.fd.raw, to: target, at: root)
            }
        }
    }

    /// Unpacks the layers of an image that is in the store already, as after `fsck --repair`.
    func unpackLayers(of image: ResolvedImage) throws(StoreError) {
        let staging = try Staging(in: self)
        let locks = try LayerLocks(self, image.config.diffIDs)
        let inputs = layerInputs(image.manifest, image.config)
        let unpacking = LayerUnpacking(store: self, staging: staging, options: UnpackOptions(), progress: nil)
        let result = try unpacking.run(inputs, diffIDs: image.config.diffIDs, group: 0)
        try publish(result.staged, blobs: [], from: staging)
        _ = locks
    }

    /// The layers of an image as the store's own blobs give them.
    func layerInputs(
        _ manifest: Manifest, _ config: ImageConfig, maximumSize: Int64 = LayerSource.defaultMaximumSize
    ) -> [LayerInput] {
        zip(manifest.layers, config.diffIDs).map { descriptor, diffID in
            LayerInput(
                descriptor: descriptor,
                source: LayerSource(
                    compression: MediaType.compression(ofLayer: descriptor.mediaType).map { Compression($0) }
                        ?? .none,
                    blob: (descriptor.digest, descriptor.size), diffID: diffID, maximumSize: maximumSize),
                open: { () throws(StoreError) in try self.openBlob(descriptor.digest) })
        }
    }
}

/// Locks on the layers of an image, taken in one order by everybody, so that two pulls of one layer do the work once and
/// never wait for each other in a circle.
final class LayerLocks {
    private final class Held {
        let lock: RangeLock
        init(_ lock: consuming RangeLock) { self.lock = lock }
    }

    private var held: [Held] = []

    init(_ store: Store, _ digests: some Sequence<Digest>) throws(StoreError) {
        for start in Set(digests.map(Store.LockRange.digest)).sorted() {
            held.append(Held(try store.lock(start, .exclusive)))
        }
    }
}
