import Files
import Glibc

/// A transient scope unit of systemd with delegation: a cgroup below which only the caller makes groups, and which systemd
/// leaves alone (systemd.resource-control(5), Delegate=). The interface is that of org.freedesktop.systemd1(5).
package enum SystemdScope {
    /// A property of a unit, as StartTransientUnit takes it.
    package struct Property: Sendable, Equatable {
        package let name: String
        package let value: DBusValue

        package init(_ name: String, _ value: DBusValue) { (self.name, self.value) = (name, value) }
    }

    private static let service = "org.freedesktop.systemd1"
    private static let managerPath = "/org/freedesktop/systemd1"
    private static let manager = "org.freedesktop.systemd1.Manager"

    /// sd_booted(3): systemd is the init of this machine.
    package static var isSystemdRunning: Bool { isSystemdRunning(below: "") }

    static func isSystemdRunning(below root: String) -> Bool {
        access("\(root)/run/systemd/system/", F_OK) == 0
    }

    /// Starts a scope, and waits until systemd is done.
    ///
    /// - Parameters:
    ///   - name: of the unit, such as `imgbox-4f1c.scope`; at most 255 bytes of what systemd.unit(5) allows.
    ///   - description: what `systemctl status` shows.
    ///   - slice: the slice unit that holds it; nil: where systemd puts it, `system.slice` or `app.slice`.
    ///   - pids: the processes to be moved in, by their numbers in systemd's pid namespace; at least one.
    ///   - properties: more of them, such as limits.
    /// - Returns: the cgroup's path from the root of the hierarchy; begins with `/`.
    package static func start(
        name: String, description: String, slice: String? = nil, pids: [UInt32], properties: [Property] = [],
        on connection: inout DBusConnection, deadline: Deadline
    ) throws(DBusError) -> String {
        try check(name, suffix: ".scope")
        if let slice { try check(slice, suffix: ".slice") }
        do throws(DBusError) {
            let request = startRequest(
                name: name, description: description, slice: slice, pids: pids, properties: properties)
            let result = try finish(request, on: &connection, deadline)
            guard result == "done" else { throw failed("start", name, result) }
            return try controlGroup(name, on: &connection, deadline)
        } catch {
            throw explained(error, name)
        }
    }

    /// Stops a scope: all of its processes get SIGTERM, and SIGKILL where that does not help. Waits until systemd is done.
    /// A unit that is not there is stopped.
    package static func stop(
        name: String, on connection: inout DBusConnection, deadline: Deadline
    ) throws(DBusError) {
        try check(name, suffix: ".scope")
        do throws(DBusError) {
            let result = try finish(
                call("StopUnit", [.string(name), .string("replace")]), on: &connection, deadline)
            guard result == "done" else { throw failed("stop", name, result) }
        } catch {
            if error.errorName == "org.freedesktop.systemd1.NoSuchUnit" { return }
            throw explained(error, name)
        }
    }

    /// StartTransientUnit(s name, s mode, a(sv) properties, a(sa(sv)) aux).
    static func startRequest(
        name: String, description: String, slice: String?, pids: [UInt32], properties: [Property]
    ) -> DBusMessage {
        var all = [
            Property("Description", .string(description)),
            Property("PIDs", .array(.uint32, pids.map { .uint32($0) })),
            Property("Delegate", .boolean(true)),
            // Not stopped before other units at shutdown, nor ordered after them: the container is the user's.
            Property("DefaultDependencies", .boolean(false)),
            // A scope that failed must not keep its name taken.
            Property("CollectMode", .string("inactive-or-failed")),
        ]
        if let slice { all.append(Property("Slice", .string(slice))) }
        all += properties
        let pair = DBusType.structure([.string, .variant])
        return call(
            "StartTransientUnit",
            [
                // "fail": a job that is queued for this unit is not replaced.
                .string(name), .string("fail"),
                .array(pair, all.map { .structure([.string($0.name), .variant($0.value)]) }),
                .array(.structure([.string, .array(pair)]), []),
            ])
    }

    private static func call(_ member: String, _ body: [DBusValue]) -> DBusMessage {
        .call(service, managerPath, manager, member, body)
    }

    /// Sends a request that answers with a job, and waits for JobRemoved(u id, o job, s unit, s result): the result.
    private static func finish(
        _ request: DBusMessage, on connection: inout DBusConnection, _ deadline: Deadline
    ) throws(DBusError) -> String {
        // Before the call: the job may be over before its answer is read. systemd sends the signal to whoever made
        // the job, so that Subscribe is not needed.
        try connection.subscribe(
            "type='signal',sender='\(service)',path='\(managerPath)',interface='\(manager)',member='JobRemoved'",
            deadline: deadline)
        connection.forgetSignals()
        let answer = try connection.call(request, deadline: deadline)
        guard case .objectPath(let job)? = answer.body.first else { throw .malformed("systemd named no job") }
        let signal = try connection.waitForSignal(deadline: deadline) { signal in
            signal.sender == answer.sender && signal.path == managerPath && signal.interface == manager
                && signal.member == "JobRemoved" && signal.body.count == 4
                && signal.body[1] == .objectPath(job)
        }
        guard case .string(let result)? = signal.body.last else { throw .malformed("a job without a result") }
        return result
    }

    private static func controlGroup(
        _ name: String, on connection: inout DBusConnection, _ deadline: Deadline
    ) throws(DBusError) -> String {
        let unit = try connection.call(call("GetUnit", [.string(name)]), deadline: deadline)
        guard case .objectPath(let path)? = unit.body.first else { throw .malformed("systemd named no unit") }
        let answer = try connection.call(
            .call(
                service, path, "org.freedesktop.DBus.Properties", "Get",
                [.string("org.freedesktop.systemd1.Scope"), .string("ControlGroup")]), deadline: deadline)
        guard case .variant(.string(let group))? = answer.body.first else {
            throw .malformed("a ControlGroup that is no text")
        }
        guard !group.isEmpty else {
            throw DBusError(
                .jobFailed, "systemd made no cgroup for '\(printable(name))'",
                hint: "the process that was to be moved in may have ended")
        }
        guard group.hasPrefix("/"), !group.split(separator: "/").contains("..") else {
            throw .malformed("a ControlGroup that is no path")
        }
        return group
    }

    /// Names by systemd.unit(5): systemd's own error for others is harder to read.
    private static func check(_ name: String, suffix: String) throws(DBusError) {
        let isSound =
            name.utf8.count <= 255 && name.hasSuffix(suffix) && name.utf8.count > suffix.utf8.count
            && name.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"):
                    true
                default: ":-_.\\@".utf8.contains(byte)
                }
            }
        guard isSound else {
            throw DBusError(
                .invalid, "'\(printable(name))' is no name of a unit",
                hint:
                    "at most 255 letters, digits and ':-_.\\@', and '\(suffix)' at the end (systemd.unit(5))")
        }
    }
}
