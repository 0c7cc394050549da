// Calls and constants of Linux that Swift's Glibc overlay hides: variadic functions, system calls that glibc
// 2.36 has no wrapper for, and macros that the importer cannot read.
#pragma once
#include <fcntl.h>
#include <signal.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/xattr.h>

/// openat2(2): opens `path` below `directory` under the RESOLVE_* rules of `resolve`. -1 and errno on failure.
int ck_openat2(int directory, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);

/// open_by... helpers that C declares as variadic.
int ck_open(const char *path, int flags, mode_t mode);
int ck_openat(int directory, const char *path, int flags, mode_t mode);
int ck_fcntl_int(int fd, int command, int argument);

/// Open-file-description lock of `length` bytes from `start`; `type` is F_RDLCK, F_WRLCK or F_UNLCK.
/// Waits when `wait` is not 0. -1 and errno (EAGAIN, EACCES when somebody else holds it) on failure.
int ck_lock_range(int fd, short type, int64_t start, int64_t length, int wait);

/// True major and minor numbers; the macros of sys/sysmacros.h.
unsigned ck_major(dev_t device);
unsigned ck_minor(dev_t device);
dev_t ck_makedev(unsigned major, unsigned minor);

/// renameat2(2), which glibc shows only to _GNU_SOURCE.
int ck_renameat2(int source, const char *from, int target, const char *to, unsigned flags);

/// ioctl(FICLONE): shares the extents of `source` with `target`. -1 and errno on failure.
int ck_clone_file(int target, int source);

/// The width of the terminal at `fd` in columns, 0 when it is none.
int ck_terminal_columns(int fd);

/// fstatfs(2): the type number of the file system that holds `fd`; -1 on failure.
int64_t ck_filesystem_type(int fd);

/// O_PATH, which glibc shows only to _GNU_SOURCE: a descriptor that only names.
#define CK_O_PATH 010000000

/// fallocate(2) with FALLOC_FL_KEEP_SIZE: reserves space from the start of the file. -1 and errno on failure.
int ck_reserve(int fd, int64_t size);

/// copy_file_range(2) from one offset to the other: the count, 0 at the end, -1 and errno.
int64_t ck_copy_range(int source, int target, uint64_t count);

/// syncfs(2): writes all of the file system that holds `fd` to disk. -1 and errno on failure.
int ck_sync_filesystem(int fd);

/// The number of prctl(2), which Swift cannot call since C declares it as variadic.
enum { CK_SYS_PRCTL = SYS_prctl, CK_SYS_MEMFD = SYS_memfd_create, CK_CAPBSET_READ = 23 };

/// signalfd(2) for every signal that can be caught, all of them blocked in this thread; the mask of before goes to
/// `*before`. -1 and errno on failure.
int ck_catch_signals(sigset_t *before);

/// Reads the number of one caught signal; 0 when there is none.
int ck_read_signal(int fd);

/// The status of a finished child as wait(2) gives it, by its pidfd or pid; waits. -1 and errno on failure.
int ck_wait_status(int pid);

/// pidfd_send_signal(2).
int ck_signal_process(int pidfd, int number);

/// Receives one descriptor over a socket; -1 and errno on failure.
int ck_receive_descriptor(int socket);

/// The size of the terminal `from` for the terminal `to`.
void ck_copy_window_size(int from, int to);

/// pipe2(2) with O_CLOEXEC.
int ck_pipe(int ends[2]);

/// Plain system call, result or -1 and errno.
long ck_syscall(long number, long a, long b, long c, long d, long e, long f);

/// Loads `count` instructions (struct bpf_insn, eight bytes each) as a device filter of cgroup v2. A descriptor, or -1 and
/// errno.
int ck_load_device_filter(const uint64_t *instructions, uint32_t count);

/// Attaches it to an open v2 group beside others that may be there. -1 and errno on failure.
int ck_attach_device_filter(int group, int filter);

/// Numbers of the mount calls, and of others that glibc 2.36 has no wrapper for.
enum {
    CK_SYS_OPEN_TREE = SYS_open_tree,
    CK_SYS_MOVE_MOUNT = SYS_move_mount,
    CK_SYS_FSOPEN = SYS_fsopen,
    CK_SYS_FSCONFIG = SYS_fsconfig,
    CK_SYS_FSMOUNT = SYS_fsmount,
    CK_SYS_MOUNT_SETATTR = SYS_mount_setattr,
    CK_SYS_PIDFD_OPEN = SYS_pidfd_open,
    CK_SYS_SETNS = SYS_setns,
    CK_SYS_MKNODAT = SYS_mknodat,
};

/// An idle process in a user namespace of its own, which lasts until it is killed. Its pid, or -1 and errno.
int ck_user_namespace_holder(void);

/// For a user without privileges: enters a new user namespace in which `helpers` (paths and words of newuidmap and newgidmap,
/// each a list that ends with NULL, with the place of the pid given by an empty word) have written the maps; with NULL
/// the one-id map of the caller is written instead. -1 and errno; `*failed` is 0 for unshare(2) itself, 1 and 2 for the uid
/// and gid map. Only for a process with one thread.
int ck_enter_user_namespace(const char *const *uid_helper, const char *const *gid_helper, int flags, int *failed);

/// CLONE_NEWNS and CLONE_NEWUSER, which glibc shows only to _GNU_SOURCE.
enum { CK_NEWNS = 0x00020000, CK_NEWUSER = 0x10000000 };

/// unshare(2).
int ck_unshare(int flags);

/// The number of a free loop device, made if need be; -1 and errno. `control` is /dev/loop-control.
int ck_free_loop(int control);

/// Puts a file behind a loop device, past the page cache where that can be, until nobody uses the device. -1 and errno.
int ck_configure_loop(int device, int file);

/// Runs a program by its path, `words[0]`, with nothing but its standard descriptors, and waits. The status of wait(2), -1
/// where it cannot be started.
int ck_run(const char *const *words);

/// AT_EMPTY_PATH, which glibc shows only to _GNU_SOURCE.
#define CK_AT_EMPTY_PATH 0x1000

/// 1 when the file system of the open directory keeps project quotas, else 0.
int ck_has_project_quota(int directory);

/// Makes a directory, and all that will be made in it, part of a project. -1 and errno.
int ck_set_project(int directory, uint32_t project);

/// Limits what the files of a project may hold, in bytes; 0: no limit. -1 and errno.
int ck_limit_project(int directory, uint32_t project, uint64_t bytes);

/// Maps the pages of this program at once. A start takes a few milliseconds, and a hundred page faults are half of one.
void ck_prefault(void);
