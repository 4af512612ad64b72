/* The publisher's end in shared memory: one ring that it alone writes, a slot for each subscriber.
 *
 * Subscribers come and go under the lock (Python: the GIL); a thread that waits without it looks at
 * the table under `guard`. Only `block` subscribers can make it wait. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "naru/transports.h"
#include "publisher.h"

#define EVENTS_A_CALL 64
#define BATCH 16 /* messages that become visible together */

struct subscriber {
    struct nr_subscription facts;
    struct nr_broadcast_slot *slot;
    uint64_t cursor;  /* of `block`: at the last look */
    bool fences;
    int lifeline, data_bell, space_bell;
};

struct nr_shm_publisher {
    struct nr_publisher common;
    struct nr_segment *segment;
    int data_fd;
    struct nr_broadcast_writer writer;
    uint64_t limit;        /* the lowest cursor of a `block` subscriber, at the last look */
    bool limited;          /* there is such a subscriber */
    pthread_mutex_t guard; /* of the table, against a waiter without the lock */
    struct subscriber **table;
    unsigned count, room;
    int lives;             /* epoll: lifelines that hung up */
    int bells;             /* epoll: space bells, and `left` */
    int left;              /* eventfd: a subscriber that was waited for is no more */
    uint64_t next_id;
};

static struct nr_shm_publisher *publisher_of(struct nr_endpoint *e)
{
    return (struct nr_shm_publisher *)e;
}

/* ---- subscribers come and go ---- */

static void free_subscriber(struct subscriber *s)
{
    nr_broadcast_slot_unmap(s->slot);
    if (s->lifeline >= 0)
        nr_os_close(s->lifeline);
    if (s->data_bell >= 0)
        nr_os_close(s->data_bell);
    if (s->space_bell >= 0)
        nr_os_close(s->space_bell);
    free(s);
}

/* Reads every cursor anew. A subscriber whose cursor is nonsense is marked by its lifeline: -1. */
static void look_at_cursors(struct nr_shm_publisher *p)
{
    p->limited = false;
    for (unsigned i = 0; i < p->count; i++) {
        struct subscriber *s = p->table[i];

        if (s->facts.policy != NR_POLICY_BLOCK)
            continue;
        if (nr_broadcast_cursor(&p->writer, s->slot, s->cursor, &s->cursor) < 0) {
            s->facts.policy = NR_SUBSCRIBER_BROKEN;
            continue;
        }
        if (!p->limited || (int64_t)(s->cursor - p->limit) < 0)
            p->limit = s->cursor;
        p->limited = true;
    }
}

/* At place i; the last takes its place. */
static void drop(struct nr_shm_publisher *p, unsigned i)
{
    struct subscriber *s = p->table[i];
    struct nr_statistics *statistics = &p->common.base.statistics;

    if (s->facts.policy == NR_SUBSCRIBER_BROKEN)
        statistics->strangers++;
    else if (atomic_load_explicit(&s->slot->reader_closed, memory_order_relaxed))
        statistics->peers_closed++;
    else
        statistics->peers_lost++;
    pthread_mutex_lock(&p->guard);
    p->table[i] = p->table[--p->count];
    look_at_cursors(p);
    (void)nr_os_eventfd_ring(p->left); /* a waiter may have slept through the hang-up */
    pthread_mutex_unlock(&p->guard);
    free_subscriber(s); /* closing takes its descriptors out of the epolls */
}

static void drop_id(struct nr_shm_publisher *p, uint64_t id)
{
    for (unsigned i = 0; i < p->count; i++)
        if (p->table[i]->facts.id == id) {
            drop(p, i);
            return;
        }
}

static void shm_step(struct nr_endpoint *e)
{
    struct nr_shm_publisher *p = publisher_of(e);
    struct epoll_event events[EVENTS_A_CALL];
    int count = epoll_wait(p->lives, events, EVENTS_A_CALL, 0);

    for (int i = 0; i < count; i++)
        drop_id(p, events[i].data.u64);
}

static void drop_broken(struct nr_shm_publisher *p)
{
    for (unsigned i = p->count; i-- > 0;)
        if (p->table[i]->facts.policy == NR_SUBSCRIBER_BROKEN)
            drop(p, i);
}

