import Files
import Glibc
package import OCI

/// What is known about a layer's bytes before they are read, and how much they may become.
package struct LayerSource: Sendable {
    package var compression: Compression
    /// The digest and size that the compressed bytes must have; nil when they were checked before.
    package var blob: (digest: Digest, size: Int64)?
    /// The digest that the expanded bytes must have; nil when it is to be found out.
    package var diffID: Digest?
    /// The most bytes that the layer may expand to.
    package var maximumSize: Int64

    /// 64 GiB: more than any honest layer, less than most disks.
    package static let defaultMaximumSize: Int64 = 64 << 30

    package init(
        compression: Compression, blob: (digest: Digest, size: Int64)? = nil, diffID: Digest? = nil,
        maximumSize: Int64 = LayerSource.defaultMaximumSize
    ) {
        self.compression = compression
        self.blob = blob
        self.diffID = diffID
        self.maximumSize = maximumSize
    }
}

/// Reads a layer's blob and gives its expanded bytes, in three threads: one reads and expands, one computes both
/// digests, and the caller takes the chunks. At most `chunkCount` chunks are under way, so that memory stays bounded.
package final class LayerStream: Sendable {
    private static let inputSize = 256 << 10
    private static let inputCount = 4
    /// A multiple of tar's block size, so that a header never lies across two chunks.
    private static let chunkSize = 1 << 20
    private static let chunkCount = 8

    private enum HashJob: Sendable {
        case blob(Chunk)
        case expanded(Chunk)
    }

    /// What was read, known at the end.
    package struct Summary: Sendable {
        package var diffID: Digest
        /// In bytes.
        package var expandedSize: Int64
        package var blobSize: Int64
    }

    private struct Outcome {
        var error: LayerError?
        var blobDigest: Digest?
        var diffID: Digest?
        var blobSize: Int64 = 0
        var expandedSize: Int64 = 0
        var threads: [Thread] = []
    }

    private let fd: Int32
    private let source: LayerSource
    private let progress: (@Sendable (Int64) -> Void)?
    private let inputs = BoundedQueue<Chunk>(capacity: LayerStream.inputCount)
    private let free = BoundedQueue<Chunk>(capacity: LayerStream.chunkCount)
    private let hashJobs = BoundedQueue<HashJob>(capacity: LayerStream.chunkCount + LayerStream.inputCount)
    private let ready = BoundedQueue<Chunk>(capacity: LayerStream.chunkCount)
    private let outcome = Monitor(Outcome())

    /// Starts reading `fd` from where its offset stands. The descriptor is borrowed until `finish` or `cancel`.
    /// `progress` is told how many compressed bytes each step took.
    package init(
        _ fd: Int32, _ source: LayerSource, progress: (@Sendable (Int64) -> Void)? = nil
    ) throws(LayerError) {
        self.fd = fd
        self.source = source
        self.progress = progress
        for _ in 0..<LayerStream.inputCount { _ = inputs.push(Chunk(LayerStream.inputSize, home: inputs)) }
        for _ in 0..<LayerStream.chunkCount { _ = free.push(Chunk(LayerStream.chunkSize, home: free)) }
        let producer = try Thread { self.produceAll() }
        outcome.with { $0.threads.append(producer) }
        do throws(LayerError) {
            let hasher = try Thread { self.hashAll() }
            outcome.with { $0.threads.append(hasher) }
        } catch {
            cancel()
            throw error
        }
    }

    /// The next expanded bytes; nil at the end. The caller releases the chunk.
    func next() throws(LayerError) -> Chunk? {
        if let chunk = ready.pop() { return chunk }
        if let error = outcome.with({ $0.error }) { throw error }
        return nil
    }

    /// Reads what is left (bytes after the end of the archive count for the digests), ends the threads, and compares
    /// the digests with those that were promised.
    package func finish() throws(LayerError) -> Summary {
        while let chunk = ready.pop() { chunk.release() }
        join()
        let outcome = self.outcome.with { $0 }
        if let error = outcome.error { throw error }
        guard let diffID = outcome.diffID else {
            throw LayerError(.cancelled, "the layer was not read to its end")
        }
        if let blob = source.blob {
            try LayerStream.check(blob, outcome.blobDigest, outcome.blobSize)
        }
        if let wanted = source.diffID, wanted != diffID {
            throw LayerError(
                .mismatch,
                "the layer's content has the diff ID \(diffID), the image configuration says \(wanted)",
                hint: "the image is damaged or was tampered with; get it again from where it came")
        }
        return Summary(diffID: diffID, expandedSize: outcome.expandedSize, blobSize: outcome.blobSize)
    }

    private static func check(
        _ blob: (digest: Digest, size: Int64), _ digest: Digest?, _ size: Int64
    ) throws(LayerError) {
        let hint = "the image is damaged or was tampered with; get it again from where it came"
        guard size == blob.size else {
            throw LayerError(
                .mismatch, "the blob \(blob.digest) has \(size) bytes, its descriptor says \(blob.size)",
                hint: hint)
        }
        if let digest, digest != blob.digest {
            throw LayerError(.mismatch, "the blob \(blob.digest) has the digest \(digest)", hint: hint)
        }
    }

    /// Stops the threads and waits for them. To be called when the caller fails before `finish`.
    package func cancel() {
        fail(LayerError(.cancelled, "given up"))
        join()
    }

    private func join() {
        let threads = outcome.with { outcome in
            defer { outcome.threads = [] }
            return outcome.threads
        }
        for thread in threads { thread.join() }
    }

    private func fail(_ error: LayerError) {
        outcome.with { $0.error = $0.error ?? error }
        ready.close()
        inputs.abandon()
        free.abandon()
        hashJobs.abandon()
    }

    // MARK: - The thread that reads and expands

    private func produceAll() {
        do throws(LayerError) {
            try produce()
            ready.close()
            hashJobs.close()
        } catch {
            fail(error)
        }
    }

    private func produce() throws(LayerError) {
        var decompressor = try makeDecompressor(source.compression)
        var filling = Filling(chunk: try take(free), count: 0)
        var blobSize: Int64 = 0
        var expanded: Int64 = 0
        while true {
            let input = try take(inputs)
            let count: Int
            do throws(FileError) { count = try read(fd, into: input.space) } catch {
                throw LayerError(.system, error.message, hint: error.hint, errno: error.errno)
            }
            blobSize += Int64(count)
            if let blob = source.blob, blobSize > blob.size {
                throw LayerError(
                    .mismatch,
                    "the blob \(blob.digest) is longer than the \(blob.size) bytes of its descriptor")
            }
            input.count = count
            let isLast = count == 0
            if !isLast { progress?(Int64(count)) }
            if hashesBlob && !isLast {
                input.retain()
                guard hashJobs.push(.blob(input)) else { throw LayerError(.cancelled, "given up") }
            }
            try expand(input.bytes, isLast, &decompressor, &filling, &expanded)
            input.release()
            if isLast { break }
        }
        // No bytes at all are a valid empty stream only where nothing was compressed.
        guard decompressor.isComplete else {
            throw LayerError(
                .malformed, "the \(source.compression.rawValue) stream ends too early",
                hint: "the file was cut short on its way; get it again")
        }
        if filling.count > 0 { try hand(over: filling) }
        let sizes = (blobSize, expanded)
        outcome.with { ($0.blobSize, $0.expandedSize) = sizes }
    }

    private struct Filling {
        var chunk: Chunk
        var count: Int
    }

    private func expand(
        _ bytes: UnsafeRawBufferPointer, _ isLast: Bool, _ decompressor: inout any Decompressor,
        _ filling: inout Filling, _ expanded: inout Int64
    ) throws(LayerError) {
        var left = bytes
        var wasFilled = false
        repeat {
            let room = UnsafeMutableRawBufferPointer(rebasing: filling.chunk.space[filling.count...])
            let (taken, made) = try decompressor.decompress(left, isLast: isLast, room)
            if taken == 0 && made == 0 {
                if left.isEmpty { break }
                throw LayerError(
                    .malformed, "the \(source.compression.rawValue) stream is damaged: it does not go on")
            }
            left = UnsafeRawBufferPointer(rebasing: left[taken...])
            filling.count += made
            expanded += Int64(made)
            guard expanded <= source.maximumSize else {
                throw LayerError(
                    .limit, "the layer expands to more than \(source.maximumSize) bytes",
                    hint: "if that is right, raise the limit: --max-layer-size")
            }
            wasFilled = filling.count == filling.chunk.space.count
            if wasFilled {
                try hand(over: filling)
                filling = Filling(chunk: try take(free), count: 0)
            }
        } while !left.isEmpty || wasFilled || isLast
    }

    private func hand(over filling: Filling) throws(LayerError) {
        filling.chunk.count = filling.count
        filling.chunk.retain()
        guard hashJobs.push(.expanded(filling.chunk)), ready.push(filling.chunk) else {
            throw LayerError(.cancelled, "given up")
        }
    }

    private func take(_ queue: BoundedQueue<Chunk>) throws(LayerError) -> Chunk {
        guard let chunk = queue.pop() else { throw LayerError(.cancelled, "given up") }
        chunk.claim()
        return chunk
    }

    // MARK: - The thread that computes digests

    /// Uncompressed bytes need not be hashed twice.
    private var hashesBlob: Bool {
        guard let blob = source.blob else { return false }
        return source.compression != .none || blob.digest.algorithm != diffAlgorithm
    }

    private var diffAlgorithm: Digest.Algorithm { source.diffID?.algorithm ?? .sha256 }

    private func hashAll() {
        var blob = Digest.Hasher(source.blob?.digest.algorithm ?? .sha256)
        var expanded = Digest.Hasher(diffAlgorithm)
        while let job = hashJobs.pop() {
            switch job {
            case .blob(let chunk):
                blob.update(chunk.bytes)
                chunk.release()
            case .expanded(let chunk):
                expanded.update(chunk.bytes)
                chunk.release()
            }
        }
        let diffID = expanded.finish()
        let blobDigest = source.blob.map { _ in hashesBlob ? blob.finish() : diffID }
        outcome.with { ($0.diffID, $0.blobDigest) = (diffID, blobDigest) }
    }
}

/// A buffer that goes round: taken from a queue, filled, read by one or two threads, and put back by the last.
///
/// `@unchecked Sendable`: filled by one thread before it is handed over through a queue, and only read after that.
final class Chunk: @unchecked Sendable {
    let space: UnsafeMutableRawBufferPointer
    var count = 0
    private let users = Monitor(0)
    private unowned let home: BoundedQueue<Chunk>

    init(_ size: Int, home: BoundedQueue<Chunk>) {
        space = .allocate(byteCount: size, alignment: 4096)
        self.home = home
    }

    deinit { space.deallocate() }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: space[..<count]) }

    func claim() { users.with { $0 = 1 } }
    func retain() { users.with { $0 += 1 } }

    func release() {
        let isFree = users.with { users in
            users -= 1
            return users == 0
        }
        if isFree { _ = home.push(self) }
    }
}

extension LayerStream {
    /// Gives all expanded bytes in order.
    package func forEach(_ body: (UnsafeRawBufferPointer) throws(LayerError) -> Void) throws(LayerError) {
        while let chunk = try next() {
            defer { chunk.release() }
            try body(chunk.bytes)
        }
    }
}
