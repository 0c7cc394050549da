package import Files
import Glibc

/// One difference between two trees.
package struct TreeChange: Sendable {
    package enum Kind: String, Sendable {
        case added = "A"
        case deleted = "D"
        case changed = "C"
    }

    package let kind: Kind
    package let path: LayerPath
}

/// Compares two trees: kinds, content, modes, owners, times of files, links, devices and extended attributes.
package struct TreeComparison {
    private let old: LayerStack
    private let new: LayerStack
    /// Compare single layers as they lie on the disk, whiteouts included.
    private let rawLayers: Bool

    package init(_ old: LayerStack, _ new: LayerStack, rawLayers: Bool = false) {
        (self.old, self.new, self.rawLayers) = (old, new, rawLayers)
    }

    /// Reports each difference once, in the order of the paths; what is below an added or deleted directory as well.
    package func run(_ report: (TreeChange) -> Void) throws(FileError) {
        guard let left = try old.lookup(.root), let right = try new.lookup(.root) else { return }
        try compare(left, right, report)
    }

    private func compare(
        _ left: LayerStack.Object, _ right: LayerStack.Object, _ report: (TreeChange) -> Void
    ) throws(FileError) {
        if try differ(left, right) { report(TreeChange(kind: .changed, path: left.path)) }
        let leftNames = left.status.kind == .directory ? try names(old, left) : []
        let rightNames = right.status.kind == .directory ? try names(new, right) : []
        var (i, j) = (0, 0)
        while i < leftNames.count || j < rightNames.count {
            if j == rightNames.count || (i < leftNames.count && precedes(leftNames[i], rightNames[j])) {
                try each(old, leftNames[i], .deleted, report)
                i += 1
            } else if i == leftNames.count || precedes(rightNames[j], leftNames[i]) {
                try each(new, rightNames[j], .added, report)
                j += 1
            } else {
                try compare(leftNames[i], rightNames[j], report)
                (i, j) = (i + 1, j + 1)
            }
        }
    }

    private func names(_ stack: LayerStack, _ directory: LayerStack.Object) throws(FileError) -> [LayerStack
        .Object]
    {
        rawLayers ? try stack.listRaw(directory) : try stack.list(directory)
    }

    private func precedes(_ left: LayerStack.Object, _ right: LayerStack.Object) -> Bool {
        left.path.bytes.lexicographicallyPrecedes(right.path.bytes)
    }

    private func each(
        _ stack: LayerStack, _ object: LayerStack.Object, _ kind: TreeChange.Kind,
        _ report: (TreeChange) -> Void
    ) throws(FileError) {
        report(TreeChange(kind: kind, path: object.path))
        guard object.status.kind == .directory else { return }
        for child in try names(stack, object) { try each(stack, child, kind, report) }
    }

    private func differ(_ left: LayerStack.Object, _ right: LayerStack.Object) throws(FileError) -> Bool {
        let (a, b) = (left.status, right.status)
        if a.mode != b.mode || a.uid != b.uid || a.gid != b.gid { return true }
        switch a.kind {
        case .file:
            if a.size != b.size || a.modified != b.modified { return true }
            if try !haveSameContent(left, right) { return true }
        case .link:
            if try old.readLink(left) != new.readLink(right) { return true }
        case .characterDevice, .blockDevice:
            if a.node != b.node { return true }
        default: break
        }
        if a.isWhiteout { return false }
        let (x, y) = (try attributes(old, left), try attributes(new, right))
        return x.count != y.count || !zip(x, y).allSatisfy { $0.name == $1.name && $0.value == $1.value }
    }

    private func attributes(
        _ stack: LayerStack, _ object: LayerStack.Object
    ) throws(FileError) -> [(name: String, value: [UInt8])] {
        rawLayers ? try stack.allAttributes(object) : try stack.attributes(object)
    }

    private func haveSameContent(
        _ left: LayerStack.Object, _ right: LayerStack.Object
    ) throws(FileError) -> Bool {
        let first = try old.open(left)
        let second = try new.open(right)
        var (a, b) = ([UInt8](repeating: 0, count: 128 << 10), [UInt8](repeating: 0, count: 128 << 10))
        while true {
            let count = try fill(first.raw, &a)
            guard try fill(second.raw, &b) == count, a[..<count] == b[..<count] else { return false }
            if count < a.count { return true }
        }
    }

    private func fill(_ fd: Int32, _ buffer: inout [UInt8]) throws(FileError) -> Int {
        try buffer.withUnsafeMutableBytes { space in
            attempt { () throws(FileError) in
                var count = 0
                while count < space.count {
                    let step = try read(fd, into: UnsafeMutableRawBufferPointer(rebasing: space[count...]))
                    if step == 0 { break }
                    count += step
                }
                return count
            }
        }.get()
    }
}