static int make_room(struct nr_shm_publisher *p)
{
    unsigned room = p->room ? 2 * p->room : 8;
    struct subscriber **table;

    if (p->count < p->room)
        return 0;
    pthread_mutex_lock(&p->guard);
    table = realloc(p->table, room * sizeof *table);
    if (table) {
        p->table = table;
        p->room = room;
    }
    pthread_mutex_unlock(&p->guard);
    return table ? 0 : -ENOMEM;
}

static int make_slot(struct nr_shm_publisher *p, struct subscriber *s, int *slot_fd)
{
    uint64_t sequence;

    nr_broadcast_join(&p->writer, &s->cursor, &sequence);
    *slot_fd = nr_broadcast_slot_create(s->facts.policy, s->cursor, sequence);
    if (*slot_fd < 0)
        return *slot_fd;
    return nr_broadcast_slot_map(*slot_fd, &s->slot);
}

int nr_publisher_add(struct nr_endpoint *e, const struct nr_subscription *facts, bool fences,
                     int lifeline, int fds[4])
{
    struct nr_shm_publisher *p = publisher_of(e);
    struct subscriber *s = calloc(1, sizeof *s);
    int slot_fd = -1;
    int result = s ? make_room(p) : -ENOMEM;

    if (!s)
        return result;
    s->facts = *facts;
    s->facts.id = p->next_id;
    s->fences = fences;
    s->lifeline = -1;
    s->data_bell = nr_os_eventfd();
    s->space_bell = nr_os_eventfd();
    if (result == 0 && (s->data_bell < 0 || s->space_bell < 0))
        result = s->data_bell < 0 ? s->data_bell : s->space_bell;
    if (result == 0)
        result = make_slot(p, s, &slot_fd);
    if (result == 0)
        result = nr_publisher_watch(p->lives, lifeline, EPOLLRDHUP, s->facts.id);
    if (result == 0)
        result = nr_publisher_watch(p->bells, s->space_bell, EPOLLIN, s->facts.id);
    if (result < 0) {
        if (slot_fd >= 0)
            nr_os_close(slot_fd);
        free_subscriber(s);
        return result;
    }
    s->lifeline = lifeline;
    p->next_id++;
    p->writer.fences |= fences;
    pthread_mutex_lock(&p->guard);
    p->table[p->count++] = s;
    look_at_cursors(p);
    pthread_mutex_unlock(&p->guard);
    fds[0] = p->data_fd;
    fds[1] = slot_fd;
    fds[2] = s->data_bell;
    fds[3] = s->space_bell;
    return 0;
}

static unsigned shm_list(struct nr_endpoint *e, struct nr_subscription *list, unsigned limit)
{
    struct nr_shm_publisher *p = publisher_of(e);
    uint64_t position = nr_broadcast_position(&p->writer);

    for (unsigned i = 0; i < p->count && i < limit; i++) {
        struct subscriber *s = p->table[i];
        uint64_t lag = position - atomic_load_explicit(&s->slot->cursor, memory_order_relaxed);

        list[i] = s->facts;
        list[i].lag_bytes = lag < p->writer.capacity ? lag : p->writer.capacity;
        list[i].lost = atomic_load_explicit(&s->slot->lost, memory_order_relaxed);
    }
    return p->count;
}

/* ---- publishing ---- */

static void wake_sleepers(struct nr_shm_publisher *p)
{
    for (unsigned i = 0; i < p->count; i++)
        if (__builtin_expect(nr_broadcast_must_wake(p->table[i]->slot), 0)) {
            (void)nr_os_eventfd_ring(p->table[i]->data_bell);
            p->common.base.statistics.wakeups++;
        }
}

static bool fits(const struct nr_shm_publisher *p, uint64_t need)
{
    return !p->limited || nr_broadcast_fits(&p->writer, p->limit, need);
}

/* 0 and the place of the payload, or -EAGAIN: a `block` subscriber stands in the way. */
static int find_room(struct nr_shm_publisher *p, uint64_t size, uint8_t **place)
{
    uint64_t need = nr_broadcast_need(size);

    if (__builtin_expect(!fits(p, need), 0)) {
        pthread_mutex_lock(&p->guard);
        look_at_cursors(p);
        pthread_mutex_unlock(&p->guard);
        drop_broken(p);
        if (!fits(p, need))
            shm_step(&p->common.base); /* the dead do not count */
        if (!fits(p, need)) {
            p->common.base.wanted_bytes = need;
            return -EAGAIN;
        }
    }
    *place = nr_broadcast_reserve(&p->writer, size);
    return 0;
}

