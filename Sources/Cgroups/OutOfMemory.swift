import CKernel
import Files
import Glibc

/// What the kernel did when the memory of a container ran out.
package struct OutOfMemory: Sendable, Equatable {
    /// Processes that were killed.
    package let kills: Int
    /// Bytes; nil where the kernel does not keep it.
    package let peak: Int64?
    package let limit: Int64?
    /// The last process that was killed: name and pid on the host, where the kernel's log can be read.
    package let victim: String?

    /// nil when nothing was killed for want of memory.
    package init?(in directory: CgroupGroup.Directory) {
        let path = directory.absolute
        let isOld = directory.version == 1
        func number(_ name: String) -> Int64? {
            CgroupTree.words("\(path)/\(name)").first.flatMap { Int64($0) }
        }
        var events = CgroupTree.words("\(path)/\(isOld ? "memory.oom_control" : "memory.events.local")")
        if events.isEmpty { events = CgroupTree.words("\(path)/memory.events") }
        guard let index = events.firstIndex(of: "oom_kill"), index + 1 < events.count,
            let count = Int(events[index + 1]), count > 0
        else { return nil }
        kills = count
        peak = number(isOld ? "memory.max_usage_in_bytes" : "memory.peak")
        limit = number(isOld ? "memory.limit_in_bytes" : "memory.max")
        victim = OutOfMemory.lastVictim(directory.path)
    }

    /// The kernel's log has a line for each kill that names the group (mm/oom_kill.c, "oom-kill:").
    private static func lastVictim(_ group: String) -> String? {
        let fd = ck_open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0)
        guard fd >= 0 else { return nil }
        let log = OwnedFD(fd)
        var result: String?
        var buffer = [UInt8](repeating: 0, count: 8192)
        while true {
            let count = Glibc.read(log.raw, &buffer, buffer.count)
            // EPIPE: the record was overwritten meanwhile; the next read goes on after it.
            if count < 0 && (Glibc.errno == EPIPE || Glibc.errno == EINTR) { continue }
            guard count > 0 else { return result }
            let line = String(decoding: buffer[..<count], as: UTF8.self)
            guard line.contains("oom-kill:"), line.contains("oom_memcg=\(group)") else { continue }
            let fields = line.split(separator: "\n")[0].split(separator: ",")
            func value(_ key: String) -> Substring? {
                fields.last { $0.hasPrefix(key + "=") }?.dropFirst(key.count + 1)
            }
            if let name = value("task"), let pid = value("pid") { result = "\(name) (pid \(pid))" }
        }
    }
}
