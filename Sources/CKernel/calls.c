#define _GNU_SOURCE
#include "CKernel.h"
#include <errno.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <linux/bpf.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/quota.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

int ck_openat2(int directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
    struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};
    int fd;
    // EAGAIN: a rename or mount raced with ".." below RESOLVE_IN_ROOT or RESOLVE_BENEATH (openat2(2)).
    for (int attempt = 0; attempt < 64; attempt++) {
        fd = (int)syscall(SYS_openat2, directory, path, &how, sizeof how);
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) break;
    }
    return fd;
}

int ck_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }
int ck_openat(int directory, const char *path, int flags, mode_t mode) { return openat(directory, path, flags, mode); }
int ck_fcntl_int(int fd, int command, int argument) { return fcntl(fd, command, argument); }

int ck_lock_range(int fd, short type, int64_t start, int64_t length, int wait) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    int result;
    do result = fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock);
    while (result < 0 && errno == EINTR);
    return result;
}

unsigned ck_major(dev_t device) { return major(device); }
unsigned ck_minor(dev_t device) { return minor(device); }
dev_t ck_makedev(unsigned high, unsigned low) { return makedev(high, low); }

int ck_renameat2(int source, const char *from, int target, const char *to, unsigned flags) {
    return renameat2(source, from, target, to, flags);
}

int ck_clone_file(int target, int source) { return ioctl(target, FICLONE, source); }

int ck_terminal_columns(int fd) {
    struct winsize size;
    return ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

int64_t ck_filesystem_type(int fd) {
    struct statfs info;
    return fstatfs(fd, &info) == 0 ? (int64_t)info.f_type : -1;
}

_Static_assert(CK_O_PATH == O_PATH, "O_PATH has another value on this architecture");

int ck_reserve(int fd, int64_t size) { return fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size); }

int64_t ck_copy_range(int source, int target, uint64_t count) {
    return copy_file_range(source, NULL, target, NULL, count, 0);
}

int ck_sync_filesystem(int fd) { return syncfs(fd); }

int ck_catch_signals(sigset_t *before) {
    sigset_t all;
    sigfillset(&all);
    // A fault of this program must end it, not wait in a queue.
    int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP};
    for (unsigned i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&all, faults[i]);
    if (sigprocmask(SIG_BLOCK, &all, before) != 0) return -1;
    return signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
}

int ck_read_signal(int fd) {
    struct signalfd_siginfo info;
    return read(fd, &info, sizeof info) == sizeof info ? (int)info.ssi_signo : 0;
}

int ck_wait_status(int pid) {
    int status;
    pid_t result;
    do result = waitpid(pid, &status, 0);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -1 : status;
}

int ck_signal_process(int pidfd, int number) {
    return (int)syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0);
}

int ck_receive_descriptor(int socket) {
    char byte;
    struct iovec piece = {.iov_base = &byte, .iov_len = 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t count;
    do count = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (count < 0 && errno == EINTR);
    if (count < 0) return -1;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (count == 0 || !header || header->cmsg_type != SCM_RIGHTS) {
        errno = EPIPE;
        return -1;
    }
    int fd;
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
}

void ck_copy_window_size(int from, int to) {
    struct winsize size;
    if (ioctl(from, TIOCGWINSZ, &size) == 0) ioctl(to, TIOCSWINSZ, &size);
}

int ck_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC); }

long ck_syscall(long number, long a, long b, long c, long d, long e, long f) {
    return syscall(number, a, b, c, d, e, f);
}

int ck_load_device_filter(const uint64_t *instructions, uint32_t count) {
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.insns = (uint64_t)(uintptr_t)instructions;
    attr.insn_cnt = count;
    attr.license = (uint64_t)(uintptr_t) "Apache-2.0";
    return (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
}

int ck_attach_device_filter(int group, int filter) {
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.target_fd = (uint32_t)group;
    attr.attach_bpf_fd = (uint32_t)filter;
    attr.attach_type = BPF_CGROUP_DEVICE;
    attr.attach_flags = BPF_F_ALLOW_MULTI;
    return (int)syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr);
}

int ck_user_namespace_holder(void) {
    pid_t parent = getpid();
    struct clone_args args = {.flags = CLONE_NEWUSER | CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid != 0) return (int)pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    // The parent may have gone before the wish was heard.
    if (getppid() != parent) _exit(0);
    for (;;) pause();
}

