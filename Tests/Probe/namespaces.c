/* Calls that make, join or look into namespaces, mounts and other processes. */
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* Clone flags that older headers lack. */
enum { NEWTIME = 0x80, NEWCGROUP = 0x02000000 };

#define NOWHERE "/no-such-probe-file"

/* The kernel asks for the right to mount before it looks for the type of the file system. */
static void mount_new(struct result *r)
{
    outcome(r, syscall(SYS_mount, "none", "/", "no-such-type", 0UL, NULL));
}

/* /etc is no mount: EINVAL where the right is there. */
static void mount_end(struct result *r) { outcome(r, syscall(SYS_umount2, "/etc", 0)); }

static void pivot(struct result *r) { outcome(r, syscall(SYS_pivot_root, NOWHERE, NOWHERE)); }

/* The copy of the tree is attached nowhere; it goes with the descriptor. */
static void tree_copy(struct result *r)
{
    outcome(r, syscall(SYS_open_tree, AT_FDCWD, "/", OPEN_TREE_CLONE | O_CLOEXEC));
}

static void fs_open(struct result *r) { outcome(r, syscall(SYS_fsopen, "no-such-type", 0)); }

static void tree_move(struct result *r)
{
    outcome(r, syscall(SYS_move_mount, -1, "", -1, "", MOVE_MOUNT_F_EMPTY_PATH));
}

static void tree_attributes(struct result *r)
{
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
    outcome(r, syscall(SYS_mount_setattr, AT_FDCWD, NOWHERE, 0, &attributes, sizeof attributes));
}

/* Only the child that runs the check changes its namespace, and it ends at once. */
static void unshare_user(struct result *r) { outcome(r, unshare(CLONE_NEWUSER)); }
static void unshare_mount(struct result *r) { outcome(r, unshare(CLONE_NEWNS)); }
static void unshare_pid(struct result *r) { outcome(r, unshare(CLONE_NEWPID)); }
static void unshare_net(struct result *r) { outcome(r, unshare(CLONE_NEWNET)); }
static void unshare_ipc(struct result *r) { outcome(r, unshare(CLONE_NEWIPC)); }
static void unshare_uts(struct result *r) { outcome(r, unshare(CLONE_NEWUTS)); }
static void unshare_cgroup(struct result *r) { outcome(r, unshare(NEWCGROUP)); }
static void unshare_time(struct result *r) { outcome(r, unshare(NEWTIME)); }

static void join(struct result *r)
{
    int own = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);
    outcome(r, own < 0 ? -1 : setns(own, CLONE_NEWUTS));
}

/* A filter cannot read the flags of clone3, so a strict one refuses the call as a whole. */
static void clone3_any(struct result *r) { outcome(r, syscall(SYS_clone3, NULL, 0UL)); }

/* Without a stack of its own the child goes on here, as after fork. */
static void clone_user(struct result *r)
{
    long child = syscall(SYS_clone, (unsigned long)(CLONE_NEWUSER | SIGCHLD), NULL, NULL, NULL, NULL);
    if (child == 0)
        _exit(0);
    outcome(r, child);
    if (child > 0)
        waitpid((pid_t)child, NULL, 0);
}

static void change_root(struct result *r) { outcome(r, chroot("/")); }

/* The kernel compares the length after it has asked for the right. */
static void host_name(struct result *r) { outcome(r, syscall(SYS_sethostname, "", -1)); }
static void domain_name(struct result *r) { outcome(r, syscall(SYS_setdomainname, "", -1)); }

/* A child to look into; it ends with its parent, also when that one is killed. */
static pid_t sleeper(void)
{
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    return child;
}

static void end(pid_t child)
{
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
}

static void trace(struct result *r)
{
    pid_t child = sleeper();
    outcome(r, child < 0 ? -1 : ptrace(PTRACE_SEIZE, child, NULL, NULL));
    end(child);
}

static void read_memory(struct result *r)
{
    static char there = 'x';
    char here;
    struct iovec local = {&here, 1}, remote = {&there, 1};
    pid_t child = sleeper();
    outcome(r, child < 0 ? -1 : process_vm_readv(child, &local, 1, &remote, 1, 0));
    end(child);
}

static void take_descriptor(struct result *r)
{
    pid_t child = sleeper();
    long other = child < 0 ? -1 : syscall(SYS_pidfd_open, child, 0);
    outcome(r, other < 0 ? -1 : syscall(SYS_pidfd_getfd, (int)other, 1, 0));
    end(child);
}

static void compare_processes(struct result *r)
{
    enum { KCMP_VM_KIND = 1 };
    pid_t child = sleeper();
    outcome(r, child < 0 ? -1 : syscall(SYS_kcmp, getpid(), child, KCMP_VM_KIND, 0UL, 0UL));
    end(child);
}

struct handle {
    unsigned int bytes;
    int type;
    uint32_t words[32];
};

static void handle_name(struct result *r)
{
    struct handle handle = {.bytes = sizeof handle.words};
    int mount;
    outcome(r, syscall(SYS_name_to_handle_at, AT_FDCWD, "/etc/passwd", &handle, &mount, 0));
}

/* The "shocker": inode 2 is the top of an ext file system, which lies above the container's root. It
   is opened for reading and nothing is read. */
static void handle_open(struct result *r)
{
    struct handle top = {.bytes = 8, .type = 1, .words = {2, 0}};
    int mount = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    long file = mount < 0 ? -1 : syscall(SYS_open_by_handle_at, mount, &top, O_RDONLY | O_CLOEXEC);
    outcome(r, file);
    if (file >= 0)
        say(r, OPEN, "opened the top of the host's file system");
}

#define REFUSED "EPERM or ENOSYS"
#define OF_ITS_OWN "EPERM or ENOSYS; debuggers need it, and it reaches processes of this container only"

const struct check namespace_checks[] = {
    {"mount", mount_new, REFUSED},
    {"umount2", mount_end, REFUSED},
    {"pivot_root", pivot, REFUSED},
    {"open_tree", tree_copy, REFUSED},
    {"fsopen", fs_open, REFUSED},
    {"move_mount", tree_move, REFUSED},
    {"mount_setattr", tree_attributes, REFUSED},
    {"unshare user", unshare_user, "refused: a new user namespace gives all capabilities over more kernel code"},
    {"unshare mnt", unshare_mount, REFUSED},
    {"unshare pid", unshare_pid, REFUSED},
    {"unshare net", unshare_net, REFUSED},
    {"unshare ipc", unshare_ipc, REFUSED},
    {"unshare uts", unshare_uts, REFUSED},
    {"unshare cgroup", unshare_cgroup, REFUSED},
    {"unshare time", unshare_time, REFUSED},
    {"setns", join, REFUSED},
    {"clone3", clone3_any, "ENOSYS, so that libc falls back to clone, whose flags a filter can read"},
    {"clone NEWUSER", clone_user, REFUSED},
    {"chroot", change_root, REFUSED},
    {"sethostname", host_name, REFUSED},
    {"setdomainname", domain_name, REFUSED},
    {"ptrace own child", trace, OF_ITS_OWN},
    {"process_vm_readv", read_memory, OF_ITS_OWN},
    {"pidfd_getfd", take_descriptor, OF_ITS_OWN},
    {"kcmp", compare_processes, OF_ITS_OWN},
    {"name_to_handle_at", handle_name, REFUSED},
    {"open_by_handle_at", handle_open, REFUSED},
    {NULL, NULL, NULL},
};
