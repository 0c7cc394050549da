import Files
import Foundation
import Layers
import OCI
import SystemPackage
import Testing

@Suite struct PullTests {
    /// Every form of the same image, made by the tools of others where they have a say.
    @Test(arguments: [
        "oci-dir", "oci-archive", "docker-archive", "rootfs", "gzip", "zstd", "xz", "bzip2", "tree", "stdin",
        "gzipped-archive",
    ])
    func takesEveryForm(form: String) throws {
        let box = try Box()
        let tar = try box.write(
            "rootfs.tar",
            Images.tar([
                (Images.entry("etc", .directory, mode: 0o755), []),
                (Images.entry("etc/f", .file), Array("content".utf8)),
            ]))
        try Images.layout([[UInt8](Data(contentsOf: URL(fileURLWithPath: tar)))], at: box.path("layout"))
        var input: Data?
        var source = box.path("input")
        switch form {
        case "oci-dir": source = box.path("layout")
        case "oci-archive":
            try #require(
                call(["skopeo", "copy", "-q", "oci:layout:t", "oci-archive:input:x:t"], at: box.directory)
                    .code == 0)
        case "docker-archive":
            try #require(
                call(["skopeo", "copy", "-q", "oci:layout:t", "docker-archive:input:x:t"], at: box.directory)
                    .code == 0)
        case "gzipped-archive":
            try #require(
                call(["sh", "-c", "tar -C layout -cf - . | gzip > input"], at: box.directory).code == 0)
        case "rootfs": source = tar
        case "tree":
            try #require(
                call(["sh", "-c", "mkdir input && tar -C input -xf rootfs.tar"], at: box.directory).code == 0)
        case "stdin":
            input = try Data(contentsOf: URL(fileURLWithPath: tar))
            source = "-"
        default:
            try #require(call(["sh", "-c", "\(form) -c rootfs.tar > input"], at: box.directory).code == 0)
        }
        let pulled = try box("pull-local", source, "app", input: input)
        #expect(pulled.code == 0, "\(pulled.err)")
        #expect(try box("cat", "app", "/etc/f").out == "content")
        #expect(try box("unpack", "app", "out").code == 0)
        #expect(try String(contentsOfFile: box.path("out/etc/f"), encoding: .utf8) == "content")
        #expect(try box("fsck", "--deep").code == 0)
        #expect(try box.leftovers().isEmpty)
    }

    @Test func keepsTheDigestThroughSaveAndLoad() throws {
        let box = try Box()
        try Images.layout(
            [Images.tar([(Images.entry("f", .file), [1])])], at: box.path("layout"), name: "app:1")
        #expect(try box("pull-local", "layout").line.hasPrefix("app:1 sha256:"))
        let digest = try box("inspect", "app:1").out
        for format in ["docker-archive", "oci-archive", "oci-dir"] {
            #expect(try box("save", "--format", format, "-o", "saved-\(format)", "app:1").code == 0)
            let second = try Box()
            #expect(try second("pull-local", box.path("saved-\(format)")).code == 0)
            #expect(try second("inspect", "app:1").out == digest)
        }
        #expect(try box("save", "app:1").out == box("save", "app:1").out)
        #expect(
            try call(["skopeo", "inspect", "docker-archive:" + box.path("saved-docker-archive")]).code == 0)
    }

    @Test func othersReadTheStoreInPlace() throws {
        let box = try Box()
        try box.addBusybox("app:1")
        #expect(try call(["skopeo", "inspect", "oci:\(box.store):app:1"]).code == 0)
        #expect(try call(["umoci", "stat", "--image", "\(box.store):app:1"]).code == 0)
    }

    @Test func choosesAmongSeveralImages() throws {
        let box = try Box()
        try Images.layout([Images.tar([(Images.entry("f", .file), [1])])], at: box.path("a"))
        try Images.layout([Images.tar([(Images.entry("f", .file), [2])])], at: box.path("b"))
        #expect(try box("pull-local", "a", "one:1").code == 0)
        #expect(try box("pull-local", "b", "two:2").code == 0)
        #expect(try box("save", "-o", "both.tar", "one:1", "two:2").code == 0)
        let second = try Box()
        let ambiguous = try second("pull-local", box.path("both.tar"), "x")
        #expect(ambiguous.code == 125 && ambiguous.err.contains("--ref"))
        #expect(try second("pull-local", box.path("both.tar"), "x", "--ref", "two:2").code == 0)
        #expect(try Array(second("cat", "x", "f").out.utf8) == [2])
        #expect(try second("pull-local", box.path("both.tar")).out.split(separator: "\n").count == 2)
        let unknown = try second("pull-local", box.path("both.tar"), "--ref", "three")
        #expect(unknown.code == 125 && unknown.err.contains("one:1"))
    }

    /// The oldest form of docker save: `<id>/layer.tar`, the second layer a link to the first, a shared configuration.
    @Test func takesLegacyDockerArchives() throws {
        let box = try Box()
        let layer = try Images.tar([(Images.entry("f", .file), Array("old".utf8))])
        let config = ImageConfig(
            platform: .host, diffIDs: [Digest(of: layer), Digest(of: layer)], created: nil
        ).serialized()
        let (one, two) = (String(repeating: "1", count: 64), String(repeating: "2", count: 64))
        let name = "\(Digest(of: config).hex).json"
        let manifest =
            #"[{"Config":"\#(name)","RepoTags":["old/app:1","old/app:2"],"Layers":["\#(one)/layer.tar","\#(two)/layer.tar"]}]"#
        let archive = try Images.tar([
            (Images.entry(one, .directory, mode: 0o755), []),
            (Images.entry("\(one)/layer.tar", .file), layer),
            (
                Images.entry(
                    "\(two)/layer.tar", .symbolicLink(Array("../\(one)/layer.tar".utf8)), mode: 0o777), []
            ),
            (Images.entry(name, .file), config), (Images.entry("manifest.json", .file), Array(manifest.utf8)),
            (Images.entry("repositories", .file), Array("{}".utf8)),
        ])
        #expect(try box("pull-local", box.write("old.tar", archive)).out.split(separator: "\n").count == 2)
        #expect(try box("cat", "old/app:2", "f").out == "old")
        #expect(try box("fsck", "--deep").code == 0)
    }

    /// An unpack that is killed leaves nothing under the destination's name, and the next one sweeps its traces.
    @Test func killedUnpacksAreSwept() throws {
        let box = try Box(place: "/dev/shm")
        let big = try Images.tar(
            (0..<3000).map { (try Images.entry("f\($0)", .file), [UInt8](repeating: 1, count: 4000)) })
        #expect(try box("pull-local", box.write("big.tar", big), "app").code == 0)
        for round in 0..<20 {
            let process = try box.start("unpack", "app", box.path("out"))
            usleep(UInt32(2000 * round))
            kill(process.processIdentifier, SIGKILL)
            process.waitUntilExit()
            if FileManager.default.fileExists(atPath: box.path("out")) {
                #expect(try FileManager.default.contentsOfDirectory(atPath: box.path("out")).count == 3000)
                try removeTree(box.path("out"), at: currentDirectory)
            }
        }
        #expect(try box("unpack", "app", "out").code == 0)
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: box.directory).sorted() == [
                "big.tar", "out", "store",
            ])
    }

    /// An index over two platforms is kept whole, resolved to this machine, and leaves with the same digest.
    @Test func keepsMultiPlatformIndexesWhole() throws {
        let box = try Box()
        try makeDirectories(FilePath(box.path("l/blobs/sha256")))
        func put(_ bytes: [UInt8], _ type: String, _ platform: Platform? = nil) throws -> Descriptor {
            let digest = Digest(of: bytes)
            _ = try box.write("l/blobs/sha256/\(digest.hex)", bytes)
            return Descriptor(mediaType: type, digest: digest, size: Int64(bytes.count), platform: platform)
        }
        var children: [Descriptor] = []
        for (number, platform) in [Platform(os: "linux", architecture: "s390x"), Platform.host].enumerated() {
            let layer = try Images.tar([(Images.entry("which", .file), Array(platform.architecture.utf8))])
            let config = ImageConfig(platform: platform, diffIDs: [Digest(of: layer)], created: nil)
            let manifest = Manifest(
                config: try put(config.serialized(), MediaType.config),
                layers: [try put(layer, MediaType.layer)])
            children.append(try put(manifest.serialized(), MediaType.manifest, platform))
            #expect(number < 2)
        }
        var root = try put(ImageIndex(manifests: children).serialized(), MediaType.index)
        root.annotations = [(Descriptor.refName, "multi:1")]
        _ = try box.write("l/index.json", ImageIndex(manifests: [root]).serialized())
        _ = try box.write("l/oci-layout", Array(#"{"imageLayoutVersion":"1.0.0"}"#.utf8))
        #expect(try box("pull-local", "l").line == "multi:1 \(root.digest)")
        #expect(try box("cat", "multi:1", "which").out == Platform.host.architecture)
        #expect(try box("unpack", "--platform", "linux/s390x", "multi:1", "other").code == 0)
        #expect(try String(contentsOfFile: box.path("other/which"), encoding: .utf8) == "s390x")
        let missing = try box("unpack", "--platform", "linux/arm64", "multi:1", "none")
        #expect(missing.code == 125 && missing.err.contains("s390x"))
        #expect(try box("save", "--format", "oci-archive", "-o", "m.tar", "multi:1").code == 0)
        let second = try Box()
        #expect(try second("pull-local", box.path("m.tar")).line == "multi:1 \(root.digest)")
        #expect(try second("fsck", "--deep").code == 0)
        // A sparse index, as docker saves it: the platform that is not there is no loss.
        try FileManager.default.removeItem(atPath: box.path("l/blobs/sha256/\(children[0].digest.hex)"))
        let third = try Box()
        #expect(try third("pull-local", box.path("l")).line == "multi:1 \(root.digest)")
        #expect(try third("cat", "multi:1", "which").out == Platform.host.architecture)
        #expect(try third("fsck", "--deep").code == 0)
        #expect(try third("gc", "-q").line == "0")
    }

    @Test func progressIsForTerminalsOnly() throws {
        let box = try Box()
        let input = try box.write("busybox.tar", Images.busybox())
        #expect(try box("pull-local", input, "a").err.isEmpty)
        let shown = try call([
            "script", "-qec", "TERM=xterm \(program) --root \(box.store) pull-local \(input) b", "/dev/null",
        ])
        #expect(shown.out.contains("done") && shown.out.contains("total"), "\(shown)")
    }

    @Test func followsLinksInsideALayoutOnly() throws {
        let box = try Box()
        let layer = try Images.tar([(Images.entry("f", .file), [1])])
        try Images.layout([layer], at: box.path("l"))
        let blob = box.path("l/blobs/sha256/\(Digest(of: layer).hex)")
        try FileManager.default.moveItem(atPath: blob, toPath: box.path("l/layer.tar"))
        try FileManager.default.createSymbolicLink(atPath: blob, withDestinationPath: "../../layer.tar")
        #expect(try box("pull-local", "l", "inside").code == 0)
        try FileManager.default.moveItem(atPath: box.path("l/layer.tar"), toPath: box.path("outside.tar"))
        try FileManager.default.removeItem(atPath: blob)
        try FileManager.default.createSymbolicLink(atPath: blob, withDestinationPath: box.path("outside.tar"))
        let second = try Box()
        let refused = try second("pull-local", box.path("l"), "outside")
        #expect(refused.code == 125 && refused.err.contains("leads out"))
        // A file with the link's target as its text, as git leaves it without symbolic links.
        try FileManager.default.removeItem(atPath: blob)
        try FileManager.default.moveItem(atPath: box.path("outside.tar"), toPath: box.path("l/layer.tar"))
        try Data("../../layer.tar".utf8).write(to: URL(fileURLWithPath: blob))
        #expect(try second("pull-local", box.path("l"), "text").code == 0)
    }

    @Test func namesAndTags() throws {
        let box = try Box()
        try box.addBusybox("app")
        #expect(try box("tag", "app", "other:2").code == 0)
        #expect(try box("images", "-q").out.split(separator: "\n").count == 2)
        #expect(try box("rmi", "app").line == "Untagged: app:latest")
        #expect(try box("run", "--help").code == 0)
        let missing = try box("inspect", "othr:2")
        #expect(missing.code == 125 && missing.err.contains("is 'other:2' meant?"))
        let id = try #require(try box("images", "-q").line.split(separator: "\n").first)
        #expect(try box("inspect", String(id)).code == 0)
        #expect(try box("rmi", String(id)).out.contains("Deleted: sha256:"))
        let usage = try box("df", "--format", "json")
        #expect(usage.code == 0)
        #expect(try box("images", "--format", "json").line == "[]")
        #expect(try FileManager.default.contentsOfDirectory(atPath: box.store + "/layers").isEmpty)
    }

    @Test func diskUsageIsWhatDuSays() throws {
        let box = try Box()
        try box.addBusybox()
        let list = try #require(
            try JSONSerialization.jsonObject(with: Data(box("df", "--format", "json").out.utf8))
                as? [[String: Any]])
        let sum = list.compactMap { $0["Size"] as? Int }.reduce(0, +)
        let du = try call(["du", "-s", "-B1", box.store]).out.split(separator: "\t").first.flatMap { Int($0) }
        #expect(sum == du)
    }
}
