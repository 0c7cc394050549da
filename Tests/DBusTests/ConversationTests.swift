import Files
import Foundation
import Testing

@testable import DBus

/// The other side of a socketpair. All that it says lies ready before the client asks; a client that sends what it
/// should gives its messages the serials 1, 2, 3 and so on.
struct Script: ~Copyable {
    let client: Int32
    private let server: OwnedFD
    private var serial: UInt32 = 100

    static let welcome = Array("DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n".utf8)

    init() throws {
        var ends: [Int32] = [0, 0]
        try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
        client = ends[0]
        server = OwnedFD(ends[1])
    }

    func say(_ bytes: [UInt8]) throws { try Files.write(server.raw, bytes) }

    mutating func say(_ kind: DBusMessage.Kind, _ change: (inout DBusMessage) -> Void) throws {
        var message = DBusMessage(kind)
        serial += 1
        message.serial = serial
        message.sender = ":1.1"
        change(&message)
        try say(try message.encoded())
    }

    mutating func reply(to serial: UInt32, _ body: [DBusValue] = []) throws {
        try say(.methodReturn) { ($0.replySerial, $0.body) = (serial, body) }
    }

    mutating func refuse(_ serial: UInt32, _ name: String, _ text: String) throws {
        try say(.error) { ($0.replySerial, $0.errorName, $0.body) = (serial, name, [.string(text)]) }
    }

    mutating func jobRemoved(_ job: String, _ result: String, sender: String = ":1.1") throws {
        try say(.signal) {
            ($0.path, $0.interface) = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
            ($0.member, $0.sender) = ("JobRemoved", sender)
            $0.body = [.uint32(7), .objectPath(job), .string("imgbox-web.scope"), .string(result)]
        }
    }

    /// The welcome, and the name.
    mutating func greet() throws {
        try say(Self.welcome)
        try reply(to: 1, [.string(":1.42")])
        try say(.signal) {
            ($0.path, $0.interface, $0.member) = (DBusConnection.busPath, DBusConnection.bus, "NameAcquired")
            $0.body = [.string(":1.42")]
        }
    }

    /// What the client has sent: the lines of the authentication, and the messages.
    func heard() throws -> (lines: [String], messages: [DBusMessage]) {
        var bytes: [UInt8] = []
        var space = [UInt8](repeating: 0, count: 65536)
        while case let count = recv(server.raw, &space, space.count, Int32(MSG_DONTWAIT)), count > 0 {
            bytes += space[..<count]
        }
        var lines: [String] = []
        while lines.last != "BEGIN", let end = bytes.firstIndex(of: 10) {
            lines.append(String(decoding: bytes[..<end].filter { $0 != 13 }, as: UTF8.self))
            bytes.removeSubrange(...end)
        }
        var messages: [DBusMessage] = []
        while !bytes.isEmpty {
            let length = try DBusMessage.length(Array(bytes.prefix(16)))
            if let message = try DBusMessage.decode(Array(bytes[..<length])) { messages.append(message) }
            bytes.removeSubrange(..<length)
        }
        return (lines, messages)
    }

    func hangUp() { shutdown(server.raw, Int32(SHUT_WR)) }
}

let soon = 5000

func start(_ connection: inout DBusConnection, milliseconds: Int = soon) throws(DBusError) -> String {
    try SystemdScope.start(
        name: "imgbox-web.scope", description: "imgbox container web", slice: "user-imgbox.slice",
        pids: [4711, 4712], on: &connection, deadline: Deadline(milliseconds: milliseconds))
}

/// The error of the body, which has to fail.
func failure(_ body: () throws -> Void) throws -> DBusError {
    do { try body() } catch let error as DBusError { return error }
    throw DBusError(.invalid, "no error")
}

@Suite struct ConversationTests {
    static let job = "/org/freedesktop/systemd1/job/7"

    @Test func startsAScope() throws {
        var script = try Script()
        try script.greet()
        try script.reply(to: 2)
        // Before the answer, and after it: signals of others; by a stranger; an answer nobody waits for.
        try script.jobRemoved("/org/freedesktop/systemd1/job/6", "done")
        try script.jobRemoved(Self.job, "failed", sender: ":1.666")
        try script.reply(to: 77, [.objectPath("/no")])
        try script.reply(to: 3, [.objectPath(Self.job)])
        try script.jobRemoved("/org/freedesktop/systemd1/job/8", "failed")
        try script.jobRemoved(Self.job, "done")
        try script.reply(to: 4, [.objectPath("/org/freedesktop/systemd1/unit/imgbox_2dweb_2escope")])
        try script.reply(to: 5, [.variant(.string("/user-imgbox.slice/imgbox-web.scope"))])
        var connection = try DBusConnection(
            socket: OwnedFD(script.client), deadline: Deadline(milliseconds: soon))
        #expect(connection.uniqueName == ":1.42")
        #expect(try start(&connection) == "/user-imgbox.slice/imgbox-web.scope")

        let (lines, messages) = try script.heard()
        #expect(lines == ["\0AUTH EXTERNAL", "DATA", "BEGIN"])
        #expect(messages.map(\.member) == ["Hello", "AddMatch", "StartTransientUnit", "GetUnit", "Get"])
        #expect(messages.map(\.serial) == [1, 2, 3, 4, 5])
        #expect(messages.count == 5 ? try messages[2].encoded() == MessageTests.start : false)
        #expect(messages.last?.path == "/org/freedesktop/systemd1/unit/imgbox_2dweb_2escope")
        #expect(messages.last?.body == [.string("org.freedesktop.systemd1.Scope"), .string("ControlGroup")])
    }

