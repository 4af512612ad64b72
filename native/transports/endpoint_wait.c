/* The one place that waits: a spin, then one sleep on what the transport says. How long to spin is
 * waiting.c's business, which is pure. */
#include "naru/endpoint.h"

#include <errno.h>

/* A waiter looks up this often: for signals while it spins or queues, for a sibling's owner. */
#define SLICE_NS 50000000u
#define FIRST_SLEEP_NS 50000000u
/* Giving up and taking back the lock costs a twentieth of it. */
#define GLANCE_NS 2000u
/* So many messages between two waits are a stream. */
#define STREAM_ROW 3u
#ifndef GATHER_PAUSES
#define GATHER_PAUSES 48 /* about 1 us */
#endif

static bool is_worth_a_try(struct nr_endpoint *e, enum nr_direction direction)
{
    return nr_endpoint_state(e) != NR_OPEN || e->ops->is_ready(e, direction);
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

bool nr_endpoint_spin(struct nr_endpoint *e, enum nr_direction direction, uint64_t budget_ns)
{
    uint64_t until;

    if (is_worth_a_try(e, direction))
        return true;
    until = nr_os_now_ns() + budget_ns;
    do {
        for (int i = 0; i < 16; i++) {
            if (is_worth_a_try(e, direction))
                return true;
            relax();
        }
    } while (nr_os_now_ns() < until);
    return false;
}

/* Two processes in a stream that run at the same pace chase each other: one message, one look, one
 * cache line back and forth. After several messages in a row, stay away from the shared lines for a
 * moment, so that the next look finds several again. A conversation (one message a wait) never
 * comes here, so its latency does not change. */
static void let_some_gather(struct nr_endpoint *e, enum nr_direction direction)
{
    uint64_t done = direction == NR_SEND ? e->statistics.messages_sent
                                         : e->statistics.messages_received;
    uint64_t in_row = done - e->done_before_wait[direction];

    e->done_before_wait[direction] = done;
    if (in_row >= STREAM_ROW)
        for (int i = 0; i < GATHER_PAUSES; i++)
            relax();
}

bool nr_endpoint_glance(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_waiting *waiting = &e->waiting[direction];
    uint64_t started;

    if (!e->ready_is_cheap || e->end_error ||
        nr_waiting_budget_ns(waiting, nr_process_cpu_count()) < GLANCE_NS)
        return false;
    let_some_gather(e, direction);
    started = nr_os_now_ns();
    if (!nr_endpoint_spin(e, direction, GLANCE_NS))
        return false;
    e->statistics.waits[direction]++;
    e->statistics.spins[direction]++;
    nr_waiting_learn(waiting, nr_os_now_ns() - started, true);
    return true;
}

static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Sleeps once, at most until `until`: 1 when something happened, 0 at the time, -errno. */
static int sleep_until(struct nr_endpoint *e, enum nr_direction direction, struct pollfd *fds,
                       int count, uint64_t until)
{
    uint64_t now = nr_os_now_ns();
    int result;

    if (until != NR_FOREVER && now >= until)
        return 0;
    result = nr_os_sleep(fds, (nfds_t)count, until == NR_FOREVER ? NR_FOREVER : until - now);
    e->statistics.sleeps[direction]++;
    return result > 0 ? 1 : result;
}

/* While this process has an unclaimed copy of the other end, its owner is looked for. */
uint64_t nr_endpoint_look_up_interval(const struct nr_endpoint *e)
{
    uint64_t interval = e->check_interval_ns ? e->check_interval_ns : NR_FOREVER;

    return e->pair.sibling ? earlier(interval, SLICE_NS) : interval;
}

/* The other end of a pair may still be on its way to the process that will use it, and that process
 * may take long to start: it is not silent before it has had its time since it used its end. */
static bool is_just_beginning(const struct nr_endpoint *e)
{
    return e->pair.claims && nr_claims_age_ns(e->pair.claims, !e->pair.index) <
                                 NR_CHECKS_OF_SILENCE * e->check_interval_ns;
}

int nr_endpoint_look_up(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_endpoint *sibling = e->pair.sibling;
    int result;

    if (sibling && nr_claims_owner(e->pair.claims, !e->pair.index) != 0)
        return 1; /* the next try, under the lock, drops the copy */
    result = e->ops->check ? e->ops->check(e, direction) : 0;
    return result == -EHOSTDOWN && is_just_beginning(e) ? 0 : result;
}

/* With a limit: NR_LOOK_AT_SIGNALS when nothing has happened after so long. */
static int sleep_in_kernel(struct nr_endpoint *e, enum nr_direction direction, uint64_t deadline_ns,
                           uint64_t limit_ns)
{
    uint64_t limit = limit_ns == NR_FOREVER ? NR_FOREVER : nr_os_now_ns() + limit_ns;
    struct pollfd fds[NR_SLEEP_FDS + 1];
    int count = e->ops->fall_asleep(e, direction, fds);
    int result = 1;

    if (count == 0)
        return 1;
    fds[count++] = (struct pollfd){.fd = nr_process_interrupt_fd(), .events = POLLIN};
    for (;;) {
        uint64_t interval = nr_endpoint_look_up_interval(e);
        uint64_t look = interval == NR_FOREVER ? NR_FOREVER : nr_os_now_ns() + interval;

        result = sleep_until(e, direction, fds, count, earlier(earlier(deadline_ns, look), limit));
        if (result != 0 || deadline_ns <= earlier(look, limit))
            break;
        if (limit != NR_FOREVER && nr_os_now_ns() >= limit) {
            result = NR_LOOK_AT_SIGNALS;
            break;
        }
        result = nr_endpoint_look_up(e, direction);
        if (result != 0)
            break;
    }
    e->ops->wake(e, direction);
    return result;
}

/* Spinning without the lock, in slices, so that the binding sees signals and deaths. */
static int spin_slice(struct nr_endpoint *e, enum nr_direction direction, uint64_t budget_ns)
{
    struct pollfd fds[NR_SLEEP_FDS + 1];
    int count;

    if (nr_endpoint_spin(e, direction, earlier(budget_ns, SLICE_NS)))
        return 1;
    if (budget_ns < SLICE_NS)
        return 0;
    count = e->ops->fall_asleep(e, direction, fds); /* a look at the descriptors: is the peer alive? */
    if (count == 0)
        return 1;
    count = nr_os_sleep(fds, (nfds_t)count, 0);
    e->ops->wake(e, direction);
    if (count > 0)
        return 1;
    count = nr_endpoint_look_up(e, direction);
    return count != 0 ? count : -EINTR;
}

static int wait_in_turn(struct nr_endpoint *e, enum nr_direction direction, uint64_t deadline_ns,
                        uint64_t limit_ns)
{
    struct nr_waiting *waiting = &e->waiting[direction];
    uint64_t started = nr_os_now_ns();
    uint64_t budget = nr_waiting_budget_ns(waiting, nr_process_cpu_count());
    int result;

    e->statistics.waits[direction]++;
    if (deadline_ns <= started)
        return is_worth_a_try(e, direction);
    if (budget > 0) {
        result = spin_slice(e, direction, earlier(budget, deadline_ns - started));
        if (result == 1) {
            e->statistics.spins[direction]++;
            nr_waiting_learn(waiting, nr_os_now_ns() - started, true);
        }
        if (result != 0)
            return result;
        if (deadline_ns <= started + budget)
            return is_worth_a_try(e, direction);
    }
    /* Where looking is a system call, the sleep is the look: it ends at once. */
    if (e->ready_is_cheap ? is_worth_a_try(e, direction) : nr_endpoint_state(e) != NR_OPEN)
        return 1;
    result = sleep_in_kernel(e, direction, deadline_ns, limit_ns);
    if (result == 1)
        nr_waiting_learn(waiting, nr_os_now_ns() - started, false);
    return result;
}

static int end_wait(struct nr_endpoint *e, enum nr_direction direction, int result)
{
    if (direction == NR_RECEIVE && atomic_exchange(&e->waiter, NR_NOBODY_WAITS) == NR_KICKED) {
        nr_process_end_interrupt();
        return 1;
    }
    return result;
}

int nr_endpoint_wait(struct nr_endpoint *e, enum nr_direction direction, uint64_t deadline_ns)
{
    return end_wait(e, direction, wait_in_turn(e, direction, deadline_ns, NR_FOREVER));
}

int nr_endpoint_begin_wait(struct nr_endpoint *e, enum nr_direction direction, uint64_t deadline_ns)
{
    int result = wait_in_turn(e, direction, deadline_ns, FIRST_SLEEP_NS);

    return result == NR_LOOK_AT_SIGNALS ? result : end_wait(e, direction, result);
}

int nr_endpoint_go_on_waiting(struct nr_endpoint *e, enum nr_direction direction,
                              uint64_t deadline_ns)
{
    int result = sleep_in_kernel(e, direction, deadline_ns, NR_FOREVER);

    if (result == 1)
        nr_waiting_learn(&e->waiting[direction], FIRST_SLEEP_NS, false);
    return end_wait(e, direction, result);
}

void nr_endpoint_give_up_waiting(struct nr_endpoint *e, enum nr_direction direction)
{
    (void)end_wait(e, direction, 0);
}

int nr_endpoint_hold(struct nr_endpoint *e, enum nr_direction direction, uint64_t deadline_ns)
{
    uint64_t until = nr_os_now_ns() + SLICE_NS;
    struct timespec limit;
    int error;

    until = earlier(until, deadline_ns);
    limit = (struct timespec){(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    error = pthread_mutex_clocklock(&e->hold[direction], CLOCK_MONOTONIC, &limit);
    if (error == 0)
        return 0;
    return error == ETIMEDOUT && until < deadline_ns ? -EINTR : -error;
}

bool nr_endpoint_try_hold(struct nr_endpoint *e, enum nr_direction direction)
{
    return pthread_mutex_trylock(&e->hold[direction]) == 0;
}

void nr_endpoint_let_go(struct nr_endpoint *e, enum nr_direction direction)
{
    pthread_mutex_unlock(&e->hold[direction]);
}