// Runs one of the two helpers for the process `pid`; 0 when it was content.
static int run_helper(const char *const *words, pid_t pid) {
    char number[16];
    const char *line[2048];
    unsigned count = 0;
    snprintf(number, sizeof number, "%d", (int)pid);
    for (; words[count] && count < sizeof line / sizeof *line - 1; count++) line[count] = *words[count] ? words[count] : number;
    line[count] = NULL;
    pid_t child = fork();
    if (child == 0) {
        execv(line[0], (char *const *)line);
        _exit(127);
    }
    int status;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static int write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t count = write(fd, text, strlen(text));
    int error = errno;
    close(fd);
    errno = error;
    return count < 0 ? -1 : 0;
}

static int write_own_maps(uid_t uid, gid_t gid, int *failed) {
    char line[64];
    *failed = 1;
    snprintf(line, sizeof line, "0 %u 1", (unsigned)uid);
    if (write_file("/proc/self/uid_map", line) != 0) return -1;
    *failed = 2;
    // user_namespaces(7): a user without privileges must first give setgroups(2) up.
    if (write_file("/proc/self/setgroups", "deny") != 0 && errno != ENOENT) return -1;
    snprintf(line, sizeof line, "0 %u 1", (unsigned)gid);
    return write_file("/proc/self/gid_map", line);
}

int ck_enter_user_namespace(const char *const *uid_helper, const char *const *gid_helper, int flags, int *failed) {
    uid_t uid = geteuid();
    gid_t gid = getegid();
    *failed = 0;
    if (!uid_helper) {
        if (unshare(CLONE_NEWUSER | flags) != 0) return -1;
        return write_own_maps(uid, gid, failed);
    }
    // The helpers have to run outside, for a process that is inside: one that was forked before runs them.
    int go[2];
    if (pipe2(go, O_CLOEXEC) != 0) return -1;
    pid_t self = getpid(), outside = fork();
    if (outside == 0) {
        char byte;
        close(go[1]);
        if (read(go[0], &byte, 1) != 1) _exit(3);
        if (run_helper(uid_helper, self) != 0) _exit(1);
        _exit(run_helper(gid_helper, self) != 0 ? 2 : 0);
    }
    close(go[0]);
    int result = outside < 0 ? -1 : unshare(CLONE_NEWUSER | flags), error = errno, status = 0;
    if (result == 0 && write(go[1], "g", 1) != 1) result = -1;
    close(go[1]);
    if (outside > 0)
        while (waitpid(outside, &status, 0) < 0 && errno == EINTR) {}
    if (result == 0 && status != 0) {
        *failed = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        error = EPERM;
        result = -1;
    }
    errno = error;
    return result;
}

int ck_free_loop(int control) { return ioctl(control, LOOP_CTL_GET_FREE); }

int ck_configure_loop(int device, int file) {
    struct loop_config config;
    memset(&config, 0, sizeof config);
    config.fd = (uint32_t)file;
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    int result = ioctl(device, LOOP_CONFIGURE, &config);
    if (result == 0 || errno != EINVAL) return result;
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    return ioctl(device, LOOP_CONFIGURE, &config);
}

int ck_run(const char *const *words) {
    pid_t child = vfork();
    if (child == 0) {
        execv(words[0], (char *const *)words);
        _exit(127);
    }
    return child < 0 ? -1 : ck_wait_status(child);
}

int ck_unshare(int flags) { return unshare(flags); }

int ck_has_project_quota(int directory) {
    struct if_dqblk block;
    return syscall(SYS_quotactl_fd, directory, QCMD(Q_GETQUOTA, PRJQUOTA), 0, &block) == 0;
}

int ck_set_project(int directory, uint32_t project) {
    struct fsxattr attributes;
    if (ioctl(directory, FS_IOC_FSGETXATTR, &attributes) != 0) return -1;
    attributes.fsx_xflags |= FS_XFLAG_PROJINHERIT;
    attributes.fsx_projid = project;
    return ioctl(directory, FS_IOC_FSSETXATTR, &attributes);
}

int ck_limit_project(int directory, uint32_t project, uint64_t bytes) {
    struct if_dqblk block;
    memset(&block, 0, sizeof block);
    // In blocks of 1024 bytes (QIF_DQBLKSIZE).
    block.dqb_bhardlimit = block.dqb_bsoftlimit = bytes / 1024;
    block.dqb_valid = QIF_BLIMITS;
    return (int)syscall(SYS_quotactl_fd, directory, QCMD(Q_SETQUOTA, PRJQUOTA), project, &block);
}

// Where the linker put the program: its read-only data and its code.
extern char __executable_start, etext;

void ck_prefault(void) {
    uintptr_t start = (uintptr_t)&__executable_start & ~(uintptr_t)4095;
    // MADV_POPULATE_READ (Linux 5.14); an older kernel says EINVAL, and the pages come one by one.
    madvise((void *)start, (uintptr_t)&etext - start, 22);
}
