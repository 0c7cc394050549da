/* imgbox's probe: what can a process inside a container reach? It makes the same checks under every
   tool, see `compare`. One line per check, name TAB value TAB verdict, or with --json one object.

   Nothing here may do harm where it succeeds, even as root of a host: each check runs in a child of
   its own, files are opened for writing and never written, and calls get arguments that the kernel
   refuses after it has looked at the caller's rights. */
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

pid_t probe_pid;

/* A check that hangs must not hang the comparison. */
enum { PATIENCE_SECONDS = 20 };

static struct { char name[32], value[128]; } facts[32];

void say(struct result *result, enum verdict verdict, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    result->verdict = verdict;
    vsnprintf(result->value, sizeof result->value, format, arguments);
    va_end(arguments);
}

void append(struct result *result, const char *format, ...)
{
    va_list arguments;
    size_t used = strlen(result->value);
    va_start(arguments, format);
    vsnprintf(result->value + used, sizeof result->value - used, format, arguments);
    va_end(arguments);
}

void outcome(struct result *result, long returned)
{
    int error = errno;
    if (returned >= 0) {
        say(result, OPEN, "allowed");
        return;
    }
    const char *name = strerrorname_np(error);
    switch (error) {
    case EPERM: case EACCES: case ENOSYS:
    /* A namespace limit of zero. */
    case ENOSPC: case EUSERS:
    /* A kind of socket that is not there, or that the filter says is not there. */
    case EAFNOSUPPORT: case EPROTONOSUPPORT: case ESOCKTNOSUPPORT:
        say(result, TIGHT, "%s", name);
        break;
    default:
        say(result, OPEN, "allowed (%s)", name ? name : "?");
    }
}

ssize_t slurp(const char *path, char *buffer, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0)
        return -1;
    size_t used = 0;
    ssize_t got;
    while (used < size - 1 && (got = read(file, buffer + used, size - 1 - used)) > 0)
        used += (size_t)got;
    close(file);
    buffer[used] = 0;
    if (used > 0 && buffer[used - 1] == '\n')
        buffer[--used] = 0;
    return (ssize_t)used;
}

const char *host_fact(const char *name)
{
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        if (facts[i].name[0] && strcmp(facts[i].name, name) == 0)
            return facts[i].value;
    return NULL;
}

bool status_line(const char *key, char *value, size_t size)
{
    char text[8192];
    if (slurp("/proc/self/status", text, sizeof text) < 0)
        return false;
    size_t length = strlen(key);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        if (strncmp(line, key, length) == 0 && line[length] == ':') {
            char *rest = line + length + 1;
            snprintf(value, size, "%s", rest + strspn(rest, " \t"));
            return true;
        }
    return false;
}

static void read_facts(const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        fprintf(stderr, "probe: %s: %s\n", path, strerror(errno));
        exit(2);
    }
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        if (fscanf(file, "%31s %127s", facts[i].name, facts[i].value) != 2) {
            facts[i].name[0] = 0;
            break;
        }
    fclose(file);
}

/* Runs a check in a child: it may change its namespaces, be killed by a filter, or hang. */
static void run(const struct check *check, struct result *shared)
{
    memset(shared, 0, sizeof *shared);
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) {
        say(shared, INFO, "fork: %s", strerrorname_np(errno));
        return;
    }
    if (child == 0) {
        alarm(PATIENCE_SECONDS);
        check->run(shared);
        _exit(0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFSIGNALED(status))
        return;
    if (WTERMSIG(status) == SIGSYS)
        say(shared, TIGHT, "killed by SIGSYS");
    else if (WTERMSIG(status) == SIGALRM)
        say(shared, INFO, "no answer in %d s", PATIENCE_SECONDS);
    else
        say(shared, INFO, "killed by signal %d", WTERMSIG(status));
}

static void print_json_string(const char *text)
{
    putchar('"');
    for (const unsigned char *p = (const unsigned char *)text; *p; p++)
        if (*p == '"' || *p == '\\')
            printf("\\%c", *p);
        else if (*p < 0x20 || *p >= 0x7f)
            printf("\\u%04x", *p);
        else
            putchar(*p);
    putchar('"');
}

static void print(const struct check *check, const struct result *result, bool json, bool first)
{
    static const char *const verdicts[] = {[INFO] = "info", [TIGHT] = "tight", [OPEN] = "open"};
    const char *verdict = verdicts[result->verdict];
    if (!json) {
        printf("%s\t%s\t%s\n", check->name, result->value, verdict);
        return;
    }
    printf("%s\n  ", first ? "" : ",");
    print_json_string(check->name);
    printf(": {\"value\": ");
    print_json_string(result->value);
    printf(", \"verdict\": \"%s\", \"strict\": ", verdict);
    print_json_string(check->strict);
    putchar('}');
}

int main(int count, char **arguments)
{
    bool json = false;
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--json") == 0)
            json = true;
        else if (strcmp(arguments[i], "--host-ns") == 0 && i + 1 < count)
            read_facts(arguments[++i]);
        else {
            fprintf(stderr, "usage: probe [--json] [--host-ns FILE]\n");
            return 2;
        }
    }
    probe_pid = getpid();
    struct result *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 2;
    static const struct check *const tables[] = {namespace_checks, kernel_checks, state_checks, file_checks};
    bool first = true;
    if (json)
        putchar('{');
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const struct check *check = tables[t]; check->name; check++) {
            run(check, shared);
            print(check, shared, json, first);
            first = false;
        }
    if (json)
        printf("\n}\n");
    return fflush(stdout) == 0 ? 0 : 2;
}
