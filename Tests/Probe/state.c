/* What the process was given: capabilities, ids, namespaces, mounts, descriptors, limits. */
#define _GNU_SOURCE
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* podman's eleven, which programs in images need: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID
   SETPCAP NET_BIND_SERVICE SYS_CHROOT SETFCAP. */
static const unsigned long long usual_capabilities = 0x800405fb;

static const char *const capability_names[] = {
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
};
enum { NAMED_CAPABILITIES = sizeof capability_names / sizeof *capability_names };

static void capabilities(struct result *r, const char *set, unsigned long long allowed)
{
    char text[64];
    if (!status_line(set, text, sizeof text)) {
        say(r, INFO, "no /proc/self/status");
        return;
    }
    unsigned long long held = strtoull(text, NULL, 16), extra = held & ~allowed;
    if (held == 0) {
        say(r, TIGHT, "none");
        return;
    }
    say(r, extra ? OPEN : TIGHT, "%d: %llx", __builtin_popcountll(held), held);
    for (int i = 0; i < 64; i++)
        if (extra >> i & 1) {
            if (i < NAMED_CAPABILITIES)
                append(r, " +%s", capability_names[i]);
            else
                append(r, " +%d", i);
        }
}

static void inheritable(struct result *r) { capabilities(r, "CapInh", 0); }
static void permitted(struct result *r) { capabilities(r, "CapPrm", usual_capabilities); }
static void effective(struct result *r) { capabilities(r, "CapEff", usual_capabilities); }
static void bounding(struct result *r) { capabilities(r, "CapBnd", usual_capabilities); }
static void ambient(struct result *r) { capabilities(r, "CapAmb", 0); }

static void status_is(struct result *r, const char *key, const char *strict)
{
    char text[64];
    if (!status_line(key, text, sizeof text))
        say(r, INFO, "not known");
    else
        say(r, strcmp(text, strict) == 0 ? TIGHT : OPEN, "%s", text);
}

static void no_new_privileges(struct result *r) { status_is(r, "NoNewPrivs", "1"); }
static void filter_mode(struct result *r) { status_is(r, "Seccomp", "2"); }

static void user_map(struct result *r)
{
    char text[4096];
    unsigned long inside, outside, length;
    if (slurp("/proc/self/uid_map", text, sizeof text) <= 0
        || sscanf(text, "%lu %lu %lu", &inside, &outside, &length) != 3) {
        say(r, INFO, "not known");
        return;
    }
    say(r, outside == 0 ? OPEN : TIGHT, "%lu %lu %lu", inside, outside, length);
}

static void group_setting(struct result *r)
{
    char text[32];
    say(r, INFO, "%s", slurp("/proc/self/setgroups", text, sizeof text) > 0 ? text : "not known");
}

static void namespace_own(struct result *r, const char *name)
{
    char path[64], target[64];
    snprintf(path, sizeof path, "/proc/self/ns/%s", name);
    ssize_t length = readlink(path, target, sizeof target - 1);
    const char *host = host_fact(name);
    if (length < 0) {
        say(r, INFO, "%s", strerrorname_np(errno));
        return;
    }
    target[length] = 0;
    const char *number = strchr(target, '[');
    unsigned long own = number ? strtoul(number + 1, NULL, 10) : 0;
    if (!host)
        say(r, INFO, "%lu", own);
    else if (strtoul(host, NULL, 10) == own)
        say(r, OPEN, "host's");
    else
        say(r, TIGHT, "own");
}

static void ns_user(struct result *r) { namespace_own(r, "user"); }
static void ns_mount(struct result *r) { namespace_own(r, "mnt"); }
static void ns_pid(struct result *r) { namespace_own(r, "pid"); }
static void ns_net(struct result *r) { namespace_own(r, "net"); }
static void ns_ipc(struct result *r) { namespace_own(r, "ipc"); }
static void ns_uts(struct result *r) { namespace_own(r, "uts"); }
static void ns_cgroup(struct result *r) { namespace_own(r, "cgroup"); }
static void ns_time(struct result *r) { namespace_own(r, "time"); }

/* One line of mountinfo: the last mount on a place is the one that is seen. */
struct mount {
    char options[256], optional[256];
};

