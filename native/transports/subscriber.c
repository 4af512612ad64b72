/* A subscriber's end in shared memory: reads the publisher's ring, writes its own slot alone. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "naru/transports.h"

/* A subscriber that finds nothing looks at the lifeline so often. */
#define LOOK_NS 20000000u

struct nr_subscriber {
    struct nr_endpoint base;
    struct nr_segment *segment;
    struct nr_broadcast_reader reader;
    int lifeline, data_bell, space_bell;
    int epoll;               /* what fileno() gives: the bell and the lifeline; -1 not asked */
    uint64_t next_look_ns;   /* coarse clock */
    _Atomic bool suspicious; /* slept since the last look at the lifeline */
};

static struct nr_subscriber *subscriber_of(struct nr_endpoint *e)
{
    return (struct nr_subscriber *)e;
}

static int fail(struct nr_subscriber *s, int error)
{
    s->base.end_error = error;
    return error;
}

static bool is_alive(struct nr_subscriber *s)
{
    int events = nr_os_poll_now(s->lifeline, POLLRDHUP);

    s->suspicious = events != 0;
    s->next_look_ns = nr_os_coarse_now_ns() + LOOK_NS;
    return events == 0;
}

static bool has_closed(const struct nr_subscriber *s)
{
    return atomic_load_explicit(&s->reader.control->closed, memory_order_acquire) == 1;
}

/* The ring has nothing new: because the publisher has ended? 0: look again. */
static int nothing_there(struct nr_subscriber *s)
{
    bool looks = s->suspicious || s->epoll >= 0 || nr_os_coarse_now_ns() >= s->next_look_ns;
    bool closed = has_closed(s);

    if (s->epoll >= 0) { /* whoever polls fileno() must hear of the next message */
        (void)nr_os_eventfd_drain(s->data_bell);
        if (nr_broadcast_reader_falls_asleep(&s->reader))
            return 0;
    }
    if (!closed && (!looks || is_alive(s)))
        return -EAGAIN;
    if (nr_broadcast_has_record(&s->reader))
        return 0; /* published before the end */
    return fail(s, has_closed(s) ? -ESHUTDOWN : -EPIPE);
}

static int subscriber_receive(struct nr_endpoint *e, struct nr_message *message)
{
    struct nr_subscriber *s = subscriber_of(e);
    int result, looks = 0;

    do {
        const uint8_t *payload;
        uint64_t size;

        if (__builtin_expect(e->end_error, 0))
            return e->end_error;
        result = nr_broadcast_next(&s->reader, &payload, &size);
        if (__builtin_expect(result == 1 && size <= e->max_message_bytes, 1)) {
            *message = (struct nr_message){.data = payload, .size = size};
            e->statistics.lost = s->reader.lost;
            return 1;
        }
        if (result == 1)
            result = fail(s, -EMSGSIZE);
        else if (result == -EAGAIN) {
            result = nothing_there(s);
            if (result == 0 && ++looks == 3)
                result = -EAGAIN; /* there is something that cannot be had: a writer that laps us */
        }
        else if (result != -ENOBUFS)
            result = fail(s, result);
    } while (result == 0);
    return result;
}

static void subscriber_release(struct nr_endpoint *e)
{
    struct nr_subscriber *s = subscriber_of(e);

    if (__builtin_expect(nr_broadcast_release(&s->reader), 0)) {
        (void)nr_os_eventfd_ring(s->space_bell);
        e->statistics.wakeups++;
    }
}

/* ---- waiting ---- */

static bool subscriber_is_ready(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_subscriber *s = subscriber_of(e);

    (void)direction;
    return nr_broadcast_has_record(&s->reader) || has_closed(s);
}

static int subscriber_fall_asleep(struct nr_endpoint *e, enum nr_direction direction,
                                  struct pollfd *fds)
{
    struct nr_subscriber *s = subscriber_of(e);

