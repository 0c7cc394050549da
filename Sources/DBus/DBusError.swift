import Files
package import SystemPackage

/// The bus could not be asked, or answered with an error.
package struct DBusError: DescribedError {
    package enum Code: Sendable, Equatable {
        /// No socket, or nobody who listens there.
        case noBus
        /// The bus does not take this user, or may not do what it was asked for.
        case accessDenied
        /// Bytes that break a rule of the D-Bus specification came in.
        case malformed
        /// A value that has no form on the bus was to be sent; or an address, a name is none.
        case invalid
        /// No answer in time.
        case timeout
        /// The other side went away.
        case closed
        /// A system call failed.
        case system
        /// The bus, or the one who was asked over it, answered with an error: `errorName` tells which.
        case reply
        /// The unit is there already.
        case unitExists
        /// systemd tried, and did not succeed.
        case jobFailed
    }

    package let code: Code
    package let message: String
    package let hint: String?
    package let errno: Errno?
    /// The error's name on the bus, such as `org.freedesktop.systemd1.UnitExists`, and the text that came with it.
    package let errorName: String?
    package let errorText: String?

    package init(
        _ code: Code, _ message: String, hint: String? = nil, errno: Errno? = nil, errorName: String? = nil,
        errorText: String? = nil
    ) {
        (self.code, self.message, self.hint, self.errno) = (code, message, hint, errno)
        (self.errorName, self.errorText) = (errorName, errorText)
    }

    static func malformed(_ rule: String) -> DBusError {
        DBusError(.malformed, "the bus sent what is no D-Bus message: \(rule)")
    }

    static func invalid(_ rule: String) -> DBusError {
        DBusError(.invalid, "cannot say this over D-Bus: \(rule)")
    }
}
