#define _GNU_SOURCE
#include "CKernel.h"
#include <errno.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <linux/fs.h>
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
