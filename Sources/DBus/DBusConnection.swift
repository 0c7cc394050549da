package import Files

/// A client's connection with a message bus. One thread; every wait has a deadline.
package struct DBusConnection: ~Copyable {
    private var stream: ByteStream
    private var lastSerial: UInt32 = 0
    private var rules: Set<String> = []
    /// Signals that came while something else was waited for, oldest first, and their bytes on the wire.
    private var signals: [DBusMessage] = []
    private var signalBytes = 0
    /// The name that the bus gave to this connection, `:1.7`.
    package private(set) var uniqueName = ""

    /// What may wait in `signals`: enough for tens of thousands of jobs, too little to fill the memory.
    private static let mostSignalBytes = 4 << 20

    static let bus = "org.freedesktop.DBus"
    static let busPath = "/org/freedesktop/DBus"

    /// Connects to the first of the addresses where somebody listens, authenticates and says Hello.
    package static func open(
        _ addresses: [BusAddress], deadline: Deadline
    ) throws(DBusError) -> DBusConnection {
        var first: DBusError?
        for address in addresses {
            do throws(DBusError) {
                return try DBusConnection(socket: try connect(address, deadline), deadline: deadline)
            } catch {
                first = first ?? error
            }
        }
        throw first ?? DBusError(.noBus, "no address of a message bus is known")
    }

    /// The same over a socket that is connected already.
    package init(socket: consuming OwnedFD, deadline: Deadline) throws(DBusError) {
        stream = ByteStream(socket)
        try authenticate(deadline)
        // "Message Bus Messages": Hello has to be the first call, and gives the unique name.
        let answer = try call(.call(Self.bus, Self.busPath, Self.bus, "Hello"), deadline: deadline)
        guard case .string(let name)? = answer.body.first else {
            throw .malformed("an answer to Hello without a name")
        }
        uniqueName = name
    }

    /// "Authentication Protocol", mechanism EXTERNAL.
    ///
    /// The identity is left empty: the bus then takes the one that the kernel tells of this socket (SO_PEERCRED). A number
    /// that is sent would be wrong in a user namespace, where geteuid(2) has not the bus's numbers.
    private mutating func authenticate(_ deadline: Deadline) throws(DBusError) {
        try stream.send([0] + Array("AUTH EXTERNAL\r\n".utf8), deadline)
        var answer = try stream.line(deadline)
        if isCommand(answer, "DATA") {
            try stream.send(Array("DATA\r\n".utf8), deadline)
            answer = try stream.line(deadline)
        }
        guard isCommand(answer, "OK") else {
            guard isCommand(answer, "REJECTED") || isCommand(answer, "ERROR") else {
                throw .malformed("no answer of the authentication protocol")
            }
            throw DBusError(
                .accessDenied, "the message bus does not let this user in: \(printable(answer))",
                hint: "an ordinary user has a bus of his own, which systemd starts when he logs in")
        }
        try stream.send(Array("BEGIN\r\n".utf8), deadline)
    }

    private func isCommand(_ line: [UInt8], _ word: String) -> Bool {
        line.elementsEqual(word.utf8) || line.starts(with: (word + " ").utf8)
    }

    /// Sends a call and waits for its answer. An answer that is an error is thrown, with its name and text.
    package mutating func call(_ message: DBusMessage, deadline: Deadline) throws(DBusError) -> DBusMessage {
        // 0 is no serial ("Message Format").
        lastSerial = lastSerial == .max ? 1 : lastSerial + 1
        var message = message
        message.serial = lastSerial
        try stream.send(try message.encoded(), deadline)
        while true {
            let (answer, length) = try receive(deadline)
            switch answer.kind {
            case .methodReturn where answer.replySerial == lastSerial: return answer
            case .error where answer.replySerial == lastSerial: throw Self.error(of: answer, to: message)
            case .signal: try keep(answer, length)
            // Answers to calls that were given up; and nobody has reason to call this client.
            case .methodReturn, .error, .methodCall: continue
            }
        }
    }

    private static func error(of answer: DBusMessage, to call: DBusMessage) -> DBusError {
        let name = answer.errorName ?? ""
        let text: String? = if case .string(let text)? = answer.body.first { text } else { nil }
        let said = (text ?? "").isEmpty ? name : text ?? name
        return DBusError(
            .reply, "\(call.member ?? ""): \(printable(said))", errorName: name, errorText: text)
    }

    private mutating func keep(_ signal: DBusMessage, _ length: Int) throws(DBusError) {
        signalBytes += length
        guard signalBytes <= Self.mostSignalBytes else {
            throw DBusError(.malformed, "the message bus sends more signals than can be kept")
        }
        signals.append(signal)
    }

    /// Asks for the signals that fit a rule ("Match Rules"), once. Comes back when the bus has taken it.
    package mutating func subscribe(_ rule: String, deadline: Deadline) throws(DBusError) {
        guard !rules.contains(rule) else { return }
        _ = try call(.call(Self.bus, Self.busPath, Self.bus, "AddMatch", [.string(rule)]), deadline: deadline)
        rules.insert(rule)
    }

    /// Drops what has come so far.
    package mutating func forgetSignals() {
        signals = []
        signalBytes = 0
    }

    /// Waits for the first signal that fits. Those before it, and those that came earlier, are used up.
    ///
    /// A rule of `subscribe` is no filter for what arrives: everybody on a bus may send anybody a signal. `fits` has to look
    /// at the sender.
    package mutating func waitForSignal(
        deadline: Deadline, _ fits: (DBusMessage) -> Bool
    ) throws(DBusError) -> DBusMessage {
        if let index = signals.firstIndex(where: fits) {
            let found = signals[index]
            signals.removeSubrange(...index)
            return found
        }
        forgetSignals()
        while true {
            let (message, _) = try receive(deadline)
            if message.kind == .signal, fits(message) { return message }
        }
    }

    /// The next message, and its length in bytes.
    private mutating func receive(_ deadline: Deadline) throws(DBusError) -> (DBusMessage, length: Int) {
        while true {
            let length = try DBusMessage.length(try stream.peek(DBusMessage.prefixLength, deadline))
            let bytes = try stream.take(length, deadline)
            if let message = try DBusMessage.decode(bytes) { return (message, length) }
        }
    }
}
