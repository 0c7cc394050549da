package import Cgroups
package import Kernel
package import OCI

/// All that will be done to start a container, in order, as data. The child's steps become a flat program that runs
/// between clone3(2) and execve(2).
package struct LaunchPlan: Sendable, Equatable {
    package enum Namespace: String, Sendable, CaseIterable {
        case user, mount, uts, ipc, pid, network, cgroup, time

        /// The flag of clone3(2) (linux/sched.h).
        package var flag: UInt64 {
            switch self {
            case .user: 0x1000_0000
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
        /// Below /dev.
        package let name: String
        package let isBlock: Bool
        package let major: Int
        package let minor: Int
        /// Permission bits.
        package let mode: UInt32
        /// Ids as the host has them.
        package let uid: UInt32
        package let gid: UInt32

        package init(
            _ name: String, isBlock: Bool = false, _ major: Int, _ minor: Int, mode: UInt32 = 0o666,
            uid: UInt32 = 0, gid: UInt32 = 0
        ) {
            (self.name, self.isBlock, self.major, self.minor) = (name, isBlock, major, minor)
            (self.mode, self.uid, self.gid) = (mode, uid, gid)
        }
    }

    /// A namespace that is there already.
    package struct Join: Sendable, Equatable {
        package let namespace: Namespace
        /// A file such as /proc/42/ns/net.
        package let path: String
        package init(_ namespace: Namespace, _ path: String) {
            (self.namespace, self.path) = (namespace, path)
        }
    }

    /// Ids inside and outside of a container's user namespace.
    package struct IDMaps: Sendable, Equatable {
        package var uid: [IDExtent]
        package var gid: [IDExtent]
        package init(uid: [IDExtent], gid: [IDExtent]) { (self.uid, self.gid) = (uid, gid) }
    }

    /// How the owners of a bound file look inside.
    package enum Owners: Sendable, Equatable {
        /// As the container's user namespace has the ids on disk: often as nobody.
        case raw
        /// The number on disk is the number inside. `required`: an error where the file system cannot do it, and not a
        /// remark.
        case same(required: Bool)
        /// Through maps of their own, from ids on disk to ids outside.
        case maps(IDMaps)
    }

    /// Something of the host that is to be mounted inside.
    package struct Source: Sendable, Equatable {
        package var path: String
        package var isRecursive: Bool
        package var flags: MountFlags
        package var owners: Owners
        /// It must be the character device with these numbers.
        package var device: DeviceNode?
        package init(
            _ path: String, isRecursive: Bool = false, flags: MountFlags = [], owners: Owners = .raw,
            device: DeviceNode? = nil
        ) {
            (self.path, self.isRecursive, self.flags) = (path, isRecursive, flags)
            (self.owners, self.device) = (owners, device)
        }
    }

    /// Where the layers of an image get their owners and their way of saying "gone" from.
    package enum OverlayForm: String, Sendable {
        /// Mounted by real root.
        case trusted
        /// Mounted in a user namespace: `userxattr`.
        case user
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

    /// Who does a step, and when.
    package enum Actor: String, Sendable {
        /// imgbox, before there is a child.
        case before
        /// imgbox, while the child waits.
        case parent
        case child
    }

    /// One thing to do. Paths are inside the container unless they are called `source`.
    package enum Step: Sendable, Equatable {
        // By imgbox, before the clone.
        case makeCgroups([CgroupGroup.Directory])
        case limit(CgroupLimit)
        case deviceList([CgroupLimit])
        case deviceFilter(String, [Resources.DeviceRule])
        /// Makes a sparse file of about `size` bytes with a file system in it, and upper and work in that.
        case makeDisk(DiskPlan)
        /// Makes directories part of a quota project, and limits that.
        case projectQuota(ProjectPlan)
        case openSources([Source])
        /// Gives a directory of the host and all in it to an owner, ids on the host.
        case giveAway(path: String, uid: UInt32, gid: UInt32)
        case deviceDirectory([DeviceNode], options: [Option])
        /// Begins the overlay that `shareLayers` completes.
        case openOverlay
        // The moment itself.
        case clone([Namespace], cgroup: String?)
        // By imgbox, while the child waits.
        case mapIDs(IDMaps)
        case oomScore(Int32)
        /// Mounts the overlay; with `mapped` its layers show the ids of the container.
        case shareLayers([String], upper: String, work: String, mapped: Bool)
        case mapSources
        // By the child.
        case joinNamespaces([Join])
        /// Goes on as a new process: only a new one can be in another PID namespace.
        case fork([Namespace])
        case newNamespaces([Namespace])
        /// Directories of v1 groups.
        case joinCgroups([String])
        case awaitParent
        case becomeRoot(uid: UInt32, gid: UInt32, dropsGroups: Bool)
        case cgroupNamespace
        case timeOffsets([ContainerSpec.TimeOffset])
        case keyring
        case privateMounts
        case overlayRoot(layers: [String], upper: String, work: String, at: String, form: OverlayForm)
        case attachOverlay(at: String)
        case bindRoot(source: Int, at: String)
        case mount(type: String, at: String, options: [Option], flags: MountFlags)
        case bind(source: Int, Source, at: String, isDirectory: Bool)
        case attachDevices
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
        case user(User, setsGroups: Bool)
        case capabilities(UInt64)
        case dieWithParent
        case seccomp(name: String, filter: [UInt8])
        case initProcess
        case waitForParent
        case closeDescriptors(from: Int32)
        case exec(candidates: [String], arguments: [String], environment: [String])
    }

    /// A disk of a container's own.
    package struct DiskPlan: Sendable, Equatable {
        /// The image file, absolute.
        package var file: String
        /// Where it is mounted by imgbox for its directories to be made.
        package var size: Int64
        /// Owner of the upper directory, on the host.
        package var uid: UInt32
        package var gid: UInt32
        package init(file: String, size: Int64, uid: UInt32, gid: UInt32) {
            (self.file, self.size, self.uid, self.gid) = (file, size, uid, gid)
        }
    }

    /// A limit on what is in directories of a file system that keeps project quotas.
    package struct ProjectPlan: Sendable, Equatable {
        /// Absolute.
        package var directories: [String]
        package var project: UInt32
        /// Bytes.
        package var size: Int64
        package init(directories: [String], project: UInt32, size: Int64) {
            (self.directories, self.project, self.size) = (directories, project, size)
        }
    }

    package var joins: [Join] = []
    package var namespaces: [Namespace]
    package var steps: [Step]
    /// What could not be done as asked, in words for the user.
    package var notes: [String]
    package var mountAPI: Bool
    package var layerOption: Bool
    package var takesDetachedLayers: Bool

    /// The namespaces that begin with the first process.
    package var clonedNamespaces: [Namespace] {
        for case .clone(let namespaces, _) in steps { return namespaces }
        return []
    }

    /// The v2 group that the child starts in.
    package var cgroup: String? {
        for case .clone(_, let cgroup) in steps { return cgroup }
        return nil
    }

    package init(namespaces: [Namespace], steps: [Step], notes: [String], facts: HostFacts) {
        (self.namespaces, self.steps, self.notes) = (namespaces, steps, notes)
        mountAPI = facts.hasMountAPI
        layerOption = facts.hasLayerOption
        takesDetachedLayers = facts.takesDetachedLayers
    }
}

extension LaunchPlan.DeviceNode {
    /// What every container has in /dev (OCI runtime-spec config-linux.md, "Default Devices").
    package static let standard: [Self] = [
        .init("null", 1, 3), .init("zero", 1, 5), .init("full", 1, 7), .init("random", 1, 8),
        .init("urandom", 1, 9),
        .init("tty", 5, 0),
    ]
}

extension LaunchPlan.Step {
    package var actor: LaunchPlan.Actor {
        switch self {
        case .makeCgroups(let directories): directories.contains { $0.version == 2 } ? .before : .parent
        case .limit(let limit): limit.version == 2 ? .before : .parent
        case .deviceList, .mapIDs, .oomScore, .shareLayers, .mapSources: .parent
        case .deviceFilter, .makeDisk, .projectQuota, .openSources, .giveAway, .deviceDirectory,
            .openOverlay, .clone:
            .before
        default: .child
        }
    }
}

extension LaunchPlan.Link {
    package static let standard: [Self] = [
        .init(name: "fd", target: "/proc/self/fd"), .init(name: "stdin", target: "/proc/self/fd/0"),
        .init(name: "stdout", target: "/proc/self/fd/1"), .init(name: "stderr", target: "/proc/self/fd/2"),
        .init(name: "ptmx", target: "pts/ptmx"),
    ]
}
