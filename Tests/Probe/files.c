/* Files of the kernel and devices: which can be opened, for reading or for writing. */
#define _GNU_SOURCE
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { QUIET = O_CLOEXEC | O_NOCTTY | O_NONBLOCK };

/* Opened and never written: opening alone changes nothing. */
static bool opens_for_writing(const char *path)
{
    int file = open(path, O_WRONLY | QUIET);
    if (file >= 0)
        close(file);
    return file >= 0;
}

static void writable(struct result *r, const char *path)
{
    if (opens_for_writing(path))
        say(r, OPEN, "writable");
    else
        say(r, TIGHT, "%s", errno == ENOENT ? "absent" : strerrorname_np(errno));
}

static void core_pattern(struct result *r) { writable(r, "/proc/sys/kernel/core_pattern"); }
static void modprobe(struct result *r) { writable(r, "/proc/sys/kernel/modprobe"); }
static void host_name(struct result *r) { writable(r, "/proc/sys/kernel/hostname"); }
static void sysrq(struct result *r) { writable(r, "/proc/sysrq-trigger"); }
static void uevent_helper(struct result *r) { writable(r, "/sys/kernel/uevent_helper"); }

/* nftw has no argument to hand through. */
static struct {
    int count, named;
    const char *only, *example;
    char names[800];
} walk;

static int visit(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    /* Below /proc the processes and the settings have rows of their own. */
    if (kind == FTW_D && where->level == 1 && strncmp(path, "/proc/", 6) == 0
        && (strchr("123456789", path[6]) || strcmp(path, "/proc/sys") == 0))
        return FTW_SKIP_SUBTREE;
    if (kind != FTW_F || !S_ISREG(status->st_mode) || !(status->st_mode & 0222))
        return FTW_CONTINUE;
    if (walk.only && strcmp(path + where->base, walk.only) != 0)
        return FTW_CONTINUE;
    if (!opens_for_writing(path))
        return FTW_CONTINUE;
    walk.count++;
    size_t used = strlen(walk.names);
    if (walk.named < 8) {
        walk.named++;
        snprintf(walk.names + used, sizeof walk.names - used, " %s", path);
    }
    return FTW_CONTINUE;
}

/* `only` restricts to files of that name. Other file systems below the top are for other rows,
   unless across says so. */
static void writable_below(struct result *r, const char *top, const char *only, bool across)
{
    struct stat status;
    if (stat(top, &status) < 0) {
        say(r, TIGHT, "absent");
        return;
    }
    walk.only = only;
    nftw(top, visit, 16, FTW_PHYS | FTW_ACTIONRETVAL | (across ? 0 : FTW_MOUNT));
    say(r, walk.count ? OPEN : TIGHT, "%d%s", walk.count, walk.names);
}

static void below_proc(struct result *r) { writable_below(r, "/proc", NULL, false); }
static void below_settings(struct result *r) { writable_below(r, "/proc/sys", NULL, false); }
static void below_memory(struct result *r) { writable_below(r, "/proc/sys/vm", NULL, false); }
static void below_sys(struct result *r) { writable_below(r, "/sys", NULL, false); }
static void below_cgroup(struct result *r) { writable_below(r, "/sys/fs/cgroup", NULL, true); }
static void release_agent(struct result *r) { writable_below(r, "/sys/fs/cgroup", "release_agent", true); }

/* A cgroup below a cgroup: somebody else's, as the container should see its own as the top. */
static int visit_cgroup(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    char own[1024], above[1024];
    (void)status;
    snprintf(own, sizeof own, "%s/cgroup.procs", path);
    snprintf(above, sizeof above, "%s/../cgroup.procs", path);
    if (kind != FTW_D || where->level == 0 || access(own, F_OK) < 0 || access(above, F_OK) < 0)
        return FTW_CONTINUE;
    walk.count++;
    size_t used = strlen(walk.names);
    if (walk.named++ < 8)
        snprintf(walk.names + used, sizeof walk.names - used, " %s", path);
    return FTW_CONTINUE;
}

static void other_cgroups(struct result *r)
{
    nftw("/sys/fs/cgroup", visit_cgroup, 16, FTW_PHYS | FTW_ACTIONRETVAL);
    say(r, walk.count ? OPEN : TIGHT, "%d%s", walk.count, walk.names);
}

/* One byte of a file, or one name of a directory. Masks look empty. */
static void readable(struct result *r, const char *path)
{
    char byte;
    int file = open(path, O_RDONLY | QUIET);
    if (file < 0) {
        say(r, TIGHT, "%s", errno == ENOENT ? "absent" : strerrorname_np(errno));
        return;
    }
    ssize_t got = read(file, &byte, 1);
    if (got < 0 && errno == EISDIR) {
        DIR *directory = fdopendir(file);
        for (struct dirent *entry; directory && (entry = readdir(directory));)
            got += entry->d_name[0] != '.';
        got += 1;
    } else if (got < 0) {
        say(r, TIGHT, "%s", strerrorname_np(errno));
        return;
    }
    if (got > 0)
        say(r, OPEN, "readable");
    else
        say(r, TIGHT, "empty");
}

