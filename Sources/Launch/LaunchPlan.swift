package import Kernel

/// All that will be done to start a container, in order, as data. The child's steps become a flat program that runs
/// between clone3(2) and execve(2).
package struct LaunchPlan: Sendable, Equatable {
    package enum Namespace: String, Sendable, CaseIterable {
        case mount, uts, ipc, pid, network, cgroup, time

        /// The flag of clone3(2) (linux/sched.h).
        package var flag: UInt64 {
            switch self {
            case .mount: 0x0002_0000
            case .uts: 0x0400_0000
            case .ipc: 0x0800_0000
            case .pid: 0x2000_0000
            case .network: 0x4000_0000
            case .cgroup: 0x0200_0000
            case .time: 0x0000_0080
            }
        }
    }

    /// Attributes of a mount.
    package struct MountFlags: OptionSet, Sendable, Hashable {
        package let rawValue: UInt64
        package init(rawValue: UInt64) { self.rawValue = rawValue }
        // MOUNT_ATTR_* of linux/mount.h.
        package static let readOnly = MountFlags(rawValue: 1)
        package static let noSetID = MountFlags(rawValue: 2)
        package static let noDevices = MountFlags(rawValue: 4)
        package static let noExec = MountFlags(rawValue: 8)
        package static let strictAccessTime = MountFlags(rawValue: 0x20)

        package static let safe: MountFlags = [.noSetID, .noDevices, .noExec]
    }

    package enum RootSwitch: String, Sendable { case pivot, chroot }

    package struct DeviceNode: Sendable, Equatable {
        package let name: String
        package let major: Int
        package let minor: Int
    }

    package struct Link: Sendable, Equatable {
        package let name: String
        package let target: String
    }

    package struct Option: Sendable, Equatable {
        package let key: String
        package let value: String
        package init(_ key: String, _ value: String) { (self.key, self.value) = (key, value) }
    }

    package struct User: Sendable, Equatable {
        package let uid: UInt32
        package let gid: UInt32
        package let groups: [UInt32]
        package init(uid: UInt32, gid: UInt32, groups: [UInt32]) {
            (self.uid, self.gid, self.groups) = (uid, gid, groups)
        }
    }

    /// One thing to do. Paths are inside the container unless they are called `source`.
    package enum Step: Sendable, Equatable {
        /// By the parent: everything after it happens in the child.
        case clone([Namespace])
        case dieWithParent
        case privateMounts
        case overlayRoot(layers: [String], upper: String, work: String, at: String)
        case bindRoot(source: String)
        case mount(type: String, at: String, options: [Option], flags: MountFlags)
        case bind(source: String, at: String, isDirectory: Bool, isRecursive: Bool, flags: MountFlags)
        /// A directory of the root that stays writable and has its own place in the list of mounts.
        case volume(String)
        case deviceNodes([DeviceNode])
        case deviceLinks([Link])
        case terminal(owner: UInt32)
        case sysctl(key: String, value: String)
        case maskPaths([String])
        case readOnlyPaths([String])
        case makeDirectory(String)
        case readOnlyRoot
        case switchRoot(RootSwitch)
        case hostname(String)
        case domainname(String)
        case loopbackUp
        case resourceLimit(name: String, resource: Int32, soft: UInt64, hard: UInt64)
        case session(hasTerminal: Bool)
        case workingDirectory(String)
        case boundingSet(keep: UInt64, last: Int)
        case noNewPrivileges
        case user(User)
        case capabilities(UInt64)
        case initProcess
        case waitForParent
        case closeDescriptors
        case exec(candidates: [String], arguments: [String], environment: [String])
    }

    package var namespaces: [Namespace]
    package var steps: [Step]
    /// What could not be done as asked, in words for the user.
    package var notes: [String]
    package var mountAPI: Bool
    package var layerOption: Bool

    package init(namespaces: [Namespace], steps: [Step], notes: [String], facts: HostFacts) {
        (self.namespaces, self.steps, self.notes) = (namespaces, steps, notes)
        mountAPI = facts.hasMountAPI
        layerOption = facts.hasLayerOption
    }
}

extension LaunchPlan.DeviceNode {
    package init(_ name: String, _ major: Int, _ minor: Int) {
        (self.name, self.major, self.minor) = (name, major, minor)
    }

    /// What every container has in /dev (OCI runtime-spec config-linux.md, "Default Devices").
    package static let standard: [Self] = [
        .init("null", 1, 3), .init("zero", 1, 5), .init("full", 1, 7), .init("random", 1, 8),
        .init("urandom", 1, 9),
        .init("tty", 5, 0),
    ]
}

extension LaunchPlan.Link {
    package static let standard: [Self] = [
        .init(name: "fd", target: "/proc/self/fd"), .init(name: "stdin", target: "/proc/self/fd/0"),
        .init(name: "stdout", target: "/proc/self/fd/1"), .init(name: "stderr", target: "/proc/self/fd/2"),
        .init(name: "ptmx", target: "pts/ptmx"),
    ]
}
