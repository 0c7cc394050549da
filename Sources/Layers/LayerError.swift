package import Files
package import SystemPackage

/// A layer cannot be read or written.
package struct LayerError: DescribedError {
    package enum Code: Sendable, Equatable {
        /// The bytes are no valid compressed stream or archive.
        case malformed
        /// An entry that must not be applied: it would leave the root, or nobody knows what it means.
        case refused
        /// A limit on what a layer may expand to was reached.
        case limit
        /// A digest or size differs from the one that was promised.
        case mismatch
        /// The layer names something that only the layers below can tell about.
        case needsLower
        /// A system call failed.
        case system
        /// The work was given up because another part of it failed.
        case cancelled
    }

    package let code: Code
    package let message: String
    package let hint: String?
    package let errno: Errno?

    package init(_ code: Code, _ message: String, hint: String? = nil, errno: Errno? = nil) {
        self.code = code
        self.message = message
        self.hint = hint
        self.errno = errno
    }

    package init(_ error: FileError, entry: String) {
        self.init(
            .system, "'\(entry)': \(error.call): \(error.errno.description)", hint: error.hint,
            errno: error.errno)
    }

    /// The same error with words put in front of its message.
    package func prefixed(_ words: String) -> LayerError {
        LayerError(code, "\(words): \(message)", hint: hint, errno: errno)
    }

    static func refused(_ path: some Collection<UInt8>, _ rule: String) -> LayerError {
        LayerError(.refused, "'\(printable(path))': \(rule)")
    }
}