    (void)direction;
    fds[0] = (struct pollfd){.fd = s->data_bell, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = s->lifeline, .events = POLLRDHUP};
    return nr_broadcast_reader_falls_asleep(&s->reader) || has_closed(s) ? 0 : 2;
}

static void subscriber_wake(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_subscriber *s = subscriber_of(e);

    (void)direction;
    s->suspicious = true;
    nr_broadcast_reader_wakes(&s->reader);
    (void)nr_os_eventfd_drain(s->data_bell);
}

static int watch(int epoll, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events};

    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* The doorbell alone would never tell of a publisher that died. */
static int subscriber_fileno(struct nr_endpoint *e)
{
    struct nr_subscriber *s = subscriber_of(e);

    if (s->epoll < 0) {
        int epoll = epoll_create1(EPOLL_CLOEXEC);
        int result = epoll < 0 ? -errno : watch(epoll, s->data_bell, EPOLLIN);

        if (result == 0)
            result = watch(epoll, s->lifeline, EPOLLRDHUP);
        if (result < 0) {
            if (epoll >= 0)
                nr_os_close(epoll);
            return result;
        }
        s->epoll = epoll;
    }
    if (nr_broadcast_reader_falls_asleep(&s->reader)) /* something is there: let poll see it */
        (void)nr_os_eventfd_ring(s->data_bell);
    return s->epoll;
}

/* ---- the end ---- */

static int subscriber_say_goodbye(struct nr_endpoint *e)
{
    atomic_store_explicit(&subscriber_of(e)->reader.slot->reader_closed, 1, memory_order_release);
    return 0;
}

static void subscriber_close(struct nr_endpoint *e)
{
    struct nr_subscriber *s = subscriber_of(e);

    nr_os_close(s->lifeline);
    nr_os_close(s->data_bell);
    nr_os_close(s->space_bell);
    if (s->epoll >= 0)
        nr_os_close(s->epoll);
    nr_broadcast_reader_stop(&s->reader);
    nr_segment_release(s->segment);
    s->segment = NULL;
}

/* A view may look at the private copy until it is gone. */
static void subscriber_free(struct nr_endpoint *e)
{
    nr_broadcast_reader_free(&subscriber_of(e)->reader);
}

static struct nr_segment *subscriber_memory(struct nr_endpoint *e)
{
    struct nr_subscriber *s = subscriber_of(e);

    return s->reader.policy == NR_POLICY_BLOCK ? s->segment : NULL;
}

static uint64_t subscriber_depth_bytes(struct nr_endpoint *e)
{
    return nr_broadcast_depth_bytes(&subscriber_of(e)->reader);
}

static const struct nr_transport_ops subscriber_ops = {
    .name = "subscriber",
    .receive = subscriber_receive,
    .release = subscriber_release,
    .is_ready = subscriber_is_ready,
    .ready_is_cheap = true,
    .fall_asleep = subscriber_fall_asleep,
    .wake = subscriber_wake,
    .say_goodbye = subscriber_say_goodbye,
    .close = subscriber_close,
    .free = subscriber_free,
    .memory = subscriber_memory,
    .depth_bytes = subscriber_depth_bytes,
    .fileno = subscriber_fileno,
};

int nr_subscriber_open(const struct nr_settings *settings, struct nr_segment *segment,
                       struct nr_broadcast_slot *slot, bool fences, int lifeline, int data_bell,
                       int space_bell, struct nr_endpoint **out)
{
    struct nr_subscriber *s = calloc(1, sizeof *s);
    int result;

    if (!s)
        return -ENOMEM;
    result = nr_broadcast_reader_start(&s->reader, segment, slot, fences);
    if (result < 0) {
        free(s);
        return result;
    }
    s->segment = segment;
    s->lifeline = lifeline;
    s->data_bell = data_bell;
    s->space_bell = space_bell;
    s->epoll = -1;
    nr_endpoint_init(&s->base, &subscriber_ops, settings->wait, settings->max_message_bytes,
                     settings->allocator);
    *out = &s->base;
    return 0;
}
