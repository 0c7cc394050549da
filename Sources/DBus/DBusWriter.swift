/// Marshals values, little endian ("Marshalling").
struct DBusWriter {
    private(set) var bytes: [UInt8] = []

    /// Puts zeros up to the next multiple of `alignment`.
    mutating func align(_ alignment: Int) {
        while bytes.count % alignment != 0 { bytes.append(0) }
    }

    mutating func append(_ number: some FixedWidthInteger) {
        align(number.bitWidth / 8)
        withUnsafeBytes(of: number.littleEndian) { bytes.append(contentsOf: $0) }
    }

    mutating func append(raw: [UInt8]) { bytes += raw }

    mutating func append(_ value: DBusValue, depth: Int = 0) throws(DBusError) {
        guard depth <= DBusValue.deepest else { throw .invalid("values more than \(DBusValue.deepest) deep") }
        switch value {
        case .byte(let number): append(number)
        case .boolean(let flag): append(UInt32(flag ? 1 : 0))
        case .int16(let number): append(number)
        case .uint16(let number): append(number)
        case .int32(let number): append(number)
        case .uint32(let number), .descriptor(let number): append(number)
        case .int64(let number): append(number)
        case .uint64(let number): append(number)
        case .double(let number): append(number.bitPattern)
        case .string(let text): try append(text: text)
        case .objectPath(let path):
            guard isObjectPath(path) else { throw .invalid("an object path that is none") }
            try append(text: path)
        case .signature(let types): try append(signature: types)
        case .variant(let inner):
            try append(signature: [inner.type])
            try append(inner, depth: depth + 1)
        case .array(let element, let values): try append(array: values, of: element, depth: depth + 1)
        case .structure(let fields):
            guard !fields.isEmpty else { throw .invalid("a structure without fields") }
            align(8)
            for field in fields { try append(field, depth: depth + 1) }
        case .entry(let key, let content):
            align(8)
            try append(key, depth: depth + 1)
            try append(content, depth: depth + 1)
        }
    }

    private mutating func append(array values: [DBusValue], of element: DBusType, depth: Int)
        throws(DBusError)
    {
        append(UInt32(0))
        let place = bytes.count - 4
        // The length does not count the padding in front of the first element, which is there even without one.
        align(element.alignment)
        let start = bytes.count
        for value in values {
            guard value.type == element else { throw .invalid("an array of mixed types") }
            try append(value, depth: depth)
        }
        try patch(place, with: bytes.count - start)
    }

    private mutating func append(text: String) throws(DBusError) {
        guard !text.utf8.contains(0) else { throw .invalid("a text with a zero byte") }
        guard let length = UInt32(exactly: text.utf8.count) else { throw .invalid("too much text") }
        append(length)
        bytes += text.utf8
        bytes.append(0)
    }

    private mutating func append(signature types: [DBusType]) throws(DBusError) {
        let code = types.map(\.code).joined()
        // What the other side would refuse is refused here: over-long, too deep, an entry out of an array.
        guard let parsed = try? DBusType.parse(code.utf8), parsed == types,
            let length = UInt8(exactly: code.utf8.count)
        else { throw .invalid("a type that has no signature") }
        bytes.append(length)
        bytes += code.utf8
        bytes.append(0)
    }

    private mutating func patch(_ place: Int, with length: Int) throws(DBusError) {
        guard length <= DBusMessage.largest else { throw .invalid("an array of more than a mebibyte") }
        for index in 0..<4 { bytes[place + index] = UInt8(truncatingIfNeeded: length >> (8 * index)) }
    }
}
