import CKernel
import Files
import Glibc

/// What the planner has to know about this machine, and nothing that a plan can find out by doing. A value: plans are
/// made from it in tests without a kernel.
package struct HostFacts: Sendable, Equatable {
    /// The mount calls of Linux 5.2 (fsopen, open_tree, move_mount) and mount_setattr of 5.12.
    package var hasMountAPI = true
    /// The option `lowerdir+` of overlayfs, one layer a call (Linux 6.7); before, all layers share one page.
    package var hasLayerOption = true
    /// The root directory lies on the kernel's first file system, from which pivot_root(2) cannot leave.
    package var rootIsInitial = false
    package var privilege = Privilege.root
    /// overlayfs takes detached mounts as layers (Linux 6.15); before, they have to be mounted somewhere.
    package var takesDetachedLayers = true
    /// overlayfs works on mounts whose owners are mapped (Linux 5.19).
    package var mapsLayers = true
    /// The release as (major, minor).
    package var kernel = KernelVersion(6, 18)
    /// Processors that are there.
    package var processors = 2
    /// The capabilities that this process could pass on.
    package var bounding: UInt64 = .max
    package var hasCgroup2 = true
    package var hasTimeNamespace = true

    package init() {}

    /// Asks the kernel. Without `boundingSet`, for containers with a user namespace of their own, where all capabilities begin
    /// anew, only the last one is asked for.
    package static func probe(boundingSet: Bool = true) -> HostFacts {
        var facts = HostFacts()
        facts.privilege = .current
        let release = kernelRelease()
        facts.kernel = release
        facts.hasMountAPI = hasMountCalls
        facts.hasLayerOption = facts.hasMountAPI && release >= KernelVersion(6, 7)
        facts.hasTimeNamespace = access("/proc/self/ns/time", F_OK) == 0
        facts.takesDetachedLayers =
            release >= KernelVersion(6, 15) && environmentWord("IMGBOX_LAYERS") != "attached"
        facts.mapsLayers =
            facts.hasMountAPI && release >= KernelVersion(5, 19)
            && environmentWord("IMGBOX_LAYERS") != "copied"
        facts.processors = sysconf(Int32(_SC_NPROCESSORS_ONLN))
        facts.rootIsInitial = isInitialRoot()
        facts.bounding = readBoundingSet(all: boundingSet)
        return facts
    }

    /// The mount calls are there, and not switched off for a test.
    package static var hasMountCalls: Bool {
        kernelRelease() >= KernelVersion(5, 12) && environmentWord("IMGBOX_MOUNT_API") != "classic"
    }

    /// Older kernels can be played for tests: IMGBOX_MOUNT_API=classic, IMGBOX_LAYERS=attached or copied.
    private static func environmentWord(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }
    }

    private static func kernelRelease() -> KernelVersion {
        var name = utsname()
        guard uname(&name) == 0 else { return KernelVersion(0, 0) }
        let text = withUnsafeBytes(of: &name.release) {
            String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
        }
        let parts = text.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        return parts.count == 2 ? KernelVersion(parts[0], parts[1]) : KernelVersion(0, 0)
    }

    /// A root on ramfs or tmpfs may be the initial one; mountinfo tells: the initial root is its own parent's child
    /// of type rootfs.
    private static func isInitialRoot() -> Bool {
        guard let root = try? open("/", pathOnly | O_DIRECTORY) else { return false }
        let type = ck_filesystem_type(root.raw)
        guard type == 0x8584_58f6 || type == 0x0102_1994 else { return false }
        guard let text = try? readFile("/proc/self/mountinfo", limit: 16 << 20) else { return false }
        for line in String(decoding: text, as: UTF8.self).split(separator: "\n") {
            let fields = line.split(separator: " ")
            guard fields.count > 6, fields[4] == "/", let dash = fields.firstIndex(of: "-") else { continue }
            return dash + 1 < fields.count && fields[dash + 1] == "rootfs"
        }
        return false
    }

    private static func readBoundingSet(all: Bool) -> UInt64 {
        var mask: UInt64 = 0
        // 40 is the last one since Linux 5.9; whatever came later is asked for.
        let first = all || !knowsCapability(40) ? 0 : 40
        for number in first..<64 {
            let answer = ck_syscall(Int(CK_SYS_PRCTL), Int(CK_CAPBSET_READ), number, 0, 0, 0, 0)
            if answer < 0 { break }
            if answer == 1 || !all { mask |= 1 << UInt64(number) }
        }
        return mask
    }

    private static func knowsCapability(_ number: Int) -> Bool {
        ck_syscall(Int(CK_SYS_PRCTL), Int(CK_CAPBSET_READ), number, 0, 0, 0, 0) >= 0
    }
}

/// A kernel's release, as far as it counts.
package struct KernelVersion: Sendable, Equatable, Comparable {
    package let major: Int
    package let minor: Int

    package init(_ major: Int, _ minor: Int) { (self.major, self.minor) = (major, minor) }

    package static func < (left: KernelVersion, right: KernelVersion) -> Bool {
        (left.major, left.minor) < (right.major, right.minor)
    }
}
