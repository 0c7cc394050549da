import Files
import Glibc
import Layers
import OCI
import SystemPackage

extension ImageImporter {
    /// An image of one layer from the tar of a root file system. gzip, zstd and plain tar are kept byte for byte; xz
    /// and bzip2 have no media type in an image, and become zstd.
    func rootfsCandidate(_ fd: Int32, _ compression: Compression, _ name: String) throws(StoreError)
        -> ImageCandidate
    {
        let layer: LayerCompression =
            switch compression {
            case .none: .none
            case .gzip: .gzip
            case .zstd, .xz, .bzip2: .zstd
            }
        do throws(LayerError) {
            let file: OwnedFD
            do throws(FileError) {
                file = try open("layer", O_RDWR | O_CREAT | O_TRUNC, mode: 0o644, at: staging.fd.raw)
            } catch { throw LayerError(error, entry: name) }
            if compression == .xz || compression == .bzip2 {
                try recompress(fd, compression, to: file.raw)
            } else {
                do throws(FileError) { try copyContent(from: fd, to: file.raw, name: name) } catch {
                    throw LayerError(error, entry: name)
                }
            }
            return try candidate(file.raw, layer, createdBy: "imgbox pull-local (rootfs tar)")
        } catch {
            throw StoreError(error, "'\(printable(name))'")
        }
    }

    /// An image of one layer from a directory.
    func treeCandidate(_ directory: Int32, _ name: String) throws(StoreError) -> ImageCandidate {
        do throws(LayerError) {
            do throws(FileError) {
                let file = try open("layer", O_RDWR | O_CREAT | O_TRUNC, mode: 0o644, at: staging.fd.raw)
                let raw = file.raw
                let output: ZstdWriter
                do throws(LayerError) {
                    output = try ZstdWriter { bytes throws(FileError) in try write(raw, bytes, name: "layer")
                    }
                } catch { throw FileError("zstd", "layer", .noMemory) }
                var archiver = try TreeArchiver(root: directory) { bytes throws(FileError) in
                    try bytes.withUnsafeBytes { space in
                        attempt { () throws(FileError) in try output.write(space) }
                    }.get()
                }
                try archiver.archive(directory)
                try output.finish()
            } catch { throw LayerError(error, entry: name) }
            let file: OwnedFD
            do throws(FileError) { file = try open("layer", O_RDONLY, at: staging.fd.raw) } catch {
                throw LayerError(error, entry: name)
            }
            return try candidate(file.raw, .zstd, createdBy: "imgbox pull-local (directory)")
        } catch {
            throw StoreError(error, "'\(printable(name))'")
        }
    }

    private func recompress(_ fd: Int32, _ compression: Compression, to target: Int32) throws(LayerError) {
        let output = try ZstdWriter { bytes throws(FileError) in try write(target, bytes, name: "layer") }
        let stream = try LayerStream(
            fd, LayerSource(compression: compression, maximumSize: request.options.maximumSize))
        do throws(LayerError) {
            try stream.forEach { bytes throws(LayerError) in
                do throws(FileError) { try output.write(bytes) } catch {
                    throw LayerError(error, entry: "layer")
                }
            }
            _ = try stream.finish()
            do throws(FileError) { try output.finish() } catch { throw LayerError(error, entry: "layer") }
        } catch {
            stream.cancel()
            throw error
        }
    }

    /// Reads a layer to its end: its digest, and the newest time in it. That is the image's own time, the same
    /// wherever and whenever it is taken in.
    private func survey(
        _ fd: Int32, _ source: LayerSource
    ) throws(LayerError) -> (LayerStream.Summary, newest: Int64?) {
        let stream = try LayerStream(fd, source)
        do throws(LayerError) {
            let reader = try TarReader(stream)
            var newest: Int64?
            while let entry = try reader.next() { newest = max(newest ?? 0, entry.modified.seconds) }
            guard newest != nil else { throw LayerError(.malformed, "the archive has no entries") }
            return (try stream.finish(), newest)
        } catch {
            stream.cancel()
            throw error
        }
    }

    /// Reads the layer that stands in the staging directory once, and describes an image with it.
    private func candidate(
        _ fd: Int32, _ compression: LayerCompression, createdBy: String
    ) throws(LayerError) -> ImageCandidate {
        lseek(fd, 0, SEEK_SET)
        let (digest, size): (Digest, Int64)
        do throws(FileError) { (digest, size) = try hashFile(fd, .sha256) } catch {
            throw LayerError(error, entry: "layer")
        }
        lseek(fd, 0, SEEK_SET)
        let source = LayerSource(
            compression: Compression(compression), maximumSize: request.options.maximumSize)
        let (summary, newest) = try survey(fd, source)
        let created = request.created ?? newest.flatMap(rfc3339)
        let layer = Descriptor(mediaType: compression.mediaType, digest: digest, size: size)
        var config = ImageConfig(
            platform: request.platform ?? .host, diffIDs: [summary.diffID], created: created)
        config.config.env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        config.history = [.init(created: created, createdBy: createdBy)]
        let configBytes = config.serialized()
        let configDigest = Digest(of: configBytes)
        let manifest = Manifest(
            config: Descriptor(
                mediaType: MediaType.config, digest: configDigest, size: Int64(configBytes.count)),
            layers: [layer])
        let text = manifest.serialized()
        var candidate = ImageCandidate(
            root: Descriptor(
                mediaType: MediaType.manifest, digest: Digest(of: text), size: Int64(text.count),
                platform: config.platform))
        candidate.documents = [(candidate.root.digest, text), (configDigest, configBytes)]
        candidate.images = [
            .init(manifest: manifest, config: config, layerPaths: ["layer"], isUnpacked: true)
        ]
        candidate.name = request.name
        return candidate
    }
}
