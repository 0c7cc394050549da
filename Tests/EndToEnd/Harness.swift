import Files
import Foundation
import Layers
import OCI
import SystemPackage
import Testing

let isRoot = geteuid() == 0
let needsRoot: Comment = "SKIPPED: containers take root"

/// The built program under test: IMGBOX, or what `make build` makes.
let program: String = {
    let chosen = ProcessInfo.processInfo.environment["IMGBOX"]
    let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()
    return chosen ?? root.appendingPathComponent(".build/imgbox").path
}()

/// The directory with material from outside the repository; tests that use it are skipped without it.
let shared: String? = {
    let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()
    let path = root.deletingLastPathComponent().appendingPathComponent("shared").path
    return FileManager.default.fileExists(atPath: path + "/images") ? path : nil
}()

struct Output {
    let code: Int32
    let out: String
    let err: String
    /// The text without the newline at its end.
    var line: String { out.trimmingCharacters(in: .newlines) }
}

/// Runs a program to its end.
@discardableResult
func call(
    _ words: [String], input: Data? = nil, environment: [String: String] = [:], at directory: String? = nil
) throws -> Output {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: words[0].hasPrefix("/") ? words[0] : "/usr/bin/env")
    process.arguments = words[0].hasPrefix("/") ? Array(words.dropFirst()) : words
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    if let directory { process.currentDirectoryURL = URL(fileURLWithPath: directory) }
    // Files, not pipes: nothing can fill up, whoever keeps them open.
    let scratch = FileManager.default.temporaryDirectory.appendingPathComponent(
        "imgbox-call-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: scratch, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: scratch) }
    let files = ["in", "out", "err"].map { scratch.appendingPathComponent($0).path }
    for (path, content) in zip(files, [input ?? Data(), Data(), Data()]) {
        FileManager.default.createFile(atPath: path, contents: content)
    }
    process.standardInput = try FileHandle(forReadingFrom: URL(fileURLWithPath: files[0]))
    process.standardOutput = try FileHandle(forWritingTo: URL(fileURLWithPath: files[1]))
    process.standardError = try FileHandle(forWritingTo: URL(fileURLWithPath: files[2]))
    try process.run()
    process.waitUntilExit()
    let code =
        process.terminationReason == .exit ? process.terminationStatus : 128 + process.terminationStatus
    func text(_ path: String) -> String {
        String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self)
    }
    return Output(code: code, out: text(files[1]), err: text(files[2]))
}

/// A store of its own for one test, with a place for files; both go away with it.
final class Box: Sendable {
    let directory: String
    var store: String { directory + "/store" }

    init(place: String? = nil) throws {
        directory = (place ?? NSTemporaryDirectory()) + "/imgbox-e2e-\(UUID().uuidString)"
        try makeDirectories(FilePath(directory))
    }

    deinit { try? removeTree(directory, at: currentDirectory) }

    @discardableResult
    func callAsFunction(_ words: String..., input: Data? = nil, environment: [String: String] = [:]) throws
        -> Output
    {
        try call([program, "--root", store] + words, input: input, environment: environment, at: directory)
    }

    /// `run --rm FLAGS busybox sh -c SCRIPT`
    @discardableResult
    func sh(_ script: String, _ flags: [String] = [], environment: [String: String] = [:]) throws -> Output {
        try call(
            [program, "--root", store, "run", "--rm"] + flags + ["busybox", "sh", "-c", script],
            environment: environment, at: directory)
    }

    /// Groups of containers that are there, of this box or another.
    static func groups() -> [String] {
        ((try? call(["sh", "-c", "find /sys/fs/cgroup -path '*imgbox/*' -type d"]))?.out ?? "").split(
            separator: "\n"
        ).map(String.init)
    }

    /// Those of this box's containers.
    func groups() throws -> [String] {
        let ids = try FileManager.default.contentsOfDirectory(atPath: "\(store)/containers")
        return Box.groups().filter { path in ids.contains { path.hasSuffix($0) } }
    }

    func path(_ name: String) -> String { directory + "/" + name }

    func write(_ name: String, _ bytes: [UInt8]) throws -> String {
        try Data(bytes).write(to: URL(fileURLWithPath: path(name)))
        return path(name)
    }

    /// Starts the program without waiting.
    func start(_ words: String...) throws -> Process {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = ["--root", store] + words
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        return process
    }

    /// What is in the store's containers and staging.
    func leftovers() throws -> [String] {
        var names: [String] = []
        for part in ["containers", "staging"] {
            names += try FileManager.default.contentsOfDirectory(atPath: "\(store)/\(part)").filter {
                $0 != ".names"
            }
        }
        return names
            + ((try? FileManager.default.contentsOfDirectory(atPath: "\(store)/containers/.names")) ?? [])
    }

