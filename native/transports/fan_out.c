/* The publisher's end over streams: one connection and one queue for each subscriber.
 *
 * A message goes to the connection at once when nothing of its subscriber waits; else it waits in
 * that subscriber's queue, where all queues share one copy of it. A queue that is full makes `block`
 * hold the publisher, `drop_oldest` drop from its front, `latest` keep the last one only. What was
 * dropped is told to the subscriber by a record at that place of its stream (NR_RECORD_GAP).
 *
 * A thread that waits without the lock looks at descriptors and counters only, never at the table. Others
 * may empty the queues meanwhile (Python: the publisher's own thread), and then no descriptor says so: who
 * is refused keeps the number of the last change, and does not sleep when there has been another one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "publisher.h"

#define EVENTS_A_CALL 64
#define LETTERS_A_CALL 32

/* A message, shared by the queues it waits in. */
struct letter {
    unsigned references;
    size_t size;
    uint8_t data[];
};

struct outlet {
    struct nr_subscription facts;
    struct nr_endpoint *end;
    struct letter **queue; /* a ring of `room` places, a power of two */
    unsigned first, count, room;
    uint64_t queued_bytes;
    uint64_t gap;          /* dropped before the front, and not yet told */
    bool watched;          /* for room in the connection */
    bool on_its_way;       /* latest: a message that the subscriber has not taken yet; the next goes
                            * when it says so, or the connection would fill with old ones */
};

struct nr_fan_out {
    struct nr_publisher common;
    uint64_t queue_bytes;
    struct outlet **table;
    unsigned count, room;
    unsigned behind;       /* outlets that are watched */
    unsigned latest;       /* outlets of that policy */
    int lives;             /* epoll: who has gone, who has room again */
    int stir;              /* eventfd: something changed while somebody waited */
    _Atomic bool waiting;
    _Atomic unsigned changes, refused_at; /* how often a queue gave way; and when a message last met none */
    struct letter *newest; /* for whoever comes */
    struct nr_endpoint *graveyard;
    uint64_t next_id;
};

static struct nr_fan_out *fan_out_of(struct nr_endpoint *e) { return (struct nr_fan_out *)e; }

/* ---- letters ---- */

static void drop_letter(struct letter *letter)
{
    if (letter && --letter->references == 0)
        free(letter);
}

static struct letter *write_letter(const struct nr_outgoing *out)
{
    struct letter *letter = malloc(sizeof *letter + out->size);

    if (!letter)
        return NULL;
    letter->references = 1;
    letter->size = out->size;
    nr_parts_copy(out->parts, out->part_count, 0, out->size, letter->data);
    return letter;
}

static struct letter *letter_at(const struct outlet *o, unsigned i)
{
    return o->queue[(o->first + i) & (o->room - 1)];
}

static void pop(struct outlet *o)
{
    struct letter *letter = letter_at(o, 0);

    o->queued_bytes -= letter->size;
    o->first++;
    o->count--;
    drop_letter(letter);
}

static void lose_oldest(struct outlet *o)
{
    pop(o);
    o->gap++;
    o->facts.lost++;
}

static int push(struct outlet *o, struct letter *letter)
{
    if (o->count == o->room) {
        unsigned room = o->room ? 2 * o->room : 16;
        struct letter **queue = malloc(room * sizeof *queue);

        if (!queue)
            return -ENOMEM;
        for (unsigned i = 0; i < o->count; i++)
            queue[i] = letter_at(o, i);
        free(o->queue);
        o->queue = queue;
        o->room = room;
        o->first = 0;
    }
    o->queue[(o->first + o->count++) & (o->room - 1)] = letter;
    o->queued_bytes += letter->size;
    letter->references++;
    return 0;
}

/* ---- subscribers come and go ---- */

/* Does anything wait for room in the connection? */
static bool is_behind(const struct outlet *o)
{
    return (o->count > 0 && !o->on_its_way) || o->end->outbox.active;
}

static void watch(struct nr_fan_out *f, struct outlet *o)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.u64 = o->facts.id};
    bool wanted = is_behind(o);

    if (wanted == o->watched)
        return;
    if (wanted)
        event.events |= EPOLLOUT;
    if (epoll_ctl(f->lives, EPOLL_CTL_MOD, o->end->ops->fileno(o->end), &event) < 0)
        return; /* the next step tries again */
    o->watched = wanted;
    if (wanted)
        f->behind++;
    else
        f->behind--;
}

