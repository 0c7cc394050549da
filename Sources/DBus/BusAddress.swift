import Files
import Glibc

/// Where a message bus listens: the socket that an address of the D-Bus specification ("Server Addresses") names.
package enum BusAddress: Sendable, Equatable {
    /// `unix:path=`: a socket in the file system.
    case path(String)
    /// `unix:abstract=`: a name of the network namespace, as unix(7) has it.
    case abstract(String)

    /// The system's bus, from `DBUS_SYSTEM_BUS_ADDRESS` or at its standard place: the candidates, best first.
    package static func system(
        _ variable: (String) -> String? = environmentVariable
    ) throws(DBusError) -> [BusAddress] {
        if let text = variable("DBUS_SYSTEM_BUS_ADDRESS"), !text.isEmpty { return try list(text) }
        return [.path("/run/dbus/system_bus_socket")]
    }

    /// The bus of this user, from `DBUS_SESSION_BUS_ADDRESS` or where systemd has it: the candidates, best first.
    package static func user(
        _ variable: (String) -> String? = environmentVariable
    ) throws(DBusError) -> [BusAddress] {
        if let text = variable("DBUS_SESSION_BUS_ADDRESS"), !text.isEmpty { return try list(text) }
        if let directory = variable("XDG_RUNTIME_DIR"), directory.hasPrefix("/") {
            return [.path("\(directory)/bus")]
        }
        // cron, su and sudo leave the variable away; pam_systemd(8) fixes the place.
        return [.path("/run/user/\(geteuid())/bus")]
    }

    /// Reads `unix:path=/run/a;unix:abstract=b,guid=...`. Entries of other transports are passed over, as long as one
    /// can be used.
    package static func list(_ text: String) throws(DBusError) -> [BusAddress] {
        var found: [BusAddress] = []
        for entry in text.split(separator: ";") {
            if let address = try one(entry) { found.append(address) }
        }
        guard !found.isEmpty else {
            throw DBusError(
                .noBus, "'\(printable(text))' names no unix socket",
                hint: "only bus addresses unix:path=... and unix:abstract=... can be used")
        }
        return found
    }

    private static func one(_ entry: Substring) throws(DBusError) -> BusAddress? {
        guard let colon = entry.firstIndex(of: ":") else {
            throw DBusError(.invalid, "'\(printable(String(entry)))' is no bus address: it has no colon")
        }
        guard entry[..<colon] == "unix" else { return nil }
        for pair in entry[entry.index(after: colon)...].split(separator: ",") {
            guard let equals = pair.firstIndex(of: "=") else { continue }
            let value = pair[pair.index(after: equals)...]
            switch pair[..<equals] {
            case "path": return .path(try unescaped(value))
            case "abstract": return .abstract(try unescaped(value))
            // guid, and what other libraries listen by: dir, tmpdir, runtime.
            default: continue
            }
        }
        return nil
    }

    /// `%41` stands for the byte 0x41.
    private static func unescaped(_ value: Substring) throws(DBusError) -> String {
        var bytes: [UInt8] = []
        var rest = Array(value.utf8)[...]
        while let byte = rest.popFirst() {
            if byte != UInt8(ascii: "%") {
                bytes.append(byte)
                continue
            }
            let digits = String(decoding: rest.prefix(2), as: UTF8.self)
            guard digits.utf8.count == 2, digits.allSatisfy(\.isHexDigit),
                let escaped = UInt8(digits, radix: 16)
            else {
                throw DBusError(
                    .invalid,
                    "'\(printable(String(value)))' is no value of a bus address: two digits after '%'")
            }
            bytes.append(escaped)
            rest = rest.dropFirst(2)
        }
        guard let text = String(validating: bytes, as: UTF8.self), !text.isEmpty else {
            throw DBusError(.invalid, "'\(printable(bytes))' is no value of a bus address")
        }
        return text
    }

    /// The name for people.
    var label: String {
        switch self {
        case .path(let path): printable(path)
        case .abstract(let name): "@\(printable(name))"
        }
    }

    /// The bytes of `sun_path`: with the final zero for a path, with the zero in front for an abstract name (unix(7)).
    var socketName: [UInt8] {
        switch self {
        case .path(let path): Array(path.utf8) + [0]
        case .abstract(let name): [0] + Array(name.utf8)
        }
    }
}

/// A variable of this process's environment.
package func environmentVariable(_ name: String) -> String? {
    getenv(name).map { String(cString: $0) }
}
