/* The loop: waiting, turns, wake-ups, the statistics. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "parts.h"

#define ALIVE_BYTES 4096u
#define USUAL_TURN_NS 2000000u
#define USUAL_EVENTS 256u
#define MOST_EVENTS 65536u

/* ---- life ---- */

static int open_descriptors(struct nr_engine *engine)
{
    engine->epoll = nr_os_epoll();
    if (engine->epoll < 0)
        return engine->epoll;
    engine->timer = nr_os_timer();
    if (engine->timer < 0)
        return engine->timer;
    engine->bell = nr_os_eventfd();
    return engine->bell < 0 ? engine->bell : 0;
}

static int register_own(const struct nr_engine *engine, int epoll)
{
    int result = nr_os_epoll_change(epoll, EPOLL_CTL_ADD, engine->bell, EPOLLIN, NR_DATA_WAKE);

    if (result < 0)
        return result;
    return nr_os_epoll_change(epoll, EPOLL_CTL_ADD, engine->timer, EPOLLIN, NR_DATA_TIMER);
}

static void close_descriptor(int fd)
{
    if (fd >= 0)
        nr_os_close(fd);
}

static int open_engine(struct nr_engine *engine)
{
    void *alive;
    int result = nr_os_map_private(ALIVE_BYTES, &alive);

    if (result < 0)
        return result;
    *(uint32_t *)alive = NR_ALIVE;
    engine->alive = alive;
    result = open_descriptors(engine);
    if (result < 0)
        return result;
    return register_own(engine, engine->epoll);
}

int nr_engine_create(const struct nr_engine_settings *settings, struct nr_engine **created)
{
    uint32_t room = settings && settings->events_a_wait ? settings->events_a_wait : USUAL_EVENTS;
    struct nr_engine *engine;
    int result;

    if (room > MOST_EVENTS)
        return -EINVAL;
    engine = calloc(1, sizeof *engine);
    if (!engine)
        return -ENOMEM;
    engine->epoll = engine->timer = engine->bell = -1;
    engine->turn_ns = settings && settings->turn_ns ? settings->turn_ns : USUAL_TURN_NS;
    engine->room = (int)room;
    nr_sources_init(&engine->sources);
    nr_timers_init(&engine->timers);
    engine->events = calloc(room, sizeof *engine->events);
    result = engine->events ? open_engine(engine) : -ENOMEM;
    if (result < 0) {
        nr_engine_destroy(engine);
        return result;
    }
    *created = engine;
    return 0;
}

void nr_engine_destroy(struct nr_engine *engine)
{
    if (!engine)
        return;
    /* Closing is enough: in a forked child a removal would reach the parent's epoll. */
    close_descriptor(engine->epoll);
    close_descriptor(engine->timer);
    close_descriptor(engine->bell);
    if (engine->alive)
        nr_os_unmap((void *)engine->alive, ALIVE_BYTES);
    nr_sources_destroy(&engine->sources);
    nr_timers_destroy(&engine->timers);
    free(engine->events);
    free(engine);
}

int nr_engine_fileno(const struct nr_engine *engine)
{
    return nr_engine_is_foreign(engine) ? -ECHILD : engine->epoll;
}

/* ---- waking ---- */

void nr_engine_wake(struct nr_engine *engine)
{
    int saved = errno; /* it may be called by a signal handler */

    /* pairs with: see_wake(), which drains the bell before it lowers the flag */
    if (!atomic_exchange(&engine->rung, true))
        (void)nr_os_eventfd_ring(engine->bell);
    errno = saved;
}

void nr_engine_on_wake(struct nr_engine *engine, nr_wake_callback callback, void *data)
{
    engine->on_wake = callback;
    engine->on_wake_data = data;
}

static int see_wake(struct nr_engine *engine)
{
    (void)nr_os_eventfd_drain(engine->bell);
    atomic_store(&engine->rung, false); /* pairs with: nr_engine_wake() */
    nr_count(&engine->statistics.wakes, 1);
    return engine->on_wake ? engine->on_wake(engine, engine->on_wake_data) : 0;
}

void nr_engine_stop(struct nr_engine *engine)
{
    atomic_store(&engine->stopped, true);
    nr_engine_wake(engine);
}

bool nr_engine_take_stop(struct nr_engine *engine)
{
    return atomic_load_explicit(&engine->stopped, memory_order_relaxed) &&
           atomic_exchange(&engine->stopped, false);
}

/* ---- waiting ---- */

static bool has_ready(const struct nr_engine *engine)
{
    return atomic_load_explicit(&engine->sources.ready_count, memory_order_relaxed) > 0;
}

static uint64_t time_left_ns(uint64_t deadline_ns)
{
    uint64_t now;

    if (deadline_ns == 0 || deadline_ns == NR_FOREVER)
        return deadline_ns;
    now = nr_os_now_ns();
    return deadline_ns > now ? deadline_ns - now : 0;
}

