package import Cgroups
import Files
import Glibc
package import Kernel
package import OCI

/// What a specification depends on beside the image and the flags: this machine, the ids that were given to the container,
/// and other containers that it joins.
package struct Surroundings: Sendable {
    package var privilege = Privilege.root
    package var cgroups = CgroupHost([], parent: nil)
    /// The ids of the container; nil: no user namespace of its own or joined.
    package var maps: (uid: [IDExtent], gid: [IDExtent])?
    /// Files of the namespaces to join, by their names in the specification.
    package var joined: [String: String] = [:]
    package var hostname = ""
    /// Directories of the host's processors that tell of their heat, which is a side channel.
    package var thermalPaths: [String] = []
    /// Nodes for `--privileged`.
    package var hostDevices: [ContainerSpec.Device] = []

    package init() {}

    /// Asks this machine.
    package static func probe(_ facts: HostFacts, _ options: RunOptions) -> Surroundings {
        var result = Surroundings()
        result.privilege = facts.privilege
        result.cgroups = CgroupHost.probe(delegated: facts.privilege != .root)
        if let scope = SystemdDelegation.parent, result.cgroups.parent != nil {
            result.cgroups.parent = scope
        }
        if options.uts != .own {
            var name = utsname()
            uname(&name)
            result.hostname = withUnsafeBytes(of: &name.nodename) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
        }
        let cpus = "/sys/devices/system/cpu"
        if access("\(cpus)/cpu0/thermal_throttle", F_OK) == 0 {
            result.thermalPaths = (0..<facts.processors).map { "\(cpus)/cpu\($0)/thermal_throttle" }
        }
        if options.isPrivileged { result.hostDevices = hostDevices() }
        return result
    }

    /// Every device node below /dev but terminals of sessions and what the container has of its own.
    private static func hostDevices() -> [ContainerSpec.Device] {
        var found: [ContainerSpec.Device] = []
        var directories = ["/dev"]
        let own = Set(["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/ptmx", "/dev/fd"])
        let standard = Set(["null", "zero", "full", "random", "urandom", "tty"].map { "/dev/" + $0 })
        while let directory = directories.popLast() {
            guard let fd = try? open(directory, O_RDONLY | O_DIRECTORY), let names = try? entries(of: fd.raw)
            else {
                continue
            }
            for entry in names {
                let path = "\(directory)/\(String(decoding: entry.bytes, as: UTF8.self))"
                guard !own.contains(path), !standard.contains(path),
                    let info = (try? status(of: path, at: currentDirectory)) ?? nil
                else { continue }
                switch info.kind {
                case .directory: directories.append(path)
                case .characterDevice, .blockDevice:
                    found.append(
                        .init(
                            path: path, type: info.kind == .blockDevice ? "b" : "c", major: info.node.major,
                            minor: info.node.minor, mode: info.permissions, uid: info.uid, gid: info.gid))
                default: break
                }
            }
        }
        return found.sorted { $0.path < $1.path }
    }
}

extension SpecBuilder {
    /// Which namespaces are the container's own, which are joined, and which ids it has.
    static func namespaces(
        _ options: RunOptions, _ surroundings: Surroundings, _ spec: inout ContainerSpec
    ) throws(RuntimeError) {
        let choices = [
            ("network", options.network), ("pid", options.pid), ("ipc", options.ipc), ("uts", options.uts),
            ("cgroup", options.cgroupNamespace),
        ]
        for (type, choice) in choices where choice != .own {
            spec.namespaces.removeAll { $0.type == type }
            if case .container = choice {
                spec.namespaces.append(.init(type, path: surroundings.joined[type]))
            }
        }
        if let (uid, gid) = surroundings.maps {
            spec.namespaces.insert(.init("user", path: surroundings.joined["user"]), at: 0)
            spec.uidMappings = uid.map { ContainerSpec.IDMap($0) }
            spec.gidMappings = gid.map { ContainerSpec.IDMap($0) }
        }
        if let (seconds, nanoseconds) = options.timeOffset {
            spec.timeOffsets = ["monotonic", "boottime"].map {
                .init(clock: $0, seconds: seconds, nanoseconds: nanoseconds)
            }
        }
    }

