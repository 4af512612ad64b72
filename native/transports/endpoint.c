/* The half of an endpoint that is equal for every transport: who may use it, the outbox, closing.
 * How it waits: endpoint_wait.c. */
#include "naru/endpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A search for the newest message ends here, however fast they come. */
#define NEWEST_MOST 65536u

static void *malloc_allocate(size_t size, uint8_t **data)
{
    *data = malloc(size ? size : 1);
    return *data;
}

const struct nr_allocator nr_malloc_allocator = {malloc_allocate, free};

static const struct nr_transport_ops nothing_ops = {.name = "nothing"};

struct nr_endpoint nr_endpoint_nobody = {.ops = &nothing_ops, .state = NR_CLOSED};

static void init_hold(struct nr_endpoint *e)
{
    pthread_mutexattr_t attributes;

    /* Recursive: a signal handler that runs inside a waiting send may close the endpoint. */
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    for (int i = 0; i < 2; i++)
        pthread_mutex_init(&e->hold[i], &attributes);
    pthread_mutexattr_destroy(&attributes);
}

void nr_endpoint_init(struct nr_endpoint *e, const struct nr_transport_ops *ops,
                      enum nr_wait_mode mode, uint32_t max_message_bytes,
                      const struct nr_allocator *allocator)
{
    e->ops = ops;
    e->ready_is_cheap = ops->ready_is_cheap;
    e->max_message_bytes = max_message_bytes;
    e->allocator = allocator;
    nr_waiting_start(&e->waiting[NR_SEND], mode);
    nr_waiting_start(&e->waiting[NR_RECEIVE], mode);
    init_hold(e);
    nr_process_register(e);
}

void nr_endpoint_join_pair(struct nr_endpoint *e, struct nr_claims *claims, int index,
                           struct nr_endpoint *sibling)
{
    nr_claims_retain(claims);
    e->pair.claims = claims;
    e->pair.index = index;
    e->pair.sibling = sibling;
    atomic_store(&e->state, NR_UNCLAIMED);
}

static void forget_sibling(struct nr_endpoint *e)
{
    if (e->pair.sibling)
        e->pair.sibling->pair.sibling = NULL;
    e->pair.sibling = NULL;
}

/* The copy of the other end that this process still has keeps the peer's death invisible: drop it
 * as soon as the other end has an owner elsewhere. */
static void settle_sibling(struct nr_endpoint *e)
{
    uint32_t owner = nr_claims_owner(e->pair.claims, !e->pair.index);

    if (owner == 0)
        return;
    if (owner != nr_process_token() && nr_endpoint_state(e->pair.sibling) == NR_UNCLAIMED)
        nr_endpoint_abandon(e->pair.sibling);
    forget_sibling(e);
}

static int claim(struct nr_endpoint *e)
{
    if (!nr_claims_take(e->pair.claims, e->pair.index, nr_process_token())) {
        nr_endpoint_abandon(e);
        return -ECHILD;
    }
    atomic_store(&e->state, NR_OPEN);
    if (e->pair.sibling)
        settle_sibling(e);
    return 0;
}

int nr_endpoint_admit(struct nr_endpoint *e)
{
    switch (nr_endpoint_state(e)) {
    case NR_OPEN:
        return 0;
    case NR_UNCLAIMED:
        return claim(e);
    case NR_FORKED:
        return -ECHILD;
    default:
        return -ECANCELED;
    }
}

/* ---- sending ---- */

static void drop_outbox(struct nr_endpoint *e)
{
    free(e->outbox.data);
    e->outbox.data = NULL;
    e->outbox.active = false;
}

void nr_endpoint_break_off(struct nr_endpoint *e, int error)
{
    drop_outbox(e);
    e->send_begun = true;
    e->send_error = error;
}

/* The kernel's buffers: they come free again, and a begun message has to be completed. */
static bool is_short_of_memory(int error) { return error == -ENOBUFS || error == -ENOMEM; }

