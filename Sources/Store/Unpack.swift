import Files
import Glibc
package import Layers
import OCI
package import SystemPackage

extension Store {
    /// Writes the merged tree of an image into a directory that must be new or empty. On any error the directory is as
    /// it was: a new one is made under another name and renamed when it is whole, an empty one is emptied again.
    package func unpack(
        _ image: ResolvedImage, to destination: FilePath, options: UnpackOptions,
        progress: ProgressHandler? = nil
    ) throws(StoreError) -> UnpackReport {
        let content = try holdContent()
        defer { _ = content }
        guard let leaf = destination.lexicallyNormalized().lastComponent, leaf.kind == .regular else {
            return try unpackInto(existing: destination.string, image, options, progress)
        }
        let there = try filing { () throws(FileError) in
            try status(of: destination.string, at: currentDirectory, follow: true)
        }
        if there != nil { return try unpackInto(existing: destination.string, image, options, progress) }
        let parentPath = destination.lexicallyNormalized().removingLastComponent()
        let parent = try filing { () throws(FileError) in
            try open(parentPath.isEmpty ? "." : parentPath.string, O_RDONLY | O_DIRECTORY)
        }
        try sweepUnpacking(parent.raw)
        let temporary = ".imgbox-unpack-\(getpid())-\(leaf.string.prefix(200))"
        do throws(StoreError) {
            let directory = try filing { () throws(FileError) in
                guard try makeDirectory(temporary, mode: 0o700, at: parent.raw) else {
                    throw FileError("mkdir", temporary, .fileExists)
                }
                let made = try open(temporary, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, at: parent.raw)
                // The lock says that somebody is at work here; without it the next unpack sweeps the directory.
                guard try tryExclusiveLock(made.raw, name: temporary) else {
                    throw FileError("lock", temporary, .resourceTemporarilyUnavailable)
                }
                return made
            }
            let report = try unpackLayers(of: image, into: directory.raw, options, progress)
            try filing { () throws(FileError) in
                try rename(temporary, at: parent.raw, to: leaf.string, at: parent.raw, flags: renameNoReplace)
            }
            return report
        } catch {
            try filing { () throws(FileError) in try removeTree(temporary, at: parent.raw) }
            throw error
        }
    }

    /// Removes what an unpack that was killed has left beside its destination.
    private func sweepUnpacking(_ parent: Int32) throws(StoreError) {
        try filing { () throws(FileError) in
            for entry in try entries(of: parent) where entry.bytes.starts(with: Array(".imgbox-unpack-".utf8))
            {
                let name = String(decoding: entry.bytes, as: UTF8.self)
                // It may belong to somebody else, or go away by itself meanwhile.
                guard let fd = try? open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, at: parent),
                    let info = try? status(of: fd.raw), info.uid == geteuid(),
                    try tryExclusiveLock(fd.raw, name: name)
                else { continue }
                try removeTree(name, at: parent)
            }
        }
    }

    private func unpackInto(
        existing path: String, _ image: ResolvedImage, _ options: UnpackOptions, _ progress: ProgressHandler?
    ) throws(StoreError) -> UnpackReport {
        let directory = try filing { () throws(FileError) in try open(path, O_RDONLY | O_DIRECTORY) }
        let isEmpty = try filing(path) { () throws(FileError) in try entries(of: directory.raw).isEmpty }
        guard isEmpty else {
            throw StoreError(
                .refused, "'\(printable(path))' is not empty", hint: "give a new or an empty directory")
        }
        let before = try filing { () throws(FileError) in try status(of: directory.raw) }
        // While it is filled nobody else may look in: set-id programs are there before their owners are right.
        fchmod(directory.raw, 0o700)
        do throws(StoreError) {
            return try unpackLayers(
                of: image, into: directory.raw, options, progress, permissions: before.permissions)
        } catch {
            try filing(path) { () throws(FileError) in
                try removeContents(of: procPath(directory.raw) + "/.", at: currentDirectory)
            }
            fchmod(directory.raw, before.permissions)
            throw error
        }
    }

    private func unpackLayers(
        of image: ResolvedImage, into directory: Int32, _ options: UnpackOptions,
        _ progress: ProgressHandler?,
        permissions: UInt32 = 0o755
    ) throws(StoreError) -> UnpackReport {
        let inputs = layerInputs(image.manifest, image.config, maximumSize: options.maximumSize)
        for input in inputs { progress?(input.descriptor.digest, .waiting(input.descriptor.size)) }
        // The image may describe its root; where it does not, this is how it looks.
        if fchmod(directory, permissions | 0o700) != 0 { throw StoreError(FileError.last("chmod", "/")) }
        do throws(LayerError) {
            let writer = try TreeWriter(root: directory, form: .merged, options: options)
            try apply(inputs, to: writer, progress)
            try writer.finish()
            return writer.report
        } catch {
            throw StoreError(error, "cannot unpack '\(printable(image.name))'")
        }
    }

    /// Layers go on in order; each is already being read and expanded while the one below it is written.
    private func apply(
        _ inputs: [LayerInput], to writer: TreeWriter, _ progress: ProgressHandler?
    ) throws(LayerError) {
        var ahead: RunningLayer?
        defer { ahead?.stream.cancel() }
        for (number, input) in inputs.enumerated() {
            let current: RunningLayer
            if let ready = ahead { current = ready } else { current = try RunningLayer(input, progress) }
            ahead = nil
            if number + 1 < inputs.count { ahead = try RunningLayer(inputs[number + 1], progress) }
            progress?(input.descriptor.digest, .unpacking)
            do throws(LayerError) { _ = try applyLayer(current.stream, to: writer) } catch {
                throw error.prefixed("layer \(input.descriptor.digest)")
            }
            progress?(input.descriptor.digest, .done)
        }
    }
}

/// A layer whose bytes are on their way, and the file that they come from.
private final class RunningLayer {
    let stream: LayerStream
    private let fd: OwnedFD

    init(_ input: LayerInput, _ progress: ProgressHandler?) throws(LayerError) {
        let digest = input.descriptor.digest
        do throws(StoreError) { fd = try input.open() } catch {
            throw LayerError(.system, error.message, hint: error.hint)
        }
        var report: (@Sendable (Int64) -> Void)?
        if let progress { report = { progress(digest, .advanced($0)) } }
        stream = try LayerStream(fd.raw, input.source, progress: report)
    }
}
