import CZstd
package import Files
import SystemPackage

/// Compresses a stream with zstd in one thread, so that the bytes depend on nothing but the content and the library's
/// version: level 3, with a content checksum.
package final class ZstdWriter {
    private let context: OpaquePointer
    private let sink: (UnsafeRawBufferPointer) throws(FileError) -> Void
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)

    package init(sink: @escaping (UnsafeRawBufferPointer) throws(FileError) -> Void) throws(LayerError) {
        guard let context = ZSTD_createCCtx() else {
            throw LayerError(.system, "zstd cannot start: out of memory")
        }
        self.context = context
        self.sink = sink
        ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, 3)
        ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1)
    }

    deinit {
        ZSTD_freeCCtx(context)
        buffer.deallocate()
    }

    package func write(_ bytes: UnsafeRawBufferPointer) throws(FileError) {
        var source = ZSTD_inBuffer(src: bytes.baseAddress, size: bytes.count, pos: 0)
        while source.pos < source.size { _ = try step(&source, ZSTD_e_continue) }
    }

    /// Ends the frame.
    package func finish() throws(FileError) {
        var source = ZSTD_inBuffer(src: nil, size: 0, pos: 0)
        while try step(&source, ZSTD_e_end) != 0 {}
    }

    private func step(_ source: inout ZSTD_inBuffer, _ mode: ZSTD_EndDirective) throws(FileError) -> Int {
        var target = ZSTD_outBuffer(dst: buffer.baseAddress, size: buffer.count, pos: 0)
        let left = ZSTD_compressStream2(context, &target, &source, mode)
        guard ZSTD_isError(left) == 0 else { throw FileError("zstd", "compression", .ioError) }
        if target.pos > 0 { try sink(UnsafeRawBufferPointer(rebasing: buffer[..<target.pos])) }
        return left
    }
}
