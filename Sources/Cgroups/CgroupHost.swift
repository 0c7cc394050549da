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

    /// Reads /proc/self/mountinfo and /proc/self/cgroup (proc(5)); `controllers` reads the list of a v2 group.
    package init(
        mounts: String, own: String, parent: String?, controllers: (_ mountPoint: String) -> [String]
    ) {
        var groups: [(id: Substring, names: [String], path: String)] = []
        for line in own.split(separator: "\n") {
            let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard fields.count == 3 else { continue }
            groups.append((fields[0], fields[1].split(separator: ",").map(String.init), String(fields[2])))
        }
        var found: [Hierarchy] = []
        for line in mounts.split(separator: "\n") {
            guard let dash = line.firstRange(of: " - cgroup") else { continue }
            let before = line[..<dash.lowerBound].split(separator: " ")
            let after = line[dash.upperBound...].split(separator: " ", omittingEmptySubsequences: false)
            guard before.count > 4, after.count > 2 else { continue }
            let place = unescaped(before[4])
            if after[0] == "2" {
                // A second mount of the same tree shows nothing new.
                if found.contains(where: { $0.version == 2 }) { continue }
                let path = groups.first { $0.id == "0" && $0.names.isEmpty }?.path ?? "/"
                found.append(
                    Hierarchy(
                        version: 2, mountPoint: place, controllers: controllers(place), own: path))
            } else if after[0].isEmpty {
                let names = after[2].split(separator: ",").map(String.init)
                guard let group = groups.first(where: { !$0.names.isEmpty && $0.names.allSatisfy(names.contains) }),
                    !found.contains(where: { $0.controllers == group.names })
                else { continue }
                found.append(
                    Hierarchy(version: 1, mountPoint: place, controllers: group.names, own: group.path))
            }
        }
        self.init(found, parent: parent)
    }

    /// Asks this machine. `delegated` for a user who is not root: then the parent is the highest group above this
    /// process's own that it may write to.
    package static func probe(delegated: Bool) -> CgroupHost {
        func text(_ path: String) -> String {
            String(decoding: (try? readFile(path, limit: 16 << 20)) ?? [], as: UTF8.self)
        }
        func list(_ directory: String) -> [String] {
            text(directory + "/cgroup.controllers").split(whereSeparator: \.isWhitespace).map(String.init)
        }
        var host = CgroupHost(
            mounts: text("/proc/self/mountinfo"), own: text("/proc/self/cgroup"), parent: standardParent,
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
private func unescaped(_ text: Substring) -> String {
    guard text.contains("\\") else { return String(text) }
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
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