static void end_outlet(struct nr_fan_out *f, struct outlet *o)
{
    while (o->count > 0)
        pop(o);
    free(o->queue);
    if (nr_endpoint_begin_close(o->end))
        nr_endpoint_finish_close(o->end); /* closing takes it out of the epoll */
    /* Not freed: after a fork, the registry is just going through its endpoints. */
    o->end->link = f->graveyard;
    f->graveyard = o->end;
    free(o);
}

static void stir(struct nr_fan_out *f)
{
    atomic_fetch_add(&f->changes, 1);
    if (atomic_load(&f->waiting))
        (void)nr_os_eventfd_ring(f->stir);
}

static void drop(struct nr_fan_out *f, unsigned i, int error)
{
    struct outlet *o = f->table[i];
    struct nr_statistics *statistics = &f->common.base.statistics;

    if (error == -ESHUTDOWN)
        statistics->peers_closed++;
    else if (error == -EPROTO)
        statistics->strangers++;
    else
        statistics->peers_lost++;
    if (o->watched)
        f->behind--;
    if (o->facts.policy == NR_POLICY_LATEST)
        f->latest--;
    f->table[i] = f->table[--f->count];
    end_outlet(f, o);
    stir(f);
}

/* ---- queues into connections: 0, -EAGAIN, or the connection's end ---- */

static int tell_gap(struct outlet *o)
{
    struct iovec part = {&o->gap, sizeof o->gap};
    struct nr_outgoing out = {
        .parts = &part, .part_count = 1, .size = sizeof o->gap, .flags = NR_RECORD_GAP};
    int result;

    if (o->gap == 0)
        return 0;
    result = nr_endpoint_send(o->end, &out);
    if (result == 0)
        o->gap = 0;
    return result;
}

static int flush(struct outlet *o)
{
    int result = nr_endpoint_flush(o->end);

    while (result == 0 && o->count > 0 && !o->on_its_way) {
        struct iovec messages[LETTERS_A_CALL];
        int count = 0;

        result = tell_gap(o);
        if (result < 0)
            break;
        for (unsigned i = 0; i < o->count && count < LETTERS_A_CALL; i++)
            messages[count++] = (struct iovec){letter_at(o, i)->data, letter_at(o, i)->size};
        result = nr_endpoint_send_many(o->end, messages, count);
        for (int i = 0; i < result; i++)
            pop(o);
        o->on_its_way = result > 0 && o->facts.policy == NR_POLICY_LATEST;
        if (result > 0)
            result = nr_endpoint_flush(o->end);
    }
    return result;
}

static bool has_ended(int result)
{
    return result < 0 && result != -EAGAIN && result != -ENOBUFS && result != -ENOMEM;
}

/* A subscriber says nothing but goodbye and heartbeats; one of `latest` beats for each message that
 * it took. */
static int listen_to(struct outlet *o)
{
    struct nr_message message;
    int result = nr_endpoint_receive(o->end, &message);

    if (result == -EAGAIN)
        o->on_its_way = false;
    if (result != 1)
        return result;
    if (message.owner)
        o->end->allocator->discard(message.owner);
    return -EPROTO;
}

static void step_outlet(struct nr_fan_out *f, unsigned i, uint32_t events)
{
    struct outlet *o = f->table[i];
    int result = 0;

    if (events & ~(uint32_t)EPOLLOUT)
        result = listen_to(o);
    if (!has_ended(result) && (events & EPOLLOUT || o->facts.policy == NR_POLICY_LATEST)) {
        result = flush(o);
        stir(f);
    }
    if (has_ended(result))
        drop(f, i, result);
    else
        watch(f, o);
}

static void fan_out_step(struct nr_endpoint *e)
{
    struct nr_fan_out *f = fan_out_of(e);
    struct epoll_event events[EVENTS_A_CALL];
    int count = epoll_wait(f->lives, events, EVENTS_A_CALL, 0);

    for (int i = 0; i < count; i++)
        for (unsigned place = 0; place < f->count; place++)
            if (f->table[place]->facts.id == events[i].data.u64) {
                step_outlet(f, place, events[i].events);
                break;
            }
}

/* ---- publishing ---- */

static bool has_room(const struct nr_fan_out *f, const struct outlet *o, size_t size)
{
    return o->count == 0 || o->queued_bytes + size <= f->queue_bytes;
}

static bool block_has_room(const struct nr_fan_out *f, size_t size)
{
    for (unsigned i = 0; i < f->count; i++)
        if (f->table[i]->facts.policy == NR_POLICY_BLOCK && !has_room(f, f->table[i], size))
            return false;
    return true;
}

