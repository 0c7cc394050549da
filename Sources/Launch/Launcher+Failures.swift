import CLaunch
import Files
import Glibc
import SystemPackage

/// Failures in words: which step, which object, which errno, and what to do about it.
extension Launcher {
    static func describeClone(_ code: Errno, _ plan: LaunchPlan) -> LaunchError {
        let names = plan.namespaces.map(\.rawValue).joined(separator: ", ")
        let hint: String? =
            switch code {
            case .notPermitted: userNamespaceHint
            case .init(rawValue: EUSERS): "namespaces are nested too deep: 32 levels are the kernel's limit"
            case .noSpace: "too many namespaces: raise user.max_*_namespaces with sysctl"
            default: nil
            }
        return LaunchError(
            "cannot make the namespaces \(names): clone3: \(code.description)", hint: hint, errno: code)
    }

    static func describe(_ report: cl_report, _ plan: LaunchPlan, _ clock: LaunchClock) -> LaunchError {
        describe(report, plan).at(Int(report.step), clock.times(plan))
    }

    static func describe(_ report: cl_report, _ plan: LaunchPlan) -> LaunchError {
        let code = Errno(rawValue: report.error)
        guard Int(report.step) < plan.steps.count else {
            return LaunchError("the launch failed: \(code.description)", errno: code)
        }
        let step = plan.steps[Int(report.step)]
        if case .exec(_, let arguments, _) = step { return describeExec(arguments.first ?? "", code, step) }
        return LaunchError(
            "cannot \(step.wording.title): \(code.description)", hint: hint(step, code), errno: code,
            step: step)
    }

    private static func describeExec(_ command: String, _ code: Errno, _ step: LaunchPlan.Step) -> LaunchError
    {
        let name = printable(command)
        switch code {
        case .noSuchFileOrDirectory, .notDirectory:
            let hint =
                command.contains("/")
                ? "there is no such file in the image, or the interpreter or loader that it asks for is missing"
                : "it is in no directory of PATH in the image; see what is there with: imgbox ls IMAGE /bin"
            return LaunchError(
                "cannot run '\(name)': not found in the image", hint: hint, errno: code, step: step)
        case .permissionDenied:
            return LaunchError(
                "cannot run '\(name)': permission denied",
                hint: "it is a directory, or has no x bit for this user",
                errno: code, step: step)
        case .init(rawValue: ENOEXEC):
            return LaunchError(
                "cannot run '\(name)': no program of this machine's kind",
                hint: "a script needs '#!' in its first line; an image may be made for another architecture",
                errno: code,
                step: step)
        default: return LaunchError("cannot run '\(name)': \(code.description)", errno: code, step: step)
        }
    }

    private static func hint(_ step: LaunchPlan.Step, _ code: Errno) -> String? {
        switch (step, code) {
        case (.mount, .tooManySymbolicLinkLevels):
            "the image has a link in that place; a link there could lead out of the container"
        case (.resourceLimit, .notPermitted):
            "raising a hard limit takes CAP_SYS_RESOURCE, which this process does not have"
        case (.switchRoot(.pivot), .invalidArgument): "try --root-switch chroot"
        case (.mount(let type, _, _, _), .notPermitted) where type == "proc" || type == "sysfs":
            "in a user namespace \(type) can only be mounted where the host's own is wholly visible (no mounts over parts of it)"
        case (.newNamespaces, .notPermitted): userNamespaceHint
        case (.newNamespaces, .noSpace): "too many namespaces: raise user.max_*_namespaces with sysctl"
        case (.joinCgroups, .noSpace): "its cpuset has no processors or no memory nodes"
        case (.keyring, .diskQuotaExceeded): "raise kernel.keys.maxkeys with sysctl"
        case (.user, .invalidArgument):
            "the user or group is outside the ids of the container: see --userns and --uidmap"
        case (.joinNamespaces, .notPermitted):
            "the namespaces belong to another user namespace: give --userns container:ID as well"
        case (.seccomp, .invalidArgument):
            "the kernel does not take the filter: is CONFIG_SECCOMP_FILTER set?"
        case (.overlayRoot, .invalidArgument):
            "the store lies on a file system that overlayfs cannot use; choose another with --root"
        case (.sysctl, .noSuchFileOrDirectory): "this kernel has no such setting"
        case (_, .notPermitted): "this takes root"
        default: nil
        }
    }

    /// Which of the three switches of a host it is that keeps users from namespaces.
    package static var userNamespaceHint: String {
        func number(_ path: String) -> Int? {
            (try? readFile(path, limit: 64)).flatMap {
                Int(String(decoding: $0, as: UTF8.self).split(whereSeparator: \.isWhitespace).first ?? "")
            }
        }
        if number("/proc/sys/kernel/unprivileged_userns_clone") == 0 {
            return "user namespaces are switched off for users: sysctl kernel.unprivileged_userns_clone=1"
        }
        if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == 1 {
            return
                "AppArmor keeps users from namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        }
        if number("/proc/sys/user/max_user_namespaces") == 0 {
            return "user namespaces are switched off: sysctl user.max_user_namespaces=10000"
        }
        return "a seccomp filter or the kernel's configuration keeps this process from making namespaces"
    }
}
