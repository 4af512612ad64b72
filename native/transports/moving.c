/* A channel that moves from one connection to another while it is in use.
 *
 * Each direction moves by itself, and needs no word that the transports do not have already: the
 * sender says goodbye on the old connection and goes on with the new one; the receiver takes
 * everything up to the goodbye, and then turns to the new one. So nothing is lost, doubled or
 * reordered, and a death in the middle looks like any other death.
 *
 *   leader                                  follower
 *   prepare(next)        -- next's fds -->  prepare(next)      both receive from either
 *   turn()               <-- "prepared" --  turn()             both send on the next
 *
 * (The words go over a connection of the binding's own.) When both directions have turned, the old
 * connection is closed. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "naru/transports.h"
#include "naru/watch.h"

struct nr_mover {
    struct nr_endpoint base;
    struct nr_endpoint *_Atomic at[2]; /* the connection that carries this direction */
    struct nr_endpoint *asleep[2];     /* whom fall_asleep() prepared; its waiter's own */
    struct nr_endpoint *next;          /* prepared, not yet in use by both directions; or NULL */
    struct nr_endpoint *graveyard;     /* no longer in use; a waiting thread may look at them */
    bool turning;  /* no new message begins on the old connection any more */
    bool agreed;   /* the peer has prepared, too */
    bool doubtful; /* receiving has turned before that was known, and nothing has come since */
    bool lent;     /* messages are out in place, in the memory of at[NR_RECEIVE] */
    int epoll;     /* what fileno() gives; -1 not asked */
};

static struct nr_mover *mover_of(struct nr_endpoint *e) { return (struct nr_mover *)e; }

static struct nr_endpoint *at(struct nr_mover *m, enum nr_direction direction)
{
    return atomic_load_explicit(&m->at[direction], memory_order_acquire);
}

/* ---- connections come and go ---- */

