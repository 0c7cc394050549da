import Files
import Glibc
package import Kernel
import OCI

extension SeccompProfile {
    /// Reads a profile in the form that docker and podman share (moby's profiles/seccomp/default.json), for this machine,
    /// these capabilities and this kernel.
    package init(
        parsing bytes: [UInt8], capabilities: Set<Capability>, kernel: (major: Int, minor: Int)
    ) throws(SeccompError) {
        let json: JSON
        do throws(OCIError) { json = try JSON(parsing: bytes) } catch {
            throw SeccompError("the seccomp profile is no JSON: \(error.message)")
        }
        guard let word = json["defaultAction"]?.string else {
            throw SeccompError(
                "the seccomp profile has no defaultAction",
                hint: "the form is docker's: {\"defaultAction\": ..., \"syscalls\": [...]}")
        }
        let errno = try SeccompProfile.number(json["defaultErrnoRet"], "defaultErrnoRet") ?? 1
        self.init(defaultAction: try Action(word, errno), rules: [])
        for flag in (json["flags"]?.array ?? []).compactMap(\.string)
        where !["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]
            .contains(flag)
        {
            throw SeccompError("the seccomp profile has the flag '\(printable(flag))', which is not known")
        }
        guard json["listenerPath"] == nil else {
            throw SeccompError("the seccomp profile wants a listener, which imgbox does not have")
        }
        for (index, item) in (json["syscalls"]?.array ?? []).enumerated() {
            let place = "entry \(index + 1) of the seccomp profile's syscalls"
            guard try SeccompProfile.applies(item, capabilities, kernel, place) else { continue }
            var names = (item["names"]?.array ?? []).compactMap(\.string)
            if let name = item["name"]?.string { names.append(name) }
            guard !names.isEmpty, let action = item["action"]?.string else {
                throw SeccompError("\(place) has no names or no action")
            }
            let number = try SeccompProfile.number(item["errnoRet"], place) ?? errno
            var conditions: [Condition] = []
            for argument in item["args"]?.array ?? [] {
                conditions.append(try Condition(argument, place))
            }
            // Conditions on one argument are alternatives, as runc has it: libseccomp takes one of each in a rule.
            if Set(conditions.map(\.index)).count < conditions.count {
                for condition in conditions {
                    rules.append(Rule(names, try Action(action, number), [condition]))
                }
            } else {
                rules.append(Rule(names, try Action(action, number), conditions))
            }
        }
    }

    private static func number(_ json: JSON?, _ place: String) throws(SeccompError) -> UInt16? {
        guard let json, !json.isNull else { return nil }
        guard let value = json.integer, (0...4095).contains(value) else {
            throw SeccompError("\(place): an errno of the seccomp profile is not from 0 to 4095")
        }
        return UInt16(value)
    }

    /// Whether `includes` and `excludes` let an entry in.
    private static func applies(
        _ item: JSON, _ capabilities: Set<Capability>, _ kernel: (major: Int, minor: Int), _ place: String
    ) throws(SeccompError) -> Bool {
        func list(_ part: String, _ key: String) -> [String] {
            (item[part]?[key]?.array ?? []).compactMap(\.string)
        }
        func holds(_ name: String) -> Bool { Capability(name: name).map(capabilities.contains) ?? false }
        func newEnough(_ text: String?) throws(SeccompError) -> Bool? {
            guard let text else { return nil }
            let parts = text.split(separator: ".").map { Int($0) }
            guard parts.count >= 2, let major = parts[0], let minor = parts[1] else {
                throw SeccompError("\(place): '\(printable(text))' is no kernel version")
            }
            return kernel >= (major, minor)
        }
        let arches = list("includes", "arches")
        if !arches.isEmpty, !arches.contains(where: machine.contains) { return false }
        if list("excludes", "arches").contains(where: machine.contains) { return false }
        if !list("includes", "caps").allSatisfy(holds) { return false }
        if list("excludes", "caps").contains(where: holds) { return false }
        if try newEnough(item["includes"]?["minKernel"]?.string) == false { return false }
        if try newEnough(item["excludes"]?["minKernel"]?.string) == true { return false }
        return true
    }

    /// This machine in the words of profiles.
    private static var machine: Set<String> {
        #if arch(x86_64)
            ["amd64", "x86_64", "x32", "x86"]
        #else
            ["arm64", "aarch64", "arm"]
        #endif
    }
}

extension SeccompProfile.Action {
    init(_ word: String, _ number: UInt16) throws(SeccompError) {
        switch word {
        case "SCMP_ACT_ALLOW": self = .allow
        case "SCMP_ACT_ERRNO": self = .errno(number)
        case "SCMP_ACT_LOG": self = .log
        case "SCMP_ACT_TRAP": self = .trap
        case "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD": self = .killThread
        case "SCMP_ACT_KILL_PROCESS": self = .killProcess
        case "SCMP_ACT_TRACE": self = .trace(number)
        default:
            throw SeccompError(
                "the seccomp profile has the action '\(printable(word))', which is not known",
                hint: "known are SCMP_ACT_ALLOW, _ERRNO, _LOG, _TRAP, _KILL, _KILL_PROCESS and _TRACE")
        }
    }
}

extension SeccompProfile.Condition {
    init(_ json: JSON, _ place: String) throws(SeccompError) {
        let comparisons: [String: SeccompProfile.Comparison] = [
            "SCMP_CMP_NE": .notEqual, "SCMP_CMP_LT": .less, "SCMP_CMP_LE": .lessOrEqual,
            "SCMP_CMP_EQ": .equal,
            "SCMP_CMP_GE": .greaterOrEqual, "SCMP_CMP_GT": .greater, "SCMP_CMP_MASKED_EQ": .masked,
        ]
        func number(_ key: String) -> UInt64? {
            if case .number(let text)? = json[key] { UInt64(text) } else { nil }
        }
        guard let index = number("index"), index < 6, let value = number("value"),
            let comparison = json["op"]?.string.flatMap({ comparisons[$0] })
        else {
            throw SeccompError("\(place): an argument needs an index from 0 to 5, a value and an op")
        }
        self.init(UInt32(index), comparison, value, number("valueTwo") ?? 0)
    }
}
