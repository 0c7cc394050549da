import ArgumentParser
import Foundation
import OCI
import Testing

@testable import Runtime
@testable import imgbox

@Suite struct CommandLineTests {
    @Test(arguments: [
        ("run alpine ls -la", "run alpine -- ls -la"),
        ("run --rm -it alpine sh", "run --rm -it alpine -- sh"),
        ("run -e A=1 --name x alpine", "run -e A=1 --name x alpine --"),
        ("run -itw /x alpine true", "run -itw /x alpine -- true"),
        ("run -eA=1 alpine env", "run -e A=1 alpine -- env"),
        ("run --name=x alpine a -- b", "run --name=x alpine -- a -- b"),
        ("run --rm -- alpine --rm", "run --rm alpine -- --rm"), ("images -q", "images -q"), ("run", "run"),
    ])
    func separatesTheCommand(line: String, result: String) {
        var words = line.split(separator: " ").map(String.init)
        RunCommand.separateCommand(&words)
        #expect(words.joined(separator: " ") == result)
    }

    /// The quick reader and ArgumentParser understand every right command line alike, and the quick one leaves wrong ones alone.
    @Test(arguments: [
        "alpine", "--rm -it alpine sh -c x",
        "-e A=1 -eB=2 --env=C --env-file f -w /w -u 1:2 --entrypoint e --init alpine",
        "--platform p --pull never -v a:b --volume=c:d --mount m --tmpfs t --read-only --shm-size 1 --root-switch chroot alpine",
        "--rootfs --name n -h h --domainname d --network host alpine a b --rm",
        "--net none --add-host a:1 --dns 1 -l k=v --label x alpine",
        "--ulimit a=1 --sysctl k=v --cap-add X --cap-drop Y --security-opt z --explain --dry-run --format json --cidfile c alpine -- x",
        "--root /r -- alpine --rm", "-itw /x alpine true",
    ])
    func quickReadingEqualsTheParser(line: String) throws {
        let words = line.split(separator: " ").map(String.init)
        let quick = try #require(RunWords(parsing: words))
        var full = ["run"] + words
        RunCommand.separateCommand(&full)
        let command = try #require(try Imgbox.parseAsRoot(full) as? RunCommand)
        #expect(quick == command.words)
    }

    @Test(arguments: [
        "", "--rm", "--bogus alpine", "-x alpine", "--pull sometimes alpine", "--help", "--name", "-e",
        "--format xml alpine", "--rm=1 alpine",
    ])
    func quickReadingLeavesWrongLinesToTheParser(line: String) {
        #expect(RunWords(parsing: line.split(separator: " ").map(String.init)) == nil)
    }

    /// The hand-written list of options with a value equals what the declarations say.
    @Test func listOfValuedOptionsIsComplete() throws {
        let help = try JSON(parsing: Array(Imgbox._dumpHelp().utf8))
        let commands = help["command"]?["subcommands"]?.array ?? []
        let run = try #require(commands.first { $0["commandName"]?.string == "run" })
        var valued: Set<String> = []
        for argument in run["arguments"]?.array ?? [] where argument["kind"]?.string == "option" {
            for name in argument["names"]?.array ?? [] {
                let text = name["name"]?.string ?? ""
                valued.insert(name["kind"]?.string == "short" ? "-\(text)" : "--\(text)")
            }
        }
        #expect(valued == RunCommand.valued)
    }

    @Test(arguments: [("1", Int64(1)), ("1k", 1024), ("2M", 2 << 20), ("3gb", 3 << 30), ("10b", 10)])
    func readsSizes(text: String, bytes: Int64) throws {
        #expect(try byteCount(text, flag: "--x") == bytes)
    }

    @Test(arguments: ["", "x", "-1", "1.5g", "9999999999999g", "k"])
    func refusesSizes(text: String) {
        #expect(throws: UsageError.self) { try byteCount(text, flag: "--x") }
    }

    @Test(arguments: [
        "/a", "a:/b", "/tmp:b", "/tmp:/proc", "/tmp:/b:xx", "/tmp:/a/../b", "/nonexistent-path:/b", "::",
    ])
    func refusesVolumes(text: String) {
        #expect(throws: (any Error).self) { try MountSyntax.volume(text) }
    }

    @Test func readsMounts() throws {
        let volume = try MountSyntax.volume("/tmp:/b:ro")
        #expect(volume.options == ["rbind", "ro"])
        let mount = try MountSyntax.mount("type=bind,src=/etc/passwd,dst=/p,ro")
        #expect(mount.options == ["rbind", "ro", "imgbox.file"])
        let memory = try MountSyntax.mount("type=tmpfs,target=/t,tmpfs-size=1m")
        #expect(memory.options.contains("size=1048576"))
        #expect(throws: UsageError.self) { try MountSyntax.mount("type=tmpfs,target=/t,color=red") }
    }

    @Test func readsLimitsAndCapabilities() throws {
        #expect(try LimitSyntax.parse("nofile=1:2") == .init(type: "RLIMIT_NOFILE", soft: 1, hard: 2))
        #expect(try LimitSyntax.parse("core=unlimited").hard == .max)
        for text in ["nofile", "nofile=2:1", "bogus=1", "nofile=x"] {
            #expect(throws: UsageError.self) { try LimitSyntax.parse(text) }
        }
        #expect(try CapabilitySyntax.apply(add: ["net_raw"], drop: ["ALL"]) == ["CAP_NET_RAW"])
        #expect(try CapabilitySyntax.apply(add: [], drop: []) == nil)
        #expect(throws: UsageError.self) { try CapabilitySyntax.apply(add: ["fly"], drop: []) }
    }

    @Test func drawsTables() {
        #expect(table(["A", "LONG"], [["x", "1"], ["yyyy", "2"]]) == "A      LONG\nx      1\nyyyy   2\n")
        #expect(readable(999) == "999B")
        #expect(readable(1_034_967) == "1.0MB")
        #expect(age("1970-01-01T00:00:00Z", now: 7200) == "2 hours ago")
        #expect(age(nil, now: 0) == "N/A")
    }

    @Test func everyCommandHasAManualEntry() {
        for command in Imgbox.commands {
            #expect(command.configuration.commandName != nil)
            #expect(!command.configuration.abstract.isEmpty)
        }
    }
}
