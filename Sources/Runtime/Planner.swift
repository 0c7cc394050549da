package import Cgroups
import Files
import Glibc
package import Kernel
package import Launch
package import OCI

/// Where the container's root comes from.
package enum RootSource: Sendable, Equatable {
    /// Layer directories, bottom first, and the container's own writable directory.
    case overlay(layers: [String], upper: String, work: String, place: String)
    /// A directory as it is.
    case directory(String)
    /// A directory whose owners are the container's ids already.
    case shifted(String)
}

/// What a plan needs beside the specification.
package struct PlanOptions: Sendable, Equatable {
    /// nil: pivot_root where it can work.
    package var rootSwitch: LaunchPlan.RootSwitch?
    package var hasInit = false
    package var cgroups = CgroupHost([], parent: nil)
    /// The compiled seccomp filter and the profile's name; nil: none.
    package var seccomp: (name: String, filter: [UInt8])?
    package var disk: LaunchPlan.DiskPlan?
    package var project: LaunchPlan.ProjectPlan?
    /// Descriptors from 3 on that the command inherits.
    package var preservedDescriptors = 0
    /// Directories of the host that change their owner before.
    package var givenAway: [LaunchPlan.Step] = []

    package init() {}

    package static func == (left: PlanOptions, right: PlanOptions) -> Bool {
        left.rootSwitch == right.rootSwitch && left.hasInit == right.hasInit && left.cgroups == right.cgroups
            && left.seccomp?.name == right.seccomp?.name && left.seccomp?.filter == right.seccomp?.filter
            && left.disk == right.disk && left.project == right.project
            && left.preservedDescriptors == right.preservedDescriptors
            && left.givenAway == right.givenAway
    }
}

