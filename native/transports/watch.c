/* Waiting for an endpoint from within somebody else's loop: see watch.h. */
#include "naru/watch.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

/* Who looks and never sleeps asks so often whether the peer lives. */
#define CHECK_NS 50000000u
/* So many events that nobody waits for, and the kernel is told not to report them. One or two come
 * with every wait that ended before it slept, and are cheaper than telling it. */
#define IDLE_EVENTS 8u
/* shm: two bells and a lifeline; a socket or two; a fan-in's epoll and bell. */
#define MEMBERS (2 * NR_SLEEP_FDS)
#define KICK UINT32_MAX /* the tag of the bell */

struct member {
    int fd;
    uint32_t wanted[2];  /* by direction; 0: that direction does not sleep on it */
    uint32_t registered; /* what the kernel reports */
};

struct nr_watch {
    struct nr_endpoint *endpoint;
    int epoll;
    int bell;        /* rung by a kick; -1 where none can come */
    unsigned kicked; /* a mask of directions that were armed */
    bool armed[2];
    unsigned idle_events;
    uint64_t started_ns[2], checked_ns[2];
    unsigned count;
    struct member members[MEMBERS];
};

static void close_watch(struct nr_watch *w)
{
    if (w->epoll >= 0)
        nr_os_close(w->epoll);
    if (w->bell >= 0)
        nr_os_close(w->bell);
    free(w);
}

/* For an endpoint that can move: what it sleeps on may be closed under it. */
static int hang_bell(struct nr_watch *w)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = KICK};

    w->bell = nr_os_eventfd();
    if (w->bell < 0)
        return w->bell;
    return epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->bell, &event) < 0 ? -errno : 0;
}

int nr_watch_open(struct nr_endpoint *e, struct nr_watch **out)
{
    struct nr_watch *w = calloc(1, sizeof *w);
    int result = 0;

    if (!w)
        return -ENOMEM;
    w->endpoint = e;
    w->bell = -1;
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (w->epoll < 0)
        result = -errno;
    else if (e->inner)
        result = hang_bell(w);
    if (result < 0) {
        close_watch(w);
        return result;
    }
    e->watch = w;
    *out = w;
    return 0;
}

int nr_watch_fileno(const struct nr_watch *w) { return w->epoll; }

static bool is_open(const struct nr_watch *w) { return nr_endpoint_state(w->endpoint) == NR_OPEN; }

static void learn(struct nr_watch *w, enum nr_direction direction, bool by_spinning)
{
    nr_waiting_learn(&w->endpoint->waiting[direction],
                     nr_os_now_ns() - w->started_ns[direction], by_spinning);
    if (by_spinning)
        w->endpoint->statistics.spins[direction]++;
    else
        w->endpoint->statistics.sleeps[direction]++;
}

/* ---- spinning ---- */

int nr_watch_begin(struct nr_watch *w, enum nr_direction direction, uint64_t most_ns)
{
    struct nr_endpoint *e = w->endpoint;
    uint64_t budget = nr_waiting_budget_ns(&e->waiting[direction], nr_process_cpu_count());

    if (!is_open(w))
        return 1; /* the next try says what it is */
    e->statistics.waits[direction]++;
    w->started_ns[direction] = w->checked_ns[direction] = nr_os_now_ns();
    if (budget > most_ns)
        budget = most_ns;
    if (budget == 0 || !nr_endpoint_spin(e, direction, budget))
        return 0;
    learn(w, direction, true);
    return 1;
}

/* ---- sleeping, and the looks of those who do not ---- */

static int report(struct nr_watch *w, unsigned place, uint32_t events)
{
    struct member *member = &w->members[place];
    struct epoll_event event = {.events = events | EPOLLET, .data.u32 = place};

    if (epoll_ctl(w->epoll, EPOLL_CTL_MOD, member->fd, &event) < 0)
        return -errno;
    member->registered = events;
    return 0;
}

static int add_member(struct nr_watch *w, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events | EPOLLET, .data.u32 = w->count};

    if (w->count == MEMBERS)
        return -ENOBUFS;
    if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        return -errno;
    w->members[w->count++] = (struct member){.fd = fd, .registered = events};
    return 0;
}

static int want(struct nr_watch *w, enum nr_direction direction, const struct pollfd *fd)
{
    uint32_t events = (uint32_t)(uint16_t)fd->events; /* poll(2) and epoll(7) share the numbers */
    unsigned place = 0;
    int result = 0;

    while (place < w->count && w->members[place].fd != fd->fd)
        place++;
    if (place == w->count)
        result = add_member(w, fd->fd, events);
    else if (events & ~w->members[place].registered)
        result = report(w, place, events | w->members[place].wanted[!direction]);
    if (result == 0)
        w->members[place].wanted[direction] = events;
    return result;
}

