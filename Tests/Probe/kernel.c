/* Calls that reach the kernel as a whole: modules, time, tracing, keys, kinds of sockets. */
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/klog.h>
#include <sys/personality.h>
#include <sys/quota.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define NOWHERE "/no-such-probe-file"

static void load_module(struct result *r) { outcome(r, syscall(SYS_init_module, NULL, 0UL, "")); }
static void load_module_file(struct result *r) { outcome(r, syscall(SYS_finit_module, -1, "", 0)); }
static void unload_module(struct result *r)
{
    outcome(r, syscall(SYS_delete_module, "no_such_probe_module", O_NONBLOCK));
}

/* Both the flags and the number of segments are impossible; zero segments would unload. */
static void load_kernel(struct result *r)
{
    outcome(r, syscall(SYS_kexec_load, 0UL, 10000UL, NULL, 0x8000UL));
}

static void restart(struct result *r) { outcome(r, syscall(SYS_reboot, 1, 1, 0, NULL)); }
static void swap_on(struct result *r) { outcome(r, syscall(SYS_swapon, NOWHERE, 0)); }
static void accounting(struct result *r) { outcome(r, syscall(SYS_acct, NOWHERE)); }

/* The device is looked up before the right is asked for, so this says only whether the call is
   reachable; a device that can be named is the business of the rows about disks. */
static void quota(struct result *r)
{
    outcome(r, syscall(SYS_quotactl, QCMD(Q_GETFMT, USRQUOTA), NOWHERE, 0, NULL));
}

/* A console level that does not exist. */
static void console_level(struct result *r) { outcome(r, klogctl(8, NULL, 99)); }

/* One byte of the kernel's log, left where it is. */
static void kernel_log(struct result *r)
{
    char byte;
    outcome(r, klogctl(3, &byte, 1));
}

/* Port access counts for the child alone, which ends without using it. */
static void io_level(struct result *r)
{
#ifdef SYS_iopl
    outcome(r, syscall(SYS_iopl, 3));
#else
    say(r, INFO, "not on this machine");
#endif
}

static void io_ports(struct result *r)
{
#ifdef SYS_ioperm
    outcome(r, syscall(SYS_ioperm, 0x80UL, 1UL, 1));
#else
    say(r, INFO, "not on this machine");
#endif
}

/* The kernel refuses a bad time before it asks for the right. EINVAL says that no filter is in the
   way; then the right decides: CAP_SYS_TIME in the first user namespace, whose map holds all ids. */
static void set_clock(struct result *r)
{
    struct timespec bad = {.tv_sec = 0, .tv_nsec = -1};
    outcome(r, syscall(SYS_clock_settime, CLOCK_REALTIME, &bad));
    char effective[64] = "", map[256] = "";
    unsigned long inside = 1, outside = 1, length = 0;
    enum { SYS_TIME = 25 };
    if (r->verdict != OPEN || !status_line("CapEff", effective, sizeof effective))
        return;
    slurp("/proc/self/uid_map", map, sizeof map);
    sscanf(map, "%lu %lu %lu", &inside, &outside, &length);
    bool first = inside == 0 && outside == 0 && length == 4294967295UL;
    if (!first || !(strtoull(effective, NULL, 16) >> SYS_TIME & 1))
        say(r, TIGHT, "no CAP_SYS_TIME");
}

/* Sets neither time nor zone, but asks for the right. */
static void set_time(struct result *r) { outcome(r, syscall(SYS_settimeofday, NULL, NULL)); }

/* A tick of one microsecond is out of bounds. */
static void adjust_time(struct result *r)
{
    struct timex bad = {.modes = ADJ_TICK, .tick = 1};
    outcome(r, adjtimex(&bad));
}

static void odd_personality(struct result *r) { outcome(r, personality(ADDR_NO_RANDOMIZE)); }

/* In a session of its own there is no terminal to hang up. */
static void hang_up(struct result *r)
{
    setsid();
    outcome(r, vhangup());
}

/* A program of no instructions: E2BIG, but only for who may load programs. */
static void load_bpf(struct result *r)
{
    union bpf_attr attributes = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER};
    static const char license[] = "GPL";
    attributes.insns = (uint64_t)(uintptr_t)license;
    attributes.license = (uint64_t)(uintptr_t)license;
    outcome(r, syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes));
}

static void reach_bpf(struct result *r)
{
    union bpf_attr attributes = {0};
    outcome(r, syscall(SYS_bpf, -1, &attributes, sizeof attributes));
}

static void perf(struct result *r)
{
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event,
                                    .config = PERF_COUNT_SW_DUMMY, .disabled = 1, .exclude_kernel = 1};
    outcome(r, syscall(SYS_perf_event_open, &event, 0, -1, -1, 0UL));
}

/* Flag 1: for faults of user memory only, which needs no capability. */
static void user_faults(struct result *r) { outcome(r, syscall(SYS_userfaultfd, 1)); }

static void ring(struct result *r)
{
    struct io_uring_params parameters = {0};
    outcome(r, syscall(SYS_io_uring_setup, 1, &parameters));
}

static void watch_files(struct result *r)
{
    outcome(r, syscall(SYS_fanotify_init, FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY));
}

