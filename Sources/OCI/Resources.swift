/// What a container may use, as the runtime specification has it (config-linux.md, "Control groups"), with the two values
/// of cgroup v2 that have no v1 name. nil: not limited.
package struct Resources: Sendable, Equatable {
    package struct Rate: Sendable, Equatable {
        package var major: UInt32
        package var minor: UInt32
        /// Bytes or operations a second, 1 or more.
        package var rate: UInt64
        package init(major: UInt32, minor: UInt32, rate: UInt64) {
            (self.major, self.minor, self.rate) = (major, minor, rate)
        }
    }

    package struct HugePages: Sendable, Equatable {
        /// As the kernel names it: `2MB`, `1GB`.
        package var pageSize: String
        /// Bytes.
        package var limit: UInt64
        package init(pageSize: String, limit: UInt64) { (self.pageSize, self.limit) = (pageSize, limit) }
    }

    /// A line of the device list; later lines win.
    package struct DeviceRule: Sendable, Equatable {
        package var allow: Bool
        /// `a` all, `c` character, `b` block.
        package var type: Character
        /// nil: any.
        package var major: UInt32?
        package var minor: UInt32?
        /// Some of `r`, `w`, `m`.
        package var access: String
        package init(allow: Bool, type: Character, major: UInt32?, minor: UInt32?, access: String) {
            (self.allow, self.type, self.major, self.minor, self.access) = (allow, type, major, minor, access)
        }
    }

    /// Relative to other groups, 2 to 262144; the kernel's own is 1024.
    package var cpuShares: UInt64?
    /// The same in the words of v2, 1 to 10000; the kernel's own is 100.
    package var cpuWeight: UInt64?
    /// Microseconds of processor time in each period; negative: unlimited.
    package var cpuQuota: Int64?
    /// Microseconds.
    package var cpuPeriod: UInt64?
    /// Lists such as `0-3,5`.
    package var cpus: String?
    package var memoryNodes: String?
    /// Bytes; -1: unlimited. Swap is memory and swap together, as v1 and docker count.
    package var memory: Int64?
    package var memorySwap: Int64?
    package var memoryReservation: Int64?
    package var memoryHigh: Int64?
    /// 0 to 100.
    package var swappiness: UInt64?
    package var oomKillDisabled = false
    /// Processes and threads; -1: unlimited.
    package var pids: Int64?
    /// 10 to 1000.
    package var blockWeight: UInt16?
    package var readBytes: [Rate] = []
    package var writeBytes: [Rate] = []
    package var readOperations: [Rate] = []
    package var writeOperations: [Rate] = []
    package var hugePages: [HugePages] = []
    package var devices: [DeviceRule] = []

    package init() {}
}

extension Resources {
    typealias Members = [(key: String, value: JSON)]

    var json: JSON {
        var members: Members = []
        if !devices.isEmpty { members.append(("devices", .array(devices.map(\.json)))) }
        func add(_ key: String, _ part: Members) {
            if !part.isEmpty { members.append((key, .object(part))) }
        }
        var memory: Members = []
        for (key, value) in [
            ("limit", self.memory), ("swap", memorySwap), ("reservation", memoryReservation),
        ] {
            if let value { memory.append((key, .integer(value))) }
        }
        if let swappiness { memory.append(("swappiness", .integer(swappiness))) }
        if oomKillDisabled { memory.append(("disableOOMKiller", .bool(true))) }
        add("memory", memory)
        var cpu: Members = []
        if let cpuShares { cpu.append(("shares", .integer(cpuShares))) }
        if let cpuQuota { cpu.append(("quota", .integer(cpuQuota))) }
        if let cpuPeriod { cpu.append(("period", .integer(cpuPeriod))) }
        if let cpus { cpu.append(("cpus", .string(cpus))) }
        if let memoryNodes { cpu.append(("mems", .string(memoryNodes))) }
        add("cpu", cpu)
        if let pids { add("pids", [("limit", .integer(pids))]) }
        var block: Members = blockWeight.map { [("weight", .integer($0))] } ?? []
        for (key, rates) in [
            ("throttleReadBpsDevice", readBytes), ("throttleWriteBpsDevice", writeBytes),
            ("throttleReadIOPSDevice", readOperations), ("throttleWriteIOPSDevice", writeOperations),
        ] where !rates.isEmpty { block.append((key, .array(rates.map(\.json)))) }
        add("blockIO", block)
        if !hugePages.isEmpty {
            members.append(
                (
                    "hugepageLimits",
                    .array(
                        hugePages.map { ["pageSize": .string($0.pageSize), "limit": .integer($0.limit)] })
                ))
        }
        // What only v2 knows goes by its file (config-linux.md, "Unified").
        var unified: Members = []
        if let cpuWeight { unified.append(("cpu.weight", .string("\(cpuWeight)"))) }
        if let memoryHigh {
            unified.append(("memory.high", .string(memoryHigh < 0 ? "max" : "\(memoryHigh)")))
        }
        add("unified", unified)
        return .object(members)
    }

