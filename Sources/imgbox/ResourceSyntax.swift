import Cgroups
import Files
import Glibc
import OCI
import Runtime

/// `--memory`, `--cpus`, `--device` and their like.
struct ResourceSyntax {
    private let limits: [String: [String]]

    static func apply(_ words: RunWords, to options: inout RunOptions) throws {
        let syntax = ResourceSyntax(limits: words.limits)
        try syntax.applyProcessor(to: &options.resources)
        try syntax.applyMemory(to: &options.resources)
        options.resources.oomKillDisabled = words.oomKillDisable
        if words.oomKillDisable, options.resources.memory == nil {
            throw UsageError(
                "--oom-kill-disable without --memory could stop the whole host",
                hint: "give a --memory limit as well")
        }
        try syntax.applyBlock(to: &options.resources)
        if let text = syntax.value("--pids-limit") {
            let count = try syntax.integer(text, "--pids-limit", -1...4_194_304)
            options.resources.pids = count <= 0 ? -1 : count
        }
        if let text = syntax.value("--oom-score-adj") {
            options.oomScoreAdjustment = Int32(try syntax.integer(text, "--oom-score-adj", -1000...1000))
        }
        if let text = syntax.value("--disk-size") {
            let size = try byteCount(text, flag: "--disk-size")
            guard size >= 1 << 20 else {
                throw UsageError(
                    "--disk-size: '\(printable(text))' is too small for a file system",
                    hint: "give 1m or more")
            }
            options.diskSize = size
        }
        if let text = syntax.value("--cgroup-parent") { options.cgroupParent = try syntax.group(text) }
        try syntax.applyDevices(to: &options)
    }

    private func value(_ name: String) -> String? { limits[name]?.last }
    private func values(_ name: String) -> [String] { limits[name] ?? [] }

