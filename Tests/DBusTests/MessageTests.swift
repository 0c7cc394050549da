import Testing

@testable import DBus

/// The bytes that hexadecimal digits stand for; blanks do not count.
func bytes(_ digits: String) -> [UInt8] {
    let digits = digits.filter { !$0.isWhitespace }
    var found: [UInt8] = []
    var index = digits.startIndex
    while index < digits.endIndex {
        let next = digits.index(index, offsetBy: 2)
        found.append(UInt8(digits[index..<next], radix: 16) ?? 0)
        index = next
    }
    return found
}

@Suite struct MessageTests {
    /// By python3-jeepney 0.8 (`Message.serialise`), with the flag NO_AUTO_START.
    static let hello = bytes(
        """
        6c01020100000000010000006d00000001016f00150000002f6f72672f667265656465736b746f702f44427573000000
        02017300140000006f72672e667265656465736b746f702e4442757300000000030173000500000048656c6c6f000000
        06017300140000006f72672e667265656465736b746f702e4442757300000000
        """)

    /// The same, serial 3.
    static let start = bytes(
        """
        6c0102011001000003000000b600000001016f00190000002f6f72672f667265656465736b746f702f73797374656d64
        310000000000000002017300200000006f72672e667265656465736b746f702e73797374656d64312e4d616e61676572
        0000000000000000030173001200000053746172745472616e7369656e74556e69740000000000000601730018000000
        6f72672e667265656465736b746f702e73797374656d6431000000000000000008016700107373612873762961287361
        287376292900000010000000696d67626f782d7765622e73636f706500000000040000006661696c00000000de000000
        0b0000004465736372697074696f6e000173000014000000696d67626f7820636f6e7461696e65722077656200000000
        04000000504944730002617500000000080000006712000068120000000000000800000044656c656761746500016200
        01000000000000001300000044656661756c74446570656e64656e636965730001620000000000000b000000436f6c6c
        6563744d6f6465000173000012000000696e6163746976652d6f722d6661696c656400000000000005000000536c6963
        650001730000000011000000757365722d696d67626f782e736c6963650000000000000000000000
        """)

    /// A signal with a value of every type by GLib 2.74 (`g_dbus_message_to_blob`), little and big endian.
    static let everyType = [
        """
        6c040101980000004d0000005a00000007017300040000003a312e350000000001016f00040000002f612f6200000000
        02017300070000006f72672e782e5900080167001a79626e716975787464736f676179617b73767d2879762961617800
        03017300010000005a000000000000008100000001000000fefffefffdffffff00286bee000000000000000000ffffff
        0000000000000080000000000000f8bf0300000068c3a900040000002f6f2f700005617b73767d000300000078797a00
        1800000000000000010000006b0002617500000008000000010000000200000007017600017400000900000000000000
        14000000000000000800000000000000ffffffffffffffff
        """,
        """
        42040101000000980000004d0000005a07017300000000043a312e350000000001016f00000000042f612f6200000000
        02017300000000076f72672e782e5900080167001a79626e716975787464736f676179617b73767d2879762961617800
        03017300000000015a000000000000008100000000000001fffefffefffffffdee6b280000000000ffffff0000000000
        8000000000000000bff80000000000000000000368c3a900000000042f6f2f700005617b73767d000000000378797a00
        0000001800000000000000016b0002617500000000000008000000010000000207017600017400000000000000000009
        00000014000000000000000800000000ffffffffffffffff
        """,
    ].map(bytes)

    static let everyValue: [DBusValue] = [
        .byte(0x81), .boolean(true), .int16(-2), .uint16(65534), .int32(-3), .uint32(4_000_000_000),
        .int64(-(1 << 40)), .uint64(1 << 63), .double(-1.5), .string("h\u{e9}"), .objectPath("/o/p"),
        .signature([.array(.entry(.string, .variant))]), .array(.byte, [.byte(120), .byte(121), .byte(122)]),
        .array(
            .entry(.string, .variant),
            [.entry(.string("k"), .variant(.array(.uint32, [.uint32(1), .uint32(2)])))]),
        .structure([.byte(7), .variant(.variant(.uint64(9)))]),
        .array(.array(.int64), [.array(.int64, []), .array(.int64, [.int64(-1)])]),
    ]

