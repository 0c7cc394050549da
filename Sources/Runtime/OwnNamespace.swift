import CKernel
import Files
import Glibc
import Kernel
import Launch
import Store

/// An ordinary user becomes root of a user namespace of imgbox's own, in which layers can be unpacked with their owners,
/// and containers be made.
package enum OwnNamespace {
    /// What an ordinary user has.
    package struct Ranges: Sendable {
        package var name: String
        package var uid: [(first: UInt32, count: UInt32)]
        package var gid: [(first: UInt32, count: UInt32)]
        /// The setuid helpers; nil where they are not installed.
        package var uidHelper: String?
        package var gidHelper: String?

        /// More than one id can be mapped.
        package var isWide: Bool { !uid.isEmpty && !gid.isEmpty && uidHelper != nil && gidHelper != nil }
    }

    /// Looks the user up in /etc/passwd, /etc/subuid and /etc/subgid.
    package static func ranges(of id: UInt32) -> Ranges {
        var name = "\(id)"
        for line in SubordinateIDs.read("/etc/passwd").split(separator: "\n") {
            let fields = line.split(separator: ":", omittingEmptySubsequences: false)
            if fields.count > 2, fields[2] == "\(id)" {
                name = String(fields[0])
                break
            }
        }
        func helper(_ program: String) -> String? {
            ["/usr/bin", "/usr/local/bin", "/bin"].map { "\($0)/\(program)" }.first { access($0, X_OK) == 0 }
        }
        return Ranges(
            name: name, uid: SubordinateIDs.parse(SubordinateIDs.read("/etc/subuid"), name: name, id: id),
            gid: SubordinateIDs.parse(SubordinateIDs.read("/etc/subgid"), name: name, id: id),
            uidHelper: helper("newuidmap"), gidHelper: helper("newgidmap"))
    }

    /// Enters the namespace. Does nothing for root. To be called before anything else of this process has begun a thread.
    /// `mounts`: with a mount namespace, in which this process may mount.
    package static func enter(mounts: Bool) throws(RuntimeError) {
        let (uid, gid) = (geteuid(), getegid())
        guard uid != 0 else { return }
        let ranges = ranges(of: uid)
        var failed: Int32 = 0
        let result: Int32
        if ranges.isWide, let uidHelper = ranges.uidHelper, let gidHelper = ranges.gidHelper {
            result = words(uidHelper, uid, ranges.uid) { uidWords in
                words(gidHelper, gid, ranges.gid) { gidWords in
                    ck_enter_user_namespace(uidWords, gidWords, mounts ? Int32(CK_NEWNS) : 0, &failed)
                }
            }
        } else {
            result = ck_enter_user_namespace(nil, nil, mounts ? Int32(CK_NEWNS) : 0, &failed)
        }
        guard result == 0 else { throw failure(failed, ranges) }
    }

    /// Enters the namespace that the imgbox of a running container is in: only there its container can be joined.
    package static func join(_ record: ContainerRecord) throws(RuntimeError) {
        guard geteuid() != 0 else { return }
        do throws(FileError) {
            let file = try open("/proc/\(record.keeper)/ns/user", O_RDONLY)
            guard ck_syscall(Int(CK_SYS_SETNS), Int(file.raw), Int(CK_NEWUSER), 0, 0, 0, 0) == 0,
                ck_unshare(Int32(CK_NEWNS)) == 0
            else { throw FileError.last("setns", "the user namespace of '\(record.name)'") }
        } catch { throw RuntimeError(error, "cannot join the container '\(record.name)'") }
    }

    /// `newuidmap PID 0 UID 1 1 FIRST COUNT ...`; the empty word stands for the pid.
    private static func words(
        _ program: String, _ id: UInt32, _ ranges: [(first: UInt32, count: UInt32)],
        _ body: (UnsafePointer<UnsafePointer<CChar>?>?) -> Int32
    ) -> Int32 {
        let own = [IDExtent(inside: 0, outside: id, count: 1)]
        // The kernel takes 340 lines.
        let map = own + IDChoice.consecutive(Array(ranges.prefix(339)), from: 1)
        let list = [program, ""] + map.flatMap { ["\($0.inside)", "\($0.outside)", "\($0.count)"] }
        let pointers = list.map { strdup($0) } + [nil]
        defer { for pointer in pointers { free(pointer) } }
        return pointers.map { UnsafePointer($0) }.withUnsafeBufferPointer { body($0.baseAddress) }
    }

    private static func failure(_ step: Int32, _ ranges: Ranges) -> RuntimeError {
        let code = String(cString: strerror(Glibc.errno))
        if step == 0 {
            return RuntimeError(
                "an ordinary user needs a user namespace, and the kernel refuses it: \(code)",
                hint: Launcher.userNamespaceHint)
        }
        let (tool, file) = step == 1 ? ("newuidmap", "/etc/subuid") : ("newgidmap", "/etc/subgid")
        guard ranges.isWide else {
            return RuntimeError(
                "cannot map the own id in a user namespace: \(code)", hint: Launcher.userNamespaceHint)
        }
        return RuntimeError(
            "\(tool) could not map the ids of \(file)",
            hint:
                "it must be set-user-ID root or have cap_set\(step == 1 ? "u" : "g")id (apt-get install --reinstall uidmap), "
                + "and the lines of \(ranges.name) in \(file) must not overlap: imgbox doctor")
    }
}