static bool find_mount(const char *place, struct mount *found)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char line[4096], where[2048];
    bool any = false;
    while (file && fgets(line, sizeof line, file)) {
        struct mount mount = {0};
        int rest = 0;
        if (sscanf(line, "%*s %*s %*s %*s %2047s %255s %n", where, mount.options, &rest) != 2
            || strcmp(where, place) != 0)
            continue;
        const char *end = strstr(line + rest - 1, " - ");
        if (end && end > line + rest)
            snprintf(mount.optional, sizeof mount.optional, "%.*s", (int)(end - line - rest), line + rest);
        *found = mount;
        any = true;
    }
    if (file)
        fclose(file);
    return any;
}

static bool has_word(const char *list, const char *word)
{
    size_t length = strlen(word);
    for (const char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
        if (strncmp(p, word, length) == 0 && (p[length] == ',' || p[length] == 0))
            return true;
    return false;
}

static void mount_flags(struct result *r, const char *place, const char *const *wanted)
{
    struct mount mount;
    if (!find_mount(place, &mount)) {
        say(r, TIGHT, "no mount");
        return;
    }
    say(r, TIGHT, "%s", "");
    for (; *wanted; wanted++)
        if (!has_word(mount.options, *wanted)) {
            append(r, "%s%s", r->verdict == OPEN ? "," : "lacks ", *wanted);
            r->verdict = OPEN;
        }
    if (r->verdict == TIGHT)
        say(r, TIGHT, "%s", mount.options);
}

static const char *const harmless[] = {"nosuid", "nodev", "noexec", NULL};
static const char *const harmless_read_only[] = {"nosuid", "nodev", "noexec", "ro", NULL};
static const char *const harmless_devices[] = {"nosuid", "noexec", NULL};

static void proc_flags(struct result *r) { mount_flags(r, "/proc", harmless); }
static void sys_flags(struct result *r) { mount_flags(r, "/sys", harmless_read_only); }
static void cgroup_flags(struct result *r) { mount_flags(r, "/sys/fs/cgroup", harmless_read_only); }
static void dev_flags(struct result *r) { mount_flags(r, "/dev", harmless_devices); }

static void propagation(struct result *r)
{
    struct mount mount;
    if (!find_mount("/", &mount))
        say(r, INFO, "no mount");
    else if (strstr(mount.optional, "shared:"))
        say(r, OPEN, "shared");
    else
        say(r, TIGHT, "%s", strstr(mount.optional, "master:") ? "slave" : "private");
}

static void own_descriptors(struct result *r)
{
    DIR *directory = opendir("/proc/self/fd");
    int count = 0;
    if (!directory) {
        say(r, INFO, "no /proc/self/fd");
        return;
    }
    say(r, TIGHT, "none");
    for (struct dirent *entry; (entry = readdir(directory));) {
        int number = atoi(entry->d_name);
        if (number <= 2 || number == dirfd(directory))
            continue;
        char target[200];
        ssize_t length = readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1);
        target[length < 0 ? 0 : length] = 0;
        if (count++ == 0)
            say(r, OPEN, "%s", "");
        append(r, "%s%d=%s", count == 1 ? "" : " ", number, target);
    }
}

/* CVE-2024-21626: a working directory above the root. */
static void directory_inside(struct result *r)
{
    char path[1024];
    if (!getcwd(path, sizeof path))
        say(r, OPEN, "%s", strerrorname_np(errno));
    else
        say(r, path[0] == '/' ? TIGHT : OPEN, "%s", path);
}

static void own_pid(struct result *r) { say(r, INFO, "%d", (int)probe_pid); }

static bool is_number(const char *text) { return text[0] && text[strspn(text, "0123456789")] == 0; }

/* The probe, the child that counts, and at most two of the tool's own. */
static void processes(struct result *r)
{
    enum { OWN = 4 };
    DIR *directory = opendir("/proc");
    int count = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        count += is_number(entry->d_name);
    say(r, count == 0 ? INFO : count <= OWN ? TIGHT : OPEN, "%d", count);
}

/* A root of any visible process that is not this container's root. */
static void other_roots(struct result *r)
{
    struct stat own, other;
    DIR *directory = opendir("/proc");
    say(r, TIGHT, "own root");
    if (stat("/", &own) < 0)
        return;
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char path[300];
        snprintf(path, sizeof path, "/proc/%s/root/", entry->d_name);
        if (!is_number(entry->d_name))
            continue;
        if (stat(path, &other) < 0) {
            if (strcmp(entry->d_name, "1") == 0 && r->verdict == TIGHT)
                say(r, TIGHT, "%s", strerrorname_np(errno));
        } else if (own.st_dev != other.st_dev || own.st_ino != other.st_ino) {
            say(r, OPEN, "another root by %s", path);
            return;
        }
    }
}

