/* What a loop over many ends needs of the core: looking at several at once, and waiting for room
 * without sleeping in nr_endpoint_wait(). */
#ifndef NARU_MULTIPLEXING_H
#define NARU_MULTIPLEXING_H

#include "naru/endpoint.h"
#include "naru/os.h"
#include "naru/waiting.h"

#define NR_LOOK_AT_MOST 16
/* Looking at shared memory costs a few ns, the clock 20. */
#define NR_LOOKS_PER_CLOCK 16

static inline void nr_multiplexing_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Is the peer still there, as far as its heartbeats tell? 0 or -errno. */
static inline int nr_check(struct nr_endpoint *e)
{
    if (nr_endpoint_state(e) != NR_OPEN || !e->ops->check)
        return 0;
    return e->ops->check(e, NR_RECEIVE);
}

/* False when it is certain, without a system call, that nothing can be received. */
static inline bool nr_may_have_message(struct nr_endpoint *e)
{
    return nr_endpoint_state(e) != NR_OPEN || !e->ops->ready_is_cheap ||
           e->ops->is_ready(e, NR_RECEIVE);
}

/* The first end that has something to receive, or -1 when none has until `until_ns`. */
static inline int nr_look_at_ends(struct nr_endpoint **ends, int count, uint64_t until_ns)
{
    for (;;) {
        for (int look = 0; look < NR_LOOKS_PER_CLOCK; look++) {
            for (int i = 0; i < count; i++) {
                /* One that was closed meanwhile has no memory to look at any more. */
                if (nr_endpoint_state(ends[i]) != NR_OPEN ||
                    ends[i]->ops->is_ready(ends[i], NR_RECEIVE))
                    return i;
                if (!ends[i]->ops->ready_is_cheap)
                    look = NR_LOOKS_PER_CLOCK;
            }
            nr_multiplexing_relax();
        }
        if (nr_os_now_ns() >= until_ns)
            return -1;
    }
}

/* Fills fds with what to poll until there is room, and returns their number; 0 = there is room.
 * Ended by nr_stop_watching_room(). */
static inline int nr_watch_room(struct nr_endpoint *e, struct pollfd *fds)
{
    return e->ops->fall_asleep(e, NR_SEND, fds);
}

static inline void nr_stop_watching_room(struct nr_endpoint *e) { e->ops->wake(e, NR_SEND); }

#endif
