import Files
import OCI

/// libFuzzer's door to every decoder of text: whatever the bytes, the answer is a value or an error.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzDocuments(_ start: UnsafePointer<UInt8>, _ count: Int) -> CInt {
    let bytes = Array(UnsafeBufferPointer(start: start, count: count))
    _ = try? ImageDocument(parsing: bytes, mediaType: MediaType.manifest)
    _ = try? ImageDocument(parsing: bytes, mediaType: MediaType.index)
    _ = try? ImageIndex(parsingLayoutIndex: bytes)
    _ = try? ImageConfig(parsing: bytes)
    _ = try? ContainerSpec(parsing: bytes)
    if let json = try? JSON(parsing: bytes) {
        // What was read is written so that it is read as the same again.
        let again = try? JSON(parsing: json.serialized())
        precondition(again == json)
    }
    let text = String(decoding: bytes, as: UTF8.self)
    _ = try? Reference(parsing: text)
    _ = try? ImageName(parsing: text)
    _ = try? Digest(parsing: text)
    _ = try? Platform(parsing: text)
    return 0
}

@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(
    _ count: UnsafeMutablePointer<CInt>, _ words: UnsafeMutablePointer<UnsafeMutableRawPointer?>,
    _ body: @convention(c) (UnsafePointer<UInt8>, Int) -> CInt
) -> CInt

/// SwiftPM links `main` to this name, in place of libFuzzer's own.
@_cdecl("fuzz_documents_main")
public func fuzzMain(_ count: CInt, _ words: UnsafeMutableRawPointer?) -> CInt {
    var (count, words) = (count, words)
    return runDriver(&count, &words, fuzzDocuments)
}
