import Files
import Foundation
import Kernel
import OCI
import Testing

@testable import Seccomp

/// Filters are run by a small machine of the test's own, as the kernel would.
@Suite struct SeccompTests {
    private enum Verdict: Equatable { case allow, errno(Int), kill, other(UInt32) }

    /// Classic BPF over struct seccomp_data: number, architecture, instruction pointer, six arguments.
    private func ask(
        _ filter: [UInt8], _ number: Int32, arch: UInt32 = 0xc000_003e, _ arguments: [UInt64] = []
    ) -> Verdict {
        var data = [UInt32](repeating: 0, count: 16)
        data[0] = UInt32(bitPattern: number)
        data[1] = arch
        for (index, value) in arguments.enumerated() {
            data[4 + index * 2] = UInt32(truncatingIfNeeded: value)
            data[5 + index * 2] = UInt32(truncatingIfNeeded: value >> 32)
        }
        let words = filter.withUnsafeBytes { Array($0.bindMemory(to: UInt64.self)) }
        var (at, a) = (0, UInt32(0))
        while at < words.count {
            let word = words[at]
            let (code, k) = (UInt16(truncatingIfNeeded: word), UInt32(truncatingIfNeeded: word >> 32))
            let (yes, no) = (Int(word >> 16 & 0xff), Int(word >> 24 & 0xff))
            at += 1
            switch code {
            case 0x20: a = data[Int(k / 4)]
            case 0x05: at += Int(k)
            case 0x15: at += a == k ? yes : no
            case 0x25: at += a > k ? yes : no
            case 0x35: at += a >= k ? yes : no
            case 0x45: at += a & k != 0 ? yes : no
            case 0x54: a &= k
            case 0x06:
                switch k & 0xffff_0000 {
                case 0x7fff_0000: return .allow
                case 0x0005_0000: return .errno(Int(k & 0xffff))
                case 0x8000_0000, 0: return .kill
                default: return .other(k)
                }
            default:
                Issue.record("unknown instruction \(code)")
                return .kill
            }
        }
        Issue.record("the filter ran off its end")
        return .kill
    }

    private static let x86 = "SKIPPED: the numbers in this test are those of x86-64"
    #if arch(x86_64)
        private static let isX86 = true
    #else
        private static let isX86 = false
    #endif

