import Cgroups
import Kernel
import OCI

/// What the steps of imgbox itself say, and those by which the child enters its namespaces.
extension LaunchPlan.Step {
    var limitWording: StepWording {
        switch self {
        case .makeCgroups(let directories):
            let paths = directories.map(\.absolute)
            return StepWording(
                title: "make the container's cgroups: "
                    + directories.map { $0.version == 2 ? "v2" : $0.controllers.joined(separator: ",") }
                    .joined(separator: " "),
                reason:
                    "the kernel counts and limits by group; one directory in each hierarchy that has a say",
                shell: "mkdir -p " + paths.map(shellQuoted).joined(separator: " "))
        case .limit(let limit):
            let choice = limit.choices.first
            return StepWording(
                title: "limit: \(choice?.file ?? limit.controller) = \(choice?.value ?? limit.wanted)",
                reason: limit.flag.isEmpty
                    ? "out of memory, the container ends as a whole"
                    : "\(limit.flag) was asked for or is the default; the value is read back",
                shell: "echo \(shellQuoted(choice?.value ?? "")) > \(limit.directory)/\(choice?.file ?? "")")
        case .deviceList(let limits):
            return StepWording(
                title: "allow \(max(0, limits.count - 1)) kinds of devices and no others",
                reason: "a device node inside must not open the host's disks (GHSA-g54h-m393-cpwq)",
                shell: limits.compactMap { limit in
                    limit.choices.first.map {
                        "echo \(shellQuoted($0.value)) > \(limit.directory)/\($0.file)"
                    }
                }.joined(separator: "; "))
        case .deviceFilter(let directory, let rules):
            return StepWording(
                title: "allow \(max(0, rules.count - 1)) kinds of devices and no others",
                reason:
                    "cgroup v2 has no list of devices: a small BPF program is asked at each open and mknod",
                shell: "bpftool cgroup attach \(directory) device pinned PROGRAM multi")
        case .joinCgroups(let directories):
            return StepWording(
                title: "go into \(directories.count) cgroups of v1",
                reason:
                    "before anything is done that counts; a process that moves itself needs no global lock",
                shell: directories.map { "echo 0 > \($0)/tasks" }.joined(separator: "; "))
        case .oomScore(let score):
            return StepWording(
                title: "set oom_score_adj to \(score)", reason: "--oom-score-adj was asked for",
                shell: "choom -p $PID -n \(score)")
        default: return StepWording(title: "", reason: "", shell: "")
        }
    }

    var parentWording: StepWording {
        switch self {
        case .makeDisk(let disk):
            return StepWording(
                title: "make a disk of \(disk.size >> 20) MiB in a sparse file",
                reason: "--disk-size: what is written can fill that file system, and no other",
                shell:
                    "truncate -s \(disk.size) \(shellQuoted(disk.file)) && mke2fs -t ext4 -m 0 -O ^has_journal "
                    + "\(shellQuoted(disk.file)) && mount -o loop,discard \(shellQuoted(disk.file)) ...")
        case .projectQuota(let plan):
            let project = "\(plan.project)"
            return StepWording(
                title: "limit the writable layer to \(plan.size >> 20) MiB by a project quota",
                reason:
                    "--disk-size: the store's file system keeps quotas, so no file system in a file is needed",
                shell: plan.directories.map { "chattr -p \(project) +P \(shellQuoted($0))" }.joined(
                    separator: "; ")
                    + "; setquota -P \(project) 0 \(plan.size / 1024) 0 0 MOUNTPOINT")
        case .openSources(let sources):
            return StepWording(
                title: "take hold of \(sources.count) files or directories of the host",
                reason: "their paths are valid here and resolved once; the mounts are attached inside later",
                shell: sources.map {
                    "mount \($0.isRecursive ? "--rbind" : "--bind") \(shellQuoted($0.path)) ..."
                }
                .joined(separator: "; "))
        case .giveAway(let path, let uid, let gid):
            return StepWording(
                title: "give \(path) and all in it to \(uid):\(gid)",
                reason:
                    "-v ...:U was asked for: the container's user owns it from now on, on the host as well",
                shell: "chown -R -h \(uid):\(gid) \(shellQuoted(path))")
        case .deviceDirectory(let nodes, _):
            return StepWording(
                title: "make a /dev with " + nodes.map(\.name).joined(separator: ", "),
                reason:
                    "inside the user namespace no device node can be made, nor opened on a file system of its own",
                shell: "mount -t tmpfs tmpfs dev && " + nodes.map(\.command).joined(separator: "; "))
        case .openOverlay:
            return StepWording(
                title: "begin an overlay file system",
                reason: "the child inherits it unfinished; it is finished when the child's ids are known",
                shell: "# fsopen(\"overlay\")")
        case .mapIDs(let maps):
            func line(_ map: [IDExtent]) -> String { map.map(\.line).joined(separator: "\\n") }
            let root = maps.uid.outside(0)
            return StepWording(
                title: "map ids: root inside is "
                    + (root.map { "\($0) outside" } ?? "nobody outside"),
                reason: "until then every id shows as 65534; what root inside may do ends with these ids",
                shell: "printf '\(line(maps.uid))\\n' > /proc/$PID/uid_map; "
                    + "printf '\(line(maps.gid))\\n' > /proc/$PID/gid_map")
        case .shareLayers(let layers, let upper, let work, let mapped):
            let lower = layers.reversed().joined(separator: ":")
            let mount = "mount -t overlay overlay -o lowerdir=\(lower),upperdir=\(upper),workdir=\(work)"
            guard mapped else {
                return StepWording(
                    title: "mount the image's \(layers.count) layers as one tree",
                    reason:
                        "imgbox's own user namespace owns the store; the container's may not reach into it",
                    shell: mount + ",userxattr ...")
            }
            return StepWording(
                title: "mount the image's \(layers.count) layers with their owners mapped",
                reason:
                    "the layers stay root's on disk, once for all containers; an idmapped mount shows them with "
                    + "this container's ids",
                shell: layers.map { "mount --bind -o X-mount.idmap=/proc/$PID/ns/user \($0) \($0)" }.joined(
                    separator: "; ") + "; \(mount) ...")
        case .mapSources:
            return StepWording(
                title: "map the owners of the bound files",
                reason: "the user 1000 on disk is to be the user 1000 inside",
                shell: "mount --bind -o X-mount.idmap=/proc/$PID/ns/user SOURCE TARGET")
        default: return StepWording(title: "", reason: "", shell: "")
        }
    }

