package import Kernel

extension SeccompProfile {
    /// Changes with each change of the lists below: compiled filters are kept under it.
    package static let standardVersion = 1

    /// moby's policy: what ordinary programs use, and with a capability the calls that it is for.
    package static func standard(_ capabilities: Set<Capability>) -> SeccompProfile {
        var rules = [Rule(ordinary, .allow)]
        // 38 is AF_ALG, with a history of holes; 40 is AF_VSOCK, which leads past every network namespace.
        rules.append(Rule(["socket"], .allow, [Condition(0, .less, 38)]))
        rules.append(Rule(["socket"], .allow, [Condition(0, .equal, 39)]))
        rules.append(Rule(["socket"], .allow, [Condition(0, .greater, 40)]))
        // Linux, Linux with 32-bit uname, both without randomised addresses, and the question (personality(2)).
        for value: UInt64 in [0, 8, 0x20000, 0x20008, 0xffff_ffff] {
            rules.append(Rule(["personality"], .allow, [Condition(0, .equal, value)]))
        }
        func has(_ name: String) -> Bool { Capability(name: name).map(capabilities.contains) ?? false }
        for (name, calls) in byCapability where has(name) { rules.append(Rule(calls, .allow)) }
        if !has("SYS_ADMIN") {
            // No CLONE_NEW* flag. clone3 hides its flags in memory, where no filter can look: "there is no such call" makes
            // the C library use clone.
            rules.append(Rule(["clone"], .allow, [Condition(0, .masked, 0x7e02_0000, 0)]))
            rules.append(Rule(["clone3"], .errno(38)))
        }
        return SeccompProfile(defaultAction: .errno(1), rules: rules)
    }

    /// What a capability opens.
    private static let byCapability: [(String, [String])] = [
        (
            "SYS_ADMIN",
            words(
                """
                bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount
                open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
                """)
        ),
        ("DAC_READ_SEARCH", ["open_by_handle_at"]), ("SYS_BOOT", ["reboot"]), ("SYS_CHROOT", ["chroot"]),
        ("SYS_MODULE", ["delete_module", "finit_module", "init_module"]), ("SYS_PACCT", ["acct"]),
        ("SYS_PTRACE", ["kcmp", "pidfd_getfd", "process_madvise"]), ("SYS_RAWIO", ["ioperm", "iopl"]),
        ("SYS_TIME", ["clock_settime", "clock_settime64", "settimeofday", "stime"]),
        ("SYS_TTY_CONFIG", ["vhangup"]),
        ("SYS_NICE", ["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
        ("SYSLOG", ["syslog"]), ("BPF", ["bpf"]), ("PERFMON", ["perf_event_open"]),
    ]

    private static func words(_ text: String) -> [String] {
        text.split(whereSeparator: \.isWhitespace).map(String.init)
    }

    /// By subject. A name that an architecture does not have is left out there.
    private static let ordinary = words(
        // Files and directories.
        """
        access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
        fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync flock fstat
        fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 ioctl lchown
        lchown32 link linkat _llseek lseek lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat
        openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename renameat
        renameat2 rmdir sendfile sendfile64 splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range
        syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev
        cachestat listmount statmount
        """
            // Extended attributes.
            + """
             fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr lsetxattr
            removexattr setxattr getxattrat listxattrat removexattrat setxattrat
            """
                // Waiting for events.
                + """
                 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
                eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch _newselect pipe pipe2 poll ppoll
                ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 io_cancel io_destroy io_getevents io_pgetevents
                io_pgetevents_time64 io_setup io_submit
                """
                // Memory.
                + """
                 brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect
                mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages
                """
                // Processes, threads and signals.
                + """
                 alarm arch_prctl arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush capget capset execve execveat exit
                exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake getcpu getpgid getpgrp getpid
                getppid getpriority getrandom getrlimit get_robust_list getrusage getsid get_thread_area gettid ioprio_get ioprio_set
                kill landlock_add_rule landlock_create_ruleset landlock_restrict_self modify_ldt nanosleep pause pidfd_open
                pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace restart_syscall riscv_flush_icache
                riscv_hwprobe rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
                rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam
                sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
                sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp setitimer getitimer setpgid
                setpriority setrlimit set_robust_list setsid set_thread_area set_tid_address set_tls sigaltstack sigprocmask sigreturn
                sync_file_range2 tgkill tkill ugetrlimit vfork wait4 waitid waitpid lsm_get_self_attr lsm_list_modules
                lsm_set_self_attr
                """
                // Who one is.
                + """
                 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 getresuid
                getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid
                setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32 sysinfo uname
                """
                // Time.
                + """
                 adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
                clock_nanosleep clock_nanosleep_time64 gettimeofday time timer_create timer_delete timer_getoverrun timer_gettime
                timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
                timerfd_settime64 times
                """
                // Sockets, and what processes say to each other.
                + """
                 accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg
                send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair ipc mq_getsetattr mq_notify mq_open
                mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl
                semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget
                """)

    /// Calls that are younger than the library may be. From 424 on a call has one number everywhere.
    static let young: [String: Int32] = [
        "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454, "futex_wait": 455,
        "futex_requeue": 456, "statmount": 457, "listmount": 458, "lsm_get_self_attr": 459,
        "lsm_set_self_attr": 460, "lsm_list_modules": 461, "mseal": 462, "setxattrat": 463, "getxattrat": 464,
        "listxattrat": 465, "removexattrat": 466,
    ]
}
