import CKernel
import Cgroups
import Files
import Glibc
import Kernel
import OCI
import SystemPackage

/// What imgbox itself does for a plan, before the clone and while the child waits, with what it holds for that.
final class ParentWork {
    final class Held {
        let fd: OwnedFD
        init(_ fd: consuming OwnedFD) { self.fd = fd }
    }

    private let plan: LaunchPlan
    private(set) var sources: [(source: LaunchPlan.Source, held: Held)] = []
    private(set) var overlay: Held?
    private(set) var devices: Held?
    private(set) var disk: Held?
    private(set) var effects: [CgroupTree.Effect] = []
    /// What could not be done as asked, in words for the user.
    private(set) var notes: [String] = []
    private var namespace: Held?

    init(_ plan: LaunchPlan) { self.plan = plan }

    /// Does one step. `pid` is the child's, 0 before there is one.
    func perform(_ step: LaunchPlan.Step, pid: Int32) throws(LaunchError) {
        do {
            try perform(step, pid)
        } catch let error as LaunchError {
            throw error
        } catch let error as CgroupError {
            throw LaunchError(error.message, hint: error.hint, errno: error.errno, step: step)
        } catch let error as FileError {
            throw LaunchError(
                "cannot \(step.wording.title): \(error.message)", hint: hint(step, error) ?? error.hint,
                errno: error.errno, step: step)
        } catch {
            throw LaunchError("cannot \(step.wording.title): \(error)", step: step)
        }
    }

    private func perform(_ step: LaunchPlan.Step, _ pid: Int32) throws {
        switch step {
        case .makeCgroups(let directories): for directory in directories { try CgroupTree.make(directory) }
        case .limit(let limit): if let effect = try CgroupTree.apply(limit) { effects.append(effect) }
        case .deviceList(let limits): for limit in limits { _ = try CgroupTree.apply(limit) }
        case .deviceFilter(let directory, let rules): try DeviceFilter.attach(rules, to: directory)
        case .makeDisk(let disk): self.disk = Held(try LoopDisk.make(disk))
        case .projectQuota(let project): try limit(project)
        case .openSources(let list):
            for source in list { sources.append((source, Held(try open(source)))) }
        case .deviceDirectory(let nodes, let options): devices = Held(try makeDevices(nodes, options))
        case .openOverlay: overlay = Held(try Mounts.open("overlay"))
        case .mapIDs(let maps): try writeMaps(of: pid, uid: maps.uid, gid: maps.gid)
        case .oomScore(let score):
            let file = try Files.open("/proc/\(pid)/oom_score_adj", O_WRONLY)
            try write(file.raw, Array("\(score)".utf8), name: "oom_score_adj")
        case .shareLayers(let layers, let upper, let work, mapped: true): try share(layers, upper, work, pid)
        case .shareLayers(let layers, let upper, let work, mapped: false): try layUp(layers, upper, work)
        case .giveAway(let path, let uid, let gid): try giveAway(path, uid, gid)
        case .mapSources: try mapSources(pid)
        default: break
        }
    }

    private func hint(_ step: LaunchPlan.Step, _ error: FileError) -> String? {
        switch (step, error.errno) {
        case (.oomScore, .permissionDenied), (.oomScore, .notPermitted):
            "lowering the score takes CAP_SYS_RESOURCE, which this process does not have"
        case (.mapIDs, .notPermitted), (.mapIDs, .invalidArgument):
            "the ranges must not overlap and must lie in those of this user: imgbox doctor shows them"
        case (.shareLayers, .invalidArgument):
            "the store lies on a file system whose owners cannot be mapped: choose another with --root, or --userns host"
        default: nil
        }
    }

    private func limit(_ plan: LaunchPlan.ProjectPlan) throws(FileError) {
        for (index, path) in plan.directories.enumerated() {
            let directory = try Files.open(path, O_RDONLY | O_DIRECTORY)
            guard ck_set_project(directory.raw, plan.project) == 0 else {
                throw FileError.last("FS_IOC_FSSETXATTR", path)
            }
            guard index > 0 || ck_limit_project(directory.raw, plan.project, UInt64(plan.size)) == 0 else {
                throw FileError.last("quotactl", path)
            }
        }
    }

