import CBzip2
import CLzma
import CZlib
import CZstd
package import OCI

/// Every compression that an archive can come in; a layer in an image has only those of `LayerCompression`.
package enum Compression: String, Sendable {
    case none, gzip, zstd, xz, bzip2

    package init(_ compression: LayerCompression) {
        self =
            switch compression {
            case .none: .none
            case .gzip: .gzip
            case .zstd: .zstd
            }
    }

    /// The longest magic number that `sniff` looks at.
    package static let magicLength = 6

    /// What the first bytes of a stream say.
    package static func sniff(_ start: some Collection<UInt8>) -> Compression {
        let start = Array(start.prefix(magicLength))
        if start.starts(with: [0x1f, 0x8b]) { return .gzip }
        if start.starts(with: [0x28, 0xb5, 0x2f, 0xfd]) { return .zstd }
        // A skippable frame may stand first: 0x184D2A50 to 0x184D2A5F, little endian (RFC 8878, 3.1.2).
        if start.count >= 4, start[0] & 0xf0 == 0x50, start[1...3].elementsEqual([0x2a, 0x4d, 0x18]) {
            return .zstd
        }
        if start.starts(with: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]) { return .xz }
        if start.starts(with: [0x42, 0x5a, 0x68]) { return .bzip2 }
        return .none
    }
}

/// Expands one compressed stream. Called again and again with what is left of the input.
protocol Decompressor {
    /// Takes from `input`, writes to `output`, and says how much of both. With `isLast` no more input will come.
    mutating func decompress(
        _ input: UnsafeRawBufferPointer, isLast: Bool, _ output: UnsafeMutableRawBufferPointer
    ) throws(LayerError) -> (taken: Int, made: Int)

    /// Whether the stream may end here: a whole number of members or frames was read.
    var isComplete: Bool { get }
}

func makeDecompressor(_ compression: Compression) throws(LayerError) -> any Decompressor {
    switch compression {
    case .none: PlainStream()
    case .gzip: try GzipStream()
    case .zstd: try ZstdStream()
    case .xz: try XzStream()
    case .bzip2: try Bzip2Stream()
    }
}

private struct PlainStream: Decompressor {
    let isComplete = true

    mutating func decompress(
        _ input: UnsafeRawBufferPointer, isLast: Bool, _ output: UnsafeMutableRawBufferPointer
    ) -> (taken: Int, made: Int) {
        let count = min(input.count, output.count)
        output.copyMemory(from: UnsafeRawBufferPointer(rebasing: input[..<count]))
        return (count, count)
    }
}

/// The address of a C stream state that must not move while the library knows it.
private final class Pinned<State> {
    let state = UnsafeMutablePointer<State>.allocate(capacity: 1)
    private let end: (UnsafeMutablePointer<State>) -> Void

    init(_ initial: State, end: @escaping (UnsafeMutablePointer<State>) -> Void) {
        state.initialize(to: initial)
        self.end = end
    }

    deinit {
        end(state)
        state.deallocate()
    }
}

private struct GzipStream: Decompressor {
    private let stream: Pinned<z_stream>
    private var ended = false
    private(set) var isComplete = false
    /// After the first member anything that is no further member is padding, and ignored, as gzip(1) does.
    private var inPadding = false

    init() throws(LayerError) {
        stream = Pinned(z_stream()) { inflateEnd($0) }
        // 15 + 16: a window of 32 KiB and the gzip format only.
        guard inflateInit2_(stream.state, 15 + 16, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK
        else {
            throw LayerError(.system, "zlib cannot start: out of memory")
        }
    }

    mutating func decompress(
        _ input: UnsafeRawBufferPointer, isLast: Bool, _ output: UnsafeMutableRawBufferPointer
    ) throws(LayerError) -> (taken: Int, made: Int) {
        if inPadding { return (input.count, 0) }
        if ended {
            guard let first = input.first else { return (0, 0) }
            guard first == 0x1f else {
                inPadding = true
                return (input.count, 0)
            }
            inflateReset(stream.state)
            ended = false
            isComplete = false
        }
        let z = stream.state
        z.pointee.next_in = UnsafeMutablePointer(
            mutating: input.baseAddress?.assumingMemoryBound(to: UInt8.self))
        z.pointee.avail_in = UInt32(clamping: input.count)
        z.pointee.next_out = output.baseAddress?.assumingMemoryBound(to: UInt8.self)
        z.pointee.avail_out = UInt32(clamping: output.count)
        let code = inflate(z, Z_NO_FLUSH)
        let result = (
            taken: input.count - Int(z.pointee.avail_in), made: output.count - Int(z.pointee.avail_out)
        )
        switch code {
        case Z_STREAM_END:
            ended = true
            isComplete = true
        case Z_OK, Z_BUF_ERROR: break
        default:
            let reason = z.pointee.msg.map { String(cString: $0) } ?? "code \(code)"
            throw LayerError(.malformed, "the gzip stream is damaged: \(reason)")
        }
        return result
    }
}

private struct ZstdStream: Decompressor {
    private let context: OpaquePointer
    private let owner: Pinned<OpaquePointer>
    private(set) var isComplete = false

