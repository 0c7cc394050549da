/// A message of the D-Bus specification ("Message Format").
package struct DBusMessage: Sendable, Equatable {
    /// "Header Fields" and "Message Format": types beyond these are to be ignored.
    package enum Kind: UInt8, Sendable {
        case methodCall = 1
        case methodReturn = 2
        case error = 3
        case signal = 4
    }

    package var kind: Kind
    package var flags: UInt8 = 0
    /// Given by the connection when the message is sent; never 0 on the wire.
    package var serial: UInt32 = 0
    package var path: String?
    package var interface: String?
    package var member: String?
    package var errorName: String?
    package var replySerial: UInt32?
    package var destination: String?
    /// The unique name of the one who sent it; the bus fills it in, so that it can be trusted.
    package var sender: String?
    package var body: [DBusValue] = []

    package init(_ kind: Kind) { self.kind = kind }

    /// A call of `interface.member` on the object `path` of `destination`.
    package static func call(
        _ destination: String, _ path: String, _ interface: String, _ member: String, _ body: [DBusValue] = []
    ) -> DBusMessage {
        var message = DBusMessage(.methodCall)
        // NO_AUTO_START: who does not run is not to be started by the bus, which could take 25 seconds to fail.
        // Without ALLOW_INTERACTIVE_AUTHORIZATION polkit refuses at once instead of asking somebody for a password.
        message.flags = 0x2
        (message.destination, message.path) = (destination, path)
        (message.interface, message.member, message.body) = (interface, member, body)
        return message
    }

    /// The most bytes that this client sends or takes. The specification allows 128 MiB; nothing here needs more than
    /// some kilobytes.
    package static let largest = 1 << 20

    /// The part of the header that tells the length of all.
    static let prefixLength = 16

    /// The bytes of the message, little endian.
    package func encoded() throws(DBusError) -> [UInt8] {
        var content = DBusWriter()
        for value in body { try content.append(value) }

        // The order is free; by ascending code other libraries' bytes can be compared.
        var fields: [DBusValue] = []
        func add(_ code: UInt8, _ value: DBusValue?) {
            if let value { fields.append(.structure([.byte(code), .variant(value)])) }
        }
        add(1, path.map { .objectPath($0) })
        add(2, interface.map { .string($0) })
        add(3, member.map { .string($0) })
        add(4, errorName.map { .string($0) })
        add(5, replySerial.map { .uint32($0) })
        add(6, destination.map { .string($0) })
        add(7, sender.map { .string($0) })
        add(8, body.isEmpty ? nil : .signature(body.map(\.type)))

        var header = DBusWriter()
        header.append(raw: [UInt8(ascii: "l"), kind.rawValue, flags, 1])
        guard content.bytes.count <= Self.largest else { throw .invalid("more than a mebibyte") }
        header.append(UInt32(content.bytes.count))
        header.append(serial)
        try header.append(.array(Self.fieldType, fields))
        header.align(8)
        header.append(raw: content.bytes)
        guard header.bytes.count <= Self.largest else { throw .invalid("more than a mebibyte") }
        return header.bytes
    }

    private static let fieldType = DBusType.structure([.byte, .variant])

    /// The length of a whole message in bytes by its first 16.
    static func length(_ prefix: [UInt8]) throws(DBusError) -> Int {
        guard prefix.count >= prefixLength else { throw .malformed("it ends within the header") }
        let isBigEndian: Bool
        switch prefix[0] {
        case UInt8(ascii: "l"): isBigEndian = false
        case UInt8(ascii: "B"): isBigEndian = true
        default: throw .malformed("an unknown byte order")
        }
        guard prefix[3] == 1 else { throw .malformed("a protocol version other than 1") }
        var reader = DBusReader(prefix, from: 4, isBigEndian: isBigEndian)
        let body = try reader.number(UInt32.self)
        _ = try reader.number(UInt32.self)
        let fields = try reader.number(UInt32.self)
        // Each on its own first, so that the sum cannot overflow.
        guard body <= largest, fields <= largest else { throw .malformed("more than a mebibyte") }
        let length = prefixLength + (Int(fields) + 7) / 8 * 8 + Int(body)
        guard length <= largest else { throw .malformed("more than a mebibyte") }
        return length
    }

    /// Reads a whole message. Nil: it is of a type that is to be ignored.
    package static func decode(_ bytes: [UInt8]) throws(DBusError) -> DBusMessage? {
        guard try length(bytes) == bytes.count else {
            throw .malformed("its length is not what its header says")
        }
        guard bytes[1] != 0 else { throw .malformed("a message of the invalid type 0") }
        guard let kind = Kind(rawValue: bytes[1]) else { return nil }
        var message = DBusMessage(kind)
        message.flags = bytes[2]
        var reader = DBusReader(bytes, from: 8, isBigEndian: bytes[0] == UInt8(ascii: "B"))
        message.serial = try reader.number()
        guard message.serial != 0 else { throw .malformed("the serial number 0") }
        var types: [DBusType] = []
        guard case .array(_, let fields) = try reader.value(.array(fieldType)) else { return nil }
        for field in fields {
            guard case .structure(let pair) = field, pair.count == 2, case .byte(let code) = pair[0],
                case .variant(let value) = pair[1]
            else { continue }
            try message.take(code, value, &types)
        }
        try reader.align(8)
        message.body = try reader.values(types)
        guard reader.isAtEnd else { throw .malformed("more body than its signature tells of") }
        try message.requireFields()
        return message
    }

    /// Fields of other codes are to be ignored; a known one of a wrong type is an error.
    private mutating func take(_ code: UInt8, _ value: DBusValue, _ types: inout [DBusType]) throws(DBusError)
    {
        switch (code, value) {
        case (0, _): throw .malformed("the invalid header field 0")
        case (1, .objectPath(let text)): path = text
        case (2, .string(let text)): interface = text
        case (3, .string(let text)): member = text
        case (4, .string(let text)): errorName = text
        case (5, .uint32(let number)): replySerial = number
        case (6, .string(let text)): destination = text
        case (7, .string(let text)): sender = text
        case (8, .signature(let list)): types = list
        case (9, .uint32): break
        case (1...9, _): throw .malformed("a header field of a wrong type")
        default: break
        }
    }

    /// The table in "Header Fields".
    private func requireFields() throws(DBusError) {
        let isComplete =
            switch kind {
            case .methodCall: path != nil && member != nil
            case .methodReturn: replySerial != nil
            case .error: errorName != nil && replySerial != nil
            case .signal: path != nil && interface != nil && member != nil
            }
        guard isComplete else { throw .malformed("a header without a field that its type requires") }
    }
}
