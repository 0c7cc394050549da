import Files
import Foundation
import Layers
import OCI
import SystemPackage

let isRoot = geteuid() == 0

/// A directory that goes away with its owner.
final class Scratch {
    let path: String

    init(_ place: String = NSTemporaryDirectory()) throws {
        path = (place as NSString).appendingPathComponent("imgbox-test-\(UUID().uuidString)")
        try makeDirectories(FilePath(path), mode: 0o755)
    }

    deinit { try? removeTree(path, at: currentDirectory) }

    func sub(_ name: String) throws -> String {
        try makeDirectory("\(path)/\(name)")
        return "\(path)/\(name)"
    }

    func file(_ name: String, _ content: [UInt8]) throws -> String {
        let fd = try open("\(path)/\(name)", O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
        try write(fd.raw, content)
        return "\(path)/\(name)"
    }
}

/// The same numbers on every machine (SplitMix64).
struct SeededRandom {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
    mutating func pick<Element>(_ list: [Element]) -> Element { list[below(list.count)] }
}

/// A tar entry in a few words.
func entry(
    _ path: String, _ kind: TarEntry.Kind, mode: UInt32 = 0o644, uid: UInt32 = 0, gid: UInt32 = 0,
    time: Int64 = 1_700_000_000, nanoseconds: Int32 = 0, attributes: [(name: String, value: [UInt8])] = []
) throws -> TarEntry {
    var entry = TarEntry(
        path: try LayerPath(parsing: Array(path.utf8)), kind: kind, permissions: mode, uid: uid, gid: gid,
        modified: Timestamp(seconds: time, nanoseconds: nanoseconds))
    entry.attributes = attributes
    return entry
}

/// The bytes of a tar archive.
func tar(_ items: [(TarEntry, [UInt8])]) throws -> [UInt8] {
    final class Buffer { var bytes: [UInt8] = [] }
    let buffer = Buffer()
    let writer = TarWriter { bytes throws(FileError) in buffer.bytes += bytes }
    for (entry, content) in items { try writer.add(entry, content: content) }
    try writer.finish()
    return buffer.bytes
}

/// Reads all entries and their content.
func readTar(_ path: String, _ compression: Compression = .none) throws -> [(TarEntry, [UInt8])] {
    let fd = try open(path, O_RDONLY)
    let stream = try LayerStream(fd.raw, LayerSource(compression: compression))
    do {
        let reader = try TarReader(stream)
        var result: [(TarEntry, [UInt8])] = []
        while let entry = try reader.next() {
            var content: [UInt8] = []
            while let piece = try reader.data() { content += piece.bytes }
            result.append((entry, content))
        }
        _ = try stream.finish()
        return result
    } catch {
        stream.cancel()
        throw error
    }
}

/// Runs a program and gives its exit code and output.
@discardableResult
func shell(_ words: String..., input: Data? = nil) throws -> (code: Int32, output: String) {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = words
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let data = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: data, as: UTF8.self))
}