    init() throws(LayerError) {
        guard let context = ZSTD_createDCtx() else {
            throw LayerError(.system, "zstd cannot start: out of memory")
        }
        self.context = context
        owner = Pinned(context) { ZSTD_freeDCtx($0.pointee) }
        // At most 2^27: what zstd itself accepts without --long=31. A frame that asks for more is refused.
        ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, 27)
    }

    mutating func decompress(
        _ input: UnsafeRawBufferPointer, isLast: Bool, _ output: UnsafeMutableRawBufferPointer
    ) throws(LayerError) -> (taken: Int, made: Int) {
        var source = ZSTD_inBuffer(src: input.baseAddress, size: input.count, pos: 0)
        var target = ZSTD_outBuffer(dst: output.baseAddress, size: output.count, pos: 0)
        let code = ZSTD_decompressStream(context, &target, &source)
        if ZSTD_isError(code) != 0 {
            throw LayerError(
                .malformed, "the zstd stream is damaged: \(String(cString: ZSTD_getErrorName(code)))")
        }
        // Asked again at the end of the input it wants the next frame's header, which need not come.
        if source.pos > 0 || target.pos > 0 { isComplete = code == 0 }
        return (source.pos, target.pos)
    }
}

private struct XzStream: Decompressor {
    private let stream: Pinned<lzma_stream>
    private(set) var isComplete = false
    /// LZMA_CONCATENATED, a macro that Swift cannot read: several streams one after the other are one file.
    private static let concatenated: UInt32 = 0x08
    /// The most memory that an archive may make the decoder take.
    private static let memoryLimit: UInt64 = 256 << 20

    init() throws(LayerError) {
        stream = Pinned(lzma_stream()) { lzma_end($0) }
        guard lzma_stream_decoder(stream.state, XzStream.memoryLimit, XzStream.concatenated) == LZMA_OK else {
            throw LayerError(.system, "liblzma cannot start: out of memory")
        }
    }

    mutating func decompress(
        _ input: UnsafeRawBufferPointer, isLast: Bool, _ output: UnsafeMutableRawBufferPointer
    ) throws(LayerError) -> (taken: Int, made: Int) {
        let state = stream.state
        state.pointee.next_in = input.baseAddress?.assumingMemoryBound(to: UInt8.self)
        state.pointee.avail_in = input.count
        state.pointee.next_out = output.baseAddress?.assumingMemoryBound(to: UInt8.self)
        state.pointee.avail_out = output.count
        // Only LZMA_FINISH makes a stream of several parts end.
        let code = lzma_code(state, isLast ? LZMA_FINISH : LZMA_RUN)
        switch code {
        case LZMA_OK, LZMA_BUF_ERROR: break
        case LZMA_STREAM_END: isComplete = true
        case LZMA_MEMLIMIT_ERROR: throw LayerError(.limit, "the xz stream needs more than 256 MiB to be read")
        default: throw LayerError(.malformed, "the xz stream is damaged (code \(code.rawValue))")
        }
        return (input.count - state.pointee.avail_in, output.count - state.pointee.avail_out)
    }
}

private struct Bzip2Stream: Decompressor {
    private let stream: Pinned<bz_stream>
    private var ended = false
    private(set) var isComplete = false

    init() throws(LayerError) {
        stream = Pinned(bz_stream()) { BZ2_bzDecompressEnd($0) }
        try start()
    }

    private func start() throws(LayerError) {
        guard BZ2_bzDecompressInit(stream.state, 0, 0) == BZ_OK else {
            throw LayerError(.system, "bzip2 cannot start: out of memory")
        }
    }

    mutating func decompress(
        _ input: UnsafeRawBufferPointer, isLast: Bool, _ output: UnsafeMutableRawBufferPointer
    ) throws(LayerError) -> (taken: Int, made: Int) {
        if ended {
            if input.isEmpty { return (0, 0) }
            BZ2_bzDecompressEnd(stream.state)
            stream.state.pointee = bz_stream()
            try start()
            ended = false
            isComplete = false
        }
        let state = stream.state
        state.pointee.next_in = UnsafeMutablePointer(
            mutating: input.baseAddress?.assumingMemoryBound(to: CChar.self))
        state.pointee.avail_in = UInt32(clamping: input.count)
        state.pointee.next_out = output.baseAddress?.assumingMemoryBound(to: CChar.self)
        state.pointee.avail_out = UInt32(clamping: output.count)
        let code = BZ2_bzDecompress(state)
        if code == BZ_STREAM_END {
            ended = true
            isComplete = true
        } else if code != BZ_OK {
            throw LayerError(.malformed, "the bzip2 stream is damaged (code \(code))")
        }
        return (input.count - Int(state.pointee.avail_in), output.count - Int(state.pointee.avail_out))
    }
}
