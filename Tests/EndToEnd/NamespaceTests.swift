import Foundation
import Testing

/// The subjects of the notes that this program grew out of, each by its effect. (chroot, signals and files are in RunTests.)
@Suite(.enabled(if: isRoot, needsRoot)) struct NamespaceTests {
    let box: Box
    /// The host's programs, for what busybox does not have.
    static let tools = ["/usr", "/lib", "/lib64"].filter { FileManager.default.fileExists(atPath: $0) }
        .flatMap {
            ["-v", "\($0):\($0):ro"]
        }

    init() throws {
        box = try Box()
        try box.addBusybox()
    }

    @Test func allEightAreItsOwn() throws {
        for kind in ["mnt", "uts", "ipc", "pid", "net", "user", "cgroup", "time"] {
            let inside = try box.sh("readlink /proc/self/ns/\(kind)").line
            #expect(inside.hasPrefix("\(kind):["))
            #expect(
                try inside != FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/ns/\(kind)"),
                "\(kind)")
        }
    }

    @Test(arguments: [
        ("--network", "net"), ("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts"), ("--cgroupns", "cgroup"),
        ("--userns", "user"),
    ])
    func eachCanBeTheHosts(flag: String, kind: String) throws {
        let host = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/ns/\(kind)")
        #expect(try box.sh("readlink /proc/self/ns/\(kind)", [flag, "host"]).line == host)
        #expect(
            try box.sh("readlink /proc/self/ns/\(kind)", [flag, "host", "--userns", "host"]).line == host)
    }

    @Test func theHostNameIsItsOwn() throws {
        let before = try call(["hostname"]).line
        #expect(
            try box.sh("hostname changed-inside; hostname", ["--cap-add", "SYS_ADMIN"]).line
                == "changed-inside")
        #expect(try call(["hostname"]).line == before)
    }

    /// ipcmk and ipcs, in both directions.
    @Test func messageQueuesAreSeenOnOneSideOnly() throws {
        func id(_ text: String) -> String {
            text.split(separator: " ").last.map { $0.trimmingCharacters(in: .newlines) } ?? ""
        }
        func queues(_ text: String) -> Int { text.split(separator: "\n").filter { $0.hasPrefix("0x") }.count }
        let outside = id(try call(["ipcmk", "-Q"]).out)
        defer { _ = try? call(["ipcrm", "-q", outside]) }
        try #require(Int(outside) != nil)
        let inside = try box.sh(
            "ipcs -q; ipcmk -Q >/dev/null; ipcs -q | grep -c ^0x", Self.tools + ["-e", "PATH=/usr/bin:/bin"])
        #expect(queues(inside.out) == 0, "\(inside)")
        #expect(inside.out.split(separator: "\n").last == "1", "\(inside)")
        // The queue that was made inside went with its namespace; the one outside is as it was.
        #expect(try call(["ipcs", "-q"]).out.contains(" \(outside) "))
        let shared = try box.sh("ipcs -q", Self.tools + ["-e", "PATH=/usr/bin:/bin", "--ipc", "host"])
        #expect(shared.out.contains(" \(outside) "), "\(shared)")
    }

    @Test func theCommandIsTheFirstProcess() throws {
        #expect(try box.sh("echo $$").line == "1")
        let list = try box.sh("ps -o pid,comm").out.split(separator: "\n").dropFirst()
        #expect(list.count <= 3 && list.first?.split(separator: " ").first == "1", "\(list)")
        #expect(try Int(box.sh("ps | wc -l", ["--pid", "host"]).line) ?? 0 > 10)
    }

    @Test func rootInsideIsNotRootOutside() throws {
        // Before ids are mapped, everybody is the overflow user.
        #expect(try call(["unshare", "--user", "id", "-u"]).line == "65534")
        let line = try box.sh("cat /proc/self/uid_map").line.split(separator: " ").map(String.init)
        #expect(line.count == 3 && line[0] == "0" && line[2] == "65536", "\(line)")
        #expect(Int(line[1]) ?? 0 >= 0x2000_0000)
        let process = try box.start("run", "--rm", "--name", "who", "busybox", "sleep", "30")
        defer {
            _ = try? box("rm", "-f", "who")
            process.waitUntilExit()
        }
        try waitUntil { try box("inspect", "who").out.contains("\"Status\": \"running\"") }
        let text = try box("inspect", "who").out
        let json = try #require(JSONSerialization.jsonObject(with: Data(text.utf8)) as? [[String: Any]])[0]
        let pid = try #require((json["State"] as? [String: Any])?["Pid"] as? Int)
        let status = try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)
        let uid = try #require(
            status.split(separator: "\n").first { $0.hasPrefix("Uid:") }?.split(separator: "\t")[1])
        #expect(Int(uid) ?? 0 >= 0x2000_0000)
        // Files of the image are root's inside and on the disk, without a copy.
        #expect(try box.sh("stat -c %u /bin/busybox; touch /new; stat -c %u /new").out == "0\n0\n")
    }

    @Test func twoContainersHaveDifferentIDs() throws {
        let process = try box.start("run", "--rm", "--name", "first", "busybox", "sleep", "30")
        defer {
            _ = try? box("rm", "-f", "first")
            process.waitUntilExit()
        }
        try waitUntil { try box("inspect", "first").out.contains("\"Status\": \"running\"") }
        let other = try box.sh("cat /proc/self/uid_map", ["--name", "second"]).line
        let shared = try box.sh(
            "cat /proc/self/uid_map; ps | grep -c 'sleep 30'; readlink /proc/self/ns/net",
            [
                "--network", "container:first", "--pid", "container:first", "--ipc", "container:first",
            ]
        ).out.split(separator: "\n").map(String.init)
        #expect(shared.count == 3 && shared[0] != other, "\(shared) \(other)")
        #expect(Int(shared[1]) ?? 0 >= 1)
        // The same name has the same ids again.
        #expect(try box.sh("cat /proc/self/uid_map", ["--name", "second"]).line == other)
        let refused = try box.sh("true", ["--userns", "host", "--network", "container:first"])
        #expect(refused.code == 125 && refused.err.contains("cannot be combined"), "\(refused)")
        #expect(try box.sh("cat /proc/self/uid_map", ["--userns", "container:first"]).line == shared[0])
    }

    @Test func clocksCanBeMoved() throws {
        let text = try String(contentsOfFile: "/proc/uptime", encoding: .utf8)
        let outside = try #require(Double(text.split(separator: " ")[0]))
        for flags in [[], ["--userns", "host"]] {
            let line = try box.sh("cut -d. -f1 /proc/uptime", ["--time-offset", "10d"] + flags).line
            #expect(abs((Double(line) ?? 0) - outside - 864_000) < 60, "\(line)")
        }
    }

    @Test func boundFilesKeepTheirOwners() throws {
        let volume = box.path("vol")
        try FileManager.default.createDirectory(atPath: volume, withIntermediateDirectories: true)
        FileManager.default.createFile(atPath: volume + "/mine", contents: Data())
        chown(volume + "/mine", 1234, 1234)
        func owner(_ name: String) throws -> String {
            try call(["stat", "-c", "%u:%g", "\(volume)/\(name)"]).line
        }
        // The number on disk is the number inside, and the other way.
        let mapped = try box.sh(
            "stat -c %u:%g /v/mine; touch /v/new; chown 33:34 /v/new", ["-v", "\(volume):/v"])
        #expect(mapped.out == "1234:1234\n", "\(mapped)")
        #expect(try owner("new") == "33:34")
        // keep: whoever owns the directory is the container's user.
        chown(volume, 1234, 1234)
        let kept = try box.sh(
            "stat -c %u:%g /v; touch /v/kept", ["-v", "\(volume):/v:keep", "--user", "33:34"])
        #expect(kept.out == "33:34\n", "\(kept)")
        #expect(try owner("kept") == "1234:1234")
        // U: the container's user owns it from now on.
        let given = try box.sh("stat -c %u:%g /v/mine", ["-v", "\(volume):/v:U", "--user", "33:34"])
        #expect(given.out == "33:34\n", "\(given)")
        #expect(try Int(owner("mine").split(separator: ":")[0]) ?? 0 >= 0x2000_0000)
    }

    /// Older kernels: layers that have to be mounted somewhere, and layers that cannot be mapped at all.
    @Test(arguments: ["attached", "copied"]) func otherWaysToTheSameOwners(way: String) throws {
        let output = try box.sh(
            "cat /proc/self/uid_map; stat -c %u:%g /bin/busybox; rm /etc/plain; touch /new && echo made",
            environment: ["IMGBOX_LAYERS": way])
        let lines = output.out.split(separator: "\n")
        #expect(
            lines.count == 3 && lines[0].hasSuffix(" 65536") && lines[1] == "0:0" && lines[2] == "made",
            "\(output)")
        #expect(output.err.contains("copy of the image") == (way == "copied"), "\(output.err)")
        #expect(try box.leftovers().isEmpty)
    }

    @Test func chosenMaps() throws {
        let own = try box.sh(
            "cat /proc/self/uid_map; id -u", ["--uidmap", "0:700000:1000", "--uidmap", "1000:800000:5"])
        #expect(
            own.out.split(whereSeparator: \.isWhitespace).map(String.init) == [
                "0", "700000", "1000", "1000", "800000", "5", "0",
            ])
        #expect(try box.sh("cat /proc/self/uid_map", ["--userns", "host"]).line.hasSuffix(" 4294967295"))
    }

    @Test func explainTellsWhatWasDone() throws {
        let plan = try box("run", "--dry-run", "busybox", "true").out
        for words in ["map ids", "limit: pids.max", "cgroups", "seccomp", "layers with their owners mapped"] {
            #expect(plan.contains(words), "\(words)")
        }
        let output = try box("run", "--rm", "--explain=json", "busybox", "true")
        let json = try #require(JSONSerialization.jsonObject(with: Data(output.err.utf8)) as? [String: Any])
        let steps = try #require(json["steps"] as? [[String: Any]])
        #expect(steps.count > 30)
        #expect(steps.contains { $0["actor"] as? String == "imgbox" && $0["nanoseconds"] != nil })
        #expect(steps.filter { $0["nanoseconds"] == nil }.count <= 5)
        for step in steps { #expect(step["reason"] as? String != "" && step["shell"] as? String != "") }
        // A step that fails says which it was, and what is wrong with what.
        let failed = try box("run", "--rm", "--explain", "-w", "/bin/busybox/x", "busybox", "true")
        #expect(
            failed.code == 125 && failed.err.contains("FAILED: this step, number"),
            "\(failed.err.suffix(500))")
        #expect(failed.err.contains("imgbox: cannot"))
    }
}
