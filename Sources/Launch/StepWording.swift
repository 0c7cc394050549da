import Cgroups
import Files
import Kernel

/// What a step says of itself to `--dry-run` and `--explain`.
package struct StepWording: Sendable, Equatable {
    /// The step in a few words.
    package let title: String
    /// Why it is done.
    package let reason: String
    /// What one would type for the same in a shell.
    package let shell: String
}

extension LaunchPlan.Step {
    package var wording: StepWording {
        switch self {
        case .makeCgroups, .limit, .deviceList, .deviceFilter, .joinCgroups, .oomScore: limitWording
        case .makeDisk, .projectQuota, .openSources, .giveAway, .deviceDirectory, .openOverlay, .mapIDs,
            .shareLayers, .mapSources:
            parentWording
        case .joinNamespaces, .fork, .newNamespaces, .awaitParent, .becomeRoot, .cgroupNamespace,
            .timeOffsets, .keyring:
            entryWording
        case .clone, .privateMounts, .overlayRoot, .attachOverlay, .bindRoot: rootWording
        case .mount, .bind, .attachDevices, .volume, .deviceNodes, .deviceLinks, .terminal, .makeDirectory:
            mountWording
        case .sysctl, .maskPaths, .readOnlyPaths, .readOnlyRoot, .switchRoot: sealWording
        default: processWording
        }
    }

    private var rootWording: StepWording {
        switch self {
        case .clone(let namespaces, let cgroup):
            let names = namespaces.map(\.rawValue).joined(separator: ", ")
            return StepWording(
                title: namespaces.isEmpty
                    ? "clone a process" : "clone a process into new namespaces: \(names)",
                reason: "each namespace gives the container its own view of one kind of kernel object"
                    + (cgroup == nil ? "" : "; it begins its life in its v2 cgroup"),
                shell: "unshare --fork " + namespaces.map(unshareFlag).joined(separator: " "))
        case .privateMounts:
            return StepWording(
                title: "make all mounts private",
                reason: "what is mounted from here on must not show on the host",
                shell: "mount --make-rprivate /")
        case .overlayRoot(let layers, let upper, let work, let place, let form):
            let lower = layers.reversed().joined(separator: ":")
            return StepWording(
                title: "mount the image's \(layers.count) layers as one tree",
                reason:
                    "layers are shared and read-only; what the container writes goes to its own upper directory",
                shell:
                    "mount -t overlay overlay -o lowerdir=\(lower),upperdir=\(upper),workdir=\(work)"
                    + (form == .user ? ",userxattr" : "") + " \(place)")
        case .attachOverlay(let place):
            return StepWording(
                title: "mount the shared layers",
                reason:
                    "imgbox made the overlay outside; here it becomes a mount of this namespace, at a place "
                    + "that only this namespace sees",
                shell: "mount --move ... \(place)")
        case .bindRoot(_, let place):
            return StepWording(
                title: "bind the root directory",
                reason: "pivot_root(2) wants the new root to be a mount of its own",
                shell: "mount --rbind ... \(shellQuoted(place))")
        default: return StepWording(title: "", reason: "", shell: "")
        }
    }

    private func unshareFlag(_ namespace: LaunchPlan.Namespace) -> String {
        switch namespace {
        case .network: "--net"
        default: "--\(namespace.rawValue)"
        }
    }

