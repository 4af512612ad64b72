/* naru/engine.h: one thread, one epoll, any number of descriptors and timers.
 *
 * Two levels. This header is the lower one: sources (descriptors with a callback), timers, the loop.
 * Connections, listeners and wire protocols stand on it: naru/protocol.h.
 *
 * Names      A source or a timer is known by a number (nr_source, nr_timer): its place in a table
 *            and the generation of that place. The same number is the event data of epoll. A number
 *            that was removed is refused with -ENOENT for ever after, and an event that the kernel
 *            still reports for it reaches nobody: a closed or reused descriptor never gets
 *            another's event (FAULTS 99).
 * Descriptors belong to the caller: the engine never closes one that it was given as a source. One
 *            source a descriptor (-EEXIST); readable and writable are two bits of one source.
 *            Remove a source before its descriptor is closed. When that was forgotten: the number
 *            reused by another source works, the forgotten source gets no events any more, and its
 *            later removal does not touch the new one. A descriptor that was closed while a copy of
 *            it (dup, a child) keeps the open file alive goes on being reported by the kernel;
 *            the engine then makes itself a new epoll: it never spins on what nobody can remove.
 * A turn     nr_engine_wait() sleeps and collects; nr_engine_dispatch() runs callbacks: the timers
 *            that are due, then the ready sources by priority, each at most once. A callback does a
 *            bounded amount and returns NR_MORE when there is more: it keeps its place at the end
 *            of the ready list, and the next turn looks at the kernel first without sleeping. When
 *            a turn takes longer than settings.turn_ns, the rest of the ready list waits for the
 *            next one, but every priority gets at least one callback a turn: a firehose cannot
 *            starve the quiet (FAULTS 101), an urgent source cannot stop the others.
 * Levels     Events are level-triggered: what was not read is reported again (but for NR_EDGE). A source that wants
 *            nothing (events 0) stays known and is told of a hang-up or a failure once, not for ever.
 * Callbacks  may do anything to the engine: add, change and remove any source or timer, their own
 *            too, and destroy nothing but that: nr_engine_destroy() is not for callbacks. After
 *            nr_source_remove() or nr_timer_cancel() has returned, that callback is not begun again:
 *            what its `data` points to may be freed (the callback's own, when it returns).
 *            A negative return ends the dispatch with that value; what was ready stays ready.
 * Threads    nr_engine_wait(), nr_engine_wake(), nr_engine_stop() and nr_engine_read_statistics()
 *            may run at any time, the first in one thread at a time, the second and third also in a
 *            signal handler. All else is called under one lock of the caller (Python: the GIL),
 *            which need not be held in nr_engine_wait(): a source or timer that another thread adds
 *            while this one sleeps takes effect at once.
 *            nr_engine_run() holds no lock: while it runs, only its callbacks may use the engine.
 * Fork       An engine belongs to the process that created it. In a forked child everything but
 *            nr_engine_destroy() returns -ECHILD, and the parent's engine does not notice.
 * Clock      CLOCK_MONOTONIC (nr_os_now_ns()). It stands still while the machine is suspended, so
 *            nothing is due at once after a resume. A period that could not be served (a stopped
 *            process, a slow callback) is missed, not made up for: the callback runs once, is told
 *            how many it missed, and keeps to the grid of its first due time (FAULTS 105).
 * Errors     0 or more, or -errno: -ENOENT no such source or timer (any more), -EEXIST the
 *            descriptor has a source, -EPERM a regular file or a directory (always ready: read it),
 *            -EBADF, -ELOOP (an epoll in a ring of epolls), -ENOSPC max_user_watches of epoll(7),
 *            -ENOMEM, -EINVAL, -ECHILD another process's engine, -EMFILE.
 *            After an error nothing has changed.
 */
#ifndef NARU_ENGINE_H
#define NARU_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "naru/os.h"

struct nr_engine;

/* generation << 32 | place. 0 is never one. */
typedef uint64_t nr_source;
typedef uint64_t nr_timer;

enum nr_event {
    NR_READABLE = 1u << 0,
    NR_WRITABLE = 1u << 1,
    NR_PEER_ENDED = 1u << 2, /* a socket's peer sends no more (EPOLLRDHUP); comes with NR_READABLE */
    NR_HANGUP = 1u << 3,     /* both directions are over (EPOLLHUP) */
    NR_FAILED = 1u << 4,     /* nr_os_socket_error() says how (EPOLLERR) */
    NR_URGENT_DATA = 1u << 5, /* EPOLLPRI: out-of-band bytes; sysfs and cgroup notifications */
};
/* What a caller may ask for. The others come unasked, and only once when nothing is asked for. */
#define NR_EVENTS_WANTED (NR_READABLE | NR_WRITABLE | NR_PEER_ENDED | NR_URGENT_DATA)

enum nr_source_flags {
    /* After an event the source is silent until nr_source_change(); nothing that happens between is
     * lost, because the change looks at the level again (FAULTS 102). */
    NR_ONE_SHOT = 1u << 0,
    /* Edge-triggered: told once of each change. Its callback goes on until -EAGAIN, or answers NR_MORE.
     * For those who would else change their events all the time. */
    NR_EDGE = 1u << 1,
};

#define NR_PRIORITIES 4u
#define NR_PRIORITY_FIRST 0u
#define NR_PRIORITY_USUAL 2u
#define NR_PRIORITY_LAST 3u

/* What callbacks return; a negative value ends the dispatch. */
enum { NR_DONE = 0, NR_MORE = 1 };

/* `events` is never 0. NR_MORE: call me again in the next turn with the same events, whether or not
 * the kernel reports any (which it adds). */
