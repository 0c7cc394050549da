import ArgumentParser
import Files
import Glibc
import Layers
import OCI
import Runtime
import Store
import SystemPackage

/// `imgbox unpack`
struct UnpackCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unpack",
        abstract: "Write the root file system of an image into a directory.",
        discussion: """
            The tree is the one that a container of the image sees. The directory must be new or empty; it appears only \
            when it is whole.
            """)

    @OptionGroup var store: RootOption

    @Argument(help: "The image.")
    var image: String

    @Argument(help: "The directory to make.")
    var directory: String

    @Option(help: ArgumentHelp("The platform, if not this machine's.", valueName: "platform"))
    var platform: String?

    @Option(
        name: .customLong("uid-map"),
        help: ArgumentHelp("Shift user ids: CONTAINER:HOST:COUNT. May be repeated.", valueName: "map"))
    var uidMap: [String] = []

    @Option(
        name: .customLong("gid-map"),
        help: ArgumentHelp("Shift group ids; default: as --uid-map.", valueName: "map"))
    var gidMap: [String] = []

    @Flag(
        help: "Give every file to the user who runs this, and leave device nodes out. Always so without root."
    )
    var rootless = false

    @Flag(help: "Keep a link to a directory where the image has a directory entry in its place.")
    var keepDirlinks = false

    @Flag(help: "Leave device nodes out.")
    var noDevices = false

    @Flag(help: "Make an OCI bundle: DIRECTORY/rootfs and DIRECTORY/config.json, for runc and crun.")
    var bundle = false

    @Flag(name: [.short, .long], help: "Show no progress.")
    var quiet = false

    @OptionGroup var limits: UnpackFlags

    func run() throws {
        let store = try self.store.open()
        let wanted = try platform.map { try Platform(parsing: $0) }
        let resolved = try store.resolve(image, platform: wanted)
        if bundle { try makeBundle() }
        let display = ProgressDisplay.forTerminal(quiet: quiet)
        let report: UnpackReport
        do {
            report = try store.unpack(
                resolved, to: FilePath(target), options: try options(), progress: display?.handler)
            display?.finish()
        } catch {
            display?.finish()
            throw error
        }
        for warning in report.warnings { remark(warning) }
        if bundle { try writeConfig(resolved, store) }
    }

    private var target: String { bundle ? directory + "/rootfs" : directory }

    /// A bundle's directory is new or empty, as a plain one has to be.
    private func makeBundle() throws {
        guard try !makeDirectory(directory) else { return }
        let there = try open(directory, O_RDONLY | O_DIRECTORY)
        guard try entries(of: there.raw).isEmpty else {
            throw UsageError(
                "'\(printable(directory))' is not empty", hint: "give a new or an empty directory")
        }
    }

    private func writeConfig(_ image: ResolvedImage, _ store: Store) throws {
        let spec = try SpecBuilder.bundle(image.config.config, users: UserLookup(LayerStack([target])))
        let there = try open(directory, O_RDONLY | O_DIRECTORY)
        try replaceFile(
            "config.json", at: there.raw, with: Array((spec.json.pretty() + "\n").utf8), durable: false)
    }

    private func options() throws -> UnpackOptions {
        var options = try limits.options()
        options.uidMapping = IDMapping(try uidMap.map { try IDRange(parsing: $0) })
        options.gidMapping =
            gidMap.isEmpty ? options.uidMapping : IDMapping(try gidMap.map { try IDRange(parsing: $0) })
        options.keepsDirectoryLinks = keepDirlinks
        if rootless { options.squashesOwners = true }
        if rootless || noDevices { options.makesDevices = false }
        return options
    }
}
