import Files

/// A Linux capability by its number (linux/capability.h).
package struct Capability: Hashable, Sendable, CustomStringConvertible {
    package let number: Int

    /// Without the prefix CAP_, in the order of their numbers.
    private static let names = [
        "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
        "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
        "CHECKPOINT_RESTORE",
    ]

    package static let all = names.indices.map { Capability(number: $0) }

    /// podman's eleven: enough for package managers and servers, without raw sockets and device nodes.
    package static let containerDefault: [Capability] = [
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID",
        "SETPCAP",
        "SETUID", "SYS_CHROOT",
    ].compactMap { Capability(name: $0) }

    init(number: Int) { self.number = number }

    /// Reads a name in either case, with or without `CAP_`; nil for an unknown one.
    package init?(name: String) {
        let upper = name.uppercased()
        let bare = upper.hasPrefix("CAP_") ? String(upper.dropFirst(4)) : upper
        guard let index = Capability.names.firstIndex(of: bare) else { return nil }
        number = index
    }

    package var description: String { "CAP_\(Capability.names[number])" }
}

extension Set<Capability> {
    /// The bits of the two words that capset(2) takes.
    package var mask: UInt64 { reduce(0) { $0 | 1 << UInt64($1.number) } }
}
