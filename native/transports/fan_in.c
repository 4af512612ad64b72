/* One receiver over many connections, one for each sender.
 *
 * No lock and no memory is shared by senders, so one that dies leaves nothing half-done for the
 * others. The children are drained in turn, at most TURN messages each. Children that live in memory
 * (shm) are asked directly and share one doorbell; the others are found by epoll. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "naru/transports.h"

#define TURN 64
#define EVENTS_A_CALL 64

struct child {
    struct nr_endpoint *endpoint; /* NULL: the place is free */
    bool ready;                   /* may have messages */
    int ended;                    /* -errno: to be retired when nothing of it is out */
};

/* The waiting thread reads it without the lock: a grown table leaves the old one as it was, and both
 * live until the fan-in is freed. */
struct table {
    unsigned capacity;
    struct table *older;
    struct child children[];
};

struct nr_fan_in {
    struct nr_endpoint base;
    int epoll, door, bell;
    bool door_rang;
    bool armed; /* somebody polls fileno(): shm senders have to ring for every message */
    struct table *_Atomic table;
    unsigned used; /* places of the table that were ever used */
    unsigned count;
    unsigned current, turn;
    int lender; /* whose in-place messages are out; -1 nobody's */
    uint64_t next_check_ns; /* coarse clock */
    struct nr_endpoint *graveyard; /* closed, may still be read by a waiting thread */
};

static struct nr_fan_in *fan_in_of(struct nr_endpoint *e) { return (struct nr_fan_in *)e; }

static struct child *child_at(struct nr_fan_in *f, unsigned i) { return &f->table->children[i]; }

static bool is_memory(const struct nr_fan_in *f) { return f->bell >= 0; }

/* ---- children come and go ---- */

static int watch(struct nr_fan_in *f, int fd, uint32_t events, uint64_t tag)
{
    struct epoll_event event = {.events = events, .data.u64 = tag};

    return epoll_ctl(f->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

#define DOOR_TAG UINT64_MAX
#define BELL_TAG (UINT64_MAX - 1)

static int grow(struct nr_fan_in *f)
{
    struct table *old = f->table;
    unsigned capacity = old ? old->capacity * 2 : 8;
    struct table *new = calloc(1, sizeof *new + capacity * sizeof *new->children);

    if (!new)
        return -ENOMEM;
    new->capacity = capacity;
    new->older = old;
    if (old)
        memcpy(new->children, old->children, old->capacity * sizeof *old->children);
    f->table = new;
    return 0;
}

int nr_fan_in_add(struct nr_endpoint *e, struct nr_endpoint *endpoint)
{
    struct nr_fan_in *f = fan_in_of(e);
    unsigned place = 0;
    int result = 0;

    while (place < f->used && child_at(f, place)->endpoint)
        place++;
    if (!f->table || place == f->table->capacity)
        result = grow(f);
    if (result == 0) /* shm: only the lifeline's hang-up; the data ring the shared bell */
        result = is_memory(f) ? watch(f, nr_shm_lifeline(endpoint), EPOLLRDHUP, place)
                              : watch(f, endpoint->ops->fileno(endpoint), EPOLLIN, place);
    if (result < 0)
        return result;
    if (endpoint->check_interval_ns &&
        (!e->check_interval_ns || endpoint->check_interval_ns < e->check_interval_ns))
        e->check_interval_ns = endpoint->check_interval_ns;
    *child_at(f, place) = (struct child){.endpoint = endpoint, .ready = true};
    if (place == f->used)
        f->used++;
    f->count++;
    if (f->armed)
        (void)nr_os_eventfd_ring(f->bell); /* it may have sent before it was told to ring */
    return 0;
}

static void bury(struct nr_fan_in *f, struct child *child)
{
    struct nr_endpoint *endpoint = child->endpoint;
    struct nr_statistics *sum = &f->base.statistics;

    nr_statistics_add_signs(sum, &endpoint->statistics);
    if (child->ended == -ESHUTDOWN)
        sum->peers_closed++;
    else if (child->ended != -ECANCELED)
        sum->peers_lost++;
    child->endpoint = NULL;
    child->ready = false;
    f->count--;
    if (nr_endpoint_begin_close(endpoint))
        nr_endpoint_finish_close(endpoint); /* closing takes it out of the epoll */
    endpoint->link = f->graveyard;
    f->graveyard = endpoint;
}

static void empty_graveyard(struct nr_fan_in *f)
{
    struct nr_endpoint *endpoint;

    if (!f->graveyard || !nr_endpoint_try_hold(&f->base, NR_RECEIVE))
        return; /* a thread waits, and may be looking at one of them */
    while ((endpoint = f->graveyard)) {
        f->graveyard = endpoint->link;
        nr_endpoint_free(endpoint);
    }
    nr_endpoint_let_go(&f->base, NR_RECEIVE);
}

static void retire(struct nr_fan_in *f, struct child *child, int error)
{
    child->ended = error;
    child->ready = false;
    if (f->lender < 0 || child_at(f, (unsigned)f->lender) != child)
        bury(f, child);
}

/* ---- receiving ---- */

/* Asks the kernel who has something: 1 when somebody was found. */
static int look_around(struct nr_fan_in *f)
{
    struct epoll_event events[EVENTS_A_CALL];
    struct child *child;
    int count, found = 0;

    do
        count = epoll_wait(f->epoll, events, EVENTS_A_CALL, 0);
    while (count < 0 && errno == EINTR);
    if (count < 0)
        return -errno;
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 == DOOR_TAG) {
            f->door_rang = true;
            continue;
        }
        if (events[i].data.u64 == BELL_TAG)
            continue; /* the rings themselves are asked */
        child = child_at(f, (unsigned)events[i].data.u64);
        if (child->endpoint && !child->ended) { /* one that ended stays readable until it is buried */
            child->ready = true;
            found = 1;
        }
    }
    return found;
}

