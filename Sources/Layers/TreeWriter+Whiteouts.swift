import CKernel
import Files
import Glibc

private let whiteoutPrefix = Array(".wh.".utf8)
private let opaqueMarker = Array(".wh..wh..opq".utf8)
/// AUFS kept its own files under such names in every layer; none of them is content.
private let aufsPrefix = Array(".wh..wh.".utf8)

extension TreeWriter {
    /// Acts on an entry whose name says that something is gone (image-spec layer.md, "Whiteouts"). Its type does not
    /// matter. False when it is an ordinary entry.
    func applyWhiteout(_ entry: TarEntry) throws(LayerError) -> Bool {
        for part in entry.path.parent.parts where part.starts(with: whiteoutPrefix) {
            if part.starts(with: aufsPrefix) { return true }
            throw .refused(entry.path.bytes, "an entry below a whiteout")
        }
        let name = entry.path.name
        guard name.starts(with: whiteoutPrefix) else { return false }
        if name.elementsEqual(opaqueMarker) {
            try applyOpaque(entry.path.parent)
            return true
        }
        if name.starts(with: aufsPrefix) { return true }
        let hidden = Array(name.dropFirst(whiteoutPrefix.count))
        guard !hidden.isEmpty, hidden != Array(".".utf8), hidden != Array("..".utf8) else {
            throw .refused(entry.path.bytes, "a whiteout of nothing, '.' or '..'")
        }
        try applyWhiteout(of: entry.path.parent.appending(hidden))
        return true
    }

    private func applyWhiteout(of path: LayerPath) throws(LayerError) {
        guard case .overlay(let overlay, let below, let isBottom) = form else {
            if layerIndex > 0 { try removeLower(path) }
            return
        }
        if isBottom {
            isSelfContained = false
            return
        }
        if let below {
            let target = try filing(path.description) { () throws(FileError) in try below.lookup(path) }
            if target == nil || isHidden(path, overlay) {
                isSelfContained = false
                return
            }
        }
        guard let parent = try realDirectory(path.parent) else { return }
        let name = cString(path.name)
        let there = try filing(path.description) { () throws(FileError) in
            try status(of: name, at: parent.raw)
        }
        if there?.kind == .directory {
            try filing(path.description) { () throws(FileError) in try overlay.setOpaque(name, at: parent.raw)
            }
        } else if there == nil {
            try makeWhiteout(name, parent.raw, path)
            whiteouts.append(path)
        }
    }

    func makeWhiteout(_ name: [CChar], _ parent: Int32, _ path: LayerPath) throws(LayerError) {
        // Since Linux 5.8 anybody may make this one device.
        guard mknodat(parent, name, S_IFCHR | 0o600, 0) == 0 else {
            throw LayerError(FileError.last("mknod (whiteout)", ""), entry: path.description)
        }
    }

    /// A directory of the layer, no link crossed; nil where a link is on the way: a whiteout crosses no link. What the
    /// layer does not have yet is made after the layers below, or is a reason to wait for them.
    private func realDirectory(_ path: LayerPath) throws(LayerError) -> OwnedFD? {
        let flags = UInt64(pathOnly | O_DIRECTORY | O_CLOEXEC)
        var fd = ck_openat2(root, path.cString, flags, 0, Resolve.noLinks)
        if fd >= 0 { return OwnedFD(fd) }
        switch Glibc.errno {
        case ELOOP, ENOTDIR: return nil
        case ENOENT: break
        default: throw LayerError(FileError.last("openat2", path.description), entry: path.description)
        }
        guard case .overlay(_, .some, _) = form else {
            throw LayerError(.needsLower, "'\(path)' is not described by the layer")
        }
        let made = try directory(path)
        guard made.real == path else { return nil }
        fd = ck_openat2(root, path.cString, flags, 0, Resolve.noLinks)
        guard fd >= 0 else {
            throw LayerError(FileError.last("openat2", path.description), entry: path.description)
        }
        return OwnedFD(fd)
    }

