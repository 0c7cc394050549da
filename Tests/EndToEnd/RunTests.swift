import Files
import Foundation
import Layers
import OCI
import Testing

@Suite(.enabled(if: isRoot, needsRoot)) struct RunTests {
    let box: Box

    init() throws {
        box = try Box(place: "/dev/shm")
        try box.addBusybox()
    }

    private func sh(_ script: String, _ flags: String...) throws -> Output {
        let output = try call(
            [program, "--root", box.store, "run", "--rm"] + flags + ["busybox", "sh", "-c", script])
        #expect(try box.leftovers().isEmpty)
        return output
    }

    @Test func everyNamespaceIsItsOwn() throws {
        #expect(try sh("echo $$").line == "1")
        let processes = try sh("ps -o pid | tail -n +2 | wc -l").line
        #expect((Int(processes) ?? 99) <= 4)
        #expect(try sh("hostname", "--hostname", "inside").line == "inside")
        #expect(try call(["hostname"]).line != "inside")
        for kind in ["mnt", "uts", "ipc", "pid", "net", "cgroup", "time"] {
            let inside = try sh("readlink /proc/self/ns/\(kind)").line
            let outside = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/ns/\(kind)")
            #expect(inside != outside, "\(kind)")
            #expect(inside.hasPrefix("\(kind):["))
        }
        #expect(
            try sh("readlink /proc/self/ns/net", "--network", "host").line
                == FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/ns/net"))
    }

    @Test func messageQueuesAreNotShared() throws {
        let made = try call(["ipcmk", "-Q"]).out
        let id = try #require(made.split(separator: " ").last).trimmingCharacters(in: .newlines)
        defer { _ = try? call(["ipcrm", "-q", id]) }
        #expect(try call(["ipcs", "-q"]).out.split(separator: "\n").contains { $0.contains(" \(id) ") })
        #expect(try sh("cat /proc/sysvipc/msg | wc -l").line == "1")
    }

    @Test func mountsStayInside() throws {
        // Other tests mount on the host meanwhile: what is looked for is known by its name.
        let source = "mark\(UInt32.random(in: 0 ... .max))"
        #expect(
            try sh("mount | grep -c ' on / '; mount | grep -q ' on /proc type proc' && echo proc").out
                == "1\nproc\n")
        #expect(
            try sh("mount -t tmpfs \(source) /tmp && echo mounted", "--cap-add", "SYS_ADMIN").line
                == "mounted")
        let outside = try String(contentsOfFile: "/proc/self/mounts", encoding: .utf8)
        #expect(!outside.contains(source) && !outside.contains(box.store))
    }

    @Test func standardDevices() throws {
        let list = "null zero full random urandom tty ptmx fd stdin stdout stderr pts shm mqueue"
        #expect(try sh("for d in \(list); do [ -e /dev/$d ] || [ -L /dev/$d ] || echo $d; done").out.isEmpty)
        #expect(try sh("echo x > /dev/null && head -c 3 /dev/zero | wc -c").line == "3")
        #expect(
            try sh("ls /dev").out.split(separator: "\n").sorted().map(String.init)
                == (list.split(separator: " ").map(String.init)).sorted())
        #expect(try sh("df -k /dev/shm | tail -1 | awk '{print $2}'", "--shm-size", "1m").line == "1024")
        #expect(
            try sh("cat /sys/class/net/lo/operstate; ip addr show lo | grep -c 'inet 127.0.0.1'").out
                .contains("1\n"))
    }

    @Test(arguments: [
        (["run", "--rm", "busybox", "true"], Int32(0), ""),
        (["run", "--rm", "busybox", "sh", "-c", "exit 7"], 7, ""),
        (["run", "--rm", "busybox", "nothing-here"], 127, "not found"),
        (["run", "--rm", "busybox", "/no/such"], 127, "not found"),
        (["run", "--rm", "busybox", "/etc"], 126, "permission denied"),
        (["run", "--rm", "busybox", "/etc/plain"], 126, "permission denied"),
        (["run", "--rm", "--init", "busybox", "sh", "-c", "kill -9 $$"], 137, ""),
        (["run", "--rm", "nothing"], 125, "no image"), (["run", "--rm", "busybox"], 125, "no command"),
        (["run", "--rm", "-u", "nobody-here", "busybox", "true"], 125, "no user"),
        (["run", "--bogus", "busybox"], 125, "bogus"),
        (["run", "--rm", "--name", "-x", "busybox", "true"], 125, "name"),
        (["run", "-it", "--rm", "busybox", "sh"], 125, "the input device is not a TTY"),
        (["run", "--rm", "-v", "/no/such:/x", "busybox", "true"], 125, "No such file"),
        (["run", "--rm", "--ulimit", "nofile=99999999", "busybox", "true"], 125, "CAP_SYS_RESOURCE"),
        (["run", "--rm", "--sysctl", "kernel.panic=1", "busybox", "true"], 125, "whole host"),
        (["run", "--rm", "--pull", "always", "busybox", "true"], 125, "registry"),
        (["run", "--rm", "-w", "etc", "busybox", "true"], 125, "not absolute"),
        (["run", "--rm", "-w", "/etc/plain", "busybox", "true"], 125, "/etc/plain"),
        (["run", "--rm", "--platform", "linux/s390x", "busybox", "true"], 125, "not for"),
    ])
    func exitCodes(words: [String], code: Int32, message: String) throws {
        let output = try call([program, "--root", box.store] + words)
        if message.contains("CAP_SYS_RESOURCE"), output.code == 0 { return }
        #expect(output.code == code, "\(output.err)")
        #expect(message.isEmpty || output.err.contains(message), "\(output.err)")
        #expect(output.err.split(separator: "\n").count <= 2, "\(output.err)")
        #expect(try box.leftovers().isEmpty)
    }

    @Test func processSettings() throws {
        #expect(
            try sh("echo $A-$B-$HOME-$PATH", "-e", "A=1", "-e", "HOME=/h").line.hasPrefix(
                "1--/h-/usr/local/sbin"))
        let file = try box.write("env", Array("# no\nB=two words\nUNSET_HERE\n".utf8))
        #expect(try sh("echo $B", "--env-file", file).line == "two words")
        #expect(try sh("pwd", "-w", "/new/dir").line == "/new/dir")
        #expect(try sh("id -u; id -g; id -G; echo $HOME", "-u", "web").out == "33\n34\n34 50\n/tmp\n")
        #expect(try sh("id -u; id -g; id -G", "-u", "1234:77").out == "1234\n77\n77\n")
        #expect(try sh("ulimit -n", "--ulimit", "nofile=77").line == "77")
        #expect(
            try sh(
                "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", "--sysctl",
                "net.ipv4.ip_forward=1", "--sysctl", "kernel.msgmax=4096"
            ).out == "1\n4096\n")
        #expect(
            try sh(
                "cat /proc/sys/kernel/domainname; cat /etc/hosts", "--domainname", "example", "--add-host",
                "db:10.1.2.3"
            ).out.contains("10.1.2.3\tdb"))
        #expect(try sh("cat /etc/resolv.conf", "--dns", "9.9.9.9").line == "nameserver 9.9.9.9")
        #expect(
            try call([
                program, "--root", box.store, "run", "--rm", "--entrypoint", "echo", "busybox", "a", "b",
            ]).line == "a b")
        #expect(
            try call(
                [program, "--root", box.store, "run", "--rm", "-i", "busybox", "cat"],
                input: Data("through".utf8)
            ).out == "through")
        #expect(
            try call(
                [program, "--root", box.store, "run", "--rm", "busybox", "cat"],
                input: Data("not connected".utf8)
            ).out.isEmpty)
    }

    @Test func rightsAreFew() throws {
        #expect(
            try sh("grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | awk '{print $2}' | sort -u").line
                == "00000000800405fb")
        #expect(
            try sh("grep -E 'Cap(Inh|Amb)' /proc/self/status | awk '{print $2}' | sort -u").line
                == "0000000000000000")
        #expect(try sh("grep NoNewPrivs /proc/self/status | awk '{print $2}'").line == "1")
        #expect(
            try sh(
                "grep NoNewPrivs /proc/self/status | awk '{print $2}'", "--security-opt",
                "no-new-privileges=false"
            ).line == "0")
        #expect(
            try sh("grep CapEff /proc/self/status | awk '{print $2}'", "-u", "33").line == "0000000000000000")
        #expect(
            try sh(
                "grep CapEff /proc/self/status | awk '{print $2}'", "--cap-drop", "ALL", "--cap-add",
                "NET_RAW"
            ).line == "0000000000002000")
        #expect(try sh("ls /proc/self/fd | wc -l").line == "4")
        #expect(
            try sh(
                "echo 1 > /proc/sys/vm/drop_caches; echo b > /proc/sysrq-trigger; mkdir /sys/fs/cgroup/x; echo done 2>&1"
            ).line == "done")
        #expect(try sh("echo x > /proc/sysrq-trigger").code != 0)
        #expect(try sh("mknod /tmp/d b 8 0").code != 0)
        #expect(try sh("mkdir /sys/fs/cgroup/x").code != 0)
        #expect(try sh("cat /proc/1/exe | head -c 4 > /dev/null; echo x > /proc/1/mem", "--init").code != 0)
    }

    @Test func filesAndMounts() throws {
        try FileManager.default.createDirectory(atPath: box.path("data"), withIntermediateDirectories: true)
        let data = box.path("data")
        #expect(try sh("echo new > /data/f && cat /data/f", "-v", "\(data):/data").line == "new")
        #expect(try String(contentsOfFile: data + "/f", encoding: .utf8) == "new\n")
        #expect(try sh("echo x > /data/g", "-v", "\(data):/data:ro").code != 0)
        #expect(try sh("cat /one", "-v", "\(data)/f:/one:ro").line == "new")
        #expect(
            try sh("cat /deep/er/f", "--mount", "type=bind,source=\(data),target=/deep/er,readonly").line
                == "new")
        #expect(
            try sh("echo x > /t/f && df -k /t | tail -1 | awk '{print $2}'", "--tmpfs", "/t:size=2m").line
                == "2048")
        #expect(try sh("echo x > /f", "--read-only").code != 0)
        #expect(
            try sh("echo x > /dev/shm/f && echo y > /t/f && echo ok", "--read-only", "--tmpfs", "/t").line
                == "ok")
        #expect(try sh("rm /bin/busybox; echo gone", "-e", "X=1").line == "gone")
        #expect(try sh("ls /bin/busybox").line == "/bin/busybox")
    }

    @Test(arguments: [["--root-switch", "chroot"], ["--root-switch", "pivot"]])
    func bothWaysToSwitchTheRoot(flags: [String]) throws {
        for api in ["", "classic"] {
            let output = try call(
                [program, "--root", box.store, "run", "--rm", "--read-only", "-v", "/etc/passwd:/p:ro"]
                    + flags
                    + [
                        "busybox", "sh", "-c",
                        "ls / | tr '\\n' ' '; [ -s /p ] && echo x > /p; echo x > /f; ls -l /proc/keys /dev/null | awk '{print $1}'",
                    ],
                environment: ["IMGBOX_MOUNT_API": api])
            #expect(output.out.hasPrefix("bin dev etc p proc root sys tmp "), "\(output)")
            #expect(output.err.components(separatedBy: "Read-only").count == 3, "\(output.err)")
        }
    }

    @Test func terminals() throws {
        func onTerminal(_ words: String) throws -> Output {
            try call(["script", "-qec", "\(program) --root \(box.store) run --rm \(words)", "/dev/null"])
        }
        let output = try onTerminal(
            "-t busybox sh -c 'tty; [ -t 0 ] && [ -t 1 ] && echo both; ls -l /dev/console | cut -c1; exit 9'")
        #expect(
            output.out.contains("/dev/pts/0") && output.out.contains("both") && output.out.contains("c"),
            "\(output)")
        #expect(output.code == 9)
        // Keys go in, the screen comes out, and the terminal is as it was.
        let typed = try call([
            "sh", "-c",
            "(sleep 0.5; printf 'echo a$((20+3))b\\nexit 4\\n'; sleep 1) | script -qec '\(program) --root \(box.store) run --rm -it busybox sh; echo code $?; stty -a | grep -o -- -*echo\\ ' /dev/null",
        ])
        #expect(typed.out.contains("a23b") && typed.out.contains("code 4"), "\(typed)")
        let size = try call([
            "script", "-qec",
            "stty rows 33 cols 77; \(program) --root \(box.store) run --rm -t busybox stty size", "/dev/null",
        ])
        #expect(size.out.contains("33 77"), "\(size)")
    }

    @Test func signalsArePassedOn() throws {
        let process = try box.start(
            "run", "--rm", "busybox", "sh", "-c", "trap 'exit 42' TERM; while :; do sleep 0.1; done")
        try waitUntil { try box("ps", "-q").out.isEmpty == false }
        usleep(300_000)
        process.terminate()
        process.waitUntilExit()
        #expect(process.terminationStatus == 42)
        #expect(try box.leftovers().isEmpty)
    }

    /// Also as another user: a change of user clears the wish to die with the parent.
    @Test(arguments: ["0", "web"]) func aKilledImgboxLeavesNothing(user: String) throws {
        let marker = "31.\(getpid())\(user.utf8.count)"
        let process = try box.start("run", "--rm", "--name", "victim", "-u", user, "busybox", "sleep", marker)
        try waitUntil { try call(["pgrep", "-f", "^sleep \(marker)$"]).code == 0 }
        #expect(try box("ps").out.contains("victim"))
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
        try waitUntil { try call(["sh", "-c", "pgrep -r R,S,D -f '^sleep \(marker)$'"]).code != 0 }
        #expect(try box("ps", "-a", "-q").out.isEmpty)
        #expect(try box.leftovers().isEmpty)
        #expect(try box("run", "--rm", "--name", "victim", "busybox", "true").code == 0)
    }

    @Test func containersThatStay() throws {
        #expect(
            try box(
                "run", "--name", "kept", "--label", "a=b", "--cidfile", "id", "busybox", "sh", "-c", "exit 3"
            ).code == 3)
        let list = try box("ps", "-a").out
        #expect(list.contains("kept") && list.contains("exited (3)"))
        #expect(try box("run", "--name", "kept", "busybox", "true").err.contains("in use"))
        #expect(try box("ps", "-a", "--format", "json").out.contains("\"a\": \"b\""))
        let id = try String(contentsOfFile: box.path("id"), encoding: .utf8)
        #expect(id.count == 64)
        #expect(try box("run", "--rm", "--cidfile", "id", "busybox", "true").code == 125)
        // The image can go; the container keeps its layers.
        #expect(try box("rmi", "busybox").code == 0)
        #expect(try FileManager.default.contentsOfDirectory(atPath: box.store + "/layers").count == 1)
        #expect(try box("rm", String(id.prefix(8))).code == 0)
        #expect(try box("gc").code == 0)
        #expect(try FileManager.default.contentsOfDirectory(atPath: box.store + "/layers").isEmpty)
        #expect(try box.leftovers().isEmpty)
    }

    @Test func hostileRootsTouchNothingOutside() throws {
        let outside = box.path("outside")
        try FileManager.default.createDirectory(atPath: outside, withIntermediateDirectories: true)
        for name in ["proc", "dev", "sys", "etc", "work"] {
            let layer = try Images.tar([
                (Images.entry(name, .symbolicLink(Array(outside.utf8)), mode: 0o777), [])
            ])
            try Images.layout(
                [
                    [UInt8](Data(contentsOf: URL(fileURLWithPath: box.path("busybox.tar")))),
                    Images.tar([(Images.entry(".wh.\(name)", .file), [])]), layer,
                ], at: box.path("evil-\(name)"))
            #expect(try box("pull-local", "evil-\(name)", "evil-\(name)").code == 0)
            let output = try box("run", "--rm", "-w", "/work/x", "evil-\(name)", "sh", "-c", "true")
            if ["proc", "dev", "sys"].contains(name) {
                #expect(output.code == 125 && output.err.contains("link"), "\(name): \(output)")
            }
            #expect(try FileManager.default.contentsOfDirectory(atPath: outside).isEmpty, "\(name)")
        }
        #expect(try box.leftovers().isEmpty)
    }

    @Test func plansCanBeRead() throws {
        let plan = try box("run", "--dry-run", "busybox", "true")
        #expect(plan.code == 0 && plan.out.contains("pivot_root . ."))
        #expect(try box.leftovers().isEmpty)
        let explained = try box("run", "--rm", "--explain", "--format", "json", "busybox", "true")
        let document = try JSONSerialization.jsonObject(with: Data(explained.err.utf8)) as? [String: Any]
        let steps = try #require(document?["steps"] as? [[String: Any]])
        #expect(steps.count > 10 && steps.filter { $0["nanoseconds"] != nil }.count > 10)
    }

    private func waitUntil(_ condition: () throws -> Bool) throws {
        for _ in 0..<200 {
            if try condition() { return }
            usleep(50_000)
        }
        Issue.record("it did not happen in ten seconds")
    }
}
