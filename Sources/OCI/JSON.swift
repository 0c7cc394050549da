/// A JSON value (RFC 8259) as image documents use it, in the strict I-JSON profile that the OCI image specification
/// asks for (considerations.md): UTF-8 only, no duplicate keys, no lone surrogates. Two documents that other parsers
/// could read differently are refused here. Keys keep their order.
package enum JSON: Sendable {
    case null
    case bool(Bool)
    /// The number as it is spelled; see `integer` for its value.
    case number(String)
    case string(String)
    case array([JSON])
    case object([(key: String, value: JSON)])

    package static func integer(_ value: some BinaryInteger) -> JSON { .number(String(value)) }

    /// The value of a key of an object; nil for other values and missing keys.
    package subscript(key: String) -> JSON? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.key == key }?.value
    }

    package var string: String? {
        if case .string(let text) = self { text } else { nil }
    }

    package var array: [JSON]? {
        if case .array(let items) = self { items } else { nil }
    }

    package var object: [(key: String, value: JSON)]? {
        if case .object(let members) = self { members } else { nil }
    }

    package var bool: Bool? {
        if case .bool(let value) = self { value } else { nil }
    }

    /// The value of an integer that fits 64 bits and is written without fraction or exponent.
    package var integer: Int64? {
        if case .number(let text) = self { Int64(text) } else { nil }
    }

    package var isNull: Bool {
        if case .null = self { true } else { false }
    }

    /// The same object with a key set (nil removes it); other values are returned as they are.
    package func setting(_ key: String, to value: JSON?) -> JSON {
        guard case .object(var members) = self else { return self }
        if let index = members.firstIndex(where: { $0.key == key }) {
            if let value { members[index].value = value } else { members.remove(at: index) }
        } else if let value {
            members.append((key, value))
        }
        return .object(members)
    }
}

extension JSON: Equatable {
    package static func == (left: JSON, right: JSON) -> Bool {
        switch (left, right) {
        case (.null, .null): true
        case (.bool(let a), .bool(let b)): a == b
        case (.number(let a), .number(let b)): a == b
        case (.string(let a), .string(let b)): a == b
        case (.array(let a), .array(let b)): a == b
        case (.object(let a), .object(let b)):
            a.count == b.count && zip(a, b).allSatisfy { $0.key == $1.key && $0.value == $1.value }
        default: false
        }
    }
}

extension JSON: ExpressibleByDictionaryLiteral, ExpressibleByArrayLiteral, ExpressibleByStringLiteral {
    package init(dictionaryLiteral elements: (String, JSON)...) {
        self = .object(elements.map { (key: $0.0, value: $0.1) })
    }

    package init(arrayLiteral elements: JSON...) { self = .array(elements) }

    package init(stringLiteral value: String) { self = .string(value) }
}

// MARK: - Writing

extension JSON {
    /// Compact text in UTF-8: no spaces, keys in their order.
    package func serialized() -> [UInt8] {
        var text: [UInt8] = []
        write(to: &text, indent: nil, level: 0)
        return text
    }

    /// Text for people, two spaces a level.
    package func pretty() -> String {
        var text: [UInt8] = []
        write(to: &text, indent: 2, level: 0)
        return String(decoding: text, as: UTF8.self)
    }

    private func write(to text: inout [UInt8], indent: Int?, level: Int) {
        switch self {
        case .null: text += "null".utf8
        case .bool(let value): text += (value ? "true" : "false").utf8
        case .number(let value): text += value.utf8
        case .string(let value): JSON.quote(value, to: &text)
        case .array(let items):
            JSON.writeList(items, "[", "]", &text, indent, level) { item, text in
                item.write(to: &text, indent: indent, level: level + 1)
            }
        case .object(let members):
            JSON.writeList(members, "{", "}", &text, indent, level) { member, text in
                JSON.quote(member.key, to: &text)
                text += (indent == nil ? ":" : ": ").utf8
                member.value.write(to: &text, indent: indent, level: level + 1)
            }
        }
    }

    private static func writeList<Item>(
        _ items: [Item], _ opening: String, _ closing: String, _ text: inout [UInt8], _ indent: Int?,
        _ level: Int,
        body: (Item, inout [UInt8]) -> Void
    ) {
        text += opening.utf8
        for (index, item) in items.enumerated() {
            if index > 0 { text += ",".utf8 }
            if let indent { text += ("\n" + String(repeating: " ", count: indent * (level + 1))).utf8 }
            body(item, &text)
        }
        if let indent, !items.isEmpty { text += ("\n" + String(repeating: " ", count: indent * level)).utf8 }
        text += closing.utf8
    }

    private static func quote(_ value: String, to text: inout [UInt8]) {
        text.append(UInt8(ascii: "\""))
        for byte in value.utf8 {
            switch byte {
            case UInt8(ascii: "\""): text += "\\\"".utf8
            case UInt8(ascii: "\\"): text += "\\\\".utf8
            case 0x0a: text += "\\n".utf8
            case 0x09: text += "\\t".utf8
            case 0..<0x20, 0x7f:
                let digits = String(byte, radix: 16)
                text += ("\\u" + String(repeating: "0", count: 4 - digits.utf8.count) + digits).utf8
            default: text.append(byte)
            }
        }
        text.append(UInt8(ascii: "\""))
    }
}
