package import Kernel
package import Launch
package import OCI

/// Whose namespace a container is in.
package enum NamespaceChoice: Sendable, Equatable {
    case own, host
    case container(String)
}

/// Which ids a container has.
package enum UserNamespaceChoice: Sendable, Equatable {
    /// 65536 reserved ids as root, the user's own as a user.
    case standard
    case auto
    /// No user namespace of its own.
    case host
    /// The user who runs imgbox is this user inside; nil: with the same number.
    case keepID(uid: UInt32?, gid: UInt32?)
    /// The user who runs imgbox is nobody inside.
    case noMap
    /// Lines of `inside:outside:count`.
    case maps(uid: [IDExtent], gid: [IDExtent])
    /// The ranges that /etc/subuid and /etc/subgid give to these names.
    case subordinate(uid: String, gid: String)
    case container(String)
}

package enum SeccompChoice: Sendable, Equatable {
    case standard, unconfined
    /// A profile in docker's form, and its path.
    case document(path: String, bytes: [UInt8])
}

/// What the user asked of `run`, parsed.
package struct RunOptions: Sendable {
    package var isInteractive = false
    package var hasTerminal = false
    package var isRemoved = false
    package var name: String?
    /// `KEY=value`, later ones win.
    package var environment: [String] = []
    package var workingDirectory: String?
    package var user: String?
    package var hostname: String?
    package var domainname: String?
    package var mounts: [ContainerSpec.Mount] = []
    package var isReadOnly = false
    package var entrypoint: [String]?
    package var command: [String] = []
    package var hasInit = false
    package var limits: [ContainerSpec.ResourceLimit] = []
    package var sysctl: [(key: String, value: String)] = []
    package var shmSize: Int64 = 64 << 20
    package var hosts: [(name: String, address: String)] = []
    package var nameServers: [String] = []
    package var labels: [(key: String, value: String)] = []
    package var network = NamespaceChoice.own
    package var pid = NamespaceChoice.own
    package var ipc = NamespaceChoice.own
    package var uts = NamespaceChoice.own
    package var cgroupNamespace = NamespaceChoice.own
    package var userNamespace = UserNamespaceChoice.standard
    /// Seconds that the monotonic and the boot-time clock are moved by.
    package var timeOffset: (seconds: Int64, nanoseconds: UInt32)?
    package var resources = Resources()
    package var cgroupParent: String?
    package var oomScoreAdjustment: Int32?
    package var devices: [ContainerSpec.Device] = []
    /// The nodes on the host, by their places inside.
    package var deviceSources: [String: String] = [:]
    /// What devices may be done with, beside the standard list.
    package var deviceRules: [Resources.DeviceRule] = []
    /// Bytes.
    package var diskSize: Int64?
    package var isPrivileged = false
    package var seccomp = SeccompChoice.standard
    /// Masks and read-only paths are left out (`--security-opt unmask=ALL`).
    package var isUnmasked = false
    package var preservedDescriptors = 0
    package var noNewPrivileges = true
    package var capabilities: [String]?
    package var rootSwitch: LaunchPlan.RootSwitch?

    package init() {}
}