    /// Ordinary users inside may ping and open low ports: both are the container's own affair.
    static func standardSysctl(_ surroundings: Surroundings, _ spec: inout ContainerSpec) {
        guard spec.hasOwn("network") else { return }
        // A group that is not mapped cannot stand in the range.
        var map = spec.gidMappings.map(\.extent)
        if map.isEmpty, case .userNamespace(_, let gid, _) = surroundings.privilege { map = gid }
        let first = map.map(\.inside).min() ?? 0
        let last = map.map { UInt64($0.inside) + UInt64($0.count) - 1 }.max() ?? .max
        let standard = [
            ("net.ipv4.ping_group_range", "\(first) \(min(last, 2_147_483_647))"),
            ("net.ipv4.ip_unprivileged_port_start", "0"),
        ]
        for (key, value) in standard where !spec.sysctl.contains(where: { $0.key == key }) {
            spec.sysctl.append((key, value))
        }
    }

    static func resources(
        _ options: RunOptions, _ surroundings: Surroundings, _ spec: inout ContainerSpec
    ) {
        spec.resources = options.resources
        if spec.resources.pids == nil, surroundings.cgroups.parent != nil {
            spec.resources.pids = CgroupLimits.standardPids
        }
        if case .userNamespace = surroundings.privilege {
            // Nodes cannot be made there; the host's own are shown.
            for device in options.devices {
                spec.mounts.append(
                    .init(
                        device.path, type: "bind", source: options.deviceSources[device.path] ?? device.path,
                        options: ["bind", "imgbox.file"]))
            }
        } else {
            spec.devices = options.devices
        }
        if options.isPrivileged, surroundings.privilege == .root {
            spec.devices += surroundings.hostDevices.filter { node in
                !options.devices.contains { $0.path == node.path }
            }
            spec.resources.devices = [.init(allow: true, type: "a", major: nil, minor: nil, access: "rwm")]
        } else if surroundings.privilege == .root {
            spec.resources.devices = Resources.standardDevices + options.deviceRules
        }
    }

    /// Mounts of the kernel's own file systems. Where the container shares what such a file system shows, a new one would be
    /// refused in a user namespace: then the host's is bound.
    static func kernelMounts(
        _ options: RunOptions, _ surroundings: Surroundings, _ spec: inout ContainerSpec
    ) {
        let isMapped = surroundings.maps != nil
        func replace(_ path: String, _ flags: [String]) {
            spec.mounts.removeAll { $0.destination == path }
            spec.mounts.append(.init(path, type: "bind", source: path, options: ["rbind"] + flags))
        }
        let safe = ["nosuid", "noexec", "nodev"]
        if isMapped, options.network == .host { replace("/sys", safe + ["ro"]) }
        if isMapped, options.pid == .host { replace("/proc", safe) }
        if options.ipc == .host {
            if access("/dev/mqueue", F_OK) == 0 { replace("/dev/mqueue", safe) }
            replace("/dev/shm", safe)
        }
        if let gid = spec.mounts.firstIndex(where: { $0.type == "devpts" }), isMapped,
            !spec.gidMappings.map(\.extent).contains(where: { $0.inside <= 5 && 5 - $0.inside < $0.count })
        {
            spec.mounts[gid].options.removeAll { $0 == "gid=5" }
        }
        let isReadOnly = options.isPrivileged ? [] : ["ro"]
        if options.isPrivileged, let sys = spec.mounts.firstIndex(where: { $0.destination == "/sys" }) {
            spec.mounts[sys].options.removeAll { $0 == "ro" }
        }
        let groups = cgroupMounts(options, surroundings, safe + isReadOnly)
        spec.mounts += groups
        // The directory of the hierarchies can only be closed when they are in it.
        if groups.count > 1, !options.isPrivileged { spec.readonlyPaths.append("/sys/fs/cgroup") }
    }

