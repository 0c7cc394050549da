import ArgumentParser
import Files
import Glibc
import Layers
import OCI
import Runtime
import Store
import SystemPackage

extension ListFormat: ExpressibleByArgument {}
extension SaveFormat: ExpressibleByArgument {}

/// `imgbox images`
struct ImagesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "images", abstract: "List the images in the store.")

    @OptionGroup var store: RootOption

    @Argument(help: "Only the images of this name.")
    var name: String?

    @Flag(name: [.short, .long], help: "Print only the image IDs.")
    var quiet = false

    @Flag(help: "Print whole digests.")
    var noTrunc = false

    @Option(help: "table or json.")
    var format: ListFormat = .table

    func run() throws {
        let store = try self.store.open()
        let wanted = try name.map { try Reference(parsing: $0) }
        var rows: [[String]] = []
        var json: [JSON] = []
        for (reference, descriptor) in try store.images() {
            if let wanted,
                reference?.name != wanted.name
                    || (name?.contains(":") == true && reference?.tag != wanted.tag)
            {
                continue
            }
            let line = try describe(reference, descriptor, store)
            rows.append(line.row)
            json.append(line.json)
        }
        if quiet {
            writeText(rows.map { $0[2] + "\n" }.joined(), to: 1)
        } else {
            printList(
                format, header: ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], rows: rows, json: json)
        }
    }

    private func describe(
        _ reference: Reference?, _ descriptor: Descriptor, _ store: Store
    ) throws -> (row: [String], json: JSON) {
        let members = try store.manifests(of: descriptor)
        let member =
            try members.first { try Platform.host.accepts(store.config($0.manifest).platform) }
            ?? members.first
        let config = try member.map { try store.config($0.manifest) }
        let size = member.map { member in member.manifest.layers.reduce(0) { $0 + $1.size } } ?? 0
        let id = member?.manifest.config.digest ?? descriptor.digest
        let row = [
            reference?.name ?? "<none>", reference?.tag ?? "<none>", noTrunc ? id.description : id.short,
            age(config?.created, now: Int64(time(nil))), readable(size),
        ]
        let json: JSON = [
            "Id": .string(id.description), "Digest": .string(descriptor.digest.description),
            "Names": .array(reference.map { [.string($0.description)] } ?? []),
            "Repository": reference.map { .string($0.name) } ?? .null,
            "Tag": reference?.tag.map { .string($0) } ?? .null,
            "Created": config?.created.map { .string($0) } ?? .null, "Size": .integer(size),
            "Platforms": .array(
                try members.map { .string(try store.config($0.manifest).platform.description) }),
        ]
        return (row, json)
    }
}

/// `imgbox inspect`
enum InspectedType: String, ExpressibleByArgument { case container, image }

struct InspectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "inspect", abstract: "Print what is known about containers and images, as JSON.")

    @OptionGroup var store: RootOption

    @Argument(help: "Containers and images, by name or id.")
    var names: [String]

    @Option(
        help: ArgumentHelp("container or image (default: a container where there is one).", valueName: "type")
    )
    var type: InspectedType?

    @Option(help: ArgumentHelp("The platform, if not this machine's.", valueName: "platform"))
    var platform: String?

    func run() throws {
        let store = try self.store.open()
        let wanted = try platform.map { try Platform(parsing: $0) }
        let list = try names.map { name -> JSON in
            if type != .image, let record = try container(name, store) {
                return containerDocument(record, store)
            }
            return try document(store.resolve(name, platform: wanted), store)
        }
        writeText(JSON.array(list).pretty() + "\n", to: 1)
    }

    /// nil where there is none and an image may be meant.
    private func container(_ name: String, _ store: Store) throws -> ContainerRecord? {
        if type == .container { return try ContainerDirectory.find(name, in: store) }
        return try ContainerDirectory.list(store).first {
            $0.name == name || $0.id == name || (name.utf8.count >= 12 && $0.id.hasPrefix(name))
        }
    }

    private func document(_ image: ResolvedImage, _ store: Store) throws -> JSON {
        let names = image.references.map { JSON.string($0.description) }
        let digests = Set(image.references.map(\.name)).sorted().map {
            JSON.string("\($0)@\(image.root.digest)")
        }
        let layers = zip(image.manifest.layers, image.config.diffIDs).map { descriptor, diffID -> JSON in
            [
                "Digest": .string(descriptor.digest.description), "DiffID": .string(diffID.description),
                "MediaType": .string(descriptor.mediaType), "Size": .integer(descriptor.size),
            ]
        }
        return [
            "Id": .string(image.configDigest.description), "Digest": .string(image.root.digest.description),
            "ManifestDigest": .string(image.manifestDigest.description), "RepoTags": .array(names),
            "RepoDigests": .array(digests), "Created": image.config.created.map { .string($0) } ?? .null,
            "Author": image.config.author.map { .string($0) } ?? .null,
            "Architecture": .string(image.config.platform.architecture),
            "Os": .string(image.config.platform.os),
            "Variant": image.config.platform.variant.map { .string($0) } ?? .null,
            "Size": .integer(image.manifest.layers.reduce(0) { $0 + $1.size }),
            "Config": image.config.config.json,
            "RootFS": [
                "Type": "layers", "Layers": .array(image.config.diffIDs.map { .string($0.description) }),
            ],
            "Layers": .array(layers),
        ]
    }
}

