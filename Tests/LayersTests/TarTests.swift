import Files
import Foundation
import Layers
import OCI
import Testing

@Suite struct LayerPathTests {
    @Test(arguments: [
        ("/a//b/./c/", "a/b/c"), ("./", ""), (".", ""), ("a", "a"), ("...", "..."), ("a/..b", "a/..b"),
    ])
    func normalises(text: String, path: String) throws {
        #expect(try LayerPath(parsing: Array(text.utf8)).bytes == Array(path.utf8))
    }

    @Test(arguments: ["..", "a/../b", "/..", "../../etc", "a/\u{0}b", String(repeating: "x", count: 256)])
    func refuses(text: String) {
        #expect(throws: LayerError.self) { try LayerPath(parsing: Array(text.utf8)) }
    }
}

@Suite struct TarTests {
    static func samples() throws -> [(TarEntry, [UInt8])] {
        let long = String(repeating: "long-directory-name/", count: 20) + "file"
        return [
            (try entry("dir", .directory, mode: 0o1777, uid: 5, gid: 6, nanoseconds: 500_000_000), []),
            (try entry("dir/f", .file, mode: 0o6755, uid: 3_000_000_000, time: -7), Array("hi".utf8)),
            (
                try entry(long, .file, attributes: [("user.k", [0, 1, 255])]),
                [UInt8](repeating: 7, count: 5000)
            ),
            (try entry("ä", .symbolicLink(Array(("/" + long).utf8)), mode: 0o777), []),
            (try entry("h", .hardLink(Array("dir/f".utf8))), []),
            (try entry("c", .characterDevice(major: 1, minor: 3), mode: 0o666), []),
            (try entry("p", .fifo, time: 8_589_934_592), []),
        ]
    }

    /// The writer against libarchive.
    @Test func readsWhatItWrites() throws {
        let scratch = try Scratch()
        let samples = try Self.samples()
        let read = try readTar(scratch.file("a.tar", tar(samples)))
        #expect(read.count == samples.count)
        for (got, wanted) in zip(read, samples) {
            #expect(got.0.path == wanted.0.path)
            #expect(got.0.kind == wanted.0.kind)
            #expect(got.1 == wanted.1)
            #expect(got.0.modified == wanted.0.modified)
            #expect((got.0.uid, got.0.gid) == (wanted.0.uid, wanted.0.gid))
            if case .hardLink = wanted.0.kind { continue }
            #expect(got.0.permissions == wanted.0.permissions)
            #expect(got.0.attributes.map(\.name) == wanted.0.attributes.map(\.name))
            #expect(got.0.attributes.map(\.value) == wanted.0.attributes.map(\.value))
        }
    }

    /// The writer against GNU tar.
    @Test func otherReadersAgree() throws {
        let scratch = try Scratch()
        let list = try shell("tar", "-tf", scratch.file("a.tar", tar(Self.samples())))
        #expect(list.code == 0)
        #expect(list.output.contains("dir/f\n"))
    }

    @Test(arguments: [("gzip", Compression.gzip), ("zstd", .zstd), ("xz", .xz), ("bzip2", .bzip2)])
    func expandsEveryCompression(program: String, compression: Compression) throws {
        let scratch = try Scratch()
        let plain = try scratch.file(
            "a.tar", tar(Self.samples() + [(entry("big", .file), [UInt8](repeating: 1, count: 3 << 20))]))
        #expect(try shell("sh", "-c", "\(program) -c \(plain) > \(plain).c").code == 0)
        let start = try readFile("\(plain).c").prefix(Compression.magicLength)
        #expect(Compression.sniff(start) == compression)
        #expect(try readTar("\(plain).c", compression).count == 8)
        // Two members, one after the other, are one stream.
        #expect(
            try shell(
                "sh", "-c",
                "(head -c 1000 \(plain) | \(program) -c; tail -c +1001 \(plain) | \(program) -c) > \(plain).2"
            ).code == 0)
        #expect(try readTar("\(plain).2", compression).count == 8)
    }

    @Test(arguments: ["gzip", "zstd", "xz", "bzip2"])
    func noticesATruncatedStream(program: String) throws {
        let scratch = try Scratch()
        let plain = try scratch.file(
            "a.tar",
            tar(
                Self.samples() + [
                    (entry("big", .file), (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 31) })
                ]))
        #expect(try shell("sh", "-c", "\(program) -c \(plain) | head -c -9 > \(plain).c").code == 0)
        let compression = try Compression.sniff(readFile("\(plain).c").prefix(6))
        #expect(throws: LayerError.self) { try readTar("\(plain).c", compression) }
    }

    @Test func limitsTheExpandedSize() throws {
        let scratch = try Scratch()
        let path = try scratch.file(
            "a.tar", tar([(entry("big", .file), [UInt8](repeating: 0, count: 1 << 20))]))
        let fd = try open(path, O_RDONLY)
        let error = #expect(throws: LayerError.self) {
            try applyLayer(fd.raw, LayerSource(compression: .none, maximumSize: 1000), to: nil)
        }
        #expect(error?.code == .limit)
    }

    @Test func comparesDigests() throws {
        let scratch = try Scratch()
        let bytes = try tar(Self.samples())
        let path = try scratch.file("a.tar", bytes)
        func apply(_ blob: (Digest, Int64)?, _ diffID: Digest?) throws {
            let fd = try open(path, O_RDONLY)
            _ = try applyLayer(fd.raw, LayerSource(compression: .none, blob: blob, diffID: diffID), to: nil)
        }
        let right = Digest(of: bytes)
        try apply((right, Int64(bytes.count)), right)
        try apply((Digest(of: bytes, .sha512), Int64(bytes.count)), right)
        #expect(throws: LayerError.self) { try apply((right, Int64(bytes.count) - 1), right) }
        #expect(throws: LayerError.self) { try apply((right, Int64(bytes.count) + 1), right) }
        #expect(throws: LayerError.self) { try apply((Digest(of: [1]), Int64(bytes.count)), right) }
        #expect(throws: LayerError.self) { try apply(nil, Digest(of: [1])) }
    }

    /// Random damage: an archive is read, or refused, and never brings the program down.
    @Test func damagedArchivesNeverCrash() throws {
        let scratch = try Scratch()
        var random = SeededRandom(seed: 42)
        let seed = try tar(Self.samples())
        var refused = 0
        for round in 0..<400 {
            var bytes = seed
            for _ in 0...random.below(6) {
                let index = random.below(bytes.count)
                switch random.below(4) {
                case 0: bytes[index] = UInt8(truncatingIfNeeded: random.next())
                case 1: bytes.removeSubrange(index..<min(bytes.count, index + random.below(600)))
                case 2: bytes[min(bytes.count - 1, random.below(7) * 512 + 124 + random.below(12))] ^= 0x80
                default: bytes[min(bytes.count - 1, random.below(7) * 512 + 156)] = UInt8(random.below(256))
                }
            }
            let path = try scratch.file("f\(round % 4)", bytes)
            let place = try scratch.sub("t\(round)")
            let fd = try open(path, O_RDONLY)
            let tree = try open(place, O_RDONLY | O_DIRECTORY)
            let writer = try TreeWriter(root: tree.raw, form: .merged, options: UnpackOptions())
            do {
                _ = try applyLayer(fd.raw, LayerSource(compression: .none), to: writer)
                try writer.finish()
            } catch is LayerError { refused += 1 }
            try removeTree(place, at: currentDirectory)
        }
        #expect(refused > 50)
    }
}
