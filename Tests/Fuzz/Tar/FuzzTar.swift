import CKernel
import Files
import Glibc
import Layers

/// libFuzzer's door to the decompressors and the tar reader.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzTar(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
    let fd = Int32(ck_syscall(Int(CK_SYS_MEMFD), Int(bitPattern: memfdName), 1, 0, 0, 0, 0))
    guard fd >= 0 else { return 0 }
    let file = OwnedFD(fd)
    let bytes = UnsafeRawBufferPointer(start: start, count: count)
    do {
        try write(file.raw, bytes)
        lseek(file.raw, 0, SEEK_SET)
        let source = LayerSource(compression: Compression.sniff(bytes.prefix(6)), maximumSize: 16 << 20)
        let stream = try LayerStream(file.raw, source)
        do {
            let reader = try TarReader(stream)
            while try reader.next() != nil {
                while try reader.data() != nil {}
            }
            _ = try stream.finish()
        } catch {
            stream.cancel()
        }
    } catch {}
    return 0
}

nonisolated(unsafe) private let memfdName: UnsafeMutablePointer<CChar>? = strdup("fuzz")

@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(
    _ count: UnsafeMutablePointer<CInt>, _ words: UnsafeMutablePointer<UnsafeMutableRawPointer?>,
    _ body: @convention(c) (UnsafePointer<UInt8>, Int) -> CInt
) -> CInt

/// SwiftPM links `main` to this name, in place of libFuzzer's own.
@_cdecl("fuzz_tar_main")
public func fuzzMain(_ count: CInt, _ words: UnsafeMutableRawPointer?) -> CInt {
    var (count, words) = (count, words)
    return runDriver(&count, &words, fuzzTar)
}
