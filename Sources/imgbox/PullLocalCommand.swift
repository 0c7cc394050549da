import ArgumentParser
import Files
import Layers
import OCI
import Store
import SystemPackage

/// `imgbox pull-local`
struct PullLocalCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pull-local",
        abstract: "Take an image into the store from a file, a directory or standard input.",
        discussion: """
            PATH is an OCI layout directory, an OCI archive, an archive of docker save or podman save, the tar of a root \
            file system (plain, gzip, zstd, xz or bzip2), a directory with a root file system, or - for standard input. \
            What it is shows in its content. Every digest and size is verified before the image appears.
            """)

    @OptionGroup var store: RootOption

    @Argument(help: "What to take in; - is standard input.")
    var path: String

    @Argument(help: "The name to give: alpine, alpine:3.20, registry/path:tag.")
    var name: String?

    @Option(help: ArgumentHelp("Which image of several in the input, by its name or tag.", valueName: "name"))
    var ref: String?

    @Option(
        help: ArgumentHelp(
            "The platform to unpack, if not this machine's: os/arch[/variant].", valueName: "platform"))
    var platform: String?

    @Flag(name: [.short, .long], help: "Print nothing but the digests.")
    var quiet = false

    @OptionGroup var limits: UnpackFlags

    func run() throws {
        var request = ImportRequest(
            path == "-" ? .standardInput : .path(FilePath(path)),
            name: try name.map { try Reference(parsing: $0) },
            options: try limits.options())
        request.ref = ref
        request.platform = try platform.map { try Platform(parsing: $0) }
        request.created = try sourceDate()
        let display = ProgressDisplay.forTerminal(quiet: quiet)
        let result: ImportResult
        do {
            result = try store.open().importImages(request, progress: display?.handler)
            display?.finish()
        } catch {
            display?.finish()
            throw error
        }
        for warning in result.report.warnings + result.notes { remark(warning) }
        for image in result.images {
            let digest = image.descriptor.digest.description
            if quiet {
                writeText("\(digest)\n", to: 1)
            } else {
                writeText("\(image.reference?.tagged.description ?? "(no name)") \(digest)\n", to: 1)
            }
        }
    }
}

/// The flags that steer how layers are written.
struct UnpackFlags: ParsableArguments {
    @Option(
        help: ArgumentHelp("The most that one layer may expand to (default: 64g).", valueName: "size"))
    var maxLayerSize: String?

    @Flag(help: "Refuse what is tolerated otherwise: two entries for a path, attributes that cannot be kept.")
    var strict = false

    func options() throws -> UnpackOptions {
        var options = UnpackOptions()
        if let text = maxLayerSize { options.maximumSize = try byteCount(text, flag: "--max-layer-size") }
        options.isStrict = strict
        return options
    }
}