/* `compare` listens on a socket without a file; only a network namespace keeps it away. */
static void abstract_socket(struct result *r)
{
    const char *name = host_fact("socket");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!name) {
        say(r, INFO, "not told");
        return;
    }
    snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "%s", name);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
    int own = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(own, (struct sockaddr *)&address, length) == 0)
        say(r, OPEN, "connected");
    else
        say(r, TIGHT, "%s", strerrorname_np(errno));
}

static void interfaces(struct result *r)
{
    FILE *file = fopen("/proc/net/dev", "re");
    char line[512], name[64];
    say(r, TIGHT, "%s", "");
    while (file && fgets(line, sizeof line, file))
        if (strchr(line, ':') && sscanf(line, " %63[^:]", name) == 1) {
            append(r, "%s%s", r->value[0] ? " " : "", name);
            if (strcmp(name, "lo") != 0)
                r->verdict = OPEN;
        }
}

/* The place of the cgroup depends on the version and on whether its namespace hides the path. */
static void process_limit(struct result *r)
{
    char text[4096], limit[64];
    if (slurp("/proc/self/cgroup", text, sizeof text) < 0)
        text[0] = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *kind = strchr(line, ':'), *path = kind ? strchr(kind + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        kind++;
        if (kind[0] && strcmp(kind, "pids") != 0)
            continue;
        static const char *const tops[] = {"/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"};
        for (size_t i = 0; i < 2 * sizeof tops / sizeof *tops; i++) {
            char file[4200];
            snprintf(file, sizeof file, "%s%s/pids.max", tops[i / 2], i % 2 ? "" : path);
            if (slurp(file, limit, sizeof limit) > 0) {
                say(r, strcmp(limit, "max") == 0 ? OPEN : TIGHT, "%s", limit);
                return;
            }
        }
    }
    /* Where no limit shows, this one may stand in; root of the first user namespace is above it. */
    struct rlimit processes;
    getrlimit(RLIMIT_NPROC, &processes);
    if (processes.rlim_max == RLIM_INFINITY)
        say(r, INFO, "none visible");
    else
        say(r, INFO, "ulimit %llu", (unsigned long long)processes.rlim_max);
}

#define USUAL "no more than podman's eleven"
#define OWN "another namespace than the host's"

const struct check state_checks[] = {
    {"CapInh", inheritable, "empty"},
    {"CapPrm", permitted, USUAL},
    {"CapEff", effective, USUAL},
    {"CapBnd", bounding, USUAL},
    {"CapAmb", ambient, "empty"},
    {"no_new_privs", no_new_privileges, "1: set-user-ID files give nothing"},
    {"seccomp", filter_mode, "2: a filter"},
    {"uid_map", user_map, "root inside is somebody else outside"},
    {"setgroups", group_setting, "either"},
    {"ns user", ns_user, OWN},
    {"ns mnt", ns_mount, OWN},
    {"ns pid", ns_pid, OWN},
    {"ns net", ns_net, OWN},
    {"ns ipc", ns_ipc, OWN},
    {"ns uts", ns_uts, OWN},
    {"ns cgroup", ns_cgroup, OWN},
    {"ns time", ns_time, OWN},
    {"flags /proc", proc_flags, "nosuid, nodev, noexec"},
    {"flags /sys", sys_flags, "nosuid, nodev, noexec, ro, or no mount"},
    {"flags /sys/fs/cgroup", cgroup_flags, "nosuid, nodev, noexec, ro, or no mount"},
    {"flags /dev", dev_flags, "nosuid, noexec, or no mount"},
    {"propagation of /", propagation, "not shared"},
    {"open descriptors", own_descriptors, "none above 2"},
    {"working directory", directory_inside, "below the root"},
    {"own pid", own_pid, "any"},
    {"visible processes", processes, "no more than four"},
    {"roots of processes", other_roots, "none but the own"},
    {"abstract socket", abstract_socket, "one of the host is out of reach"},
    {"network interfaces", interfaces, "none but lo, where no network was asked for"},
    {"pids limit", process_limit, "a number"},
    {NULL, NULL, NULL},
};
