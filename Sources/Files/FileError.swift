import Glibc
package import SystemPackage

/// What every error of this package can say to the person at the terminal: one line, and a remedy if there is one.
package protocol DescribedError: Error, CustomStringConvertible {
    /// One line: the thing, what went wrong, the rule or errno.
    var message: String { get }
    /// What to do about it, where that is known.
    var hint: String? { get }
}

extension DescribedError {
    package var description: String { message }
}

/// A system call on a file failed.
package struct FileError: DescribedError {
    /// The call, in the kernel's own word: "openat2", "rename".
    package let call: String
    /// The path or name that the call was about.
    package let object: String
    package let errno: Errno

    package init(_ call: String, _ object: String, _ errno: Errno) {
        self.call = call
        self.object = object
        self.errno = errno
    }

    /// Takes errno as the failed call has just left it.
    package static func last(_ call: String, _ object: String) -> FileError {
        FileError(call, object, Errno(rawValue: Glibc.errno))
    }

    package var message: String { "'\(printable(object))': \(call): \(errno.description)" }

    package var hint: String? {
        switch errno {
        case .noSpace: "the disk is full: free some space, or choose another place with --root"
        case .diskQuotaExceeded: "the disk quota of this user is used up"
        case .readOnlyFileSystem: "the file system is mounted read-only; choose another place with --root"
        case .tooManyOpenFiles: "raise the limit of open files: ulimit -n"
        default: nil
        }
    }
}

/// Text as it can stand on a terminal: control characters and bytes that are no UTF-8 written as `\xNN`, so that
/// a name from an image can neither break the line nor send escape sequences.
package func printable(_ text: String) -> String {
    printable(Array(text.utf8))
}

/// The same for bytes that may be no UTF-8.
package func printable(_ bytes: some Collection<UInt8>) -> String {
    let text = String(decoding: bytes, as: UTF8.self)
    let isClean = text.unicodeScalars.allSatisfy {
        $0.value >= 0x20 && $0.value != 0x7f && !(0x80...0x9f).contains($0.value) && $0 != "\u{fffd}"
            && !(0x202a...0x202e).contains($0.value) && !(0x2066...0x2069).contains($0.value)
    }
    if isClean { return text }
    return bytes.map { byte in
        (0x20..<0x7f).contains(byte)
            ? String(UnicodeScalar(byte)) : "\\x" + hexadecimal([byte])
    }.joined()
}

/// Lower-case hexadecimal digits, two a byte.
package func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
}
