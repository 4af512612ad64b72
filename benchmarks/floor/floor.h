/*
 * floor.h: what every floor program shares.
 *
 * Holds: the options of a run, two forked and pinned processes, the start line
 * both wait at, their clocks, and the one JSON line a program prints.
 * Must not know: how bytes move. That is what pipe.c, unix.c, tcp.c, mq.c and
 * shm.c are for; a floor program is the least that its mechanism can cost, so
 * none of them uses naru.
 * Joins: each program calls floor_parse, opens its descriptors or its memory,
 * and hands floor_run two roles. benchmarks/messages.py reads the JSON.
 */
#ifndef FLOOR_H
#define FLOOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FLOOR_BATCH = 64 };

typedef enum floor_side {
    FLOOR_SENDER = 0,
    FLOOR_RECEIVER = 1,
} floor_side;

typedef struct floor_options {
    const char *mechanism; /* set by the program, not by the command line */
    const char *command;   /* stream | trip | large | idle */
    const char *shape;     /* per-message | batch; large: copy | reserve */
    const char *wait;      /* trip: spin | adaptive | futex | eventfd | block */
    const char *read;      /* stream over shm: touch | copy */
    size_t size_bytes;
    size_t capacity_bytes; /* of the ring, the pipe or the socket buffers; 0 leaves the default */
    uint64_t count;
    uint64_t warm_up_count;
    int sender_core;
    int receiver_core;
    double idle_s;
} floor_options;

/* Lives in memory shared by the two processes. */
typedef struct floor_shared {
    _Alignas(64) _Atomic uint32_t arrived;
    _Alignas(64) _Atomic uint32_t phase;
    _Alignas(64) struct {
        uint64_t start_ns;
        uint64_t end_ns;
        uint64_t start_cpu_ns;
        uint64_t end_cpu_ns;
    } clock[2];
} floor_shared;

typedef struct floor_run_state {
    const floor_options *options;
    floor_shared *shared;
    uint64_t *trips_ns; /* shared too: one slot per round trip of the measured pass */
} floor_run_state;

/* A role runs in its own process; it dies by floor_die, never returns an error. */
typedef void (*floor_role)(floor_run_state *run, void *context);

/* Reads the command line; prints the usage and exits 2 when it is wrong. */
floor_options floor_parse(int argc, char **argv, const char *mechanism);

bool floor_is(const char *text, const char *wanted);

/* Prints "floor_<mechanism>: text: strerror(errno)" (no errno part when 0) and exits 1. */
_Noreturn void floor_die(const floor_options *options, const char *text, int error);

/* Memory shared with the processes forked later, already faulted in. */
void *floor_shared_memory(const floor_options *options, size_t size_bytes);

/* Forks both roles, waits for both, prints the JSON line. Exits 1 when either failed. */
int floor_run(const floor_options *options, floor_role sender, floor_role receiver, void *context);

/* Waits until both sides are here, then starts this side's clocks. */
void floor_start(floor_run_state *run, floor_side side);
void floor_stop(floor_run_state *run, floor_side side);

/* Messages of a pass: 0 is the warm-up, 1 is measured. */
uint64_t floor_pass_count(const floor_options *options, int pass);

uint64_t floor_now_ns(void);

/* Every message begins with its number, so that no wrong result looks right. */
static inline void floor_number(void *message, uint64_t sequence) {
    __builtin_memcpy(message, &sequence, sizeof sequence);
}

static inline uint64_t floor_number_of(const void *message) {
    uint64_t sequence;
    __builtin_memcpy(&sequence, message, sizeof sequence);
    return sequence;
}

static inline void floor_check(const floor_options *options, const void *message, uint64_t sequence) {
    if (__builtin_expect(floor_number_of(message) != sequence, 0))
        floor_die(options, "a message is missing, doubled or out of order", 0);
}

static inline void floor_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

#endif
