import CKernel
package import Files
import Glibc
import SystemPackage

/// The mount calls of Linux 5.2 on descriptors: a mount is made, changed and only then put somewhere.
package enum Mounts {
    /// A detached copy of what is mounted at `path`. The corresponding C function is `open_tree` with OPEN_TREE_CLONE.
    package static func copy(_ path: String, recursive: Bool) throws(FileError) -> OwnedFD {
        let flags = 1 | Int(O_CLOEXEC) | (recursive ? 0x8000 : 0)
        return try call("open_tree", path) { name in
            ck_syscall(Int(CK_SYS_OPEN_TREE), Int(AT_FDCWD), name, flags, 0, 0, 0)
        }
    }

    /// The same for an open file or directory.
    package static func copy(of fd: Int32, name: String) throws(FileError) -> OwnedFD {
        let flags = 1 | Int(O_CLOEXEC) | 0x1000
        return try call("open_tree", name) { _ in
            "".withCString { ck_syscall(Int(CK_SYS_OPEN_TREE), Int(fd), Int(bitPattern: $0), flags, 0, 0, 0) }
        }
    }

    /// Begins a file system. The corresponding C function is `fsopen`.
    package static func open(_ type: String) throws(FileError) -> OwnedFD {
        try call("fsopen", type) { name in ck_syscall(Int(CK_SYS_FSOPEN), name, 1, 0, 0, 0, 0) }
    }

    /// The commands of fsconfig(2).
    private enum Command { static let flag = 0, text = 1, descriptor = 5, create = 6 }

    /// Gives a file system an option; a flag where the value is empty.
    package static func set(_ context: Int32, _ key: String, _ value: String = "") throws(FileError) {
        let result = key.withCString { key in
            value.withCString { text in
                ck_syscall(
                    Int(CK_SYS_FSCONFIG), Int(context), value.isEmpty ? Command.flag : Command.text,
                    Int(bitPattern: key), value.isEmpty ? 0 : Int(bitPattern: text), 0, 0)
            }
        }
        guard result == 0 else { throw FileError.last("fsconfig \(key)", value) }
    }

    /// The same for an option that is a directory, by descriptor (overlayfs: Linux 6.13).
    package static func set(_ context: Int32, _ key: String, _ fd: Int32, name: String) throws(FileError) {
        let result = key.withCString { key in
            ck_syscall(
                Int(CK_SYS_FSCONFIG), Int(context), Command.descriptor, Int(bitPattern: key), 0, Int(fd), 0)
        }
        guard result == 0 else { throw FileError.last("fsconfig \(key)", name) }
    }

    /// Makes the file system from its options.
    package static func create(_ context: Int32, _ type: String) throws(FileError) {
        guard ck_syscall(Int(CK_SYS_FSCONFIG), Int(context), Command.create, 0, 0, 0, 0) == 0 else {
            throw FileError.last("fsconfig create", type)
        }
    }

    /// A detached mount of a made file system. `attributes` are MOUNT_ATTR_*.
    package static func mount(_ context: Int32, _ type: String, attributes: UInt64 = 0) throws(FileError)
        -> OwnedFD
    {
        try call("fsmount", type) { _ in
            ck_syscall(Int(CK_SYS_FSMOUNT), Int(context), 1, Int(bitPattern: UInt(attributes)), 0, 0, 0)
        }
    }

    /// struct mount_attr.
    private struct Attributes {
        var set: UInt64 = 0
        var clear: UInt64 = 0
        var propagation: UInt64 = 0
        var userNamespace: UInt64 = 0
    }

    /// Sets MOUNT_ATTR_* bits on a mount, and makes it private. The corresponding C function is `mount_setattr`.
    package static func change(_ mount: Int32, set: UInt64, recursive: Bool, name: String) throws(FileError) {
        try change(mount, Attributes(set: set, propagation: 0x40000), recursive: recursive, name: name)
    }

    /// Shows the owners of a detached mount as the ids of a user namespace have it (Linux 5.12).
    package static func map(_ mount: Int32, to namespace: Int32, recursive: Bool, name: String)
        throws(FileError)
    {
        // MOUNT_ATTR_IDMAP
        try change(
            mount, Attributes(set: 0x10_0000, userNamespace: UInt64(namespace)), recursive: recursive,
            name: name)
    }

    private static func change(
        _ mount: Int32, _ attributes: Attributes, recursive: Bool, name: String
    ) throws(FileError) {
        var attributes = attributes
        let flags = 0x1000 | (recursive ? 0x8000 : 0)
        let result = withUnsafeMutablePointer(to: &attributes) { pointer in
            "".withCString {
                ck_syscall(
                    Int(CK_SYS_MOUNT_SETATTR), Int(mount), Int(bitPattern: $0), flags,
                    Int(bitPattern: pointer), 32, 0)
            }
        }
        guard result == 0 else { throw FileError.last("mount_setattr", name) }
    }

    /// Puts a detached mount at a path.
    package static func move(_ mount: Int32, to path: String) throws(FileError) {
        let result = path.withCString { path in
            "".withCString {
                ck_syscall(
                    Int(CK_SYS_MOVE_MOUNT), Int(mount), Int(bitPattern: $0), Int(AT_FDCWD),
                    Int(bitPattern: path), 4, 0)
            }
        }
        guard result == 0 else { throw FileError.last("move_mount", path) }
    }

    private static func call(_ name: String, _ object: String, _ body: (Int) -> Int) throws(FileError)
        -> OwnedFD
    {
        let fd = object.withCString { body(Int(bitPattern: $0)) }
        guard fd >= 0 else { throw FileError.last(name, object) }
        return OwnedFD(Int32(fd))
    }
}
