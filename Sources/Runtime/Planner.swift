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
}

/// What a plan needs beside the specification.
package struct PlanOptions: Sendable, Equatable {
    /// nil: pivot_root where it can work.
    package var rootSwitch: LaunchPlan.RootSwitch?
    package var hasInit = false

    package init() {}
}

/// Makes a launch plan from a container's description and what is known about the host: a pure function, so that plans
/// can be read and tested without starting anything.
package enum Planner {
    package static func plan(
        _ spec: ContainerSpec, _ facts: HostFacts, root: RootSource, options: PlanOptions = PlanOptions()
    ) throws(RuntimeError) -> LaunchPlan {
        var notes: [String] = []
        let namespaces = try namespaces(spec, facts, &notes)
        var steps: [LaunchPlan.Step] = [.clone(namespaces), .privateMounts]
        switch root {
        case .overlay(let layers, let upper, let work, let place):
            guard !layers.isEmpty else {
                throw RuntimeError("the image has no layers, so there is nothing to run")
            }
            steps.append(.overlayRoot(layers: layers, upper: upper, work: work, at: place))
        case .directory(let path): steps.append(.bindRoot(source: path))
        }
        steps += try mounts(spec, facts)
        if spec.process.terminal { steps.append(.terminal(owner: spec.process.user.uid)) }
        for setting in spec.sysctl { steps.append(.sysctl(key: setting.key, value: setting.value)) }
        if !spec.maskedPaths.isEmpty { steps.append(.maskPaths(spec.maskedPaths)) }
        if !spec.readonlyPaths.isEmpty { steps.append(.readOnlyPaths(spec.readonlyPaths)) }
        steps.append(.makeDirectory(spec.process.cwd))
        if spec.rootIsReadOnly { steps.append(.readOnlyRoot) }
        steps.append(.switchRoot(rootSwitch(facts, options, &notes)))
        steps += try identity(spec, namespaces)
        steps += try process(spec, facts, options)
        return LaunchPlan(namespaces: namespaces, steps: steps, notes: notes, facts: facts)
    }

    private static func namespaces(
        _ spec: ContainerSpec, _ facts: HostFacts, _ notes: inout [String]
    ) throws(RuntimeError) -> [LaunchPlan.Namespace] {
        var result: [LaunchPlan.Namespace] = []
        for name in spec.namespaces {
            guard let namespace = LaunchPlan.Namespace(rawValue: name) else {
                throw RuntimeError("the namespace '\(printable(name))' is not known")
            }
            if namespace == .time, !facts.hasTimeNamespace {
                notes.append("this kernel has no time namespaces; the container shares the host's clocks")
                continue
            }
            result.append(namespace)
        }
        guard result.contains(.mount) else { throw RuntimeError("a container needs a mount namespace") }
        return result
    }

    private static func rootSwitch(
        _ facts: HostFacts, _ options: PlanOptions, _ notes: inout [String]
    ) -> LaunchPlan.RootSwitch {
        if let chosen = options.rootSwitch { return chosen }
        guard facts.rootIsInitial else { return .pivot }
        notes.append(
            "the host's root is the kernel's initial file system, which pivot_root cannot leave: using chroot instead"
        )
        return .chroot
    }

    // MARK: - Mounts

    private static func mounts(_ spec: ContainerSpec, _ facts: HostFacts) throws(RuntimeError) -> [LaunchPlan
        .Step]
    {
        var steps: [LaunchPlan.Step] = []
        for mount in spec.mounts {
            guard mount.destination.hasPrefix("/") else {
                throw RuntimeError("the mount point '\(printable(mount.destination))' is not absolute")
            }
            let (flags, data) = split(mount.options)
            if mount.options.contains("imgbox.volume") {
                steps.append(.volume(mount.destination))
                continue
            }
            if mount.type == "bind" || mount.options.contains("bind") || mount.options.contains("rbind") {
                steps.append(
                    .bind(
                        source: mount.source, at: mount.destination,
                        isDirectory: !mount.options.contains("imgbox.file"),
                        isRecursive: mount.options.contains("rbind"), flags: flags))
                continue
            }
            if mount.type == "cgroup2", !facts.hasCgroup2 { continue }
            steps.append(.mount(type: mount.type, at: mount.destination, options: data, flags: flags))
            if mount.destination == "/dev", mount.type == "tmpfs" {
                steps += [
                    .deviceNodes(LaunchPlan.DeviceNode.standard), .deviceLinks(LaunchPlan.Link.standard),
                ]
            }
        }
        return steps
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
            case "bind", "rbind", "imgbox.file", "private", "rprivate", "relatime", "newinstance": break
            default:
                let parts = option.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(
                    String.init)
                data.append(LaunchPlan.Option(parts[0], parts.count > 1 ? parts[1] : ""))
            }
        }
        return (flags, data)
    }

    // MARK: - The process

    private static func identity(
        _ spec: ContainerSpec, _ namespaces: [LaunchPlan.Namespace]
    ) throws(RuntimeError) -> [LaunchPlan.Step] {
        var steps: [LaunchPlan.Step] = []
        if !spec.hostname.isEmpty || !spec.domainname.isEmpty {
            guard namespaces.contains(.uts) else {
                throw RuntimeError("a host or domain name needs a UTS namespace of the container's own")
            }
        }
        if !spec.hostname.isEmpty { steps.append(.hostname(spec.hostname)) }
        if !spec.domainname.isEmpty { steps.append(.domainname(spec.domainname)) }
        if namespaces.contains(.network) { steps.append(.loopbackUp) }
        return steps
    }

    private static func process(
        _ spec: ContainerSpec, _ facts: HostFacts, _ options: PlanOptions
    ) throws(RuntimeError) -> [LaunchPlan.Step] {
        let process = spec.process
        var steps: [LaunchPlan.Step] = []
        for limit in process.limits {
            guard let resource = resources[limit.type] else {
                throw RuntimeError("the limit '\(printable(limit.type))' is not known")
            }
            let name = limit.type.replacing("RLIMIT_", with: "").lowercased()
            steps.append(.resourceLimit(name: name, resource: resource, soft: limit.soft, hard: limit.hard))
        }
        steps.append(.session(hasTerminal: process.terminal))
        steps.append(.workingDirectory(process.cwd))
        let wanted = Set(process.capabilities.compactMap { Capability(name: $0) }).mask
        // Nobody can pass on what he does not have; the list of a container is an upper limit.
        // A user without privileges who cannot gain any has no use for the list at all.
        let isPlainUser = process.user.uid != 0 && process.noNewPrivileges
        let keep = isPlainUser ? 0 : wanted & facts.bounding
        steps.append(
            .boundingSet(keep: keep, last: (UInt64.bitWidth - facts.bounding.leadingZeroBitCount - 1)))
        if process.noNewPrivileges { steps.append(.noNewPrivileges) }
        steps.append(
            .user(.init(uid: process.user.uid, gid: process.user.gid, groups: process.user.additionalGids)))
        steps.append(.capabilities(process.user.uid == 0 ? keep : 0))
        // setresuid(2) clears the wish to die with the parent (prctl(2), PR_SET_PDEATHSIG), so it comes after. A parent that
        // was killed before is noticed by the wait: its pipe is at its end.
        steps.append(.dieWithParent)
        if options.hasInit { steps.append(.initProcess) }
        steps += [.waitForParent, .closeDescriptors]
        guard let command = process.args.first, !command.isEmpty else {
            throw RuntimeError(
                "there is no command to run: the image has none and none was given",
                hint: "name one after the image: imgbox run IMAGE /bin/sh")
        }
        steps.append(
            .exec(
                candidates: candidates(command, process.env), arguments: process.args,
                environment: process.env))
        return steps
    }

    /// What execvp(3) would try.
    private static func candidates(_ command: String, _ environment: [String]) -> [String] {
        if command.contains("/") { return [command] }
        let path = environment.last { $0.hasPrefix("PATH=") }?.dropFirst(5) ?? "/usr/local/bin:/usr/bin:/bin"
        return path.split(separator: ":", omittingEmptySubsequences: false).map { directory in
            directory.isEmpty ? "./\(command)" : "\(directory)/\(command)"
        }
    }

    /// The names that `--ulimit` can take, as the specification spells them.
    package static var limitNames: [String] { Array(resources.keys) }

    /// RLIMIT_* by their names (asm-generic/resource.h).
    static let resources: [String: Int32] = [
        "RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4,
        "RLIMIT_RSS": 5,
        "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10,
        "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14,
        "RLIMIT_RTTIME": 15,
    ]
}
