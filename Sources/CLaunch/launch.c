#define _GNU_SOURCE
#include "CLaunch.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#if defined(__x86_64__)
static inline int64_t raw(int64_t n, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f) {
    int64_t result;
    register int64_t r10 __asm__("r10") = d;
    register int64_t r8 __asm__("r8") = e;
    register int64_t r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static inline int64_t raw(int64_t n, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f) {
    register int64_t x8 __asm__("x8") = n;
    register int64_t x0 __asm__("x0") = a;
    register int64_t x1 __asm__("x1") = b;
    register int64_t x2 __asm__("x2") = c;
    register int64_t x3 __asm__("x3") = d;
    register int64_t x4 __asm__("x4") = e;
    register int64_t x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#error "imgbox runs on x86_64 and arm64"
#endif

#define CALL0(n) raw(n, 0, 0, 0, 0, 0, 0)
#define CALL1(n, a) raw(n, (int64_t)(a), 0, 0, 0, 0, 0)
#define CALL2(n, a, b) raw(n, (int64_t)(a), (int64_t)(b), 0, 0, 0, 0)
#define CALL3(n, a, b, c) raw(n, (int64_t)(a), (int64_t)(b), (int64_t)(c), 0, 0, 0)
#define CALL4(n, a, b, c, d) raw(n, (int64_t)(a), (int64_t)(b), (int64_t)(c), (int64_t)(d), 0, 0)
#define CALL5(n, a, b, c, d, e) raw(n, (int64_t)(a), (int64_t)(b), (int64_t)(c), (int64_t)(d), (int64_t)(e), 0)

static int64_t open_in(int64_t directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
    struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
    int64_t fd;
    // EAGAIN: a rename raced with ".." (openat2(2)).
    for (int attempt = 0; attempt < 64; attempt++) {
        fd = CALL4(SYS_openat2, directory, path, &how, sizeof how);
        if (fd != -EAGAIN && fd != -EINTR) break;
    }
    return fd;
}

enum { PATH_SPACE = 4096 };

// Makes the directories of `path` that are missing, part by part: each part is opened inside the root before the next is
// made in it, so that a link swapped in between leads nowhere else (CVE-2024-45310).
static int64_t make_directories(int64_t root, const char *path, uint64_t mode, uint64_t resolve) {
    char part[PATH_SPACE];
    int64_t parent = open_in(root, ".", O_PATH | O_DIRECTORY, 0, resolve);
    size_t at = 0;
    while (parent >= 0) {
        while (path[at] == '/') at++;
        if (!path[at]) return parent;
        size_t length = 0, end = at;
        while (path[end] && path[end] != '/') end++;
        if (end >= sizeof part) return -ENAMETOOLONG;
        // The whole prefix is opened from the root, so that links in it are resolved there.
        for (length = 0; length < end; length++) part[length] = path[length];
        part[length] = 0;
        int64_t next = open_in(root, part, O_PATH | O_DIRECTORY, 0, resolve);
        if (next == -ENOENT) {
            int64_t made = CALL3(SYS_mkdirat, parent, part + at, mode);
            if (made < 0 && made != -EEXIST) return made;
            next = open_in(root, part, O_PATH | O_DIRECTORY, 0, resolve);
        }
        CALL1(SYS_close, parent);
        parent = next;
        at = end;
    }
    return parent;
}

static int64_t open_directory(int64_t root, const char *path, uint64_t mode, uint64_t resolve) {
    if (!resolve) resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    while (*path == '/') path++;
    if (!*path) path = ".";
    int64_t fd = open_in(root, path, O_PATH | O_DIRECTORY, 0, resolve);
    return fd == -ENOENT && mode ? make_directories(root, path, mode, resolve) : fd;
}

static int64_t make_file(int64_t root, const char *path, uint64_t mode, uint64_t resolve) {
    char parent[PATH_SPACE];
    size_t length = 0, cut = 0;
    for (; path[length] && length < sizeof parent - 1; length++) {
        parent[length] = path[length];
        if (path[length] == '/') cut = length;
    }
    parent[cut] = 0;
    int64_t directory = make_directories(root, parent, 0755, resolve);
    if (directory < 0) return directory;
    CALL1(SYS_close, directory);
    int64_t made = open_in(root, path, O_WRONLY | O_CREAT | O_NOFOLLOW, mode, resolve);
    if (made < 0) return made;
    CALL1(SYS_close, made);
    return open_in(root, path, O_PATH, 0, resolve);
}

// Writes where the link `path` leads into `next`, as a path from the root. -ENOENT or -EINVAL when it is no link.
static int64_t read_link(int64_t root, const char *path, char *next, uint64_t resolve) {
    int64_t link = open_in(root, path, O_PATH | O_NOFOLLOW, 0, resolve);
    if (link < 0) return link;
    char target[PATH_SPACE];
    int64_t length = CALL4(SYS_readlinkat, link, "", target, sizeof target - 1);
    CALL1(SYS_close, link);
    if (length <= 0) return length ? length : -ENOENT;
    size_t at = 0, cut = 0;
    if (target[0] != '/') {
        for (size_t i = 0; path[i]; i++)
            if (path[i] == '/') cut = i + 1;
        for (; at < cut; at++) next[at] = path[at];
    }
    if (at + (size_t)length >= PATH_SPACE) return -ENAMETOOLONG;
    for (int64_t i = 0; i < length; i++) next[at++] = target[i];
    next[at] = 0;
    return 0;
}

// Opens a file, and makes an empty one where there is none. Images may ship a link to a file that only a running system
// makes (/etc/resolv.conf of systemd's): the file is made where the link leads, inside the root.
static int64_t open_file(int64_t root, const char *path, uint64_t mode, uint64_t resolve) {
    if (!resolve) resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    char space[2][PATH_SPACE];
    for (int links = 0; links < 16; links++) {
        while (*path == '/') path++;
        int64_t fd = open_in(root, path, O_PATH, 0, resolve);
        if (fd != -ENOENT || !mode) return fd;
        char *next = space[links & 1];
        if (read_link(root, path, next, resolve) < 0) return make_file(root, path, mode, resolve);
        path = next;
    }
    return -ELOOP;
}

static int64_t check_device(int64_t fd, int64_t high, int64_t low) {
    struct stat info;
    int64_t code = CALL2(SYS_fstat, fd, &info);
    if (code < 0) return code;
    int right = S_ISCHR(info.st_mode) && major(info.st_rdev) == (unsigned)high && minor(info.st_rdev) == (unsigned)low;
    return right ? 0 : -ENODEV;
}

static int64_t send_descriptor(int64_t socket, int64_t fd) {
    char byte = 'f';
    struct iovec piece = {.iov_base = &byte, .iov_len = 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    *(int *)(void *)CMSG_DATA(&control.header) = (int)fd;
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int64_t sent = CALL3(SYS_sendmsg, socket, &message, MSG_NOSIGNAL);
    return sent < 0 ? sent : 0;
}

static void proc_path(char *text, int64_t fd) {
    const char prefix[] = "/proc/self/fd/";
    size_t at = 0;
    for (; prefix[at]; at++) text[at] = prefix[at];
    char digits[20];
    int count = 0;
    do digits[count++] = (char)('0' + fd % 10);
    while (fd /= 10);
    while (count) text[at++] = digits[--count];
    text[at] = 0;
}

static int64_t mount_at(const int64_t *a) {
    char source[40], target[40];
    const char *from = (const char *)a[5];
    if (!from && a[0] >= 0) {
        proc_path(source, a[0]);
        from = source;
    }
    proc_path(target, a[1]);
    return CALL5(SYS_mount, from, target, a[2], a[3], a[4]);
}

static int64_t check_directory(void) {
    char path[PATH_SPACE];
    int64_t length = CALL2(SYS_getcwd, path, sizeof path);
    if (length < 0) return length;
    // The kernel writes "(unreachable)" in front of a directory outside the root.
    return path[0] == '/' ? 0 : -ENOENT;
}

// Writes to a file that the kernel made, or to none: an image that could put another in its place would have the text go
// there (CVE-2019-19921, CVE-2025-52881).
static int64_t write_proc(int64_t fd, const char *text) {
    if (fd < 0) return fd;
    struct statfs info;
    int64_t result = CALL2(SYS_fstatfs, fd, &info);
    if (result == 0 && info.f_type != PROC_SUPER_MAGIC) result = -EXDEV;
    size_t length = 0;
    while (text[length]) length++;
    if (result == 0) result = CALL3(SYS_write, fd, text, length);
    CALL1(SYS_close, fd);
    return result < 0 ? result : 0;
}

static int64_t write_path(const char *path, const char *text) {
    int64_t fd = open_in(AT_FDCWD, path, O_WRONLY, 0, 0);
    if (fd < 0) return fd;
    size_t length = 0;
    while (text[length]) length++;
    int64_t result = CALL3(SYS_write, fd, text, length);
    CALL1(SYS_close, fd);
    return result < 0 ? result : 0;
}

static int64_t write_file(int64_t root, const char *path, const char *text) {
    uint64_t rules = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
    return write_proc(open_in(root, path, O_WRONLY, 0, rules), text);
}

// pid_t as the parent sees it: this process is still in the parent's PID namespace.
static int64_t go_on(const struct cl_program *program, const struct cl_op *op, const int64_t *a) {
    struct clone_args args = {
        .flags = (uint64_t)a[0] | CLONE_PARENT | (a[1] >= 0 ? CLONE_INTO_CGROUP : 0),
        .cgroup = a[1] >= 0 ? (uint64_t)a[1] : 0,
    };
    int64_t pid = CALL2(SYS_clone3, &args, sizeof args);
    if (pid <= 0) return pid;
    struct cl_report here = {.op = (uint32_t)(op - program->ops), .step = op->step, .pid = (int32_t)pid};
    CALL3(SYS_write, program->report, &here, sizeof here);
    for (;;) CALL1(SYS_exit_group, 0);
}

static int64_t enter(const char *path, int64_t flag) {
    int64_t fd = open_in(AT_FDCWD, path, O_RDONLY, 0, 0);
    if (fd < 0) return fd;
    int64_t result = CALL2(SYS_setns, fd, flag);
    CALL1(SYS_close, fd);
    return result;
}

static int64_t wait_for_parent(const struct cl_program *program, const struct cl_op *op, const int64_t *a) {
    if (a[1]) {
        struct cl_report here = {.op = (uint32_t)(op - program->ops), .step = op->step};
        CALL3(SYS_write, program->report, &here, sizeof here);
    }
    char byte;
    int64_t count;
    do count = CALL3(SYS_read, a[0], &byte, 1);
    while (count == -EINTR);
    return count == 1 ? 0 : count < 0 ? count : -EPIPE;
}

// pid 1 of the container: passes every signal on to the command, reaps what is orphaned, and ends as the command ends.
static void reap(int64_t child) {
    uint64_t all = ~0ull;
    for (;;) {
        siginfo_t info;
        int64_t number = CALL4(SYS_rt_sigtimedwait, &all, &info, NULL, sizeof all);
        if (number == SIGCHLD) {
            int status;
            int64_t pid;
            while ((pid = CALL4(SYS_wait4, -1, &status, WNOHANG, NULL)) > 0) {
                if (pid != child) continue;
                CALL1(SYS_exit_group, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
            }
        } else if (number > 0 && (info.si_code <= 0 || number == SIGHUP)) {
            // What the terminal sends for a key goes to the whole foreground group, the command included: not twice.
            // The end of the session is told to its leader only, and that is this process.
            CALL2(SYS_kill, child, number);
        }
    }
}

static int64_t become_init(const struct cl_program *program, char *words, int64_t length) {
    uint64_t all = ~0ull, none = 0;
    CALL4(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof all);
    // This process is the host's imgbox seen from inside: nobody there may get at its memory or its file
    // (CVE-2019-5736, CVE-2016-9962), nor see its command line. Before the fork, so that the command never runs while
    // it can be looked into; execve(2) gives the command what it needs again.
    CALL5(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    CALL5(SYS_prctl, PR_SET_NAME, "init", 0, 0, 0);
    for (int64_t i = 0; i < length; i++) words[i] = i < 4 ? "init"[i] : 0;
    struct clone_args args = {.exit_signal = SIGCHLD};
    int64_t child = CALL2(SYS_clone3, &args, sizeof args);
    if (child < 0) return child;
    if (child > 0) {
        // The parent waits for this end of the pipe to close: it must not stay open here.
        CALL1(SYS_close, program->report);
        CALL3(SYS_close_range, 3, ~0u, 0);
        reap(child);
    }
    CALL4(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof none);
    CALL5(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    return 0;
}

static int64_t execute(const int64_t *a) {
    const char *const *candidates = (const char *const *)a[0];
    int64_t error = -ENOENT;
    for (; *candidates; candidates++) {
        int64_t code = CALL3(SYS_execve, *candidates, a[1], a[2]);
        // As execvp(3): a name that cannot be run here may stand in a later directory.
        if (code == -EACCES) error = code;
        else if (code != -ENOENT && code != -ENOTDIR) return code;
    }
    return error;
}

static int64_t run(const struct cl_program *program, const struct cl_op *op, const int64_t *a) {
    switch (op->kind) {
    case CL_SYSCALL: return raw(op->number, a[0], a[1], a[2], a[3], a[4], a[5]);
    case CL_WAIT: return wait_for_parent(program, op, a);
    case CL_DIRECTORY: return open_directory(a[0], (const char *)a[1], (uint64_t)a[2], (uint64_t)a[3]);
    case CL_FILE: return open_file(a[0], (const char *)a[1], (uint64_t)a[2], (uint64_t)a[3]);
    case CL_CHECK_DEVICE: return check_device(a[0], a[1], a[2]);
    case CL_SEND_DESCRIPTOR: return send_descriptor(a[0], a[1]);
    case CL_MOUNT_AT: return mount_at(a);
    case CL_CHECK_DIRECTORY: return check_directory();
    case CL_INIT: return become_init(program, (char *)a[0], a[1]);
    case CL_EXEC: return execute(a);
    case CL_WRITE_FILE: return write_file(a[0], (const char *)a[1], (const char *)a[2]);
    case CL_WRITE_PROC: return write_proc(open_in(AT_FDCWD, (const char *)a[0], O_WRONLY, 0, 0), (const char *)a[1]);
    case CL_WRITE_PATH: return write_path((const char *)a[0], (const char *)a[1]);
    case CL_FORK: return go_on(program, op, a);
    case CL_ENTER: return enter((const char *)a[0], a[1]);
    case CL_LINK_DESCRIPTOR: {
        char target[40];
        proc_path(target, a[0]);
        return CALL3(SYS_symlinkat, target, AT_FDCWD, a[1]);
    }
    case CL_END: return CALL1(SYS_exit_group, 0);
    case CL_PAUSE: return CALL5(SYS_ppoll, NULL, 0, NULL, NULL, 0);
    default: return -ENOSYS;
    }
}

static int is_tolerated(const struct cl_op *op, int64_t error) {
    for (int i = 0; i < 3; i++)
        if (op->tolerated[i] == -1 || (op->tolerated[i] && op->tolerated[i] == error)) return 1;
    return 0;
}

__attribute__((noreturn)) static void child(const struct cl_program *program) {
    int64_t registers[CL_REGISTERS];
    for (int i = 0; i < CL_REGISTERS; i++) registers[i] = -1;
    uint64_t none = 0;
    // CLONE_CLEAR_SIGHAND leaves alone what the parent ignores: SIGINT below a shell's "&", SIGHUP below nohup(1).
    uint64_t fresh[4] = {0};
    for (int number = 1; number <= 64; number++) CALL4(SYS_rt_sigaction, number, fresh, NULL, sizeof none);
    CALL4(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof none);
    for (uint32_t i = 0; i < program->count; i++) {
        const struct cl_op *op = &program->ops[i];
        int64_t a[6];
        for (int k = 0; k < 6; k++) a[k] = op->registers & (1u << k) ? registers[op->args[k]] : op->args[k];
        int64_t result = run(program, op, a);
        if (result < 0 && result > -4096) {
            if (!is_tolerated(op, -result)) {
                struct cl_report failure = {.op = i, .step = op->step, .error = (int32_t)-result};
                CALL3(SYS_write, program->report, &failure, sizeof failure);
                CALL1(SYS_exit_group, 127);
            }
            i += (uint32_t)op->skip;
        } else if (op->result >= 0) {
            registers[op->result] = result;
        }
        if (program->stamps) {
            struct timespec time;
            CALL2(SYS_clock_gettime, CLOCK_MONOTONIC, &time);
            program->stamps[op->step] = time.tv_sec * 1000000000 + time.tv_nsec;
        }
    }
    for (;;) CALL1(SYS_exit_group, 127);
}

int64_t cl_launch(const struct cl_program *program, int *pidfd) {
    // No handler of the parent may run in the child, where nothing but this file may run.
    uint64_t all = ~0ull, before = 0;
    CALL4(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
    struct clone_args args = {
        .flags = program->clone_flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | (program->cgroup >= 0 ? CLONE_INTO_CGROUP : 0),
        .pidfd = (uint64_t)(uintptr_t)pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = program->cgroup >= 0 ? (uint64_t)program->cgroup : 0,
    };
    int64_t pid = CALL2(SYS_clone3, &args, sizeof args);
    if (pid == 0) child(program);
    CALL4(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
    return pid;
}