static int want_all(struct nr_watch *w, enum nr_direction direction, const struct pollfd *fds,
                    int count)
{
    for (unsigned i = 0; i < w->count; i++)
        w->members[i].wanted[direction] = 0;
    for (int i = 0; i < count; i++) {
        int result = want(w, direction, &fds[i]);

        if (result < 0)
            return result;
    }
    return 0;
}

static void disarm(struct nr_watch *w, enum nr_direction direction)
{
    w->armed[direction] = false;
    if (is_open(w))
        w->endpoint->ops->wake(w->endpoint, direction);
}

void nr_watch_kick(struct nr_watch *w)
{
    for (int direction = 0; direction < 2; direction++)
        if (w->armed[direction]) {
            w->kicked |= 1u << direction;
            disarm(w, (enum nr_direction)direction);
        }
    while (w->count > 0) /* now, because their numbers may soon be others' */
        (void)epoll_ctl(w->epoll, EPOLL_CTL_DEL, w->members[--w->count].fd, NULL);
    if (w->kicked && w->bell >= 0)
        (void)nr_os_eventfd_ring(w->bell);
}

int nr_watch_arm(struct nr_watch *w, enum nr_direction direction)
{
    struct nr_endpoint *e = w->endpoint;
    struct pollfd fds[NR_SLEEP_FDS + 1];
    int count, result;

    if (!is_open(w))
        return 1;
    count = e->ops->fall_asleep(e, direction, fds);
    if (count == 0)
        return 1;
    result = want_all(w, direction, fds, count);
    if (result == 0) /* an edge tells of what comes from now on; of what is there, this */
        result = nr_os_sleep(fds, (nfds_t)count, 0);
    if (result != 0) {
        disarm(w, direction);
        return result > 0 || result == -EINTR ? 1 : result;
    }
    w->armed[direction] = true;
    return 0;
}

int nr_watch_glance(struct nr_watch *w, enum nr_direction direction)
{
    uint64_t now;
    int result;

    if (!is_open(w))
        return 1;
    if (w->endpoint->ops->is_ready(w->endpoint, direction)) {
        learn(w, direction, true);
        return 1;
    }
    now = nr_os_now_ns();
    if (now - w->checked_ns[direction] < CHECK_NS)
        return 0;
    w->checked_ns[direction] = now;
    result = nr_watch_arm(w, direction);
    if (result != 0)
        return result;
    disarm(w, direction);
    return nr_watch_check(w, direction);
}

static unsigned fired_by(const struct nr_watch *w, const struct member *member, uint32_t events)
{
    unsigned fired = 0;

    for (int direction = 0; direction < 2; direction++)
        if (w->armed[direction] && member->wanted[direction] &&
            events & (member->wanted[direction] | EPOLLERR | EPOLLHUP))
            fired |= 1u << direction;
    return fired;
}

static uint32_t armed_events(const struct nr_watch *w, const struct member *member)
{
    return (w->armed[0] ? member->wanted[0] : 0) | (w->armed[1] ? member->wanted[1] : 0);
}

int nr_watch_look(struct nr_watch *w)
{
    struct epoll_event events[MEMBERS + 1];
    unsigned fired = 0;
    int count;

    if (!is_open(w))
        return 3;
    do
        count = epoll_wait(w->epoll, events, MEMBERS + 1, 0);
    while (count < 0 && errno == EINTR);
    if (count < 0)
        return -errno;
    for (int i = 0; i < count; i++) {
        unsigned place = events[i].data.u32;
        unsigned by_this;

        if (place == KICK)
            continue;
        by_this = fired_by(w, &w->members[place], events[i].events);

        fired |= by_this;
        if (by_this)
            w->idle_events = 0;
        else if (++w->idle_events >= IDLE_EVENTS)
            (void)report(w, place, armed_events(w, &w->members[place]));
    }
    for (int direction = 0; direction < 2; direction++)
        if (fired & 1u << direction) {
            learn(w, direction, false);
            disarm(w, direction);
        }
    if (w->kicked) {
        (void)nr_os_eventfd_drain(w->bell);
        fired |= w->kicked;
        w->kicked = 0;
    }
    return (int)fired;
}

uint64_t nr_watch_interval_ns(const struct nr_watch *w)
{
    return is_open(w) ? nr_endpoint_look_up_interval(w->endpoint) : NR_FOREVER;
}

int nr_watch_check(struct nr_watch *w, enum nr_direction direction)
{
    return is_open(w) ? nr_endpoint_look_up(w->endpoint, direction) : 1;
}

void nr_watch_close(struct nr_watch *w)
{
    for (int direction = 0; direction < 2; direction++)
        if (w->armed[direction])
            disarm(w, direction);
    w->endpoint->watch = NULL;
    close_watch(w);
}
