import ArgumentParser
import Cgroups
import Files
import Glibc
import Kernel
import Launch
import OCI
import Runtime
import SystemPackage

/// `imgbox doctor`
struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Check what this machine can do for containers, and how to mend what it cannot.",
        discussion:
            "The exit code is 1 when something that imgbox needs is missing; what is only better to have does not count."
    )

    @OptionGroup var store: RootOption

    @Option(help: "table or json.")
    var format: ListFormat = .table

    func run() throws {
        let checks = Doctor(root: store.path).checks()
        let rows = checks.map { [$0.subject, $0.state.rawValue, $0.found, $0.remedy] }
        printList(
            format, header: ["WHAT", "STATE", "FOUND", "REMEDY"], rows: rows,
            json: checks.map { check in
                [
                    "what": .string(check.subject), "state": .string(check.state.rawValue),
                    "found": .string(check.found), "remedy": .string(check.remedy),
                ]
            })
        if checks.contains(where: { $0.state == .missing }) { throw ExitCode(1) }
    }
}

/// Looks at this machine.
struct Doctor {
    enum State: String { case ok, better, missing }

    struct Check {
        let subject: String
        let state: State
        let found: String
        var remedy = ""
    }

    let root: FilePath

    func checks() -> [Check] {
        let facts = HostFacts.probe()
        var list = [kernel(facts), storage(facts), overlay(facts), owners(facts)]
        list += ids()
        list += groups()
        list += [
            seccomp(),
            device("/dev/net/tun", "tun", "rootless networks need it: modprobe tun; chmod 666 /dev/net/tun"),
        ]
        list.append(
            device(
                "/dev/loop-control", "loop devices", "--disk-size needs them: modprobe loop", rootOnly: true))
        list.append(
            module("nf_tables", "nftables", "networks with NAT need it: modprobe nf_tables"))
        return list
    }

    private func kernel(_ facts: HostFacts) -> Check {
        let found = "Linux \(facts.kernel.major).\(facts.kernel.minor)"
        if facts.kernel < KernelVersion(5, 12) {
            return Check(
                subject: "kernel", state: .better,
                found: "\(found): no mount calls, so no user namespaces by default",
                remedy: "5.19 or newer shares layers between ids")
        }
        return Check(subject: "kernel", state: .ok, found: found)
    }

    private func storage(_ facts: HostFacts) -> Check {
        var path = root
        while access(path.string, F_OK) != 0, !path.isEmpty, path.removeLastComponent() {}
        let isWritable = access(path.string, W_OK) == 0
        return Check(
            subject: "store", state: isWritable ? .ok : .missing, found: root.string,
            remedy: isWritable ? "" : "choose a directory of your own with --root DIR or IMGBOX_ROOT")
    }

    private func overlay(_ facts: HostFacts) -> Check {
        let known = SubordinateIDs.read("/proc/filesystems").contains("overlay")
        if !known {
            return Check(
                subject: "overlay", state: .missing, found: "not in /proc/filesystems",
                remedy: "modprobe overlay")
        }
        if RootOption.isOrdinaryUser, facts.kernel < KernelVersion(5, 11) {
            return Check(
                subject: "overlay", state: .missing, found: "users cannot mount it on this kernel",
                remedy: "Linux 5.11 or newer, or run as root")
        }
        return Check(subject: "overlay", state: .ok, found: "yes")
    }

    private func owners(_ facts: HostFacts) -> Check {
        guard !RootOption.isOrdinaryUser else {
            return Check(
                subject: "idmapped layers", state: .ok, found: "not needed: layers have your own ids")
        }
        guard facts.mapsLayers else {
            return Check(
                subject: "idmapped layers", state: .better,
                found: "not on this kernel: each container gets a copy of its image",
                remedy: "Linux 5.19 or newer, or --userns host")
        }
        return Check(subject: "idmapped layers", state: .ok, found: "yes")
    }

