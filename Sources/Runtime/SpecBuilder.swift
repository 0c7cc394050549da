import Files
import Glibc
import Kernel
package import OCI

/// Makes the specification of a container from an image's configuration and the user's wishes.
package enum SpecBuilder {
    package static func spec(
        _ options: RunOptions, image: ImageConfig.Execution, users: UserLookup, rootPath: String, id: String,
        surroundings: Surroundings = Surroundings()
    ) throws(RuntimeError) -> ContainerSpec {
        var spec = ContainerSpec.standard(shmSize: options.shmSize)
        spec.rootPath = rootPath
        spec.rootIsReadOnly = options.isReadOnly
        try namespaces(options, surroundings, &spec)
        if options.uts == .own {
            spec.hostname = options.hostname ?? String(id.prefix(12))
        } else if options.hostname != nil || options.domainname != nil {
            throw RuntimeError("--hostname and --domainname cannot be combined with --uts host")
        }
        spec.domainname = options.domainname ?? ""
        spec.annotations = options.labels
        spec.sysctl = options.sysctl
        try checkSysctl(spec)
        standardSysctl(surroundings, &spec)
        resources(options, surroundings, &spec)
        spec.cgroupsPath = id

        let account = try users.resolve(options.user ?? image.user)
        spec.process.user = account.user
        spec.process.terminal = options.hasTerminal
        spec.process.args = command(options, image)
        spec.process.cwd = try workingDirectory(options, image)
        let hostname = spec.hostname.isEmpty ? surroundings.hostname : spec.hostname
        spec.process.env = environment(options, image, hostname: hostname, home: account.home)
        spec.process.limits = options.limits
        spec.process.noNewPrivileges = options.noNewPrivileges
        spec.process.oomScoreAdjustment = options.oomScoreAdjustment
        if let capabilities = options.capabilities { spec.process.capabilities = capabilities }
        spec.maskedPaths += surroundings.thermalPaths
        if options.isPrivileged || options.isUnmasked { (spec.maskedPaths, spec.readonlyPaths) = ([], []) }
        // The user's mount takes the place of a standard one with the same destination.
        kernelMounts(options, surroundings, &spec)
        var own = options.mounts
        try mapOwners(&own, spec)
        let wanted = Set(own.map(\.destination))
        spec.mounts.removeAll { wanted.contains($0.destination) }
        spec.mounts += try volumes(image).filter { !wanted.contains($0.destination) } + own
        // What lies above is mounted first, or it would hide what lies below.
        spec.mounts = spec.mounts.enumerated().sorted {
            (depth($0.element), $0.offset) < (depth($1.element), $1.offset)
        }.map(\.element)
        return spec
    }

    /// The specification for a bundle that other runtimes run: only what every one of them knows.
    package static func bundle(_ image: ImageConfig.Execution, users: UserLookup) throws(RuntimeError)
        -> ContainerSpec
    {
        var options = RunOptions()
        options.hostname = "imgbox"
        if image.entrypoint.isEmpty, image.cmd.isEmpty { options.command = ["/bin/sh"] }
        var spec = try self.spec(options, image: image, users: users, rootPath: "rootfs", id: "")
        spec.namespaces.removeAll { $0.type == "time" }
        spec.sysctl = []
        spec.resources = Resources()
        spec.cgroupsPath = ""
        spec.mounts.removeAll { $0.options.contains("imgbox.volume") }
        spec.mounts.append(
            .init(
                "/sys/fs/cgroup", type: "cgroup", source: "cgroup",
                options: ["nosuid", "noexec", "nodev", "ro"]))
        return spec
    }

    private static func depth(_ mount: ContainerSpec.Mount) -> Int {
        mount.destination.split(separator: "/").count
    }

    /// The image's volumes. A container's own writable directory is as private as an anonymous volume and goes with the
    /// container, as one does with --rm: so a volume is a directory of it, mounted on itself.
    private static func volumes(_ image: ImageConfig.Execution) throws(RuntimeError) -> [ContainerSpec.Mount]
    {
        var result: [ContainerSpec.Mount] = []
        for text in image.volumes.sorted() {
            let parts = text.split(separator: "/").filter { $0 != "." }
            guard !parts.isEmpty, !parts.contains("..") else {
                throw RuntimeError("the image's volume '\(printable(text))' is no directory below /")
            }
            let path = "/" + parts.joined(separator: "/")
            result.append(.init(path, type: "bind", source: path, options: ["bind", "imgbox.volume"]))
        }
        return result
    }

    /// As docker has it: an entry point from the user drops the image's command.
    private static func command(_ options: RunOptions, _ image: ImageConfig.Execution) -> [String] {
        if let entrypoint = options.entrypoint { return entrypoint + options.command }
        return image.entrypoint + (options.command.isEmpty ? image.cmd : options.command)
    }

    private static func workingDirectory(
        _ options: RunOptions, _ image: ImageConfig.Execution
    ) throws(RuntimeError) -> String {
        if let asked = options.workingDirectory {
            guard asked.hasPrefix("/") else {
                throw RuntimeError("the working directory '\(printable(asked))' is not absolute")
            }
            return asked
        }
        let own = image.workingDirectory
        return own.isEmpty ? "/" : own.hasPrefix("/") ? own : "/" + own
    }

    private static func environment(
        _ options: RunOptions, _ image: ImageConfig.Execution, hostname: String, home: String
    ) -> [String] {
        var result: [(key: Substring, line: String)] = []
        func set(_ line: String, onlyIfMissing: Bool = false) {
            let key = line.prefix { $0 != "=" }
            if let index = result.firstIndex(where: { $0.key == key }) {
                if !onlyIfMissing { result[index].line = line }
            } else {
                result.append((key, line))
            }
        }
        set(ContainerSpec.standardPath)
        set("HOSTNAME=\(hostname)")
        if options.hasTerminal { set("TERM=xterm") }
        for line in image.env + options.environment where line.contains("=") { set(line) }
        set("HOME=\(home)", onlyIfMissing: true)
        return result.map(\.line)
    }

    /// Only settings that belong to one of the container's own namespaces: any other would change the host.
    private static func checkSysctl(_ spec: ContainerSpec) throws(RuntimeError) {
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."]
        for (key, _) in spec.sysctl {
            let isPlain = key.utf8.allSatisfy {
                (0x30...0x39).contains($0) || (0x41...0x5a).contains($0) || (0x61...0x7a).contains($0)
                    || "._-".utf8.contains($0)
            }
            guard isPlain, !key.contains(".."), !key.hasPrefix(".") else {
                throw RuntimeError("'\(printable(key))' is no name of a kernel setting")
            }
            if key.hasPrefix("net.") {
                guard spec.hasOwn("network") else {
                    throw RuntimeError(
                        "--sysctl \(key) would change the host: the container shares its network")
                }
            } else if !ipc.contains(where: key.hasPrefix) {
                throw RuntimeError(
                    "--sysctl \(key): this setting belongs to the whole host, not to a container",
                    hint: "net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* can be set")
            }
        }
    }
}
