import Files
import Glibc
import SystemPackage

/// Both directions of a stream socket, never waiting past a deadline.
struct ByteStream: ~Copyable {
    private let socket: OwnedFD
    /// What was received and not yet taken.
    private var pending: [UInt8] = []
    /// Set when the place in the stream is lost, or the other side is: nothing that comes later could be trusted.
    private var isBroken = false

    /// A line of the authentication protocol; what a bus sends is some dozens of bytes.
    private static let longestLine = 4096

    init(_ socket: consuming OwnedFD) { self.socket = socket }

    /// Sends all bytes.
    mutating func send(_ bytes: [UInt8], _ deadline: Deadline) throws(DBusError) {
        try requireWhole()
        var done = 0
        // A message that was sent in part cannot be taken back.
        isBroken = true
        while done < bytes.count {
            try wait(POLLOUT, deadline)
            // A bus that went away is an error, not a deadly signal.
            let count = bytes.withUnsafeBytes { space in
                Glibc.send(
                    socket.raw, space.baseAddress.map { $0 + done }, bytes.count - done,
                    Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
            }
            if count >= 0 {
                done += count
            } else {
                try passOver(Glibc.errno, "send")
            }
        }
        isBroken = false
    }

    /// A line without its end, which is CR LF.
    mutating func line(_ deadline: Deadline) throws(DBusError) -> [UInt8] {
        while true {
            if let end = pending.firstIndex(of: UInt8(ascii: "\n")) {
                guard end > 0, pending[end - 1] == UInt8(ascii: "\r") else {
                    throw .malformed("a line that does not end with CR LF")
                }
                let line = Array(pending[..<(end - 1)])
                pending.removeSubrange(...end)
                return line
            }
            guard pending.count <= Self.longestLine else { throw .malformed("an endless line") }
            try fill(deadline)
        }
    }

    /// So many bytes, which stay in the stream.
    mutating func peek(_ count: Int, _ deadline: Deadline) throws(DBusError) -> [UInt8] {
        while pending.count < count { try fill(deadline) }
        return Array(pending[..<count])
    }

    /// So many bytes.
    mutating func take(_ count: Int, _ deadline: Deadline) throws(DBusError) -> [UInt8] {
        let bytes = try peek(count, deadline)
        pending.removeSubrange(..<count)
        return bytes
    }

    private mutating func fill(_ deadline: Deadline) throws(DBusError) {
        try requireWhole()
        try wait(POLLIN, deadline)
        let (received, number) = withUnsafeTemporaryAllocation(byteCount: 16384, alignment: 8) {
            space -> ([UInt8]?, Int32) in
            let count = Glibc.recv(socket.raw, space.baseAddress, space.count, Int32(MSG_DONTWAIT))
            return count < 0 ? (nil, Glibc.errno) : (Array(space[..<count]), 0)
        }
        guard let received else { return try passOver(number, "recv") }
        guard !received.isEmpty else { throw close() }
        pending += received
    }

    private func requireWhole() throws(DBusError) {
        if isBroken { throw DBusError(.closed, "the connection with the message bus has failed before") }
    }

    private mutating func close() -> DBusError {
        isBroken = true
        return DBusError(
            .closed, "the message bus closed the connection",
            hint: "the bus does not take this user, or it was restarted: try again")
    }

    /// Nothing there yet is no failure: poll(2) says when.
    private mutating func passOver(_ number: Int32, _ call: String) throws(DBusError) {
        switch number {
        case EINTR, EAGAIN: return
        case EPIPE, ECONNRESET: throw close()
        default:
            isBroken = true
            throw .system(call, number)
        }
    }

    private func wait(_ event: Int32, _ deadline: Deadline) throws(DBusError) {
        var polled = pollfd(fd: socket.raw, events: Int16(truncatingIfNeeded: event), revents: 0)
        while true {
            let left = deadline.remaining
            // Asked before poll(2): a flood of messages, none of them the right one, has to end too.
            guard left > 0 else {
                throw DBusError(
                    .timeout, "no answer over the message bus in time",
                    hint: "look whether systemd works: systemctl")
            }
            let count = poll(&polled, 1, left)
            // A hang-up shows as an event too; the call that follows tells what it is.
            if count > 0 { return }
            if count < 0, Glibc.errno != EINTR { throw .system("poll", Glibc.errno) }
        }
    }
}

extension DBusError {
    static func system(_ call: String, _ number: Int32) -> DBusError {
        let errno = Errno(rawValue: number)
        return DBusError(.system, "message bus: \(call): \(errno.description)", errno: errno)
    }
}

/// A connected socket.
func connect(_ address: BusAddress, _ deadline: Deadline) throws(DBusError) -> OwnedFD {
    let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    let number = Glibc.socket(AF_UNIX, kind, 0)
    guard number >= 0 else { throw .system("socket", Glibc.errno) }
    let socket = OwnedFD(number)
    let name = address.socketName
    var place = sockaddr_un()
    place.sun_family = sa_family_t(AF_UNIX)
    let room = MemoryLayout.size(ofValue: place.sun_path)
    guard name.count <= room else {
        throw DBusError(
            .invalid, "'\(address.label)': a socket's path has at most \(room - 1) bytes (unix(7))")
    }
    withUnsafeMutableBytes(of: &place.sun_path) { $0.copyBytes(from: name) }
    let length = socklen_t((MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2) + name.count)
    while true {
        let result = withUnsafeBytes(of: &place) { space in
            Glibc.connect(socket.raw, space.baseAddress?.assumingMemoryBound(to: sockaddr.self), length)
        }
        if result == 0 { return socket }
        switch Glibc.errno {
        case EINTR: continue
        case EAGAIN:
            // The bus's queue of connections is full, for which poll(2) cannot wait (connect(2)).
            let left = deadline.remaining
            guard left > 0 else {
                throw DBusError(.timeout, "'\(address.label)': the message bus takes no connection")
            }
            poll(nil, 0, min(left, 20))
        case let number: throw .connecting(address, number)
        }
    }
}

extension DBusError {
    fileprivate static func connecting(_ address: BusAddress, _ number: Int32) -> DBusError {
        let errno = Errno(rawValue: number)
        let text = "no message bus at '\(address.label)': \(errno.description)"
        switch number {
        case ENOENT, ECONNREFUSED, ENOTDIR:
            return DBusError(
                .noBus, text,
                hint:
                    "as root, start the system's bus: systemctl start dbus; as an ordinary user, log in anew or let "
                    + "your systemd run always: loginctl enable-linger, and set XDG_RUNTIME_DIR=/run/user/$(id -u)",
                errno: errno)
        case EACCES, EPERM:
            return DBusError(
                .accessDenied, text,
                hint: "this is another user's bus: set XDG_RUNTIME_DIR=/run/user/$(id -u) and unset "
                    + "DBUS_SESSION_BUS_ADDRESS", errno: errno)
        default: return DBusError(.system, text, errno: errno)
        }
    }
}
