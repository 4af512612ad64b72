/* POSIX message queues: the kernel keeps boundaries and priorities, so nothing is added to a
 * message, and any program may sit at the other end. A queue outlives its processes; naru's receiver
 * holds a lock on byte 0 of the queue (fcntl(2) locks any inode) while it lives, so that a sender
 * before a full queue learns of its death. */
#include <errno.h>
#include <stdlib.h>

#include "naru/transports.h"

#define LOOK_NS 50000000u

struct nr_mq {
    struct nr_endpoint base;
    int queue;
    bool watched; /* a receiver of naru's had it when this sender came */
    size_t message_bytes; /* the queue's limit; the kernel wants a receive buffer of that size */
    bool unreleased;
    uint8_t buffer[]; /* receiver: the message in place; sender: where parts are gathered */
};

static struct nr_mq *mq_of(struct nr_endpoint *e) { return (struct nr_mq *)e; }

/* A full queue is the moment to ask whether anybody will ever empty it. */
static int is_orphaned(struct nr_mq *mq, int result)
{
    if (result == -EAGAIN && mq->watched && nr_os_lock_byte_is_held(mq->queue, 0) == 0)
        return -EPIPE;
    return result;
}

static int mq_send_one(struct nr_endpoint *e, struct nr_outgoing *out)
{
    struct nr_mq *mq = mq_of(e);
    const void *data = out->parts[0].iov_base;

    if (out->size > mq->message_bytes)
        return -EMSGSIZE;
    if (out->part_count > 1) {
        nr_parts_copy(out->parts, out->part_count, 0, out->size, mq->buffer);
        data = mq->buffer;
    }
    return is_orphaned(mq, (int)nr_os_mq_send(mq->queue, data, out->size, out->priority));
}

static int mq_receive_one(struct nr_endpoint *e, struct nr_message *message)
{
    struct nr_mq *mq = mq_of(e);
    unsigned priority = 0;
    ssize_t got;

    if (mq->unreleased)
        return -ENOBUFS;
    got = nr_os_mq_receive(mq->queue, mq->buffer, mq->message_bytes, &priority);
    if (got < 0)
        return (int)got;
    mq->unreleased = true;
    *message = (struct nr_message){.data = mq->buffer, .size = (size_t)got, .priority = priority};
    return 1;
}

static void mq_release(struct nr_endpoint *e) { mq_of(e)->unreleased = false; }

static bool mq_is_ready(struct nr_endpoint *e, enum nr_direction direction)
{
    return nr_os_poll_now(mq_of(e)->queue, direction == NR_SEND ? POLLOUT : POLLIN) != 0;
}

static int mq_fall_asleep(struct nr_endpoint *e, enum nr_direction direction, struct pollfd *fds)
{
    fds[0] = (struct pollfd){.fd = mq_of(e)->queue,
                             .events = direction == NR_SEND ? POLLOUT : POLLIN};
    return 1;
}

static void mq_wake(struct nr_endpoint *e, enum nr_direction direction)
{
    (void)e;
    (void)direction;
}

static int mq_check(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_mq *mq = mq_of(e);

    if (direction == NR_RECEIVE || !mq->watched)
        return 0;
    return nr_os_lock_byte_is_held(mq->queue, 0) == 0 ? -EPIPE : 0;
}

static void mq_close_queue(struct nr_endpoint *e)
{
    nr_os_close(mq_of(e)->queue);
}

static uint64_t mq_depth_bytes(struct nr_endpoint *e)
{
    long depth, message_bytes, current;

    if (nr_os_mq_attributes(mq_of(e)->queue, &depth, &message_bytes, &current) < 0)
        return 0;
    return (uint64_t)current * (uint64_t)message_bytes; /* at most: the kernel counts messages */
}

static int mq_fileno(struct nr_endpoint *e) { return mq_of(e)->queue; }

static const struct nr_transport_ops mq_ops = {
    .name = "mq",
    .send = mq_send_one,
    .receive = mq_receive_one,
    .release = mq_release,
    .is_ready = mq_is_ready,
    .fall_asleep = mq_fall_asleep,
    .wake = mq_wake,
    .check = mq_check,
    .close = mq_close_queue,
    .depth_bytes = mq_depth_bytes,
    .fileno = mq_fileno,
};

int nr_mq_open(const struct nr_settings *settings, int queue, bool receiver, struct nr_endpoint **endpoint)
{
    long depth, message_bytes, current;
    struct nr_mq *mq;
    int result = nr_os_mq_attributes(queue, &depth, &message_bytes, &current);

    if (result < 0)
        return result;
    mq = calloc(1, sizeof *mq + (size_t)message_bytes);
    if (!mq)
        return -ENOMEM;
    mq->queue = queue;
    mq->watched = !receiver && nr_os_lock_byte_is_held(queue, 0) == 1;
    mq->message_bytes = (size_t)message_bytes;
    nr_endpoint_init(&mq->base, &mq_ops, settings->wait, settings->max_message_bytes,
                     settings->allocator);
    if (mq->base.max_message_bytes > (uint32_t)message_bytes)
        mq->base.max_message_bytes = (uint32_t)message_bytes;
    if (mq->watched)
        mq->base.check_interval_ns = LOOK_NS;
    *endpoint = &mq->base;
    return 0;
}
