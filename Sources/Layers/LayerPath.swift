import Files

/// The path of an entry inside a layer: relative, without ".", ".." or empty parts, as bytes. The root is the path
/// without parts.
package struct LayerPath: Hashable, Sendable, CustomStringConvertible {
    /// Joined by "/", without a NUL.
    package let bytes: [UInt8]

    private static let slash = UInt8(ascii: "/")
    /// The longest path and part that are accepted (PATH_MAX and NAME_MAX of linux/limits.h).
    package static let maximumLength = 4096
    package static let maximumPartLength = 255

    package static let root = LayerPath(unchecked: [])

    init(unchecked bytes: [UInt8]) { self.bytes = bytes }

    /// Reads a name from an archive. An absolute name counts from the image's root; one that climbs with ".." is
    /// refused, since no honest tool writes one.
    package init(parsing name: some Collection<UInt8>) throws(LayerError) {
        var result: [UInt8] = []
        result.reserveCapacity(name.count)
        for part in name.split(separator: LayerPath.slash) {
            if part.count == 1, part.first == UInt8(ascii: ".") { continue }
            if part.elementsEqual([UInt8(ascii: "."), UInt8(ascii: ".")]) {
                throw .refused(name, "the name climbs with '..'")
            }
            if part.contains(0) { throw .refused(name, "the name has a NUL byte") }
            if part.count > LayerPath.maximumPartLength {
                throw .refused(name.prefix(80), "a part is longer than 255 bytes")
            }
            if !result.isEmpty { result.append(LayerPath.slash) }
            result += part
        }
        if result.count > LayerPath.maximumLength {
            throw .refused(name.prefix(80), "the path is longer than \(LayerPath.maximumLength) bytes")
        }
        bytes = result
    }

    package var isRoot: Bool { bytes.isEmpty }

    package var parts: [ArraySlice<UInt8>] { bytes.split(separator: LayerPath.slash) }

    /// The path with a closing NUL; "." for the root.
    package var cString: [CChar] { bytes.isEmpty ? [46, 0] : bytes.map { CChar(bitPattern: $0) } + [0] }

    package var parent: LayerPath {
        guard let cut = bytes.lastIndex(of: LayerPath.slash) else { return .root }
        return LayerPath(unchecked: Array(bytes[..<cut]))
    }

    /// The last part; empty for the root.
    package var name: ArraySlice<UInt8> {
        guard let cut = bytes.lastIndex(of: LayerPath.slash) else { return bytes[...] }
        return bytes[(cut + 1)...]
    }

    /// How many parts the path has.
    package var depth: Int { bytes.isEmpty ? 0 : bytes.reduce(1) { $0 + ($1 == LayerPath.slash ? 1 : 0) } }

    package func appending(_ part: some Collection<UInt8>) -> LayerPath {
        LayerPath(unchecked: bytes.isEmpty ? Array(part) : bytes + [LayerPath.slash] + part)
    }

    package var description: String { bytes.isEmpty ? "/" : printable(bytes) }
}

/// The bytes of a name with a closing NUL, for system calls.
package func cString(_ name: some Collection<UInt8>) -> [CChar] {
    name.map { CChar(bitPattern: $0) } + [0]
}
