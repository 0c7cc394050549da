import CLaunch
import Glibc

/// The operations of the child, under construction, with the memory that they point to.
final class ChildProgram {
    /// A value known now, or one that a register will hold.
    enum Value {
        case number(Int64)
        case text(String)
        case register(Register)

        static func flags(_ value: UInt64) -> Value { .number(Int64(bitPattern: value)) }
    }

    /// Descriptors that later operations need. Closed all at once before the command runs.
    enum Register: Int16 {
        case root, dev, proc, pts, master, terminal, target, object, other
        static let count = 9
    }

    private(set) var ops: [cl_op] = []
    private let memory = Memory()
    /// The number of the step that operations are added for.
    var step: UInt16 = 0

    /// Keeps what the operations point to until the child has run them.
    private final class Memory {
        var blocks: [UnsafeMutableRawPointer] = []
        deinit { for block in blocks { block.deallocate() } }
    }

    func text(_ string: String) -> Int64 {
        let bytes = Array(string.utf8) + [0]
        let space = UnsafeMutableRawPointer.allocate(byteCount: bytes.count, alignment: 1)
        space.copyMemory(from: bytes, byteCount: bytes.count)
        memory.blocks.append(space)
        return Int64(Int(bitPattern: space))
    }

    /// An address of plain memory with this content.
    func block(_ bytes: [UInt8]) -> Value {
        let space = UnsafeMutableRawPointer.allocate(byteCount: max(8, bytes.count), alignment: 16)
        space.copyMemory(from: bytes, byteCount: bytes.count)
        memory.blocks.append(space)
        return .number(Int64(Int(bitPattern: space)))
    }

    /// An array of strings that ends with a null pointer.
    func list(_ strings: [String]) -> Value {
        let pointers = strings.map { UInt64(bitPattern: text($0)) } + [0]
        return block(memoryBytes(pointers))
    }

    /// Adds a system call.
    func call(
        _ number: Int, _ arguments: Value..., to result: Register? = nil, tolerating errors: [Int32] = [],
        skip: Int16 = 0
    ) {
        add(CL_SYSCALL, arguments, number: Int64(number), result, errors, skip)
    }

    /// Adds one of the interpreter's own operations.
    func special(
        _ kind: cl_kind, _ arguments: Value..., to result: Register? = nil, tolerating errors: [Int32] = [],
        skip: Int16 = 0
    ) {
        add(kind, arguments, number: 0, result, errors, skip)
    }

    private func add(
        _ kind: cl_kind, _ arguments: [Value], number: Int64, _ result: Register?, _ errors: [Int32],
        _ skip: Int16
    ) {
        var op = cl_op()
        op.kind = UInt16(kind.rawValue)
        op.step = step
        op.result = result?.rawValue ?? -1
        op.skip = skip
        op.number = number
        var values = [Int64](repeating: 0, count: 6)
        for (index, argument) in arguments.prefix(6).enumerated() {
            switch argument {
            case .number(let value): values[index] = value
            case .text(let string): values[index] = text(string)
            case .register(let register):
                values[index] = Int64(register.rawValue)
                op.registers |= 1 << UInt32(index)
            }
        }
        op.args = (values[0], values[1], values[2], values[3], values[4], values[5])
        let tolerated = errors + [0, 0, 0]
        op.tolerated = (tolerated[0], tolerated[1], tolerated[2])
        ops.append(op)
    }
}
