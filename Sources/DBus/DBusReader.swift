/// Unmarshals values of either byte order ("Marshalling"). Every length is checked against what is there.
struct DBusReader {
    private let bytes: [UInt8]
    private let isBigEndian: Bool
    private(set) var offset: Int
    /// Where the innermost container ends; at most `bytes.count`.
    private var end: Int

    init(_ bytes: [UInt8], from offset: Int = 0, isBigEndian: Bool) {
        (self.bytes, self.offset, self.isBigEndian) = (bytes, min(offset, bytes.count), isBigEndian)
        end = bytes.count
    }

    var isAtEnd: Bool { offset == end }

    /// Passes over padding, which has to be zeros.
    mutating func align(_ alignment: Int) throws(DBusError) {
        while offset % alignment != 0 {
            guard try byte() == 0 else { throw .malformed("padding that is not zero") }
        }
    }

    private mutating func byte() throws(DBusError) -> UInt8 {
        guard offset < end else { throw .malformed("a value does not fit in its place") }
        defer { offset += 1 }
        return bytes[offset]
    }

    mutating func number<Number: FixedWidthInteger>(_ type: Number.Type = Number.self) throws(DBusError)
        -> Number
    {
        let width = Number.bitWidth / 8
        try align(width)
        guard width <= end - offset else { throw .malformed("a number does not fit in its place") }
        var number: UInt64 = 0
        for index in 0..<width {
            number = number << 8 | UInt64(bytes[isBigEndian ? offset + index : offset + width - 1 - index])
        }
        offset += width
        return Number(truncatingIfNeeded: number)
    }

    mutating func values(_ types: [DBusType]) throws(DBusError) -> [DBusValue] {
        var values: [DBusValue] = []
        for type in types { values.append(try value(type)) }
        return values
    }

    mutating func value(_ type: DBusType, depth: Int = 0) throws(DBusError) -> DBusValue {
        // Variants nest without any trace in the signature: this check keeps the stack from being used up.
        guard depth <= DBusValue.deepest else {
            throw .malformed("values more than \(DBusValue.deepest) deep")
        }
        switch type {
        case .byte: return .byte(try byte())
        case .boolean:
            let number = try number(UInt32.self)
            guard number <= 1 else { throw .malformed("a boolean that is neither 0 nor 1") }
            return .boolean(number == 1)
        case .int16: return .int16(try number())
        case .uint16: return .uint16(try number())
        case .int32: return .int32(try number())
        case .uint32: return .uint32(try number())
        case .int64: return .int64(try number())
        case .uint64: return .uint64(try number())
        case .double: return .double(Double(bitPattern: try number()))
        case .descriptor: return .descriptor(try number())
        case .string: return .string(try string())
        case .objectPath:
            let path = try string()
            guard isObjectPath(path) else { throw .malformed("an object path that is none") }
            return .objectPath(path)
        case .signature: return .signature(try signature())
        case .variant:
            let types = try signature()
            guard let only = types.first, types.count == 1 else {
                throw .malformed("a variant without its one type")
            }
            return .variant(try value(only, depth: depth + 1))
        case .array(let element): return .array(element, try array(element, depth: depth + 1))
        case .structure(let types):
            try align(8)
            var fields: [DBusValue] = []
            for type in types { fields.append(try value(type, depth: depth + 1)) }
            return .structure(fields)
        case .entry(let key, let content):
            try align(8)
            return .entry(try value(key, depth: depth + 1), try value(content, depth: depth + 1))
        }
    }

    private mutating func array(_ element: DBusType, depth: Int) throws(DBusError) -> [DBusValue] {
        let length = try number(UInt32.self)
        try align(element.alignment)
        guard let length = Int(exactly: length), length <= end - offset else {
            throw .malformed("an array does not fit in its place")
        }
        let outer = end
        end = offset + length
        // No type of D-Bus takes zero bytes, so that this ends.
        var values: [DBusValue] = []
        while offset < end { values.append(try value(element, depth: depth)) }
        end = outer
        return values
    }

    private mutating func string() throws(DBusError) -> String {
        try text(length: try number(UInt32.self))
    }

    private mutating func signature() throws(DBusError) -> [DBusType] {
        try DBusType.parse(try text(length: UInt32(try byte())).utf8)
    }

    /// So many bytes of UTF-8 without a zero, and the zero behind them.
    private mutating func text(length: UInt32) throws(DBusError) -> String {
        guard let length = Int(exactly: length), length < end - offset else {
            throw .malformed("a text does not fit in its place")
        }
        let content = bytes[offset..<offset + length]
        guard bytes[offset + length] == 0 else { throw .malformed("a text without its final zero") }
        guard !content.contains(0) else { throw .malformed("a text with a zero byte") }
        guard let text = String(validating: content, as: UTF8.self) else {
            throw .malformed("a text that is no UTF-8")
        }
        offset += length + 1
        return text
    }
}