    /// The signal may overtake the answer.
    @Test func theJobMayEndBeforeItsAnswer() throws {
        var script = try Script()
        try script.greet()
        try script.reply(to: 2)
        try script.jobRemoved(Self.job, "done")
        try script.reply(to: 3, [.objectPath(Self.job)])
        try script.reply(to: 4, [.objectPath("/u")])
        try script.reply(to: 5, [.variant(.string("/x"))])
        // And a stop over the same connection, which needs no second AddMatch.
        var connection = try DBusConnection(
            socket: OwnedFD(script.client), deadline: Deadline(milliseconds: soon))
        #expect(try start(&connection) == "/x")
        try script.reply(to: 6, [.objectPath("/j")])
        try script.jobRemoved("/j", "done")
        let deadline = Deadline(milliseconds: soon)
        try SystemdScope.stop(name: "imgbox-web.scope", on: &connection, deadline: deadline)
        try script.refuse(7, "org.freedesktop.systemd1.NoSuchUnit", "Unit not loaded.")
        try SystemdScope.stop(name: "imgbox-web.scope", on: &connection, deadline: deadline)
        let members = try script.heard().messages.map(\.member)
        #expect(members.suffix(3) == ["Get", "StopUnit", "StopUnit"])
    }

    @Test(arguments: [
        ("org.freedesktop.systemd1.UnitExists", DBusError.Code.unitExists, "systemctl stop imgbox-web.scope"),
        ("org.freedesktop.DBus.Error.AccessDenied", .accessDenied, "root only"),
        ("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", .accessDenied, "own bus"),
        ("org.freedesktop.DBus.Error.ServiceUnknown", .noBus, "enable-linger"),
        ("org.freedesktop.DBus.Error.NoReply", .timeout, "systemctl"),
        ("org.freedesktop.DBus.Error.PropertyReadOnly", .reply, "236"),
    ]) func refusals(_ name: String, _ code: DBusError.Code, _ hint: String) throws {
        var script = try Script()
        try script.greet()
        try script.reply(to: 2)
        try script.refuse(3, name, "Because\n\u{1b}[31m.")
        var connection = try DBusConnection(
            socket: OwnedFD(script.client), deadline: Deadline(milliseconds: soon))
        let error = try failure { _ = try start(&connection) }
        #expect(error.code == code && error.errorName == name && error.hint?.contains(hint) == true)
        #expect(!error.message.contains("\n") && !error.message.contains("\u{1b}"))
    }

    @Test(arguments: ["failed", "canceled", "timeout", "dependency"]) func failedJobs(_ result: String) throws
    {
        var script = try Script()
        try script.greet()
        try script.reply(to: 2)
        try script.reply(to: 3, [.objectPath(Self.job)])
        try script.jobRemoved(Self.job, result)
        var connection = try DBusConnection(
            socket: OwnedFD(script.client), deadline: Deadline(milliseconds: soon))
        let error = try failure { _ = try start(&connection) }
        #expect(error.code == .jobFailed && error.message.contains(result) && error.hint != nil)
    }

    @Test(arguments: ["", "x", "/a/../b"]) func groupsThatAreNone(_ group: String) throws {
        var script = try Script()
        try script.greet()
        try script.reply(to: 2)
        try script.reply(to: 3, [.objectPath(Self.job)])
        try script.jobRemoved(Self.job, "done")
        try script.reply(to: 4, [.objectPath("/u")])
        try script.reply(to: 5, [.variant(.string(group))])
        var connection = try DBusConnection(
            socket: OwnedFD(script.client), deadline: Deadline(milliseconds: soon))
        let error = try failure { _ = try start(&connection) }
        #expect(error.code == (group.isEmpty ? .jobFailed : .malformed))
    }

    /// A bus that stops speaking at any byte: the deadline ends it; one that hangs up: at once.
    @Test(arguments: [true, false]) func silenceEnds(_ hangsUp: Bool) throws {
        for spoken in ["", "DA", "DATA\r\n", "DATA\r\nOK 12\r\n", "DATA\r\nOK 12\r\nl\u{2}\u{0}\u{1}"] {
            let script = try Script()
            try script.say(Array(spoken.utf8))
            if hangsUp { script.hangUp() }
            let begin = ContinuousClock.now
            let error = try failure {
                _ = try DBusConnection(
                    socket: OwnedFD(script.client), deadline: Deadline(milliseconds: hangsUp ? soon : 50)
                ).uniqueName
            }
            #expect(error.code == (hangsUp ? .closed : .timeout))
            #expect(ContinuousClock.now - begin < .seconds(3))
        }
    }

