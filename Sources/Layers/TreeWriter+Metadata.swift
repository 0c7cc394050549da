import CKernel
import Files
import Glibc

/// What an object looks like beside its content.
struct Metadata {
    var permissions: UInt32
    var uid: UInt32
    var gid: UInt32
    var modified: Timestamp
    var attributes: [(name: String, value: [UInt8])]

    /// A directory that no layer describes.
    static let implied = Metadata(
        permissions: 0o755, uid: 0, gid: 0, modified: Timestamp(seconds: 0, nanoseconds: 0), attributes: [])

    init(
        permissions: UInt32, uid: UInt32, gid: UInt32, modified: Timestamp,
        attributes: [(name: String, value: [UInt8])]
    ) {
        (self.permissions, self.uid, self.gid) = (permissions, uid, gid)
        (self.modified, self.attributes) = (modified, attributes)
    }

    init(_ entry: TarEntry) {
        self.init(
            permissions: entry.permissions, uid: entry.uid, gid: entry.gid, modified: entry.modified,
            attributes: entry.attributes)
    }

    init(_ status: FileStatus, _ attributes: [(name: String, value: [UInt8])]) {
        self.init(
            permissions: status.permissions, uid: status.uid, gid: status.gid, modified: status.modified,
            attributes: attributes)
    }
}

/// Attributes that belong to the machine or to another tool, and mean nothing, or harm, in an image.
private let droppedAttributes: Set<String> = [
    "security.selinux", "security.ima", "security.evm", "user.containers.override_stat",
    "user.rootlesscontainers",
    "system.nfs4_acl", "security.SMACK64",
]

extension TreeWriter {
    /// Owner, attributes, mode and times of an open file, in the order in which none undoes another: chown clears
    /// set-id bits and capabilities, and writing attributes changes no time that is kept.
    func finishFile(
        _ fd: Int32, _ metadata: Metadata, createdWith mode: UInt32, _ path: LayerPath
    ) throws(LayerError) {
        let wasGiven = try give(metadata, path) { uid, gid in fchown(fd, uid, gid) }
        if !metadata.attributes.isEmpty {
            try setAttributes(metadata, path) { name, value, count in fsetxattr(fd, name, value, count, 0) }
        }
        let hasList = metadata.attributes.contains { $0.name.hasPrefix("system.posix_acl") }
        if metadata.permissions != mode || hasList || (wasGiven && metadata.permissions & 0o6000 != 0) {
            guard fchmod(fd, metadata.permissions) == 0 else {
                throw LayerError(FileError.last("chmod", ""), entry: path.description)
            }
        }
        var times = TreeWriter.times(metadata.modified)
        guard futimens(fd, &times) == 0 else {
            throw LayerError(FileError.last("utimens", ""), entry: path.description)
        }
    }

    func finishNode(_ entry: TarEntry, _ name: [CChar], _ parent: Int32) throws(LayerError) {
        var isLink = false
        if case .symbolicLink = entry.kind { isLink = true }
        try finishNode(Metadata(entry), isLink: isLink, name, parent, entry.path)
    }

    /// The same for what cannot be opened: links, devices, pipes.
    func finishNode(
        _ metadata: Metadata, isLink: Bool, _ name: [CChar], _ parent: Int32, _ path: LayerPath
    ) throws(LayerError) {
        let wasGiven = try give(metadata, path) { uid, gid in
            fchownat(parent, name, uid, gid, AT_SYMLINK_NOFOLLOW)
        }
        if !metadata.attributes.isEmpty {
            let full = attributePath(name, parent)
            try setAttributes(metadata, path) { name, value, count in lsetxattr(full, name, value, count, 0) }
        }
        // The name was made a moment ago in a directory that only this process can enter, and it is no link.
        if !isLink, wasGiven || metadata.permissions & (0o7000 | mask) != 0,
            fchmodat(parent, name, metadata.permissions, 0) != 0
        {
            throw LayerError(FileError.last("chmod", ""), entry: path.description)
        }
        var times = TreeWriter.times(metadata.modified)
        guard utimensat(parent, name, &times, AT_SYMLINK_NOFOLLOW) == 0 else {
            throw LayerError(FileError.last("utimens", ""), entry: path.description)
        }
    }