    private func applyOpaque(_ path: LayerPath) throws(LayerError) {
        guard case .overlay(let overlay, let below, let isBottom) = form else {
            let place = try directory(path)
            if layerIndex > 0 {
                try touchWay(place.real)
                try removeLowerContents(place.fd.raw, place.real)
            }
            return
        }
        if isBottom {
            isSelfContained = false
            _ = try directory(path)
            return
        }
        if path.isRoot {
            // Overlayfs does not look at the root's own attribute: each name is hidden by itself, at the end.
            guard below != nil else { throw LayerError(.needsLower, "the layer hides all that is below") }
            isSelfContained = false
            hidesRoot = true
            return
        }
        let place = try directory(path)
        try filing(path.description) { () throws(FileError) in
            try overlay.setOpaque(place.real.cString, at: root)
        }
    }

    /// The opaque root: every name below that this layer does not have gets a whiteout, every directory it has is opaque.
    func hideRoot() throws(LayerError) {
        guard case .overlay(let overlay, let below?, _) = form else { return }
        let names = try filing("/") { () throws(FileError) in
            try below.lookup(.root).map { object throws(FileError) in try below.list(object) } ?? []
        }
        for object in names {
            let name = object.path.cString
            let there = try filing(object.path.description) { () throws(FileError) in
                try status(of: name, at: root)
            }
            if there == nil {
                try makeWhiteout(name, root, object.path)
            } else if there?.kind == .directory {
                try filing(object.path.description) { () throws(FileError) in
                    try overlay.setOpaque(name, at: root)
                }
            }
        }
        hidesRoot = false
    }

    // MARK: - Merged form

    /// The directories on the way to a whiteout belong to its layer: another whiteout of it keeps them.
    private func touchWay(_ path: LayerPath) throws(LayerError) {
        var path = path
        while !path.isRoot {
            let info = try filing(path.description) { () throws(FileError) in
                try status(of: path.cString, at: root)
            }
            if let info { touched.insert(info.inode) }
            path = path.parent
        }
    }

    /// Removes what lower layers have at a path; what this layer made stays, in whatever order the entries come.
    private func removeLower(_ path: LayerPath) throws(LayerError) {
        let flags = UInt64(pathOnly | O_DIRECTORY | O_CLOEXEC)
        let fd = ck_openat2(root, path.parent.cString, flags, 0, Resolve.noLinks)
        guard fd >= 0 else {
            switch Glibc.errno {
            case ENOENT, ENOTDIR, ELOOP: return
            default: throw LayerError(FileError.last("openat2", path.description), entry: path.description)
            }
        }
        let parent = OwnedFD(fd)
        let there = try filing(path.description) { () throws(FileError) in
            try status(of: cString(path.name), at: parent.raw)
        }
        if there != nil { try touchWay(path.parent) }
        try removeLower(cString(path.name), parent.raw, path)
        parentCache = nil
    }

    private func removeLower(_ name: [CChar], _ parent: Int32, _ path: LayerPath) throws(LayerError) {
        let info = try filing(path.description) { () throws(FileError) in try status(of: name, at: parent) }
        guard let info else { return }
        let isOwn = touched.contains(info.inode)
        guard info.kind == .directory else {
            if !isOwn, unlinkat(parent, name, 0) != 0 {
                throw LayerError(FileError.last("unlink", ""), entry: path.description)
            }
            return
        }
        let fd = ck_openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)
        guard fd >= 0 else { throw LayerError(FileError.last("open", ""), entry: path.description) }
        let handle = OwnedFD(fd)
        try removeLowerContents(handle.raw, path)
        // Not empty: something of this layer is in it, and the directory is needed.
        if !isOwn { _ = unlinkat(parent, name, AT_REMOVEDIR) }
    }

    private func removeLowerContents(_ directory: Int32, _ path: LayerPath) throws(LayerError) {
        let list = try filing(path.description) { () throws(FileError) in try entries(of: directory) }
        for entry in list {
            try removeLower(entry.name, directory, path.appending(entry.bytes))
        }
        parentCache = nil
    }
}
