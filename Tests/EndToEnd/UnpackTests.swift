import Files
import Foundation
import Layers
import OCI
import SystemPackage
import Testing

@Suite struct UnpackTests {
    @Test func shiftsIDs() throws {
        let box = try Box()
        let layer = try Images.tar([
            (Images.entry("f", .file, mode: 0o4755, uid: 7), [1]),
            (Images.entry("d", .directory, mode: 0o755), []),
        ])
        #expect(try box("pull-local", box.write("l.tar", layer), "app").code == 0)
        guard isRoot else { return }
        #expect(try box("unpack", "app", "out", "--uid-map", "0:100000:65536").code == 0)
        #expect(
            try call(["stat", "-c", "%u:%g %a", box.path("out/f"), box.path("out/d"), box.path("out")]).out
                == "100007:100007 4755\n100000:100000 755\n100000:100000 755\n")
        let small = try box("unpack", "app", "out2", "--uid-map", "0:1000:5")
        #expect(small.code == 125 && small.err.contains("outside the id map"))
        #expect(!FileManager.default.fileExists(atPath: box.path("out2")))
        #expect(try box("unpack", "app", "out3", "--rootless").err.contains("1 files belong to you"))
    }

    @Test(.enabled(if: isRoot, "SKIPPED: running a bundle takes root")) func bundlesRunInRunc() throws {
        let box = try Box()
        try box.addBusybox()
        #expect(try box("unpack", "--bundle", "busybox", "bundle").code == 0)
        let file = URL(fileURLWithPath: box.path("bundle/config.json"))
        let text = try String(contentsOf: file, encoding: .utf8).replacing(
            "\"/bin/sh\"", with: "\"echo\", \"from runc\"")
        try Data(text.utf8).write(to: file)
        let output = try call(["runc", "run", "imgbox-test-\(getpid())"], at: box.path("bundle"))
        #expect(output.code == 0 && output.line == "from runc", "\(output)")
        #expect(try box("unpack", "--bundle", "busybox", "bundle").code == 125)
    }

    /// An ordinary user has a store of his own; owners are squashed and counted, devices left out and counted.
    @Test(.enabled(if: isRoot, "SKIPPED: becoming another user takes root")) func ordinaryUsers() throws {
        let box = try Box(place: "/dev/shm")
        let layer = try Images.tar([
            (Images.entry("f", .file, mode: 0o4755, uid: 7), [1]),
            (Images.entry("null", .characterDevice(major: 1, minor: 3)), []),
            (Images.entry("locked", .directory, mode: 0o500), []), (Images.entry("locked/g", .file), [2]),
        ])
        try Images.layout(
            [layer, Images.tar([(Images.entry(".wh.f", .file), []), (Images.entry("h", .file), [3])])],
            at: box.path("l"))
        try call(["chmod", "-R", "a+rX", box.directory])
        try call(["chmod", "777", box.directory])
        func user(_ words: String...) throws -> Output {
            try call(
                [
                    "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", program, "--root",
                    box.path("mine"),
                ] + words, at: box.directory)
        }
        let pulled = try user("pull-local", "l", "app")
        #expect(pulled.code == 0 && pulled.err.contains("device nodes were left out"), "\(pulled)")
        let unpacked = try user("unpack", "app", "out")
        #expect(unpacked.code == 0 && unpacked.err.contains("belong to you"), "\(unpacked)")
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: box.path("out")).sorted() == ["h", "locked"])
        #expect(
            try call(["stat", "-c", "%u %a", box.path("out/locked"), box.path("out/locked/g")]).out
                == "12345 500\n12345 644\n")
        #expect(try user("ls", "app").out.contains("locked"))
        #expect(try user("fsck", "--deep").code == 0)
        #expect(try user("rmi", "app").code == 0)
        #expect(try user("gc", "-q").line == "0")
    }

    @Test(.enabled(if: shared != nil && isRoot, "SKIPPED: needs ../shared/images and root"))
    func realImages() throws {
        let box = try Box()
        let images = try #require(shared) + "/images"
        #expect(
            try box("pull-local", images + "/alpine-minirootfs-3.20.3-x86_64.tar.gz", "alpine:3.20").code == 0
        )
        #expect(try box("pull-local", images + "/busybox-1.37-glibc.oci", "busybox").code == 0)
        for name in ["alpine:3.20", "busybox"] {
            #expect(try box("unpack", name, "out").code == 0)
            #expect(
                try call([
                    "umoci", "unpack", "--image",
                    "\(box.store):\(name == "busybox" ? "busybox:latest" : name)", box.path("peer"),
                ]).code == 0)
            let compared = try call(
                [
                    "sh", "-c",
                    """
                    for d in out peer/rootfs; do (cd $d && find . -mindepth 1 -printf '%p %y %m %U:%G %s %T@ %l\\n' | grep -v ' d ' | sort); done | sort | uniq -u
                    """,
                ], at: box.directory)
            #expect(compared.out.isEmpty, "\(compared.out.prefix(500))")
            try call(["rm", "-rf", box.path("out"), box.path("peer")])
        }
        #expect(
            try box("run", "--rm", "alpine:3.20", "cat", "/etc/os-release").out.contains("Alpine Linux v3.20")
        )
        #expect(try box("run", "--rm", "busybox", "echo", "hi").line == "hi")
    }
}