static void cookie(struct result *r)
{
#ifdef SYS_lookup_dcookie
    outcome(r, syscall(SYS_lookup_dcookie, 0ULL, NULL, 0UL));
#else
    say(r, INFO, "not on this machine");
#endif
}

enum { GET_KEYRING_ID = 0, DESCRIBE = 6, PROCESS_KEYRING = -2, SESSION_KEYRING = -3 };

static void key_control(struct result *r)
{
    outcome(r, syscall(SYS_keyctl, GET_KEYRING_ID, PROCESS_KEYRING, 1));
}

/* A type of key that does not exist, for a keyring that ends with the child. */
static void key_add(struct result *r)
{
    outcome(r, syscall(SYS_add_key, "no-such-type", "probe", "x", 1UL, PROCESS_KEYRING));
}

/* Without call-out text no helper of the host is started. */
static void key_request(struct result *r)
{
    outcome(r, syscall(SYS_request_key, "user", "no-such-probe-key", NULL, PROCESS_KEYRING));
}

/* A keyring that came from the starter of the container shows the keys of the host's session. */
static void session_keyring(struct result *r)
{
    char description[200] = "";
    long id = syscall(SYS_keyctl, GET_KEYRING_ID, SESSION_KEYRING, 0);
    const char *host = host_fact("keyring");
    if (id < 0) {
        say(r, TIGHT, "%s", strerrorname_np(errno));
        return;
    }
    syscall(SYS_keyctl, DESCRIBE, id, description, sizeof description - 1);
    const char *name = strrchr(description, ';');
    bool own = host && strtol(host, NULL, 10) != id;
    say(r, !host ? INFO : own ? TIGHT : OPEN, "%s %s", own ? "own" : "host's", name ? name + 1 : "?");
}

static void make_socket(struct result *r, int family, int kind, int protocol)
{
    outcome(r, socket(family, kind | SOCK_CLOEXEC, protocol));
}

static void socket_alg(struct result *r) { make_socket(r, AF_ALG, SOCK_SEQPACKET, 0); }
static void socket_vsock(struct result *r) { make_socket(r, AF_VSOCK, SOCK_STREAM, 0); }
/* Protocol 0 receives nothing. */
static void socket_packet(struct result *r) { make_socket(r, AF_PACKET, SOCK_RAW, 0); }
static void socket_icmp(struct result *r) { make_socket(r, AF_INET, SOCK_RAW, IPPROTO_ICMP); }

/* A number of the future. EPERM would be a refusal too, but libc does not fall back on it. */
static void unknown_call(struct result *r)
{
    outcome(r, syscall(9999));
    if (r->verdict == TIGHT && strcmp(r->value, "ENOSYS") != 0)
        r->verdict = INFO;
}

/* getpid by the second call table of x86_64, around which badly made filters can be walked. */
static void x32_call(struct result *r)
{
#ifdef __x86_64__
    outcome(r, syscall(0x40000000L | SYS_getpid));
#else
    say(r, INFO, "not on this machine");
#endif
}

#define REFUSED "EPERM or ENOSYS"

const struct check kernel_checks[] = {
    {"init_module", load_module, REFUSED},
    {"finit_module", load_module_file, REFUSED},
    {"delete_module", unload_module, REFUSED},
    {"kexec_load", load_kernel, REFUSED},
    {"reboot", restart, REFUSED},
    {"swapon", swap_on, REFUSED},
    {"acct", accounting, REFUSED},
    {"quotactl", quota, REFUSED},
    {"syslog", console_level, REFUSED},
    {"dmesg", kernel_log, "the kernel's log cannot be read"},
    {"iopl", io_level, REFUSED},
    {"ioperm", io_ports, REFUSED},
    {"clock_settime", set_clock, "refused, or without CAP_SYS_TIME"},
    {"settimeofday", set_time, REFUSED},
    {"adjtimex", adjust_time, REFUSED},
    {"personality", odd_personality, "ADDR_NO_RANDOMIZE is refused"},
    {"vhangup", hang_up, REFUSED},
    {"bpf", reach_bpf, REFUSED},
    {"bpf PROG_LOAD", load_bpf, REFUSED},
    {"perf_event_open", perf, REFUSED},
    {"userfaultfd", user_faults, REFUSED},
    {"io_uring_setup", ring, REFUSED},
    {"fanotify_init", watch_files, REFUSED},
    {"lookup_dcookie", cookie, REFUSED},
    {"keyctl", key_control, REFUSED},
    {"add_key", key_add, REFUSED},
    {"request_key", key_request, REFUSED},
    {"session keyring", session_keyring, "not the one of the process that started the container"},
    {"socket AF_ALG", socket_alg, REFUSED},
    {"socket AF_VSOCK", socket_vsock, REFUSED},
    {"socket AF_PACKET", socket_packet, REFUSED},
    {"socket raw ICMP", socket_icmp, REFUSED},
    {"call 9999", unknown_call, "ENOSYS, on which libc falls back"},
    {"call of x32", x32_call, "refused: a filter has to know both call tables"},
    {NULL, NULL, NULL},
};