    var entryWording: StepWording {
        switch self {
        case .joinNamespaces(let joins):
            return StepWording(
                title: "join the namespaces " + joins.map(\.namespace.rawValue).joined(separator: ", "),
                reason: "they belong to another container, or were named by a file",
                shell: "nsenter "
                    + joins.map {
                        "--\($0.namespace == .network ? "net" : $0.namespace.rawValue)=\(shellQuoted($0.path))"
                    }
                    .joined(separator: " "))
        case .fork(let namespaces):
            return StepWording(
                title: "go on as a new process"
                    + (namespaces.isEmpty
                        ? "" : " in new namespaces: " + namespaces.map(\.rawValue).joined(separator: ", ")),
                reason: "the joined PID namespace takes in only processes that are born in it",
                shell: "unshare --fork ...")
        case .newNamespaces(let namespaces):
            let flags = namespaces.map { $0 == .network ? "--net" : "--\($0.rawValue)" }
            return StepWording(
                title: "make the namespaces " + namespaces.map(\.rawValue).joined(separator: ", "),
                reason:
                    "each is the container's own view of one kind of kernel object; made here, while imgbox does its part",
                shell: "unshare " + flags.joined(separator: " "))
        case .awaitParent:
            return StepWording(
                title: "wait for imgbox to do its part", reason: "ids, groups and layers come from outside",
                shell: "read -u 3")
        case .becomeRoot:
            return StepWording(
                title: "become root of the user namespace",
                reason:
                    "what is made from here on belongs to the container's root; the caller's groups are dropped",
                shell: "setpriv --reuid 0 --regid 0 --clear-groups ...")
        case .cgroupNamespace:
            return StepWording(
                title: "take the own cgroups for the top of the tree",
                reason:
                    "now that the process is in its groups: /proc/self/cgroup shows / and nothing of the host's names",
                shell: "unshare --cgroup")
        case .timeOffsets(let offsets):
            let words = offsets.map { "\($0.clock) by \($0.seconds) s" }.joined(separator: ", ")
            return StepWording(
                title: "move the clocks: \(words)", reason: "--time-offset was asked for",
                shell: "unshare --time "
                    + offsets.map { "--\($0.clock) \($0.seconds)" }.joined(separator: " "))
        case .keyring:
            return StepWording(
                title: "join a new session keyring",
                reason: "keys of the caller's session are not the container's",
                shell: "keyctl session imgbox ...")
        default: return StepWording(title: "", reason: "", shell: "")
        }
    }
}