int nr_engine_wait(struct nr_engine *engine, uint64_t deadline_ns)
{
    uint64_t timeout_ns = time_left_ns(deadline_ns);
    int got;

    if (nr_engine_is_foreign(engine))
        return -ECHILD;
    if (atomic_load_explicit(&engine->collected, memory_order_relaxed) > 0)
        return 1;
    /* pairs with: nr_source_make_ready(): it lists, then looks at `asleep`; here the other way */
    atomic_store(&engine->asleep, true);
    if (atomic_load(&engine->sources.ready_count) > 0)
        timeout_ns = 0;
    nr_count(&engine->statistics.waits, 1);
    if (timeout_ns > 0)
        nr_count(&engine->statistics.sleeps, 1);
    got = nr_os_epoll_wait(engine->epoll, engine->events, engine->room, timeout_ns);
    atomic_store_explicit(&engine->asleep, false, memory_order_relaxed);
    if (got < 0)
        return got;
    if (got > 0 && timeout_ns > 0)
        nr_count(&engine->statistics.wakeups, 1);
    atomic_store_explicit(&engine->collected, got, memory_order_relaxed);
    return got > 0 || has_ready(engine);
}

/* ---- a turn ---- */

/* Some descriptor was closed while a copy of it lives: the kernel reports it, and it cannot be removed
 * by its number any more. A new epoll has only what is known. */
static void rebuild(struct nr_engine *engine)
{
    int epoll = nr_os_epoll();

    if (epoll < 0)
        return; /* no descriptor free: at the next turn again */
    if (register_own(engine, epoll) == 0 && nr_sources_register_all(engine, epoll) == 0 &&
        nr_os_duplicate_onto(epoll, engine->epoll) >= 0) {
        engine->stale_turns = 0;
        nr_count(&engine->statistics.rebuilds, 1);
    }
    nr_os_close(epoll);
}

static int collect(struct nr_engine *engine)
{
    int count = atomic_load_explicit(&engine->collected, memory_order_relaxed), kept = 0;
    uint64_t stale = engine->statistics.stale_events;
    bool woken = false;

    for (int i = 0; i < count; i++) {
        if (engine->events[i].data.u64 == NR_DATA_WAKE)
            woken = true;
        else if (engine->events[i].data.u64 == NR_DATA_TIMER)
            engine->timer_expired = true;
        else
            engine->events[kept++] = engine->events[i];
    }
    atomic_store_explicit(&engine->collected, 0, memory_order_relaxed);
    nr_count(&engine->statistics.events, (uint64_t)count);
    nr_sources_collect(engine, engine->events, kept);
    if (engine->statistics.stale_events == stale)
        engine->stale_turns = 0;
    else if (++engine->stale_turns >= NR_STALE_TURNS_MOST)
        rebuild(engine);
    engine->turn++; /* from here on, what is put on a ready list is for the next turn */
    return woken ? see_wake(engine) : 0;
}

static int run_callbacks(struct nr_engine *engine, uint64_t start_ns)
{
    int woken = collect(engine);
    int fired, ran;

    if (woken < 0)
        return woken;
    fired = nr_timers_run(engine, start_ns);
    if (fired < 0)
        return fired;
    ran = nr_sources_run(engine, start_ns + engine->turn_ns);
    return ran < 0 ? ran : fired + ran;
}

static void count_turn(struct nr_engine *engine, uint64_t took_ns)
{
    struct nr_engine_statistics *statistics = &engine->statistics;
    unsigned power = took_ns ? 63u - (unsigned)__builtin_clzll(took_ns) : 0;

    nr_count(&statistics->turns, 1);
    nr_count(&statistics->busy_ns, took_ns);
    nr_count(&statistics->turn_ns_log2[power < 40 ? power : 39], 1);
    if (took_ns > statistics->turn_longest_ns)
        nr_count(&statistics->turn_longest_ns, took_ns - statistics->turn_longest_ns);
}

int nr_engine_dispatch(struct nr_engine *engine)
{
    int result;

    if (nr_engine_is_foreign(engine))
        return -ECHILD;
    if (engine->dispatching)
        return -EINVAL; /* a callback that runs the loop would run itself */
    engine->dispatching = true;
    engine->turn_start_ns = nr_os_now_ns();
    result = run_callbacks(engine, engine->turn_start_ns);
    engine->dispatching = false;
    if (engine->timer_expired ||
        (engine->timers.count && engine->timers.heap[0].due_ns < engine->timers.armed_ns)) {
        engine->timer_expired = false;
        nr_timers_rearm(engine);
    }
    count_turn(engine, nr_os_now_ns() - engine->turn_start_ns);
    return result;
}

int nr_engine_run_once(struct nr_engine *engine, uint64_t deadline_ns)
{
    int result = nr_engine_wait(engine, deadline_ns);

    return result < 0 ? result : nr_engine_dispatch(engine);
}

static int run_turns(struct nr_engine *engine, uint64_t deadline_ns)
{
    for (;;) {
        int result = 1;

        if (nr_engine_take_stop(engine))
            return result;
        result = nr_engine_wait(engine, deadline_ns);
        if (result > 0)
            result = nr_engine_dispatch(engine);
        if (result < 0)
            return result; /* a stop that came with it waits for the next run */
        if (deadline_ns != NR_FOREVER && nr_os_now_ns() >= deadline_ns)
            return nr_engine_take_stop(engine);
    }
}

int nr_engine_run(struct nr_engine *engine, uint64_t deadline_ns)
{
    struct nr_held_sigpipe sigpipe;
    int result;

    nr_os_hold_sigpipe(&sigpipe); /* splice(2) of its protocols */
    result = run_turns(engine, deadline_ns);
    nr_os_release_sigpipe(&sigpipe, true);
    return result;
}

void nr_engine_read_statistics(const struct nr_engine *engine, struct nr_engine_statistics *copy)
{
    const uint64_t *from = (const uint64_t *)&engine->statistics;
    uint64_t *to = (uint64_t *)copy;

    for (size_t i = 0; i < sizeof *copy / sizeof *to; i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