static bool has_something(struct nr_fan_in *f, struct child *child)
{
    if (!child->endpoint || child->ended)
        return false;
    return child->ready ||
           (is_memory(f) && child->endpoint->ops->is_ready(child->endpoint, NR_RECEIVE));
}

/* The next child in turn that may have a message; NULL when there is none. */
static struct child *choose(struct nr_fan_in *f)
{
    if (f->used == 0)
        return NULL;
    if (f->turn > 0 && has_something(f, child_at(f, f->current)))
        return child_at(f, f->current);
    for (unsigned step = 0; step < f->used; step++) {
        if (++f->current >= f->used)
            f->current = 0;
        if (has_something(f, child_at(f, f->current))) {
            f->turn = TURN;
            return child_at(f, f->current);
        }
    }
    return NULL;
}

/* Children that owe a sign of life. */
static bool is_silent(const struct child *child)
{
    struct nr_endpoint *endpoint = child->endpoint;

    return endpoint && endpoint->check_interval_ns &&
           endpoint->ops->check(endpoint, NR_RECEIVE) < 0;
}

static void retire_silent(struct nr_fan_in *f)
{
    uint64_t now = nr_os_coarse_now_ns();

    if (f->base.check_interval_ns == 0 || now < f->next_check_ns)
        return;
    f->next_check_ns = now + f->base.check_interval_ns;
    for (unsigned i = 0; i < f->used; i++)
        if (is_silent(child_at(f, i)))
            retire(f, child_at(f, i), -EHOSTDOWN);
}

/* Nothing is there, and whoever polls fileno() must hear of the next message. False when somebody
 * has something after all. */
static bool await_bell(struct nr_fan_in *f)
{
    bool silent = true;

    (void)nr_os_eventfd_drain(f->bell);
    for (unsigned i = 0; i < f->used; i++) {
        struct child *child = child_at(f, i);
        struct pollfd unused[NR_SLEEP_FDS];

        if (child->endpoint && !child->ended &&
            child->endpoint->ops->fall_asleep(child->endpoint, NR_RECEIVE, unused) == 0)
            silent = false;
    }
    return silent;
}