    @Test(.enabled(if: isX86, "\(x86)")) func standardProfile() throws {
        let filter = try SeccompFilter.compile(.standard(Set(Capability.containerDefault)))
        // read, execve, chroot (its capability is there), openat2, mseal
        for number: Int32 in [0, 59, 161, 437, 462] { #expect(ask(filter, number) == .allow, "\(number)") }
        // mount, bpf, reboot, add_key, io_uring_setup, kexec_load, userfaultfd, open_by_handle_at, unshare, setns
        for number: Int32 in [165, 321, 169, 248, 425, 246, 323, 304, 272, 308] {
            #expect(ask(filter, number) == .errno(1), "\(number)")
        }
        // What does not exist yet does not exist; clone3 hides its flags.
        #expect(ask(filter, 9999) == .errno(38))
        #expect(ask(filter, 435) == .errno(38))
        // clone without and with CLONE_NEWUSER, with CLONE_NEWNS
        #expect(ask(filter, 56, [0x11]) == .allow)
        #expect(ask(filter, 56, [0x1000_0000]) == .errno(1))
        #expect(ask(filter, 56, [0x2_0000]) == .errno(1))
        // socket: AF_INET, AF_ALG, AF_NETLINK's neighbour, AF_VSOCK
        #expect(ask(filter, 41, [2]) == .allow)
        #expect(ask(filter, 41, [38]) == .errno(1))
        #expect(ask(filter, 41, [39]) == .allow)
        #expect(ask(filter, 41, [40]) == .errno(1))
        #expect(ask(filter, 135, [8]) == .allow)
        #expect(ask(filter, 135, [0x40_0000]) == .errno(1))
        // x32 is nobody's; programs of 32 bits have the same rules: mount is 21 there, unshare 310.
        #expect(ask(filter, 0x4000_0000) == .kill)
        #expect(ask(filter, 3, arch: 0x4000_0003) == .allow)
        #expect(ask(filter, 21, arch: 0x4000_0003) == .errno(1))
        #expect(ask(filter, 9999, arch: 0x4000_0003) == .errno(38))
        #expect(ask(filter, 0, arch: 0xc000_00b7) == .kill)
    }

    @Test(.enabled(if: isX86, "\(x86)")) func capabilitiesOpenTheirCalls() throws {
        func with(_ name: String) throws -> [UInt8] {
            try SeccompFilter.compile(.standard([try #require(Capability(name: name))]))
        }
        #expect(ask(try with("SYS_ADMIN"), 165) == .allow)
        #expect(ask(try with("SYS_ADMIN"), 435) == .allow)
        #expect(ask(try with("SYS_ADMIN"), 56, [0x1000_0000]) == .allow)
        #expect(ask(try with("SYS_BOOT"), 169) == .allow)
        #expect(ask(try with("DAC_READ_SEARCH"), 304) == .allow)
        #expect(ask(try with("CHOWN"), 161) == .errno(1))
        #expect(ask(try with("SYSLOG"), 103) == .allow)
    }

    /// Every name that Debian's profile for podman allows without a capability, and a kernel of today has, is allowed or
    /// is one that moby gates; and nothing that both deny is let in.
    @Test(
        .enabled(if: isX86, "\(x86)"),
        .enabled(
            if: FileManager.default.fileExists(atPath: "/usr/share/containers/seccomp.json"),
            "SKIPPED: no profile of golang-github-containers-common to compare with"))
    func comparesWithPodman() throws {
        let bytes = try Array(Data(contentsOf: URL(fileURLWithPath: "/usr/share/containers/seccomp.json")))
        let capabilities = Set(Capability.containerDefault)
        let peer = try SeccompFilter.compile(
            SeccompProfile(parsing: bytes, capabilities: capabilities, kernel: (6, 1)))
        let own = try SeccompFilter.compile(.standard(capabilities))
        var stricter: [Int32] = []
        for number: Int32 in 0..<450 where number != 56 && number != 41 && number != 135 {
            let (ours, theirs) = (ask(own, number) == .allow, ask(peer, number) == .allow)
            if theirs && !ours { stricter.append(number) }
            // vmsplice, io_pgetevents, memfd_secret, process_mrelease and futex_waitv are moby's alone.
            if ours && !theirs { #expect([278, 333, 447, 448, 449].contains(number), "\(number)") }
        }
        // mount and its like, keyctl, setns, unshare, clone3, syslog...
        #expect(Set([165, 166, 250, 272, 308]).isSubset(of: Set(stricter)))
    }

    @Test func readsDocuments() throws {
        let text = """
            {"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[
             {"names":["read","nosuchcall"],"action":"SCMP_ACT_ALLOW"},
             {"name":"write","action":"SCMP_ACT_ERRNO","errnoRet":5},
             {"names":["chroot"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_CHROOT"]}},
             {"names":["mount"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]},"includes":{"minKernel":"4.8"}},
             {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}
            """
        let profile = try SeccompProfile(parsing: Array(text.utf8), capabilities: [], kernel: (4, 4))
        #expect(profile.defaultAction == .errno(38))
        #expect(
            profile.rules == [
                .init(["read", "nosuchcall"], .allow), .init(["write"], .errno(5)),
                .init(["socket"], .allow, [.init(0, .equal, 1)]),
            ])
        _ = try SeccompFilter.compile(profile)
    }

    @Test(arguments: [
        "", "[]", "{}", "{\"defaultAction\":\"SCMP_ACT_WRONG\"}",
        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"action\":\"SCMP_ACT_ALLOW\"}]}",
        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"a\"],\"action\":\"X\"}]}",
        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"defaultErrnoRet\":5000}",
        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"listenerPath\":\"/x\"}",
        "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"a\"],\"action\":\"SCMP_ACT_LOG\",\"args\":[{\"index\":9}]}]}",
    ]) func refusesDocuments(text: String) {
        #expect(throws: SeccompError.self) {
            try SeccompProfile(parsing: Array(text.utf8), capabilities: [], kernel: (6, 1))
        }
    }

    @Test func cacheIsUsedAndMistrusted() throws {
        let path = NSTemporaryDirectory() + "/imgbox-seccomp-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        let cache = try Files.open(path, O_RDONLY | O_DIRECTORY)
        let first = try SeccompFilter.standard([], cache: cache.raw)
        let names = try FileManager.default.contentsOfDirectory(atPath: path)
        #expect(names.count == 1)
        let file = path + "/" + names[0]
        var bytes = try Array(Data(contentsOf: URL(fileURLWithPath: file)))
        #expect(try SeccompFilter.standard([], cache: cache.raw) == first)
        bytes[20] ^= 1
        try Data(bytes).write(to: URL(fileURLWithPath: file))
        #expect(try SeccompFilter.standard([], cache: cache.raw) == first)
        try Data().write(to: URL(fileURLWithPath: file))
        #expect(try SeccompFilter.standard([], cache: cache.raw) == first)
    }
}
