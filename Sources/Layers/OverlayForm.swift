import CKernel
import Files
import Glibc
import Kernel

/// How overlayfs writes "gone" and "nothing from below" into a layer's directory.
package enum OverlayForm: Sendable {
    /// Attributes in `trusted.overlay.*`: for real root.
    case trusted
    /// Attributes in `user.overlay.*`, read with the mount option `userxattr`: for mounts in a user namespace.
    case user

    /// What this process can write.
    package static var ofThisProcess: OverlayForm { Privilege.current == .root ? .trusted : .user }

    var opaqueName: String { self == .trusted ? "trusted.overlay.opaque" : "user.overlay.opaque" }

    /// Attributes that steer overlayfs must never come from an image.
    static func isControl(_ attribute: String) -> Bool {
        attribute.hasPrefix("trusted.overlay.") || attribute.hasPrefix("user.overlay.")
    }

    func setOpaque(_ name: UnsafePointer<CChar>, at directory: Int32) throws(FileError) {
        guard lsetxattr(attributePath(name, directory), opaqueName, "y", 1, 0) == 0 else {
            throw FileError.last("setxattr \(opaqueName)", String(cString: name))
        }
    }

    func isOpaque(_ name: UnsafePointer<CChar>, at directory: Int32) -> Bool {
        var value: CChar = 0
        return lgetxattr(attributePath(name, directory), opaqueName, &value, 1) == 1
            && value == CChar(bitPattern: 0x79)
    }
}

/// A path through /proc that the `l` forms of the xattr calls can use for a name below an open directory.
func attributePath(_ name: UnsafePointer<CChar>, _ directory: Int32) -> [CChar] {
    let prefix: [CChar] = Array(procPath(directory).utf8CString.dropLast()) + [47]
    return prefix + Array(UnsafeBufferPointer(start: name, count: strlen(name) + 1))
}
