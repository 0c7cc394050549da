import CKernel
package import Files
import Glibc
import SystemPackage

/// Unpacked layers seen as the one tree that overlayfs would make of them, without a mount: for looking things up below
/// a layer that is being unpacked, and for listing and reading images.
package final class LayerStack {
    /// Top first.
    private let roots: [OwnedDirectory]
    private let form: OverlayForm

    private final class OwnedDirectory {
        let fd: OwnedFD
        init(_ fd: consuming OwnedFD) { self.fd = fd }
    }

    /// Something in the merged tree.
    package struct Object: Sendable {
        package let path: LayerPath
        package let status: FileStatus
        /// The layers that the object comes from, top first: several where directories are merged.
        let layers: [Int]
    }

    /// - Parameter directories: paths of layer directories, bottom first.
    package init(_ directories: [String], form: OverlayForm = .ofThisProcess) throws(FileError) {
        var opened: [OwnedDirectory] = []
        for directory in directories.reversed() {
            opened.append(OwnedDirectory(try Files.open(directory, pathOnly | O_DIRECTORY)))
        }
        roots = opened
        self.form = form
    }

    /// What is at a path, no link followed on the way; nil where nothing is.
    package func lookup(_ path: LayerPath) throws(FileError) -> Object? {
        var candidates = Array(roots.indices)
        var current = LayerPath.root
        var found: FileStatus?
        for part in path.parts {
            current = current.appending(part)
            (found, candidates) = try step(current, candidates)
            if candidates.isEmpty { return nil }
        }
        if path.isRoot, let top = roots.first { found = try status(of: top.fd.raw) }
        return found.map { Object(path: path, status: $0, layers: candidates) }
    }

    /// Which of the layers make up the object at `path`, when its parent comes from `candidates`.
    private func step(
        _ path: LayerPath, _ candidates: [Int]
    ) throws(FileError) -> (FileStatus?, [Int]) {
        var found: FileStatus?
        var layers: [Int] = []
        let name = path.cString
        for index in candidates {
            guard let handle = try openBelow(roots[index].fd.raw, name) else { continue }
            let info = try status(of: handle.raw)
            if info.isWhiteout { break }
            if info.kind != .directory {
                if layers.isEmpty { (found, layers) = (info, [index]) }
                break
            }
            if found == nil { found = info }
            layers.append(index)
            if form.isOpaque(name, at: roots[index].fd.raw) { break }
        }
        return (found, layers)
    }

    private func openBelow(_ root: Int32, _ name: [CChar]) throws(FileError) -> OwnedFD? {
        let fd = ck_openat2(root, name, UInt64(pathOnly | O_NOFOLLOW | O_CLOEXEC), 0, Resolve.noLinks)
        if fd >= 0 { return OwnedFD(fd) }
        switch Glibc.errno {
        case ENOENT, ENOTDIR, ELOOP: return nil
        default: throw FileError.last("openat2", printable(name.dropLast().map { UInt8(bitPattern: $0) }))
        }
    }

    /// The path that a name leads to when links are followed inside the tree; nil where a part is missing.
    package func resolve(_ path: LayerPath, followLast: Bool = true) throws(FileError) -> Object? {
        var pending = Array(path.parts.reversed().map { Array($0) })
        var current = try lookup(.root)
        var links = 0
        while let part = pending.popLast(), let here = current {
            if part == Array(".".utf8) { continue }
            if part == Array("..".utf8) {
                current = try lookup(here.path.parent)
                continue
            }
            guard let next = try lookup(here.path.appending(part)) else { return nil }
            guard next.status.kind == .link, followLast || !pending.isEmpty else {
                current = next
                continue
            }
            links += 1
            guard links <= 40 else { throw FileError("lookup", path.description, .tooManySymbolicLinkLevels) }
            let target = try readLink(next)
            if target.first == UInt8(ascii: "/") { current = try lookup(.root) }
            pending += target.split(separator: UInt8(ascii: "/")).reversed().map { Array($0) }
        }
        return current
    }

    /// The names in a directory of the merged tree, in bytewise order.
    package func list(_ directory: Object) throws(FileError) -> [Object] {
        var names: Set<[UInt8]> = []
        for index in directory.layers {
            let handle = try open(directory, index, O_RDONLY | O_DIRECTORY)
            for entry in try entries(of: handle.raw) { names.insert(entry.bytes) }
        }
        var result: [Object] = []
        for name in names.sorted(by: { $0.lexicographicallyPrecedes($1) }) {
            let path = directory.path.appending(name)
            let (found, layers) = try step(path, directory.layers)
            if let found { result.append(Object(path: path, status: found, layers: layers)) }
        }
        return result
    }

    /// The names in a directory of a single layer as they lie on the disk, whiteouts included.
    func listRaw(_ directory: Object) throws(FileError) -> [Object] {
        guard let index = directory.layers.first else { return [] }
        let handle = try open(directory, index, O_RDONLY | O_DIRECTORY)
        var result: [Object] = []
        for entry in try entries(of: handle.raw) {
            guard let info = try status(of: entry.name, at: handle.raw) else { continue }
            result.append(Object(path: directory.path.appending(entry.bytes), status: info, layers: [index]))
        }
        return result
    }

    /// The target of a link.
    package func readLink(_ object: Object) throws(FileError) -> [UInt8] {
        try withParent(of: object) { name, parent throws(FileError) in try Files.readLink(name, at: parent) }
    }

    /// Opens a regular file for reading.
    package func open(_ object: Object) throws(FileError) -> OwnedFD {
        try open(object, object.layers.first ?? 0, O_RDONLY | O_NOFOLLOW)
    }

    /// The extended attributes but those that steer overlayfs.
    package func attributes(_ object: Object) throws(FileError) -> [(name: String, value: [UInt8])] {
        try allAttributes(object).filter { !OverlayForm.isControl($0.name) }
    }

    func allAttributes(_ object: Object) throws(FileError) -> [(name: String, value: [UInt8])] {
        try withParent(of: object) { name, parent throws(FileError) in
            try extendedAttributes(of: name, at: parent)
        }
    }

    private func open(_ object: Object, _ layer: Int, _ flags: Int32) throws(FileError) -> OwnedFD {
        let fd = ck_openat2(
            roots[layer].fd.raw, object.path.cString, UInt64(flags | O_CLOEXEC), 0, Resolve.noLinks)
        guard fd >= 0 else { throw FileError.last("openat2", object.path.description) }
        return OwnedFD(fd)
    }

    private func withParent<Result>(
        of object: Object, _ body: (UnsafePointer<CChar>, Int32) throws(FileError) -> Result
    ) throws(FileError) -> Result {
        let layer = object.layers.first ?? 0
        let fd = ck_openat2(
            roots[layer].fd.raw, object.path.parent.cString, UInt64(pathOnly | O_DIRECTORY | O_CLOEXEC), 0,
            Resolve.noLinks)
        guard fd >= 0 else { throw FileError.last("openat2", object.path.parent.description) }
        let parent = OwnedFD(fd)
        return try body(object.path.isRoot ? [46, 0] : cString(object.path.name), parent.raw)
    }
}
