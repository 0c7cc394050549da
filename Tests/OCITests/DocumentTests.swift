import Files
import OCI
import Testing

@Suite struct JSONTests {
    @Test(arguments: [
        "{}", "[1,2.5,-3e10,true,false,null]", #"{"a":{"b":["c","\u00e4\n"]}}"#, #""\ud83d\ude00""#, " [ ] ",
    ])
    func readsAndWrites(text: String) throws {
        let value = try JSON(parsing: Array(text.utf8))
        #expect(try JSON(parsing: value.serialized()) == value)
        #expect(try JSON(parsing: Array(value.pretty().utf8)) == value)
    }

    @Test(arguments: [
        "", "{", "[1,]", #"{"a":1,"a":2}"#, "01", "+1", "nul", "[1] 2", "\"\u{1}\"", #""\ud800""#, #""\x""#,
        "1.", "[1 2]",
        #"{"a" 1}"#, #"{a:1}"#, "\"abc",
    ])
    func refuses(text: String) {
        #expect(throws: OCIError.self) { try JSON(parsing: Array(text.utf8)) }
    }

    @Test func refusesDeepNesting() {
        #expect(throws: OCIError.self) {
            try JSON(parsing: [UInt8](repeating: UInt8(ascii: "["), count: 100_000))
        }
    }

    @Test func refusesBytesThatAreNoUTF8() {
        #expect(throws: OCIError.self) { try JSON(parsing: [0x22, 0xff, 0x22]) }
    }
}

@Suite struct DigestTests {
    @Test func hashesKnownBytes() throws {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        #expect(Digest(of: []).description == empty)
        #expect(try Digest(parsing: empty) == Digest(of: []))
        #expect(Digest(of: Array("abc".utf8), .sha512).hex.hasPrefix("ddaf35a193617aba"))
    }

    @Test(arguments: [
        "", "sha256", "sha256:", "sha256:../../../etc/passwd", "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85",
        "sha512:" + String(repeating: "a", count: 64),
    ])
    func refuses(text: String) {
        #expect(throws: OCIError.self) { try Digest(parsing: text) }
    }

    @Test func chainsDiffIDs() throws {
        let (a, b) = (Digest(of: [1]), Digest(of: [2]))
        #expect(chainID([a]) == a)
        #expect(chainID([a, b]) == Digest(of: Array("\(a) \(b)".utf8)))
        #expect(chainID([Digest]()) == nil)
    }
}

@Suite struct ReferenceTests {
    @Test(arguments: [
        ("alpine", "alpine:latest", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "alpine:3.20", "docker.io/library/alpine:3.20"),
        ("docker.io/library/alpine", "alpine:latest", "docker.io/library/alpine:latest"),
        ("user/app:v1", "user/app:v1", "docker.io/user/app:v1"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("registry:5000/a/b__c:T_1.x", "registry:5000/a/b__c:T_1.x", "registry:5000/a/b__c:T_1.x"),
    ])
    func normalises(text: String, short: String, full: String) throws {
        let reference = try Reference(parsing: text)
        #expect(reference.description == short)
        #expect(reference.canonical == full)
    }

    @Test(arguments: [
        "", "Alpine", "a:", "a:b:c/", "-a", "a..b", "a___b", "a/", "/a", "a//b",
        "a:" + String(repeating: "x", count: 129),
        "a@sha256:1", "a b", "a:-x", "../x", "reg.io:x/a", "a\u{0}b", String(repeating: "a", count: 300),
    ])
    func refuses(text: String) {
        #expect(throws: OCIError.self) { try Reference(parsing: text) }
    }
}

@Suite struct ManifestTests {
    static let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    static func manifest(_ change: (String) -> String = { $0 }) -> [UInt8] {
        let text = """
            {"schemaVersion":2,"mediaType":"\(MediaType.manifest)",
            "config":{"mediaType":"\(MediaType.config)","digest":"\(digest)","size":0},
            "layers":[{"mediaType":"\(MediaType.layer)+gzip","digest":"\(digest)","size":0}]}
            """
        return Array(change(text).utf8)
    }

