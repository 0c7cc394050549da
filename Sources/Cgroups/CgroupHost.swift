import Files
import Glibc

/// Where each controller lives on this machine. There are no modes: a controller is in a v1 hierarchy or in the v2 tree,
/// one by one, and a v2 tree may be there without any (cgroups(7)).
package struct CgroupHost: Sendable, Equatable {
    package struct Hierarchy: Sendable, Equatable {
        /// 1 or 2.
        package let version: Int
        package let mountPoint: String
        /// For v1 `name=...` too.
        package let controllers: [String]
        /// The group of this process, from the mount point; begins with `/`.
        package let own: String

        package init(version: Int, mountPoint: String, controllers: [String], own: String) {
            (self.version, self.mountPoint, self.controllers, self.own) = (
                version, mountPoint, controllers, own
            )
        }
    }

    package var hierarchies: [Hierarchy]
    /// The group below which containers get theirs, from each mount point; nil: this user may make none.
    package var parent: String?

    /// What there is, where `hierarchies` is only what this user may use.
    package var known: [Hierarchy]

    package init(_ hierarchies: [Hierarchy], parent: String?) {
        (self.hierarchies, self.parent) = (hierarchies, parent)
        known = hierarchies
    }

    package var unified: Hierarchy? { hierarchies.first { $0.version == 2 } }

    package func hierarchy(of controller: String) -> Hierarchy? {
        hierarchies.first { $0.controllers.contains(controller) }
    }

    package static let standardParent = "/imgbox"

    /// Reads /proc/self/mountinfo and /proc/self/cgroup (proc(5)); `controllers` reads the list of a v2 group. In bytes: of
    /// hundreds of mounts few are looked at, and this stands before every start.
    package init(
        mounts: [UInt8], own: [UInt8], parent: String?, controllers: (_ mountPoint: String) -> [String]
    ) {
        func text(_ bytes: some Sequence<UInt8>) -> String { String(decoding: Array(bytes), as: UTF8.self) }
        func list(_ bytes: ArraySlice<UInt8>) -> [String] {
            bytes.split(separator: UInt8(ascii: ",")).map { text($0) }
        }
        var groups: [(isUnified: Bool, names: [String], path: String)] = []
        for line in own.split(separator: UInt8(ascii: "\n")) {
            let fields = line.split(
                separator: UInt8(ascii: ":"), maxSplits: 2, omittingEmptySubsequences: false)
            guard fields.count == 3 else { continue }
            let isUnified = fields[0].elementsEqual([UInt8(ascii: "0")]) && fields[1].isEmpty
            groups.append((isUnified, list(fields[1]), text(fields[2])))
        }
        var found: [Hierarchy] = []
        for line in mounts.split(separator: UInt8(ascii: "\n")) {
            guard let fields = CgroupHost.fields(line) else { continue }
            if fields.isUnified {
                // A second mount of the same tree shows nothing new.
                if found.contains(where: { $0.version == 2 }) { continue }
                let path = groups.first(where: \.isUnified)?.path ?? "/"
                found.append(
                    Hierarchy(
                        version: 2, mountPoint: fields.place, controllers: controllers(fields.place),
                        own: path))
            } else {
                let names = list(fields.options)
                guard
                    let group = groups.first(where: {
                        !$0.names.isEmpty && $0.names.allSatisfy(names.contains)
                    }),
                    !found.contains(where: { $0.controllers == group.names })
                else { continue }
                found.append(
                    Hierarchy(
                        version: 1, mountPoint: fields.place, controllers: group.names, own: group.path))
            }
        }
        self.init(found, parent: parent)
    }

    /// What counts of a line of mountinfo; nil when the file system is no cgroup.
    private static func fields(
        _ line: ArraySlice<UInt8>
    ) -> (isUnified: Bool, place: String, options: ArraySlice<UInt8>)? {
        let mark = Array(" - cgroup".utf8)
        // The mark stands near the end: what comes before are ids, paths and options.
        guard line.count > mark.count else { return nil }
        var at = line.startIndex
        let last = line.endIndex - mark.count
        while at < last, line[at] != mark[0] || !line[at..<(at + mark.count)].elementsEqual(mark) { at += 1 }
        guard at < last else { return nil }
        let before = line[..<at].split(separator: UInt8(ascii: " "))
        let after = line[(at + mark.count)...].split(
            separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
        guard before.count > 4, after.count > 2,
            after[0].isEmpty || after[0].elementsEqual([UInt8(ascii: "2")])
        else {
            return nil
        }
        return (!after[0].isEmpty, unescaped(before[4]), after[2])
    }

    /// Asks this machine. `delegated` for a user who is not root: then the parent is the highest group above this
    /// process's own that it may write to.
    package static func probe(delegated: Bool) -> CgroupHost {
        func bytes(_ path: String) -> [UInt8] { (try? readFile(path, limit: 16 << 20)) ?? [] }
        func list(_ directory: String) -> [String] {
            bytes(directory + "/cgroup.controllers").split { $0 == 0x20 || $0 == 0x0a }.map {
                String(decoding: $0, as: UTF8.self)
            }
        }
        var host = CgroupHost(
            mounts: bytes("/proc/self/mountinfo"), own: bytes("/proc/self/cgroup"), parent: standardParent,
            controllers: list)
        guard delegated else { return host }
        host.parent = nil
        // cgroup v1 has no safe way to hand a group to a user.
        guard let unified = host.unified else { return host }
        host.hierarchies = [unified]
        var path = unified.own
        var highest: String?
        while true {
            let directory = unified.mountPoint + path
            guard access(directory, W_OK) == 0, access(directory + "/cgroup.procs", W_OK) == 0 else { break }
            highest = path
            guard path != "/", let cut = path.lastIndex(of: "/") else { break }
            path = cut == path.startIndex ? "/" : String(path[..<cut])
        }
        guard let highest else { return host }
        let controllers = list(unified.mountPoint + highest)
        host.hierarchies = [
            Hierarchy(
                version: 2, mountPoint: unified.mountPoint, controllers: controllers, own: unified.own)
        ]
        host.parent = highest == "/" ? standardParent : highest + standardParent
        return host
    }
}

/// The octal escapes of mountinfo (proc(5)).
private func unescaped(_ text: ArraySlice<UInt8>) -> String {
    guard text.contains(UInt8(ascii: "\\")) else { return String(decoding: text, as: UTF8.self) }
    var bytes: [UInt8] = []
    var rest = text
    while let byte = rest.popFirst() {
        let digits = rest.prefix(3)
        if byte == 0x5c, digits.count == 3, digits.allSatisfy({ (0x30...0x37).contains($0) }) {
            bytes.append(digits.reduce(0) { $0 &* 8 &+ ($1 - 0x30) })
            rest = rest.dropFirst(3)
        } else {
            bytes.append(byte)
        }
    }
    return String(decoding: bytes, as: UTF8.self)
}