    private func ids() -> [Check] {
        guard RootOption.isOrdinaryUser else {
            return [
                Check(subject: "ids", state: .ok, found: "65536 for each container, of 536870912-1879048191")
            ]
        }
        let ranges = OwnNamespace.ranges(of: RootOption.caller)
        var list: [Check] = []
        let none = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 \(ranges.name)"
        for (file, own) in [("/etc/subuid", ranges.uid), ("/etc/subgid", ranges.gid)] {
            let total = own.reduce(0) { $0 + UInt64($1.count) }
            list.append(
                Check(
                    subject: file, state: total > 0 ? .ok : .better,
                    found: total > 0 ? "\(total) ids" : "no ids for \(ranges.name): containers have one id",
                    remedy: total > 0 ? "" : "as root: \(none)"))
        }
        for (name, path) in [("newuidmap", ranges.uidHelper), ("newgidmap", ranges.gidHelper)] {
            list.append(
                Check(
                    subject: name, state: path == nil ? .better : .ok, found: path ?? "not installed",
                    remedy: path == nil ? "apt-get install uidmap" : ""))
        }
        let pid = MappingProbe.works()
        list.append(
            Check(
                subject: "user namespaces", state: pid ? .ok : .missing, found: pid ? "yes" : "refused",
                remedy: pid ? "" : Launcher.userNamespaceHint))
        return list
    }

    private func groups() -> [Check] {
        let host = CgroupHost.probe(delegated: RootOption.isOrdinaryUser)
        let all = CgroupHost.probe(delegated: false)
        guard !all.hierarchies.isEmpty else {
            return [
                Check(
                    subject: "cgroups", state: .better, found: "none mounted: nothing can be limited",
                    remedy: "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
            ]
        }
        let versions = Set(all.hierarchies.map(\.version))
        let kind = versions.count == 2 ? "v1 and v2" : versions == [1] ? "v1" : "v2"
        guard host.parent != nil else {
            return [
                Check(
                    subject: "cgroups", state: .better, found: "\(kind), nothing delegated to you: no limits",
                    remedy: all.unified?.controllers.isEmpty == false && versions == [2]
                        ? "systemd-run --user --scope -p Delegate=yes imgbox ..."
                        : "limits need root on a host with v1")
            ]
        }
        let wanted = ["cpu", "cpuset", "memory", "pids", "io", "blkio", "devices", "hugetlb"]
        var list = wanted.compactMap { name -> Check? in
            guard let hierarchy = host.hierarchy(of: name) else { return nil }
            return Check(
                subject: "cgroup \(name)", state: .ok,
                found: "v\(hierarchy.version) at \(hierarchy.mountPoint)")
        }
        for name in ["cpu", "memory", "pids"] where host.hierarchy(of: name) == nil {
            list.append(
                Check(
                    subject: "cgroup \(name)", state: .better,
                    found: "not \(RootOption.isOrdinaryUser ? "delegated" : "there")",
                    remedy: RootOption.isOrdinaryUser
                        ? "as root: systemctl edit user@.service, with [Service] Delegate=cpu cpuset io memory pids"
                        : "see cgroup_disable= in /proc/cmdline"))
        }
        return list
    }

    private func seccomp() -> Check {
        let there = access("/proc/sys/kernel/seccomp/actions_avail", F_OK) == 0
        return Check(
            subject: "seccomp", state: there ? .ok : .missing, found: there ? "yes" : "not in this kernel",
            remedy: there ? "" : "a kernel with CONFIG_SECCOMP_FILTER, or --security-opt seccomp=unconfined")
    }

    private func device(_ path: String, _ subject: String, _ remedy: String, rootOnly: Bool = false) -> Check
    {
        if rootOnly, RootOption.isOrdinaryUser {
            return Check(subject: subject, state: .ok, found: "not for ordinary users")
        }
        let fd = Glibc.open(path, O_RDWR | O_CLOEXEC)
        guard fd >= 0 else {
            return Check(
                subject: subject, state: .better, found: "\(path): \(String(cString: strerror(errno)))",
                remedy: remedy)
        }
        close(fd)
        return Check(subject: subject, state: .ok, found: path)
    }

    private func module(_ name: String, _ subject: String, _ remedy: String) -> Check {
        // A socket of the protocol loads the module where it may.
        let fd = socket(AF_NETLINK, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 12)
        defer { if fd >= 0 { close(fd) } }
        let there =
            fd >= 0 && (access("/sys/module/\(name)", F_OK) == 0 || access("/proc/net/netfilter", F_OK) == 0)
        return Check(
            subject: subject, state: there ? .ok : .better, found: there ? "yes" : "not loaded",
            remedy: there ? "" : remedy)
    }
}

/// Tries a user namespace in a child.
enum MappingProbe {
    static func works() -> Bool {
        let id = [IDExtent(inside: 0, outside: RootOption.caller, count: 1)]
        // The gid map of a user is refused without giving up setgroups first, but the namespace is there by then.
        do throws(FileError) { _ = try MappingNamespace(uid: id, gid: id) } catch {
            return !error.call.hasPrefix("clone")
        }
        return true
    }
}
