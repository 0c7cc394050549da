import Files
import Kernel
import OCI
import Runtime

/// `--network`, `--pid`, `--userns` and their like.
enum NamespaceSyntax {
    static func apply(_ words: RunWords, to options: inout RunOptions) throws {
        options.network = try choice(words.network, "--network", own: ["none"])
        options.pid = try choice(words.pid, "--pid", own: ["private"])
        options.ipc = try choice(words.ipc, "--ipc", own: ["private", "shareable"])
        options.uts = try choice(words.uts, "--uts", own: ["private"], joinable: false)
        options.cgroupNamespace = try choice(words.cgroupns, "--cgroupns", own: ["private"], joinable: false)
        options.userNamespace = try users(words)
        if let text = words.timeOffset { options.timeOffset = try seconds(text) }
        if words.privileged, options.userNamespace == .standard { options.userNamespace = .host }
    }

    private static func choice(
        _ text: String?, _ flag: String, own: [String], joinable: Bool = true
    ) throws -> NamespaceChoice {
        guard let text, !own.contains(text) else { return .own }
        if text == "host" { return .host }
        if joinable, text.hasPrefix("container:"), text.utf8.count > "container:".utf8.count {
            return .container(String(text.dropFirst("container:".count)))
        }
        let known = own.prefix(1) + ["host"] + (joinable ? ["container:ID"] : [])
        throw UsageError(
            "\(flag): '\(printable(text))' is not known", hint: "known are \(known.joined(separator: ", "))")
    }

    private static func users(_ words: RunWords) throws -> UserNamespaceChoice {
        let hasMaps = !words.uidmap.isEmpty || !words.gidmap.isEmpty
        let hasNames = words.subuidname != nil || words.subgidname != nil
        let given = [
            (words.userns != nil, "--userns"), (hasMaps, "--uidmap and --gidmap"), (hasNames, "--subuidname"),
        ]
        .filter(\.0).map(\.1)
        guard given.count <= 1 else {
            throw UsageError(
                "\(given[0]) cannot be combined with \(given[1]): each says which ids the container has")
        }
        if hasMaps {
            let uid = try words.uidmap.map { try line($0, "--uidmap") }
            let gid = try words.gidmap.map { try line($0, "--gidmap") }
            // As podman has it: one map stands for both.
            return .maps(uid: uid.isEmpty ? gid : uid, gid: gid.isEmpty ? uid : gid)
        }
        if hasNames {
            let uid = words.subuidname ?? words.subgidname ?? ""
            return .subordinate(uid: uid, gid: words.subgidname ?? uid)
        }
        guard let text = words.userns else { return .standard }
        switch text {
        case "", "private": return .standard
        case "auto": return .auto
        case "host": return .host
        case "nomap": return .noMap
        case "keep-id": return .keepID(uid: nil, gid: nil)
        default: break
        }
        if text.hasPrefix("keep-id:") { return try keepID(text) }
        if text.hasPrefix("container:"), text.utf8.count > "container:".utf8.count {
            return .container(String(text.dropFirst("container:".count)))
        }
        throw UsageError(
            "--userns: '\(printable(text))' is not known",
            hint: "known are auto, host, keep-id[:uid=N,gid=N], nomap and container:ID")
    }

    private static func keepID(_ text: String) throws -> UserNamespaceChoice {
        var (uid, gid): (UInt32?, UInt32?)
        for field in text.dropFirst("keep-id:".count).split(separator: ",") {
            let parts = field.split(separator: "=", maxSplits: 1)
            guard parts.count == 2, let id = UInt32(parts[1]), id < .max, ["uid", "gid"].contains(parts[0])
            else {
                throw UsageError("--userns: '\(printable(text))' is no keep-id:uid=N,gid=N")
            }
            if parts[0] == "uid" { uid = id } else { gid = id }
        }
        return .keepID(uid: uid, gid: gid)
    }

    private static func line(_ text: String, _ flag: String) throws -> IDExtent {
        let numbers = text.split(separator: ":", omittingEmptySubsequences: false).map { UInt32($0) }
        guard numbers.count == 3, let inside = numbers[0], let outside = numbers[1], let count = numbers[2]
        else {
            throw UsageError(
                "\(flag): '\(printable(text))' is no INSIDE:OUTSIDE:COUNT", hint: "for example 0:100000:65536"
            )
        }
        return IDExtent(inside: inside, outside: outside, count: count)
    }

    /// `3600`, `-5d`, `1h30m`, `1.5`.
    private static func seconds(_ text: String) throws -> (seconds: Int64, nanoseconds: UInt32) {
        let wrong = UsageError(
            "--time-offset: '\(printable(text))' is no time",
            hint: "give seconds, or numbers with d, h, m and s: 1h30m")
        var rest = text[...]
        let isNegative = rest.hasPrefix("-")
        if isNegative || rest.hasPrefix("+") { rest = rest.dropFirst() }
        guard !rest.isEmpty else { throw wrong }
        let factors: [Character: Double] = ["d": 86400, "h": 3600, "m": 60, "s": 1]
        var total = 0.0
        while !rest.isEmpty {
            let digits = rest.prefix { $0.isNumber || $0 == "." }
            guard let number = Double(digits) else { throw wrong }
            rest = rest.dropFirst(digits.count)
            guard let unit = rest.popFirst() else {
                total += number
                break
            }
            guard let factor = factors[unit] else { throw wrong }
            total += number * factor
        }
        // The kernel's own limit is 2^63 nanoseconds (time_namespaces(7)).
        guard total < 9_000_000_000 else { throw wrong }
        if isNegative { total = -total }
        let whole = total.rounded(.down)
        return (Int64(whole), UInt32((total - whole) * 1e9))
    }
}

extension RunWords {
    /// The container that is joined, if one is.
    var joinedContainer: String? {
        for word in [network, pid, ipc, userns] {
            if let word, word.hasPrefix("container:") { return String(word.dropFirst("container:".count)) }
        }
        return nil
    }
}