    init(json: JSON) throws(OCIError) {
        devices = try (json["devices"]?.array ?? []).mapTyped { item throws(OCIError) in
            try DeviceRule(json: item)
        }
        let memory = json["memory"]
        self.memory = memory?["limit"]?.integer
        memorySwap = memory?["swap"]?.integer
        memoryReservation = memory?["reservation"]?.integer
        swappiness = memory?["swappiness"]?.integer.flatMap { UInt64(exactly: $0) }
        oomKillDisabled = memory?["disableOOMKiller"]?.bool ?? false
        let cpu = json["cpu"]
        cpuShares = cpu?["shares"]?.integer.flatMap { UInt64(exactly: $0) }
        cpuQuota = cpu?["quota"]?.integer
        cpuPeriod = cpu?["period"]?.integer.flatMap { UInt64(exactly: $0) }
        cpus = cpu?["cpus"]?.string
        memoryNodes = cpu?["mems"]?.string
        pids = json["pids"]?["limit"]?.integer
        let block = json["blockIO"]
        blockWeight = block?["weight"]?.integer.flatMap { UInt16(exactly: $0) }
        func rates(_ key: String) throws(OCIError) -> [Rate] {
            try (block?[key]?.array ?? []).mapTyped { item throws(OCIError) in try Rate(json: item) }
        }
        readBytes = try rates("throttleReadBpsDevice")
        writeBytes = try rates("throttleWriteBpsDevice")
        readOperations = try rates("throttleReadIOPSDevice")
        writeOperations = try rates("throttleWriteIOPSDevice")
        for item in json["hugepageLimits"]?.array ?? [] {
            guard let size = item["pageSize"]?.string, let limit = item["limit"]?.integer, limit >= 0 else {
                throw OCIError(.document, "a hugepageLimit in config.json lacks its pageSize or limit")
            }
            hugePages.append(HugePages(pageSize: size, limit: UInt64(limit)))
        }
        cpuWeight = json["unified"]?["cpu.weight"]?.string.flatMap { UInt64($0) }
        memoryHigh = json["unified"]?["memory.high"]?.string.flatMap { $0 == "max" ? -1 : Int64($0) }
    }
}

extension Resources.Rate {
    var json: JSON {
        ["major": .integer(major), "minor": .integer(minor), "rate": .integer(rate)]
    }

    init(json: JSON) throws(OCIError) {
        guard let major = json["major"]?.integer.flatMap({ UInt32(exactly: $0) }),
            let minor = json["minor"]?.integer.flatMap({ UInt32(exactly: $0) }),
            let rate = json["rate"]?.integer.flatMap({ UInt64(exactly: $0) })
        else { throw OCIError(.document, "a throttled device in config.json lacks major, minor or rate") }
        self.init(major: major, minor: minor, rate: rate)
    }
}

extension Resources.DeviceRule {
    var json: JSON {
        var members: [(key: String, value: JSON)] = [
            ("allow", .bool(allow)), ("type", .string(String(type))),
        ]
        if let major { members.append(("major", .integer(major))) }
        if let minor { members.append(("minor", .integer(minor))) }
        members.append(("access", .string(access)))
        return .object(members)
    }

    init(json: JSON) throws(OCIError) {
        func number(_ key: String) throws(OCIError) -> UInt32? {
            guard let value = json[key]?.integer, value >= 0 else { return nil }
            guard let number = UInt32(exactly: value) else {
                throw OCIError(.document, "a device number in config.json is above 4294967295")
            }
            return number
        }
        guard let allow = json["allow"]?.bool else {
            throw OCIError(.document, "a device rule in config.json does not say whether it allows")
        }
        self.init(
            allow: allow, type: json["type"]?.string?.first ?? "a", major: try number("major"),
            minor: try number("minor"), access: json["access"]?.string ?? "rwm")
    }
}

extension Sequence {
    /// `map` with a typed error.
    func mapTyped<Result, Failure: Error>(
        _ body: (Element) throws(Failure) -> Result
    ) throws(Failure) -> [Result] {
        var result: [Result] = []
        for element in self { result.append(try body(element)) }
        return result
    }
}