static void publish(struct nr_shm_publisher *p)
{
    nr_broadcast_publish(&p->writer);
    wake_sleepers(p);
}

static int shm_publish(struct nr_endpoint *e, struct nr_outgoing *out)
{
    struct nr_shm_publisher *p = publisher_of(e);
    uint8_t *place;
    int result = find_room(p, out->size, &place);

    if (__builtin_expect(result < 0, 0))
        return result;
    if (__builtin_expect(out->part_count == 1, 1))
        nr_broadcast_fill(place, out->parts->iov_base, out->size);
    else
        nr_parts_copy(out->parts, out->part_count, 0, out->size, place);
    nr_broadcast_commit(&p->writer, out->size);
    publish(p);
    return 0;
}

static int shm_publish_many(struct nr_endpoint *e, const struct iovec *messages, int count)
{
    struct nr_shm_publisher *p = publisher_of(e);
    int taken = 0, result = 0;

    while (taken < count) {
        uint8_t *place;

        result = find_room(p, messages[taken].iov_len, &place);
        if (result < 0)
            break;
        nr_broadcast_fill(place, messages[taken].iov_base, messages[taken].iov_len);
        nr_broadcast_commit(&p->writer, messages[taken].iov_len);
        taken++;
        if (taken % BATCH == 0)
            publish(p);
    }
    if (taken % BATCH != 0)
        publish(p);
    return taken > 0 ? taken : result;
}

static int shm_reserve(struct nr_endpoint *e, size_t size, uint8_t **place)
{
    return find_room(publisher_of(e), size, place);
}

static int shm_commit(struct nr_endpoint *e, size_t size)
{
    nr_broadcast_commit(&publisher_of(e)->writer, size);
    publish(publisher_of(e));
    return 0;
}

/* ---- waiting: without the lock, the table under its guard ---- */

/* Does this subscriber keep the waiting message out? Nonsense does not: the next try drops it. */
static bool is_in_the_way(const struct nr_shm_publisher *p, const struct subscriber *s)
{
    uint64_t cursor;

    return s->facts.policy == NR_POLICY_BLOCK &&
           nr_broadcast_cursor(&p->writer, s->slot, s->cursor, &cursor) == 0 &&
           !nr_broadcast_fits(&p->writer, cursor, p->common.base.wanted_bytes);
}

static bool anybody_in_the_way(const struct nr_shm_publisher *p)
{
    for (unsigned i = 0; i < p->count; i++)
        if (is_in_the_way(p, p->table[i]))
            return true;
    return false;
}

static bool shm_is_ready(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_shm_publisher *p = publisher_of(e);
    bool ready;

    (void)direction;
    pthread_mutex_lock(&p->guard);
    ready = !anybody_in_the_way(p);
    pthread_mutex_unlock(&p->guard);
    return ready;
}

static int shm_fall_asleep(struct nr_endpoint *e, enum nr_direction direction, struct pollfd *fds)
{
    struct nr_shm_publisher *p = publisher_of(e);
    /* Wait for a quarter of the ring, not for one record: waking costs more than a record. */
    uint64_t quarter = p->writer.capacity / 4, wanted = p->common.base.wanted_bytes;
    uint64_t reach = nr_broadcast_position(&p->writer) + (wanted > quarter ? wanted : quarter) -
                     p->writer.capacity;
    bool ready;

    (void)direction;
    fds[0] = (struct pollfd){.fd = p->bells, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = p->lives, .events = POLLIN};
    pthread_mutex_lock(&p->guard);
    for (unsigned i = 0; i < p->count; i++)
        if (is_in_the_way(p, p->table[i]))
            nr_broadcast_writer_announces(p->table[i]->slot, reach ? reach : 8);
    nr_broadcast_barrier(p->writer.fences);
    ready = !anybody_in_the_way(p);
    pthread_mutex_unlock(&p->guard);
    return ready ? 0 : 2;
}

static void shm_wake(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_shm_publisher *p = publisher_of(e);

    (void)direction;
    pthread_mutex_lock(&p->guard);
    for (unsigned i = 0; i < p->count; i++) {
        if (p->table[i]->facts.policy != NR_POLICY_BLOCK)
            continue;
        nr_broadcast_writer_announces(p->table[i]->slot, 0);
        (void)nr_os_eventfd_drain(p->table[i]->space_bell);
    }
    (void)nr_os_eventfd_drain(p->left);
    pthread_mutex_unlock(&p->guard);
}

