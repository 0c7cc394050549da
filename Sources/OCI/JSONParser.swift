extension JSON {
    /// The deepest nesting that is read. Image documents need five levels; a hostile one must not use up the stack.
    package static let maximumDepth = 64

    /// Reads one document.
    /// - Throws: `OCIError` naming the byte offset and the rule.
    package init(parsing text: [UInt8]) throws(OCIError) {
        var parser = JSONParser(text: text)
        self = try parser.document()
    }
}

private struct JSONParser {
    let text: [UInt8]
    var position = 0

    init(text: [UInt8]) { self.text = text }

    mutating func document() throws(OCIError) -> JSON {
        let value = try self.value(depth: 0)
        skipSpace()
        guard position == text.count else { throw failure("something follows the document") }
        return value
    }

    func failure(_ what: String) -> OCIError {
        OCIError(.json, "no valid JSON: \(what) (byte \(position))")
    }

    var next: UInt8? { position < text.count ? text[position] : nil }

    mutating func skipSpace() {
        while let byte = next, byte == 0x20 || byte == 0x0a || byte == 0x0d || byte == 0x09 { position += 1 }
    }

    mutating func take(_ byte: UInt8) -> Bool {
        guard next == byte else { return false }
        position += 1
        return true
    }

    mutating func value(depth: Int) throws(OCIError) -> JSON {
        guard depth < JSON.maximumDepth else { throw failure("nested deeper than \(JSON.maximumDepth)") }
        skipSpace()
        switch next {
        case UInt8(ascii: "{"): return try object(depth: depth)
        case UInt8(ascii: "["): return try array(depth: depth)
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        case .some(let byte) where byte == UInt8(ascii: "-") || isDigit(byte): return try number()
        case nil: throw failure("it ends too early")
        default: throw failure("a value is expected")
        }
    }

    mutating func word(_ spelling: String, _ value: JSON) throws(OCIError) -> JSON {
        guard text[position...].starts(with: spelling.utf8) else { throw failure("a value is expected") }
        position += spelling.utf8.count
        return value
    }

    mutating func object(depth: Int) throws(OCIError) -> JSON {
        position += 1
        var members: [(key: String, value: JSON)] = []
        var seen: Set<String> = []
        skipSpace()
        if take(UInt8(ascii: "}")) { return .object(members) }
        while true {
            skipSpace()
            guard next == UInt8(ascii: "\"") else { throw failure("a key is expected") }
            let key = try string()
            // Swift compares strings by canonical equivalence: that refuses a little more than equal bytes would.
            guard seen.insert(key).inserted else { throw failure("the key '\(key)' stands twice") }
            skipSpace()
            guard take(UInt8(ascii: ":")) else { throw failure("':' is expected") }
            members.append((key, try value(depth: depth + 1)))
            skipSpace()
            if take(UInt8(ascii: ",")) { continue }
            guard take(UInt8(ascii: "}")) else { throw failure("',' or '}' is expected") }
            return .object(members)
        }
    }

    mutating func array(depth: Int) throws(OCIError) -> JSON {
        position += 1
        var items: [JSON] = []
        skipSpace()
        if take(UInt8(ascii: "]")) { return .array(items) }
        while true {
            items.append(try value(depth: depth + 1))
            skipSpace()
            if take(UInt8(ascii: ",")) { continue }
            guard take(UInt8(ascii: "]")) else { throw failure("',' or ']' is expected") }
            return .array(items)
        }
    }

    func isDigit(_ byte: UInt8?) -> Bool { byte.map { (0x30...0x39).contains($0) } ?? false }

    mutating func digits() throws(OCIError) {
        guard isDigit(next) else { throw failure("a digit is expected") }
        while isDigit(next) { position += 1 }
    }

    mutating func number() throws(OCIError) -> JSON {
        let start = position
        _ = take(UInt8(ascii: "-"))
        if take(UInt8(ascii: "0")) {
            if isDigit(next) { throw failure("a number starts with 0") }
        } else {
            try digits()
        }
        if take(UInt8(ascii: ".")) { try digits() }
        if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
            if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
            try digits()
        }
        return .number(String(decoding: text[start..<position], as: UTF8.self))
    }

    mutating func string() throws(OCIError) -> String {
        position += 1
        var bytes: [UInt8] = []
        while let byte = next {
            position += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let result = String(validating: bytes, as: UTF8.self) else {
                    throw failure("a string is no UTF-8")
                }
                return result
            case UInt8(ascii: "\\"): try escape(&bytes)
            case 0..<0x20: throw failure("a control character in a string")
            default: bytes.append(byte)
            }
        }
        throw failure("a string does not end")
    }

    mutating func escape(_ bytes: inout [UInt8]) throws(OCIError) {
        guard let byte = next else { throw failure("a string does not end") }
        position += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): bytes.append(byte)
        case UInt8(ascii: "b"): bytes.append(0x08)
        case UInt8(ascii: "f"): bytes.append(0x0c)
        case UInt8(ascii: "n"): bytes.append(0x0a)
        case UInt8(ascii: "r"): bytes.append(0x0d)
        case UInt8(ascii: "t"): bytes.append(0x09)
        case UInt8(ascii: "u"):
            var code = try fourDigits()
            if (0xd800...0xdbff).contains(code), take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")) {
                let low = try fourDigits()
                guard (0xdc00...0xdfff).contains(low) else { throw failure("a lone surrogate") }
                code = 0x10000 + (code - 0xd800) << 10 + (low - 0xdc00)
            }
            guard let scalar = Unicode.Scalar(code) else { throw failure("a lone surrogate") }
            bytes += Array(String(scalar).utf8)
        default: throw failure("an unknown escape")
        }
    }

    mutating func fourDigits() throws(OCIError) -> UInt32 {
        guard position + 4 <= text.count,
            let digits = String(validating: text[position..<position + 4], as: UTF8.self),
            digits.utf8.allSatisfy({ isDigit($0) || (0x41...0x46).contains($0) || (0x61...0x66).contains($0) }
            ),
            let value = UInt32(digits, radix: 16)
        else { throw failure("four hexadecimal digits are expected") }
        position += 4
        return value
    }
}
