/* naru/crashpoint.h: named instants at which a test may make this process die, stop or dawdle.
 *
 * NR_CRASHPOINT(n) is nothing at all unless the core is compiled with -DNR_TEST. Then the
 * environment says what happens, and only where:
 *
 *     NARU_CRASHPOINT=n[:action[@k]]       n = 0 means every point; k: the k-th time only (1)
 *
 *     abort    SIGKILL to oneself: nothing is cleaned up, no core file is written (the default)
 *     stop     SIGSTOP to oneself
 *     sleep    100 ms
 *     jitter   a random short delay, each time: widens every window that two processes race in
 *
 * It knows no ring and no transport; it only lists their points, so that a number is used once. */
#ifndef NARU_CRASHPOINT_H
#define NARU_CRASHPOINT_H

enum nr_crashpoint {
    /* ring.h, ring.c: the producer */
    NR_AT_RESERVED = 1,            /* room was found, nothing is written */
    NR_AT_COMMIT = 2,              /* the payload is written, its header is not */
    NR_AT_COMMITTED = 3,           /* the header is written, the position has not moved */
    NR_AT_PUBLISH = 4,             /* the record is complete, the tail has not moved */
    NR_AT_PUBLISHED = 5,           /* the tail has moved, nobody was woken */
    NR_AT_CONSUMER_CALLED = 6,     /* consumer_sleeps is taken back, its doorbell is silent */
    NR_AT_PRODUCER_ANNOUNCED = 7,  /* producer_wants is written, the second look is to come */
    NR_AT_PRODUCER_LOOKED = 8,     /* there was no room: it goes to sleep */
    /* ring.h, ring.c: the consumer */
    NR_AT_NEXT = 9,                /* a record was found, the cursor has not moved */
    NR_AT_TAKEN = 10,              /* the cursor has moved */
    NR_AT_RELEASE = 11,            /* the head has not moved */
    NR_AT_RELEASED = 12,           /* the head has moved, nobody was woken */
    NR_AT_PRODUCER_CALLED = 13,    /* producer_wants is taken back, its doorbell is silent */
    NR_AT_CONSUMER_ANNOUNCED = 14, /* consumer_sleeps is written, the second look is to come */
    NR_AT_CONSUMER_LOOKED = 15,    /* there was no record: it goes to sleep */
    /* segment.c: the creator */
    NR_AT_SEGMENT_MADE = 16,       /* the memfd exists and is empty */
    NR_AT_SEGMENT_ALLOCATED = 17,  /* it has its size and is all zeroes */
    NR_AT_SEGMENT_WRITTEN = 18,    /* its header is written, it is not sealed */
    NR_AT_SEGMENT_SEALED = 19,     /* it is complete, nobody else knows it */
    /* memory/table*.c: a writer, with the mutex of a shard */
    NR_AT_TABLE_ALLOCATED = 20,    /* the file has its size, it has no header */
    NR_AT_TABLE_LOCKED = 21,       /* nothing is changed */
    NR_AT_TABLE_TAIL = 22,         /* no slot points to the oldest record, the tail has not moved */
    NR_AT_TABLE_TAIL_MOVED = 23,   /* its room is free, nothing is written over it */
    NR_AT_TABLE_FILLED = 24,       /* the head has passed a filler */
    NR_AT_TABLE_WRITTEN = 25,      /* a record is written, the head has not moved */
    NR_AT_TABLE_HEAD = 26,         /* the head has passed it, no slot points to it */
    NR_AT_TABLE_INTENT = 27,       /* the intent is written, the slot is not */
    NR_AT_TABLE_CHANGED = 28,      /* the slot is written, the sums are not */
    NR_AT_TABLE_SUMS = 29,         /* some of the sums are written */
    NR_AT_TABLE_UNLOCK = 30,       /* all is done, the mutex is held */
    NR_AT_TABLE_OWNER_DIED = 31,   /* the dead holder's mutex is ours, nothing is repaired */
    NR_AT_TABLE_RECOVERED = 32,    /* all is repaired, the mutex is not consistent */
    NR_AT_TABLE_EMPTYING = 33,     /* half of the slots are cleared */
    NR_AT_TABLE_CLAIM = 34,        /* a claim is written but for its pid */
    NR_AT_TABLE_GAP_TAKEN = 35,    /* a gap is nobody's, nothing is written into it */
    NR_AT_TABLE_GAP_WRITTEN = 36,  /* its record is whole, no slot points to it */
    NR_AT_TABLE_GAP_LEFT = 37,     /* a replaced record is a filler, no gap is known there */
    NR_AT_TABLE_NOTED = 38,        /* a change is noted for who watches, and not made */
    NR_AT_TABLE_SLOT_READ = 39,    /* a reader knows where a record was, it has not looked there */
    NR_CRASHPOINTS
};

