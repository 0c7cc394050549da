import Files
import Glibc
import Kernel
import OCI
import Runtime

/// Variables from files and flags.
enum EnvFile {
    /// `KEY=value` lines; empty lines and lines with # are left out; a key alone takes its value from here.
    static func read(_ path: String) throws -> [String] {
        let text = String(decoding: try readFile(path, limit: 1 << 20), as: UTF8.self)
        return try text.split(separator: "\n").compactMap { line in
            let line = line.drop { $0 == " " || $0 == "\t" }
            if line.isEmpty || line.hasPrefix("#") { return nil }
            return try variable(String(line.hasSuffix("\r") ? line.dropLast() : line))
        }
    }

    /// nil where a key alone is not set here.
    static func variable(_ text: String) throws -> String? {
        let key = text.prefix { $0 != "=" }
        guard !key.isEmpty, !key.contains(" ") else {
            throw UsageError("'\(printable(text))' is no variable", hint: "the form is KEY=VALUE")
        }
        if text.contains("=") { return text }
        return getenv(text).map { "\(text)=\(String(cString: $0))" }
    }
}

/// `-v`, `--mount` and `--tmpfs`.
enum MountSyntax {
    static func volume(_ text: String) throws -> ContainerSpec.Mount {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        guard (2...3).contains(parts.count), !parts[0].isEmpty else {
            throw UsageError(
                "-v: '\(printable(text))' is no SOURCE:TARGET[:ro]", hint: "for example -v $PWD:/work:ro")
        }
        guard parts[0].hasPrefix("/") || parts[0].hasPrefix(".") else {
            throw UsageError(
                "-v: '\(printable(parts[0]))' is no path, and there are no named volumes",
                hint: "give a path of the host: ./\(printable(parts[0]))")
        }
        var options = ["rbind"]
        for option in parts.count == 3 ? parts[2].split(separator: ",").map(String.init) : [] {
            switch option {
            case "ro": options.append("ro")
            case "rw", "z", "Z", "rbind": break
            case "bind": options[0] = "bind"
            case "nosuid", "nodev", "noexec", "idmap": options.append(option)
            case "keep": options.append("imgbox.keep")
            case "U": options.append("imgbox.give")
            default:
                throw UsageError(
                    "-v: the option '\(printable(option))' is not known",
                    hint: "known are ro, rw, nosuid, nodev, noexec, bind, idmap, keep and U")
            }
        }
        return try bind(parts[0], parts[1], options)
    }

    static func mount(_ text: String) throws -> ContainerSpec.Mount {
        var values: [String: String] = [:]
        for field in text.split(separator: ",") {
            let parts = field.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(
                String.init)
            let names = ["src": "source", "dst": "target", "destination": "target", "ro": "readonly"]
            values[names[parts[0]] ?? parts[0]] = parts.count > 1 ? parts[1] : "true"
        }
        let type = values.removeValue(forKey: "type") ?? "bind"
        guard let target = values.removeValue(forKey: "target") else {
            throw UsageError("--mount: '\(printable(text))' has no target")
        }
        let isReadOnly = ["true", "1"].contains(values.removeValue(forKey: "readonly") ?? "false")
        var result: ContainerSpec.Mount
        switch type {
        case "bind":
            guard let source = values.removeValue(forKey: "source") else {
                throw UsageError("--mount: '\(printable(text))' has no source")
            }
            result = try bind(source, target, ["rbind"] + (isReadOnly ? ["ro"] : []))
        case "tmpfs":
            var options = ["nosuid", "nodev", "noexec"] + (isReadOnly ? ["ro"] : [])
            if let size = values.removeValue(forKey: "tmpfs-size") {
                options.append("size=\(try byteCount(size, flag: "--mount tmpfs-size"))")
            }
            if let mode = values.removeValue(forKey: "tmpfs-mode") { options.append("mode=\(mode)") }
            result = try ContainerSpec.Mount(
                checked(target), type: "tmpfs", source: "tmpfs", options: options)
        default:
            throw UsageError(
                "--mount: the type '\(printable(type))' is not known", hint: "known are bind and tmpfs")
        }
        if let unknown = values.keys.sorted().first {
            throw UsageError("--mount: the field '\(printable(unknown))' is not known")
        }
        return result
    }

