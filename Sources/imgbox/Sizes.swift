import Files
import Glibc
import OCI

/// A wrong value on the command line or in the environment.
struct UsageError: DescribedError {
    let message: String
    let hint: String?

    init(_ message: String, hint: String? = nil) {
        (self.message, self.hint) = (message, hint)
    }
}

/// A number of bytes as docker writes it: 512, 64k, 256m, 2g, 1t (powers of 1024).
func byteCount(_ text: String, flag: String) throws -> Int64 {
    let factors: [Character: Int64] = ["b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40]
    var digits = text.lowercased()
    if digits.hasSuffix("b"), digits.dropLast().last.map({ factors[$0] != nil }) == true {
        digits.removeLast()
    }
    var factor: Int64 = 1
    if let last = digits.last, let found = factors[last] {
        factor = found
        digits.removeLast()
    }
    guard let number = Int64(digits), number >= 0 else {
        throw UsageError(
            "\(flag): '\(printable(text))' is no size",
            hint: "give bytes, or a number with k, m, g or t: 256m")
    }
    let (product, isTooLarge) = number.multipliedReportingOverflow(by: factor)
    if isTooLarge { throw UsageError("\(flag): '\(printable(text))' is too large") }
    return product
}

/// Bytes for people, in powers of 1000 as docker prints them: "7.8MB".
func readable(_ bytes: Int64) -> String {
    var value = Double(bytes)
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 1000 || unit == "TB" {
            if unit == "B" { return "\(bytes)B" }
            let tenths = Int64((value * 10).rounded())
            return value < 100 ? "\(tenths / 10).\(tenths % 10)\(unit)" : "\(Int64(value.rounded()))\(unit)"
        }
        value /= 1000
    }
    return "\(bytes)B"
}

/// The time that SOURCE_DATE_EPOCH asks for (reproducible-builds.org), as RFC 3339; nil when it is not set.
func sourceDate() throws -> String? {
    guard let text = environment("SOURCE_DATE_EPOCH") else { return nil }
    guard let seconds = Int64(text), let time = rfc3339(seconds) else {
        throw UsageError("SOURCE_DATE_EPOCH: '\(printable(text))' is no number of seconds since 1970")
    }
    return time
}