/// Makes a launch plan from a container's description and what is known about the host: a pure function, so that plans
/// can be read and tested without starting anything.
package struct Planner {
    let spec: ContainerSpec
    let facts: HostFacts
    let options: PlanOptions
    var notes: [String] = []
    var namespaces: [LaunchPlan.Namespace] = []
    var joins: [LaunchPlan.Join] = []
    var sources: [LaunchPlan.Source] = []
    /// Directories of v1 groups, which the child joins itself.
    var oldGroups: [String] = []
    /// The child's steps from the mounts on.
    var steps: [LaunchPlan.Step] = []

    package static func plan(
        _ spec: ContainerSpec, _ facts: HostFacts, root: RootSource, options: PlanOptions = PlanOptions()
    ) throws(RuntimeError) -> LaunchPlan {
        var planner = Planner(spec: spec, facts: facts, options: options)
        return try planner.plan(root)
    }

    /// The container is in a user namespace of its own or another container's.
    var isMapped: Bool { spec.hasOwn("user") || joins.contains { $0.namespace == .user } }
    var isMachineRoot: Bool { facts.privilege == .root }

    private mutating func plan(_ root: RootSource) throws(RuntimeError) -> LaunchPlan {
        try sortNamespaces()
        guard !isMapped || facts.hasMountAPI else {
            throw RuntimeError(
                "a user namespace needs the mount calls of Linux 5.12",
                hint: "use --userns host, or a newer kernel")
        }
        var parent: [LaunchPlan.Step] = []
        var before = try limits(&parent)
        before += options.givenAway
        if let disk = options.disk { before.append(.makeDisk(disk)) }
        if let project = options.project { before.append(.projectQuota(project)) }
        try self.root(root, &before, &parent)
        try mounts(&before)
        let rest = steps
        steps = []
        if spec.process.terminal { steps.append(.terminal(owner: spec.process.user.uid)) }
        for setting in spec.sysctl { steps.append(.sysctl(key: setting.key, value: setting.value)) }
        if !spec.maskedPaths.isEmpty { steps.append(.maskPaths(spec.maskedPaths)) }
        if !spec.readonlyPaths.isEmpty { steps.append(.readOnlyPaths(spec.readonlyPaths)) }
        steps.append(.makeDirectory(spec.process.cwd))
        if spec.rootIsReadOnly { steps.append(.readOnlyRoot) }
        steps.append(.switchRoot(rootSwitch()))
        try identity()
        try process()
        if !sources.isEmpty { before.append(.openSources(sources)) }
        if sources.contains(where: { $0.owners != .raw }) { parent.append(.mapSources) }
        let all = before + entry(&parent) + rest + steps
        var plan = LaunchPlan(namespaces: namespaces, steps: all, notes: notes, facts: facts)
        plan.joins = joins
        return plan
    }

    private mutating func sortNamespaces() throws(RuntimeError) {
        for item in spec.namespaces {
            guard let namespace = LaunchPlan.Namespace(rawValue: item.type) else {
                throw RuntimeError("the namespace '\(printable(item.type))' is not known")
            }
            if namespace == .time, !facts.hasTimeNamespace {
                guard spec.timeOffsets.isEmpty else {
                    throw RuntimeError("--time-offset: this kernel has no time namespaces (Linux 5.6 has)")
                }
                notes.append("this kernel has no time namespaces; the container shares the host's clocks")
                continue
            }
            if let path = item.path {
                joins.append(LaunchPlan.Join(namespace, path))
            } else {
                namespaces.append(namespace)
            }
        }
        guard namespaces.contains(.mount) else { throw RuntimeError("a container needs a mount namespace") }
        // Whoever is in the user namespace may enter what belongs to it.
        joins.sort { ($0.namespace == .user ? 0 : 1) < ($1.namespace == .user ? 0 : 1) }
        if isMapped, !spec.uidMappings.isEmpty || spec.hasOwn("user") {
            for (what, map, id) in [
                ("user", uidMap, spec.process.user.uid), ("group", gidMap, spec.process.user.gid),
            ] where map.outside(id) == nil {
                throw RuntimeError(
                    "the \(what) \(id) is outside the ids of the container, which has \(map.total)",
                    hint: facts.privilege == .root
                        ? "map more ids with --uidmap and --gidmap, or use --userns host"
                        : "give this user subordinate ids (imgbox doctor), or choose another with --user")
            }
        }
    }

    var uidMap: [IDExtent] { spec.uidMappings.map(\.extent) }
    var gidMap: [IDExtent] { spec.gidMappings.map(\.extent) }

    private mutating func rootSwitch() -> LaunchPlan.RootSwitch {
        if let chosen = options.rootSwitch { return chosen }
        guard facts.rootIsInitial else { return .pivot }
        notes.append(
            "the host's root is the kernel's initial file system, which pivot_root cannot leave: using chroot instead"
        )
        return .chroot
    }

    // MARK: - Limits

    /// The groups and what is written to them.
    private mutating func limits(_ parent: inout [LaunchPlan.Step]) throws(RuntimeError) -> [LaunchPlan.Step]
    {
        var steps: [LaunchPlan.Step] = []
        let host = options.cgroups
        let group = group()
        do throws(CgroupError) {
            let limits = try CgroupLimits.limits(spec.resources, host, group)
            // What the child is born into is there before; the rest is made while it makes its namespaces.
            for version in [2, 1] {
                let directories = group.directories.filter { $0.version == version }
                var part: [LaunchPlan.Step] = directories.isEmpty ? [] : [.makeCgroups(directories)]
                let own = limits.filter { $0.version == version }
                part += own.filter { $0.controller != "devices" }.map { .limit($0) }
                let devices = own.filter { $0.controller == "devices" }
                if !devices.isEmpty { part.append(.deviceList(devices)) }
                if version == 2 { steps += part } else { parent += part }
            }
        } catch { throw RuntimeError(error.message, hint: error.hint) }
        if group.directory(of: "devices") == nil, isMachineRoot, let unified = group.unified,
            !spec.resources.devices.isEmpty
        {
            steps.append(.deviceFilter(unified.absolute, spec.resources.devices))
        }
        let old = group.directories.filter { $0.version == 1 }.map(\.absolute)
        if !old.isEmpty { oldGroups = old }
        return steps
    }

    /// The container's groups; none where this user may make none.
    package func group() -> CgroupGroup {
        guard let above = options.cgroups.parent else { return CgroupGroup([]) }
        return CgroupGroup(options.cgroups, path: "\(above)/\(spec.cgroupsPath)", resources: spec.resources)
    }

    // MARK: - Into the namespaces

    private func entry(_ parent: inout [LaunchPlan.Step]) -> [LaunchPlan.Step] {
        var result: [LaunchPlan.Step] = []
        let group = group().unified?.absolute
        // A process is in the namespace of its cgroups only when it is in them, and in that of its clocks when they are set.
        var flags = namespaces.filter { $0 != .cgroup }
        if !spec.timeOffsets.isEmpty { flags.removeAll { $0 == .time } }
        // Only a new process can be in a new PID or time namespace. The others it makes itself, at the same time as imgbox does
        // its part; the user namespace comes first, and owns them.
        let born = flags.filter { [.user, .pid, .time].contains($0) }
        let made = flags.filter { !born.contains($0) }
        if joins.isEmpty {
            result.append(.clone(born, cgroup: group))
        } else {
            // A second process is born in what the first has joined.
            result += [.clone([], cgroup: group), .joinNamespaces(joins), .fork(born)]
        }
        result.append(.newNamespaces(made))
        if spec.hasOwn("user") {
            parent.insert(.mapIDs(.init(uid: uidMap, gid: gidMap)), at: 0)
        }
        if let score = spec.process.oomScoreAdjustment { parent.append(.oomScore(score)) }
        result += parent
        if !parent.isEmpty { result.append(.awaitParent) }
        if !oldGroups.isEmpty { result.append(.joinCgroups(oldGroups)) }
        // While the process still has the caller's ids: its files in the host's /proc are closed to it afterwards.
        if !spec.timeOffsets.isEmpty { result.append(.timeOffsets(spec.timeOffsets)) }
        if isMapped {
            result.append(
                .becomeRoot(uid: uidMap.first(0), gid: gidMap.first(0), dropsGroups: canSetGroups))
        }
        if namespaces.contains(.cgroup) { result.append(.cgroupNamespace) }
        return result + [.keyring, .privateMounts]
    }

    var canSetGroups: Bool {
        if case .userNamespace(_, _, let canSetGroups) = facts.privilege { canSetGroups } else { true }
    }

    // MARK: - The root

    /// Directories that every machine has. One is covered in the container's mount namespace, for the moment until its
    /// root is the root: the store's own directories are closed to the container's ids.
    private static let publicPlace = "/tmp"

    private mutating func root(
        _ root: RootSource, _ before: inout [LaunchPlan.Step], _ parent: inout [LaunchPlan.Step]
    ) throws(RuntimeError) {
        switch root {
        case .overlay(let layers, let upper, let work, let place):
            guard !layers.isEmpty else {
                throw RuntimeError("the image has no layers, so there is nothing to run")
            }
            if isMapped {
                before.append(.openOverlay)
                parent.append(.shareLayers(layers, upper: upper, work: work, mapped: isMachineRoot))
                steps.append(.attachOverlay(at: Planner.publicPlace))
            } else {
                steps.append(
                    .overlayRoot(
                        layers: layers, upper: upper, work: work, at: place,
                        form: isMachineRoot ? .trusted : .user))
            }
        case .directory(let path):
            let owners: LaunchPlan.Owners = isMapped && isMachineRoot ? .same(required: true) : .raw
            sources.append(LaunchPlan.Source(path, isRecursive: !isMapped, owners: owners))
            steps.append(.bindRoot(source: 0, at: isMapped ? Planner.publicPlace : path))
        case .shifted(let path):
            sources.append(LaunchPlan.Source(path))
            steps.append(.bindRoot(source: 0, at: Planner.publicPlace))
        }
    }

    // MARK: - Mounts

    private mutating func mounts(_ before: inout [LaunchPlan.Step]) throws(RuntimeError) {
        for mount in spec.mounts {
            guard mount.destination.hasPrefix("/") else {
                throw RuntimeError("the mount point '\(printable(mount.destination))' is not absolute")
            }
            let (flags, data) = Planner.split(mount.options)
            if mount.options.contains("imgbox.volume") {
                steps.append(.volume(mount.destination))
            } else if mount.type == "bind" || mount.options.contains("bind")
                || mount.options.contains("rbind")
            {
                bind(mount, flags)
            } else if mount.destination == "/dev", mount.type == "tmpfs" {
                devices(mount, flags, data, &before)
            } else {
                steps.append(.mount(type: mount.type, at: mount.destination, options: data, flags: flags))
            }
        }
    }

    private mutating func bind(_ mount: ContainerSpec.Mount, _ flags: LaunchPlan.MountFlags) {
        var owners = LaunchPlan.Owners.raw
        if !mount.uidMappings.isEmpty || !mount.gidMappings.isEmpty {
            owners = .maps(
                .init(uid: mount.uidMappings.map(\.extent), gid: mount.gidMappings.map(\.extent)))
        } else if isMapped, isMachineRoot, mount.options.contains("idmap") {
            owners = .same(required: true)
        } else if isMapped, isMachineRoot, mount.options.contains("imgbox.idmap") {
            owners = .same(required: false)
        }
        let source = LaunchPlan.Source(
            mount.source, isRecursive: mount.options.contains("rbind"), flags: flags, owners: owners)
        sources.append(source)
        steps.append(
            .bind(
                source: sources.count - 1, source, at: mount.destination,
                isDirectory: !mount.options.contains("imgbox.file")))
    }

    /// /dev with its nodes: made by real root, by the child where that is real root, or bound from the host one by one.
    private mutating func devices(
        _ mount: ContainerSpec.Mount, _ flags: LaunchPlan.MountFlags, _ data: [LaunchPlan.Option],
        _ before: inout [LaunchPlan.Step]
    ) {
        func node(_ device: ContainerSpec.Device) -> LaunchPlan.DeviceNode {
            LaunchPlan.DeviceNode(
                String(device.path.dropFirst("/dev/".count)), isBlock: device.type == "b", Int(device.major),
                Int(device.minor), mode: device.mode,
                uid: isMapped ? uidMap.outside(device.uid) ?? 65534 : device.uid,
                gid: isMapped ? gidMap.outside(device.gid) ?? 65534 : device.gid)
        }
        if isMachineRoot, !isMapped {
            steps.append(.mount(type: "tmpfs", at: "/dev", options: data, flags: flags))
            steps.append(.deviceNodes(LaunchPlan.DeviceNode.standard + spec.devices.map(node)))
        } else if isMachineRoot {
            let (uid, gid) = (uidMap.outside(uidMap.first(0)) ?? 0, gidMap.outside(gidMap.first(0)) ?? 0)
            let standard = LaunchPlan.DeviceNode.standard.map {
                LaunchPlan.DeviceNode($0.name, $0.major, $0.minor, uid: uid, gid: gid)
            }
            let owner: [LaunchPlan.Option] = [.init("uid", "\(uid)"), .init("gid", "\(gid)")]
            before.append(.deviceDirectory(standard + spec.devices.map(node), options: data + owner))
            steps.append(.attachDevices)
        } else {
            steps.append(.mount(type: "tmpfs", at: "/dev", options: data, flags: flags))
            for node in LaunchPlan.DeviceNode.standard {
                let source = LaunchPlan.Source("/dev/\(node.name)", device: node)
                sources.append(source)
                steps.append(
                    .bind(source: sources.count - 1, source, at: "/dev/\(node.name)", isDirectory: false))
            }
        }
        steps.append(.deviceLinks(LaunchPlan.Link.standard))
    }

    /// Words that are attributes of the mount, and what is left for the file system.
    static func split(_ options: [String]) -> (LaunchPlan.MountFlags, [LaunchPlan.Option]) {
        var flags: LaunchPlan.MountFlags = []
        var data: [LaunchPlan.Option] = []
        for option in options {
            switch option {
            case "ro": flags.insert(.readOnly)
            case "rw": flags.remove(.readOnly)
            case "nosuid": flags.insert(.noSetID)
            case "nodev": flags.insert(.noDevices)
            case "noexec": flags.insert(.noExec)
            case "strictatime": flags.insert(.strictAccessTime)
            case "suid": flags.remove(.noSetID)
            case "dev": flags.remove(.noDevices)
            case "exec": flags.remove(.noExec)
            case "bind", "rbind", "imgbox.file", "imgbox.idmap", "idmap", "private", "rprivate", "relatime",
                "newinstance":
                break
            default:
                let parts = option.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(
                    String.init)
                data.append(LaunchPlan.Option(parts[0], parts.count > 1 ? parts[1] : ""))
            }
        }
        return (flags, data)
    }
}

extension ContainerSpec.IDMap {
    package var extent: IDExtent { IDExtent(inside: containerID, outside: hostID, count: size) }

    package init(_ extent: IDExtent) {
        self.init(containerID: extent.inside, hostID: extent.outside, size: extent.count)
    }
}
