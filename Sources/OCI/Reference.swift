import Files

/// The name of an image as people write it: `[domain/]path[:tag][@digest]`, after the grammar of
/// distribution/reference. `alpine` means `docker.io/library/alpine:latest`.
package struct Reference: Hashable, Sendable, CustomStringConvertible {
    /// The registry: `docker.io` where none is written.
    package let domain: String
    /// The repository's path below the domain, `library/alpine`.
    package let path: String
    /// nil only where a digest is given without a tag.
    package let tag: String?
    package let digest: Digest?

    private static let defaultDomain = "docker.io"
    private static let officialPrefix = "library/"

    package init(parsing text: String) throws(OCIError) {
        var rest = Substring(text)
        func failure(_ rule: String) -> OCIError {
            OCIError(
                .reference, "'\(printable(text))' is no image name: \(rule)",
                hint: "the form is [registry/]name[:tag][@sha256:...], in lower case: alpine:3.20")
        }
        guard !text.isEmpty else { throw failure("it is empty") }
        if let at = rest.firstIndex(of: "@") {
            digest = try Digest(parsing: String(rest[rest.index(after: at)...]))
            rest = rest[..<at]
        } else {
            digest = nil
        }
        var written: String?
        if let colon = rest.lastIndex(of: ":"), !rest[colon...].contains("/") {
            let tag = rest[rest.index(after: colon)...]
            guard Reference.isTag(tag) else {
                throw failure("the tag is 1 to 128 of A-Z a-z 0-9 _ . - and starts with no '.' or '-'")
            }
            written = String(tag)
            rest = rest[..<colon]
        }
        tag = written ?? (digest == nil ? "latest" : nil)
        (domain, path) = Reference.split(rest)
        guard Reference.isDomain(domain) else { throw failure("'\(printable(domain))' is no host name") }
        guard domain.utf8.count + path.utf8.count <= 255 else {
            throw failure("it is longer than 255 characters")
        }
        guard path.split(separator: "/", omittingEmptySubsequences: false).allSatisfy(Reference.isPathPart)
        else {
            throw failure("a path has parts of a-z 0-9, joined by '.', '_', '__' or '-'")
        }
    }

    /// The short form: what is the default is left out, but for the tag.
    package var description: String {
        name + (tag.map { ":\($0)" } ?? "") + (digest.map { "@\($0)" } ?? "")
    }

    /// The short form without tag and digest.
    package var name: String {
        if domain != Reference.defaultDomain { return "\(domain)/\(path)" }
        if path.hasPrefix(Reference.officialPrefix) {
            return String(path.dropFirst(Reference.officialPrefix.count))
        }
        return path
    }

    /// The whole name with nothing left out, as containerd writes it.
    package var canonical: String {
        "\(domain)/\(path)" + (tag.map { ":\($0)" } ?? "") + (digest.map { "@\($0)" } ?? "")
    }

    /// The same name without a digest.
    package var tagged: Reference { Reference(domain: domain, path: path, tag: tag ?? "latest", digest: nil) }

    private init(domain: String, path: String, tag: String?, digest: Digest?) {
        (self.domain, self.path, self.tag, self.digest) = (domain, path, tag, digest)
    }

    /// The first part is a registry when it looks like a host: it has a dot or a port, or is `localhost`.
    private static func split(_ text: Substring) -> (String, String) {
        if let slash = text.firstIndex(of: "/") {
            let first = text[..<slash]
            if first.contains(".") || first.contains(":") || first == "localhost"
                || first.contains(where: \.isUppercase)
            {
                return (String(first), String(text[text.index(after: slash)...]))
            }
            return (defaultDomain, String(text))
        }
        return (defaultDomain, officialPrefix + text)
    }

    /// Whether a text could be a tag.
    package static func isTag(_ text: some StringProtocol) -> Bool {
        guard let first = text.utf8.first, text.utf8.count <= 128 else { return false }
        return isWord(first)
            && text.utf8.allSatisfy { isWord($0) || $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "-") }
    }

    private static func isWord(_ byte: UInt8) -> Bool {
        isLowerOrDigit(byte) || (0x41...0x5a).contains(byte) || byte == UInt8(ascii: "_")
    }

    private static func isLowerOrDigit(_ byte: UInt8) -> Bool {
        (0x61...0x7a).contains(byte) || (0x30...0x39).contains(byte)
    }

    private static func isDomain(_ text: String) -> Bool {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        if parts.count == 2, parts[1].isEmpty || !parts[1].utf8.allSatisfy({ (0x30...0x39).contains($0) }) {
            return false
        }
        return !parts[0].isEmpty
            && parts[0].split(separator: ".", omittingEmptySubsequences: false).allSatisfy { label in
                guard let first = label.utf8.first, let last = label.utf8.last else { return false }
                func isEnd(_ byte: UInt8) -> Bool { isLowerOrDigit(byte) || (0x41...0x5a).contains(byte) }
                return isEnd(first) && isEnd(last)
                    && label.utf8.allSatisfy { isEnd($0) || $0 == UInt8(ascii: "-") }
            }
    }

    /// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
    private static func isPathPart(_ part: Substring) -> Bool {
        guard let first = part.utf8.first, let last = part.utf8.last else { return false }
        guard isLowerOrDigit(first), isLowerOrDigit(last) else { return false }
        var separator: [UInt8] = []
        for byte in part.utf8 {
            if isLowerOrDigit(byte) {
                separator = []
                continue
            }
            separator.append(byte)
            let dashes = separator.allSatisfy { $0 == UInt8(ascii: "-") }
            let known = separator == [UInt8(ascii: ".")] || separator.allSatisfy { $0 == UInt8(ascii: "_") }
            guard dashes || (known && separator.count <= 2) else { return false }
        }
        return true
    }
}

/// How an image is asked for on the command line: by name, or by a digest or the beginning of one.
package enum ImageName: Sendable, CustomStringConvertible {
    case reference(Reference)
    case digest(Digest)
    /// At least 6 hexadecimal digits; it may also be a name, which is looked for first.
    case prefix(String, Reference)

    package init(parsing text: String) throws(OCIError) {
        if text.hasPrefix("sha256:") || text.hasPrefix("sha512:") {
            let hex = text.dropFirst(7)
            if hex.utf8.count >= 6, hex.utf8.count < 64, ImageName.isHex(hex),
                let name = try? Reference(parsing: String(hex))
            {
                self = .prefix(String(hex), name)
            } else {
                self = .digest(try Digest(parsing: text))
            }
            return
        }
        if text.utf8.count == 64, ImageName.isHex(text[...]) {
            self = .digest(try Digest(parsing: "sha256:" + text))
            return
        }
        let reference = try Reference(parsing: text)
        self =
            text.utf8.count >= 6 && ImageName.isHex(text[...])
            ? .prefix(text, reference) : .reference(reference)
    }

    package var description: String {
        switch self {
        case .reference(let reference): reference.description
        case .digest(let digest): digest.description
        case .prefix(let text, _): text
        }
    }

    private static func isHex(_ text: Substring) -> Bool {
        text.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
    }
}
