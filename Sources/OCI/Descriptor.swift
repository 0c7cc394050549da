import Files

/// The media types that this program knows. Docker's old names are read as the OCI's.
package enum MediaType {
    package static let index = "application/vnd.oci.image.index.v1+json"
    package static let manifest = "application/vnd.oci.image.manifest.v1+json"
    package static let config = "application/vnd.oci.image.config.v1+json"
    package static let layer = "application/vnd.oci.image.layer.v1.tar"
    package static let dockerIndex = "application/vnd.docker.distribution.manifest.list.v2+json"
    package static let dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
    package static let dockerConfig = "application/vnd.docker.container.image.v1+json"

    package static func isIndex(_ type: String) -> Bool { type == index || type == dockerIndex }
    package static func isManifest(_ type: String) -> Bool { type == manifest || type == dockerManifest }
    package static func isConfig(_ type: String) -> Bool { type == config || type == dockerConfig }

    /// How a layer's tar stream is compressed; nil for a type that is no layer.
    package static func compression(ofLayer type: String) -> LayerCompression? {
        switch type {
        case layer, "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar":
            LayerCompression.none
        case layer + "+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip":
            .gzip
        case layer + "+zstd", "application/vnd.docker.image.rootfs.diff.tar.zstd",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":
            .zstd
        default: nil
        }
    }
}

/// The compressions that a layer can have in an image.
package enum LayerCompression: String, Sendable {
    case none, gzip, zstd

    /// The media type of a layer compressed in this way.
    package var mediaType: String { self == .none ? MediaType.layer : "\(MediaType.layer)+\(rawValue)" }
}

/// What points to a blob: its type, digest and size (image-spec descriptor.md).
package struct Descriptor: Sendable, Equatable {
    package var mediaType: String
    package var digest: Digest
    /// In bytes.
    package var size: Int64
    package var platform: Platform?
    package var annotations: [(key: String, value: String)]

    /// The annotation of a layout's index that names an image there.
    package static let refName = "org.opencontainers.image.ref.name"
    /// containerd's annotation with the full name.
    package static let containerdName = "io.containerd.image.name"

    package init(
        mediaType: String, digest: Digest, size: Int64, platform: Platform? = nil,
        annotations: [(key: String, value: String)] = []
    ) {
        self.mediaType = mediaType
        self.digest = digest
        self.size = size
        self.platform = platform
        self.annotations = annotations
    }

    /// Reads a descriptor from a document; `place` says where in messages.
    package init(json: JSON, place: String) throws(OCIError) {
        guard let text = json["digest"]?.string else { throw OCIError(.document, "\(place) has no digest") }
        digest = try Digest(parsing: text)
        guard let size = json["size"]?.integer, size >= 0 else {
            throw OCIError(.document, "\(place): the size is no number of bytes (0 or more)")
        }
        self.size = size
        guard let type = json["mediaType"]?.string, !type.isEmpty else {
            throw OCIError(.document, "\(place) has no mediaType")
        }
        mediaType = type
        platform = json["platform"].flatMap(Platform.init(json:))
        annotations = (json["annotations"]?.object ?? []).compactMap { member in
            member.value.string.map { (member.key, $0) }
        }
    }

    package func annotation(_ key: String) -> String? { annotations.first { $0.key == key }?.value }

    package var json: JSON {
        var members: [(key: String, value: JSON)] = [
            ("mediaType", .string(mediaType)), ("digest", .string(digest.description)),
            ("size", .integer(size)),
        ]
        if let platform {
            var parts: [(key: String, value: JSON)] = [
                ("architecture", .string(platform.architecture)), ("os", .string(platform.os)),
            ]
            if let variant = platform.variant { parts.append(("variant", .string(variant))) }
            members.append(("platform", .object(parts)))
        }
        if !annotations.isEmpty {
            members.append(("annotations", .object(annotations.map { ($0.key, .string($0.value)) })))
        }
        return .object(members)
    }

    package static func == (left: Descriptor, right: Descriptor) -> Bool {
        left.json == right.json
    }
}
