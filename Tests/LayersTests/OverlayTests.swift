import Files
import Foundation
import Layers
import OCI
import Testing

/// The kernel is the oracle: the tree that `unpack` writes and the tree of the user-space view must equal an overlay
/// mount of the same layers, for random stacks of layers.
@Suite(.enabled(if: isRoot, "SKIPPED: mounting an overlay takes root")) struct OverlayTests {
    /// Names are few, so that layers often meet.
    private static let names = ["a", "b", "c", "d"]

    private static func randomLayer(_ random: inout SeededRandom, isBottom: Bool) throws -> [(
        TarEntry, [UInt8]
    )] {
        var items: [(TarEntry, [UInt8])] = []
        for _ in 0...random.below(9) {
            let path = (0...random.below(3)).map { _ in random.pick(names) }.joined(separator: "/")
            let uid = UInt32(random.below(3) * 1000)
            let time = Int64(1_600_000_000 + random.below(1000))
            switch random.below(isBottom ? 6 : 9) {
            case 0, 1:
                items.append(
                    (
                        try entry(
                            path, .directory, mode: random.pick([0o755, 0o700, 0o1777]), uid: uid, time: time),
                        []
                    ))
            case 2, 3:
                let content = (0..<random.below(40)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
                let attributes: [(name: String, value: [UInt8])] =
                    random.below(4) == 0 ? [("user.t", [1, 2])] : []
                items.append(
                    (
                        try entry(
                            path, .file, mode: random.pick([0o644, 0o4755, 0o600]), uid: uid, time: time,
                            nanoseconds: Int32(random.below(1000)), attributes: attributes),
                        content
                    ))
            case 4:
                let target = random.pick(["a", "/a/b", "../b", "missing", "c/d"])
                items.append(
                    (
                        try entry(path, .symbolicLink(Array(target.utf8)), mode: 0o777, uid: uid, time: time),
                        []
                    ))
            case 5: items.append((try entry(path, .fifo, mode: 0o600, time: time), []))
            case 6: items.append((try entry(whiteout(path), .file), []))
            case 7: items.append((try entry(path + "/.wh..wh..opq", .file), []))
            default:
                items.append((try entry(path, .hardLink(Array(random.pick(names).utf8)), time: time), []))
            }
        }
        return items
    }

    private static func whiteout(_ path: String) -> String {
        var parts = path.split(separator: "/").map(String.init)
        parts[parts.count - 1] = ".wh." + parts[parts.count - 1]
        return parts.joined(separator: "/")
    }

    private static func unpackAlone(_ bytes: [UInt8], _ scratch: Scratch, _ number: Int, below: [String])
        throws -> String
    {
        let place = try scratch.sub("layer\(number)")
        let file = try scratch.file("layer\(number).tar", bytes)
        let fd = try open(file, O_RDONLY)
        let tree = try open(place, O_RDONLY | O_DIRECTORY)
        let writer = try TreeWriter(
            root: tree.raw,
            form: .overlay(
                .trusted, below: number == 0 ? nil : LayerStack(below, form: .trusted), isBottom: number == 0),
            options: UnpackOptions())
        _ = try applyLayer(fd.raw, LayerSource(compression: .none), to: writer)
        try writer.finish()
        return place
    }

    private static func unpackMerged(_ layers: [[UInt8]], _ scratch: Scratch) throws -> String {
        let place = try scratch.sub("merged")
        let tree = try open(place, O_RDONLY | O_DIRECTORY)
        let writer = try TreeWriter(root: tree.raw, form: .merged, options: UnpackOptions())
        for (number, bytes) in layers.enumerated() {
            let fd = try open(scratch.file("m\(number).tar", bytes), O_RDONLY)
            _ = try applyLayer(fd.raw, LayerSource(compression: .none), to: writer)
        }
        try writer.finish()
        return place
    }

    /// Everything that can be seen of a tree, a line an object; inode numbers become groups of hard links.
    private static func describe(_ path: String) throws -> [String] {
        let tree = try LayerStack([path], form: .trusted)
        var lines: [String] = []
        func visit(_ object: LayerStack.Object) throws {
            let info = object.status
            var line = "\(object.path) \(String(info.mode, radix: 8)) \(info.uid):\(info.gid)"
            switch info.kind {
            case .file:
                line += " \(info.modified.seconds).\(info.modified.nanoseconds) n\(info.linkCount) "
                let file = try tree.open(object)
                line += hexadecimal(try readAll(file.raw, limit: 1 << 20, name: ""))
            case .link: line += " -> " + printable(try tree.readLink(object))
            case .directory: line += " \(info.modified.seconds)"
            default: break
            }
            line += try tree.attributes(object).map { " \($0.name)=\(hexadecimal($0.value))" }.joined()
            lines.append(line)
            if info.kind == .directory { for child in try tree.list(object) { try visit(child) } }
        }
        for child in try tree.list(try #require(try tree.lookup(.root))) { try visit(child) }
        return lines
    }

    private static func mounted<Result>(
        _ layers: [String], _ scratch: Scratch, _ body: (String) throws -> Result
    ) throws -> Result {
        let place = try scratch.sub("mnt")
        let empty = try scratch.sub("empty")
        let lower = ([empty] + layers.reversed()).joined(separator: ":")
        let mount = try shell("mount", "-t", "overlay", "overlay", "-o", "lowerdir=\(lower)", place)
        try #require(mount.code == 0, "\(mount.output)")
        // Lazily: a child that another test is starting may hold a copy of a descriptor in it for a moment.
        defer { _ = try? shell("umount", "-l", place) }
        return try body(place)
    }

    @Test(arguments: 0..<800)
    func randomStacksEqualTheKernelsOverlay(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed) &* 7919 &+ 1)
        // tmpfs, so that a hundred trees cost no disk; xattrs in user.* work there since Linux 6.6.
        let scratch = try Scratch("/dev/shm")
        var layers: [[UInt8]] = []
        var trees: [String] = []
        for number in 0..<(1 + random.below(4)) {
            // Layers that nobody could have made (a link to nothing) are left out: both ways refuse them.
            let bytes = try tar(Self.randomLayer(&random, isBottom: number == 0))
            do {
                trees.append(try Self.unpackAlone(bytes, scratch, trees.count, below: trees))
                layers.append(bytes)
            } catch is LayerError {
                try removeTree("\(scratch.path)/layer\(trees.count)", at: currentDirectory)
            }
        }
        guard !trees.isEmpty else { return }
        let merged = try Self.describe(Self.unpackMerged(layers, scratch))
        let kernel = try Self.mounted(trees, scratch) { try Self.describe($0) }
        // Link counts of a hard link into a lower layer differ: overlayfs copies up, a merged tree shares.
        func comparable(_ lines: [String]) -> [String] {
            lines.map { $0.replacing(#/\ n\d+\ /#, with: " ") }
        }
        let story = try layers.enumerated().map { number, bytes in
            let entries = try readTar(scratch.file("story.tar", bytes)).map { "\($0.0.path) \($0.0.kind)" }
            return "layer \(number): \(entries.joined(separator: ", "))"
        }
        #expect(comparable(merged) == comparable(kernel), "seed \(seed): \(story.joined(separator: "; "))")
    }
}