    // MARK: - Mounts

    private func open(_ source: LaunchPlan.Source) throws(FileError) -> OwnedFD {
        guard let node = source.device else {
            let mount = try Mounts.copy(source.path, recursive: source.isRecursive)
            try Mounts.change(
                mount.raw, set: source.flags.rawValue, recursive: source.isRecursive, name: source.path)
            return mount
        }
        // The numbers decide what a node is, not its name.
        let file = try Files.open(source.path, pathOnly | O_NOFOLLOW)
        let info = try status(of: file.raw)
        guard info.kind == .characterDevice, info.node == (UInt32(node.major), UInt32(node.minor)) else {
            throw FileError("device check", source.path, Errno(rawValue: ENODEV))
        }
        return try Mounts.copy(of: file.raw, name: source.path)
    }

    /// The container's /dev, made by real root: a user namespace may not make nodes, and nodes on its own file systems
    /// do not open.
    private func makeDevices(
        _ nodes: [LaunchPlan.DeviceNode], _ options: [LaunchPlan.Option]
    ) throws(FileError) -> OwnedFD {
        let context = try Mounts.open("tmpfs")
        for option in options { try Mounts.set(context.raw, option.key, option.value) }
        try Mounts.create(context.raw, "tmpfs")
        let flags: LaunchPlan.MountFlags = [.noSetID, .strictAccessTime, .noExec]
        let mount = try Mounts.mount(context.raw, "tmpfs", attributes: flags.rawValue)
        let mask = umask(0)
        defer { umask(mask) }
        for node in nodes {
            if let cut = node.name.lastIndex(of: "/") {
                try makeDirectories(String(node.name[..<cut]), below: mount.raw)
            }
            let kind = node.isBlock ? Glibc.S_IFBLK : Glibc.S_IFCHR
            let number = ck_makedev(UInt32(node.major), UInt32(node.minor))
            guard mknodat(mount.raw, node.name, kind | node.mode, number) == 0 else {
                throw FileError.last("mknod", node.name)
            }
            guard
                node.uid == 0 && node.gid == 0
                    || fchownat(mount.raw, node.name, node.uid, node.gid, AT_SYMLINK_NOFOLLOW) == 0
            else { throw FileError.last("chown", node.name) }
        }
        return mount
    }

    private func makeDirectories(_ path: String, below root: Int32) throws(FileError) {
        var done = ""
        for part in path.split(separator: "/") {
            done += done.isEmpty ? String(part) : "/\(part)"
            try makeDirectory(done, mode: 0o755, at: root)
        }
    }

    private func userNamespace(_ pid: Int32) throws(FileError) -> Int32 {
        if let namespace { return namespace.fd.raw }
        let held = Held(try Files.open("/proc/\(pid)/ns/user", O_RDONLY))
        namespace = held
        return held.fd.raw
    }

    private func mapSources(_ pid: Int32) throws {
        for (source, held) in sources {
            do throws(FileError) {
                switch source.owners {
                case .raw: continue
                case .same:
                    try Mounts.map(
                        held.fd.raw, to: try userNamespace(pid), recursive: source.isRecursive,
                        name: source.path)
                case .maps(let maps):
                    let own = try MappingNamespace(uid: maps.uid, gid: maps.gid)
                    try Mounts.map(
                        held.fd.raw, to: own.fd.raw, recursive: source.isRecursive, name: source.path)
                }
            } catch {
                if case .same(required: false) = source.owners, error.errno == .invalidArgument {
                    notes.append(
                        "the owners of '\(printable(source.path))' cannot be mapped on its file system: "
                            + "most show as nobody inside (--userns host shows them as they are)")
                    continue
                }
                throw error
            }
        }
    }

    // MARK: - Layers

