/* What the parts of the probe share. */
#ifndef PROBE_H
#define PROBE_H
#include <stdbool.h>
#include <sys/types.h>

enum verdict { INFO, TIGHT, OPEN };

/* Lies in memory shared with the child that runs the check. */
struct result {
    enum verdict verdict;
    char value[1200];
};

/* One row: `strict` says when it is `tight`. A table ends with a row without name. */
struct check {
    const char *name;
    void (*run)(struct result *);
    const char *strict;
};

extern const struct check namespace_checks[], kernel_checks[], state_checks[], file_checks[];

void say(struct result *result, enum verdict verdict, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Adds a word to the value, as long as there is room. */
void append(struct result *result, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The answer of a system call: refused is tight; success, or an error that only comes after the
   kernel's permission check, is open. */
void outcome(struct result *result, long returned);

/* The word that --host-ns FILE has for a name, or NULL. */
const char *host_fact(const char *name);

/* The rest of the line of /proc/self/status that begins with key, or false. */
bool status_line(const char *key, char *value, size_t size);

/* One small file as text without its last line end; the length, or -1. */
ssize_t slurp(const char *path, char *buffer, size_t size);

extern pid_t probe_pid;
#endif