    private func integer(_ text: String, _ flag: String, _ range: ClosedRange<Int64>) throws -> Int64 {
        guard let number = Int64(text), range.contains(number) else {
            throw UsageError(
                "\(flag): '\(printable(text))' is no number from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    // MARK: - Processor

    private func applyProcessor(to resources: inout Resources) throws {
        if let text = value("--cpu-period") {
            resources.cpuPeriod = UInt64(try integer(text, "--cpu-period", 1000...1_000_000))
        }
        if let text = value("--cpu-quota") {
            let quota = try integer(text, "--cpu-quota", -1...(1 << 40))
            guard quota < 0 || quota >= 1000 else {
                throw UsageError("--cpu-quota: \(quota) is below the kernel's least, 1000 microseconds")
            }
            resources.cpuQuota = quota
        }
        if let text = value("--cpus") {
            guard resources.cpuQuota == nil else {
                throw UsageError(
                    "--cpus cannot be combined with --cpu-quota: both say how much processor time there is")
            }
            let there = Double(sysconf(Int32(_SC_NPROCESSORS_ONLN)))
            guard let number = Double(text), number >= 0.01, number <= there else {
                throw UsageError(
                    "--cpus: '\(printable(text))' is no number from 0.01 to \(Int(there)), the processors of this machine"
                )
            }
            resources.cpuQuota = max(1000, Int64((number * Double(resources.cpuPeriod ?? 100_000)).rounded()))
            if resources.cpuPeriod == nil { resources.cpuPeriod = 100_000 }
        }
        if let text = value("--cpu-shares") {
            let shares = try integer(text, "--cpu-shares", 0...262_144)
            // As docker has it: 0 is the kernel's own.
            resources.cpuShares = shares == 0 ? nil : UInt64(max(2, shares))
        }
        if let text = value("--cpu-weight") {
            guard resources.cpuShares == nil else {
                throw UsageError(
                    "--cpu-weight cannot be combined with --cpu-shares: they are two words for one thing")
            }
            resources.cpuWeight = UInt64(try integer(text, "--cpu-weight", 1...10_000))
        }
        resources.cpus = try list("--cpuset-cpus", "/sys/devices/system/cpu/online", "processors")
        resources.memoryNodes = try list("--cpuset-mems", "/sys/devices/system/node/online", "memory nodes")
    }

    private func list(_ flag: String, _ file: String, _ what: String) throws -> String? {
        guard let text = value(flag) else { return nil }
        guard let wanted = cpuList(text), !wanted.isEmpty else {
            throw UsageError("\(flag): '\(printable(text))' is no list of numbers", hint: "for example 0-2,5")
        }
        let bytes = (try? readFile(file, limit: 4096)) ?? Array("0".utf8)
        let there =
            String(decoding: bytes, as: UTF8.self).split(separator: "\n").first.map(String.init) ?? "0"
        let missing = wanted.subtracting(cpuList(there) ?? [])
        guard missing.isEmpty else {
            throw UsageError(
                "\(flag): this machine has no \(missing.sorted().map(String.init).joined(separator: ", "))",
                hint: "its \(what) are \(there)")
        }
        return text
    }

    // MARK: - Memory

    private func size(_ flag: String, unlimited: Bool = false) throws -> Int64? {
        guard let text = value(flag) else { return nil }
        if unlimited, text == "-1" { return -1 }
        let size = try byteCount(text, flag: flag)
        guard size > 0 else {
            throw UsageError("\(flag): 0 is no limit", hint: "leave the flag out for no limit")
        }
        return size
    }

    private func applyMemory(to resources: inout Resources) throws {
        // What docker asks for as well: less is used up before the command runs.
        let least: Int64 = 6 << 20
        resources.memory = try size("--memory")
        if let memory = resources.memory, memory < least {
            throw UsageError("--memory: \(memory) bytes are too little to start in", hint: "give 6m or more")
        }
        resources.memorySwap = try size("--memory-swap", unlimited: true)
        if let swap = resources.memorySwap {
            guard let memory = resources.memory else {
                throw UsageError(
                    "--memory-swap counts memory and swap together, so --memory must be given as well")
            }
            guard swap < 0 || swap >= memory else {
                throw UsageError(
                    "--memory-swap is memory and swap together, and cannot be less than --memory")
            }
        }
        resources.memoryReservation = try size("--memory-reservation")
        if let reservation = resources.memoryReservation, let memory = resources.memory, reservation > memory
        {
            throw UsageError("--memory-reservation cannot be more than --memory")
        }
        resources.memoryHigh = try size("--memory-high")
        if let text = value("--memory-swappiness") {
            resources.swappiness = UInt64(try integer(text, "--memory-swappiness", 0...100))
        }
        for text in values("--hugetlb") {
            let parts = text.split(separator: text.contains("=") ? "=" : ":", maxSplits: 1).map(String.init)
            guard parts.count == 2 else {
                throw UsageError(
                    "--hugetlb: '\(printable(text))' is no PAGESIZE=LIMIT", hint: "for example 2m=64m")
            }
            let page = try byteCount(parts[0], flag: "--hugetlb")
            let limit = try byteCount(parts[1], flag: "--hugetlb")
            let known = ResourceSyntax.pageSizes()
            guard known.contains(page) else {
                throw UsageError(
                    "--hugetlb: this machine has no pages of \(printable(parts[0]))",
                    hint: known.isEmpty
                        ? "it has no huge pages at all"
                        : "it has \(known.map(ResourceSyntax.pageName).joined(separator: ", "))")
            }
            guard limit % page == 0 else {
                throw UsageError("--hugetlb: \(printable(parts[1])) is no multiple of the page size")
            }
            resources.hugePages.append(.init(pageSize: ResourceSyntax.pageName(page), limit: UInt64(limit)))
        }
    }

    private static func pageSizes() -> [Int64] {
        guard let fd = try? open("/sys/kernel/mm/hugepages", O_RDONLY | O_DIRECTORY),
            let names = try? entries(of: fd.raw)
        else { return [] }
        return names.compactMap { name in
            // hugepages-2048kB
            let digits = String(decoding: name.bytes, as: UTF8.self).filter(\.isNumber)
            return Int64(digits).map { $0 << 10 }
        }.sorted()
    }

    /// As the kernel names it in the files of the controller.
    private static func pageName(_ size: Int64) -> String {
        size >= 1 << 30 ? "\(size >> 30)GB" : size >= 1 << 20 ? "\(size >> 20)MB" : "\(size >> 10)KB"
    }

    // MARK: - Block devices

    private func applyBlock(to resources: inout Resources) throws {
        if let text = value("--blkio-weight") {
            resources.blockWeight = UInt16(try integer(text, "--blkio-weight", 10...1000))
        }
        resources.readBytes = try rates("--device-read-bps", isSize: true)
        resources.writeBytes = try rates("--device-write-bps", isSize: true)
        resources.readOperations = try rates("--device-read-iops", isSize: false)
        resources.writeOperations = try rates("--device-write-iops", isSize: false)
    }

    private func rates(_ flag: String, isSize: Bool) throws -> [Resources.Rate] {
        try values(flag).map { text in
            let parts = text.split(separator: ":", maxSplits: 1).map(String.init)
            guard parts.count == 2 else {
                throw UsageError(
                    "\(flag): '\(printable(text))' is no DEVICE:RATE", hint: "for example /dev/sda:1m")
            }
            let rate =
                isSize ? try byteCount(parts[1], flag: flag) : try integer(parts[1], flag, 1...(1 << 40))
            guard rate > 0 else { throw UsageError("\(flag): a rate of 0 would stop everything") }
            guard let info = (try? status(of: parts[0], at: currentDirectory, follow: true)) ?? nil else {
                throw UsageError(
                    "\(flag): there is no '\(printable(parts[0]))'", hint: "the disks are listed by lsblk")
            }
            guard info.kind == .blockDevice else {
                throw UsageError("\(flag): '\(printable(parts[0]))' is no block device")
            }
            let disk = ResourceSyntax.disk(of: info.node)
            return .init(major: disk.major, minor: disk.minor, rate: UInt64(rate))
        }
    }

    /// The kernel counts by disk: for a partition the disk that it is on.
    private static func disk(of node: (major: UInt32, minor: UInt32)) -> (major: UInt32, minor: UInt32) {
        let path = "/sys/dev/block/\(node.major):\(node.minor)"
        guard access("\(path)/partition", F_OK) == 0, let bytes = try? readFile("\(path)/../dev", limit: 64)
        else {
            return node
        }
        let numbers = String(decoding: bytes, as: UTF8.self).split(whereSeparator: { !$0.isNumber })
            .compactMap {
                UInt32($0)
            }
        return numbers.count == 2 ? (numbers[0], numbers[1]) : node
    }

    // MARK: - Devices

    private func group(_ text: String) throws -> String {
        let parts = text.split(separator: "/")
        guard !parts.isEmpty, !parts.contains(".."), !parts.contains("."), !text.contains("\n") else {
            throw UsageError(
                "--cgroup-parent: '\(printable(text))' is no group", hint: "for example /builds, without '..'"
            )
        }
        return "/" + parts.joined(separator: "/")
    }

    private func applyDevices(to options: inout RunOptions) throws {
        for text in values("--device") {
            var parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
            var access = "rwm"
            if parts.count > 1, let last = parts.last, !last.isEmpty, last.allSatisfy({ "rwm".contains($0) })
            {
                access = last
                parts.removeLast()
            }
            let target = parts.count > 1 ? parts[1] : parts.first ?? ""
            guard (1...2).contains(parts.count), parts[0].hasPrefix("/") else {
                throw UsageError(
                    "--device: '\(printable(text))' is no SOURCE[:TARGET][:rwm]",
                    hint: "for example /dev/fuse:/dev/fuse:rw")
            }
            guard target.hasPrefix("/dev/"), !target.split(separator: "/").contains(".."),
                target.utf8.count > 5
            else {
                throw UsageError("--device: '\(printable(target))' is no place below /dev")
            }
            guard let info = (try? status(of: parts[0], at: currentDirectory, follow: true)) ?? nil else {
                throw UsageError("--device: there is no '\(printable(parts[0]))'")
            }
            guard info.kind == .characterDevice || info.kind == .blockDevice else {
                throw UsageError(
                    "--device: '\(printable(parts[0]))' is no device", hint: "files are given with -v")
            }
            let type: Character = info.kind == .blockDevice ? "b" : "c"
            options.devices.append(
                .init(
                    path: target, type: type, major: info.node.major, minor: info.node.minor,
                    mode: info.permissions, uid: 0, gid: 0))
            options.deviceSources[target] = parts[0]
            options.deviceRules.append(
                .init(allow: true, type: type, major: info.node.major, minor: info.node.minor, access: access)
            )
        }
        for text in values("--device-cgroup-rule") { options.deviceRules.append(try rule(text)) }
    }

    private func rule(_ text: String) throws -> Resources.DeviceRule {
        let wrong = UsageError(
            "--device-cgroup-rule: '\(printable(text))' is no rule",
            hint: "the form is 'c 10:229 rwm', with * for any number")
        let parts = text.split(separator: " ").map(String.init)
        if parts == ["a"] { return .init(allow: true, type: "a", major: nil, minor: nil, access: "rwm") }
        guard parts.count == 3, ["a", "b", "c"].contains(parts[0]),
            parts[2].allSatisfy({ "rwm".contains($0) })
        else {
            throw wrong
        }
        let numbers = parts[1].split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        guard numbers.count == 2 else { throw wrong }
        func number(_ text: String) throws -> UInt32? {
            if text == "*" { return nil }
            guard let number = UInt32(text) else { throw wrong }
            return number
        }
        return .init(
            allow: true, type: Character(parts[0]), major: try number(numbers[0]),
            minor: try number(numbers[1]),
            access: parts[2])
    }
}