/// `imgbox history`
struct HistoryCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "history", abstract: "Show how an image was made, the newest step first.")

    @OptionGroup var store: RootOption

    @Argument(help: "The image.")
    var image: String

    @Flag(name: [.short, .long], help: "Print only the digests of the layers.")
    var quiet = false

    @Flag(help: "Do not shorten the commands.")
    var noTrunc = false

    @Option(help: "table or json.")
    var format: ListFormat = .table

    func run() throws {
        let store = try self.store.open()
        let image = try store.resolve(self.image)
        var layers = image.manifest.layers[...]
        var rows: [[String]] = []
        var json: [JSON] = []
        var history = image.config.history
        // An image may say less about its past than it has layers.
        while history.filter({ !$0.isEmptyLayer }).count < layers.count {
            history.append(.init(created: nil, createdBy: ""))
        }
        for step in history {
            let layer = step.isEmptyLayer ? nil : layers.popFirst()
            let text =
                noTrunc || step.createdBy.count <= 45 ? step.createdBy : step.createdBy.prefix(44) + "…"
            rows.append([
                layer?.digest.short ?? "-", age(step.created, now: Int64(time(nil))), printable(String(text)),
                readable(layer?.size ?? 0), printable(step.comment),
            ])
            json.append([
                "Layer": layer.map { .string($0.digest.description) } ?? .null,
                "Created": step.created.map { .string($0) } ?? .null, "CreatedBy": .string(step.createdBy),
                "Size": .integer(layer?.size ?? 0), "Comment": .string(step.comment),
                "EmptyLayer": .bool(step.isEmptyLayer),
            ])
        }
        rows.reverse()
        json.reverse()
        if quiet {
            writeText(rows.map { $0[0] + "\n" }.joined(), to: 1)
        } else {
            printList(
                format, header: ["LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"], rows: rows, json: json)
        }
    }
}

/// `imgbox tag`
struct TagCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tag", abstract: "Give an image one more name.")

    @OptionGroup var store: RootOption

    @Argument(help: "The image.")
    var image: String

    @Argument(help: "The new name.")
    var name: String

    func run() throws { try store.open().tag(image, as: Reference(parsing: name)) }
}

/// `imgbox rmi`
struct RemoveImageCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rmi", abstract: "Take names from images, and remove what no name needs any more.")

    @OptionGroup var store: RootOption

    @Argument(help: "The images.")
    var images: [String]

    func run() throws {
        let store = try self.store.open()
        var isGone = false
        for image in images {
            let (untagged, deleted) = try store.remove(image)
            for name in untagged { writeText("Untagged: \(name)\n", to: 1) }
            if let deleted {
                isGone = true
                writeText("Deleted: \(deleted)\n", to: 1)
            }
        }
        if isGone { _ = try store.collectGarbage() }
    }
}

/// `imgbox save`
struct SaveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "save", abstract: "Write images to an archive or an OCI layout.",
        discussion: "The digests stay as they are, and the same images give the same bytes.")

    @OptionGroup var store: RootOption

    @Argument(help: "The images.")
    var images: [String]

    @Option(name: [.short, .long], help: "The file or directory to write; default: standard output.")
    var output: String?

    @Option(help: "docker-archive (which is an OCI archive as well), oci-archive or oci-dir.")
    var format: SaveFormat = .dockerArchive

    func run() throws {
        let store = try self.store.open()
        if format == .ociDirectory {
            guard let output else {
                throw UsageError("--format oci-dir needs a directory", hint: "say where: -o DIR")
            }
            return try store.saveDirectory(images, to: FilePath(output))
        }
        guard let output, output != "-" else {
            guard isatty(1) == 0 else {
                throw UsageError(
                    "an archive is not for a terminal", hint: "name a file with -o, or redirect the output")
            }
            return try store.saveArchive(images, format, to: 1)
        }
        let file = try open(output + ".part", O_RDWR | O_CREAT | O_TRUNC, mode: 0o644)
        do {
            try store.saveArchive(images, format, to: file.raw)
            try rename(output + ".part", at: currentDirectory, to: output, at: currentDirectory)
        } catch {
            try unlink(output + ".part", at: currentDirectory)
            throw error
        }
    }
}
