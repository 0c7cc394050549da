import CKernel
package import Files
import Glibc
import SystemPackage

/// Writes a directory tree as a layer: sorted by name, parents before children, hard links to the first name.
package struct TreeArchiver {
    private let writer: TarWriter
    private let sink: ([UInt8]) throws(FileError) -> Void
    private var firstNames: [UInt64: LayerPath] = [:]
    /// Sockets, which no archive can hold.
    package private(set) var skipped = 0
    private let device: UInt64

    /// `root` is an open directory; what is mounted below it is left out.
    package init(root: Int32, sink: @escaping ([UInt8]) throws(FileError) -> Void) throws(FileError) {
        self.sink = sink
        writer = TarWriter(sink: sink)
        device = try status(of: root).device
    }

    /// Writes the whole archive.
    package mutating func archive(_ root: Int32) throws(FileError) {
        try add(.root, ".", root)
        try writer.finish()
    }

    private mutating func add(
        _ path: LayerPath, _ name: UnsafePointer<CChar>, _ parent: Int32
    ) throws(FileError) {
        guard let info = try status(of: name, at: parent) else { return }
        guard var entry = try describe(path, info, name, parent) else {
            skipped += 1
            return
        }
        if info.kind != .directory, info.linkCount > 1 {
            if let first = firstNames[info.inode] {
                entry.kind = .hardLink(first.bytes)
                entry.size = 0
                entry.attributes = []
                try writer.begin(entry)
                return
            }
            firstNames[info.inode] = path
        }
        switch info.kind {
        case .file: try addFile(entry, name, parent)
        case .directory:
            try writer.begin(entry)
            guard info.device == device else { return }
            let fd = ck_openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)
            guard fd >= 0 else { throw FileError.last("open", path.description) }
            let handle = OwnedFD(fd)
            for child in try entries(of: handle.raw) {
                try add(path.appending(child.bytes), child.name, handle.raw)
            }
        default: try writer.begin(entry)
        }
    }

    private func describe(
        _ path: LayerPath, _ info: FileStatus, _ name: UnsafePointer<CChar>, _ parent: Int32
    ) throws(FileError) -> TarEntry? {
        let kind: TarEntry.Kind
        switch info.kind {
        case .file: kind = .file
        case .directory: kind = .directory
        case .link: kind = .symbolicLink(try readLink(name, at: parent))
        case .fifo: kind = .fifo
        case .characterDevice: kind = .characterDevice(major: info.node.major, minor: info.node.minor)
        case .blockDevice: kind = .blockDevice(major: info.node.major, minor: info.node.minor)
        case .socket: return nil
        }
        var entry = TarEntry(
            path: path, kind: kind, permissions: info.permissions, uid: info.uid, gid: info.gid,
            modified: info.modified)
        entry.size = kind == .file ? info.size : 0
        entry.attributes = try extendedAttributes(of: name, at: parent).filter {
            !OverlayForm.isControl($0.name) && $0.name != "security.selinux"
        }
        return entry
    }

    private func addFile(
        _ entry: TarEntry, _ name: UnsafePointer<CChar>, _ parent: Int32
    ) throws(FileError) {
        let fd = ck_openat(parent, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0)
        guard fd >= 0 else { throw FileError.last("open", entry.path.description) }
        let handle = OwnedFD(fd)
        try writer.begin(entry)
        try copy(handle.raw, entry.size, name: entry.path.description)
        try writer.pad(after: entry.size)
    }

    /// Exactly `size` bytes: a file that shrinks while it is read would shift everything after it.
    private func copy(_ fd: Int32, _ size: Int64, name: String) throws(FileError) {
        var left = size
        var buffer = [UInt8](repeating: 0, count: 256 << 10)
        while left > 0 {
            let wanted = Int(min(left, Int64(buffer.count)))
            let count = try buffer.withUnsafeMutableBytes { space in
                attempt { () throws(FileError) in
                    try read(fd, into: UnsafeMutableRawBufferPointer(rebasing: space[..<wanted]))
                }
            }.get()
            guard count > 0 else { throw FileError("read (the file became shorter)", name, .ioError) }
            try sink(Array(buffer[..<count]))
            left -= Int64(count)
        }
    }
}
