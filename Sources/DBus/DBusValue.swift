/// A value of the D-Bus specification ("Type System").
package indirect enum DBusValue: Sendable, Hashable {
    case byte(UInt8)
    case boolean(Bool)
    case int16(Int16)
    case uint16(UInt16)
    case int32(Int32)
    case uint32(UInt32)
    case int64(Int64)
    case uint64(UInt64)
    case double(Double)
    case string(String)
    case objectPath(String)
    case signature([DBusType])
    /// The number of a descriptor that goes beside the message.
    case descriptor(UInt32)
    case variant(DBusValue)
    /// The type of the elements stands for itself, since an empty array has one too.
    case array(DBusType, [DBusValue])
    case structure([DBusValue])
    /// Only as the element of an array.
    case entry(DBusValue, DBusValue)

    package var type: DBusType {
        switch self {
        case .byte: .byte
        case .boolean: .boolean
        case .int16: .int16
        case .uint16: .uint16
        case .int32: .int32
        case .uint32: .uint32
        case .int64: .int64
        case .uint64: .uint64
        case .double: .double
        case .string: .string
        case .objectPath: .objectPath
        case .signature: .signature
        case .descriptor: .descriptor
        case .variant: .variant
        case .array(let element, _): .array(element)
        case .structure(let fields): .structure(fields.map(\.type))
        case .entry(let key, let value): .entry(key.type, value.type)
        }
    }

    /// Containers within containers, variants among them ("Message Format": 64 in all).
    static let deepest = 64

    /// The text of a string or an object path.
    package var text: String? {
        switch self {
        case .string(let text), .objectPath(let text): text
        default: nil
        }
    }
}

/// "Valid Object Paths": `/`, or elements of letters, digits and underscores after a slash each.
func isObjectPath(_ text: String) -> Bool {
    let bytes = text.utf8
    if bytes.count == 1 { return bytes.first == UInt8(ascii: "/") }
    guard bytes.first == UInt8(ascii: "/") else { return false }
    return bytes.dropFirst().split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).allSatisfy
    {
        !$0.isEmpty
            && $0.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"):
                    true
                default: false
                }
            }
    }
}
