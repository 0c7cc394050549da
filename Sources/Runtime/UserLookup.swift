import Files
import Glibc
package import Layers
package import OCI

/// A user of the image, found without running any of its code (CVE-2019-14271).
package struct ResolvedUser: Sendable, Equatable {
    package var user = ContainerSpec.User()
    package var home = "/"
}

/// Looks users up in the passwd and group files of an image.
package struct UserLookup {
    private struct Account {
        let name: String
        let uid: UInt32
        let gid: UInt32
        let home: String
    }

    private struct Group {
        let name: String
        let gid: UInt32
        let members: [String]
    }

    private let accounts: [Account]
    private let groups: [Group]
    /// Larger files are no account files.
    private static let maximumSize = 4 << 20

    package init(passwd: [UInt8], group: [UInt8]) {
        accounts = UserLookup.lines(passwd).compactMap { fields in
            guard fields.count >= 6, let uid = UInt32(fields[2]), let gid = UInt32(fields[3]) else {
                return nil
            }
            return Account(name: fields[0], uid: uid, gid: gid, home: fields[5])
        }
        groups = UserLookup.lines(group).compactMap { fields in
            guard fields.count >= 4, let gid = UInt32(fields[2]) else { return nil }
            return Group(name: fields[0], gid: gid, members: fields[3].split(separator: ",").map(String.init))
        }
    }

    /// Reads the files of an image; what is missing is empty.
    package init(_ tree: LayerStack) throws(RuntimeError) {
        do throws(FileError) {
            self.init(
                passwd: try UserLookup.read("etc/passwd", tree), group: try UserLookup.read("etc/group", tree)
            )
        } catch {
            throw RuntimeError(error, "the users of the image")
        }
    }

    private static func read(_ name: String, _ tree: LayerStack) throws(FileError) -> [UInt8] {
        guard let path = try? LayerPath(parsing: Array(name.utf8)), let object = try tree.resolve(path),
            object.status.kind == .file
        else { return [] }
        let fd = try tree.open(object)
        return try readAll(fd.raw, limit: maximumSize, name: name)
    }

    private static func lines(_ bytes: [UInt8]) -> [[String]] {
        String(decoding: bytes, as: UTF8.self).split(separator: "\n").map { line in
            line.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        }
    }

    /// Reads `user[:group]`, each a name or a number, as docker's --user. Strictly: what follows a number must not be
    /// ignored (CVE-2026-30892).
    package func resolve(_ text: String) throws(RuntimeError) -> ResolvedUser {
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(
            String.init)
        var result = ResolvedUser()
        let wanted = parts.first.map { $0.isEmpty ? "0" : $0 } ?? "0"
        let account: Account?
        if let uid = UserLookup.number(wanted) {
            account = accounts.first { $0.uid == uid }
            result.user.uid = uid
        } else if let found = accounts.first(where: { $0.name == wanted }) {
            account = found
            result.user.uid = found.uid
        } else {
            throw RuntimeError(
                "the image has no user '\(printable(wanted))'",
                hint: "give a number, or a name of its /etc/passwd")
        }
        result.user.gid = account?.gid ?? 0
        result.home = account?.home.hasPrefix("/") == true ? account?.home ?? "/" : "/"
        guard parts.count == 2, !parts[1].isEmpty else {
            if let account {
                let own = groups.filter { $0.members.contains(account.name) && $0.gid != account.gid }.map(
                    \.gid)
                result.user.additionalGids = Array(Set(own)).sorted()
            }
            return result
        }
        if let gid = UserLookup.number(parts[1]) {
            result.user.gid = gid
        } else if let group = groups.first(where: { $0.name == parts[1] }) {
            result.user.gid = group.gid
        } else {
            throw RuntimeError(
                "the image has no group '\(printable(parts[1]))'",
                hint: "give a number, or a name of its /etc/group")
        }
        return result
    }

    /// 0 to 4294967294; the largest number means "no change" to the kernel.
    private static func number(_ text: String) -> UInt32? {
        guard !text.isEmpty, text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        return UInt32(text).flatMap { $0 == .max ? nil : $0 }
    }
}