static int watch(struct nr_mover *m, struct nr_endpoint *inner)
{
    struct epoll_event event = {.events = EPOLLIN};
    int fd = inner->ops->fileno(inner);

    if (fd < 0)
        return fd;
    return epoll_ctl(m->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* What has said goodbye stays readable for ever. */
static void stop_watching(struct nr_mover *m, struct nr_endpoint *inner)
{
    if (m->epoll >= 0)
        (void)epoll_ctl(m->epoll, EPOLL_CTL_DEL, inner->ops->fileno(inner), NULL);
}

static void adopt_facts(struct nr_mover *m)
{
    struct nr_endpoint *in = at(m, NR_RECEIVE), *out = at(m, NR_SEND);

    m->base.inner = out;
    m->base.ready_is_cheap = in->ready_is_cheap && out->ready_is_cheap;
    m->base.check_interval_ns = in->check_interval_ns ? in->check_interval_ns
                                                      : out->check_interval_ns;
}

static void free_inner(struct nr_mover *m, struct nr_endpoint *inner)
{
    for (int direction = 0; direction < 2; direction++)
        if (m->asleep[direction] == inner)
            m->asleep[direction] = NULL;
    if (nr_endpoint_begin_close(inner))
        nr_endpoint_finish_close(inner);
    nr_endpoint_free(inner);
}

static void empty_graveyard(struct nr_mover *m)
{
    struct nr_endpoint *e = &m->base, *inner;

    if (!m->graveyard || !nr_endpoint_try_hold(e, NR_SEND))
        return;
    if (nr_endpoint_try_hold(e, NR_RECEIVE)) { /* nobody waits, hence nobody looks at them */
        while ((inner = m->graveyard)) {
            m->graveyard = inner->link;
            free_inner(m, inner);
        }
        nr_endpoint_let_go(e, NR_RECEIVE);
    }
    nr_endpoint_let_go(e, NR_SEND);
}

static void settle(struct nr_mover *m, struct nr_endpoint *old)
{
    adopt_facts(m);
    if (at(m, NR_SEND) != m->next || at(m, NR_RECEIVE) != m->next)
        return;
    nr_statistics_add_signs(&m->base.statistics, &old->statistics);
    old->link = m->graveyard;
    m->graveyard = old;
    m->next = NULL;
    m->turning = m->agreed = false;
    empty_graveyard(m);
}

/* Whoever sleeps on the old connection looks again. */
static void wake_all(struct nr_mover *m)
{
    nr_endpoint_kick(&m->base);
    if (m->base.watch)
        nr_watch_kick(m->base.watch);
}

static void turn_receiving(struct nr_mover *m)
{
    struct nr_endpoint *old = at(m, NR_RECEIVE);

    stop_watching(m, old);
    atomic_store_explicit(&m->at[NR_RECEIVE], m->next, memory_order_release);
    m->doubtful = !m->agreed;
    wake_all(m);
    settle(m, old);
}

/* 0 when sending has turned; -EAGAIN: the goodbye has no room yet. */
static int turn_sending(struct nr_mover *m)
{
    struct nr_endpoint *old = at(m, NR_SEND);

    if (old == m->next)
        return 0;
    if (m->base.outbox.active || m->base.send_begun || old->send_begun)
        return -EAGAIN; /* in the middle of a message, or one is being written in place */
    if (nr_endpoint_take_leave(old) == -EAGAIN)
        return -EAGAIN;
    atomic_store_explicit(&m->at[NR_SEND], m->next, memory_order_release); /* or the peer is dead */
    wake_all(m);
    settle(m, old);
    return 0;
}

int nr_mover_prepare(struct nr_endpoint *e, struct nr_endpoint *next)
{
    struct nr_mover *m = mover_of(e);
    int result = nr_endpoint_admit(e);

    if (result < 0)
        return result;
    if (m->next)
        return -EBUSY;
    if (m->epoll >= 0) {
        result = watch(m, next);
        if (result < 0)
            return result;
    }
    m->next = next;
    return 0;
}

int nr_mover_turn(struct nr_endpoint *e)
{
    struct nr_mover *m = mover_of(e);
    int result = nr_endpoint_admit(e);

    if (result < 0)
        return result;
    empty_graveyard(m);
    if (!m->next)
        return 0;
    m->agreed = true;
    m->doubtful = false;
    m->turning = at(m, NR_SEND) != m->next;
    if (m->base.outbox.active)
        (void)nr_endpoint_flush(e);
    return turn_sending(m);
}

int nr_mover_give_up(struct nr_endpoint *e)
{
    struct nr_mover *m = mover_of(e);
    struct nr_endpoint *next = m->next;

    if (nr_endpoint_state(e) != NR_OPEN || !next)
        return 0;
    if (m->turning || at(m, NR_RECEIVE) == next)
        return -EBUSY;
    stop_watching(m, next);
    m->next = NULL;
    next->link = m->graveyard;
    m->graveyard = next;
    empty_graveyard(m);
    return 0;
}

bool nr_mover_is_moving(const struct nr_endpoint *e)
{
    return ((const struct nr_mover *)e)->next != NULL;
}

/* ---- sending ---- */

static int mover_send(struct nr_endpoint *e, struct nr_outgoing *out)
{
    struct nr_mover *m = mover_of(e);

    if (__builtin_expect(m->turning && out->progress == 0 && turn_sending(m) < 0, 0))
        return -EAGAIN;
    return nr_endpoint_send(at(m, NR_SEND), out);
}

static int mover_send_many(struct nr_endpoint *e, const struct iovec *messages, int count)
{
    struct nr_mover *m = mover_of(e);

    if (__builtin_expect(m->turning && turn_sending(m) < 0, 0))
        return -EAGAIN;
    return nr_endpoint_send_many(at(m, NR_SEND), messages, count);
}

/* In place only while both directions use one connection: memory() knows one. */
static int mover_reserve(struct nr_endpoint *e, size_t size, uint8_t **place)
{
    struct nr_mover *m = mover_of(e);

    if (m->next)
        return -EOPNOTSUPP;
    return nr_endpoint_reserve(at(m, NR_SEND), size, place);
}

static int mover_commit(struct nr_endpoint *e, size_t size)
{
    return nr_endpoint_commit(at(mover_of(e), NR_SEND), size);
}

/* ---- receiving ---- */

static int mover_receive(struct nr_endpoint *e, struct nr_message *message)
{
    struct nr_mover *m = mover_of(e);

    for (;;) {
        struct nr_endpoint *inner = at(m, NR_RECEIVE);
        int result = nr_endpoint_receive(inner, message);

        if (__builtin_expect(result == 1, 1)) {
            m->doubtful = false;
            m->lent |= !message->owner;
            if (message->fd_count)
                nr_fds_move(e, inner, message);
            return 1;
        }
        if (result == -ESHUTDOWN && m->next && inner != m->next) {
            if (m->lent)
                return -ENOBUFS; /* one batch, one connection's memory */
            turn_receiving(m);
            continue;
        }
        /* It closed in good order, and had not heard of the next connection. */
        if (result == -EPIPE && m->doubtful)
            result = -ESHUTDOWN;
        if (result == -EAGAIN && m->graveyard)
            empty_graveyard(m);
        return result;
    }
}

static void mover_release(struct nr_endpoint *e)
{
    struct nr_mover *m = mover_of(e);

    m->lent = false;
    nr_endpoint_release(at(m, NR_RECEIVE));
}

static struct nr_segment *mover_memory(struct nr_endpoint *e)
{
    struct nr_endpoint *inner = at(mover_of(e), NR_RECEIVE);

    return inner->ops->memory ? inner->ops->memory(inner) : NULL;
}

/* ---- waiting: called without the lock ---- */

static bool mover_is_ready(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_endpoint *inner = at(mover_of(e), direction);

    return inner->ops->is_ready(inner, direction);
}

static int mover_fall_asleep(struct nr_endpoint *e, enum nr_direction direction,
                             struct pollfd *fds)
{
    struct nr_endpoint *inner = at(mover_of(e), direction);

    mover_of(e)->asleep[direction] = inner;
    return inner->ops->fall_asleep(inner, direction, fds);
}

static void mover_wake(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_endpoint *inner = mover_of(e)->asleep[direction];

    if (inner) /* NULL: freed meanwhile, which can be while nobody waits in a thread: watch.h */
        inner->ops->wake(inner, direction);
}

static int mover_check(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_endpoint *inner = at(mover_of(e), direction);

    return inner->ops->check ? inner->ops->check(inner, direction) : 0;
}

static int mover_beat(struct nr_endpoint *e)
{
    struct nr_endpoint *inner = at(mover_of(e), NR_SEND);

    if (nr_endpoint_state(e) != NR_OPEN || mover_of(e)->turning || !inner->ops->beat)
        return 0;
    return inner->ops->beat(inner);
}

static int mover_fileno(struct nr_endpoint *e)
{
    struct nr_mover *m = mover_of(e);
    int result;

    if (m->epoll >= 0) {
        struct nr_endpoint *inner = at(m, NR_RECEIVE);

        (void)inner->ops->fileno(inner); /* shm: asks to be told of what comes */
        return m->epoll;
    }
    m->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (m->epoll < 0)
        return -errno;
    result = watch(m, at(m, NR_RECEIVE));
    if (result == 0 && m->next && at(m, NR_RECEIVE) != m->next)
        result = watch(m, m->next);
    if (result < 0) {
        nr_os_close(m->epoll);
        m->epoll = -1;
        return result;
    }
    return m->epoll;
}

/* ---- the end ---- */

/* On the next connection, too: a peer that has turned to it already must not take this for a death. */
static int mover_say_goodbye(struct nr_endpoint *e)
{
    struct nr_mover *m = mover_of(e);
    struct nr_endpoint *out = at(m, NR_SEND);
    int result = nr_endpoint_take_leave(out);

    if (m->next && m->next != out) {
        int other = nr_endpoint_take_leave(m->next);

        result = result == -EAGAIN ? result : other;
    }
    return result;
}

static int mover_linger(struct nr_endpoint *e)
{
    struct nr_endpoint *inner = at(mover_of(e), NR_SEND);

    return inner->ops->linger ? inner->ops->linger(inner) : 0;
}

/* In a forked child they are the parent's: a goodbye from here would end its conversation. */
static void close_inner(struct nr_mover *m, struct nr_endpoint *inner)
{
    if (nr_endpoint_state(&m->base) == NR_FORKED)
        nr_endpoint_abandon(inner);
    else if (nr_endpoint_begin_close(inner))
        nr_endpoint_finish_close(inner);
}

static void mover_close(struct nr_endpoint *e)
{
    struct nr_mover *m = mover_of(e);

    close_inner(m, at(m, NR_SEND));
    close_inner(m, at(m, NR_RECEIVE));
    if (m->next)
        close_inner(m, m->next);
    for (struct nr_endpoint *inner = m->graveyard; inner; inner = inner->link)
        close_inner(m, inner);
    if (m->epoll >= 0)
        nr_os_close(m->epoll);
    m->epoll = -1;
}

static void mover_free(struct nr_endpoint *e)
{
    struct nr_mover *m = mover_of(e);
    struct nr_endpoint *out = at(m, NR_SEND), *in = at(m, NR_RECEIVE), *inner;

    nr_endpoint_free(out);
    if (in != out)
        nr_endpoint_free(in);
    if (m->next && m->next != in && m->next != out)
        nr_endpoint_free(m->next);
    while ((inner = m->graveyard)) {
        m->graveyard = inner->link;
        nr_endpoint_free(inner);
    }
}

static uint64_t mover_depth_bytes(struct nr_endpoint *e)
{
    struct nr_endpoint *inner = at(mover_of(e), NR_RECEIVE);

    return inner->ops->depth_bytes ? inner->ops->depth_bytes(inner) : 0;
}

static void mover_add_statistics(struct nr_endpoint *e, struct nr_statistics *sum)
{
    struct nr_mover *m = mover_of(e);
    struct nr_endpoint *out = at(m, NR_SEND), *in = at(m, NR_RECEIVE);

    nr_statistics_add_signs(sum, &out->statistics);
    if (in != out)
        nr_statistics_add_signs(sum, &in->statistics);
}

static const struct nr_transport_ops mover_ops = {
    .name = "auto",
    .send = mover_send,
    .send_many = mover_send_many,
    .receive = mover_receive,
    .release = mover_release,
    .reserve = mover_reserve,
    .commit = mover_commit,
    .is_ready = mover_is_ready,
    .fall_asleep = mover_fall_asleep,
    .wake = mover_wake,
    .check = mover_check,
    .beat = mover_beat,
    .say_goodbye = mover_say_goodbye,
    .linger = mover_linger,
    .close = mover_close,
    .memory = mover_memory,
    .free = mover_free,
    .depth_bytes = mover_depth_bytes,
    .add_statistics = mover_add_statistics,
    .fileno = mover_fileno,
};

int nr_mover_open(const struct nr_settings *settings, struct nr_endpoint *first,
                  struct nr_endpoint **endpoint)
{
    struct nr_mover *m = calloc(1, sizeof *m);

    if (!m)
        return -ENOMEM;
    m->epoll = -1;
    atomic_init(&m->at[NR_SEND], first);
    atomic_init(&m->at[NR_RECEIVE], first);
    nr_endpoint_init(&m->base, &mover_ops, settings->wait, settings->max_message_bytes,
                     settings->allocator);
    adopt_facts(m);
    *endpoint = &m->base;
    return 0;
}