static int fan_in_receive(struct nr_endpoint *e, struct nr_message *message)
{
    struct nr_fan_in *f = fan_in_of(e);

    for (;;) {
        struct child *child = choose(f);
        int result;

        if (!child) {
            result = look_around(f);
            if (result == 1 || (f->armed && !await_bell(f)))
                continue;
            retire_silent(f);
            empty_graveyard(f);
            return result < 0 ? result : -EAGAIN;
        }
        if (f->lender >= 0 && child_at(f, (unsigned)f->lender) != child)
            return -ENOBUFS; /* one batch, one sender's memory */
        result = nr_endpoint_receive(child->endpoint, message);
        if (result == 1) {
            f->turn--;
            if (!message->owner)
                f->lender = (int)f->current;
            nr_fds_move(e, child->endpoint, message);
            return 1;
        }
        if (result == -ENOBUFS || result == -ENOMEM)
            return result;
        f->turn = 0;
        child->ready = false;
        if (result == -EMFILE) {
            child->ready = true;
            return result;
        }
        if (result != -EAGAIN)
            retire(f, child, result);
    }
}

static void fan_in_release(struct nr_endpoint *e)
{
    struct nr_fan_in *f = fan_in_of(e);

    struct child *lender = f->lender < 0 ? NULL : child_at(f, (unsigned)f->lender);

    f->lender = -1;
    if (!lender || !lender->endpoint)
        return;
    nr_endpoint_release(lender->endpoint);
    if (lender->ended)
        bury(f, lender);
}

static struct nr_segment *fan_in_memory(struct nr_endpoint *e)
{
    struct nr_fan_in *f = fan_in_of(e);
    struct nr_endpoint *lender = f->lender < 0 ? NULL : child_at(f, (unsigned)f->lender)->endpoint;

    return lender && lender->ops->memory ? lender->ops->memory(lender) : NULL;
}

/* ---- waiting: called without the lock ---- */

static bool fan_in_is_ready(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_fan_in *f = fan_in_of(e);
    struct table *table = f->table;

    (void)direction;
    if (is_memory(f) && table) {
        for (unsigned i = 0; i < table->capacity; i++) {
            struct nr_endpoint *endpoint = table->children[i].endpoint;

            if (endpoint && endpoint->ops->is_ready(endpoint, NR_RECEIVE))
                return true;
        }
        return false; /* the door and the dead wait for the end of the spin */
    }
    return nr_os_poll_now(f->epoll, POLLIN) != 0;
}

static int fan_in_fall_asleep(struct nr_endpoint *e, enum nr_direction direction,
                              struct pollfd *fds)
{
    struct nr_fan_in *f = fan_in_of(e);
    struct table *table = f->table;

    fds[0] = (struct pollfd){.fd = f->epoll, .events = POLLIN};
    if (!is_memory(f))
        return 1;
    fds[1] = (struct pollfd){.fd = f->bell, .events = POLLIN};
    for (unsigned i = 0; table && i < table->capacity; i++) {
        struct nr_endpoint *endpoint = table->children[i].endpoint;
        struct pollfd unused[NR_SLEEP_FDS];

        if (endpoint && nr_endpoint_state(endpoint) == NR_OPEN &&
            endpoint->ops->fall_asleep(endpoint, direction, unused) == 0)
            return 0;
    }
    return 2;
}

static void fan_in_wake(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_fan_in *f = fan_in_of(e);
    struct table *table = f->table;

    if (!is_memory(f))
        return;
    (void)nr_os_eventfd_drain(f->bell);
    for (unsigned i = 0; table && i < table->capacity; i++) {
        struct nr_endpoint *endpoint = table->children[i].endpoint;

        if (endpoint && nr_endpoint_state(endpoint) == NR_OPEN)
            endpoint->ops->wake(endpoint, direction);
    }
}

/* Without the lock: is there somebody to retire? The next receive does it. */
static int fan_in_check(struct nr_endpoint *e, enum nr_direction direction)
{
    struct table *table = fan_in_of(e)->table;

    (void)direction;
    for (unsigned i = 0; table && i < table->capacity; i++)
        if (is_silent(&table->children[i]))
            return 1;
    return 0;
}

