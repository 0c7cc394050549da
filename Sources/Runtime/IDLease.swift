import Files
import Glibc
package import Kernel
import OCI
import SystemPackage

/// 65536 ids of the host that one container has to itself. The reservation is a lock on a byte of a file: it goes with its
/// holder, however that ends.
package final class IDLease {
    package let first: UInt32
    private let lock: RangeLock

    package static let count: UInt32 = 65536
    /// The ids that neither users nor subordinate ranges of common sizes reach; each block is one byte of the file.
    private static let blocks: ClosedRange<UInt32> = 0x2000...0x6fff

    private init(first: UInt32, lock: consuming RangeLock) {
        self.first = first
        self.lock = lock
    }

    package var map: [IDExtent] { [IDExtent(inside: 0, outside: first, count: IDLease.count)] }

    /// Reserves a block. The same name gets the same block where it is free, so that what a container leaves in volumes
    /// is its own when it comes back.
    package static func reserve(
        name: String, directory: String = "/run/imgbox", subordinate: String = "/etc/subuid"
    ) throws(RuntimeError) -> IDLease {
        // Both ends of a block that users have been given are theirs.
        let taken =
            SubordinateIDs.all(SubordinateIDs.read(subordinate))
            + SubordinateIDs.all(SubordinateIDs.read(subordinate.replacing("subuid", with: "subgid")))
        do throws(FileError) {
            try makeDirectories(FilePath(directory))
            let file = "\(directory)/ids"
            _ = try open(file, O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
            let total = UInt32(blocks.count)
            let start = hash(name) % total
            for step in 0..<total {
                let block = blocks.lowerBound + (start + step) % total
                let first = block << 16
                if taken.contains(where: {
                    $0.first <= first + (count - 1) && first <= $0.first &+ ($0.count - 1)
                }) {
                    continue
                }
                if let lock = try RangeLock(
                    file: file, at: currentDirectory, start: Int64(block), mode: .exclusive, wait: false)
                {
                    return IDLease(first: first, lock: lock)
                }
            }
        } catch { throw RuntimeError(error, "cannot reserve ids for the container") }
        throw RuntimeError(
            "all \(blocks.count) blocks of ids are in use", hint: "remove containers, or use --userns host")
    }

    /// FNV-1a.
    private static func hash(_ name: String) -> UInt32 {
        name.utf8.reduce(0x811c_9dc5) { ($0 ^ UInt32($1)) &* 0x0100_0193 }
    }
}

/// Chooses the ids of a container.
package enum IDChoice {
    package struct Result {
        package var uid: [IDExtent]
        package var gid: [IDExtent]
        package var lease: IDLease?
    }

    /// nil: the container has no user namespace of its own.
    package static func choose(
        _ choice: UserNamespaceChoice, name: String, _ privilege: Privilege
    ) throws(RuntimeError) -> Result? {
        switch privilege {
        case .root: return try chooseAsRoot(choice, name)
        case .userNamespace(let uid, let gid, _):
            guard var result = try chooseAsUser(choice, uid, gid) else { return nil }
            result.uid = result.uid.split(along: uid)
            result.gid = result.gid.split(along: gid)
            return result
        case .user: throw RuntimeError("a container needs a user namespace, and this process is in none")
        }
    }

    private static func chooseAsRoot(_ choice: UserNamespaceChoice, _ name: String) throws(RuntimeError)
        -> Result?
    {
        switch choice {
        case .standard, .auto:
            let lease = try IDLease.reserve(name: name)
            return Result(uid: lease.map, gid: lease.map, lease: lease)
        case .host, .container: return nil
        case .keepID, .noMap:
            throw RuntimeError(
                "--userns keep-id and nomap are about the user who runs imgbox, and that is root",
                hint: "run as an ordinary user, or use --userns auto")
        case .maps(let uid, let gid):
            try check(uid, "--uidmap", below: nil)
            try check(gid, "--gidmap", below: nil)
            return Result(uid: uid, gid: gid)
        case .subordinate(let uidName, let gidName):
            return Result(
                uid: try subordinate(uidName, "/etc/subuid", "--subuidname"),
                gid: try subordinate(gidName, "/etc/subgid", "--subgidname"))
        }
    }

    private static func subordinate(_ name: String, _ file: String, _ flag: String) throws(RuntimeError)
        -> [IDExtent]
    {
        let ranges = SubordinateIDs.parse(SubordinateIDs.read(file), name: name, id: nil)
        guard !ranges.isEmpty else {
            throw RuntimeError(
                "\(flag): \(file) gives no ids to '\(printable(name))'",
                hint: "add a line to it: \(printable(name)):100000:65536")
        }
        return consecutive(ranges)
    }

    /// Ranges of the host put one after the other from `first` inside.
    package static func consecutive(_ ranges: [(first: UInt32, count: UInt32)], from first: UInt32 = 0)
        -> [IDExtent]
    {
        var next = first
        return ranges.compactMap { range in
            let count = min(range.count, UInt32.max - next)
            guard count > 0 else { return nil }
            defer { next += count }
            return IDExtent(inside: next, outside: range.first, count: count)
        }
    }

    /// In imgbox's own user namespace the user is 0 and the subordinate ids follow.
    private static func chooseAsUser(
        _ choice: UserNamespaceChoice, _ uid: [IDExtent], _ gid: [IDExtent]
    ) throws(RuntimeError) -> Result? {
        let (uids, gids) = (UInt32(clamping: uid.total), UInt32(clamping: gid.total))
        func whole(_ count: UInt32) -> [IDExtent] { [IDExtent(inside: 0, outside: 0, count: count)] }
        switch choice {
        case .standard: return Result(uid: whole(uids), gid: whole(gids))
        case .host, .container: return nil
        case .auto:
            throw RuntimeError(
                "--userns auto reserves ids of the host, which takes root",
                hint: "leave it out: an ordinary user's containers have the user's own subordinate ids")
        case .keepID(let wantedUID, let wantedGID):
            let outer = (uid.first?.outside ?? 0, gid.first?.outside ?? 0)
            return Result(
                uid: keep(wantedUID ?? outer.0, of: uids), gid: keep(wantedGID ?? outer.1, of: gids))
        case .noMap:
            guard uids > 1, gids > 1 else {
                throw RuntimeError(
                    "--userns nomap needs subordinate ids, and this user has none",
                    hint: "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER")
            }
            return Result(
                uid: [IDExtent(inside: 0, outside: 1, count: uids - 1)],
                gid: [IDExtent(inside: 0, outside: 1, count: gids - 1)])
        case .maps(let uidMap, let gidMap):
            try check(uidMap, "--uidmap", below: uids)
            try check(gidMap, "--gidmap", below: gids)
            return Result(uid: uidMap, gid: gidMap)
        case .subordinate:
            throw RuntimeError(
                "--subuidname takes root; an ordinary user has the ids of /etc/subuid already")
        }
    }

    /// The user is `id` inside; the ids below and above are subordinate ones, as far as there are any.
    static func keep(_ id: UInt32, of total: UInt32) -> [IDExtent] {
        let below = min(id, total - 1)
        var map: [IDExtent] = []
        if below > 0 { map.append(IDExtent(inside: 0, outside: 1, count: below)) }
        map.append(IDExtent(inside: id, outside: 0, count: 1))
        let rest = total - 1 - below
        if rest > 0, id < .max {
            map.append(IDExtent(inside: id + 1, outside: below + 1, count: min(rest, .max - id)))
        }
        return map
    }

    /// The rules of user_namespaces(7). `below`: ids outside are smaller.
    static func check(_ map: [IDExtent], _ flag: String, below limit: UInt32?) throws(RuntimeError) {
        guard map.count <= 340 else {
            throw RuntimeError("\(flag): the kernel takes 340 lines, not \(map.count)")
        }
        for (index, one) in map.enumerated() {
            guard one.count > 0, !one.inside.addingReportingOverflow(one.count).overflow,
                !one.outside.addingReportingOverflow(one.count).overflow
            else { throw RuntimeError("\(flag): '\(one.line)' has no ids, or ends above 4294967294") }
            if let limit, one.outside >= limit || limit - one.outside < one.count {
                throw RuntimeError(
                    "\(flag): '\(one.line)' goes beyond the \(limit) ids of this user",
                    hint:
                        "0 is this user, 1 and up are the ids of /etc/subuid and /etc/subgid: imgbox doctor shows them"
                )
            }
            for other in map[..<index] {
                let insideOverlaps =
                    one.inside < other.inside + other.count && other.inside < one.inside + one.count
                let outsideOverlaps =
                    one.outside < other.outside + other.count && other.outside < one.outside + one.count
                guard !insideOverlaps, !outsideOverlaps else {
                    throw RuntimeError("\(flag): the lines '\(other.line)' and '\(one.line)' overlap")
                }
            }
        }
    }
}
