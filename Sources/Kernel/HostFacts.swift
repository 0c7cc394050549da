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
    package var isRoot = true
    /// The capabilities that this process could pass on.
    package var bounding: UInt64 = .max
    package var hasCgroup2 = true
    package var hasTimeNamespace = true

    package init() {}

    /// Asks the kernel.
    package static func probe() -> HostFacts {
        var facts = HostFacts()
        facts.isRoot = geteuid() == 0
        let release = kernelRelease()
        facts.hasMountAPI =
            release >= (5, 12) && getenv("IMGBOX_MOUNT_API").map { String(cString: $0) } != "classic"
        facts.hasLayerOption = facts.hasMountAPI && release >= (6, 7)
        facts.hasTimeNamespace = access("/proc/self/ns/time", F_OK) == 0
        facts.rootIsInitial = isInitialRoot()
        facts.bounding = boundingSet()
        return facts
    }

    private static func kernelRelease() -> (Int, Int) {
        var name = utsname()
        guard uname(&name) == 0 else { return (0, 0) }
        let text = withUnsafeBytes(of: &name.release) {
            String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
        }
        let parts = text.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        return parts.count == 2 ? (parts[0], parts[1]) : (0, 0)
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

    private static func boundingSet() -> UInt64 {
        var mask: UInt64 = 0
        for number in 0..<64 {
            let answer = ck_syscall(Int(CK_SYS_PRCTL), Int(CK_CAPBSET_READ), number, 0, 0, 0, 0)
            if answer < 0 { break }
            if answer == 1 { mask |= 1 << UInt64(number) }
        }
        return mask
    }
}
