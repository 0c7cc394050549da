#pragma once
#include <seccomp.h>
#include <linux/audit.h>

// Actions and comparisons as Swift can read them: function-like macros and enums with casts stay hidden otherwise.
enum {
    CSE_ALLOW = SCMP_ACT_ALLOW,
    CSE_LOG = SCMP_ACT_LOG,
    CSE_KILL_THREAD = SCMP_ACT_KILL_THREAD,
    CSE_TRAP = SCMP_ACT_TRAP,
};
static inline uint32_t cse_kill_process(void) { return SCMP_ACT_KILL_PROCESS; }
static inline uint32_t cse_errno(uint16_t number) { return SCMP_ACT_ERRNO(number); }
static inline uint32_t cse_trace(uint16_t number) { return SCMP_ACT_TRACE(number); }
