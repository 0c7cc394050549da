// The child's side of a launch: a flat program of operations that a small interpreter runs between clone3(2) and
// execve(2). It uses raw system calls only: no allocation, no locks, no errno, no Swift, so that it is safe
// whatever threads the parent has at the moment of the clone.
#pragma once
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>

enum cl_kind {
    /// args[0..5] of system call `number`.
    CL_SYSCALL = 0,
    /// Says on the report pipe that it is here when args[1] is not 0, then waits for one byte from descriptor
    /// args[0]; the end of the file means that the parent is gone.
    CL_WAIT = 1,
    /// Opens the directory args[1] below args[0] (O_PATH), links kept inside the root; makes what is missing of it with
    /// mode args[2] when that is not 0. args[3]: RESOLVE_* rules in place of RESOLVE_IN_ROOT.
    CL_DIRECTORY = 2,
    /// The same for a file: an empty one is made where there is none.
    CL_FILE = 3,
    /// Fails with ENODEV unless descriptor args[0] is a character device with the numbers args[1]:args[2].
    CL_CHECK_DEVICE = 4,
    /// Sends descriptor args[1] over the socket args[0].
    CL_SEND_DESCRIPTOR = 5,
    /// mount(2) with /proc/self/fd paths: source descriptor args[0] (or string args[5]), target descriptor args[1],
    /// type args[2], flags args[3], data args[4].
    CL_MOUNT_AT = 6,
    /// Fails with ENOENT unless the working directory is below the root (CVE-2024-21626).
    CL_CHECK_DIRECTORY = 7,
    /// Forks: the child goes on, this process stays as pid 1, passes signals on and reaps. args[0] and args[1]: where its
    /// command line lies and how long it is; it becomes "init".
    CL_INIT = 8,
    /// execve(2) of the first of the paths args[0] that can be run, with args[1] and args[2]. Does not return.
    CL_EXEC = 9,
    /// Opens args[1] below args[0] for writing, no link followed, no mount crossed, and writes the string args[2]. Both it
    /// and CL_WRITE_PROC fail with EXDEV unless the file lies on a proc (CVE-2025-52881).
    CL_WRITE_FILE = 10,
    /// The same for the absolute path args[0] and the string args[1].
    CL_WRITE_PROC = 11,
    /// Goes on in a new process, a sister of this one, which ends: clone3(2) with the flags args[0], in the v2 cgroup
    /// args[1] or where it is when that is negative. Tells the new pid on the report pipe.
    CL_FORK = 12,
    /// Opens the namespace file args[0] and enters it with setns(2) under the flag args[1].
    CL_ENTER = 13,
    /// Makes a symbolic link args[1] to what descriptor args[0] has open.
    CL_LINK_DESCRIPTOR = 14,
    /// Ends the process with success.
    CL_END = 15,
    /// Opens the path args[0] for writing and writes the string args[1], for a file of the host's.
    CL_WRITE_PATH = 17,
    /// Waits until it is killed; for tests.
    CL_PAUSE = 16,
};

enum { CL_REGISTERS = 192 };

struct cl_op {
    uint16_t kind;
    /// The step of the plan that this operation belongs to.
    uint16_t step;
    /// Where the result goes; -1: nowhere.
    int16_t result;
    /// How many of the following operations are left out when this one fails with a tolerated error.
    int16_t skip;
    /// Errors that are no failure; 0: none; -1: any.
    int32_t tolerated[3];
    /// Bit n: args[n] is the number of a register.
    uint32_t registers;
    int64_t number;
    int64_t args[6];
};

struct cl_program {
    const struct cl_op *ops;
    uint32_t count;
    /// Nanoseconds of CLOCK_MONOTONIC at the end of each step, in memory shared with the parent; or NULL.
    int64_t *stamps;
    /// Where a failure is reported; close-on-exec.
    int report;
    uint64_t clone_flags;
    /// A directory of a v2 cgroup to start in, or -1.
    int cgroup;
};

/// What the child says: the operation that failed, its step and errno; errno 0: it waits, or, with a pid, goes on as that
/// process.
struct cl_report {
    uint32_t op;
    uint32_t step;
    int32_t error;
    int32_t pid;
};

/// Starts the child. Its pid, and a pidfd in `*pidfd`; or -errno.
int64_t cl_launch(const struct cl_program *program, int *pidfd);

// System call numbers as Swift can read them.
enum {
    CL_SYS_mount = SYS_mount,
    CL_SYS_umount2 = SYS_umount2,
    CL_SYS_pivot_root = SYS_pivot_root,
    CL_SYS_chroot = SYS_chroot,
    CL_SYS_chdir = SYS_chdir,
    CL_SYS_fchdir = SYS_fchdir,
    CL_SYS_mkdirat = SYS_mkdirat,
    CL_SYS_mknodat = SYS_mknodat,
    CL_SYS_symlinkat = SYS_symlinkat,
    CL_SYS_openat = SYS_openat,
    CL_SYS_close = SYS_close,
    CL_SYS_ioctl = SYS_ioctl,
    CL_SYS_setsid = SYS_setsid,
    CL_SYS_dup3 = SYS_dup3,
    CL_SYS_sethostname = SYS_sethostname,
    CL_SYS_setdomainname = SYS_setdomainname,
    CL_SYS_socket = SYS_socket,
    CL_SYS_prlimit64 = SYS_prlimit64,
    CL_SYS_prctl = SYS_prctl,
    CL_SYS_capset = SYS_capset,
    CL_SYS_setgroups = SYS_setgroups,
    CL_SYS_setresgid = SYS_setresgid,
    CL_SYS_setresuid = SYS_setresuid,
    CL_SYS_umask = SYS_umask,
    CL_SYS_close_range = SYS_close_range,
    CL_SYS_fsopen = SYS_fsopen,
    CL_SYS_fsconfig = SYS_fsconfig,
    CL_SYS_fsmount = SYS_fsmount,
    CL_SYS_open_tree = SYS_open_tree,
    CL_SYS_move_mount = SYS_move_mount,
    CL_SYS_mount_setattr = SYS_mount_setattr,
    CL_SYS_rt_sigaction = SYS_rt_sigaction,
    CL_SYS_fchown = SYS_fchown,
    CL_SYS_fchownat = SYS_fchownat,
    CL_SYS_keyctl = SYS_keyctl,
    CL_SYS_unshare = SYS_unshare,
    CL_SYS_setns = SYS_setns,
    CL_SYS_seccomp = SYS_seccomp,
};
