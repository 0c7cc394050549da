import Files
import Glibc
package import OCI

/// The files in /etc that depend on the host or on flags. They are bound over those of the image.
package enum GeneratedFiles {
    /// Writes them into the container's directory, and gives the mounts.
    package static func write(
        _ options: RunOptions, hostname: String, owner: (uid: UInt32, gid: UInt32),
        into directory: ContainerDirectory
    ) throws(RuntimeError) -> [ContainerSpec.Mount] {
        let files = [
            ("hosts", hosts(options, hostname: hostname)), ("hostname", hostname + "\n"),
            ("resolv.conf", resolver(options)),
        ]
        var mounts: [ContainerSpec.Mount] = []
        for (name, content) in files {
            let destination = "/etc/\(name)"
            if options.mounts.contains(where: { $0.destination == destination }) { continue }
            try directory.create(name, content: Array(content.utf8), owner: owner)
            mounts.append(
                .init(
                    destination, type: "bind", source: "\(directory.path)/\(name)",
                    options: ["bind", "imgbox.file"]))
        }
        return mounts
    }

    static func hosts(_ options: RunOptions, hostname: String) -> String {
        var lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
        let full = options.domainname.map { "\(hostname).\($0) " } ?? ""
        lines.append("127.0.1.1\t\(full)\(hostname)")
        lines += options.hosts.map { "\($0.address)\t\($0.name)" }
        return lines.joined(separator: "\n") + "\n"
    }

    /// The host's resolver, without the stubs on its loopback that nobody reaches from inside.
    static func resolver(_ options: RunOptions) -> String {
        if !options.nameServers.isEmpty {
            return options.nameServers.map { "nameserver \($0)\n" }.joined()
        }
        let own = (try? readFile("/etc/resolv.conf", limit: 1 << 20)) ?? []
        return String(decoding: own, as: UTF8.self).split(separator: "\n").filter { line in
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
            guard words.first == "nameserver", words.count > 1 else { return true }
            return options.network == .host || !(words[1].hasPrefix("127.") || words[1] == "::1")
        }.map { $0 + "\n" }.joined()
    }
}

extension ContainerDirectory {
    /// Makes a file in the directory, which is new.
    func create(
        _ name: String, content: [UInt8], owner: (uid: UInt32, gid: UInt32) = (0, 0)
    ) throws(RuntimeError) {
        do throws(FileError) {
            let file = try open(name, O_WRONLY | O_CREAT | O_EXCL, mode: 0o644, at: fd.raw)
            try Files.write(file.raw, content, name: name)
            guard owner == (0, 0) || fchown(file.raw, owner.uid, owner.gid) == 0 else {
                throw FileError.last("chown", name)
            }
        } catch { throw RuntimeError(error, "the container's \(name)") }
    }
}
