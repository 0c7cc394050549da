import Files
import Glibc
import Kernel
package import Launch
import Layers
import OCI
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
    private let options: RunOptions
    private let source: RunSource
    /// Shows the plan with the time of each step before the command starts.
    package var explain: ((LaunchPlan, [Int64?]) -> Void)?
    /// Called with the id when the container's directory is there.
    package var onCreate: ((String) throws -> Void)?

    package init(_ source: RunSource, _ options: RunOptions, in store: Store) {
        (self.source, self.options, self.store) = (source, options, store)
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

    /// The plan, without doing anything; the container's id is made up.
    package func plan() throws -> LaunchPlan {
        let content = try store.holdContent()
        let id = String(repeating: "0", count: 64)
        let path = store.path.appending("containers").appending(id).string
        let spec = try self.spec(id: id, layers: layers())
        let plan = try self.plan(spec, layers: layers(), path: path)
        _ = consume content
        return plan
    }

    private func spec(id: String, layers: [String]) throws -> ContainerSpec {
        let users = try UserLookup(LayerStack(layers, form: store.overlayForm))
        return try SpecBuilder.spec(options, image: execution, users: users, rootPath: imageName, id: id)
    }

    private func plan(_ spec: ContainerSpec, layers: [String], path: String) throws -> LaunchPlan {
        var planOptions = PlanOptions()
        planOptions.rootSwitch = options.rootSwitch
        planOptions.hasInit = options.hasInit
        let root: RootSource =
            switch source {
            case .directory(let directory): .directory(directory)
            case .image:
                .overlay(layers: layers, upper: "\(path)/upper", work: "\(path)/work", place: "\(path)/root")
            }
        return try Planner.plan(spec, HostFacts.probe(), root: root, options: planOptions)
    }

    /// Runs the container to its end. The result is its exit code.
    package func run(note: (String) -> Void) throws -> Int32 {
        guard geteuid() == 0 else {
            throw RuntimeError(
                "running a container takes root in this version",
                hint:
                    "as an ordinary user you can take images in, look into them and unpack them; run with sudo"
            )
        }
        // Layers must not be swept between the look at the store and the container's state file.
        var content: HeldLock? = HeldLock(try store.holdContent())
        let directory = try ContainerDirectory.make(in: store)
        var name = ""
        do {
            name = try chooseName(directory)
            try onCreate?(directory.id)
            let layers = try self.layers()
            var spec = try self.spec(id: directory.id, layers: layers)
            spec.mounts += try GeneratedFiles.write(options, hostname: spec.hostname, into: directory)
            let plan = try self.plan(spec, layers: layers, path: directory.path)
            for text in plan.notes { note(text) }
            try directory.create("config.json", content: spec.json.serialized())
            try directory.makeDirectory("upper", mode: 0o755)
            try directory.makeDirectory("work", mode: 0o700)
            try directory.makeDirectory("root", mode: 0o700)
            var record = ContainerRecord(
                id: directory.id, name: name, image: imageName, command: spec.process.args,
                created: Int64(time(nil)),
                isRemovedOnExit: options.isRemoved, layers: layers, labels: options.labels)
            try directory.create("state.json", content: record.json.serialized())
            content = nil
            let code = try start(plan, directory, &record)
            try finish(directory, &record, code)
            return code
        } catch {
            _ = content
            // A container that never ran leaves nothing.
            try directory.remove(name: name)
            throw error
        }
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
        _ plan: LaunchPlan, _ directory: ContainerDirectory, _ record: inout ContainerRecord
    ) throws -> Int32 {
        var descriptors = Launcher.Descriptors()
        let silence = options.isInteractive ? nil : HeldFile(try open("/dev/null", O_RDONLY))
        if let silence { descriptors.standardInput = silence.fd.raw }

        let attachment = try Attachment(readsKeys: options.isInteractive)
        var child = try Launcher.launch(plan, descriptors, explained: explain != nil)
        record.status = .running
        record.pid = child.pid
        record.startTime = ContainerDirectory.startTime(of: child.pid) ?? 0
        try directory.write(record)
        if let explain {
            try child.start { explain(plan, $0) }
        } else {
            try child.start()
        }
        if options.hasTerminal, options.isInteractive { attachment.makeRaw() }
        // While the command runs there is time to clean up after others.
        try? ContainerDirectory.sweep(store)
        return attachment.run(pid: child.pid, pidfd: child.pidfd.raw, terminal: child.terminal)
    }

    private final class HeldFile {
        let fd: OwnedFD
        init(_ fd: consuming OwnedFD) { self.fd = fd }
    }

    private func finish(
        _ directory: ContainerDirectory, _ record: inout ContainerRecord, _ code: Int32
    ) throws(RuntimeError) {
        if options.isRemoved { return try directory.remove(name: record.name) }
        record.status = .exited
        record.exitCode = code
        record.pid = 0
        try directory.write(record)
    }
}
