import CKernel
import Files
import Glibc
package import OCI
import SystemPackage

/// The device list of cgroup v2: a small BPF program that the kernel asks at each open and mknod.
package enum DeviceFilter {
    /// struct bpf_insn.
    package struct Instruction: Equatable, Sendable {
        package var code: UInt8
        package var target: UInt8
        package var source: UInt8
        package var offset: Int16
        package var value: Int32

        init(_ code: UInt8, _ target: UInt8, _ source: UInt8 = 0, offset: Int16 = 0, value: Int32 = 0) {
            (self.code, self.target, self.source) = (code, target, source)
            (self.offset, self.value) = (offset, value)
        }

        var word: UInt64 {
            UInt64(code) | UInt64(target | source << 4) << 8 | UInt64(UInt16(bitPattern: offset)) << 16
                | UInt64(UInt32(bitPattern: value)) << 32
        }
    }

    // linux/bpf.h: operations, and the values in struct bpf_cgroup_dev_ctx.
    private static let load: UInt8 = 0x61
    private static let copy: UInt8 = 0xbc
    private static let set: UInt8 = 0xb7
    private static let and: UInt8 = 0x54
    private static let shift: UInt8 = 0x74
    private static let jumpIfEqual: UInt8 = 0x15
    private static let jumpIfNot: UInt8 = 0x55
    private static let exit: UInt8 = 0x95
    private static let block: Int32 = 1
    private static let character: Int32 = 2

    /// Later rules win, so the last one is asked first. What no rule knows is refused.
    package static func program(_ rules: [Resources.DeviceRule]) -> [Instruction] {
        // r1 is the context; r2 the type, r3 the access, r4 and r5 the numbers.
        var program = [
            Instruction(load, 2, 1), Instruction(copy, 3, 2), Instruction(shift, 3, value: 16),
            Instruction(and, 2, value: 0xffff), Instruction(load, 4, 1, offset: 4),
            Instruction(load, 5, 1, offset: 8),
        ]
        for rule in rules.reversed() {
            var part: [Instruction] = []
            /// Jumps to the next rule; where that is, is known at the end.
            func leave(_ code: UInt8, _ register: UInt8, _ value: Int32) {
                part.append(Instruction(code, register, value: value))
            }
            if rule.type != "a" { leave(jumpIfNot, 2, rule.type == "b" ? block : character) }
            let access = mask(rule.access)
            if access != 7 {
                part.append(Instruction(copy, 0, 3))
                // Allowed is what the rule covers wholly, denied what it touches.
                part.append(Instruction(and, 0, value: rule.allow ? ~access & 7 : access))
                leave(rule.allow ? jumpIfNot : jumpIfEqual, 0, 0)
            }
            if let major = rule.major { leave(jumpIfNot, 4, Int32(bitPattern: major)) }
            if let minor = rule.minor { leave(jumpIfNot, 5, Int32(bitPattern: minor)) }
            part += [Instruction(set, 0, value: rule.allow ? 1 : 0), Instruction(exit, 0)]
            for index in part.indices where part[index].code == jumpIfNot || part[index].code == jumpIfEqual {
                part[index].offset = Int16(part.count - index - 1)
            }
            program += part
            // Nothing gets past a rule without conditions, and the kernel refuses what nothing can reach.
            if part.count == 2 { return program }
        }
        return program + [Instruction(set, 0), Instruction(exit, 0)]
    }

    /// BPF_DEVCG_ACC_*.
    private static func mask(_ access: String) -> Int32 {
        var bits: Int32 = 0
        if access.contains("m") { bits |= 1 }
        if access.contains("r") { bits |= 2 }
        if access.contains("w") { bits |= 4 }
        return bits
    }

    /// Loads the program and attaches it to a v2 group; it goes with the group.
    package static func attach(_ rules: [Resources.DeviceRule], to directory: String) throws(CgroupError) {
        let words = program(rules).map(\.word)
        let result = words.withUnsafeBufferPointer { ck_load_device_filter($0.baseAddress, UInt32($0.count)) }
        guard result >= 0 else { throw failure("cannot load the device list as a BPF program", Glibc.errno) }
        let filter = OwnedFD(result)
        let fd = ck_open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
        guard fd >= 0 else { throw failure("cannot open the group \(directory)", Glibc.errno) }
        let group = OwnedFD(fd)
        guard ck_attach_device_filter(group.raw, filter.raw) == 0 else {
            throw failure("cannot attach the device list to \(directory)", Glibc.errno)
        }
    }

    private static func failure(_ words: String, _ number: Int32) -> CgroupError {
        let code = Errno(rawValue: number)
        return CgroupError(
            "\(words): bpf: \(code.description)",
            hint: code == .notPermitted ? "this takes CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN" : nil,
            errno: code)
    }
}