int nr_endpoint_flush(struct nr_endpoint *e)
{
    int result;

    if (!e->outbox.active)
        return e->inner ? nr_endpoint_flush(e->inner) : 0;
    result = e->ops->send(e, &e->outbox.out);
    if (result == -EAGAIN || is_short_of_memory(result))
        return -EAGAIN;
    if (result < 0)
        nr_endpoint_break_off(e, result);
    else
        drop_outbox(e);
    return result;
}

int nr_endpoint_keep_rest(struct nr_endpoint *e, const struct nr_outgoing *out)
{
    /* The whole message, not only its rest: what `progress` means is the transport's business, and
     * large messages come here only at a timeout. */
    uint8_t *copy = malloc(out->size ? out->size : 1);

    if (!copy)
        return -ENOMEM;
    nr_parts_copy(out->parts, out->part_count, 0, out->size, copy);
    e->outbox.data = copy;
    e->outbox.part = (struct iovec){copy, out->size};
    e->outbox.out = *out;
    e->outbox.out.parts = &e->outbox.part;
    e->outbox.out.part_count = 1;
    e->outbox.out.fds = NULL; /* they went with the first byte */
    e->outbox.out.fd_count = out->fd_count;
    e->outbox.active = true;
    e->send_begun = false;
    return 0;
}

static int ready_to_send(struct nr_endpoint *e, bool begun)
{
    int result;

    if (__builtin_expect(nr_endpoint_state(e) != NR_OPEN, 0)) {
        result = nr_endpoint_admit(e);
        if (result < 0)
            return result;
    }
    if (__builtin_expect(e->pair.sibling != NULL, 0))
        settle_sibling(e); /* a sender that never waits must hear of its peer's death, too */
    if (__builtin_expect((e->send_begun || e->leaving) && !begun, 0))
        return e->leaving ? -ECANCELED : e->send_error ? e->send_error : -EBUSY;
    if (__builtin_expect(e->outbox.active, 0))
        return nr_endpoint_flush(e);
    return 0;
}

static void count_sent(struct nr_endpoint *e, size_t size)
{
    e->statistics.messages_sent++;
    e->statistics.bytes_sent += size;
}

static void prepare_to_wait(struct nr_endpoint *e)
{
    if (__builtin_expect(e->pair.sibling != NULL, 0))
        settle_sibling(e);
}

static int cut_short(struct nr_endpoint *e, const struct nr_outgoing *out, int error)
{
    if (is_short_of_memory(error) && nr_endpoint_accept_begun(e, out) == 0)
        return 0;
    nr_endpoint_break_off(e, error);
    return error;
}

int nr_endpoint_send(struct nr_endpoint *e, struct nr_outgoing *out)
{
    int result = ready_to_send(e, out->progress > 0);

    if (__builtin_expect(result == 0, 1)) {
        if (__builtin_expect(out->size > e->max_message_bytes, 0))
            return -EMSGSIZE;
        result = e->ops->send(e, out);
    }
    if (__builtin_expect(result == 0, 1)) {
        e->send_begun = false;
        count_sent(e, out->size);
        return 0;
    }
    if (result != -EAGAIN)
        return out->progress ? cut_short(e, out, result) : result;
    prepare_to_wait(e);
    if (out->progress == 0)
        return -EAGAIN;
    if (out->size <= NR_SMALL_MESSAGE && nr_endpoint_accept_begun(e, out) == 0)
        return 0;
    e->send_begun = true;
    return -EAGAIN;
}

int nr_endpoint_accept_begun(struct nr_endpoint *e, const struct nr_outgoing *out)
{
    int result = nr_endpoint_keep_rest(e, out);

    if (result == 0)
        count_sent(e, out->size);
    else
        nr_endpoint_break_off(e, result);
    return result;
}

