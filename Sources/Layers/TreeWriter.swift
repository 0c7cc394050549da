import CKernel
import Files
import Glibc
import SystemPackage

/// Applies the entries of layers to a directory tree, by descriptors only.
///
/// A tree is written in one of two forms. *Merged*: layers go on top of each other, whiteouts remove. *Overlay*: one
/// layer alone, whiteouts are kept as overlayfs reads them.
package final class TreeWriter {
    package enum Form {
        case merged
        /// One layer by itself. `below` is nil while the layers below are not known: an entry that
        /// depends on them then ends with the error `needsLower`. A bottom layer has nothing below.
        case overlay(OverlayForm, below: LayerStack?, isBottom: Bool)
    }

    let root: Int32
    let form: Form
    let options: UnpackOptions
    package internal(set) var report = UnpackReport()
    /// Whether the layer would come out the same above any other layers. Overlay form only.
    package internal(set) var isSelfContained = true
    /// Whiteouts that were written, to be checked against the layers below. Overlay form only.
    var whiteouts: [LayerPath] = []
    var hidesRoot = false

    /// Inodes that the layer under way has made or described; kept where something could be below.
    var touched: Set<UInt64> = []
    var layerIndex = -1
    /// What directories are to look like at the end, by their real path.
    var directories: [LayerPath: DirectoryRecord] = [:]
    var parentCache: ParentCache?
    private let rootPath: [UInt8]
    /// What the process's umask takes from the modes of new files; read once, since umask(2) can only be read by
    /// setting it.
    let mask = TreeWriter.processMask
    private static let processMask: UInt32 = {
        let mask = umask(0o077)
        umask(mask)
        return mask
    }()

    struct DirectoryRecord {
        let inode: UInt64
        let metadata: Metadata
    }

    final class ParentCache {
        let text: LayerPath
        let real: LayerPath
        let fd: OwnedFD

        init(text: LayerPath, real: LayerPath, fd: consuming OwnedFD) {
            self.text = text
            self.real = real
            self.fd = fd
        }
    }

    /// Writes below an open, empty directory that nobody else can enter. The descriptor is borrowed.
    package init(root: Int32, form: Form, options: UnpackOptions) throws(LayerError) {
        self.root = root
        self.form = form
        self.options = options
        // What the directory inherited from its parent must not go on to the image's files.
        _ = fremovexattr(root, "system.posix_acl_default")
        _ = fremovexattr(root, "system.posix_acl_access")
        do throws(FileError) { rootPath = try readLink(procPath(root), at: currentDirectory) } catch {
            throw LayerError(error, entry: "/")
        }
    }

    var isMerged: Bool { if case .merged = form { true } else { false } }

    /// Whether there may be something below that this layer acts on.
    var tracksInodes: Bool { isMerged && (layerIndex > 0 || options.isStrict) }

    /// Reads a layer to its end and applies it. Metadata of directories follows in `finish`.
    package func apply(_ reader: TarReader) throws(LayerError) {
        layerIndex += 1
        touched = []
        while let entry = try reader.next() {
            report.entries += 1
            try apply(entry, reader)
        }
        if hidesRoot { try hideRoot() }
        parentCache = nil
    }

    private func apply(_ entry: TarEntry, _ reader: TarReader) throws(LayerError) {
        if entry.path.isRoot {
            guard entry.kind == .directory else {
                throw LayerError(
                    .refused, "an entry would replace the root by something that is no directory")
            }
            try filing("/") { () throws(FileError) in
                directories[.root] = DirectoryRecord(
                    inode: try status(of: root).inode, metadata: Metadata(entry))
            }
            return
        }
        if try applyWhiteout(entry) { return }
        // What is about to change may be a link on the way to the remembered directory.
        if let cached = parentCache, cached.text.bytes.starts(with: entry.path.bytes) { parentCache = nil }
        switch entry.kind {
        case .file: try writeFile(entry, reader)
        case .directory: try makeDirectory(entry)
        case .hardLink(let target): try makeHardLink(entry, target)
        default: try makeNode(entry)
        }
    }

    /// Runs file operations for an entry and words their errors.
    func filing<Result: ~Copyable>(
        _ entry: String, _ body: () throws(FileError) -> Result
    ) throws(LayerError) -> Result {
        do throws(FileError) { return try body() } catch { throw LayerError(error, entry: entry) }
    }

    // MARK: - Regular files

    /// One call makes the file where its parent is there, as it nearly always is; the rest is the exception.
    private func writeFile(_ entry: TarEntry, _ reader: TarReader) throws(LayerError) {
        let handle = try createFile(entry)
        try filing(entry.path.description) { () throws(FileError) in
            var position: Int64 = 0
            if entry.size > 1 << 20, !entry.isSparse {
                // A full disk shows before anything is written, and the file lies in one piece.
                if ck_reserve(handle.raw, entry.size) != 0, Glibc.errno == ENOSPC {
                    throw FileError("write", entry.path.description, .noSpace)
                }
            }
            let problem: LayerError? = try copyData(reader, to: handle.raw, &position)
            if let problem { failure = problem; return }
            if position < entry.size, ftruncate(handle.raw, Int(entry.size)) != 0 {
                throw FileError.last("ftruncate", entry.path.description)
            }
        }
        if let problem = failure {
            failure = nil
            throw problem
        }
        if tracksInodes {
            touched.insert(
                try filing(entry.path.description) { () throws(FileError) in try status(of: handle.raw).inode
                })
        }
        try finishFile(
            handle.raw, Metadata(entry), createdWith: entry.permissions & 0o777 & ~mask, entry.path)
    }

    private func copyData(
        _ reader: TarReader, to fd: Int32, _ position: inout Int64
    ) throws(FileError) -> LayerError? {
        while true {
            let piece: (bytes: UnsafeRawBufferPointer, offset: Int64)?
            do throws(LayerError) { piece = try reader.data() } catch { return error }
            guard let piece else { return nil }
            if piece.bytes.isEmpty { continue }
            if piece.offset != position {
                guard lseek(fd, Int(piece.offset), SEEK_SET) >= 0 else { throw FileError.last("lseek", "") }
            }
            try write(fd, piece.bytes)
            position = piece.offset + Int64(piece.bytes.count)
        }
    }

    private func createFile(_ entry: TarEntry) throws(LayerError) -> OwnedFD {
        let flags = UInt64(O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)
        let mode = UInt64(entry.permissions & 0o777)
        let fd = ck_openat2(root, entry.path.cString, flags, mode, Resolve.inRoot)
        if fd >= 0 { return OwnedFD(fd) }
        let parent = try self.parent(of: entry.path)
        let name = cString(entry.path.name)
        try clear(name, parent, for: entry)
        let again = ck_openat(parent.fd.raw, name, Int32(truncatingIfNeeded: flags), UInt32(mode))
        guard again >= 0 else {
            throw LayerError(FileError.last("open", entry.path.description), entry: entry.path.description)
        }
        return OwnedFD(again)
    }

    /// What went wrong in the archive while a file was written.
    private var failure: LayerError?

    // MARK: - Directories, links, nodes

    private func makeDirectory(_ entry: TarEntry) throws(LayerError) {
        let parent = try self.parent(of: entry.path)
        let name = cString(entry.path.name)
        if mkdirat(parent.fd.raw, name, 0o700) != 0 {
            guard Glibc.errno == EEXIST else {
                throw LayerError(FileError.last("mkdir", ""), entry: entry.path.description)
            }
            let there = try filing(entry.path.description) { () throws(FileError) in
                try status(of: name, at: parent.fd.raw)
            }
            if there?.kind == .link, options.keepsDirectoryLinks, isMerged, leadsToDirectory(entry.path) {
                return
            }
            if there?.kind == .directory {
                noteDuplicate(there, entry)
            } else {
                try clear(name, parent, for: entry)
                guard mkdirat(parent.fd.raw, name, 0o700) == 0 else {
                    throw LayerError(FileError.last("mkdir", ""), entry: entry.path.description)
                }
                // Whatever of this layer was here hid what is below, and the directory has to go on hiding it.
                try setOpaque(name, parent.fd.raw, entry.path)
            }
        }
        let real = parent.real.appending(entry.path.name)
        try filing(entry.path.description) { () throws(FileError) in
            if let info = try status(of: name, at: parent.fd.raw) {
                directories[real] = DirectoryRecord(inode: info.inode, metadata: Metadata(entry))
                if tracksInodes { touched.insert(info.inode) }
            }
        }
        if options.isStrict, let problem = strictProblem { throw problem }
    }

    /// Whether a link leads to a directory inside the root.
    private func leadsToDirectory(_ path: LayerPath) -> Bool {
        let fd = ck_openat2(root, path.cString, UInt64(pathOnly | O_DIRECTORY | O_CLOEXEC), 0, Resolve.inRoot)
        if fd >= 0 { close(fd) }
        return fd >= 0
    }

    var strictProblem: LayerError?

    func setOpaque(_ name: [CChar], _ parent: Int32, _ path: LayerPath) throws(LayerError) {
        guard case .overlay(let overlay, _, _) = form else { return }
        try filing(path.description) { () throws(FileError) in try overlay.setOpaque(name, at: parent) }
    }

    private func makeNode(_ entry: TarEntry) throws(LayerError) {
        let parent = try self.parent(of: entry.path)
        let name = cString(entry.path.name)
        if case .characterDevice(0, 0) = entry.kind, !isMerged {
            throw .refused(
                entry.path.bytes,
                "a character device 0:0 means 'deleted' to overlayfs; it must not come from an image")
        }
        switch entry.kind {
        case .characterDevice, .blockDevice:
            guard options.makesDevices else {
                note(\.skippedDevices, "device", entry.path)
                try clear(name, parent, for: entry)
                return
            }
        default: break
        }
        for attempt in 0..<2 {
            if create(entry, name, parent.fd.raw) { break }
            guard attempt == 0, Glibc.errno == EEXIST else {
                throw LayerError(FileError.last("create", ""), entry: entry.path.description)
            }
            try clear(name, parent, for: entry)
        }
        try finishNode(entry, name, parent.fd.raw)
        try touch(name, parent.fd.raw, entry.path)
    }

    /// False with errno.
    private func create(_ entry: TarEntry, _ name: [CChar], _ parent: Int32) -> Bool {
        let mode = entry.permissions & 0o777
        return switch entry.kind {
        case .symbolicLink(let target): symlinkat(cString(target), parent, name) == 0
        case .fifo: mknodat(parent, name, S_IFIFO | mode, 0) == 0
        case .characterDevice(let major, let minor):
            mknodat(parent, name, S_IFCHR | mode, ck_makedev(major, minor)) == 0
        case .blockDevice(let major, let minor):
            mknodat(parent, name, S_IFBLK | mode, ck_makedev(major, minor)) == 0
        default: false
        }
    }

    private func makeHardLink(_ entry: TarEntry, _ target: [UInt8]) throws(LayerError) {
        let targetPath = try LayerPath(parsing: target)
        guard !targetPath.isRoot else { throw .refused(entry.path.bytes, "a hard link to the root") }
        let source = try linkSource(targetPath, entry)
        let parent = try self.parent(of: entry.path)
        let (from, name) = (cString(targetPath.name), cString(entry.path.name))
        for attempt in 0..<2 {
            // No AT_SYMLINK_FOLLOW: a link to a link shares the link.
            if linkat(source.raw, from, parent.fd.raw, name, 0) == 0 { break }
            guard attempt == 0, Glibc.errno == EEXIST else {
                throw LayerError(
                    .malformed,
                    "'\(entry.path)': cannot link to '\(targetPath)': \(String(cString: strerror(Glibc.errno)))",
                    hint: "the layer links to something that no earlier entry made; the image is damaged")
            }
            let same = try filing(entry.path.description) { () throws(FileError) in
                try (status(of: name, at: parent.fd.raw)?.inode, status(of: from, at: source.raw)?.inode)
            }
            if same.0 != nil, same.0 == same.1 { break }
            try clear(name, parent, for: entry)
        }
        try touch(name, parent.fd.raw, entry.path)
    }

    private func touch(_ name: [CChar], _ parent: Int32, _ path: LayerPath) throws(LayerError) {
        guard tracksInodes else { return }
        try filing(path.description) { () throws(FileError) in
            if let info = try status(of: name, at: parent) { touched.insert(info.inode) }
        }
    }

    // MARK: - What is in the way

    /// Removes whatever has the name of an entry that is about to be made.
    func clear(_ name: [CChar], _ parent: ParentCache, for entry: TarEntry) throws(LayerError) {
        let there = try filing(entry.path.description) { () throws(FileError) in
            try status(of: name, at: parent.fd.raw)
        }
        guard let there else { return }
        noteDuplicate(there, entry)
        if let problem = strictProblem { throw problem }
        try filing(entry.path.description) { () throws(FileError) in
            try removeTree(name, at: parent.fd.raw)
        }
        if there.kind == .directory || there.kind == .link { parentCache = nil }
    }

    private func noteDuplicate(_ there: FileStatus?, _ entry: TarEntry) {
        guard let there, !there.isWhiteout else { return }
        let isOwn: Bool
        if isMerged {
            isOwn = layerIndex == 0 ? there.kind != .directory : touched.contains(there.inode)
        } else {
            isOwn = there.kind != .directory
        }
        guard isOwn else { return }
        note(\.duplicates, "duplicate", entry.path)
        if options.isStrict {
            strictProblem = .refused(entry.path.bytes, "a second entry for this path in one layer (--strict)")
        }
    }

    func note(_ counter: WritableKeyPath<UnpackReport, Int>, _ key: String, _ path: LayerPath) {
        report[keyPath: counter] += 1
        if report.examples[key] == nil { report.examples[key] = path.description }
    }

    /// The path of an open directory from the root of the tree.
    func realPath(of directory: Int32) throws(FileError) -> LayerPath {
        let full = try readLink(procPath(directory), at: currentDirectory)
        let below = full.dropFirst(rootPath.count)
        return LayerPath(unchecked: Array(below.drop { $0 == UInt8(ascii: "/") }))
    }
}

extension TreeWriter {
    /// The whiteouts that are in the tree, after `finish`. Overlay form only.
    package var whiteoutPaths: [LayerPath] { whiteouts }
}
