import Cgroups
import DBus
import Files
import Glibc

/// On a machine that systemd runs, groups below a unit belong to systemd: imgbox asks it for a scope of its own, in which it may
/// make groups (https://systemd.io/CGROUP_DELEGATION). Elsewhere plain files do.
package enum SystemdDelegation {
    /// The group below which containers get theirs, from the mount point; nil: systemd was not asked.
    nonisolated(unsafe) package private(set) static var parent: String?

    /// Goes into a new scope. To be called before a user namespace is entered: the bus knows users by their numbers outside.
    /// nil where it is there now or this is no such machine; else why it is not to be had.
    package static func enter() -> String? {
        let host = CgroupHost.probe(delegated: false)
        // v1 has no delegation that systemd would honour.
        guard SystemdScope.isSystemdRunning, let unified = host.unified,
            host.hierarchies.allSatisfy({ $0.version == 2 })
        else {
            return nil
        }
        do {
            let addresses = try geteuid() == 0 ? BusAddress.system() : BusAddress.user()
            let deadline = Deadline(milliseconds: 5000)
            var connection = try DBusConnection.open(addresses, deadline: deadline)
            let scope = try SystemdScope.start(
                name: "imgbox-\(getpid())-\(startMark()).scope", description: "imgbox run",
                pids: [UInt32(getpid())],
                on: &connection, deadline: deadline)
            // A group with processes of its own can give no controllers to groups below (cgroups(7)): this one moves on.
            let own = unified.mountPoint + scope
            try makeDirectory("\(own)/keeper", mode: 0o755, at: currentDirectory)
            let file = try open("\(own)/keeper/cgroup.procs", O_WRONLY)
            try write(file.raw, Array("\(getpid())".utf8), name: "cgroup.procs")
            parent = scope + CgroupHost.standardParent
            return nil
        } catch let error as any DescribedError {
            return error.message
        } catch {
            return "\(error)"
        }
    }

    /// Makes a name that no earlier process with this pid had.
    private static func startMark() -> UInt64 { ContainerDirectory.startTime(of: getpid()) ?? 0 }
}