    @Test func helloIsWhatOthersSend() throws {
        var message = DBusMessage.call(
            DBusConnection.bus, DBusConnection.busPath, DBusConnection.bus, "Hello")
        message.serial = 1
        #expect(try message.encoded() == Self.hello)
    }

    @Test func startIsWhatOthersSend() throws {
        var message = SystemdScope.startRequest(
            name: "imgbox-web.scope", description: "imgbox container web", slice: "user-imgbox.slice",
            pids: [4711, 4712], properties: [])
        message.serial = 3
        #expect(try message.encoded() == Self.start)
        #expect(try DBusMessage.decode(Self.start) == message)
    }

    @Test(arguments: everyType) func everyTypeOfBothByteOrders(_ bytes: [UInt8]) throws {
        let message = try #require(try DBusMessage.decode(bytes))
        #expect(message.kind == .signal && message.serial == 77 && message.sender == ":1.5")
        #expect(message.path == "/a/b" && message.interface == "org.x.Y" && message.member == "Z")
        #expect(message.body == Self.everyValue)
        // The header's fields stand in another order; what is read back is the same.
        let again = try message.encoded()
        #expect(try DBusMessage.decode(again) == message)
    }

    @Test func everyTypeRoundTrips() throws {
        var message = DBusMessage(.methodReturn)
        message.serial = 5
        message.replySerial = 4
        message.body = Self.everyValue + [.descriptor(3), .array(.uint64, []), .array(.byte, [])]
        let encoded = try message.encoded()
        #expect(try DBusMessage.decode(encoded) == message)
    }

    @Test(arguments: [hello, start] + everyType) func everyTruncationIsAnError(_ whole: [UInt8]) {
        for count in 0..<whole.count {
            #expect(throws: DBusError.self) { try DBusMessage.decode(Array(whole[..<count])) }
            if count > 16 { expectErrorWithFittingLength(Array(whole[..<count]), whole) }
        }
    }

    /// Makes the length of the body fit; less than the whole body is still an error.
    private func expectErrorWithFittingLength(_ short: [UInt8], _ whole: [UInt8]) {
        var short = short
        let isBig = whole[0] == UInt8(ascii: "B")
        var reader = DBusReader(whole, from: 12, isBigEndian: isBig)
        guard let fields = try? reader.number(UInt32.self) else { return }
        let body = short.count - 16 - (Int(fields) + 7) / 8 * 8
        guard body >= 0 else { return }
        for index in 0..<4 {
            short[4 + (isBig ? 3 - index : index)] = UInt8(truncatingIfNeeded: body >> (8 * index))
        }
        #expect(throws: DBusError.self) { try DBusMessage.decode(short) }
    }

    @Test func randomDamageNeverTraps() {
        var state: UInt64 = 0x9e37_79b9_7f4a_7c15
        func random(_ limit: Int) -> Int {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return Int(state % UInt64(limit))
        }
        var errors = 0
        for _ in 0..<20_000 {
            var damaged = ([Self.start] + Self.everyType)[random(3)]
            for _ in 0...random(4) {
                damaged[random(damaged.count)] = [0, 1, 0x7f, 0x80, 0xff, UInt8(random(256))][random(6)]
            }
            do { _ = try DBusMessage.decode(damaged) } catch { errors += 1 }
            var noise = (0..<random(64)).map { _ in UInt8(random(256)) }
            _ = try? DBusMessage.decode(noise)
            _ = try? DBusType.parse(noise)
            // Behind a sound header.
            noise = Array(Self.everyType[0][..<16]) + noise
            noise[4] = 0
            noise[12] = UInt8(max(0, (noise.count - 16) / 8 * 8))
            _ = try? DBusMessage.decode(Array(noise[..<(16 + Int(noise[12]))]))
        }
        #expect(errors > 1000)
    }

