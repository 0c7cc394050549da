import CKernel
import CSeccomp
import Files
import Glibc
package import Kernel
import OCI

/// Profiles as the kernel takes them: an array of struct sock_filter, eight bytes each.
package enum SeccompFilter {
    /// The compiled standard profile, from the cache where it is there.
    package static func standard(_ capabilities: Set<Capability>, cache: Int32?) throws(SeccompError)
        -> [UInt8]
    {
        let name =
            "standard-\(SeccompProfile.standardVersion)-\(libraryVersion)-\(String(capabilities.mask, radix: 16))"
        return try cached(name, cache) { () throws(SeccompError) in try compile(.standard(capabilities)) }
    }

    /// The same for a profile of the user's.
    package static func document(
        _ bytes: [UInt8], _ capabilities: Set<Capability>, kernel: (major: Int, minor: Int), cache: Int32?
    ) throws(SeccompError) -> [UInt8] {
        let key = "\(libraryVersion) \(kernel.major).\(kernel.minor) \(capabilities.mask) "
        let name = "document-" + Digest(of: Array(key.utf8) + bytes).hex
        return try cached(name, cache) { () throws(SeccompError) in
            try compile(SeccompProfile(parsing: bytes, capabilities: capabilities, kernel: kernel))
        }
    }

    private static var libraryVersion: String {
        guard let version = seccomp_version()?.pointee else { return "0" }
        return "\(version.major).\(version.minor).\(version.micro)"
    }

    // MARK: - The cache

    /// The kernel's limit (BPF_MAXINSNS).
    private static let maximumCount = 4096

    /// A file of the cache is the filter with its checksum in front: after a power failure it may be anything.
    private static func cached(
        _ name: String, _ cache: Int32?, _ make: () throws(SeccompError) -> [UInt8]
    ) throws(SeccompError) -> [UInt8] {
        if let cache, let bytes = try? readFile(name, at: cache, limit: maximumCount * 8 + 8),
            bytes.count > 8,
            bytes.count % 8 == 0
        {
            let filter = Array(bytes[8...])
            if Array(bytes[..<8]) == checksum(filter) { return filter }
        }
        let filter = try make()
        // Without a cache the next start takes longer, and that is all.
        if let cache { try? replaceFile(name, at: cache, with: checksum(filter) + filter, durable: false) }
        return filter
    }

    /// FNV-1a.
    private static func checksum(_ bytes: [UInt8]) -> [UInt8] {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in bytes { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return withUnsafeBytes(of: hash.littleEndian) { Array($0) }
    }

    // MARK: - Compiling

    package static func compile(_ profile: SeccompProfile) throws(SeccompError) -> [UInt8] {
        let native = seccomp_arch_native()
        let main = try context(profile, native)
        defer { seccomp_release(main) }
        var arches = [native]
        #if arch(x86_64)
            let other = UInt32(SCMP_ARCH_X86)
        #else
            let other = UInt32(SCMP_ARCH_ARM)
        #endif
        if profile.allowsOtherWordSize {
            // Merged, and gone with it.
            guard let second = try context(profile, other), seccomp_merge(main, second) == 0 else {
                throw SeccompError("libseccomp cannot merge the filters of two architectures")
            }
            arches.append(other)
        }
        let body = try export(main)
        // A call that this library has no name for did not exist when the list was made: "there is no such call" makes programs
        // fall back, where "not permitted" would make them fail.
        guard case .errno = profile.defaultAction else { return body }
        let filter = unknownCalls(arches, profile) + body
        guard filter.count / 8 <= maximumCount else {
            throw SeccompError(
                "the seccomp profile makes \(filter.count / 8) instructions, the kernel takes \(maximumCount)"
            )
        }
        return filter
    }

    private static func context(_ profile: SeccompProfile, _ arch: UInt32) throws(SeccompError)
        -> scmp_filter_ctx?
    {
        guard let context = seccomp_init(code(profile.defaultAction)) else {
            throw SeccompError("libseccomp does not take the profile's defaultAction")
        }
        var isDone = false
        defer { if !isDone { seccomp_release(context) } }
        if arch != seccomp_arch_native() {
            guard seccomp_arch_add(context, arch) == 0,
                seccomp_arch_remove(context, seccomp_arch_native()) == 0
            else { throw SeccompError("libseccomp does not know the architecture \(arch)") }
        }
        // What is neither of the architectures (x32 on x86-64) has never been asked for by an honest program.
        _ = seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, cse_kill_process())
        // no_new_privs is a step of the plan.
        _ = seccomp_attr_set(context, SCMP_FLTATR_CTL_NNP, 0)
        // A binary tree in place of a list (libseccomp 2.5).
        _ = seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2)
        for rule in profile.rules where rule.action != profile.defaultAction {
            for name in rule.names {
                guard let number = number(of: name, arch) else { continue }
                try add(rule, name, number, to: context)
            }
        }
        isDone = true
        return context
    }

    /// A rule names a call by this machine's own number, also for another architecture: the library translates, and gives
    /// calls that are not here numbers below zero. nil for a call that the architecture does not have.
    private static func number(of name: String, _ arch: UInt32) -> Int32? {
        let number = seccomp_syscall_resolve_name(name)
        if number != __NR_SCMP_ERROR {
            let there = seccomp_syscall_resolve_name_arch(arch, name)
            return there >= 0 ? number : nil
        }
        return arch == seccomp_arch_native() ? SeccompProfile.young[name] : nil
    }

    private static func add(
        _ rule: SeccompProfile.Rule, _ name: String, _ number: Int32, to context: scmp_filter_ctx
    ) throws(SeccompError) {
        let arguments = rule.conditions.map { condition in
            scmp_arg_cmp(
                arg: condition.index, op: comparison(condition.comparison), datum_a: condition.value,
                datum_b: condition.second)
        }
        let result = arguments.withUnsafeBufferPointer {
            seccomp_rule_add_array(context, code(rule.action), number, UInt32($0.count), $0.baseAddress)
        }
        // The same rule twice, as with two capabilities that open one call.
        guard result == 0 || result == -EEXIST else {
            throw SeccompError(
                "the seccomp rule for '\(printable(name))' cannot be used: \(String(cString: strerror(-result)))"
            )
        }
    }

    private static func comparison(_ value: SeccompProfile.Comparison) -> scmp_compare {
        switch value {
        case .notEqual: SCMP_CMP_NE
        case .less: SCMP_CMP_LT
        case .lessOrEqual: SCMP_CMP_LE
        case .equal: SCMP_CMP_EQ
        case .greaterOrEqual: SCMP_CMP_GE
        case .greater: SCMP_CMP_GT
        case .masked: SCMP_CMP_MASKED_EQ
        }
    }

    private static func code(_ action: SeccompProfile.Action) -> UInt32 {
        switch action {
        case .allow: UInt32(truncatingIfNeeded: CSE_ALLOW)
        case .log: UInt32(truncatingIfNeeded: CSE_LOG)
        case .trap: UInt32(truncatingIfNeeded: CSE_TRAP)
        case .killThread: UInt32(truncatingIfNeeded: CSE_KILL_THREAD)
        case .killProcess: cse_kill_process()
        case .errno(let number): cse_errno(number)
        case .trace(let number): cse_trace(number)
        }
    }

    private static func export(_ context: scmp_filter_ctx?) throws(SeccompError) -> [UInt8] {
        let fd = Int32(
            ck_syscall(Int(CK_SYS_MEMFD), "seccomp".withCString { Int(bitPattern: $0) }, 1, 0, 0, 0, 0))
        guard fd >= 0 else { throw SeccompError("memfd_create: \(String(cString: strerror(Glibc.errno)))") }
        let file = OwnedFD(fd)
        let result = seccomp_export_bpf(context, file.raw)
        guard result == 0, lseek(file.raw, 0, SEEK_SET) == 0 else {
            throw SeccompError("libseccomp cannot compile the profile: \(String(cString: strerror(-result)))")
        }
        do throws(FileError) { return try readAll(file.raw, limit: 1 << 20, name: "seccomp") } catch {
            throw SeccompError("the compiled seccomp profile cannot be read: \(error.message)")
        }
    }

    // MARK: - Unknown calls

    /// Instructions to stand in front: for each architecture, a number above all known ones returns ENOSYS.
    private static func unknownCalls(_ arches: [UInt32], _ profile: SeccompProfile) -> [UInt8] {
        // linux/bpf_common.h: load a word, jump if equal / greater / greater or equal, return. struct seccomp_data: the number
        // at 0, the architecture at 4.
        func instruction(_ code: UInt16, _ yes: UInt8, _ no: UInt8, _ value: UInt32) -> UInt64 {
            UInt64(code) | UInt64(yes) << 16 | UInt64(no) << 24 | UInt64(value) << 32
        }
        let (load, equal, greater, atLeast, answer) = (
            UInt16(0x20), UInt16(0x15), UInt16(0x25), UInt16(0x35), UInt16(0x06)
        )
        let jump: UInt16 = 0x05
        var parts: [UInt64] = []
        for (index, arch) in arches.enumerated() {
            let after = UInt32((arches.count - 1 - index) * 7)
            parts += [
                instruction(load, 0, 0, 4), instruction(equal, 0, 5, arch), instruction(load, 0, 0, 0),
                // The bit of x32 is for the filter proper.
                instruction(atLeast, 2, 0, 0x4000_0000), instruction(greater, 0, 1, highest(arch, profile)),
                instruction(answer, 0, 0, cse_errno(UInt16(ENOSYS))), instruction(jump, 0, 0, after),
            ]
        }
        return parts.withUnsafeBytes { Array($0) }
    }

    /// The highest number that has a name here or a rule.
    private static func highest(_ arch: UInt32, _ profile: SeccompProfile) -> UInt32 {
        var result: Int32 = 0
        for number: Int32 in 0..<1024 {
            guard let name = seccomp_syscall_resolve_num_arch(arch, number) else { continue }
            free(name)
            result = number
        }
        let young = profile.rules.flatMap(\.names).compactMap { SeccompProfile.young[$0] }
        return UInt32(max(result, young.max() ?? 0))
    }
}
