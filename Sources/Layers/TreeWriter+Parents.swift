import CKernel
package import Files
import Glibc

extension TreeWriter {
    /// The directory that an entry goes into, made if it is not there. Links are followed inside the root, as real
    /// layers write through `lib -> usr/lib`. The last one is remembered: archives are sorted, mostly.
    func parent(of path: LayerPath) throws(LayerError) -> ParentCache {
        try directory(path.parent)
    }

    func directory(_ path: LayerPath) throws(LayerError) -> ParentCache {
        if let cached = parentCache, cached.text == path { return cached }
        let flags = UInt64(pathOnly | O_DIRECTORY | O_CLOEXEC)
        let name = path.cString
        var fd = ck_openat2(root, name, flags, 0, Resolve.noLinks)
        var real: LayerPath? = path
        if fd < 0 && Glibc.errno == ELOOP {
            fd = ck_openat2(root, name, flags, 0, Resolve.inRoot)
            real = nil
        }
        if fd < 0 {
            switch Glibc.errno {
            case ENOENT, ENOTDIR, ELOOP: break
            default: throw LayerError(FileError.last("openat2", path.description), entry: path.description)
            }
            let made = try makeWay(path)
            real = made
            fd = ck_openat2(root, made.cString, flags, 0, Resolve.noLinks)
            guard fd >= 0 else {
                throw LayerError(FileError.last("openat2", made.description), entry: path.description)
            }
        }
        let handle = OwnedFD(fd)
        let place: LayerPath
        if let real {
            place = real
        } else {
            place = try filing(path.description) { () throws(FileError) in try realPath(of: handle.raw) }
        }
        let result = ParentCache(text: path, real: place, fd: handle)
        parentCache = result
        return result
    }

    /// Walks a path part by part, follows links inside the root, and makes the directories that are missing: with the
    /// attributes that they have in the layers below, or else 0755 and root. The result has no links in it.
    private func makeWay(_ path: LayerPath) throws(LayerError) -> LayerPath {
        var pending = path.parts.reversed().map { Array($0) }
        var current = LayerPath.root
        var links = 0
        while let part = pending.popLast() {
            if part == Array(".".utf8) { continue }
            if part == Array("..".utf8) {
                current = current.parent
                continue
            }
            let next = current.appending(part)
            guard let target = try stepInto(next) else {
                current = next
                continue
            }
            links += 1
            guard links <= 40 else { throw .refused(path.bytes, "more than 40 links on the way") }
            if target.first == UInt8(ascii: "/") { current = .root }
            pending += target.split(separator: UInt8(ascii: "/")).reversed().map { Array($0) }
            guard pending.count <= LayerPath.maximumLength else {
                throw .refused(path.bytes, "the links on the way are too long")
            }
        }
        return current
    }

    /// Makes sure that `path`, whose parent is a real directory, is a directory; or gives the target of the link there.
    private func stepInto(_ path: LayerPath) throws(LayerError) -> [UInt8]? {
        let full = path.cString
        let there = try filing(path.description) { () throws(FileError) in try status(of: full, at: root) }
        switch there?.kind {
        case .directory: return nil
        case .link:
            return try filing(path.description) { () throws(FileError) in try readLink(full, at: root) }
        case nil:
            if let lower = try lookUpBelow(path) {
                if lower.status.kind == .link, case .overlay(_, let below?, _) = form {
                    return try filing(path.description) { () throws(FileError) in try below.readLink(lower) }
                }
                if lower.status.kind == .directory {
                    try makeImplied(path, like: lower)
                    return nil
                }
            }
            try makeImplied(path, like: nil)
            return nil
        default:
            // An entry below a file, or below a name that this layer has deleted: a directory takes its place.
            try filing(path.description) { () throws(FileError) in try removeTree(full, at: root) }
            try makeImplied(path, like: nil)
            try setOpaque(full, root, path)
            return nil
        }
    }

    /// What the layers below have at a path that this layer does not describe. Where they cannot be asked, the
    /// layer has to wait for them.
    private func lookUpBelow(_ path: LayerPath) throws(LayerError) -> LayerStack.Object? {
        guard case .overlay(let overlay, let below, let isBottom) = form else { return nil }
        if isBottom {
            isSelfContained = false
            return nil
        }
        guard let below else { throw LayerError(.needsLower, "'\(path)' is not described by the layer") }
        isSelfContained = false
        if isHidden(path, overlay) { return nil }
        return try filing(path.description) { () throws(FileError) in try below.lookup(path) }
    }

    /// Whether a directory of this layer on the way to a path hides what the layers below have there.
    func isHidden(_ path: LayerPath, _ overlay: OverlayForm) -> Bool {
        var above = path.parent
        while !above.isRoot {
            if overlay.isOpaque(above.cString, at: root) { return true }
            above = above.parent
        }
        return false
    }

