/// The size up to which a manifest or index is read: 4 MiB, as registries have it (CVE-2023-25153).
package let maximumManifestSize = 4 << 20
/// The size up to which an image configuration is read.
package let maximumConfigSize = 16 << 20

/// A manifest or an index, told apart without a doubt.
package enum ImageDocument: Sendable {
    case manifest(Manifest)
    case index(ImageIndex)

    /// Reads a document that a descriptor of type `mediaType` led to. The type inside must be the same, and a document
    /// with the fields of both kinds is refused (CVE-2021-41190).
    package init(parsing bytes: [UInt8], mediaType: String) throws(OCIError) {
        let json = try JSON(parsing: bytes)
        guard json.object != nil else { throw OCIError(.document, "the manifest is no JSON object") }
        if let inside = json["mediaType"], inside.string != mediaType {
            throw OCIError(
                .mediaType,
                "the descriptor says \(mediaType), the document itself \(inside.string ?? "something else")")
        }
        guard json["schemaVersion"]?.integer == 2 else {
            throw OCIError(.document, "the schemaVersion of the manifest is not 2")
        }
        let isBoth = json["manifests"] != nil && (json["layers"] != nil || json["config"] != nil)
        guard !isBoth, json["fsLayers"] == nil else {
            throw OCIError(
                .mediaType, "the document claims to be a manifest and an index at once (CVE-2021-41190)")
        }
        if MediaType.isManifest(mediaType) {
            self = .manifest(try Manifest(json: json))
        } else if MediaType.isIndex(mediaType) {
            self = .index(try ImageIndex(json: json))
        } else {
            throw OCIError(.mediaType, "the media type '\(mediaType)' is no manifest and no index")
        }
    }
}

/// An image manifest (image-spec manifest.md).
package struct Manifest: Sendable {
    package let config: Descriptor
    /// Bottom first.
    package let layers: [Descriptor]
    package let annotations: [(key: String, value: String)]

    package init(config: Descriptor, layers: [Descriptor]) {
        self.config = config
        self.layers = layers
        annotations = []
    }

    init(json: JSON) throws(OCIError) {
        guard let config = json["config"] else { throw OCIError(.document, "the manifest has no config") }
        self.config = try Descriptor(json: config, place: "the manifest's config")
        guard MediaType.isConfig(self.config.mediaType) else {
            throw OCIError(
                .mediaType,
                "the config has the media type '\(self.config.mediaType)': this is no container image")
        }
        guard let layers = json["layers"]?.array else {
            throw OCIError(.document, "the manifest has no layers")
        }
        guard layers.count <= 4096 else {
            throw OCIError(.document, "the manifest has more than 4096 layers")
        }
        var list: [Descriptor] = []
        for (index, layer) in layers.enumerated() {
            let descriptor = try Descriptor(json: layer, place: "layer \(index)")
            guard MediaType.compression(ofLayer: descriptor.mediaType) != nil else {
                throw OCIError(
                    .mediaType, "layer \(index) has the unknown media type '\(descriptor.mediaType)'",
                    hint: "known are tar, tar+gzip and tar+zstd, in the OCI's and docker's names")
            }
            list.append(descriptor)
        }
        self.layers = list
        annotations = (json["annotations"]?.object ?? []).compactMap { member in
            member.value.string.map { (member.key, $0) }
        }
    }

    /// The bytes of this manifest as this program writes it.
    package func serialized() -> [UInt8] {
        let json: JSON = [
            "schemaVersion": .integer(2), "mediaType": .string(MediaType.manifest), "config": config.json,
            "layers": .array(layers.map(\.json)),
        ]
        return json.serialized()
    }
}

/// A list of images (image-spec image-index.md), also the `index.json` of a layout.
package struct ImageIndex: Sendable {
    package var manifests: [Descriptor]

    package init(manifests: [Descriptor] = []) {
        self.manifests = manifests
    }

    package init(json: JSON) throws(OCIError) {
        guard let items = json["manifests"]?.array else {
            throw OCIError(.document, "the index has no manifests")
        }
        var list: [Descriptor] = []
        for (number, item) in items.enumerated() {
            list.append(try Descriptor(json: item, place: "entry \(number) of the index"))
        }
        manifests = list
    }

    /// Reads the `index.json` of a layout, where the media type inside is optional.
    package init(parsingLayoutIndex bytes: [UInt8]) throws(OCIError) {
        let json = try JSON(parsing: bytes)
        if let type = json["mediaType"]?.string, !MediaType.isIndex(type) {
            throw OCIError(.mediaType, "index.json has the media type '\(type)'")
        }
        guard json["layers"] == nil, json["config"] == nil else {
            throw OCIError(
                .mediaType, "index.json claims to be a manifest and an index at once (CVE-2021-41190)")
        }
        try self.init(json: json)
    }

    package func serialized() -> [UInt8] {
        let json: JSON = [
            "schemaVersion": .integer(2), "mediaType": .string(MediaType.index),
            "manifests": .array(manifests.map(\.json)),
        ]
        return json.serialized()
    }
}