int nr_endpoint_send_many(struct nr_endpoint *e, const struct iovec *messages, int count)
{
    int result = ready_to_send(e, false);
    int fitting = 0;

    if (result < 0) {
        if (result == -EAGAIN)
            prepare_to_wait(e);
        return result;
    }
    while (fitting < count && messages[fitting].iov_len <= e->max_message_bytes)
        fitting++;
    if (fitting == 0)
        return -EMSGSIZE;
    if (e->ops->send_many)
        result = e->ops->send_many(e, messages, fitting);
    else {
        struct nr_outgoing out = {.parts = messages, .part_count = 1, .size = messages[0].iov_len};

        result = nr_endpoint_send(e, &out);
        return result == 0 ? 1 : result; /* counted there; the caller goes on with the rest */
    }
    if (result == -EAGAIN)
        prepare_to_wait(e);
    for (int i = 0; i < result; i++)
        count_sent(e, messages[i].iov_len);
    return result;
}

int nr_endpoint_reserve(struct nr_endpoint *e, size_t size, uint8_t **place)
{
    int result = ready_to_send(e, false);

    if (result < 0)
        return result;
    if (size > e->max_message_bytes)
        return -EMSGSIZE;
    if (!e->ops->reserve)
        return -EOPNOTSUPP;
    result = e->ops->reserve(e, size, place);
    if (result == -EAGAIN)
        prepare_to_wait(e);
    return result;
}

int nr_endpoint_commit(struct nr_endpoint *e, size_t size)
{
    int result = nr_endpoint_admit(e);

    if (result == 0)
        result = e->ops->commit(e, size);
    if (result == 0)
        count_sent(e, size);
    return result;
}

/* ---- receiving ---- */

void nr_endpoint_kick(struct nr_endpoint *e)
{
    uint32_t waiting = NR_WAITING;

    if (atomic_compare_exchange_strong(&e->waiter, &waiting, NR_KICKED))
        nr_process_begin_interrupt(); /* pairs with: nr_endpoint_wait */
}

/* So that its place can be given back: 0 or -ENOMEM. */
static int move_out(struct nr_endpoint *e, struct nr_message *message)
{
    uint8_t *data;
    void *owner;

    if (message->owner)
        return 0;
    owner = e->allocator->allocate(message->size, &data);
    if (!owner)
        return -ENOMEM;
    memcpy(data, message->data, message->size);
    message->data = data;
    message->owner = owner;
    e->ops->release(e);
    return 0;
}

/* The last message that is there. Whatever stops the search comes again with the next call. */
static int receive_newest(struct nr_endpoint *e, struct nr_message *message)
{
    struct nr_message next;
    int result;

    if (e->lent)
        return -ENOBUFS; /* one message is a whole batch */
    result = e->ops->receive(e, message);
    if (result != 1)
        return result;
    for (unsigned passed = 0; passed < NEWEST_MOST; passed++) {
        result = e->ops->receive(e, &next);
        if (result == -ENOBUFS && move_out(e, message) == 0)
            continue;
        if (result != 1)
            break;
        if (message->owner)
            e->allocator->discard(message->owner);
        *message = next;
        e->statistics.lost++;
    }
    e->lent = !message->owner;
    if (e->ops->beat)
        (void)e->ops->beat(e); /* the publisher sends the next one when it hears that this was taken */
    return 1;
}

int nr_endpoint_receive(struct nr_endpoint *e, struct nr_message *message)
{
    int result;

    if (__builtin_expect(nr_endpoint_state(e) != NR_OPEN, 0)) {
        result = nr_endpoint_admit(e);
        if (result < 0)
            return result;
    }
    result = __builtin_expect(e->newest_only, 0) ? receive_newest(e, message)
                                                 : e->ops->receive(e, message);
    if (__builtin_expect(result == 1, 1)) {
        e->statistics.messages_received++;
        e->statistics.bytes_received += message->size;
        if (__builtin_expect(atomic_load_explicit(&e->waiter, memory_order_relaxed), 0) &&
            e->ops->depth_bytes && e->ops->depth_bytes(e) > 0)
            nr_endpoint_kick(e);
    } else if (result == -EAGAIN) {
        prepare_to_wait(e);
        if (e->outbox.active || e->inner) /* a peer that answers only after the rest must not wait for ever */
            (void)nr_endpoint_flush(e);
    }
    return result;
}

void nr_endpoint_release(struct nr_endpoint *e)
{
    e->lent = false;
    if (nr_endpoint_state(e) == NR_OPEN)
        e->ops->release(e);
}

