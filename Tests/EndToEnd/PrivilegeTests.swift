import Foundation
import Layers
import OCI
import Testing

/// What a container may do: capabilities, filter, masks, and the holes that others have had.
@Suite(.enabled(if: isRoot, needsRoot)) struct PrivilegeTests {
    let box: Box

    init() throws {
        box = try Box()
        try box.addBusybox()
    }

    private func status(_ flags: String...) throws -> [String: String] {
        let lines = try box.sh("cat /proc/self/status", flags).out.split(separator: "\n")
        return Dictionary(
            lines.map { line in
                let parts = line.split(separator: "\t", maxSplits: 1)
                return (String(parts[0].dropLast()), parts.count > 1 ? String(parts[1]) : "")
            }, uniquingKeysWith: { first, _ in first })
    }

    @Test func elevenCapabilitiesAndAFilter() throws {
        let standard = try status()
        for set in ["CapPrm", "CapEff", "CapBnd"] { #expect(standard[set] == "00000000800405fb", "\(set)") }
        for set in ["CapInh", "CapAmb"] { #expect(standard[set] == "0000000000000000", "\(set)") }
        #expect(standard["NoNewPrivs"] == "1" && standard["Seccomp"] == "2")
        let user = try status("--user", "33")
        for set in ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"] {
            #expect(user[set] == "0000000000000000")
        }
        #expect(try status("--cap-drop", "all", "--cap-add", "cap_net_raw")["CapEff"] == "0000000000002000")
        #expect(try status("--security-opt", "seccomp=unconfined")["Seccomp"] == "0")
        let all = try status("--privileged")
        #expect(all["Seccomp"] == "0" && all["NoNewPrivs"] == "0")
        #expect(
            try box.sh(
                "grep -q . /proc/keys && [ -w /proc/sys/kernel/domainname ] && [ -b /dev/loop0 ] && echo all",
                ["--privileged"]
            ).line == "all"
                || !FileManager.default.fileExists(atPath: "/dev/loop0"))
    }

    @Test func setUserIDProgramsWorkOnlyWhereAsked() throws {
        // The host's id, set-user-ID root, and its setpriv to become somebody else.
        let script =
            "cp /usr/bin/id /tmp/id && chmod 4755 /tmp/id && /usr/bin/setpriv --reuid 33 --clear-groups /tmp/id -u"
        func effective(_ flags: String...) throws -> String {
            try box.sh(script, NamespaceTests.tools + flags).line
        }
        #expect(try effective() == "33")
        #expect(try effective("--allow-setuid") == "0")
        #expect(try effective("--security-opt", "no-new-privileges=false") == "0")
    }

    @Test func profilesOfTheUsersOwn() throws {
        let profile = """
            {"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}
            """
        let path = try box.write("profile.json", Array(profile.utf8))
        let output = try box.sh("mkdir /x; touch /y && echo touched", ["--security-opt", "seccomp=\(path)"])
        #expect(output.line == "touched" && output.err.contains("No space left"), "\(output)")
        let strict = try box.write(
            "strict.json", Array(#"{"defaultAction":"SCMP_ACT_KILL","syscalls":[]}"#.utf8))
        #expect(try box.sh("true", ["--security-opt", "seccomp=\(strict)"]).code == 128 + SIGSYS)
        // The compiled filter is kept, and used again.
        #expect(try !FileManager.default.contentsOfDirectory(atPath: box.store + "/cache/seccomp").isEmpty)
        #expect(try box("fsck", "--deep").code == 0)
    }

    @Test func pingWorksWithoutRawSockets() throws {
        #expect(try box.sh("cat /proc/sys/net/ipv4/ping_group_range").line == "0\t65535")
        #expect(try box.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start").line == "0")
    }

    @Test func descriptorsStayOutside() throws {
        let run = "\(program) --root \(box.store) run --rm"
        let list = "ls /proc/self/fd | tr '\\n' ' '"
        func shell(_ text: String) throws -> String { try call(["sh", "-c", text]).line }
        // ls itself has 3 open.
        #expect(try shell("\(run) busybox sh -c \"\(list)\" 5</etc/passwd 9</etc") == "0 1 2 3 ")
        #expect(
            try shell(
                "exec 3</etc/hostname 4</etc; \(run) --preserve-fds 1 busybox sh -c 'cat <&3; ls -d /proc/self/fd/4 2>&1'"
            )
            .hasPrefix(
                try String(contentsOfFile: "/etc/hostname", encoding: .utf8).trimmingCharacters(in: .newlines)
            ))
    }

    @Test func theSessionKeyringIsItsOwn() throws {
        // With keyctl allowed, and nothing in the way.
        let flags = [
            "--userns", "host", "--security-opt", "seccomp=unconfined", "--security-opt", "unmask=ALL",
        ]
        let inside = try box.sh("grep keyring /proc/keys | grep -c ' imgbox'", flags)
        #expect(Int(inside.line) ?? 0 >= 1, "\(inside)")
    }

    // MARK: - The table of CVEs (facts, runtime.md section 3): a row where it applies

    /// CVE-2019-5736: neither pid 1 nor --init's gives a way to imgbox's own file.
    @Test func theBinaryCannotBeReached() throws {
        let before = try call(["sha256sum", program]).line
        for flags in [
            [], ["--init"], ["--userns", "host"], ["--userns", "host", "--init", "--cap-add", "SYS_ADMIN"],
        ] {
            let script = """
                for p in 1 2 self; do f=/proc/$p/exe; [ "$(readlink $f 2>/dev/null | grep -c imgbox)" = 0 ] || echo "reaches $p"; \
                (echo x >> $f) 2>/dev/null && [ "$(readlink $f)" != /bin/busybox ] && echo "wrote $p"; done; echo done
                """
            #expect(try box.sh(script, flags).out == "done\n", "\(flags)")
        }
        #expect(try call(["sha256sum", program]).line == before)
    }

    /// CVE-2024-21626: no descriptor of the host leads out by the working directory.
    @Test(arguments: 3...12) func workingDirectoriesLeadNowhere(number: Int) throws {
        let output = try box("run", "--rm", "-w", "/proc/self/fd/\(number)", "busybox", "pwd")
        #expect(output.code == 125, "\(output)")
        #expect(output.err.contains("imgbox: cannot"))
    }

    /// CVE-2023-27561, 2023-28642, 2026-41579, 2026-47766 and CVE-2025-31133: links in the places where file systems, devices
    /// and masks go.
    @Test(arguments: [
        ("proc", "/tmp/elsewhere"), ("proc", "../../../tmp/elsewhere"), ("sys", "/tmp/elsewhere"),
        ("dev", "/tmp/elsewhere"),
        ("dev", "../../../../../../tmp/elsewhere"),
    ])
    func linksInThePlaceOfTheKernels(name: String, target: String) throws {
        try FileManager.default.createDirectory(
            atPath: box.path("outside"), withIntermediateDirectories: true)
        let layer = try Images.tar([(Images.entry(name, .symbolicLink(Array(target.utf8))), [])])
        let base = [UInt8](try Data(contentsOf: URL(fileURLWithPath: box.path("busybox.tar"))))
        try Images.layout([base, layer], at: box.path("hostile"))
        try #require(try box("pull-local", "hostile", "hostile").code == 0)
        let before = try? FileManager.default.contentsOfDirectory(atPath: "/tmp/elsewhere")
        for flags in [[], ["--userns", "host"]] {
            let output = try call(
                [program, "--root", box.store, "run", "--rm"] + flags + ["hostile", "true"])
            #expect(output.code == 125 && output.err.contains("link"), "\(flags) \(output)")
        }
        #expect((try? FileManager.default.contentsOfDirectory(atPath: "/tmp/elsewhere")) == before)
        #expect(try box.leftovers().isEmpty)
    }

    /// /etc as a link that leads out of the root stays inside (CVE-2019-18837, CVE-2025-24965).
    @Test(arguments: ["../../../../../..", "/../../.."]) func etcLeadsNowhereElse(target: String) throws {
        let layer = try Images.tar([
            (Images.entry(".wh.etc", .file), [])
        ])
        let second = try Images.tar([(Images.entry("etc", .symbolicLink(Array((target + "/trap").utf8))), [])]
        )
        let base = [UInt8](try Data(contentsOf: URL(fileURLWithPath: box.path("busybox.tar"))))
        try Images.layout([base, layer, second], at: box.path("etc"))
        try #require(try box("pull-local", "etc", "etc").code == 0)
        _ = try box("run", "--rm", "etc", "true")
        #expect(!FileManager.default.fileExists(atPath: "/trap"))
    }

    /// CVE-2019-16884, 2019-19921: nothing may lie over what the kernel says.
    @Test(arguments: ["/proc", "/proc/self", "/proc/sys/kernel"]) func nothingLiesOverProc(target: String)
        throws
    {
        let output = try box.sh("true", ["-v", "/tmp:\(target)"])
        #expect(output.code == 125 && output.err.contains("kernel's own files"), "\(output)")
        #expect(try box.sh("true", ["--tmpfs", target]).code == 125)
    }

    /// CVE-2023-25809: without a cgroup namespace the host's groups are there, and closed.
    @Test func groupsOfTheHostAreReadOnly() throws {
        for flags in [[], ["--cgroupns", "host"], ["--cgroupns", "host", "--userns", "host"]] {
            let output = try box.sh(
                "find /sys/fs/cgroup -name cgroup.procs | while read f; do (echo 0 > $f) 2>/dev/null && echo $f; done; mkdir /sys/fs/cgroup/x 2>&1 | grep -c Read-only",
                flags)
            #expect(output.out == "1\n", "\(flags) \(output)")
        }
    }

    /// CVE-2022-24769, 29162, crun 2022-27650 (inheritable sets), GHSA-g54h (the device list begins with "none"), and
    /// CVE-2016-9962 (imgbox's own process inside) are rows of the probe; it runs the same checks under the peers.
    @Test(
        .enabled(if: FileManager.default.fileExists(atPath: "/usr/bin/gcc"), "SKIPPED: the probe needs gcc"))
    func theProbeFindsNothingMoreOpenThanPeersHave() throws {
        let tool = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appendingPathComponent("Probe/compare").path
        let output = try call(["/usr/bin/python3", tool, "--imgbox", program])
        #expect(output.code == 0, "\(output.out.suffix(6000)) \(output.err)")
        // The table stands in the log of the tests.
        print(output.out)
    }

    @Test func asRootOfTheHostToo() throws {
        // Without a user namespace the rest of the walls stand.
        #expect(
            try box.sh("echo x > /proc/sys/kernel/core_pattern", ["--userns", "host"]).err.contains(
                "Read-only"))
        #expect(try box.sh("mount -t tmpfs x /tmp", ["--userns", "host"]).code != 0)
        #expect(try box.sh("cat /proc/kcore", ["--userns", "host"]).out.isEmpty)
    }
}
