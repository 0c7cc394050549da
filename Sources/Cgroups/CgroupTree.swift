import CKernel
import Files
import Glibc
import SystemPackage

/// Makes, changes, reads and removes groups.
package enum CgroupTree {
    /// Makes the directory of a group and those above it.
    package static func make(_ directory: CgroupGroup.Directory) throws(CgroupError) {
        for _ in 0..<3 {
            // `gc` may take an empty group away between two of the steps.
            do throws(CgroupError) { return try makeOnce(directory) } catch {
                guard error.errno == .noSuchFileOrDirectory else { throw error }
            }
        }
        try makeOnce(directory)
    }

    /// Removes the group above those of containers where it is empty, in every hierarchy.
    package static func removeEmptyParents(_ host: CgroupHost) {
        guard let parent = host.parent else { return }
        // One that holds groups says EBUSY or ENOTEMPTY, and stays.
        for hierarchy in host.hierarchies { rmdir(hierarchy.mountPoint + parent) }
    }

    private static func makeOnce(_ directory: CgroupGroup.Directory) throws(CgroupError) {
        let parts = directory.path.split(separator: "/").map(String.init)
        var path = directory.mountPoint
        for part in parts {
            if directory.version == 2 { try enable(directory.controllers, in: path) }
            path += "/" + part
            if mkdir(path, 0o755) != 0 {
                let code = Errno(rawValue: Glibc.errno)
                if code == .fileExists { continue }
                throw CgroupError(
                    "cannot make the cgroup \(path): \(code.description)", hint: hint(code), errno: code)
            }
            // A new group of v1's cpuset may use nothing until it is told what (cpuset(7)).
            if directory.version == 1, directory.controllers.contains("cpuset") { try inherit(path) }
        }
    }

    private static func hint(_ code: Errno) -> String? {
        switch code {
        case .readOnlyFileSystem:
            "the cgroup file system is mounted read-only: mount -o remount,rw it, or choose another --cgroup-parent"
        case .permissionDenied, .notPermitted: "run as root, or in a delegated group (imgbox doctor)"
        case .noSuchFileOrDirectory: "a group above it has gone away; try again"
        default: nil
        }
    }

    /// Lets the groups below a v2 group have these controllers.
    private static func enable(_ controllers: [String], in path: String) throws(CgroupError) {
        if controllers.isEmpty { return }
        let file = path + "/cgroup.subtree_control"
        let present = Set(words(file))
        let missing = controllers.filter { !present.contains($0) }
        if missing.isEmpty { return }
        do throws(FileError) { try overwrite(file, missing.map { "+\($0)" }.joined(separator: " ")) } catch {
            throw CgroupError(
                "cannot enable the controllers \(missing.joined(separator: ", ")) in \(file): \(error.errno.description)",
                hint: error.errno == .resourceBusy
                    ? "processes live in that group itself, which cgroup v2 does not allow beside groups with "
                        + "controllers: move them into a group below, or choose another --cgroup-parent"
                    : hint(error.errno),
                errno: error.errno)
        }
    }

    private static func inherit(_ path: String) throws(CgroupError) {
        let above = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
        for name in ["cpus", "mems"] {
            let file = access("\(above)/cpuset.\(name)", F_OK) == 0 ? "cpuset.\(name)" : name
            let value = words("\(above)/\(file)").first ?? ""
            do throws(FileError) { try overwrite("\(path)/\(file)", value) } catch {
                throw CgroupError(
                    "cannot give the cgroup \(path) its \(file): \(error.message)", errno: error.errno)
            }
        }
    }

    static func words(_ file: String) -> [String] {
        let bytes = (try? readFile(file, limit: 1 << 20)) ?? []
        return String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isWhitespace).map(String.init)
    }

    private static func overwrite(_ file: String, _ text: String) throws(FileError) {
        let fd = try open(file, O_WRONLY)
        // One write is one command to the kernel.
        try write(fd.raw, Array(text.utf8), name: file)
    }

    // MARK: - Limits

    /// What a limit came to be.
    package struct Effect: Sendable, Equatable {
        package let limit: CgroupLimit
        /// Absolute.
        package let file: String
        /// As the kernel says it now.
        package let effective: String
    }

    /// Writes a limit and reads it back: what the kernel does not keep is an error, not a surprise.
    /// nil for an optional one that nothing can take.
    package static func apply(_ limit: CgroupLimit) throws(CgroupError) -> Effect? {
        let flag = limit.flag.isEmpty ? "the \(limit.controller) group" : limit.flag
        guard
            let choice = limit.choices.first(where: { access("\(limit.directory)/\($0.file)", F_OK) == 0 })
        else {
            if limit.isOptional { return nil }
            let names = limit.choices.map(\.file).joined(separator: " nor ")
            throw CgroupError(
                "\(flag) cannot be applied: the cgroup controller \(limit.controller) of this host has no \(names)",
                hint: remedy(limit))
        }
        let file = "\(limit.directory)/\(choice.file)"
        do throws(FileError) { try overwrite(file, choice.value) } catch {
            throw CgroupError(
                "\(flag): the kernel does not take '\(choice.value)' for \(file): \(error.errno.description)",
                hint: refusal(error.errno, limit), errno: error.errno)
        }
        // These two only take commands.
        if choice.file.hasPrefix("devices.") {
            return Effect(limit: limit, file: file, effective: choice.value)
        }
        let effective = current(file, choice.value)
        guard agrees(effective, choice.value, choice.file) else {
            throw CgroupError(
                "\(flag): \(file) holds '\(effective)' after '\(choice.value)' was written",
                hint: "a group above may have a lower limit: --cgroup-parent chooses another")
        }
        return Effect(limit: limit, file: file, effective: effective)
    }

    private static func remedy(_ limit: CgroupLimit) -> String? {
        switch limit.controller {
        case "blkio", "io": "the weight needs the bfq scheduler: echo bfq > /sys/block/DISK/queue/scheduler"
        case "hugetlb": "the sizes of this machine are in /sys/kernel/mm/hugepages"
        case "memory" where limit.flag == "--memory-swap":
            "this kernel does not count swap: boot with swapaccount=1, or use --memory alone"
        default: nil
        }
    }

    private static func refusal(_ code: Errno, _ limit: CgroupLimit) -> String? {
        switch (limit.controller, code) {
        case ("blkio", .init(rawValue: ENODEV)), ("io", .init(rawValue: ENODEV)):
            "the limit goes to a whole disk, not to a partition (lsblk)"
        case ("cpuset", _): "the processors and nodes must be among those of the group above"
        case ("memory", .resourceBusy), ("memory", .invalidArgument):
            "the value is below what is in use, or above that of --memory-swap"
        case (_, .permissionDenied), (_, .notPermitted):
            "run as root, or in a delegated group (imgbox doctor)"
        case (_, .readOnlyFileSystem): hint(code)
        default: nil
        }
    }

    /// The content of a file; of a list of devices the line for this one.
    private static func current(_ file: String, _ value: String) -> String {
        let bytes = (try? readFile(file, limit: 1 << 20)) ?? []
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
        guard let device = value.split(separator: " ").first, device.contains(":") else {
            return lines.joined(separator: " ")
        }
        return lines.first { $0.hasPrefix(device + " ") } ?? ""
    }

    /// The kernel rounds: memory to pages, lists of processors to ranges.
    static func agrees(_ effective: String, _ value: String, _ file: String) -> Bool {
        if effective == value { return true }
        if file.hasSuffix("cpus") || file.hasSuffix("mems") { return cpuList(effective) == cpuList(value) }
        if file == "memory.oom_control" { return effective.contains("oom_kill_disable 1") }
        if value == "-1" { return (Int64(effective) ?? 0) > 1 << 62 || effective == "-1" }
        if let got = Int64(effective), let wanted = Int64(value) {
            let pages = file.hasPrefix("memory") || file.hasPrefix("hugetlb")
            return pages && got <= wanted && wanted - got < (file.hasPrefix("hugetlb") ? 1 << 30 : 65536)
        }
        if file == "io.max" {
            return value.split(separator: " ").allSatisfy { effective.split(separator: " ").contains($0) }
        }
        if file == "io.weight" || file == "io.bfq.weight" { return effective.hasPrefix("default \(value)") }
        return false
    }

    /// The value of a file of a group now; nil when the group is gone.
    package static func value(of file: String) -> String? {
        guard let bytes = try? readFile(file, limit: 1 << 20) else { return nil }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").joined(separator: " ")
    }

    // MARK: - The end

    /// Ends what still runs in a group and removes it with all below it. False when it does not go.
    @discardableResult
    package static func remove(_ directory: String) -> Bool {
        for attempt in 0..<400 {
            if rmdir(directory) == 0 || Glibc.errno == ENOENT { return true }
            if attempt > 0 || Glibc.errno != EBUSY { killAll(directory) }
            removeBelow(directory)
            if rmdir(directory) == 0 || Glibc.errno == ENOENT { return true }
            usleep(attempt < 20 ? 200 : 5000)
        }
        return false
    }

    private static func removeBelow(_ directory: String) {
        guard let fd = try? open(directory, O_RDONLY | O_DIRECTORY), let names = try? entries(of: fd.raw)
        else {
            return
        }
        for name in names.map({ String(decoding: $0.bytes, as: UTF8.self) }) {
            let path = "\(directory)/\(name)"
            guard (try? status(of: path, at: currentDirectory))??.kind == .directory else { continue }
            removeBelow(path)
            killAll(path)
            rmdir(path)
        }
    }

    private static func killAll(_ directory: String) {
        if (try? overwrite(directory + "/cgroup.kill", "1")) != nil { return }
        for word in words(directory + "/cgroup.procs") {
            if let pid = Int32(word), pid > 1 { kill(pid, SIGKILL) }
        }
    }
}

/// The numbers of a list such as `0-2,5`; nil where it is none.
package func cpuList(_ text: String) -> Set<Int>? {
    var result: Set<Int> = []
    for part in text.split(separator: ",", omittingEmptySubsequences: false) {
        let ends = part.split(separator: "-", omittingEmptySubsequences: false).map { Int($0) }
        guard (1...2).contains(ends.count), let first = ends[0], let last = ends[ends.count - 1],
            first >= 0, first <= last, last < 1 << 16
        else { return nil }
        result.formUnion(first...last)
    }
    return result
}