void nr_endpoint_read_statistics(struct nr_endpoint *e, struct nr_statistics *sum)
{
    *sum = e->statistics;
    if (e->ops->add_statistics && nr_endpoint_state(e) == NR_OPEN)
        e->ops->add_statistics(e, sum);
}

void nr_statistics_add_signs(struct nr_statistics *sum, const struct nr_statistics *inner)
{
    sum->torn += inner->torn;
    sum->lost += inner->lost;
    sum->duplicates += inner->duplicates;
    sum->reordered += inner->reordered;
    sum->strangers += inner->strangers;
    sum->wakeups += inner->wakeups;
    sum->fds_dropped += inner->fds_dropped;
}

/* ---- for every transport ---- */

void nr_parts_copy(const struct iovec *parts, int count, size_t offset, size_t size, uint8_t *to)
{
    for (int i = 0; i < count && size > 0; i++) {
        size_t part = parts[i].iov_len;

        if (offset >= part) {
            offset -= part;
            continue;
        }
        part -= offset;
        if (part > size)
            part = size;
        memcpy(to, (const uint8_t *)parts[i].iov_base + offset, part);
        to += part;
        size -= part;
        offset = 0;
    }
}

/* ---- the end ---- */

static void free_everything(struct nr_endpoint *e)
{
    e->ops->close(e);
    nr_fds_close(&e->incoming_fds, e->incoming_fds.count);
    drop_outbox(e);
    forget_sibling(e);
    if (e->pair.claims)
        nr_claims_release(e->pair.claims);
    e->pair.claims = NULL;
}

int nr_endpoint_take_leave(struct nr_endpoint *e)
{
    int result = nr_endpoint_flush(e);

    e->leaving = true;
    if (result < 0 || e->goodbye_said || e->send_begun || !e->ops->say_goodbye)
        return result;
    result = e->ops->say_goodbye(e);
    e->goodbye_said = result != -EAGAIN;
    return e->outbox.active ? -EAGAIN : result; /* half a goodbye: the rest is in the outbox */
}

bool nr_endpoint_begin_close(struct nr_endpoint *e)
{
    uint32_t before = nr_endpoint_state(e);

    if (before == NR_FORKED) {
        atomic_store(&e->state, NR_CLOSED);
        return false; /* nothing is left to free */
    }
    if (before == NR_CLOSED)
        return false;
    if (before == NR_OPEN)
        (void)nr_endpoint_take_leave(e);
    /* else: an end that was never used here; another process may own it, so say nothing */
    atomic_store(&e->state, NR_CLOSED);
    nr_process_begin_interrupt();
    return true;
}

void nr_endpoint_finish_close(struct nr_endpoint *e)
{
    pthread_mutex_lock(&e->hold[NR_SEND]);
    pthread_mutex_lock(&e->hold[NR_RECEIVE]);
    nr_process_end_interrupt();
    nr_process_unregister(e);
    free_everything(e);
    pthread_mutex_unlock(&e->hold[NR_RECEIVE]);
    pthread_mutex_unlock(&e->hold[NR_SEND]);
}

void nr_endpoint_free(struct nr_endpoint *e)
{
    nr_process_unregister(e);
    pthread_mutex_destroy(&e->hold[0]);
    pthread_mutex_destroy(&e->hold[1]);
    if (e->ops->free)
        e->ops->free(e);
    free(e);
}

void nr_endpoint_abandon(struct nr_endpoint *e)
{
    if (nr_endpoint_state(e) == NR_FORKED || nr_endpoint_state(e) == NR_CLOSED)
        return;
    atomic_store(&e->state, NR_FORKED);
    free_everything(e);
}

void nr_endpoint_after_fork(struct nr_endpoint *e)
{
    init_hold(e); /* a thread that the child does not have may have held them */
    atomic_store(&e->waiter, NR_NOBODY_WAITS);
    if (nr_endpoint_state(e) == NR_OPEN)
        nr_endpoint_abandon(e); /* the parent's; an unclaimed end of a pair may become ours */
}
