package import Files
import Glibc
package import Layers
package import OCI
package import SystemPackage

/// The image store: a directory that is a valid OCI image layout, with unpacked layers beside it.
///
///     oci-layout index.json blobs/<algorithm>/<hex>     images, as they came
///     layers/<diff ID or chain ID>/{tree/,layer.json}   unpacked, in overlay form
///     containers/<id>/                                  see Runtime
///     staging/<pid>.<n>/                                work in progress, locked by its owner
///     lock                                              byte ranges of it are the locks
///
/// No database: files, renames and locks. What `index.json` names is whole at every instant.
package struct Store: Sendable {
    /// Absolute.
    package let path: FilePath
    private let rootFD: SharedFD
    package var root: Int32 { rootFD.fd.raw }
    /// How whiteouts are written in unpacked layers.
    package let overlayForm: OverlayForm

    private final class SharedFD: Sendable {
        let fd: OwnedFD
        init(_ fd: consuming OwnedFD) { self.fd = fd }
    }

    /// Byte ranges of the file `lock`.
    enum LockRange {
        /// Shared by all who rely on blobs and layers staying; exclusive for who deletes them.
        static let content: Int64 = 0
        /// Exclusive while index.json is replaced.
        static let index: Int64 = 1
        /// One byte for each digest follows, at 2^8 and above.
        static func digest(_ digest: Digest) -> Int64 {
            256 + (Int64(digest.hex.prefix(15), radix: 16) ?? 0)
        }
    }

    static let layoutFile = Array("{\"imageLayoutVersion\":\"1.0.0\"}".utf8)
    static let maximumIndexSize = 64 << 20

    /// Opens the store at `path`, and makes it if it is not there.
    package init(at path: FilePath) throws(StoreError) {
        self.path = path
        overlayForm = .ofThisProcess
        let words = "the store \(path.string)"
        do throws(FileError) {
            try makeDirectories(path)
            rootFD = SharedFD(try open(path.string, O_RDONLY | O_DIRECTORY))
            let root = rootFD.fd.raw
            let index = try status(of: "index.json", at: root)
            let lock = try status(of: "lock", at: root)
            if index == nil || lock == nil { try Store.make(in: root) }
        } catch {
            let needsRight = error.errno == .permissionDenied || error.errno == .notPermitted
            throw StoreError(
                .system, "\(words): \(error.message)",
                hint: error.hint
                    ?? (needsRight ? "choose a store of your own with --root DIR or IMGBOX_ROOT" : nil))
        }
    }

    /// The directories first, the file that says "this is a layout" after them, the index last; each step can be done
    /// by two processes at once.
    private static func make(in root: Int32) throws(FileError) {
        for directory in ["blobs", "blobs/sha256", "layers", "containers", "staging"] {
            // Layers belong to many users inside: nobody else on the host may look for set-id programs in them.
            let isPrivate = directory == "layers" || directory == "containers" || directory == "staging"
            try makeDirectory(directory, mode: isPrivate ? 0o700 : 0o755, at: root)
        }
        _ = try open("lock", O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600, at: root)
        if try status(of: "oci-layout", at: root) == nil {
            try replaceFile("oci-layout", at: root, with: layoutFile, durable: false)
        }
        if try status(of: "index.json", at: root) == nil {
            let lock = try RangeLock(
                file: "lock", at: root, start: LockRange.index, mode: .exclusive, wait: true)
            if try status(of: "index.json", at: root) == nil {
                try replaceFile("index.json", at: root, with: ImageIndex().serialized())
            }
            _ = consume lock
        }
    }

    // MARK: - Locks

    /// Keeps blobs and layers from being deleted while it lives.
    package func holdContent() throws(StoreError) -> RangeLock {
        try lock(LockRange.content, .shared)
    }

    func lock(_ start: Int64, _ mode: RangeLock.Mode) throws(StoreError) -> RangeLock {
        let lock = try filing("the store's lock") { () throws(FileError) in
            try RangeLock(file: "lock", at: root, start: start, mode: mode, wait: true)
        }
        guard let lock else { throw StoreError(.inUse, "the store is in use") }
        return lock
    }

    // MARK: - The index

    package func index() throws(StoreError) -> ImageIndex {
        let bytes = try filing("the store's index") { () throws(FileError) in
            try readFile("index.json", at: root, limit: Store.maximumIndexSize)
        }
        return try parsing("the store's index.json") { () throws(OCIError) in
            try ImageIndex(parsingLayoutIndex: bytes)
        }
    }

    /// Changes the index under its lock; readers see the old one or the new one.
    package func updateIndex(_ change: (inout ImageIndex) throws(StoreError) -> Void) throws(StoreError) {
        let held = try lock(LockRange.index, .exclusive)
        var index = try self.index()
        let before = index.manifests
        try change(&index)
        if index.manifests != before {
            let bytes = index.serialized()
            try filing("the store's index") { () throws(FileError) in
                try replaceFile("index.json", at: root, with: bytes)
            }
        }
        _ = consume held
    }

    // MARK: - Blobs

    /// The path of a blob below the store.
    package static func blobPath(_ digest: Digest) -> String {
        "blobs/\(digest.algorithm.rawValue)/\(digest.hex)"
    }

    package func hasBlob(_ digest: Digest) throws(StoreError) -> Bool {
        try filing { () throws(FileError) in try status(of: Store.blobPath(digest), at: root) != nil }
    }

    package func openBlob(_ digest: Digest) throws(StoreError) -> OwnedFD {
        do throws(FileError) {
            return try open(Store.blobPath(digest), O_RDONLY | O_NOFOLLOW, at: root)
        } catch {
            guard error.errno == .noSuchFileOrDirectory else { throw StoreError(error) }
            throw StoreError(
                .damaged, "the store lacks the blob \(digest)",
                hint: "see what is damaged with: imgbox fsck --deep")
        }
    }

    /// A document of the store, its digest checked: a manifest that rotted on the disk must not be believed.
    package func document(_ descriptor: Descriptor, limit: Int) throws(StoreError) -> [UInt8] {
        let fd = try openBlob(descriptor.digest)
        let bytes = try filing { () throws(FileError) in
            try readAll(fd.raw, limit: limit, name: descriptor.digest.description)
        }
        guard Int64(bytes.count) == descriptor.size,
            Digest(of: bytes, descriptor.digest.algorithm) == descriptor.digest
        else {
            throw StoreError(
                .damaged, "the blob \(descriptor.digest) is damaged in the store",
                hint: "get the image again, or see: imgbox fsck --deep --repair")
        }
        return bytes
    }
}
