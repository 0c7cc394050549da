import Files

/// An operating system and processor, in the words of GOOS and GOARCH: `linux/arm64/v8`.
package struct Platform: Hashable, Sendable, CustomStringConvertible {
    package let os: String
    package let architecture: String
    package let variant: String?

    package init(os: String, architecture: String, variant: String? = nil) {
        self.os = os
        self.architecture = architecture
        self.variant = variant
    }

    /// Reads `os/architecture[/variant]`, or the architecture alone.
    package init(parsing text: String) throws(OCIError) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
        guard (1...3).contains(parts.count),
            parts.allSatisfy({ !$0.isEmpty && $0.utf8.allSatisfy(Platform.isPart) })
        else {
            throw OCIError(
                .platform, "'\(printable(text))' is no platform: the form is os/architecture[/variant]",
                hint: "for example linux/amd64 or linux/arm64/v8")
        }
        let architecture = parts.count == 1 ? parts[0] : parts[1]
        os = parts.count == 1 ? "linux" : parts[0]
        // Common other names, as containerd's platforms package normalises them.
        self.architecture =
            switch architecture {
            case "x86_64", "x86-64": "amd64"
            case "aarch64": "arm64"
            case "i386", "i686": "386"
            default: architecture
            }
        variant = parts.count == 3 ? parts[2] : nil
    }

    private static func isPart(_ byte: UInt8) -> Bool {
        (0x61...0x7a).contains(byte) || (0x30...0x39).contains(byte) || (0x41...0x5a).contains(byte)
            || byte == UInt8(ascii: "_") || byte == UInt8(ascii: "-") || byte == UInt8(ascii: ".")
    }

    package var description: String { "\(os)/\(architecture)" + (variant.map { "/\($0)" } ?? "") }

    /// The platform of this program.
    package static var host: Platform {
        #if arch(x86_64)
            Platform(os: "linux", architecture: "amd64")
        #elseif arch(arm64)
            Platform(os: "linux", architecture: "arm64", variant: "v8")
        #elseif arch(riscv64)
            Platform(os: "linux", architecture: "riscv64")
        #else
            Platform(os: "linux", architecture: "unknown")
        #endif
    }

    /// Whether an image for `other` serves where this platform is wanted. A variant that one side does not name
    /// is no difference.
    package func accepts(_ other: Platform) -> Bool {
        os == other.os && architecture == other.architecture
            && (variant == nil || other.variant == nil || variant == other.variant)
    }

    init?(json: JSON) {
        guard let os = json["os"]?.string, let architecture = json["architecture"]?.string else { return nil }
        self.init(os: os, architecture: architecture, variant: json["variant"]?.string)
    }
}