    @Test(arguments: [
        // Length of the body, of the fields: a mebibyte and more, and what would overflow.
        "6c01000100001000 01000000 00000000", "6c010001ffffffff 01000000 ffffffff",
        "6c01000100000000 01000000 f9ffffff", "42010001ffffffff 00000001 00000000",
        // Byte order, version, type 0, serial 0, no required fields.
        "6d01000100000000 01000000 00000000", "6c01000200000000 01000000 00000000",
        "6c00000100000000 01000000 00000000", "6c01000100000000 00000000 00000000",
        "6c01000100000000 01000000 00000000", "6c02000100000000 01000000 00000000",
        "6c03000100000000 01000000 00000000", "6c04000100000000 01000000 00000000",
        // A reply serial (5) that is a string; a header field 0; a body without a signature.
        "6c02000100000000 01000000 0a000000 05017300 01000000 6100 000000000000",
        "6c02000100000000 01000000 08000000 00017500 01000000",
        "6c02000101000000 01000000 08000000 05017500 01000000 41",
        // Padding that is not zero.
        "6c02000100000000 01000000 09000000 05017500 01000000 20 00000000000001",
    ]) func brokenHeaders(_ digits: String) {
        #expect(throws: DBusError.self) { try DBusMessage.decode(bytes(digits)) }
    }

    @Test func whatIsToBeIgnoredIs() throws {
        // A message of type 9; a reply with a field of code 200.
        #expect(try DBusMessage.decode(bytes("6c09000100000000 01000000 00000000")) == nil)
        let reply = "6c02000100000000 01000000 10000000 05017500 01000000 c8017500 01000000"
        #expect(try DBusMessage.decode(bytes(reply))?.replySerial == 1)
    }

    @Test(arguments: [
        "(", ")", "()", "a", "a{", "a{s}", "a{sv", "a{vs}", "a{(s)s}", "{ss}", "z", "(s", "a{sss}", "\u{0}",
        String(repeating: "a", count: 33) + "y",
        String(repeating: "(", count: 33) + "y" + String(repeating: ")", count: 33),
        String(repeating: "y", count: 256), String(repeating: "(", count: 200),
    ]) func brokenSignatures(_ text: String) {
        #expect(throws: DBusError.self) { try DBusType.parse(text.utf8) }
    }

    @Test(arguments: [
        "", "y", "a{sv}", "ssa(sv)a(sa(sv))", String(repeating: "a", count: 32) + "y", "ybnqiuxtdsoghv",
    ])
    func signaturesRoundTrip(_ text: String) throws {
        #expect(try DBusType.parse(text.utf8).map(\.code).joined() == text)
    }

    @Test func nestedVariantsEnd() {
        // v in v in v ...: three bytes each, no trace in the signature.
        var body: [UInt8] = []
        for _ in 0..<10_000 { body += [1, UInt8(ascii: "v"), 0] }
        var reader = DBusReader(body, isBigEndian: false)
        #expect(throws: DBusError.self) { try reader.value(.variant) }
        var value = DBusValue.byte(1)
        for _ in 0..<70 { value = .variant(value) }
        var writer = DBusWriter()
        #expect(throws: DBusError.self) { try writer.append(value) }
    }

    @Test(arguments: [
        DBusValue.string("a\u{0}b"), .objectPath("a"), .objectPath("/a/"), .objectPath("//"), .objectPath(""),
        .objectPath("/a-b"), .structure([]), .array(.byte, [.string("x")]),
        .variant(.entry(.byte(1), .byte(2))),
        .array(.entry(.variant, .byte), []), .string(String(repeating: "x", count: 1 << 20)),
    ]) func whatHasNoFormIsNotSent(_ value: DBusValue) {
        var message = DBusMessage.call("a.b", "/", "a.b", "C", [value])
        message.serial = 1
        #expect(throws: DBusError.self) { try message.encoded() }
    }

    @Test(arguments: [
        // Booleans, texts without end, with a zero, no UTF-8, too long; arrays that lie.
        ("b", "02000000"), ("s", "0100000061"), ("s", "01000000 6161"), ("s", "02000000 610000"),
        ("s", "01000000 ff00"), ("s", "ffffffff 00"), ("g", "ff00"), ("g", "017a00"), ("o", "01000000 6100"),
        ("ay", "05000000 00"), ("au", "03000000 000000"), ("ax", "08000000 01000000 0000000000000000"),
        ("as", "05000000 04000000 61"), ("v", "027979 00 01"), ("v", "0000"),
        ("a{yy}", "01000000 00000000 01"),
    ]) func brokenValues(_ signature: String, _ digits: String) throws {
        let types = try DBusType.parse(signature.utf8)
        var reader = DBusReader(bytes(digits), isBigEndian: false)
        #expect(throws: DBusError.self) { try reader.values(types) }
    }
}