typedef int (*nr_source_callback)(struct nr_engine *, nr_source, uint32_t events, void *data);
/* `missed`: periods that went by unserved before this one. The return value NR_MORE means nothing. */
typedef int (*nr_timer_callback)(struct nr_engine *, nr_timer, uint64_t missed, void *data);
/* In the engine's thread, within the turn after one or more nr_engine_wake(). */
typedef int (*nr_wake_callback)(struct nr_engine *, void *data);

struct nr_engine_settings {
    uint64_t turn_ns;       /* 0: 2 ms */
    uint32_t events_a_wait; /* 0: 256; at most 65,536 */
};

/* Counted since the engine was created. Turns of which nothing was due are wake-ups without use. */
struct nr_engine_statistics {
    uint64_t waits;       /* calls of the kernel's wait */
    uint64_t sleeps;      /* of those: that were allowed to sleep */
    uint64_t wakeups;     /* sleeps that ended with at least one event */
    uint64_t turns;       /* dispatches with something to do */
    uint64_t events;      /* reported by the kernel */
    uint64_t stale_events; /* of those: for a source that is gone; nobody got them */
    uint64_t callbacks;   /* of sources */
    uint64_t timers_fired;
    uint64_t timers_missed; /* periods that were skipped */
    uint64_t wakes;       /* nr_engine_wake() seen */
    uint64_t rebuilds;    /* new epolls, because of descriptors closed behind the engine's back */
    uint64_t source_count, timer_count; /* now */
    uint64_t busy_ns;     /* in callbacks, all turns together */
    uint64_t turn_longest_ns; /* what a ready source may have waited at most */
    uint64_t turn_ns_log2[40]; /* turns that took [2^i, 2^(i+1)) ns */
};

/* 0, or -EMFILE, -ENFILE, -ENOMEM, -EINVAL. Takes three descriptors: epoll, timer, wake-up. */
int nr_engine_create(const struct nr_engine_settings *, struct nr_engine **);
/* Frees all; sources' descriptors stay open. NULL is nothing. In a forked child: this copy only. */
void nr_engine_destroy(struct nr_engine *);
/* The descriptor that is readable when the engine has something to do: for an engine within another
 * loop. The outer loop calls nr_engine_run_once(engine, 0). After a rebuild (statistics.rebuilds) the
 * number is the same and the open file another: it has to be registered there again. -ECHILD. */
int nr_engine_fileno(const struct nr_engine *);

/* ---- sources ---- */

int nr_source_add(struct nr_engine *, int fd, uint32_t events, unsigned priority, uint32_t flags,
                  nr_source_callback, void *data, nr_source *source);
/* Other events; also re-arms a one-shot source. What is no longer wanted is not delivered any more,
 * even if it was ready. */
int nr_source_change(struct nr_engine *, nr_source, uint32_t events);
int nr_source_set_priority(struct nr_engine *, nr_source, unsigned priority);
int nr_source_remove(struct nr_engine *, nr_source);
/* Puts it on the ready list by hand: its next bytes are already in user space, where the kernel does
 * not see them. Ends a sleep in another thread. */
int nr_source_make_ready(struct nr_engine *, nr_source, uint32_t events);
/* Its descriptor, or -ENOENT. -EBADF: forgotten by its owner, and the number was reused. */
int nr_source_fileno(const struct nr_engine *, nr_source);

/* ---- timers ---- */

/* At `due_ns` (nr_os_now_ns(); the past: in the next turn), then every `period_ns` unless that is 0:
 * a one-shot timer's number is gone when its callback runs. Never early. Timers of the same instant
 * fire in the order in which they were started. A timer started by a callback fires in a later turn. */
int nr_timer_start(struct nr_engine *, uint64_t due_ns, uint64_t period_ns, nr_timer_callback,
                   void *data, nr_timer *timer);
int nr_timer_move(struct nr_engine *, nr_timer, uint64_t due_ns);
int nr_timer_cancel(struct nr_engine *, nr_timer);
/* When it is due, or 0 when there is no such timer. */
uint64_t nr_timer_due_ns(const struct nr_engine *, nr_timer);

/* ---- the loop ---- */

/* Sleeps until something is ready, a timer is due, nr_engine_wake(), or `deadline_ns` (nr_os_now_ns(),
 * 0: do not sleep, NR_FOREVER). Runs no callback and touches nothing that the lock protects.
 * 1: there is something to dispatch; 0: the deadline; -EINTR: a signal came, call again after
 * looking at it; -ECHILD. */
int nr_engine_wait(struct nr_engine *, uint64_t deadline_ns);
/* One turn: how many callbacks ran, or the negative value of the one that ended it. */
int nr_engine_dispatch(struct nr_engine *);
/* Both, for callers without a lock. */
int nr_engine_run_once(struct nr_engine *, uint64_t deadline_ns);
/* Turns until the deadline (0), nr_engine_stop() (1), a signal (-EINTR), a callback's negative
 * value. A stop before the run counts: it is not lost, and is used up by the return. SIGPIPE is held
 * back in this thread meanwhile. */
int nr_engine_run(struct nr_engine *, uint64_t deadline_ns);
void nr_engine_stop(struct nr_engine *);
/* For bindings that have their own loop around wait and dispatch: true once a stop. */
bool nr_engine_take_stop(struct nr_engine *);

/* Ends a sleep, or the next one. Many wakes before the next turn are one. */
void nr_engine_wake(struct nr_engine *);
/* Runs the callback in the turn that a wake began; NULL: nothing but the wake-up itself. */
void nr_engine_on_wake(struct nr_engine *, nr_wake_callback, void *data);

void nr_engine_read_statistics(const struct nr_engine *, struct nr_engine_statistics *);

#endif
