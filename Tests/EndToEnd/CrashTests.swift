import Foundation
import Testing

/// kill -9 of imgbox before each step of a plan, by its number.
@Suite(.enabled(if: isRoot, needsRoot)) struct CrashTests {
    let box: Box

    init() throws {
        box = try Box()
        try box.addBusybox()
    }

    private static let flags = [
        "--memory", "50m", "--cpus", "0.5", "-v", "/etc:/e:ro", "--sysctl", "net.ipv4.ip_forward=1",
    ]

    private func steps(_ flags: [String]) throws -> Int {
        let output = try call(
            [program, "--root", box.store, "run", "--dry-run", "--format", "json"] + flags + [
                "busybox", "true",
            ])
        let json = try #require(JSONSerialization.jsonObject(with: Data(output.out.utf8)) as? [String: Any])
        return try #require(json["steps"] as? [Any]).count
    }

    private func crash(at step: Int, _ flags: [String]) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = ["--root", box.store, "run", "--rm"] + flags + ["busybox", "sleep", "60"]
        process.environment = ["IMGBOX_TEST_PAUSE_STEP": "\(step)", "PATH": "/usr/bin:/bin"]
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        usleep(60_000)
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    /// What containers of this box have left: processes, groups, loop devices.
    private func remains(_ ids: [String]) throws -> [String] {
        var found = Box.groups().filter { path in ids.contains { path.hasSuffix($0) } }
        found += try call(["losetup", "-a"]).out.split(separator: "\n").map(String.init).filter {
            $0.contains(box.store)
        }
        return found
    }

    private func check(_ flags: [String], _ numbers: some Sequence<Int>) throws {
        for number in numbers {
            try crash(at: number, flags)
            let ids = try FileManager.default.contentsOfDirectory(atPath: "\(box.store)/containers").filter {
                $0 != ".names"
            }
            // A plan that is killed before it has begun may have left nothing at all.
            let collected = try box("gc", "-q")
            #expect(collected.code == 0, "step \(number): \(collected)")
            try waitUntil { try remains(ids).isEmpty && box.leftovers().isEmpty }
            let left = try remains(ids) + box.leftovers()
            #expect(left.isEmpty, "step \(number): \(left)")
        }
        #expect(try box("fsck", "--deep").code == 0)
        #expect(try box.sh("echo works", flags).line == "works")
    }

    @Test func betweenAnyTwoSteps() throws { try check(Self.flags, 0..<(try steps(Self.flags))) }

    @Test func betweenTheStepsOfADisk() throws {
        guard access("/dev/loop-control", R_OK) == 0 else { return print("SKIPPED: no loop devices") }
        try check(["--disk-size", "10m"], 0..<16)
    }

    @Test func betweenTheStepsWithoutAUserNamespace() throws {
        let flags = ["--userns", "host"]
        try check(flags, stride(from: 0, to: try steps(flags), by: 3))
    }

    /// Fifty at once, twice: no group, no directory, no process stays.
    @Test func manyAtOnce() throws {
        for _ in 0..<2 {
            let processes = try (0..<50).map { _ in try box.start("run", "--rm", "busybox", "true") }
            for process in processes { process.waitUntilExit() }
            #expect(processes.allSatisfy { $0.terminationStatus == 0 })
        }
        #expect(try box.leftovers().isEmpty)
        #expect(try box.groups().isEmpty)
    }
}
