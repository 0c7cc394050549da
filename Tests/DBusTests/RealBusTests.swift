import Foundation
import Testing

@testable import DBus

/// A dbus-daemon of our own, on which a script of dbus-python plays systemd by the signatures of
/// org.freedesktop.systemd1(5).
final class PrivateBus {
    static let python = "/usr/bin/python3"
    static let missing: String? = {
        guard FileManager.default.isExecutableFile(atPath: "/usr/bin/dbus-daemon") else {
            return "SKIPPED: a conversation over a real bus needs dbus-daemon"
        }
        let probe = try? run(python, ["-c", "import dbus, gi"])
        probe?.waitUntilExit()
        return probe?.terminationStatus == 0
            ? nil : "SKIPPED: a conversation over a real bus needs python3-dbus and python3-gi"
    }()

    private static let systemd = """
        import sys, dbus, dbus.service, dbus.mainloop.glib
        from gi.repository import GLib
        dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
        bus = dbus.SessionBus()
        M, P = 'org.freedesktop.systemd1.Manager', 'org.freedesktop.DBus.Properties'
        class E(dbus.DBusException): pass
        def fail(name, text):
            e = E(text); e._dbus_error_name = name; raise e
        class Unit(dbus.service.Object):
            @dbus.service.method(P, in_signature='ss', out_signature='v')
            def Get(self, interface, name):
                assert (interface, name) == ('org.freedesktop.systemd1.Scope', 'ControlGroup')
                return dbus.String('/' + self.slice + '/' + self.name, variant_level=1)
        class Systemd(dbus.service.Object):
            units, jobs = {}, 0
            @dbus.service.signal(M, signature='uoss')
            def JobRemoved(self, number, job, unit, result): pass
            def job(self, name, result):
                self.jobs += 1
                path = dbus.ObjectPath('/org/freedesktop/systemd1/job/%d' % self.jobs)
                GLib.timeout_add(20, lambda n=self.jobs: self.JobRemoved(n, path, name, result))
                return path
            @dbus.service.method(M, in_signature='ssa(sv)a(sa(sv))', out_signature='o')
            def StartTransientUnit(self, name, mode, properties, aux):
                p = dict(properties)
                print(name, mode, {k: (type(v).__name__, getattr(v, 'signature', ''), v if not isinstance(v, list) else
                    [int(x) for x in v]) for k, v in p.items()}, list(aux), file=sys.stderr)
                assert mode == 'fail' and not aux
                assert p['PIDs'].signature == 'u' and type(p['Delegate']) is dbus.Boolean and p['Delegate']
                assert not p['DefaultDependencies'] and p['CollectMode'] == 'inactive-or-failed'
                if name in self.units:
                    fail('org.freedesktop.systemd1.UnitExists', 'Unit %s was already loaded.' % name)
                if 'denied' in name:
                    fail('org.freedesktop.DBus.Error.InteractiveAuthorizationRequired', 'Interactive authentication required.')
                if 'failing' in name: return self.job(name, 'failed')
                unit = Unit(bus, '/org/freedesktop/systemd1/unit/u%d' % len(self.units))
                unit.name, unit.slice = name, p['Slice']
                self.units[name] = unit
                return self.job(name, 'done')
            @dbus.service.method(M, in_signature='s', out_signature='o')
            def GetUnit(self, name): return self.units[name].__dbus_object_path__
            @dbus.service.method(M, in_signature='ss', out_signature='o')
            def StopUnit(self, name, mode):
                if name not in self.units: fail('org.freedesktop.systemd1.NoSuchUnit', 'Unit %s not loaded.' % name)
                self.units.pop(name).remove_from_connection()
                return self.job(name, 'done')
        owner = dbus.service.BusName('org.freedesktop.systemd1', bus)
        Systemd(bus, '/org/freedesktop/systemd1')
        print('ready', flush=True)
        GLib.MainLoop().run()
        """

    let place: String
    let address: String
    private var processes: [Process] = []

    private static func run(
        _ program: String, _ words: [String], environment: [String: String]? = nil, output: Pipe? = nil
    ) throws -> Process {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = words
        if let environment { process.environment = environment }
        process.standardOutput = output ?? FileHandle.nullDevice
        // IMGBOX_TEST_VERBOSE shows what arrived on the other side.
        if ProcessInfo.processInfo.environment["IMGBOX_TEST_VERBOSE"] == nil {
            process.standardError = FileHandle.nullDevice
        }
        try process.run()
        return process
    }

    init(withSystemd: Bool) throws {
        place = NSTemporaryDirectory() + "dbus-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(atPath: place, withIntermediateDirectories: true)
        address = "unix:path=\(place)/bus"
        let ready = Pipe()
        processes.append(
            try Self.run(
                "/usr/bin/dbus-daemon",
                ["--session", "--nofork", "--print-address=1", "--address=\(address)"],
                output: ready))
        _ = ready.fileHandleForReading.availableData
        guard withSystemd else { return }
        let script = place + "/systemd.py"
        try Self.systemd.write(toFile: script, atomically: true, encoding: .utf8)
        let second = Pipe()
        processes.append(
            try Self.run(
                Self.python, [script],
                environment: ["DBUS_SESSION_BUS_ADDRESS": address, "PATH": "/usr/bin:/bin"],
                output: second))
        _ = second.fileHandleForReading.availableData
    }

    deinit {
        for process in processes.reversed() {
            // Children of a Dispatch thread inherit its mask, in which SIGTERM is blocked.
            kill(process.processIdentifier, SIGKILL)
            process.waitUntilExit()
        }
        try? FileManager.default.removeItem(atPath: place)
    }
}

@Suite(.enabled(if: PrivateBus.missing == nil, Comment(rawValue: PrivateBus.missing ?? "")))
struct RealBusTests {
    let deadline = Deadline(milliseconds: 20_000)

    @Test func scopesComeAndGo() throws {
        let bus = try PrivateBus(withSystemd: true)
        var connection = try DBusConnection.open(try BusAddress.list(bus.address), deadline: deadline)
        #expect(connection.uniqueName.hasPrefix(":1."))
        #expect(try start(&connection) == "/user-imgbox.slice/imgbox-web.scope")
        #expect(try failure { _ = try start(&connection) }.code == .unitExists)
        try SystemdScope.stop(name: "imgbox-web.scope", on: &connection, deadline: deadline)
        try SystemdScope.stop(name: "imgbox-web.scope", on: &connection, deadline: deadline)
        #expect(try start(&connection) == "/user-imgbox.slice/imgbox-web.scope")
        for (name, code) in [
            ("imgbox-denied.scope", DBusError.Code.accessDenied), ("imgbox-failing.scope", .jobFailed),
        ] {
            let error = try failure {
                _ = try SystemdScope.start(
                    name: name, description: "", pids: [1], on: &connection, deadline: deadline)
            }
            #expect(error.code == code)
        }
        withExtendedLifetime(bus) {}
    }

    @Test func aBusWithoutSystemd() throws {
        let bus = try PrivateBus(withSystemd: false)
        var connection = try DBusConnection.open(try BusAddress.list(bus.address), deadline: deadline)
        #expect(try failure { _ = try start(&connection) }.code == .noBus)
        withExtendedLifetime(bus) {}
    }
}
