import Foundation
import Layers
import OCI
import Testing

/// Corners of `run`, each of which was wrong once.
@Suite(.enabled(if: isRoot, needsRoot)) struct RunEdgeTests {
    let box: Box

    init() throws {
        box = try Box(place: "/dev/shm")
        try box.addBusybox()
    }

    /// Makes an image of the busybox layer and others, under a name.
    private func image(
        _ name: String, _ layers: [[UInt8]], config: (ImageConfig) -> ImageConfig = { $0 }
    ) throws {
        let base = [UInt8](try Data(contentsOf: URL(fileURLWithPath: box.path("busybox.tar"))))
        try Images.layout([base] + layers, at: box.path(name), config: config)
        let output = try box("pull-local", name, name)
        try #require(output.code == 0, "\(output.err)")
    }

    private func waitUntil(_ condition: () throws -> Bool) throws {
        for _ in 0..<200 {
            if try condition() { return }
            usleep(50_000)
        }
        Issue.record("it did not happen in ten seconds")
    }

    /// setresuid(2) clears PR_SET_PDEATHSIG: no later command may be needed to end the container.
    @Test(arguments: [["-u", "web"], ["-u", "web", "--init"], ["--init"], []])
    func diesWithImgboxWhoeverItsUserIs(flags: [String]) throws {
        let marker = "32.\(UInt32.random(in: 1...999_999_999))"
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = ["--root", box.store, "run", "--rm"] + flags + ["busybox", "sleep", marker]
        process.standardInput = FileHandle.nullDevice
        try process.run()
        try waitUntil { try call(["pgrep", "-f", "^sleep \(marker)$"]).code == 0 }
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
        try waitUntil { try call(["pgrep", "-r", "R,S,D", "-f", "^sleep \(marker)$"]).code != 0 }
        #expect(try box("ps", "-a", "-q").out.isEmpty)
        #expect(try box.leftovers().isEmpty)
    }

    @Test func ignoredSignalsStayOutside() throws {
        let output = try call([
            "sh", "-c",
            "trap '' INT HUP USR1; exec \(program) --root \(box.store) run --rm busybox grep SigIgn /proc/self/status",
        ])
        #expect(output.line.hasSuffix("\t0000000000000000"), "\(output)")
    }

    /// A link whose target only a running system makes, as systemd's /etc/resolv.conf.
    @Test(arguments: ["../run/stub/resolv.conf", "/run/stub/resolv.conf", "resolv.other"])
    func mountPointsMayBeDanglingLinks(target: String) throws {
        try image(
            "dangling",
            [Images.tar([(Images.entry("etc/resolv.conf", .symbolicLink(Array(target.utf8))), [])])])
        for api in ["", "classic"] {
            let output = try box(
                "run", "--rm", "--dns", "9.9.9.9", "dangling", "cat", "/etc/resolv.conf",
                environment: ["IMGBOX_MOUNT_API": api])
            #expect(output.line == "nameserver 9.9.9.9", "\(output)")
        }
    }

    @Test func linksInARingAreAnError() throws {
        try image(
            "ring", [Images.tar([(Images.entry("etc/hosts", .symbolicLink(Array("hosts".utf8))), [])])])
        let output = try box("run", "--rm", "ring", "true")
        #expect(output.code == 125 && output.err.contains("symbolic links"), "\(output)")
        #expect(try box.leftovers().isEmpty)
    }

    @Test func mountsGoFromTheRootDownwards() throws {
        try FileManager.default.createDirectory(atPath: box.path("v"), withIntermediateDirectories: true)
        try "deep".write(toFile: box.path("v/f"), atomically: true, encoding: .utf8)
        #expect(
            try box("run", "--rm", "-v", "\(box.path("v")):/x/y", "--tmpfs", "/x", "busybox", "cat", "/x/y/f")
                .line == "deep")
        #expect(
            try box("run", "--rm", "-v", "/dev:/dev", "busybox", "ls", "/dev/pts").line == "ptmx")
    }

    @Test(arguments: ["", "classic"]) func aForeignDevIsNotTrusted(api: String) throws {
        try FileManager.default.createDirectory(atPath: box.path("dev"), withIntermediateDirectories: true)
        try "no null".write(toFile: box.path("dev/null"), atomically: true, encoding: .utf8)
        let output = try box(
            "run", "--rm", "-v", "\(box.path("dev")):/dev", "busybox", "true",
            environment: ["IMGBOX_MOUNT_API": api])
        #expect(output.code == 125 && output.err.contains("hide"), "\(output)")
        #expect(try box.leftovers().isEmpty)
    }

    @Test(arguments: ["", "classic"]) func volumesOfTheImage(api: String) throws {
        try image(
            "vol", [Images.tar([(Images.entry("data/seed", .file), Array("seed".utf8))])],
            config: { config in
                var config = config
                config.config.volumes = ["/data", "/var/new"]
                return config
            })
        let script = "cat /data/seed; echo x > /data/f && echo y > /var/new/f && echo :ok; echo z > /f"
        let output = try box(
            "run", "--rm", "--read-only", "vol", "sh", "-c", script, environment: ["IMGBOX_MOUNT_API": api])
        #expect(output.line == "seed:ok" && output.err.contains("Read-only"), "\(output)")
        #expect(try box("run", "--rm", "--tmpfs", "/data", "vol", "ls", "/data").out.isEmpty)
    }

    /// The paths of so many layers do not fit the page of options that mount(2) takes.
    @Test(arguments: ["", "classic"]) func manyLayers(api: String) throws {
        let layers = try (0..<90).map { number in
            try Images.tar([(Images.entry("many/\(number)", .file), Array("\(number)".utf8))])
        }
        try image("many", layers)
        let output = try box(
            "run", "--rm", "many", "sh", "-c", "ls /many | wc -l; cat /many/0 /many/89; echo >/many/0",
            environment: ["IMGBOX_MOUNT_API": api])
        #expect(output.out == "90\n089" && output.code == 0, "\(output)")
        #expect(try box.leftovers().isEmpty)
    }

    /// A closed standard descriptor must not be filled by a file of imgbox's own.
    @Test(arguments: ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"]) func closedStandardDescriptors(how: String)
        throws
    {
        try FileManager.default.createDirectory(atPath: box.path("v"), withIntermediateDirectories: true)
        // ls is a process of its own; the redirection must not be the shell's.
        let inner = "ls -l /proc/1/fd > /v/list; true"
        let output = try call([
            "sh", "-c",
            "exec \(program) --root \(box.store) run --rm -i -v \(box.path("v")):/v busybox sh -c '\(inner)' \(how)",
        ])
        #expect(output.code == 0, "\(output)")
        let list = try String(contentsOfFile: box.path("v/list"), encoding: .utf8)
        #expect(!list.contains(box.store) && list.contains("/dev/null"), "\(list)")
    }
}
