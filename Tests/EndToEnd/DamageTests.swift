import Files
import Foundation
import Layers
import OCI
import SystemPackage
import Testing

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
