import Files
import Glibc
import Kernel

/// One line of an id map: `count` ids from `container` are `host` and following outside.
package struct IDRange: Sendable, Equatable {
    package let container: UInt32
    package let host: UInt32
    package let count: UInt32

    package init(container: UInt32, host: UInt32, count: UInt32) {
        (self.container, self.host, self.count) = (container, host, count)
    }

    /// Reads `container:host:count`.
    package init(parsing text: String) throws(LayerError) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false).map { UInt32($0) }
        guard parts.count == 3, let container = parts[0], let host = parts[1], let count = parts[2],
            count > 0,
            !container.addingReportingOverflow(count - 1).overflow,
            !host.addingReportingOverflow(count - 1).overflow
        else {
            throw LayerError(
                .refused, "'\(printable(text))' is no id map: the form is CONTAINER:HOST:COUNT",
                hint: "for example 0:100000:65536")
        }
        self.init(container: container, host: host, count: count)
    }
}

/// How ids of an image become ids on disk. Empty: they stay as they are.
package struct IDMapping: Sendable, Equatable {
    package let ranges: [IDRange]

    package init(_ ranges: [IDRange]) { self.ranges = ranges }

    /// nil where no range holds the id.
    package func host(_ id: UInt32) -> UInt32? {
        if ranges.isEmpty { return id }
        for range in ranges where id >= range.container && id - range.container < range.count {
            return range.host + (id - range.container)
        }
        return nil
    }
}

/// How a layer is written to disk.
package struct UnpackOptions: Sendable {
    package var uidMapping = IDMapping([])
    package var gidMapping = IDMapping([])
    /// Every owner becomes the user who runs this, and it is counted how often that was a change.
    package var squashesOwners: Bool
    /// The same for owners that the mapping does not have, which is an error otherwise.
    package var squashesUnmapped = false
    /// Device nodes are made; otherwise they are left out and counted.
    package var makesDevices: Bool
    /// A directory entry over a link to a directory keeps the link.
    package var keepsDirectoryLinks = false
    /// What is tolerated with a warning otherwise is an error: two entries for one path, attributes that cannot be kept.
    package var isStrict = false
    package var maximumSize = LayerSource.defaultMaximumSize

    private static func itself(_ map: [IDExtent]) -> IDMapping {
        IDMapping(map.map { IDRange(container: $0.inside, host: $0.inside, count: $0.count) })
    }

    /// What this user can do.
    package init() {
        switch Privilege.current {
        case .root: (squashesOwners, makesDevices) = (false, true)
        case .user: (squashesOwners, makesDevices) = (true, false)
        case .userNamespace(let uid, let gid, _):
            // Ids that the namespace does not have cannot be given.
            (squashesOwners, makesDevices) = (false, false)
            uidMapping = UnpackOptions.itself(uid)
            gidMapping = UnpackOptions.itself(gid)
            squashesUnmapped = true
        }
    }
}

/// What was noticed while layers were unpacked.
package struct UnpackReport: Sendable, Equatable {
    package var entries = 0
    package var duplicates = 0
    package var skippedDevices = 0
    package var squashedOwners = 0
    package var skippedAttributes = 0
    /// The first name of each kind, for the message.
    package var examples: [String: String] = [:]

    package init() {}

    package mutating func add(_ other: UnpackReport) {
        entries += other.entries
        duplicates += other.duplicates
        skippedDevices += other.skippedDevices
        squashedOwners += other.squashedOwners
        skippedAttributes += other.skippedAttributes
        examples.merge(other.examples) { first, _ in first }
    }

    /// One line for each kind of thing that a user should know.
    package var warnings: [String] {
        func line(_ count: Int, _ what: String, _ key: String) -> String? {
            count == 0 ? nil : "\(count) \(what)" + (examples[key].map { " (the first: '\($0)')" } ?? "")
        }
        return [
            line(
                duplicates,
                "entries for a path that an earlier entry of the same layer had; the last one counts",
                "duplicate"),
            line(skippedDevices, "device nodes were left out: making them takes root", "device"),
            line(
                squashedOwners,
                "files belong to you instead of the owner in the image: changing that takes root, or subordinate ids (imgbox doctor)",
                "owner"),
            line(
                skippedAttributes,
                "extended attributes could not be kept on this file system or without root", "attribute"),
        ].compactMap { $0 }
    }
}