    @Test func aMissingSignalEnds() throws {
        var script = try Script()
        try script.greet()
        try script.reply(to: 2)
        try script.reply(to: 3, [.objectPath(Self.job)])
        var connection = try DBusConnection(
            socket: OwnedFD(script.client), deadline: Deadline(milliseconds: soon))
        let error = try failure { _ = try start(&connection, milliseconds: 50) }
        #expect(error.code == .timeout)
    }

    @Test(arguments: [
        ("REJECTED EXTERNAL\r\n", DBusError.Code.accessDenied), ("ERROR \"no\"\r\n", .accessDenied),
        ("HELLO\r\n", .malformed), ("OK\n", .malformed), (String(repeating: "x", count: 9000), .malformed),
        ("OKAY\r\n", .malformed), ("OK 1\r\nHTTP/1.1 400 Bad Request\r\n", .malformed),
        ("OK 1\r\nl\u{2}\u{0}\u{1}\u{0}\u{0}\u{7f}\u{0}\u{1}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}", .malformed),
    ]) func strangeBuses(_ spoken: String, _ code: DBusError.Code) throws {
        let script = try Script()
        try script.say(Array(spoken.utf8))
        let error = try failure {
            _ = try DBusConnection(socket: OwnedFD(script.client), deadline: Deadline(milliseconds: soon))
                .uniqueName
        }
        #expect(error.code == code)
    }

    @Test(arguments: [
        "", ".scope", "a b.scope", "a.service", "a/b.scope", String(repeating: "x", count: 250) + ".scope",
    ])
    func namesThatAreNone(_ name: String) throws {
        var script = try Script()
        try script.greet()
        var connection = try DBusConnection(
            socket: OwnedFD(script.client), deadline: Deadline(milliseconds: soon))
        let error = try failure {
            try SystemdScope.stop(name: name, on: &connection, deadline: Deadline(milliseconds: soon))
        }
        #expect(error.code == .invalid)
    }
}

@Suite struct AddressTests {
    @Test(arguments: [
        ("unix:path=/run/x", [BusAddress.path("/run/x")]),
        ("unix:guid=1,path=/a%20b;unix:abstract=/tmp/c,guid=2", [.path("/a b"), .abstract("/tmp/c")]),
        ("tcp:host=h,port=1;unix:path=/p", [.path("/p")]),
    ]) func lists(_ text: String, _ expected: [BusAddress]) throws {
        #expect(try BusAddress.list(text) == expected)
    }

    @Test(arguments: [
        "", "x", "tcp:host=h", "unix:", "unix:path=", "unix:path=%4", "unix:path=%zz", "unix:path=%ff",
    ])
    func broken(_ text: String) {
        #expect(throws: DBusError.self) { try BusAddress.list(text) }
    }

    @Test func standardPlaces() throws {
        #expect(try BusAddress.system { _ in nil } == [.path("/run/dbus/system_bus_socket")])
        #expect(try BusAddress.user { $0 == "XDG_RUNTIME_DIR" ? "/r" : nil } == [.path("/r/bus")])
        #expect(try BusAddress.user { _ in "unix:path=/s" } == [.path("/s")])
        #expect(try BusAddress.user { _ in nil } == [.path("/run/user/\(geteuid())/bus")])
    }

    @Test func nobodyListens() throws {
        let deadline = Deadline(milliseconds: soon)
        let gone = try failure {
            _ = try DBusConnection.open([.path("/nowhere/bus")], deadline: deadline).uniqueName
        }
        #expect(gone.code == .noBus && gone.hint?.contains("XDG_RUNTIME_DIR") == true)
        let name = BusAddress.abstract("imgbox-nobody-\(getpid())")
        #expect(
            try failure { _ = try DBusConnection.open([name], deadline: deadline).uniqueName }.code == .noBus)
        let long = BusAddress.path("/" + String(repeating: "x", count: 200))
        #expect(
            try failure { _ = try DBusConnection.open([long], deadline: deadline).uniqueName }.code
                == .invalid)
    }

    @Test func systemdIsWhereItsDirectoryIs() throws {
        let root = NSTemporaryDirectory() + "dbus-booted-\(getpid())"
        defer { try? FileManager.default.removeItem(atPath: root) }
        #expect(!SystemdScope.isSystemdRunning(below: root))
        try FileManager.default.createDirectory(
            atPath: root + "/run/systemd/system", withIntermediateDirectories: true)
        #expect(SystemdScope.isSystemdRunning(below: root))
    }
}
