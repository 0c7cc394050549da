import CKernel
package import Files
import Glibc

/// One line of an id map (user_namespaces(7)): `count` ids from `inside` are `outside` and following.
package struct IDExtent: Sendable, Equatable {
    package var inside: UInt32
    package var outside: UInt32
    package var count: UInt32

    package init(inside: UInt32, outside: UInt32, count: UInt32) {
        (self.inside, self.outside, self.count) = (inside, outside, count)
    }

    package var line: String { "\(inside) \(outside) \(count)" }

    /// The line of a namespace that nobody has changed.
    package static let all = IDExtent(inside: 0, outside: 0, count: .max)
}

extension [IDExtent] {
    /// The id outside; nil where no line holds it.
    package func outside(_ id: UInt32) -> UInt32? {
        for extent in self where id >= extent.inside && id - extent.inside < extent.count {
            return extent.outside + (id - extent.inside)
        }
        return nil
    }

    /// The id itself where it is mapped, or else the first one that is: who sets a container up.
    package func first(_ id: UInt32) -> UInt32 {
        outside(id) == nil ? first?.inside ?? id : id
    }

    /// The same map in lines of which none reaches over two lines of the map outside, as the kernel wants it.
    package func split(along outer: [IDExtent]) -> [IDExtent] {
        var result: [IDExtent] = []
        for extent in self {
            var rest = extent
            while rest.count > 0,
                let line = outer.first(where: {
                    rest.outside >= $0.inside && rest.outside - $0.inside < $0.count
                })
            {
                let count = Swift.min(rest.count, line.count - (rest.outside - line.inside))
                result.append(IDExtent(inside: rest.inside, outside: rest.outside, count: count))
                rest = IDExtent(
                    inside: rest.inside &+ count, outside: rest.outside &+ count, count: rest.count - count)
            }
            // What is not mapped outside stays as it is: the kernel names the error.
            if rest.count > 0 { result.append(rest) }
        }
        return result
    }

    /// How many ids there are inside.
    package var total: UInt64 { reduce(0) { $0 + UInt64($1.count) } }

    package var lines: String { map(\.line).joined(separator: "\n") + "\n" }

    /// Reads a file such as /proc/self/uid_map.
    package init(parsingMap text: String) {
        self = text.split(separator: "\n").compactMap { line in
            let numbers = line.split(whereSeparator: \.isWhitespace).compactMap { UInt32($0) }
            return numbers.count == 3
                ? IDExtent(inside: numbers[0], outside: numbers[1], count: numbers[2]) : nil
        }
    }
}

/// The ids that /etc/subuid and /etc/subgid give to a user (subuid(5)).
package enum SubordinateIDs {
    /// Reads `name:first:count` lines for one user, by name or number. Lines that overlap or make no sense are left out.
    package static func parse(_ text: String, name: String, id: UInt32?) -> [(first: UInt32, count: UInt32)] {
        var result: [(first: UInt32, count: UInt32)] = []
        for line in text.split(separator: "\n") {
            let fields = line.split(separator: ":", omittingEmptySubsequences: false)
            guard fields.count == 3, fields[0] == name || (id.map { fields[0] == "\($0)" } ?? false),
                let first = UInt32(fields[1]), let count = UInt32(fields[2]), count > 0,
                !first.addingReportingOverflow(count - 1).overflow,
                !result.contains(where: {
                    first <= $0.first + ($0.count - 1) && $0.first <= first + (count - 1)
                })
            else { continue }
            result.append((first, count))
        }
        return result
    }

    /// All ranges of a file, whoever has them.
    package static func all(_ text: String) -> [(first: UInt32, count: UInt32)] {
        text.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: ":", omittingEmptySubsequences: false)
            guard fields.count == 3, let first = UInt32(fields[1]), let count = UInt32(fields[2]), count > 0
            else { return nil }
            return (first, count)
        }
    }

    package static func read(_ path: String) -> String {
        String(decoding: (try? readFile(path, limit: 4 << 20)) ?? [], as: UTF8.self)
    }
}

/// What this process is to the kernel.
package enum Privilege: Sendable, Equatable {
    /// Root of the machine.
    case root
    /// Root in a user namespace, its own or one that it was started in: with these ids.
    case userNamespace(uid: [IDExtent], gid: [IDExtent], canSetGroups: Bool)
    /// Neither.
    case user

    /// Of this process, once it has settled in its namespace.
    package static let current = probe()

    /// Asks the kernel.
    package static func probe() -> Privilege {
        guard geteuid() == 0 else { return .user }
        func map(_ name: String) -> [IDExtent] {
            [IDExtent](parsingMap: SubordinateIDs.read("/proc/self/\(name)"))
        }
        let uid = map("uid_map")
        if uid == [.all] { return .root }
        let mayGroup = !SubordinateIDs.read("/proc/self/setgroups").hasPrefix("deny")
        return .userNamespace(uid: uid, gid: map("gid_map"), canSetGroups: mayGroup)
    }
}

/// A user namespace that is only there to map the owners of mounts.
package struct MappingNamespace: ~Copyable {
    package let fd: OwnedFD

    package init(uid: [IDExtent], gid: [IDExtent]) throws(FileError) {
        let pid = ck_user_namespace_holder()
        guard pid > 0 else { throw FileError.last("clone3", "a user namespace") }
        defer {
            kill(pid, SIGKILL)
            _ = ck_wait_status(pid)
        }
        try writeMaps(of: pid, uid: uid, gid: gid)
        fd = try open("/proc/\(pid)/ns/user", O_RDONLY)
    }
}

/// Writes the maps of a process's new user namespace: each at once, as the kernel wants it.
package func writeMaps(of pid: Int32, uid: [IDExtent], gid: [IDExtent]) throws(FileError) {
    for (name, map) in [("uid_map", uid), ("gid_map", gid)] {
        let file = try open("/proc/\(pid)/\(name)", O_WRONLY)
        try write(file.raw, Array(map.lines.utf8), name: name)
    }
}