#ifndef NR_TEST
#define NR_CRASHPOINT(n) ((void)0)
#else
#define NR_CRASHPOINT(n) nr_crashpoint_reached(n)

#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { NR_CRASHPOINT_UNREAD = -2, NR_CRASHPOINT_NONE = -1, NR_CRASHPOINT_EVERY = 0 };

struct nr_crashpoint_plan {
    _Atomic int point;
    _Atomic int action; /* 'a'bort, 's'top, 'z' sleep, 'j'itter */
    _Atomic int times;  /* how often the point is still passed until it acts */
};

/* Weak: every file that reaches a point brings the plan along, and all of them share one. */
__attribute__((weak)) struct nr_crashpoint_plan nr_crashpoint_plan = {NR_CRASHPOINT_UNREAD, 'a', 1};

/* Sets the plan from "n[:action[@k]]", NULL or "" for none. A wrong text ends the process: a test
 * that silently tests nothing is worse. */
static inline int nr_crashpoint_arm(const char *text)
{
    static const char *const names[] = {"abort", "stop", "sleep", "jitter"};
    static const char letters[] = "aszj";
    int point = NR_CRASHPOINT_NONE, times = 1, action = 'a';

    if (text && *text) {
        char name[8] = "abort";
        int fields = sscanf(text, "%d:%7[a-z]@%d", &point, name, &times);

        for (action = 0; action < 4 && strcmp(names[action], name) != 0; action++)
            continue;
        if (fields < 1 || point < 0 || times < 1 || action == 4) {
            fprintf(stderr, "NARU_CRASHPOINT=%s: n[:abort|stop|sleep|jitter[@k]] is due\n", text);
            _exit(2);
        }
        action = letters[action];
    }
    atomic_store_explicit(&nr_crashpoint_plan.action, action, memory_order_relaxed);
    atomic_store_explicit(&nr_crashpoint_plan.times, times, memory_order_relaxed);
    atomic_store_explicit(&nr_crashpoint_plan.point, point, memory_order_relaxed);
    return point;
}

static inline void nr_crashpoint_delay(void)
{
    static _Thread_local uint32_t state;

    if (state == 0) /* each thread its own sequence */
        state = (uint32_t)(uintptr_t)&state | 1u;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    /* mostly nothing or little: a delay at every point would only make everything slow */
    for (volatile uint32_t i = state % 8 == 0 ? state >> 8 & 2047u : 0; i > 0; i--)
        continue;
}

static inline void nr_crashpoint_reached(int n)
{
    int point = atomic_load_explicit(&nr_crashpoint_plan.point, memory_order_relaxed);
    int action;

    if (point == NR_CRASHPOINT_UNREAD)
        point = nr_crashpoint_arm(getenv("NARU_CRASHPOINT"));
    if (point != n && point != NR_CRASHPOINT_EVERY)
        return;
    action = atomic_load_explicit(&nr_crashpoint_plan.action, memory_order_relaxed);
    if (action == 'j') {
        nr_crashpoint_delay();
        return;
    }
    if (atomic_fetch_sub_explicit(&nr_crashpoint_plan.times, 1, memory_order_relaxed) != 1)
        return;
    if (action == 'a')
        kill(getpid(), SIGKILL);
    else if (action == 's')
        kill(getpid(), SIGSTOP);
    else
        nanosleep(&(struct timespec){0, 100000000}, NULL);
}

#endif
#endif