    /// Gives directories their final owner, mode, attributes and time, the deepest first, when nothing more is written.
    package func finish() throws(LayerError) {
        parentCache = nil
        try giveRoot()
        let order = directories.keys.map { ($0.depth, $0) }.sorted { $0.0 > $1.0 }
        for (_, path) in order {
            guard let record = directories[path] else { continue }
            let fd = ck_openat2(
                root, path.cString, UInt64(O_RDONLY | O_DIRECTORY | O_CLOEXEC), 0, Resolve.noLinks)
            guard fd >= 0 else {
                // It was replaced or removed after it was described.
                if [ENOENT, ENOTDIR, ELOOP].contains(Glibc.errno) { continue }
                throw LayerError(FileError.last("open", ""), entry: path.description)
            }
            let handle = OwnedFD(fd)
            let inode = try filing(path.description) { () throws(FileError) in
                try status(of: handle.raw).inode
            }
            guard inode == record.inode else { continue }
            try finishFile(handle.raw, record.metadata, createdWith: 0o700, path)
        }
        directories = [:]
        // A later entry may have taken the place of a whiteout.
        var left: [LayerPath] = []
        for path in whiteouts {
            let there = try filing(path.description) { () throws(FileError) in
                try status(of: path.cString, at: root)
            }
            if there?.isWhiteout == true { left.append(path) }
        }
        whiteouts = left
    }

    /// A root that no layer describes belongs to the image's root.
    private func giveRoot() throws(LayerError) {
        guard directories[.root] == nil else { return }
        _ = try give(.implied, .root) { uid, gid in fchown(root, uid, gid) }
    }

    private static func times(_ modified: Timestamp) -> [timespec] {
        let time = timespec(tv_sec: Int(modified.seconds), tv_nsec: Int(modified.nanoseconds))
        return [time, time]
    }

    /// Sets the owner. True when it was changed.
    private func give(
        _ metadata: Metadata, _ path: LayerPath, _ change: (UInt32, UInt32) -> Int32
    ) throws(LayerError) -> Bool {
        if options.squashesOwners {
            if metadata.uid != geteuid() || metadata.gid != getegid() {
                note(\.squashedOwners, "owner", path)
            }
            return false
        }
        guard let uid = options.uidMapping.host(metadata.uid), let gid = options.gidMapping.host(metadata.gid)
        else {
            if options.squashesUnmapped {
                note(\.squashedOwners, "owner", path)
                return false
            }
            let id =
                options.uidMapping.host(metadata.uid) == nil
                ? "user \(metadata.uid)" : "group \(metadata.gid)"
            throw LayerError(
                .refused, "'\(path)' belongs to the \(id) of the image, which is outside the id map",
                hint: "make the map larger: --uid-map 0:100000:65536 --gid-map 0:100000:65536")
        }
        // What this process makes is its own; a parent with the set-group-id bit does not exist until the end.
        if uid == geteuid() && gid == getegid() { return false }
        guard change(uid, gid) == 0 else {
            throw LayerError(FileError.last("chown", ""), entry: path.description)
        }
        return true
    }

    private func setAttributes(
        _ metadata: Metadata, _ path: LayerPath, _ set: (String, [UInt8], Int) -> Int32
    ) throws(LayerError) {
        for (name, value) in metadata.attributes {
            if OverlayForm.isControl(name) || droppedAttributes.contains(name) { continue }
            guard let value = try shifted(name, value) else { continue }
            if set(name, value, value.count) == 0 { continue }
            let code = Glibc.errno
            if [ENOTSUP, EPERM, EOPNOTSUPP, EINVAL].contains(code), !options.isStrict {
                note(\.skippedAttributes, "attribute", path)
                continue
            }
            throw LayerError(FileError.last("setxattr \(printable(name))", ""), entry: path.description)
        }
    }

    /// File capabilities carry the id of the root user that they are for (capabilities(7), version 3): with shifted ids
    /// that is the mapped root.
    private func shifted(_ name: String, _ value: [UInt8]) throws(LayerError) -> [UInt8]? {
        guard name == "security.capability", !options.uidMapping.ranges.isEmpty, value.count == 20,
            let root = options.uidMapping.host(0)
        else { return value }
        let flags = value[0] & 1
        return [flags, 0, 0, 3] + value[4...] + littleEndian(root)
    }
}
