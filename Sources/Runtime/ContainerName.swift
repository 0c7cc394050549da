import Files

/// The rule for names of containers, and names for those that get none.
package enum ContainerName {
    /// `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, as docker has it.
    package static func check(_ name: String) throws(RuntimeError) {
        func isWord(_ byte: UInt8) -> Bool {
            (0x30...0x39).contains(byte) || (0x41...0x5a).contains(byte) || (0x61...0x7a).contains(byte)
        }
        let rest = name.utf8.dropFirst()
        guard let first = name.utf8.first, isWord(first), !rest.isEmpty, name.utf8.count <= 128,
            rest.allSatisfy({ isWord($0) || "_.-".utf8.contains($0) })
        else {
            throw RuntimeError(
                "'\(printable(name))' is no name for a container",
                hint: "2 to 128 of A-Z a-z 0-9 _ . -, beginning with a letter or digit")
        }
    }

    private static let qualities = [
        "amber", "brisk", "calm", "clear", "deft", "eager", "fair", "fleet", "gentle", "glad", "hardy",
        "keen", "light",
        "lively", "mellow", "neat", "noble", "plain", "quiet", "ready", "solid", "spry", "steady", "still",
        "swift",
        "tidy", "trim", "vivid", "warm", "witty",
    ]
    private static let things = [
        "anchor", "barge", "beam", "bolt", "brig", "buoy", "canvas", "cargo", "crane", "crate", "deck",
        "dock", "ferry",
        "harbor", "hatch", "hull", "jetty", "keel", "knot", "ladder", "mast", "oar", "pallet", "pier", "quay",
        "raft",
        "rudder", "sail", "tug", "winch",
    ]

    /// A name that is easily said, with digits from the id so that two are rarely the same.
    package static func random(id: String) -> String {
        let first = qualities.randomElement() ?? "plain"
        let second = things.randomElement() ?? "crate"
        return "\(first)_\(second)_\(id.prefix(4))"
    }
}
