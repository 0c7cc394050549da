import Files
import Glibc
import Kernel
import Launch
import OCI

/// The steps that make the process what it is to be.
extension Planner {
    mutating func identity() throws(RuntimeError) {
        if !spec.hostname.isEmpty || !spec.domainname.isEmpty {
            guard namespaces.contains(.uts) else {
                throw RuntimeError("a host or domain name needs a UTS namespace of the container's own")
            }
        }
        if !spec.hostname.isEmpty { steps.append(.hostname(spec.hostname)) }
        if !spec.domainname.isEmpty { steps.append(.domainname(spec.domainname)) }
        if namespaces.contains(.network) { steps.append(.loopbackUp) }
    }

    mutating func process() throws(RuntimeError) {
        let process = spec.process
        for limit in process.limits {
            guard let resource = Planner.resources[limit.type] else {
                throw RuntimeError("the limit '\(printable(limit.type))' is not known")
            }
            let name = limit.type.replacing("RLIMIT_", with: "").lowercased()
            steps.append(.resourceLimit(name: name, resource: resource, soft: limit.soft, hard: limit.hard))
        }
        steps.append(.session(hasTerminal: process.terminal))
        steps.append(.workingDirectory(process.cwd))
        // A filter that is loaded without no_new_privs takes CAP_SYS_ADMIN, which is there until the next steps.
        if !process.noNewPrivileges { seccomp() }
        let wanted = Set(process.capabilities.compactMap { Capability(name: $0) }).mask
        // Nobody can pass on what he does not have; the list of a container is an upper limit.
        // A user without privileges who cannot gain any has no use for the list at all.
        let isPlainUser = process.user.uid != 0 && process.noNewPrivileges
        // A new user namespace begins with all of them (user_namespaces(7)); what the kernel knows is what can be dropped.
        let last = UInt64.bitWidth - facts.bounding.leadingZeroBitCount - 1
        let available = isMapped ? UInt64.max : facts.bounding
        let keep = isPlainUser ? 0 : wanted & available
        steps.append(.boundingSet(keep: keep, last: last))
        if process.noNewPrivileges { steps.append(.noNewPrivileges) }
        if !canSetGroups, !process.user.additionalGids.isEmpty {
            notes.append(
                "the user \(process.user.uid) goes without its \(process.user.additionalGids.count) supplementary groups: "
                    + "this user has no subordinate ids for them (imgbox doctor)")
        }
        let user = LaunchPlan.User(
            uid: process.user.uid, gid: process.user.gid,
            groups: canSetGroups ? process.user.additionalGids : [])
        steps.append(.user(user, setsGroups: canSetGroups))
        steps.append(.capabilities(process.user.uid == 0 ? keep : 0))
        // setresuid(2) clears the wish to die with the parent (prctl(2), PR_SET_PDEATHSIG), so it comes after. A parent that
        // was killed before is noticed by the wait: its pipe is at its end.
        steps.append(.dieWithParent)
        if options.hasInit { steps.append(.initProcess) }
        steps += [.waitForParent, .closeDescriptors(from: Int32(3 + options.preservedDescriptors))]
        if process.noNewPrivileges { seccomp() }
        guard let command = process.args.first, !command.isEmpty else {
            throw RuntimeError(
                "there is no command to run: the image has none and none was given",
                hint: "name one after the image: imgbox run IMAGE /bin/sh")
        }
        steps.append(
            .exec(
                candidates: Planner.candidates(command, process.env), arguments: process.args,
                environment: process.env))
    }

    mutating func seccomp() {
        if let (name, filter) = options.seccomp { steps.append(.seccomp(name: name, filter: filter)) }
    }

    /// What execvp(3) would try.
    private static func candidates(_ command: String, _ environment: [String]) -> [String] {
        if command.contains("/") { return [command] }
        let path = environment.last { $0.hasPrefix("PATH=") }?.dropFirst(5) ?? "/usr/local/bin:/usr/bin:/bin"
        return path.split(separator: ":", omittingEmptySubsequences: false).map { directory in
            directory.isEmpty ? "./\(command)" : "\(directory)/\(command)"
        }
    }

    /// The names that `--ulimit` can take, as the specification spells them.
    package static var limitNames: [String] { Array(resources.keys) }

    /// RLIMIT_* by their names (asm-generic/resource.h).
    static let resources: [String: Int32] = [
        "RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4,
        "RLIMIT_RSS": 5,
        "RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10,
        "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12, "RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14,
        "RLIMIT_RTTIME": 15,
    ]
}