    private func makeImplied(_ path: LayerPath, like lower: LayerStack.Object?) throws(LayerError) {
        var metadata = Metadata.implied
        if let lower, case .overlay(_, let below?, _) = form {
            metadata = try filing(path.description) { () throws(FileError) in
                Metadata(lower.status, try below.attributes(lower))
            }
        }
        try filing(path.description) { () throws(FileError) in
            guard mkdirat(root, path.cString, 0o700) == 0 else {
                throw FileError.last("mkdir", path.description)
            }
            if let info = try status(of: path.cString, at: root) {
                directories[path] = DirectoryRecord(inode: info.inode, metadata: metadata)
                if tracksInodes { touched.insert(info.inode) }
            }
        }
        parentCache = nil
    }

    /// The directory that holds the target of a hard link. A target in the layers below is copied up first.
    func linkSource(_ target: LayerPath, _ entry: TarEntry) throws(LayerError) -> OwnedFD {
        let flags = UInt64(pathOnly | O_DIRECTORY | O_CLOEXEC)
        let fd = ck_openat2(root, target.parent.cString, flags, 0, Resolve.inRoot)
        let missing = LayerError(
            .malformed, "'\(entry.path)': a hard link to '\(target)', which is not there",
            hint: "the layer links to something that no earlier entry made; the image is damaged")
        if fd >= 0 {
            let handle = OwnedFD(fd)
            let info = try filing(entry.path.description) { () throws(FileError) in
                try status(of: cString(target.name), at: handle.raw)
            }
            if let info, !info.isWhiteout {
                guard info.kind != .directory else {
                    throw .refused(entry.path.bytes, "a hard link to a directory")
                }
                return handle
            }
            if info != nil { throw missing }
        }
        guard case .overlay(_, let below, let isBottom) = form, !isBottom else { throw missing }
        guard let below else { throw LayerError(.needsLower, "'\(target)' is not in the layer") }
        isSelfContained = false
        let object = try filing(entry.path.description) { () throws(FileError) in
            try below.resolve(target, followLast: false)
        }
        guard let object, object.status.kind != .directory else { throw missing }
        try copyUp(object, from: below)
        let parent = try directory(object.path.parent)
        return try filing(entry.path.description) { () throws(FileError) in try parent.fd.duplicate() }
    }

    /// Copies a file or link of the layers below into this layer, as overlayfs does before a change.
    private func copyUp(_ object: LayerStack.Object, from below: LayerStack) throws(LayerError) {
        let parent = try directory(object.path.parent)
        let name = cString(object.path.name)
        let path = object.path
        let there = try filing(path.description) { () throws(FileError) in
            try status(of: name, at: parent.fd.raw)
        }
        if there != nil { return }
        let metadata = try filing(path.description) { () throws(FileError) in
            Metadata(object.status, try below.attributes(object))
        }
        guard object.status.kind == .file else {
            guard object.status.kind == .link else {
                throw .refused(path.bytes, "a hard link to a special file of a lower layer")
            }
            let target = try filing(path.description) { () throws(FileError) in try below.readLink(object) }
            guard symlinkat(cString(target), parent.fd.raw, name) == 0 else {
                throw LayerError(FileError.last("symlink", ""), entry: path.description)
            }
            try finishNode(metadata, isLink: true, name, parent.fd.raw, path)
            return
        }
        let copy = try filing(path.description) { () throws(FileError) in
            let source = try below.open(object)
            let fd = ck_openat(
                parent.fd.raw, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
            guard fd >= 0 else { throw FileError.last("open", path.description) }
            let target = OwnedFD(fd)
            try copyContent(from: source.raw, to: target.raw, name: path.description)
            return target
        }
        try finishFile(copy.raw, metadata, createdWith: 0o600 & ~mask, path)
    }
}

/// Copies what is left of a file: by sharing its extents where the file system can.
package func copyContent(from source: Int32, to target: Int32, name: String) throws(FileError) {
    if ck_clone_file(target, source) == 0 { return }
    while true {
        let count = ck_copy_range(source, target, 1 << 30)
        if count == 0 { return }
        if count < 0 {
            if Glibc.errno == EINTR { continue }
            guard
                Glibc.errno == EXDEV || Glibc.errno == EINVAL || Glibc.errno == EOPNOTSUPP
                    || Glibc.errno == ENOSYS
            else {
                throw FileError.last("copy_file_range", name)
            }
            break
        }
    }
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 18, alignment: 4096)
    defer { buffer.deallocate() }
    while true {
        let count = try read(source, into: buffer)
        if count == 0 { return }
        try write(target, UnsafeRawBufferPointer(rebasing: buffer[..<count]), name: name)
    }
}
