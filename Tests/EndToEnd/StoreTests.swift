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

@Suite struct DamageTests {
    /// Each wrong input: one line, the right code, nothing left.
    @Test(arguments: [
        ("missing file", "No such file"), ("empty file", "is empty"), ("text", "no archive"),
        ("truncated gzip", "too early"),
        ("damaged gzip", "damaged"), ("wrong layer digest", "digest"), ("wrong manifest digest", "digest"),
        ("short layer", "bytes"),
        ("missing layer", "lacks the blob"), ("wrong diff ID", "diff ID"),
        ("unknown media type", "media type"),
        ("other architecture", "this machine"), ("bad name", "no image name"), ("broken config", "JSON"),
        ("duplicate key", "twice"),
        ("device file", "device"),
    ])
    func badInputIsOneLineAndLeavesNothing(what: String, words: String) throws {
        let box = try Box()
        let layer = try Images.tar([
            (Images.entry("f", .file), (0..<50_000).map { UInt8(truncatingIfNeeded: $0 &* 7) })
        ])
        try Images.layout([layer], at: box.path("l")) { config in
            guard what == "other architecture" || what == "wrong diff ID" else { return config }
            let diff = what == "wrong diff ID" ? Digest(of: [9]) : Digest(of: layer)
            return ImageConfig(
                platform: what == "wrong diff ID" ? .host : Platform(os: "linux", architecture: "s390x"),
                diffIDs: [diff], created: nil)
        }
        let blob = URL(fileURLWithPath: box.path("l/blobs/sha256/\(Digest(of: layer).hex)"))
        var input = box.path("l")
        var name = "app"
        func editBlob(_ isWanted: (Data) -> Bool, _ change: (Data) -> Data) throws {
            let folder = URL(fileURLWithPath: box.path("l/blobs/sha256"))
            for file in try FileManager.default.contentsOfDirectory(
                at: folder, includingPropertiesForKeys: nil)
            {
                let data = try Data(contentsOf: file)
                if data.first == UInt8(ascii: "{"), isWanted(data) { try change(data).write(to: file) }
            }
        }
        switch what {
        case "missing file": input = box.path("nothing")
        case "empty file": input = try box.write("x", [])
        case "text": input = try box.write("x", Array(repeating: 65, count: 2000))
        case "truncated gzip", "damaged gzip":
            _ = try box.write("x.tar", layer)
            try call(["gzip", "-k", "x.tar"], at: box.directory)
            var data = try Data(contentsOf: URL(fileURLWithPath: box.path("x.tar.gz")))
            if what == "truncated gzip" { data = data.dropLast(20) } else { data[data.count / 2] ^= 0x55 }
            input = try box.write("bad.gz", [UInt8](data))
        case "wrong layer digest":
            var data = try Data(contentsOf: blob)
            data[3000] ^= 1
            try data.write(to: blob)
        case "short layer": try Data(contentsOf: blob).dropLast(512).write(to: blob)
        case "missing layer": try FileManager.default.removeItem(at: blob)
        case "wrong manifest digest":
            try editBlob({ $0.range(of: Data("layers\":[".utf8)) != nil }) { $0.dropLast() + Data(" ".utf8) }
        case "broken config": input = try rewritten(box, config: Array("{not json".utf8), layer)
        case "duplicate key":
            input = try rewritten(box, config: Array(#"{"os":"linux","os":"linux"}"#.utf8), layer)
        case "unknown media type":
            let index = URL(fileURLWithPath: box.path("l/index.json"))
            let text = try String(contentsOf: index, encoding: .utf8).replacing(
                "manifest.v1+json", with: "unknown.v1+json")
            try Data(text.utf8).write(to: index)
        case "bad name": name = "UPPER CASE"
        case "device file": input = "/dev/zero"
        default: break
        }
        let pulled = try box("pull-local", input, name)
        #expect(pulled.code == 125)
        #expect(pulled.err.contains(words), "\(pulled.err)")
        let lines = pulled.err.split(separator: "\n")
        #expect(lines.count <= 2 && lines.first?.hasPrefix("imgbox: ") == true, "\(pulled.err)")
        #expect(pulled.out.isEmpty)
        if FileManager.default.fileExists(atPath: box.store) {
            #expect(try box.leftovers().isEmpty)
            #expect(try box("images", "-q").out.isEmpty)
            #expect(try box("gc", "-q").line == "0")
        }
        #expect(try box("unpack", "app", "dest").code == 125)
        #expect(!FileManager.default.fileExists(atPath: box.path("dest")))
    }

    private func rewritten(_ box: Box, config: [UInt8], _ layer: [UInt8]) throws -> String {
        func put(_ bytes: [UInt8], _ type: String) throws -> Descriptor {
            let digest = Digest(of: bytes)
            _ = try box.write("l/blobs/sha256/\(digest.hex)", bytes)
            return Descriptor(mediaType: type, digest: digest, size: Int64(bytes.count))
        }
        let manifest = Manifest(
            config: try put(config, MediaType.config), layers: [try put(layer, MediaType.layer)])
        let root = try put(manifest.serialized(), MediaType.manifest)
        _ = try box.write("l/index.json", ImageIndex(manifests: [root]).serialized())
        return box.path("l")
    }

    @Test func refusesToUnpackIntoAFullDirectory() throws {
        let box = try Box()
        try box.addBusybox()
        try FileManager.default.createDirectory(atPath: box.path("full/x"), withIntermediateDirectories: true)
        let output = try box("unpack", "busybox", "full")
        #expect(output.code == 125 && output.err.contains("not empty"))
        #expect(try FileManager.default.contentsOfDirectory(atPath: box.path("full")) == ["x"])
    }

    @Test func mendsWhatCanBeMended() throws {
        let box = try Box()
        try box.addBusybox()
        let layer = try #require(
            try FileManager.default.contentsOfDirectory(atPath: box.store + "/layers").first)
        let file = box.store + "/layers/\(layer)/tree/etc/plain"
        try Data("no programs".utf8).write(to: URL(fileURLWithPath: file))
        #expect(try box("fsck").code == 0)
        let found = try box("fsck", "--deep")
        #expect(found.code == 1 && found.out.contains("etc/plain"))
        #expect(try box("fsck", "--deep", "--repair").code == 0)
        #expect(try box("fsck", "--deep").code == 0)
        #expect(try box("cat", "busybox", "/etc/plain").out == "no program\n")
        // A rotten blob is replaced by the next pull of the same image.
        let blobs = box.store + "/blobs/sha256/"
        let largest = try FileManager.default.contentsOfDirectory(atPath: blobs).max {
            let size = { (name: String) in
                (try? FileManager.default.attributesOfItem(atPath: blobs + name)[.size] as? Int) ?? 0
            }
            return size($0) < size($1)
        }
        let blob = URL(fileURLWithPath: blobs + (try #require(largest)))
        var data = try Data(contentsOf: blob)
        data[data.count / 2] ^= 1
        try data.write(to: blob)
        #expect(try box("fsck", "--deep").code == 1)
        try box.addBusybox()
        #expect(try box("fsck", "--deep").code == 0)
    }

    @Test func twoPullsOfOneImageAtOnce() throws {
        let box = try Box()
        let input = try box.write("busybox.tar", Images.busybox())
        let processes = try (0..<4).map { _ in try box.start("pull-local", input, "busybox") }
        for process in processes {
            process.waitUntilExit()
            #expect(process.terminationStatus == 0)
        }
        #expect(try box("images", "-q").out.split(separator: "\n").count == 1)
        #expect(try box("fsck", "--deep").code == 0)
        #expect(try box.leftovers().isEmpty)
    }

    /// A pull is killed at some hundred moments: whatever is left, the store is whole, and gc gives the space back.
    @Test func killedPullsLeaveTheStoreWhole() throws {
        let box = try Box(place: "/dev/shm")
        let input = try box.write("busybox.tar", Images.busybox())
        try Images.layout(
            [
                Images.tar([(Images.entry("f", .file), [1])]),
                [UInt8](Data(contentsOf: URL(fileURLWithPath: input))),
            ], at: box.path("l"))
        #expect(try box("pull-local", "l", "base").code == 0)
        #expect(try box("rmi", "base").code == 0)
        let empty = try call(["du", "-s", "-B1", box.store]).out
        let start = Date()
        #expect(try box("pull-local", "l", "base").code == 0)
        let duration = Date().timeIntervalSince(start)
        #expect(try box("rmi", "base").code == 0)
        var killed = 0
        for round in 0..<150 {
            let process = try box.start("pull-local", box.path("l"), "app")
            usleep(UInt32(duration * 1_200_000 * Double(round) / 150))
            if process.isRunning { killed += 1 }
            kill(process.processIdentifier, SIGKILL)
            process.waitUntilExit()
            guard round % 10 == 0 else { continue }
            let check = try box("fsck", "--deep")
            #expect(check.code == 0, "\(check.out)\(check.err)")
        }
        #expect(killed > 50)
        #expect(try box("fsck", "--deep").code == 0)
        if try box("images", "-q").out.isEmpty == false { #expect(try box("rmi", "app").code == 0) }
        #expect(try box("gc").code == 0)
        #expect(try call(["du", "-s", "-B1", box.store]).out == empty)
    }

    @Test(.enabled(if: isRoot, "SKIPPED: mounting a small tmpfs takes root"))
    func aFullDiskLeavesTheStoreWhole() throws {
        let box = try Box()
        let input = try box.write("busybox.tar", Images.busybox())
        try FileManager.default.createDirectory(atPath: box.path("small"), withIntermediateDirectories: true)
        try #require(call(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", box.path("small")]).code == 0)
        defer { _ = try? call(["umount", box.path("small")]) }
        func small(_ words: String...) throws -> Output {
            try call([program, "--root", box.path("small/store")] + words)
        }
        let full = try small("pull-local", input, "app")
        #expect(full.code == 125 && full.err.contains("No space"), "\(full.err)")
        #expect(try small("fsck", "--deep").code == 0)
        #expect(try small("images", "-q").out.isEmpty)
        #expect(try small("gc", "-q").line == "0")
        // A disk that can only be read shows what is there, and refuses the rest in one line.
        try Images.layout([Images.tar([(Images.entry("f", .file), [1])])], at: box.path("l"))
        #expect(try small("pull-local", box.path("l"), "tiny").code == 0)
        try #require(call(["mount", "-o", "remount,ro", box.path("small")]).code == 0)
        #expect(try small("images", "-q").out.isEmpty == false)
        #expect(try small("fsck").code == 0)
        let readOnly = try small("tag", "tiny", "other")
        #expect(readOnly.code == 125 && readOnly.err.contains("read-only"), "\(readOnly.err)")
        let refused = try small("pull-local", box.path("l"), "again")
        #expect(refused.code == 125 && refused.err.split(separator: "\n").count <= 2, "\(refused.err)")
    }
}

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
        #expect(try user("run", "--rm", "app", "true").err.contains("root"))
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
