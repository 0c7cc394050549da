import Foundation
import Layers
import OCI
import Testing

/// Everything again as an ordinary user, with one id and with subordinate ids.
@Suite(.enabled(if: isRoot, "SKIPPED: becoming other users takes root")) struct RootlessTests {
    let box: Box

    init() throws {
        box = try Box()
        try call(["chmod", "777", box.directory])
        try Data(Images.busybox()).write(to: URL(fileURLWithPath: box.path("busybox.tar")))
        // A program in somebody's own directory cannot be run by everybody.
        try call(["cp", program, box.path("imgbox")])
        try call(["chmod", "755", box.path("imgbox")])
    }

    /// A user that /etc knows nothing of: the map of one id.
    private func single(_ words: String...) throws -> Output {
        try call(
            [
                "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", box.path("imgbox"), "--root",
                box.path("one"),
            ] + words,
            at: box.directory)
    }

    private static let hasHelpers = ["/usr/bin/newuidmap", "/usr/bin/newgidmap"].allSatisfy(
        FileManager.default.fileExists(atPath:))
    private static let helpers: Comment = "SKIPPED: uidmap is not installed"

    /// A user with subordinate ids, in a mount namespace where /etc says so.
    private func wide(_ words: [String], subuid: String = "wide:400000:65536\n") throws -> Output {
        let passwd =
            try String(contentsOfFile: "/etc/passwd", encoding: .utf8) + "wide:x:12346:12346::/:/bin/sh\n"
        let files = [("passwd", passwd), ("subuid", subuid), ("subgid", "wide:500000:65536\n")]
        for (name, text) in files { _ = try box.write(name, Array(text.utf8)) }
        let binds = files.map {
            "[ -e /etc/\($0.0) ] || : > /etc/\($0.0); mount --bind \(box.path($0.0)) /etc/\($0.0)"
        }
        .joined(separator: "; ")
        let command =
            ([
                "setpriv", "--reuid=12346", "--regid=12346", "--clear-groups", box.path("imgbox"), "--root",
                box.path("many"),
            ] + words)
            .map { "'\($0)'" }.joined(separator: " ")
        return try call(["unshare", "--mount", "sh", "-c", "\(binds); \(command)"], at: box.directory)
    }

    @Test func oneID() throws {
        let pulled = try single("pull-local", "busybox.tar", "app")
        #expect(pulled.code == 0, "\(pulled)")
        #expect(try single("images").out.contains("app"))
        let output = try single(
            "run", "--rm", "app", "sh", "-c",
            "id -u; cat /proc/self/uid_map; touch /x && echo wrote; [ -c /dev/null ] && echo null")
        let lines = output.out.split(separator: "\n").map { $0.split(separator: " ").joined(separator: " ") }
        #expect(lines == ["0", "0 0 1", "wrote", "null"], "\(output)")
        #expect(try single("run", "--rm", "--user", "web", "app", "true").err.contains("outside the ids"))
        let limited = try single("run", "--rm", "--memory", "64m", "app", "true")
        #expect(limited.code == 125 && limited.err.contains("--memory cannot be applied"), "\(limited)")
        #expect(try single("run", "--rm", "--disk-size", "10m", "app", "true").err.contains("takes root"))
        #expect(try single("run", "--rm", "--userns", "keep-id", "app", "id", "-u").line == "12345")
        for words in [
            ["ps", "-a"], ["ls", "app"], ["fsck", "--deep"], ["gc"], ["doctor"], ["rmi", "app"],
        ] {
            #expect(try single(words[0], Array(words.dropFirst())).code == 0, "\(words)")
        }
        #expect(try single("gc", "-q").line == "0")
    }

    private func single(_ word: String, _ words: [String]) throws -> Output {
        try call(
            ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", box.path("imgbox")]
                + [word, "--root", box.path("one")] + words, at: box.directory)
    }

    @Test(.enabled(if: hasHelpers, helpers)) func subordinateIDs() throws {
        let layer = try Images.tar([(Images.entry("srv/mine", .file, uid: 33), [1])])
        let base = try Images.busybox()
        try Images.layout([base, layer], at: box.path("layout"), name: "owned")
        try call(["chmod", "-R", "a+rX", box.path("layout")])
        let pulled = try wide(["pull-local", "layout", "owned"])
        #expect(pulled.code == 0 && !pulled.err.contains("belong to you"), "\(pulled)")
        // The owners are on the disk, as subordinate ids.
        let tree = try call(["sh", "-c", "stat -c %u:%g \(box.path("many"))/layers/*/tree/srv/mine"]).line
        #expect(tree == "400032:500032", "\(tree)")
        let output = try wide([
            "run", "--rm", "owned", "sh", "-c",
            "cat /proc/self/uid_map; stat -c %u /srv/mine; touch /x; chown 1000 /x && echo given",
        ])
        let lines = output.out.split(separator: "\n").map { $0.split(separator: " ").joined(separator: " ") }
        #expect(lines == ["0 0 1", "1 1 65536", "33", "given"], "\(output)")
        #expect(try wide(["run", "--rm", "--user", "web", "owned", "id", "-u"]).line == "33")
        #expect(
            try wide([
                "run", "--rm", "--userns", "keep-id", "owned", "sh", "-c", "id -u; stat -c %u /srv/mine",
            ]).out == "12346\n33\n")
        #expect(
            try wide(["run", "--rm", "--userns", "nomap", "owned", "stat", "-c", "%u", "/bin/busybox"]).line
                == "0")
        #expect(
            try wide(["run", "--rm", "--uidmap", "0:0:70000", "owned", "true"]).err.contains("goes beyond"))
        #expect(try wide(["rmi", "owned"]).code == 0)
        #expect(try wide(["gc", "-q"]).code == 0)
        #expect(try wide(["gc", "-q"]).line == "0")
        // Without rights over its own files there would be leftovers that nobody can remove.
        #expect(try wide(["fsck", "--deep"]).code == 0)
    }

    @Test(.enabled(if: hasHelpers, helpers)) func helpersThatFailAreNamed() throws {
        let output = try wide(["run", "--rm", "x", "true"], subuid: "wide:0:70000\n")
        #expect(output.code == 125, "\(output)")
        #expect(
            output.err.contains("newuidmap could not map") && output.err.contains("hint: "), "\(output.err)")
    }

    @Test(.enabled(if: hasHelpers, helpers)) func joinsAnotherOfItsOwn() throws {
        try #require(try wide(["pull-local", "busybox.tar", "app"]).code == 0)
        let script = try joinScript()
        let output = try call(["sh", "-c", script], at: box.directory)
        let lines = output.out.split(separator: "\n")
        #expect(lines.count >= 2 && lines[0] == lines[1], "\(output)")
    }

    /// Two containers of one user, the second in the network of the first.
    private func joinScript() throws -> String {
        let user =
            "setpriv --reuid=12346 --regid=12346 --clear-groups \(box.path("imgbox")) --root \(box.path("many"))"
        return """
            unshare --mount sh -c 'for f in passwd subuid subgid; do mount --bind \(box.path("."))/$f /etc/$f; done
            \(user) run --rm --name first app sh -c "readlink /proc/self/ns/net; sleep 3" &
            sleep 1.5
            \(user) run --rm --network container:first app readlink /proc/self/ns/net
            wait'
            """
    }

    @Test func doctorNamesRemedies() throws {
        let output = try single("doctor", ["--format", "json"])
        let list = try #require(
            JSONSerialization.jsonObject(with: Data(output.out.utf8)) as? [[String: String]])
        for check in list { #expect(check["state"] == "ok" || check["remedy"]?.isEmpty == false, "\(check)") }
        for subject in [
            "kernel", "overlay", "/etc/subuid", "newuidmap", "user namespaces", "cgroups", "tun", "nftables",
            "seccomp",
        ] {
            #expect(list.contains { $0["what"]?.contains(subject) == true }, "\(subject)")
        }
        #expect(try box("doctor").code == 0)
    }
}
