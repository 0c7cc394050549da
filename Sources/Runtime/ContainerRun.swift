import CKernel
import Cgroups
import Files
import Glibc
import Kernel
package import Launch
import Layers
import OCI
import Seccomp
package import Store
import SystemPackage

/// What is run: an image of the store, or a directory.
package enum RunSource: Sendable {
    case image(ResolvedImage)
    case directory(String)
}

/// One container from its beginning to its end.
package struct ContainerRun {
    private let store: Store
    private var options: RunOptions
    private let source: RunSource
    private let facts: HostFacts
    /// Shows the plan with the time of each step before the command starts, or up to the step that failed.
    package var explain: ((LaunchPlan, _ times: [StepTime?], _ failed: Int?) -> Void)?
    /// Called with the id when the container's directory is there.
    package var onCreate: ((String) throws -> Void)?

    package init(_ source: RunSource, _ options: RunOptions, in store: Store) {
        (self.source, self.options, self.store) = (source, options, store)
        let joins = [options.network, options.pid, options.ipc].contains {
            if case .container = $0 { true } else { false }
        }
        let ownsIDs =
            switch options.userNamespace {
            case .host, .container: false
            default: !joins && HostFacts.hasMountCalls
            }
        facts = HostFacts.probe(boundingSet: !ownsIDs)
    }

    private var imageName: String {
        switch source {
        case .image(let image): image.references.first?.description ?? image.name
        case .directory(let path): path
        }
    }

    private func layers() throws(StoreError) -> [String] {
        switch source {
        case .image(let image): try store.layerTrees(image)
        case .directory(let path): [path]
        }
    }

    private var execution: ImageConfig.Execution {
        switch source {
        case .image(let image): image.config.config
        case .directory: ImageConfig.Execution()
        }
    }

    /// All that is known before anything is started.
    private struct Preparation {
        var spec: ContainerSpec
        var surroundings: Surroundings
        var layers: [String]
        var lease: IDLease?
        /// Who owns what root inside owns, on the host.
        var owner: (uid: UInt32, gid: UInt32) = (0, 0)
    }

    /// The plan, without doing anything; the container's id is made up, and so are its ids where they would be reserved.
    package func plan() throws -> LaunchPlan {
        let content = try store.holdContent()
        let id = String(repeating: "0", count: 64)
        let path = store.path.appending("containers").appending(id).string
        let ready = try prepare(id: id, name: options.name ?? "example")
        let plan = try self.plan(ready, path: path)
        _ = consume content
        return plan
    }

    private func prepare(id: String, name: String) throws -> Preparation {
        var options = self.options
        var surroundings = Surroundings.probe(facts, options)
        if let parent = options.cgroupParent, surroundings.cgroups.parent != nil {
            surroundings.cgroups.parent = parent
        }
        try Joins.resolve(&options, &surroundings, in: store)
        // Before Linux 5.12 there is no way to hand a root over the border of a user namespace.
        if !facts.hasMountAPI, options.userNamespace == .standard, facts.privilege == .root {
            options.userNamespace = .host
        }
        var lease: IDLease?
        if surroundings.joined["user"] == nil,
            let ids = try IDChoice.choose(options.userNamespace, name: name, facts.privilege)
        {
            surroundings.maps = (ids.uid, ids.gid)
            lease = ids.lease
            if case .keepID = options.userNamespace, options.user == nil {
                // As podman has it: the user who asked for it is also who runs.
                let (uid, gid) = (ids.uid.inside(of: 0), ids.gid.inside(of: 0))
                if let uid, let gid { options.user = "\(uid):\(gid)" }
            }
        }
        let layers = try self.layers()
        let users = try UserLookup(LayerStack(layers, form: store.overlayForm))
        let spec = try SpecBuilder.spec(
            options, image: execution, users: users, rootPath: imageName, id: id, surroundings: surroundings)
        var ready = Preparation(spec: spec, surroundings: surroundings, layers: layers, lease: lease)
        if let maps = surroundings.maps {
            let (uid, gid) = (maps.uid.first(0), maps.gid.first(0))
            ready.owner = (maps.uid.outside(uid) ?? 0, maps.gid.outside(gid) ?? 0)
        }
        return ready
    }

    private func plan(_ ready: Preparation, path: String) throws -> LaunchPlan {
        var planOptions = PlanOptions()
        planOptions.rootSwitch = options.rootSwitch
        planOptions.hasInit = options.hasInit
        planOptions.cgroups = ready.surroundings.cgroups
        planOptions.seccomp = try seccomp(ready.spec)
        planOptions.preservedDescriptors = options.preservedDescriptors
        planOptions.givenAway = ready.spec.mounts.filter { $0.options.contains("imgbox.give") }.map { mount in
            let (uid, gid) = SpecBuilder.hostUser(ready.spec)
            return .giveAway(path: mount.source, uid: uid, gid: gid)
        }
        var (upper, work) = ("\(path)/upper", "\(path)/work")
        if let size = options.diskSize {
            guard facts.privilege == .root else {
                throw RuntimeError(
                    "--disk-size cannot be applied: a file system of one's own takes root",
                    hint: "run as root, or limit what is written with --tmpfs and read-only mounts")
            }
            guard case .image = source, !usesCopy(ready) else {
                throw RuntimeError(
                    "--disk-size is for the writable layer of an image, and this container has none",
                    hint: "leave out --rootfs, or limit the directory on the host")
            }
            if hasQuota {
                planOptions.project = .init(
                    directories: [upper, work], project: ContainerRun.project(ready.spec.cgroupsPath),
                    size: size)
            } else {
                planOptions.disk = .init(
                    file: "\(path)/disk.img", size: size, uid: ready.owner.uid, gid: ready.owner.gid)
                (upper, work) = ("\(path)/disk/upper", "\(path)/disk/work")
            }
        }
        let root: RootSource =
            switch source {
            case .directory(let directory): .directory(directory)
            case .image where usesCopy(ready): .shifted("\(path)/copy")
            case .image:
                .overlay(layers: ready.layers, upper: upper, work: work, place: "\(path)/root")
            }
        return try Planner.plan(ready.spec, facts, root: root, options: planOptions)
    }

    /// The store's file system keeps project quotas (xfs and ext4, mounted with prjquota).
    private var hasQuota: Bool { ck_has_project_quota(store.root) == 1 }

    /// A project number from a container's id; those below 2^30 are left to people.
    package static func project(_ id: String) -> UInt32 {
        0x4000_0000 | (UInt32(id.prefix(8), radix: 16) ?? 0) & 0x3fff_ffff
    }

    /// The layers cannot show the container's ids: it gets a copy of its own with the right owners.
    private func usesCopy(_ ready: Preparation) -> Bool {
        guard let maps = ready.surroundings.maps, case .image = source else { return false }
        if facts.privilege == .root {
            return !facts.mapsLayers || !MappableFileSystem.holds(store.root, facts.kernel)
        }
        // The layers of a user have the ids of imgbox's own user namespace.
        return (maps.uid + maps.gid).contains { $0.inside != $0.outside }
    }

    private func seccomp(_ spec: ContainerSpec) throws -> (name: String, filter: [UInt8])? {
        if options.isPrivileged, options.seccomp == .standard { return nil }
        let capabilities = Set(spec.process.capabilities.compactMap { Capability(name: $0) })
        switch options.seccomp {
        case .unconfined: return nil
        case .standard:
            let cache = try? cacheDirectory()
            return ("standard", try SeccompFilter.standard(capabilities, cache: cache?.fd.raw))
        case .document(let path, let bytes):
            let cache = try? cacheDirectory()
            let filter = try SeccompFilter.document(
                bytes, capabilities, kernel: (facts.kernel.major, facts.kernel.minor), cache: cache?.fd.raw)
            return (path, filter)
        }
    }

    private func cacheDirectory() throws -> HeldFile {
        if let fd = try? open("cache/seccomp", O_RDONLY | O_DIRECTORY, at: store.root) { return HeldFile(fd) }
        try makeDirectory("cache", mode: 0o700, at: store.root)
        try makeDirectory("cache/seccomp", mode: 0o700, at: store.root)
        return HeldFile(try open("cache/seccomp", O_RDONLY | O_DIRECTORY, at: store.root))
    }

    /// Runs the container to its end. The result is its exit code.
    package func run(note: (String) -> Void) throws -> Int32 {
        // Layers must not be swept between the look at the store and the container's state file.
        var content: HeldLock? = HeldLock(try store.holdContent())
        let directory = try ContainerDirectory.make(in: store)
        var name = ""
        do {
            name = try chooseName(directory)
            try onCreate?(directory.id)
            var ready = try prepare(id: directory.id, name: name)
            ready.spec.mounts += try GeneratedFiles.write(
                options,
                hostname: ready.spec.hostname.isEmpty ? ready.surroundings.hostname : ready.spec.hostname,
                owner: ready.owner, into: directory)
            let plan = try self.plan(ready, path: directory.path)
            for text in plan.notes { note(text) }
            if !facts.hasMountAPI, options.userNamespace == .standard {
                note(
                    "this kernel has no mount calls for user namespaces (Linux 5.12 has): root inside is root outside"
                )
            }
            try directory.create("config.json", content: ready.spec.json.serialized())
            if case .image(let image) = source, usesCopy(ready) {
                note(
                    "the shared layers cannot show these ids here: this container gets a copy of the image with its owners"
                )
                try copy(image, ready, directory)
            } else if options.diskSize == nil || hasQuota {
                try directory.makeDirectory("upper", mode: 0o755, owner: ready.owner)
                try directory.makeDirectory("work", mode: 0o700)
            } else {
                try directory.makeDirectory("disk", mode: 0o700)
            }
            try directory.makeDirectory("root", mode: 0o700)
            var record = self.record(ready, directory.id, name, plan)
            try directory.create("state.json", content: record.json.serialized())
            content = nil
            let code = try start(plan, directory, &record, note)
            try finish(directory, &record, code)
            _ = ready.lease
            return code
        } catch {
            _ = content
            // A container that never ran leaves nothing.
            try directory.remove(name: name)
            throw error
        }
    }

    private func record(_ ready: Preparation, _ id: String, _ name: String, _ plan: LaunchPlan)
        -> ContainerRecord
    {
        var record = ContainerRecord(
            id: id, name: name, image: imageName, command: ready.spec.process.args,
            created: Int64(time(nil)), isRemovedOnExit: options.isRemoved, layers: ready.layers,
            labels: options.labels)
        for case .makeCgroups(let directories) in plan.steps {
            record.cgroups += directories.map(\.absolute)
        }
        record.keeper = getpid()
        record.keeperStart = ContainerDirectory.startTime(of: getpid()) ?? 0
        if let maps = ready.surroundings.maps { (record.uidMap, record.gidMap) = maps }
        if let size = options.diskSize {
            record.disk = hasQuota ? "project quota of \(size) bytes" : "sparse loop file of \(size) bytes"
            if hasQuota { record.project = ContainerRun.project(id) }
        }
        return record
    }

    private func copy(
        _ image: ResolvedImage, _ ready: Preparation, _ directory: ContainerDirectory
    ) throws {
        guard let maps = ready.surroundings.maps else { return }
        var unpacking = UnpackOptions()
        unpacking.uidMapping = IDMapping(
            maps.uid.map { IDRange(container: $0.inside, host: $0.outside, count: $0.count) })
        unpacking.gidMapping = IDMapping(
            maps.gid.map { IDRange(container: $0.inside, host: $0.outside, count: $0.count) })
        _ = try store.unpack(image, to: FilePath("\(directory.path)/copy"), options: unpacking)
    }

    private final class HeldLock {
        private let lock: RangeLock
        init(_ lock: consuming RangeLock) { self.lock = lock }
    }

    private func chooseName(_ directory: ContainerDirectory) throws(RuntimeError) -> String {
        if let wanted = options.name {
            try ContainerName.check(wanted)
            try directory.reserve(wanted)
            return wanted
        }
        let name = ContainerName.random(id: directory.id)
        try directory.reserve(name)
        return name
    }

    private func start(
        _ plan: LaunchPlan, _ directory: ContainerDirectory, _ record: inout ContainerRecord,
        _ note: (String) -> Void
    ) throws -> Int32 {
        var descriptors = Launcher.Descriptors()
        let silence = options.isInteractive ? nil : HeldFile(try open("/dev/null", O_RDONLY))
        if let silence { descriptors.standardInput = silence.fd.raw }

        let attachment = try Attachment(readsKeys: options.isInteractive)
        do throws(LaunchError) {
            var child = try Launcher.launch(plan, descriptors, explained: explain != nil)
            for text in child.notes { note(text) }
            record.status = .running
            record.pid = child.pid
            record.startTime = ContainerDirectory.startTime(of: child.pid) ?? 0
            record.limits = child.effects.map { effect in
                .init(
                    flag: effect.limit.flag, controller: effect.limit.controller, wanted: effect.limit.wanted,
                    effective: effect.effective, file: effect.file)
            }
            do { try directory.write(record) } catch { throw LaunchError(error.message, hint: error.hint) }
            if let explain {
                try child.start { explain(plan, $0, nil) }
            } else {
                try child.start()
            }
            if options.hasTerminal, options.isInteractive { attachment.makeRaw() }
            // While the command runs there is time to clean up after others.
            try? ContainerDirectory.sweep(store)
            let code = attachment.run(pid: child.pid, pidfd: child.pidfd.raw, terminal: child.terminal)
            reportOutOfMemory(plan, &record, note)
            return code
        } catch {
            if let explain, let index = error.index { explain(plan, error.times, index) }
            throw error
        }
    }

    /// Says what the kernel killed for want of memory, and why.
    private func reportOutOfMemory(
        _ plan: LaunchPlan, _ record: inout ContainerRecord, _ note: (String) -> Void
    ) {
        for case .makeCgroups(let directories) in plan.steps {
            guard let directory = directories.first(where: { $0.controllers.contains("memory") }),
                let event = OutOfMemory(in: directory)
            else { continue }
            record.isOutOfMemory = true
            func mebibytes(_ bytes: Int64) -> String { "\(bytes >> 20) MiB" }
            var words = "out of memory: "
            words += event.victim.map { "\($0) was killed" } ?? "\(event.kills) killed"
            if let limit = event.limit, limit < 1 << 60 {
                words += "; the limit is \(mebibytes(limit)) (--memory)"
            }
            if let peak = event.peak { words += ", the peak was \(mebibytes(peak))" }
            note(words)
        }
    }

    private final class HeldFile {
        let fd: OwnedFD
        init(_ fd: consuming OwnedFD) { self.fd = fd }
    }

    private func finish(
        _ directory: ContainerDirectory, _ record: inout ContainerRecord, _ code: Int32
    ) throws(RuntimeError) {
        if options.isRemoved { return try directory.remove(name: record.name) }
        for path in record.cgroups { CgroupTree.remove(path) }
        record.status = .exited
        record.exitCode = code
        record.pid = 0
        try directory.write(record)
    }
}

/// File systems whose mounts can show mapped owners (FS_ALLOW_IDMAP), with the kernel that began it.
enum MappableFileSystem {
    static func holds(_ directory: Int32, _ kernel: KernelVersion) -> Bool {
        // The numbers of linux/magic.h: ext4, xfs, btrfs, f2fs, erofs, tmpfs.
        let known: [(Int64, KernelVersion)] = [
            (0xef53, KernelVersion(5, 12)), (0x5846_5342, KernelVersion(5, 12)),
            (0x9123_683e, KernelVersion(5, 15)), (0xf2f5_2010, KernelVersion(5, 18)),
            (0xe0f5_e1e2, KernelVersion(5, 19)), (0x0102_1994, KernelVersion(6, 3)),
        ]
        let type = ck_filesystem_type(directory)
        return known.contains { $0.0 == type && kernel >= $0.1 }
    }
}

extension [IDExtent] {
    /// The id inside that is `id` outside.
    package func inside(of id: UInt32) -> UInt32? {
        for extent in self where id >= extent.outside && id - extent.outside < extent.count {
            return extent.inside + (id - extent.outside)
        }
        return nil
    }
}