    /// /sys/fs/cgroup as programs expect it on this host: the v2 tree, or a directory for each v1 hierarchy.
    private static func cgroupMounts(
        _ options: RunOptions, _ surroundings: Surroundings, _ flags: [String]
    ) -> [ContainerSpec.Mount] {
        let host = surroundings.cgroups
        let top = "/sys/fs/cgroup"
        guard !host.hierarchies.isEmpty else { return [] }
        guard options.cgroupNamespace == .own else {
            return [.init(top, type: "bind", source: top, options: ["rbind"] + flags)]
        }
        let old = CgroupGroup(host, path: "/", resources: options.resources).directories.filter {
            $0.version == 1
        }
        if old.isEmpty {
            guard host.unified != nil else { return [] }
            return [.init(top, type: "cgroup2", source: "cgroup", options: flags)]
        }
        var mounts = [
            ContainerSpec.Mount(
                top, type: "tmpfs", source: "cgroup",
                options: flags.filter { $0 != "ro" } + ["mode=755", "size=64k"])
        ]
        for directory in old {
            let name = directory.mountPoint.split(separator: "/").last.map(String.init) ?? "cgroup"
            let all = host.hierarchies.first { $0.mountPoint == directory.mountPoint }?.controllers ?? []
            mounts.append(.init("\(top)/\(name)", type: "cgroup", source: "cgroup", options: flags + all))
        }
        if host.unified != nil {
            mounts.append(.init("\(top)/unified", type: "cgroup2", source: "cgroup", options: flags))
        }
        return mounts
    }

    /// Says for each bind how its owners look inside.
    static func mapOwners(_ mounts: inout [ContainerSpec.Mount], _ spec: ContainerSpec) throws(RuntimeError) {
        guard !spec.uidMappings.isEmpty else {
            for index in mounts.indices {
                mounts[index].options.removeAll { ["idmap", "imgbox.keep", "imgbox.give"].contains($0) }
            }
            return
        }
        for index in mounts.indices
        where mounts[index].options.contains(where: { $0 == "rbind" || $0 == "bind" }) {
            let options = mounts[index].options
            if options.contains("imgbox.keep") {
                // The owner on the host is the container's user.
                guard let info = try? status(of: mounts[index].source, at: currentDirectory, follow: true)
                else {
                    throw RuntimeError("'\(printable(mounts[index].source))' is not there")
                }
                let (uid, gid) = hostUser(spec)
                mounts[index].uidMappings = [.init(containerID: info.uid, hostID: uid, size: 1)]
                mounts[index].gidMappings = [.init(containerID: info.gid, hostID: gid, size: 1)]
            } else if !options.contains("idmap"), !options.contains("imgbox.give") {
                mounts[index].options.append("imgbox.idmap")
            }
        }
    }

    /// The container's user as the host knows it.
    static func hostUser(_ spec: ContainerSpec) -> (uid: UInt32, gid: UInt32) {
        let (uid, gid) = (spec.process.user.uid, spec.process.user.gid)
        guard !spec.uidMappings.isEmpty else { return (uid, gid) }
        return (
            spec.uidMappings.map(\.extent).outside(uid) ?? uid,
            spec.gidMappings.map(\.extent).outside(gid) ?? gid
        )
    }
}

extension Resources {
    /// What a container may do with devices (docker's list): make any node, and use only the harmless ones.
    package static let standardDevices: [DeviceRule] = {
        func allow(_ type: Character, _ major: UInt32?, _ minor: UInt32?, _ access: String) -> DeviceRule {
            DeviceRule(allow: true, type: type, major: major, minor: minor, access: access)
        }
        let harmless: [(UInt32, UInt32?)] = [
            (1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, nil),
        ]
        return [
            DeviceRule(allow: false, type: "a", major: nil, minor: nil, access: "rwm"),
            allow("c", nil, nil, "m"), allow("b", nil, nil, "m"),
        ] + harmless.map { allow("c", $0.0, $0.1, "rwm") }
    }()
}