    private var mountWording: StepWording {
        switch self {
        case .mount(let type, let path, let options, let flags):
            let list = (options.map { $0.value.isEmpty ? $0.key : "\($0.key)=\($0.value)" } + flags.words)
                .joined(separator: ",")
            return StepWording(
                title: "mount \(type) on \(path)", reason: LaunchPlan.Step.reason(forType: type),
                shell: "mount -t \(type) \(list.isEmpty ? "" : "-o \(list) ")\(type) .\(path)")
        case .bind(_, let source, let path, _):
            let option = source.isRecursive ? "--rbind" : "--bind"
            let words = source.flags.words.joined(separator: ",")
            return StepWording(
                title: "bind \(source.path) on \(path)",
                reason: source.device == nil
                    ? "a file or directory of the host is to be seen inside"
                    : "a user namespace may not make device nodes; the host's own is shown instead",
                shell: "mount \(option) \(words.isEmpty ? "" : "-o \(words) ")"
                    + "\(shellQuoted(source.path)) .\(shellQuoted(path))")
        case .attachDevices:
            return StepWording(
                title: "mount the prepared /dev",
                reason: "its nodes were made outside, where that is allowed",
                shell: "mount --move ... ./dev")
        case .volume(let path):
            return StepWording(
                title: "make \(path) a volume",
                reason:
                    "the image names it as a place for data: it stays writable when the root is read-only",
                shell:
                    "mkdir -p .\(shellQuoted(path)) && mount --bind .\(shellQuoted(path)) .\(shellQuoted(path))"
            )
        case .deviceNodes(let nodes):
            return StepWording(
                title: "make the device nodes " + nodes.map(\.name).joined(separator: ", "),
                reason: "programs expect these, and no others are safe to give",
                shell: nodes.map(\.command).joined(separator: "; "))
        case .deviceLinks(let links):
            return StepWording(
                title: "make the links " + links.map(\.name).joined(separator: ", ") + " in /dev",
                reason: "shells and scripts use /dev/fd, /dev/stdin and their like",
                shell: links.map { "ln -s \($0.target) dev/\($0.name)" }.joined(separator: "; "))
        case .terminal:
            return StepWording(
                title: "open a terminal in the container's own devpts",
                reason:
                    "the container sees only its own terminals; the master end goes to imgbox, the other to the command",
                shell: "script -c ... # posix_openpt(3) on /dev/pts/ptmx")
        case .makeDirectory(let path):
            return StepWording(
                title: "make sure that \(path) is there", reason: "the command starts there",
                shell: "mkdir -p .\(shellQuoted(path))")
        default: return StepWording(title: "", reason: "", shell: "")
        }
    }

    private static func reason(forType type: String) -> String {
        switch type {
        case "proc": "a fresh proc shows the processes of the new PID namespace, and no others"
        case "sysfs": "programs read it; it is read-only, since it belongs to the host's kernel"
        case "tmpfs": "a file system in memory that goes away with the container"
        case "devpts": "terminals of the container's own"
        case "mqueue": "POSIX message queues of the new IPC namespace"
        case "cgroup2": "the container sees its own cgroup as the top of the tree"
        default: "the container is to have it"
        }
    }

    private var sealWording: StepWording {
        switch self {
        case .sysctl(let key, let value):
            return StepWording(
                title: "set \(key)", reason: "this setting belongs to one of the new namespaces",
                shell: "sysctl -w \(key)=\(shellQuoted(value))")
        case .maskPaths(let paths):
            return StepWording(
                title: "hide \(paths.count) paths",
                reason: "they tell about the host's kernel, or let it be harmed",
                shell: paths.map { "mount --bind /dev/null .\($0)" }.joined(separator: "; "))
        case .readOnlyPaths(let paths):
            return StepWording(
                title: "make \(paths.count) paths read-only",
                reason: "root in the container must not turn the host's knobs",
                shell: paths.map { "mount --bind -o ro .\($0) .\($0)" }.joined(separator: "; "))
        case .readOnlyRoot:
            return StepWording(
                title: "make the root read-only", reason: "--read-only was asked for",
                shell: "mount -o remount,ro .")
        case .switchRoot(.pivot):
            return StepWording(
                title: "make the tree the root, and let go of the old one",
                reason:
                    "after pivot_root(2) and the unmount nothing of the host's tree can be reached any more",
                shell: "pivot_root . . && umount -l . && cd /")
        case .switchRoot(.chroot):
            return StepWording(
                title: "move the tree over the root and chroot into it",
                reason:
                    "where pivot_root(2) cannot work; the mount namespace still keeps the host's mounts, below",
                shell: "mount --move . / && chroot . && cd /")
        default: return StepWording(title: "", reason: "", shell: "")
        }
    }