    @Test func readsWhatItWrites() throws {
        guard
            case .manifest(let manifest) = try ImageDocument(
                parsing: Self.manifest(), mediaType: MediaType.manifest)
        else { throw OCIError(.document, "no manifest") }
        guard
            case .manifest(let again) = try ImageDocument(
                parsing: manifest.serialized(), mediaType: MediaType.manifest)
        else { throw OCIError(.document, "no manifest") }
        #expect(again.layers == manifest.layers)
        #expect(again.config == manifest.config)
    }

    @Test(arguments: [
        ("\"schemaVersion\":2", "\"schemaVersion\":1"), ("\"size\":0", "\"size\":-1"),
        ("\"size\":0", "\"size\":\"0\""),
        ("\"layers\":", "\"manifests\":[],\"layers\":"), ("tar+gzip", "tar+lzma"),
        (MediaType.config, "text/plain"),
        (MediaType.manifest, MediaType.index), ("\"layers\"", "\"other\""), (digest, "sha256:short"),
    ])
    func refuses(part: String, replacement: String) {
        let bytes = Self.manifest { $0.replacing(part, with: replacement) }
        #expect(throws: OCIError.self) { try ImageDocument(parsing: bytes, mediaType: MediaType.manifest) }
    }

    @Test func refusesADocumentOfAnotherType() {
        #expect(throws: OCIError.self) {
            try ImageDocument(parsing: Self.manifest(), mediaType: MediaType.index)
        }
    }
}

@Suite struct TimeTests {
    @Test(arguments: [Int64(0), 951_782_399, 951_782_400, 1_709_164_800, 1_727_386_302, 4_102_444_800, -1])
    func readsWhatItWrites(seconds: Int64) throws {
        let text = try #require(rfc3339(seconds))
        #expect(parseRFC3339(text) == seconds)
    }

    @Test func readsFractionsAndZones() {
        #expect(parseRFC3339("1970-01-01T01:00:00.123456789+01:00") == 0)
        #expect(parseRFC3339("yesterday") == nil)
        #expect(parseRFC3339("1970-01-01T01:00:00.5") == nil)
    }
}

/// Random changes to valid documents: whatever comes out is a value or an error, never a crash.
@Suite struct DocumentFuzzTests {
    @Test func mutatedDocumentsNeverCrash() {
        var random = SeededRandom(seed: 20_241_124)
        let config = ImageConfig(platform: .host, diffIDs: [Digest(of: [1])], created: "2024-01-01T00:00:00Z")
            .serialized()
        var spec = ContainerSpec()
        spec.process.args = ["sh"]
        let seeds = [ManifestTests.manifest(), config, spec.json.serialized(), ImageIndex().serialized()]
        var accepted = 0
        for _ in 0..<20_000 {
            var bytes = seeds[random.below(seeds.count)]
            for _ in 0...random.below(4) { mutate(&bytes, &random) }
            if (try? JSON(parsing: bytes)) != nil { accepted += 1 }
            _ = try? ImageDocument(parsing: bytes, mediaType: MediaType.manifest)
            _ = try? ImageIndex(parsingLayoutIndex: bytes)
            _ = try? ImageConfig(parsing: bytes)
            _ = try? ContainerSpec(parsing: bytes)
            let text = String(decoding: bytes.prefix(80), as: UTF8.self)
            _ = try? Reference(parsing: text)
            _ = try? ImageName(parsing: text)
            _ = try? Digest(parsing: text)
            _ = try? Platform(parsing: text)
            _ = printable(bytes)
        }
        #expect(accepted > 100)
    }

    private func mutate(_ bytes: inout [UInt8], _ random: inout SeededRandom) {
        guard !bytes.isEmpty else { return }
        let index = random.below(bytes.count)
        switch random.below(5) {
        case 0: bytes[index] = UInt8(truncatingIfNeeded: random.next())
        case 1: bytes.remove(at: index)
        case 2: bytes.insert(bytes[random.below(bytes.count)], at: index)
        case 3: bytes.removeSubrange(index...)
        default: bytes[index] ^= 1 << UInt8(random.below(8))
        }
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
}
