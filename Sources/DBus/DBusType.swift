/// A single complete type of the D-Bus specification ("Type System").
package indirect enum DBusType: Sendable, Hashable {
    case byte, boolean, int16, uint16, int32, uint32, int64, uint64, double
    case string, objectPath, signature
    /// The number of a descriptor that goes beside the message. This client asks for none and gets none.
    case descriptor
    case variant
    case array(DBusType)
    case structure([DBusType])
    /// Only as the element of an array.
    case entry(DBusType, DBusType)

    /// The code as it stands in a signature.
    package var code: String {
        switch self {
        case .array(let element): "a" + element.code
        case .structure(let fields): "(" + fields.map(\.code).joined() + ")"
        case .entry(let key, let value): "{" + key.code + value.code + "}"
        default: Self.simple.first { $0.type == self }.map { String(UnicodeScalar($0.code)) } ?? ""
        }
    }

    /// In bytes, counted from the start of the message ("Summary of D-Bus marshalling").
    var alignment: Int {
        switch self {
        case .byte, .signature, .variant: 1
        case .int16, .uint16: 2
        case .boolean, .int32, .uint32, .descriptor, .string, .objectPath, .array: 4
        case .int64, .uint64, .double, .structure, .entry: 8
        }
    }

    var isBasic: Bool {
        switch self {
        case .variant, .array, .structure, .entry: false
        default: true
        }
    }

    private static let simple: [(code: UInt8, type: DBusType)] = [
        (UInt8(ascii: "y"), .byte), (UInt8(ascii: "b"), .boolean), (UInt8(ascii: "n"), .int16),
        (UInt8(ascii: "q"), .uint16), (UInt8(ascii: "i"), .int32), (UInt8(ascii: "u"), .uint32),
        (UInt8(ascii: "x"), .int64), (UInt8(ascii: "t"), .uint64), (UInt8(ascii: "d"), .double),
        (UInt8(ascii: "s"), .string), (UInt8(ascii: "o"), .objectPath), (UInt8(ascii: "g"), .signature),
        (UInt8(ascii: "h"), .descriptor), (UInt8(ascii: "v"), .variant),
    ]

    /// Reads a signature: any number of complete types, of at most 255 bytes, arrays and structures each 32 deep
    /// at most ("Valid Signatures").
    package static func parse(_ signature: some Sequence<UInt8>) throws(DBusError) -> [DBusType] {
        var rest = Array(signature)[...]
        guard rest.count <= 255 else { throw .malformed("a signature of more than 255 bytes") }
        var types: [DBusType] = []
        while !rest.isEmpty { types.append(try one(&rest, arrays: 0, structures: 0)) }
        return types
    }

    private static func one(
        _ rest: inout ArraySlice<UInt8>, arrays: Int, structures: Int
    ) throws(DBusError) -> DBusType {
        guard arrays <= 32, structures <= 32 else { throw .malformed("a signature more than 32 deep") }
        switch rest.popFirst() {
        case UInt8(ascii: "a")?:
            guard rest.first == UInt8(ascii: "{") else {
                return .array(try one(&rest, arrays: arrays + 1, structures: structures))
            }
            rest.removeFirst()
            let key = try one(&rest, arrays: arrays + 1, structures: structures + 1)
            guard key.isBasic else { throw .malformed("the key of a dictionary is a container") }
            let value = try one(&rest, arrays: arrays + 1, structures: structures + 1)
            guard rest.popFirst() == UInt8(ascii: "}") else {
                throw .malformed("a dictionary entry without its end")
            }
            return .array(.entry(key, value))
        case UInt8(ascii: "(")?:
            var fields: [DBusType] = []
            while rest.first != UInt8(ascii: ")") {
                fields.append(try one(&rest, arrays: arrays, structures: structures + 1))
            }
            rest.removeFirst()
            guard !fields.isEmpty else { throw .malformed("a structure without fields") }
            return .structure(fields)
        case let code?:
            guard let known = simple.first(where: { $0.code == code }) else {
                throw .malformed("a signature with an unknown type")
            }
            return known.type
        case nil: throw .malformed("a signature ends in the middle of a type")
        }
    }
}
