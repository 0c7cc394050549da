import Kernel
package import OCI

extension ContainerSpec {
    /// What every container has: its own view of everything, and no way to the host's knobs.
    package static func standard(shmSize: Int64 = 64 << 20) -> ContainerSpec {
        var spec = ContainerSpec()
        spec.namespaces = ["mount", "uts", "ipc", "pid", "network", "cgroup", "time"].map { Namespace($0) }
        spec.mounts = [
            Mount("/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"]),
            Mount(
                "/dev", type: "tmpfs", source: "tmpfs",
                options: ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]),
            Mount(
                "/dev/pts", type: "devpts", source: "devpts",
                options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            Mount(
                "/dev/shm", type: "tmpfs", source: "shm",
                options: ["nosuid", "noexec", "nodev", "mode=1777", "size=\(shmSize)"]),
            Mount("/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"]),
            Mount("/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"]),
        ]
        spec.process.capabilities = Capability.containerDefault.map(\.description)
        spec.maskedPaths = standardMasks
        spec.readonlyPaths = standardReadOnly
        return spec
    }

    /// moby's list of what tells about the host's kernel or reaches its firmware.
    private static let standardMasks = [
        "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
        "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ]

    private static let standardReadOnly = [
        "/proc/bus", "/proc/fs", "/proc/irq", "/proc/pressure", "/proc/sys", "/proc/sysrq-trigger",
    ]

    /// The search path where neither the image nor the user gives one.
    package static let standardPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}