static void kcore(struct result *r) { readable(r, "/proc/kcore"); }
static void keys(struct result *r) { readable(r, "/proc/keys"); }
static void timer_list(struct result *r) { readable(r, "/proc/timer_list"); }
static void interrupts(struct result *r) { readable(r, "/proc/interrupts"); }
static void sched_debug(struct result *r) { readable(r, "/proc/sched_debug"); }
static void latency_stats(struct result *r) { readable(r, "/proc/latency_stats"); }
static void acpi(struct result *r) { readable(r, "/proc/acpi"); }
static void firmware(struct result *r) { readable(r, "/sys/firmware"); }
static void powercap(struct result *r) { readable(r, "/sys/devices/virtual/powercap"); }
static void debug_files(struct result *r) { readable(r, "/sys/kernel/debug"); }

/* What any program may expect; a terminal is the container's own. */
static bool usual_device(unsigned int major, unsigned int minor)
{
    switch (major) {
    case 1: return minor == 3 || minor == 5 || minor == 7 || minor == 8 || minor == 9;
    case 5: return true;
    default: return major >= 136 && major <= 143;
    }
}

static struct { int nodes, unusual, disks; char names[800], disk[256]; } devices;

static int visit_device(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)where;
    bool block = S_ISBLK(status->st_mode);
    if (kind != FTW_F || !(block || S_ISCHR(status->st_mode)))
        return FTW_CONTINUE;
    devices.nodes++;
    if (block) {
        int disk = open(path, O_RDONLY | QUIET);
        if (disk >= 0) {
            devices.disks++;
            snprintf(devices.disk, sizeof devices.disk, "%s", path);
            close(disk);
        }
    }
    if (block || !usual_device(major(status->st_rdev), minor(status->st_rdev))) {
        size_t used = strlen(devices.names);
        devices.unusual++;
        snprintf(devices.names + used, sizeof devices.names - used, " %s", path);
    }
    return FTW_CONTINUE;
}

static void device_nodes(struct result *r)
{
    nftw("/dev", visit_device, 16, FTW_PHYS | FTW_ACTIONRETVAL);
    say(r, devices.unusual ? OPEN : TIGHT, "%d, %d unusual%s", devices.nodes, devices.unusual, devices.names);
}

static void disk_nodes(struct result *r)
{
    nftw("/dev", visit_device, 16, FTW_PHYS | FTW_ACTIONRETVAL);
    if (devices.disks)
        say(r, OPEN, "opened %s", devices.disk);
    else
        say(r, TIGHT, "none");
}

/* The first disk of the host, or what is usual for a virtual one. */
static dev_t some_disk(void)
{
    unsigned int high, low;
    char line[256];
    FILE *file = fopen("/proc/partitions", "re");
    dev_t found = makedev(254, 0);
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "%u %u", &high, &low) == 2) {
            found = makedev(high, low);
            break;
        }
    if (file)
        fclose(file);
    return found;
}

/* Makes a node of a disk in each of some directories, tries to open it, and takes it away. */
static int make_disk(bool *opened)
{
    static const char *const paths[] = {"/tmp/probe-disk", "/dev/probe-disk", "/probe-disk"};
    int made = 0, error = EPERM;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        if (mknod(paths[i], S_IFBLK | 0600, some_disk()) < 0) {
            error = errno;
            continue;
        }
        made++;
        int disk = open(paths[i], O_RDONLY | QUIET);
        error = errno;
        if (disk >= 0) {
            *opened = true;
            close(disk);
        }
        unlink(paths[i]);
    }
    errno = error;
    return made;
}

static void disk_make(struct result *r)
{
    bool opened = false;
    if (make_disk(&opened))
        say(r, OPEN, "allowed");
    else
        say(r, TIGHT, "%s", strerrorname_np(errno));
}

static void disk_open(struct result *r)
{
    bool opened = false;
    make_disk(&opened);
    if (opened)
        say(r, OPEN, "opened the host's disk");
    else
        say(r, TIGHT, "%s", strerrorname_np(errno));
}

#define HIDDEN "absent, empty or not readable"
#define FIXED "cannot be opened for writing"

const struct check file_checks[] = {
    {"writable /proc/sys", below_settings, "no file"},
    {"writable vm.*", below_memory, "no file"},
    {"core_pattern", core_pattern, FIXED},
    {"modprobe", modprobe, FIXED},
    {"kernel.hostname", host_name, FIXED},
    {"writable /proc", below_proc, "no file beside those of processes and settings"},
    {"sysrq-trigger", sysrq, FIXED},
    {"uevent_helper", uevent_helper, FIXED},
    {"writable /sys", below_sys, "no file"},
    {"writable cgroup", below_cgroup, "no file"},
    {"release_agent", release_agent, "no such file can be opened for writing"},
    {"other cgroups", other_cgroups, "none below the own can be seen"},
    {"devices", device_nodes, "only null, zero, full, random, urandom and terminals"},
    {"disk in /dev", disk_nodes, "none can be opened"},
    {"mknod of a disk", disk_make, "refused"},
    {"open a made disk", disk_open, "refused"},
    {"/proc/kcore", kcore, HIDDEN},
    {"/proc/keys", keys, HIDDEN},
    {"/proc/timer_list", timer_list, HIDDEN},
    {"/proc/interrupts", interrupts, HIDDEN},
    {"/proc/sched_debug", sched_debug, HIDDEN},
    {"/proc/latency_stats", latency_stats, HIDDEN},
    {"/proc/acpi", acpi, HIDDEN},
    {"/sys/firmware", firmware, HIDDEN},
    {"powercap", powercap, HIDDEN},
    {"/sys/kernel/debug", debug_files, HIDDEN},
    {NULL, NULL, NULL},
};