/* ---- the end ---- */

static int shm_say_goodbye(struct nr_endpoint *e)
{
    struct nr_shm_publisher *p = publisher_of(e);

    atomic_store_explicit(&p->writer.control->closed, 1, memory_order_seq_cst);
    nr_broadcast_barrier(p->writer.fences);
    wake_sleepers(p);
    return 0;
}

/* Also in a forked child, where another thread may have held the guard: nobody waits here now. */
static void shm_close(struct nr_endpoint *e)
{
    struct nr_shm_publisher *p = publisher_of(e);

    while (p->count > 0)
        free_subscriber(p->table[--p->count]);
    nr_os_close(p->data_fd);
    nr_os_close(p->lives);
    nr_os_close(p->bells);
    nr_os_close(p->left);
    nr_segment_release(p->segment);
    p->segment = NULL;
}

static void shm_free(struct nr_endpoint *e)
{
    struct nr_shm_publisher *p = publisher_of(e);

    pthread_mutex_destroy(&p->guard);
    free(p->table);
}

static struct nr_segment *shm_memory(struct nr_endpoint *e) { return publisher_of(e)->segment; }

static int shm_lives(const struct nr_endpoint *e)
{
    return ((const struct nr_shm_publisher *)e)->lives;
}

static const struct nr_transport_ops publisher_ops = {
    .name = "publisher",
    .send = shm_publish,
    .send_many = shm_publish_many,
    .reserve = shm_reserve,
    .commit = shm_commit,
    .is_ready = shm_is_ready,
    .ready_is_cheap = true,
    .fall_asleep = shm_fall_asleep,
    .wake = shm_wake,
    .say_goodbye = shm_say_goodbye,
    .close = shm_close,
    .free = shm_free,
    .memory = shm_memory,
};

static const struct nr_publisher_ops subscribers_ops = {
    .step = shm_step, .lives = shm_lives, .list = shm_list};

int nr_publisher_open(const struct nr_settings *settings, struct nr_segment *segment, int data_fd,
                      struct nr_endpoint **out)
{
    struct nr_shm_publisher *p = calloc(1, sizeof *p);
    uint64_t most = nr_broadcast_max_message(segment->capacity[0]);
    int result;

    if (!p)
        return -ENOMEM;
    p->common.ops = &subscribers_ops;
    p->lives = epoll_create1(EPOLL_CLOEXEC);
    p->bells = epoll_create1(EPOLL_CLOEXEC);
    p->left = nr_os_eventfd();
    result = p->lives < 0 || p->bells < 0 || p->left < 0 ? -EMFILE : 0;
    if (result == 0)
        result = nr_publisher_watch(p->bells, p->left, EPOLLIN, UINT64_MAX);
    if (result < 0) {
        if (p->lives >= 0)
            nr_os_close(p->lives);
        if (p->bells >= 0)
            nr_os_close(p->bells);
        if (p->left >= 0)
            nr_os_close(p->left);
        free(p);
        return result;
    }
    p->segment = segment;
    p->data_fd = data_fd;
    pthread_mutex_init(&p->guard, NULL);
    nr_broadcast_writer_start(&p->writer, segment);
    nr_endpoint_init(&p->common.base, &publisher_ops, settings->wait,
                     settings->max_message_bytes < most ? settings->max_message_bytes
                                                        : (uint32_t)most,
                     settings->allocator);
    *out = &p->common.base;
    return 0;
}

/* ---- either kind of publisher ---- */

int nr_publisher_watch(int epoll, int fd, uint32_t events, uint64_t tag)
{
    struct epoll_event event = {.events = events, .data.u64 = tag};

    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

void nr_publisher_step(struct nr_endpoint *e)
{
    if (nr_endpoint_state(e) == NR_OPEN)
        ((struct nr_publisher *)e)->ops->step(e);
}

int nr_publisher_lives(const struct nr_endpoint *e)
{
    return ((const struct nr_publisher *)e)->ops->lives(e);
}

unsigned nr_publisher_list(struct nr_endpoint *e, struct nr_subscription *list, unsigned limit)
{
    return nr_endpoint_state(e) == NR_OPEN ? ((struct nr_publisher *)e)->ops->list(e, list, limit)
                                           : 0;
}
