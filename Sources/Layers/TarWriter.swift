package import Files

/// Writes tar so that the same content gives the same bytes everywhere: ustar headers, pax records only where ustar
/// cannot hold a value, no names of users, no access or change times, two zero blocks at the end
/// (images.md 4.1).
package struct TarWriter {
    private let sink: ([UInt8]) throws(FileError) -> Void
    private static let blockSize = 512

    /// `sink` takes the bytes in order.
    package init(sink: @escaping ([UInt8]) throws(FileError) -> Void) {
        self.sink = sink
    }

    /// Writes the header of an entry; exactly `entry.size` bytes of content follow for a regular file.
    package func begin(_ entry: TarEntry) throws(FileError) {
        var records: [(String, [UInt8])] = []
        var name = entry.path.isRoot ? Array("./".utf8) : entry.path.bytes
        if entry.kind == .directory, !entry.path.isRoot { name.append(UInt8(ascii: "/")) }
        var prefix: [UInt8] = []
        let fullName = name
        if name.count > 100 || name.contains(where: { $0 >= 0x80 }) {
            if let cut = TarWriter.splitPoint(name) {
                prefix = Array(name[..<cut])
                name = Array(name[(cut + 1)...])
            } else {
                records.append(("path", fullName))
            }
        }
        let target = TarWriter.target(of: entry.kind)
        if target.count > 100 || target.contains(where: { $0 >= 0x80 }) {
            records.append(("linkpath", target))
        }
        if entry.uid > 0o7_777_777 { records.append(("uid", Array(String(entry.uid).utf8))) }
        if entry.gid > 0o7_777_777 { records.append(("gid", Array(String(entry.gid).utf8))) }
        if entry.size > 0o77_777_777_777 { records.append(("size", Array(String(entry.size).utf8))) }
        let seconds = entry.modified.seconds
        if seconds < 0 || seconds > 0o77_777_777_777 || entry.modified.nanoseconds != 0 {
            records.append(("mtime", Array(TarWriter.decimal(entry.modified).utf8)))
        }
        for attribute in entry.attributes.sorted(by: { $0.name < $1.name }) {
            records.append(("SCHILY.xattr.\(attribute.name)", attribute.value))
        }
        if !records.isEmpty { try writeExtended(records, for: entry) }
        try sink(
            header(entry, name: name, prefix: prefix, target: target, type: TarWriter.type(of: entry.kind)))
    }

    /// Fills up the last block of content of `size` bytes.
    package func pad(after size: Int64) throws(FileError) {
        let rest = Int(size % Int64(TarWriter.blockSize))
        if rest > 0 { try sink([UInt8](repeating: 0, count: TarWriter.blockSize - rest)) }
    }

    /// Writes an entry whose content is in memory.
    package func add(_ entry: TarEntry, content: [UInt8] = []) throws(FileError) {
        var entry = entry
        entry.size = Int64(content.count)
        try begin(entry)
        if !content.isEmpty { try sink(content) }
        try pad(after: entry.size)
    }

    /// Writes the end of the archive.
    package func finish() throws(FileError) {
        try sink([UInt8](repeating: 0, count: 2 * TarWriter.blockSize))
    }

    private func writeExtended(_ records: [(String, [UInt8])], for entry: TarEntry) throws(FileError) {
        var body: [UInt8] = []
        for (key, value) in records { body += TarWriter.record(key, value) }
        let base = entry.path.isRoot ? Array("root".utf8) : Array(entry.path.name.prefix(80))
        var carrier = TarEntry(
            path: .root, kind: .file, permissions: 0o644, uid: 0, gid: 0,
            modified: Timestamp(seconds: 0, nanoseconds: 0))
        carrier.size = Int64(body.count)
        let name = Array("PaxHeaders/".utf8) + base.map { $0 < 0x80 ? $0 : UInt8(ascii: "_") }
        try sink(header(carrier, name: name, prefix: [], target: [], type: UInt8(ascii: "x")))
        try sink(body)
        try pad(after: carrier.size)
    }

    private func header(
        _ entry: TarEntry, name: [UInt8], prefix: [UInt8], target: [UInt8], type: UInt8
    ) -> [UInt8] {
        var block = [UInt8](repeating: 0, count: TarWriter.blockSize)
        func put(_ bytes: [UInt8], at offset: Int, _ width: Int) {
            for (index, byte) in bytes.prefix(width).enumerated() { block[offset + index] = byte }
        }
        func number(_ value: Int64, at offset: Int, _ width: Int) {
            let digits = String(max(0, value), radix: 8)
            let text = digits.utf8.count < width ? digits : "0"
            put(
                Array((String(repeating: "0", count: width - 1 - text.utf8.count) + text).utf8), at: offset,
                width)
        }
        put(name.map { $0 < 0x80 ? $0 : UInt8(ascii: "_") }, at: 0, 100)
        number(Int64(entry.permissions), at: 100, 8)
        number(Int64(entry.uid), at: 108, 8)
        number(Int64(entry.gid), at: 116, 8)
        number(entry.kind == .file ? entry.size : 0, at: 124, 12)
        number(entry.modified.seconds, at: 136, 12)
        put(Array(repeating: UInt8(ascii: " "), count: 8), at: 148, 8)
        block[156] = type
        put(target.map { $0 < 0x80 ? $0 : UInt8(ascii: "_") }, at: 157, 100)
        put(Array("ustar\u{0}00".utf8), at: 257, 8)
        switch entry.kind {
        case .characterDevice(let major, let minor), .blockDevice(let major, let minor):
            number(Int64(major), at: 329, 8)
            number(Int64(minor), at: 337, 8)
        default: break
        }
        put(prefix, at: 345, 155)
        let sum = block.reduce(0) { $0 + Int($1) }
        let digits = String(sum, radix: 8)
        put(
            Array((String(repeating: "0", count: 6 - digits.utf8.count) + digits + "\u{0} ").utf8), at: 148, 8
        )
        return block
    }

    /// Where a long name can be cut into ustar's prefix (155 bytes) and name (100 bytes).
    private static func splitPoint(_ name: [UInt8]) -> Int? {
        guard name.count <= 256, !name.contains(where: { $0 >= 0x80 }) else { return nil }
        return name.indices.dropLast().last { index in
            name[index] == UInt8(ascii: "/") && index > 0 && index <= 155 && name.count - index - 1 <= 100
        }
    }

    private static func target(of kind: TarEntry.Kind) -> [UInt8] {
        switch kind {
        case .symbolicLink(let target), .hardLink(let target): target
        default: []
        }
    }

    private static func type(of kind: TarEntry.Kind) -> UInt8 {
        switch kind {
        case .file: UInt8(ascii: "0")
        case .hardLink: UInt8(ascii: "1")
        case .symbolicLink: UInt8(ascii: "2")
        case .characterDevice: UInt8(ascii: "3")
        case .blockDevice: UInt8(ascii: "4")
        case .directory: UInt8(ascii: "5")
        case .fifo: UInt8(ascii: "6")
        }
    }

    /// `<length> <key>=<value>\n`, the length counting its own digits (pax(1)).
    static func record(_ key: String, _ value: [UInt8]) -> [UInt8] {
        let rest = Array(" \(key)=".utf8) + value + [UInt8(ascii: "\n")]
        var length = rest.count
        while rest.count + String(length).utf8.count != length {
            length = rest.count + String(length).utf8.count
        }
        return Array(String(length).utf8) + rest
    }

    /// Seconds with a fraction that has no zeros at its end.
    static func decimal(_ time: Timestamp) -> String {
        guard time.nanoseconds != 0 else { return String(time.seconds) }
        // Before 1970 the fraction counts forward from the whole second below.
        let isNegative = time.seconds < 0
        let seconds = isNegative ? -(time.seconds + 1) : time.seconds
        let nanoseconds = isNegative ? 1_000_000_000 - Int64(time.nanoseconds) : Int64(time.nanoseconds)
        var fraction = String(nanoseconds)
        fraction = String(repeating: "0", count: 9 - fraction.utf8.count) + fraction
        while fraction.hasSuffix("0") { fraction.removeLast() }
        return "\(isNegative ? "-" : "")\(seconds).\(fraction)"
    }
}
