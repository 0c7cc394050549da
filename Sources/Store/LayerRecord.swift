import Files
package import OCI
import SystemPackage

/// What `layers/<key>/layer.json` says about an unpacked layer.
package struct LayerRecord: Sendable {
    package let diffID: Digest
    /// The stack that the layer was unpacked on, itself included.
    let chainID: Digest
    /// In bytes, as a tar stream.
    package let expandedSize: Int64
    /// Whether the directory is right above any other layers, and not only above those of `chainID`: it describes
    /// every directory it uses, and has no whiteouts (one that hides nothing shows as a broken name in overlayfs).
    let isSelfContained: Bool
    package let entries: Int

    var json: JSON {
        [
            "format": .integer(1), "diffID": .string(diffID.description),
            "chainID": .string(chainID.description),
            "expandedSize": .integer(expandedSize), "selfContained": .bool(isSelfContained),
            "entries": .integer(entries),
        ]
    }

    init(diffID: Digest, chainID: Digest, expandedSize: Int64, isSelfContained: Bool, entries: Int) {
        (self.diffID, self.chainID, self.expandedSize) = (diffID, chainID, expandedSize)
        (self.isSelfContained, self.entries) = (isSelfContained, entries)
    }

    /// What the directory is called by: the layer alone where it may serve on any stack, else this very stack.
    var key: Digest { isSelfContained ? diffID : chainID }

    init(parsing bytes: [UInt8]) throws(StoreError) {
        let json = try parsing("layer.json") { () throws(OCIError) in try JSON(parsing: bytes) }
        guard json["format"]?.integer == 1, let diff = json["diffID"]?.string,
            let chain = json["chainID"]?.string,
            let size = json["expandedSize"]?.integer, let alone = json["selfContained"]?.bool,
            let entries = json["entries"]?.integer
        else { throw StoreError(.damaged, "layer.json is not as this program writes it") }
        (diffID, chainID) = try parsing("layer.json") { () throws(OCIError) in
            (try Digest(parsing: diff), try Digest(parsing: chain))
        }
        (expandedSize, isSelfContained, self.entries) = (size, alone, Int(clamping: entries))
    }
}

extension Store {
    /// The directory of an unpacked layer below the store. Digests of both algorithms have their own names.
    static func layerPath(_ key: Digest) -> String {
        "layers/" + (key.algorithm == .sha256 ? key.hex : "\(key.algorithm.rawValue)-\(key.hex)")
    }

    /// The key that a name in `layers/` stands for.
    static func layerKey(_ name: String) -> Digest? {
        try? Digest(parsing: name.hasPrefix("sha512-") ? "sha512:" + name.dropFirst(7) : "sha256:" + name)
    }

    func layerRecord(_ key: Digest) throws(StoreError) -> LayerRecord? {
        let bytes: [UInt8]
        do throws(FileError) {
            bytes = try readFile("\(Store.layerPath(key))/layer.json", at: root, limit: 1 << 20)
        } catch {
            if error.errno == .noSuchFileOrDirectory { return nil }
            throw StoreError(error)
        }
        return try LayerRecord(parsing: bytes)
    }

    /// The unpacked directory that serves as layer `number` of a stack: the one made for exactly this stack, or the
    /// one of the layer alone where that is right above anything.
    func findLayer(_ diffIDs: [Digest], _ number: Int) throws(StoreError) -> Digest? {
        let diffID = diffIDs[number]
        guard let chain = chainID(diffIDs[...number]) else { return nil }
        if try layerRecord(chain) != nil { return chain }
        if number > 0, let record = try layerRecord(diffID), record.isSelfContained { return diffID }
        return nil
    }

    /// The absolute path of an unpacked layer's tree.
    func treePath(_ key: Digest) -> String { path.appending(Store.layerPath(key)).appending("tree").string }
}