    /// Takes in the busybox image of the tests.
    func addBusybox(_ name: String = "busybox") throws {
        let output = try self("pull-local", write("busybox.tar", try Images.busybox()), name)
        try #require(output.code == 0, "\(output.err)")
    }
}

/// Images that the tests make themselves.
enum Images {
    static func entry(_ path: String, _ kind: TarEntry.Kind, mode: UInt32 = 0o644, uid: UInt32 = 0) throws
        -> TarEntry
    {
        TarEntry(
            path: try LayerPath(parsing: Array(path.utf8)), kind: kind, permissions: mode, uid: uid, gid: uid,
            modified: Timestamp(seconds: 1_700_000_000, nanoseconds: 0))
    }

    static func tar(_ items: [(TarEntry, [UInt8])]) throws -> [UInt8] {
        final class Buffer { var bytes: [UInt8] = [] }
        let buffer = Buffer()
        let writer = TarWriter { bytes throws(FileError) in buffer.bytes += bytes }
        for (entry, content) in items { try writer.add(entry, content: content) }
        try writer.finish()
        return buffer.bytes
    }

    /// A root file system of Debian's static busybox.
    static func busybox() throws -> [UInt8] {
        let binary = try ["/bin/busybox", "/usr/bin/busybox"].first {
            FileManager.default.fileExists(atPath: $0)
        }
        let content = try Data(
            contentsOf: URL(fileURLWithPath: try #require(binary, "busybox-static is not installed")))
        var items: [(TarEntry, [UInt8])] = []
        for directory in ["bin", "etc", "tmp", "root"] {
            items.append((try entry(directory, .directory, mode: 0o755), []))
        }
        items.append((try entry("bin/busybox", .file, mode: 0o755), Array(content)))
        for name in try call(["/bin/busybox", "--list"]).out.split(separator: "\n") where name != "busybox" {
            items.append((try entry("bin/\(name)", .symbolicLink(Array("busybox".utf8)), mode: 0o777), []))
        }
        let files = [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/tmp:/bin/sh\n"),
            ("etc/group", "root:x:0:\nwww:x:34:\nextra:x:50:web\n"), ("etc/plain", "no program\n"),
        ]
        for (name, text) in files { items.append((try entry(name, .file), Array(text.utf8))) }
        items.append((try entry("bin/suid", .file, mode: 0o4755), Array("#!/bin/sh\nid -u\n".utf8)))
        return try tar(items)
    }

    /// An OCI layout of these layers (plain tar) in a directory.
    static func layout(
        _ layers: [[UInt8]], at path: String, name: String = "t",
        config change: (ImageConfig) -> ImageConfig = { $0 }
    ) throws {
        try makeDirectories(FilePath(path + "/blobs/sha256"))
        func put(_ bytes: [UInt8], _ type: String) throws -> Descriptor {
            let digest = Digest(of: bytes)
            try Data(bytes).write(to: URL(fileURLWithPath: "\(path)/blobs/sha256/\(digest.hex)"))
            return Descriptor(mediaType: type, digest: digest, size: Int64(bytes.count))
        }
        let descriptors = try layers.map { try put($0, MediaType.layer) }
        let config = change(
            ImageConfig(platform: .host, diffIDs: layers.map { Digest(of: $0) }, created: nil))
        let manifest = Manifest(config: try put(config.serialized(), MediaType.config), layers: descriptors)
        var root = try put(manifest.serialized(), MediaType.manifest)
        root.annotations = [(Descriptor.refName, name)]
        try Data(ImageIndex(manifests: [root]).serialized()).write(
            to: URL(fileURLWithPath: path + "/index.json"))
        try Data(#"{"imageLayoutVersion":"1.0.0"}"#.utf8).write(
            to: URL(fileURLWithPath: path + "/oci-layout"))
    }
}

/// Waits up to twenty seconds.
func waitUntil(_ condition: () throws -> Bool) throws {
    for _ in 0..<400 {
        if try condition() { return }
        usleep(50_000)
    }
    Issue.record("it did not happen in twenty seconds")
}

/// This host has the controller in v1 or v2.
func hasController(_ name: String) -> Bool {
    let v1 = FileManager.default.fileExists(atPath: "/sys/fs/cgroup/\(name)/cgroup.procs")
    let lists = ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/unified/cgroup.controllers"]
    return v1
        || lists.contains { path in
            ((try? String(contentsOfFile: path, encoding: .utf8)) ?? "").split(whereSeparator: \.isWhitespace)
                .contains { $0 == name }
        }
}