    private var processWording: StepWording {
        func say(_ title: String, _ reason: String, _ shell: String) -> StepWording {
            StepWording(title: title, reason: reason, shell: shell)
        }
        switch self {
        case .hostname(let name):
            return say(
                "set the host name \(name)", "the UTS namespace has its own", "hostname \(shellQuoted(name))")
        case .domainname(let name):
            return say(
                "set the domain name \(name)", "the UTS namespace has its own",
                "domainname \(shellQuoted(name))")
        case .loopbackUp:
            return say(
                "bring the loopback interface up", "a new network namespace has only lo, and it is down",
                "ip link set lo up")
        case .resourceLimit(let name, _, let soft, let hard):
            return say(
                "limit \(name) to \(soft)", "--ulimit was asked for",
                "prlimit --pid $$ --\(name)=\(soft):\(hard)")
        case .session(let hasTerminal):
            return say(
                hasTerminal ? "begin a session on the terminal" : "begin a session",
                "signals of the caller's terminal reach the command through imgbox only",
                "setsid \(hasTerminal ? "--ctty " : "")...")
        case .workingDirectory(let path):
            return say(
                "go to \(path)", "and see that it lies inside the root (CVE-2024-21626)",
                "cd \(shellQuoted(path))")
        case .dieWithParent:
            return say(
                "die with the parent",
                "no daemon watches: a killed imgbox must leave no container behind (a change of user clears it: hence here)",
                "setpriv --pdeathsig KILL ...")
        case .seccomp(let name, let filter):
            return say(
                "load the seccomp filter \(name), \(filter.count / 8) instructions",
                "system calls that no ordinary program needs are the widest way into the kernel",
                "# seccomp(SECCOMP_SET_MODE_FILTER); see the profile with: imgbox doctor")
        case .boundingSet(let keep, _):
            return say(
                "drop capabilities from the bounding set", "no program can get them back, set-user-ID or not",
                "capsh --drop=... # keeps 0x\(String(keep, radix: 16))")
        case .noNewPrivileges:
            return say(
                "allow no new privileges", "set-user-ID programs run as the caller",
                "setpriv --no-new-privs ...")
        case .user(let user, _):
            return say(
                "become user \(user.uid), group \(user.gid)", "as the image or --user says",
                "setpriv --reuid \(user.uid) --regid \(user.gid) "
                    + (user.groups.isEmpty
                        ? "--clear-groups"
                        : "--groups " + user.groups.map(String.init).joined(separator: ","))
                    + " ...")
        case .capabilities(let mask):
            return say(
                "keep the capabilities 0x\(String(mask, radix: 16))",
                "root inside needs few of root's powers",
                "setpriv --inh-caps=-all --ambient-caps=-all ...")
        case .initProcess:
            return say(
                "put a small init in front",
                "pid 1 has to reap orphans and pass signals on; most commands do not", "tini -- ...")
        case .waitForParent:
            return say("wait for imgbox", "what outlives a crash has to be written down first", "read -u 3")
        case .closeDescriptors:
            return say(
                "close all descriptors that are not the command's",
                "an open directory of the host would be a way out",
                "exec 3>&- 4>&- ...")
        case .exec(_, let arguments, _):
            return say(
                "run the command", "the process is ready to be the container's first",
                "exec " + arguments.map(shellQuoted).joined(separator: " "))
        default: return say("", "", "")
        }
    }
}

extension LaunchPlan.DeviceNode {
    var command: String {
        let path = "dev/\(name)"
        return "mknod -m \(String(mode, radix: 8)) \(path) \(isBlock ? "b" : "c") \(major) \(minor)"
            + (uid == 0 && gid == 0 ? "" : " && chown \(uid):\(gid) \(path)")
    }
}

extension LaunchPlan.MountFlags {
    /// In the words of mount(8).
    package var words: [String] {
        let all: [(LaunchPlan.MountFlags, String)] = [
            (.readOnly, "ro"), (.noSetID, "nosuid"), (.noDevices, "nodev"), (.noExec, "noexec"),
            (.strictAccessTime, "strictatime"),
        ]
        return all.filter { contains($0.0) }.map(\.1)
    }
}

/// A word as a shell would need it.
package func shellQuoted(_ word: String) -> String {
    let plain = word.utf8.allSatisfy {
        (0x30...0x39).contains($0) || (0x41...0x5a).contains($0) || (0x61...0x7a).contains($0)
            || "/._-=:,+@%".utf8.contains($0)
    }
    return plain && !word.isEmpty ? word : "'" + printable(word).replacing("'", with: "'\\''") + "'"
}
