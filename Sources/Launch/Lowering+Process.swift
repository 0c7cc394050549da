import CLaunch
import Glibc
import OCI

/// The steps that make the process what it is to be: its terminal, session, network and rights.
extension Lowering {
    func terminal(_ owner: UInt32) {
        let flags = Int64(O_RDWR | O_NOCTTY | O_CLOEXEC)
        program.call(
            Int(CL_SYS_openat), .register(.pts), .text("ptmx"), .number(flags), .number(0), to: .master)
        // TIOCSPTLCK
        program.call(
            Int(CL_SYS_ioctl), .register(.master), .number(0x4004_5431), program.block([0, 0, 0, 0]))
        // TIOCGPTPEER: the other end by its descriptor, not by a path that could be swapped (CVE-2025-52565).
        program.call(
            Int(CL_SYS_ioctl), .register(.master), .number(0x5441), .number(Int64(O_RDWR | O_NOCTTY)),
            to: .terminal)
        program.call(Int(CL_SYS_fchown), .register(.terminal), .number(Int64(owner)), .number(-1))
        program.special(CL_SEND_DESCRIPTOR, .number(Int64(inherited.socket)), .register(.master))
        program.call(Int(CL_SYS_close), .register(.master))
        program.call(
            Int(CL_SYS_mknodat), .register(.dev), .text("console"), .number(Int64(S_IFREG | 0o600)),
            .number(0))
        program.special(CL_FILE, .register(.dev), .text("console"), .number(0), to: .target)
        if plan.mountAPI {
            program.call(
                Int(CL_SYS_open_tree), .register(.terminal), .text(""),
                .number(Lowering.openTreeClone | Lowering.cloexec | Lowering.emptyPath), to: .object)
            move(.object)
        } else {
            program.special(
                CL_MOUNT_AT, .register(.terminal), .register(.target), .number(0), .number(0x1000), .number(0)
            )
        }
    }

    func session(_ hasTerminal: Bool) {
        program.call(Int(CL_SYS_setsid))
        guard hasTerminal else {
            for (number, fd) in inherited.standard.enumerated() where fd >= 0 {
                program.call(Int(CL_SYS_dup3), .number(Int64(fd)), .number(Int64(number)), .number(0))
            }
            return
        }
        // TIOCSCTTY
        program.call(Int(CL_SYS_ioctl), .register(.terminal), .number(0x540e), .number(0))
        for number in 0..<3 {
            program.call(Int(CL_SYS_dup3), .register(.terminal), .number(Int64(number)), .number(0))
        }
    }

    func loopbackUp() {
        program.call(
            Int(CL_SYS_socket), .number(Int64(AF_INET)),
            .number(Int64(SOCK_DGRAM.rawValue) | Lowering.cloexec), .number(0), to: .other)
        // struct ifreq: the name in 16 bytes, then the flags IFF_UP | IFF_RUNNING. SIOCSIFFLAGS.
        let request =
            Array("lo".utf8) + [UInt8](repeating: 0, count: 14) + [0x41, 0] + [UInt8](repeating: 0, count: 24)
        program.call(Int(CL_SYS_ioctl), .register(.other), .number(0x8914), program.block(request))
    }

    func capabilities(_ mask: UInt64) {
        // _LINUX_CAPABILITY_VERSION_3; effective, permitted and inheritable, low words first.
        let header: [UInt32] = [0x2008_0522, 0]
        let (low, high) = (UInt32(truncatingIfNeeded: mask), UInt32(truncatingIfNeeded: mask >> 32))
        let data: [UInt32] = [low, low, 0, high, high, 0]
        program.call(Int(CL_SYS_capset), program.block(memoryBytes(header)), program.block(memoryBytes(data)))
    }

    /// The steps by which the child comes into its namespaces.
    func lowerEntry(_ step: LaunchPlan.Step) {
        switch step {
        case .joinNamespaces(let joins):
            for (index, join) in joins.enumerated() {
                program.call(
                    Int(CL_SYS_setns), .number(Int64(inherited.joins[index])), .flags(join.namespace.flag))
            }
        case .fork(let namespaces):
            program.special(
                CL_FORK, .flags(namespaces.reduce(0) { $0 | $1.flag }), .number(Int64(inherited.cgroup)))
            dieWithParent()
        case .newNamespaces(let namespaces):
            program.call(Int(CL_SYS_unshare), .flags(namespaces.reduce(0) { $0 | $1.flag }))
        case .joinCgroups(let directories):
            // A process with one thread that moves itself needs no lock over all processes of the machine, for which the
            // kernel would wait for milliseconds (cgroup_procs_write_start, Linux 5.5): hence `tasks`, and "0".
            for path in directories { program.special(CL_WRITE_PATH, .text(path + "/tasks"), .text("0")) }
        case .awaitParent: program.special(CL_WAIT, .number(Int64(inherited.release)), .number(0))
        case .becomeRoot(let uid, let gid, let dropsGroups):
            if dropsGroups { program.call(Int(CL_SYS_setgroups), .number(0), .number(0)) }
            let (user, group) = (ChildProgram.Value.number(Int64(uid)), ChildProgram.Value.number(Int64(gid)))
            program.call(Int(CL_SYS_setresgid), group, group, group)
            program.call(Int(CL_SYS_setresuid), user, user, user)
            dieWithParent()
            // PR_SET_DUMPABLE, see prepare().
            program.call(Int(CL_SYS_prctl), .number(4), .number(0))
        case .cgroupNamespace:
            program.call(Int(CL_SYS_unshare), .flags(LaunchPlan.Namespace.cgroup.flag))
        case .timeOffsets(let offsets): timeOffsets(offsets)
        case .keyring:
            // KEYCTL_JOIN_SESSION_KEYRING. A kernel without keys has none to share.
            program.call(Int(CL_SYS_keyctl), .number(1), .text("imgbox"), tolerating: [ENOSYS])
        default: break
        }
    }

    /// Offsets can only be set while nobody is in the namespace; setns(2) is the way in for a process that is there
    /// already (time_namespaces(7)).
    private func timeOffsets(_ offsets: [ContainerSpec.TimeOffset]) {
        let flag = LaunchPlan.Namespace.time.flag
        program.call(Int(CL_SYS_unshare), .flags(flag))
        let text = offsets.map { "\($0.clock) \($0.seconds) \($0.nanoseconds)\n" }.joined()
        program.special(CL_WRITE_PROC, .text("/proc/self/timens_offsets"), .text(text))
        program.special(CL_ENTER, .text("/proc/self/ns/time_for_children"), .flags(flag))
    }

    /// SECCOMP_SET_MODE_FILTER with struct sock_fprog: a count and the address of the instructions.
    func seccomp(_ filter: [UInt8]) {
        guard case .number(let address) = program.block(filter) else { return }
        let fprog = memoryBytes([UInt64(filter.count / 8), UInt64(bitPattern: address)])
        program.call(Int(CL_SYS_seccomp), .number(1), .number(0), program.block(fprog))
    }
}