    static func tmpfs(_ text: String) throws -> ContainerSpec.Mount {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(
            String.init)
        var options = ["nosuid", "nodev", "noexec"]
        for option in parts.count > 1 ? parts[1].split(separator: ",").map(String.init) : [] {
            let key = option.prefix { $0 != "=" }
            guard
                [
                    "size", "mode", "uid", "gid", "nr_inodes", "ro", "rw", "exec", "suid", "dev", "noexec",
                    "nosuid", "nodev",
                ].contains(String(key))
            else {
                throw UsageError("--tmpfs: the option '\(printable(option))' is not known")
            }
            options.append(option)
        }
        return try ContainerSpec.Mount(checked(parts[0]), type: "tmpfs", source: "tmpfs", options: options)
    }

    private static func bind(_ source: String, _ target: String, _ options: [String]) throws
        -> ContainerSpec.Mount
    {
        let path = try absolute(source)
        let info = try status(of: path, at: currentDirectory, follow: true)
        let isFile = info.map { $0.kind != .directory } ?? false
        return try ContainerSpec.Mount(
            checked(target), type: "bind", source: path, options: options + (isFile ? ["imgbox.file"] : []))
    }

    private static func checked(_ target: String) throws -> String {
        guard target.hasPrefix("/"), !target.split(separator: "/").contains(".."),
            target.contains(where: { $0 != "/" })
        else {
            throw UsageError(
                "'\(printable(target))' is no place for a mount",
                hint: "give an absolute path below / without '..'")
        }
        // A mount over /proc would make later writes go to files of the mount (CVE-2019-16884).
        if target == "/proc" || target.hasPrefix("/proc/") {
            throw UsageError("a mount on '\(printable(target))' would hide the kernel's own files")
        }
        return target
    }
}

/// `--ulimit`
enum LimitSyntax {
    static func parse(_ text: String) throws -> ContainerSpec.ResourceLimit {
        let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
        let values =
            parts.count == 2
            ? parts[1].split(separator: ":", omittingEmptySubsequences: false).map(value) : []
        guard (1...2).contains(values.count), let first = values[0], let last = values[values.count - 1]
        else {
            throw UsageError(
                "--ulimit: '\(printable(text))' is no NAME=SOFT[:HARD]", hint: "for example nofile=1024:4096")
        }
        let type = "RLIMIT_\(parts[0].uppercased())"
        guard Planner.limitNames.contains(type) else {
            throw UsageError(
                "--ulimit: '\(printable(parts[0]))' is no limit",
                hint:
                    "known are \(Planner.limitNames.map { $0.dropFirst(7).lowercased() }.sorted().joined(separator: ", "))"
            )
        }
        guard first <= last else {
            throw UsageError("--ulimit \(printable(text)): the soft limit is above the hard limit")
        }
        return .init(type: type, soft: first, hard: last)
    }

    private static func value(_ text: Substring) -> UInt64? {
        text == "unlimited" || text == "-1" ? .max : UInt64(text)
    }
}

/// `--cap-add` and `--cap-drop`
enum CapabilitySyntax {
    /// nil where nothing was asked for.
    static func apply(add: [String], drop: [String], privileged: Bool = false) throws -> [String]? {
        if add.isEmpty, drop.isEmpty, !privileged { return nil }
        var kept = Set(privileged ? Capability.all : Capability.containerDefault)
        func each(_ names: [String], _ flag: String, _ change: (Set<Capability>) -> Void) throws {
            for name in names.flatMap({ $0.split(separator: ",").map(String.init) }) {
                if name.uppercased() == "ALL" {
                    change(Set(Capability.all))
                } else if let capability = Capability(name: name) {
                    change([capability])
                } else {
                    throw UsageError(
                        "\(flag): '\(printable(name))' is no capability",
                        hint: "see capabilities(7): NET_RAW, SYS_PTRACE, ...")
                }
            }
        }
        // As docker has it: ALL first, then what is named.
        try each(drop.filter { $0.uppercased() == "ALL" }, "--cap-drop") { kept.subtract($0) }
        try each(add, "--cap-add") { kept.formUnion($0) }
        try each(drop.filter { $0.uppercased() != "ALL" }, "--cap-drop") { kept.subtract($0) }
        return kept.sorted { $0.number < $1.number }.map(\.description)
    }
}