    /// Mounts the overlay over layers whose owners are mapped to the container's ids (facts: the upper directory is not, and
    /// belongs to the container's root).
    private func share(_ layers: [String], _ upper: String, _ work: String, _ pid: Int32) throws {
        guard let overlay else { return }
        let namespace = try userNamespace(pid)
        guard plan.takesDetachedLayers else { return try shareAttached(layers, upper, work, namespace) }
        // A detached mount lasts as long as its descriptor, until the overlay has its own hold on it.
        var mounts: [Held] = []
        for layer in layers.reversed() {
            let mount = Held(try mapped(layer, namespace))
            mounts.append(mount)
            try Mounts.set(overlay.fd.raw, "lowerdir+", mount.fd.raw, name: layer)
        }
        if let disk {
            for (key, name) in [("upperdir", "upper"), ("workdir", "work")] {
                let directory = try Files.open(name, pathOnly | O_DIRECTORY, at: disk.fd.raw)
                try Mounts.set(overlay.fd.raw, key, directory.raw, name: name)
            }
        } else {
            try Mounts.set(overlay.fd.raw, "upperdir", upper)
            try Mounts.set(overlay.fd.raw, "workdir", work)
        }
        try Mounts.create(overlay.fd.raw, "overlay")
        withExtendedLifetime(mounts) {}
    }

    /// As root of imgbox's own user namespace: what can be mounted there has its marks in `user.overlay.*`.
    private func layUp(_ layers: [String], _ upper: String, _ work: String) throws(FileError) {
        guard let overlay else { return }
        if plan.layerOption {
            for layer in layers.reversed() { try Mounts.set(overlay.fd.raw, "lowerdir+", layer) }
        } else {
            try Mounts.set(overlay.fd.raw, "lowerdir", layers.reversed().joined(separator: ":"))
        }
        try Mounts.set(overlay.fd.raw, "upperdir", upper)
        try Mounts.set(overlay.fd.raw, "workdir", work)
        try Mounts.set(overlay.fd.raw, "userxattr")
        try Mounts.create(overlay.fd.raw, "overlay")
    }

    /// Through descriptors: somebody who may write to the directory must not lead this out of it.
    private func giveAway(_ path: String, _ uid: UInt32, _ gid: UInt32) throws(FileError) {
        let top = try Files.open(path, pathOnly | O_NOFOLLOW)
        let info = try status(of: top.raw)
        guard fchownat(top.raw, "", uid, gid, CK_AT_EMPTY_PATH) == 0 else {
            throw FileError.last("chown", path)
        }
        if info.kind == .directory {
            // The path is not walked a second time: it may lead elsewhere by now.
            try giveAway(below: try Files.open(".", O_RDONLY | O_DIRECTORY, at: top.raw), uid, gid, path)
        }
    }

    private func giveAway(
        below directory: consuming OwnedFD, _ uid: UInt32, _ gid: UInt32, _ path: String
    ) throws(FileError) {
        for entry in try entries(of: directory.raw) {
            let name = String(decoding: entry.bytes, as: UTF8.self)
            guard fchownat(directory.raw, entry.name, uid, gid, AT_SYMLINK_NOFOLLOW) == 0 else {
                throw FileError.last("chown", "\(path)/\(name)")
            }
            guard try status(of: entry.name, at: directory.raw)?.kind == .directory else { continue }
            let fd = ck_openat(directory.raw, entry.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)
            guard fd >= 0 else { throw FileError.last("open", "\(path)/\(name)") }
            try giveAway(below: OwnedFD(fd), uid, gid, "\(path)/\(name)")
        }
    }

    private func mapped(_ layer: String, _ namespace: Int32) throws(FileError) -> OwnedFD {
        let mount = try Mounts.copy(layer, recursive: false)
        try Mounts.map(mount.raw, to: namespace, recursive: false, name: layer)
        return mount
    }

    /// Before Linux 6.15 a layer has to be mounted somewhere: in the mount namespace of a helper that lives as long as
    /// this takes.
    private func shareAttached(
        _ layers: [String], _ upper: String, _ work: String, _ namespace: Int32
    ) throws {
        guard let overlay else { return }
        var mounts: [Held] = []
        for layer in layers.reversed() { mounts.append(Held(try mapped(layer, namespace))) }
        let steps = StagingProgram(
            layers: mounts.map { $0.fd.raw }, overlay: overlay.fd.raw, disk: disk?.fd.raw ?? -1, upper: upper,
            work: work, oneByOne: plan.layerOption)
        try Launcher.runHelper(steps.program)
        withExtendedLifetime(mounts) {}
    }
}