static int fan_in_beat(struct nr_endpoint *e)
{
    struct nr_fan_in *f = fan_in_of(e);

    for (unsigned i = 0; i < f->used; i++) {
        struct nr_endpoint *endpoint = child_at(f, i)->endpoint;

        if (endpoint && endpoint->ops->beat)
            (void)endpoint->ops->beat(endpoint); /* a dead one is found by receive */
    }
    return 0;
}

/* ---- the end ---- */

static void fan_in_close(struct nr_endpoint *e)
{
    struct nr_fan_in *f = fan_in_of(e);

    for (unsigned i = 0; i < f->used; i++)
        if (child_at(f, i)->endpoint) {
            child_at(f, i)->ended = -ECANCELED;
            bury(f, child_at(f, i));
        }
    nr_os_close(f->epoll);
}

static void fan_in_free(struct nr_endpoint *e)
{
    struct nr_fan_in *f = fan_in_of(e);
    struct nr_endpoint *endpoint;
    struct table *table;

    while ((endpoint = f->graveyard)) {
        f->graveyard = endpoint->link;
        nr_endpoint_free(endpoint);
    }
    while ((table = f->table)) {
        f->table = table->older;
        free(table);
    }
}

static uint64_t fan_in_depth_bytes(struct nr_endpoint *e)
{
    struct nr_fan_in *f = fan_in_of(e);
    uint64_t sum = 0;

    for (unsigned i = 0; i < f->used; i++) {
        struct nr_endpoint *endpoint = child_at(f, i)->endpoint;

        if (endpoint && endpoint->ops->depth_bytes)
            sum += endpoint->ops->depth_bytes(endpoint);
    }
    return sum;
}

static void fan_in_add_statistics(struct nr_endpoint *e, struct nr_statistics *sum)
{
    struct nr_fan_in *f = fan_in_of(e);

    for (unsigned i = 0; i < f->used; i++)
        if (child_at(f, i)->endpoint)
            nr_statistics_add_signs(sum, &child_at(f, i)->endpoint->statistics);
}

static int fan_in_fileno(struct nr_endpoint *e)
{
    struct nr_fan_in *f = fan_in_of(e);

    if (is_memory(f) && !f->armed) {
        int result = watch(f, f->bell, EPOLLIN, BELL_TAG);

        if (result < 0)
            return result;
        f->armed = true;
        (void)nr_os_eventfd_ring(f->bell); /* the first look arms the senders */
    }
    return f->epoll;
}

static const struct nr_transport_ops fan_in_ops = {
    .name = "fan-in",
    .receive = fan_in_receive,
    .release = fan_in_release,
    .is_ready = fan_in_is_ready,
    .fall_asleep = fan_in_fall_asleep,
    .wake = fan_in_wake,
    .check = fan_in_check,
    .beat = fan_in_beat,
    .memory = fan_in_memory,
    .close = fan_in_close,
    .free = fan_in_free,
    .depth_bytes = fan_in_depth_bytes,
    .add_statistics = fan_in_add_statistics,
    .fileno = fan_in_fileno,
};

int nr_fan_in_open(const struct nr_settings *settings, int door, int bell,
                   struct nr_endpoint **endpoint)
{
    struct nr_fan_in *f = calloc(1, sizeof *f);
    int result;

    if (!f)
        return -ENOMEM;
    f->door = door;
    f->bell = bell;
    f->lender = -1;
    f->epoll = epoll_create1(EPOLL_CLOEXEC);
    result = f->epoll < 0 ? -errno : watch(f, door, EPOLLIN, DOOR_TAG);
    if (result < 0) {
        if (f->epoll >= 0)
            nr_os_close(f->epoll);
        free(f);
        return result;
    }
    nr_endpoint_init(&f->base, &fan_in_ops, settings->wait, settings->max_message_bytes,
                     settings->allocator);
    *endpoint = &f->base;
    return 0;
}

unsigned nr_fan_in_count(const struct nr_endpoint *e)
{
    return ((const struct nr_fan_in *)e)->count;
}

bool nr_fan_in_door_rang(struct nr_endpoint *e)
{
    bool rang = fan_in_of(e)->door_rang;

    fan_in_of(e)->door_rang = false;
    return rang;
}
