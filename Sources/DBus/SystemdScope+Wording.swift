import Files

/// What the errors of the bus and of systemd mean to the person at the terminal.
extension SystemdScope {
    static func failed(_ verb: String, _ name: String, _ result: String) -> DBusError {
        let hint =
            switch result {
            case "canceled": "another request for the same unit came in between: try again"
            case "timeout": "systemd gave up waiting; systemctl list-jobs shows what is under way"
            case "dependency": "a unit that it needs, such as its slice, did not start"
            default:
                "systemd wrote the reason into its journal: journalctl -b -u \(printable(name)) (with --user for yours)"
            }
        return DBusError(
            .jobFailed, "systemd could not \(verb) '\(printable(name))': \(printable(result))", hint: hint)
    }

    /// An error answer with a code and a remedy; all others as they are.
    static func explained(_ error: DBusError, _ name: String) -> DBusError {
        guard error.code == .reply, let errorName = error.errorName else { return error }
        func with(_ code: DBusError.Code, _ text: String, _ hint: String?) -> DBusError {
            DBusError(code, text, hint: hint, errorName: errorName, errorText: error.errorText)
        }
        let unit = "'\(printable(name))'"
        let said = error.errorText.map { ": " + printable($0) } ?? ""
        switch errorName {
        case "org.freedesktop.systemd1.UnitExists":
            return with(
                .unitExists, "systemd has a unit \(unit) already",
                "it belongs to a container that runs, or was left over: systemctl stop \(printable(name)) "
                    + "(with --user for yours)")
        case "org.freedesktop.DBus.Error.AccessDenied",
            "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
            "org.freedesktop.DBus.Error.AuthFailed", "org.freedesktop.PolicyKit1.Error.NotAuthorized":
            return with(
                .accessDenied, "systemd refuses \(unit)\(said)",
                "the system's systemd makes units for root only: an ordinary user asks his own over his own bus "
                    + "(systemctl --user has to work), and only for his own processes")
        case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
            "org.freedesktop.systemd1.ShuttingDown", "org.freedesktop.DBus.Error.Disconnected":
            return with(
                .noBus, "no systemd answers on the message bus\(said)",
                "as an ordinary user, let your systemd run: loginctl enable-linger; a bus without systemd makes no scopes"
            )
        case "org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Timeout",
            "org.freedesktop.DBus.Error.TimedOut":
            return with(
                .timeout, "systemd did not answer in time\(said)", "look whether systemd works: systemctl")
        case "org.freedesktop.DBus.Error.PropertyReadOnly", "org.freedesktop.DBus.Error.UnknownProperty":
            return with(
                .reply, "systemd does not know a property of \(unit)\(said)", "systemd 236 or newer is needed"
            )
        case "org.freedesktop.systemd1.NoSuchUnit":
            return with(
                .jobFailed, "systemd has lost \(unit)\(said)",
                "all of its processes ended before they were in it")
        default:
            return with(.reply, "systemd: \(unit): \(printable(error.errorText ?? errorName))", nil)
        }
    }
}