/* The waiter may sleep until something changes from here on. */
static int refuse(struct nr_fan_out *f)
{
    atomic_store(&f->refused_at, atomic_load(&f->changes));
    return -EAGAIN;
}

static int enqueue(struct nr_fan_out *f, struct outlet *o, struct letter *letter)
{
    if (o->facts.policy == NR_POLICY_LATEST)
        while (o->count > 0)
            lose_oldest(o);
    if (o->facts.policy == NR_POLICY_DROP_OLDEST)
        while (!has_room(f, o, letter->size))
            lose_oldest(o);
    return push(o, letter);
}

/* 0, or the connection's end. No memory for a queue: that subscriber is given up, or it would miss a
 * message without knowing it. */
static int deliver(struct nr_fan_out *f, struct outlet *o, struct letter *letter)
{
    struct iovec part = {letter->data, letter->size};
    struct nr_outgoing out = {.parts = &part, .part_count = 1, .size = letter->size};
    int result = -EAGAIN;

    if (o->count == 0 && o->gap == 0 && !o->on_its_way) {
        result = nr_endpoint_send(o->end, &out);
        if (result == -EAGAIN && out.progress > 0)
            result = nr_endpoint_accept_begun(o->end, &out);
        o->on_its_way = result == 0 && o->facts.policy == NR_POLICY_LATEST;
    }
    if (result == -EAGAIN || result == -ENOBUFS)
        result = enqueue(f, o, letter);
    if (result == 0)
        watch(f, o);
    return result;
}

static int fan_out_send(struct nr_endpoint *e, struct nr_outgoing *out)
{
    struct nr_fan_out *f = fan_out_of(e);
    struct letter *letter;

    if (f->behind || f->latest)
        fan_out_step(e);
    if (!block_has_room(f, out->size))
        return refuse(f);
    letter = write_letter(out);
    if (!letter)
        return -ENOMEM;
    for (unsigned i = f->count; i-- > 0;) {
        int result = deliver(f, f->table[i], letter);

        if (result < 0)
            drop(f, i, result);
    }
    drop_letter(f->newest);
    f->newest = letter;
    return 0;
}

/* ---- waiting ---- */

static bool has_changed(struct nr_fan_out *f)
{
    return atomic_load(&f->changes) != atomic_load(&f->refused_at);
}

static bool fan_out_is_ready(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_fan_out *f = fan_out_of(e);

    (void)direction;
    return has_changed(f) || nr_os_poll_now(f->lives, POLLIN) != 0;
}

static int fan_out_fall_asleep(struct nr_endpoint *e, enum nr_direction direction,
                               struct pollfd *fds)
{
    struct nr_fan_out *f = fan_out_of(e);

    (void)direction;
    atomic_store(&f->waiting, true); /* before the look: a change after it rings */
    if (has_changed(f)) {
        atomic_store(&f->waiting, false);
        return 0;
    }
    fds[0] = (struct pollfd){.fd = f->lives, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = f->stir, .events = POLLIN};
    return 2;
}

static void fan_out_wake(struct nr_endpoint *e, enum nr_direction direction)
{
    (void)direction;
    atomic_store(&fan_out_of(e)->waiting, false);
    (void)nr_os_eventfd_drain(fan_out_of(e)->stir);
}

/* ---- life ---- */

static int fan_out_beat(struct nr_endpoint *e)
{
    struct nr_fan_out *f = fan_out_of(e);

    for (unsigned i = f->count; i-- > 0;) {
        struct nr_endpoint *end = f->table[i]->end;

        if (end->check_interval_ns && end->ops->check(end, NR_RECEIVE) < 0)
            drop(f, i, -EHOSTDOWN);
        else if (end->ops->beat)
            (void)end->ops->beat(end); /* a dead one is found by the epoll */
    }
    return 0;
}

/* What waits goes out first; who does not take it keeps the others waiting for linger_s at most. */
static int fan_out_say_goodbye(struct nr_endpoint *e)
{
    struct nr_fan_out *f = fan_out_of(e);
    int result = 0;

    fan_out_step(e); /* what is not read keeps the epoll readable, and the closer awake */
    for (unsigned i = f->count; i-- > 0;) {
        struct outlet *o = f->table[i];
        int one;

        o->on_its_way = false; /* the last one goes without being asked for */
        one = flush(o);

        if (one == 0)
            one = nr_endpoint_take_leave(o->end);
        if (has_ended(one))
            drop(f, i, one);
        else if (one < 0) {
            watch(f, o);
            result = -EAGAIN;
        }
    }
    return result == -EAGAIN ? refuse(f) : 0;
}

