import CNettle
import Files

/// A content digest, `sha256:<64 hex>` or `sha512:<128 hex>` (image-spec descriptor.md, "Digests").
package struct Digest: Hashable, Sendable, CustomStringConvertible {
    package enum Algorithm: String, Sendable {
        case sha256, sha512

        /// The length of the hash in bytes.
        package var length: Int { self == .sha256 ? 32 : 64 }
    }

    package let algorithm: Algorithm
    /// The hash as lower-case hexadecimal digits.
    package let hex: String

    /// The digest as it is written in documents.
    package var description: String { "\(algorithm.rawValue):\(hex)" }

    /// The first 12 digits, as people see it in tables.
    package var short: String { String(hex.prefix(12)) }

    /// Reads a digest. Nothing else may ever become part of a path: an unchecked digest string is a path traversal
    /// (CVE-2024-3727).
    package init(parsing text: String) throws(OCIError) {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2 else {
            throw OCIError(
                .digest, "'\(printable(text))' is no digest: the form is sha256:<64 hexadecimal digits>")
        }
        guard let algorithm = Algorithm(rawValue: String(parts[0])) else {
            throw OCIError(
                .digest,
                "the digest '\(printable(text))' uses an unknown algorithm; sha256 and sha512 are known")
        }
        guard Digest.isHash(parts[1], of: algorithm) else {
            let rule = "\(algorithm.rawValue) takes \(algorithm.length * 2) digits of 0-9a-f"
            throw OCIError(.digest, "'\(printable(text))' is no digest: \(rule)")
        }
        self.algorithm = algorithm
        hex = String(parts[1])
    }

    init(_ algorithm: Algorithm, hash: [UInt8]) {
        self.algorithm = algorithm
        hex = hexadecimal(hash)
    }

    /// The digest of some bytes.
    package init(of bytes: [UInt8], _ algorithm: Algorithm = .sha256) {
        var hasher = Hasher(algorithm)
        bytes.withUnsafeBytes { hasher.update($0) }
        self = hasher.finish()
    }

    private static func isHash(_ text: Substring, of algorithm: Algorithm) -> Bool {
        text.utf8.count == algorithm.length * 2
            && text.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
    }

    /// Computes a digest from a stream of bytes. libnettle does the work: it uses the processor's SHA instructions and
    /// is linked already, since libarchive needs it (1.6 GB/s here, BoringSSL's 1.35).
    package struct Hasher {
        private enum State {
            case sha256(sha256_ctx)
            case sha512(sha512_ctx)
        }

        private var state: State
        /// How many bytes went in.
        package private(set) var count: Int64 = 0

        package init(_ algorithm: Algorithm = .sha256) {
            switch algorithm {
            case .sha256:
                var context = sha256_ctx()
                nettle_sha256_init(&context)
                state = .sha256(context)
            case .sha512:
                var context = sha512_ctx()
                nettle_sha512_init(&context)
                state = .sha512(context)
            }
        }

        package mutating func update(_ bytes: UnsafeRawBufferPointer) {
            guard let start = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return }
            count += Int64(bytes.count)
            switch state {
            case .sha256(var context):
                nettle_sha256_update(&context, bytes.count, start)
                state = .sha256(context)
            case .sha512(var context):
                nettle_sha512_update(&context, bytes.count, start)
                state = .sha512(context)
            }
        }

        /// The digest of all bytes so far.
        package func finish() -> Digest {
            switch state {
            case .sha256(var context):
                var hash = [UInt8](repeating: 0, count: Algorithm.sha256.length)
                nettle_sha256_digest(&context, hash.count, &hash)
                return Digest(.sha256, hash: hash)
            case .sha512(var context):
                var hash = [UInt8](repeating: 0, count: Algorithm.sha512.length)
                nettle_sha512_digest(&context, hash.count, &hash)
                return Digest(.sha512, hash: hash)
            }
        }
    }
}

/// The identity of a stack of layers (image-spec config.md, "Layer ChainID").
package func chainID(_ diffIDs: some Sequence<Digest>) -> Digest? {
    var chain: Digest?
    for diffID in diffIDs {
        if let below = chain {
            chain = Digest(of: Array("\(below) \(diffID)".utf8))
        } else {
            chain = diffID
        }
    }
    return chain
}