/* tcp: what only the kernel has must reach the subscribers. */
static int fan_out_linger(struct nr_endpoint *e)
{
    struct nr_fan_out *f = fan_out_of(e);

    for (unsigned i = 0; i < f->count; i++) {
        struct nr_endpoint *end = f->table[i]->end;

        if (end->ops->linger && end->goodbye_said && end->ops->linger(end) == -EAGAIN)
            return refuse(f);
    }
    return 0;
}

static void fan_out_close(struct nr_endpoint *e)
{
    struct nr_fan_out *f = fan_out_of(e);

    while (f->count > 0)
        end_outlet(f, f->table[--f->count]);
    drop_letter(f->newest);
    f->newest = NULL;
    nr_os_close(f->lives);
    nr_os_close(f->stir);
}

static void fan_out_free(struct nr_endpoint *e)
{
    struct nr_fan_out *f = fan_out_of(e);
    struct nr_endpoint *end;

    while ((end = f->graveyard)) {
        f->graveyard = end->link;
        nr_endpoint_free(end);
    }
    free(f->table);
}

static unsigned fan_out_list(struct nr_endpoint *e, struct nr_subscription *list, unsigned limit)
{
    struct nr_fan_out *f = fan_out_of(e);

    for (unsigned i = 0; i < f->count && i < limit; i++) {
        list[i] = f->table[i]->facts;
        list[i].lag_bytes = f->table[i]->queued_bytes;
    }
    return f->count;
}

static int fan_out_lives(const struct nr_endpoint *e)
{
    return ((const struct nr_fan_out *)e)->lives;
}

static const struct nr_transport_ops fan_out_ops = {
    .name = "fan-out",
    .send = fan_out_send,
    .is_ready = fan_out_is_ready,
    .fall_asleep = fan_out_fall_asleep,
    .wake = fan_out_wake,
    .beat = fan_out_beat,
    .say_goodbye = fan_out_say_goodbye,
    .linger = fan_out_linger,
    .close = fan_out_close,
    .free = fan_out_free,
};

static const struct nr_publisher_ops subscribers_ops = {
    .step = fan_out_step, .lives = fan_out_lives, .list = fan_out_list};

int nr_fan_out_open(const struct nr_settings *settings, uint64_t queue_bytes,
                    struct nr_endpoint **out)
{
    struct nr_fan_out *f = calloc(1, sizeof *f);

    if (!f)
        return -ENOMEM;
    f->common.ops = &subscribers_ops;
    f->queue_bytes = queue_bytes;
    f->lives = epoll_create1(EPOLL_CLOEXEC);
    f->stir = nr_os_eventfd();
    if (f->lives < 0 || f->stir < 0) {
        if (f->lives >= 0)
            nr_os_close(f->lives);
        if (f->stir >= 0)
            nr_os_close(f->stir);
        free(f);
        return -EMFILE;
    }
    nr_endpoint_init(&f->common.base, &fan_out_ops, settings->wait, settings->max_message_bytes,
                     settings->allocator);
    *out = &f->common.base;
    return 0;
}

int nr_fan_out_add(struct nr_endpoint *e, const struct nr_subscription *facts,
                   struct nr_endpoint *end)
{
    struct nr_fan_out *f = fan_out_of(e);
    struct outlet *o = calloc(1, sizeof *o);
    int result = o ? 0 : -ENOMEM;

    if (result == 0 && f->count == f->room) {
        unsigned room = f->room ? 2 * f->room : 8;
        struct outlet **table = realloc(f->table, room * sizeof *table);

        if (!table)
            result = -ENOMEM;
        else {
            f->table = table;
            f->room = room;
        }
    }
    if (result == 0) {
        o->facts = *facts;
        o->facts.id = f->next_id++;
        o->end = end;
        result = nr_publisher_watch(f->lives, end->ops->fileno(end), EPOLLIN | EPOLLRDHUP,
                                    o->facts.id);
    }
    if (result < 0) {
        free(o);
        return result;
    }
    f->table[f->count++] = o;
    f->latest += facts->policy == NR_POLICY_LATEST;
    if (f->newest && has_ended(deliver(f, o, f->newest)))
        drop(f, f->count - 1, -EPIPE);
    return 0;
}
