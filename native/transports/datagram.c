/* Datagram sockets: UDP, and Unix datagram sockets of other programs (raw).
 *
 * The kernel keeps boundaries and may lose, repeat and reorder (UDP). naru numbers the messages of
 * each sender, drops what comes twice and counts what does not come. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "naru/transports.h"

#define BUFFER_BYTES (256u * 1024u)
#define DATAGRAM_BYTES 65536u
#define MAX_UDP_PAYLOAD 65507u /* 65535 less the headers of IPv4 and UDP, RFC 768 */
#define WINDOW 1024u           /* how far back a repetition is recognised */

struct nr_datagrams {
    struct nr_endpoint base;
    int fd;
    bool raw;
    bool refused; /* the kernel told that nobody is at the peer's port any more */
    uint64_t connection;
    uint32_t heartbeat_ms;
    uint64_t next_out; /* sequence of the next message sent */
    uint64_t next_in;  /* one above the highest that came */
    uint64_t seen[WINDOW / 64];
    _Atomic uint64_t heard_ns;
    uint8_t *buffer;
    size_t used;
    unsigned unreleased;
};

static struct nr_datagrams *datagrams_of(struct nr_endpoint *e) { return (struct nr_datagrams *)e; }

/* ---- sending ---- */

static int send_with_header(struct nr_datagrams *d, const struct iovec *payload, int count,
                            size_t size, uint32_t flags)
{
    struct nr_datagram header = {(uint32_t)size, flags, d->connection, d->next_out};
    struct iovec parts[64];
    struct msghdr message = {.msg_iov = parts};
    uint8_t *gathered = NULL;
    ssize_t sent;

    parts[0] = (struct iovec){&header, sizeof header};
    if (count < 64) {
        memcpy(parts + 1, payload, (size_t)count * sizeof *payload);
        message.msg_iovlen = (size_t)count + 1;
    } else {
        gathered = malloc(size);
        if (!gathered)
            return -ENOMEM;
        nr_parts_copy(payload, count, 0, size, gathered);
        parts[1] = (struct iovec){gathered, size};
        message.msg_iovlen = 2;
    }
    sent = nr_os_send_message(d->fd, &message, MSG_DONTWAIT);
    free(gathered);
    return sent < 0 ? (int)sent : 0;
}

static int datagram_send(struct nr_endpoint *e, struct nr_outgoing *out)
{
    struct nr_datagrams *d = datagrams_of(e);
    int result;

    if (d->raw) {
        struct msghdr message = {.msg_iov = (struct iovec *)out->parts,
                                 .msg_iovlen = (size_t)out->part_count};
        ssize_t sent = nr_os_send_message(d->fd, &message, MSG_DONTWAIT);

        return sent < 0 ? (int)sent : 0;
    }
    if (d->refused) /* the kernel tells of it once, then takes every other datagram again */
        return -ECONNREFUSED;
    result = send_with_header(d, out->parts, out->part_count, out->size, 0);
    if (result == 0)
        d->next_out++;
    d->refused = result == -ECONNREFUSED;
    return result;
}

/* ---- receiving ---- */

static bool test_and_set(struct nr_datagrams *d, uint64_t sequence)
{
    uint64_t bit = 1ull << (sequence % 64);
    uint64_t *word = &d->seen[sequence % WINDOW / 64];
    bool was_set = *word & bit;

    *word |= bit;
    return was_set;
}

static void forget(struct nr_datagrams *d, uint64_t sequence)
{
    d->seen[sequence % WINDOW / 64] &= ~(1ull << (sequence % 64));
}

/* True when the message is new. */
static bool is_new(struct nr_datagrams *d, uint64_t sequence)
{
    struct nr_statistics *counted = &d->base.statistics;

    if (sequence >= d->next_in) {
        uint64_t gap = sequence - d->next_in;

        counted->lost += gap; /* until they come late */
        if (gap >= WINDOW)
            memset(d->seen, 0, sizeof d->seen);
        else
            for (uint64_t missing = d->next_in; missing <= sequence; missing++)
                forget(d, missing);
        d->next_in = sequence + 1;
        (void)test_and_set(d, sequence);
        return true;
    }
    if (d->next_in - sequence > WINDOW || test_and_set(d, sequence)) {
        counted->duplicates++; /* or too late to tell */
        return false;
    }
    counted->reordered++;
    counted->lost--;
    return true;
}

/* The greeting itself is the binding's (transports/udp.py); a repeated one only has to be echoed as
 * a WELCOME: what it says of this side is known to the peer from the first one's limits. */
static void answer_greeting(struct nr_datagrams *d, const uint8_t *hello, size_t size)
{
    struct iovec part = {(void *)hello, size};

    (void)send_with_header(d, &part, 1, size, NR_RECORD_MORE);
}

/* 1 a message, 0 nothing for the user, -errno. */
static int accept_datagram(struct nr_datagrams *d, const uint8_t *bytes, size_t size,
                           struct nr_message *message)
{
    struct nr_datagram header;

    if (d->raw) {
        *message = (struct nr_message){.data = bytes, .size = size};
        return 1;
    }
    if (size < NR_DATAGRAM_HEADER)
        goto stranger;
    memcpy(&header, bytes, sizeof header);
    if (header.connection != d->connection || header.length != size - NR_DATAGRAM_HEADER)
        goto stranger;
    atomic_store_explicit(&d->heard_ns, nr_os_now_ns(), memory_order_relaxed);
    if (header.flags & NR_RECORD_BYE) {
        d->base.statistics.lost +=
            header.sequence > d->next_in && header.sequence - d->next_in < UINT32_MAX
                ? header.sequence - d->next_in
                : 0;
        return d->base.end_error = -ESHUTDOWN;
    }
    if (header.flags == NR_RECORD_FIRST) { /* the HELLO again: our WELCOME was lost */
        answer_greeting(d, bytes + NR_DATAGRAM_HEADER, header.length);
        return 0;
    }
    if (header.flags != 0) /* heartbeat, a repeated WELCOME */
        return 0;
    if (!is_new(d, header.sequence))
        return 0;
    *message = (struct nr_message){.data = bytes + NR_DATAGRAM_HEADER, .size = header.length};
    return 1;
stranger:
    d->base.statistics.strangers++;
    return 0;
}

static int datagram_receive(struct nr_endpoint *e, struct nr_message *message)
{
    struct nr_datagrams *d = datagrams_of(e);
    int result;

    if (!d->buffer) {
        d->buffer = malloc(BUFFER_BYTES);
        if (!d->buffer)
            return -ENOMEM;
    }
    do {
        struct iovec part;
        struct msghdr incoming = {.msg_iov = &part, .msg_iovlen = 1};
        ssize_t got;

        if (e->end_error)
            return e->end_error;
        if (!d->unreleased)
            d->used = 0;
        if (BUFFER_BYTES - d->used < DATAGRAM_BYTES)
            return -ENOBUFS;
        part = (struct iovec){d->buffer + d->used, DATAGRAM_BYTES};
        got = nr_os_receive_message(d->fd, &incoming, MSG_DONTWAIT);
        if (got == -EAGAIN)
            return d->refused ? (e->end_error = -ECONNREFUSED) : -EAGAIN;
        if (got == -ECONNREFUSED) { /* an ICMP error overtakes what is still in the queue */
            d->refused = true;
            result = 0;
            continue;
        }
        if (got < 0)
            return e->end_error = (int)got;
        if (incoming.msg_flags & MSG_TRUNC)
            return -EBADMSG;
        result = accept_datagram(d, d->buffer + d->used, (size_t)got, message);
        if (result == 1) {
            d->used += ((size_t)got + 63u) & ~(size_t)63u;
            d->unreleased++;
        }
    } while (result == 0);
    return result;
}

static void datagram_release(struct nr_endpoint *e)
{
    datagrams_of(e)->unreleased = 0;
}

/* ---- waiting, the end ---- */

static bool datagram_is_ready(struct nr_endpoint *e, enum nr_direction direction)
{
    return nr_os_poll_now(datagrams_of(e)->fd, direction == NR_SEND ? POLLOUT : POLLIN) != 0;
}

static int datagram_fall_asleep(struct nr_endpoint *e, enum nr_direction direction,
                                struct pollfd *fds)
{
    fds[0] = (struct pollfd){.fd = datagrams_of(e)->fd,
                             .events = direction == NR_SEND ? POLLOUT : POLLIN};
    return 1;
}

static void datagram_wake(struct nr_endpoint *e, enum nr_direction direction)
{
    (void)e;
    (void)direction;
}

static int datagram_check(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_datagrams *d = datagrams_of(e);
    uint64_t heard = atomic_load_explicit(&d->heard_ns, memory_order_relaxed);

    (void)direction;
    if (d->heartbeat_ms == 0)
        return 0;
    return nr_os_now_ns() - heard > d->heartbeat_ms * 1000000ull ? -EHOSTDOWN : 0;
}

static int datagram_beat(struct nr_endpoint *e)
{
    if (nr_endpoint_state(e) != NR_OPEN || datagrams_of(e)->raw)
        return 0;
    return send_with_header(datagrams_of(e), NULL, 0, 0, NR_RECORD_HEARTBEAT);
}

static int datagram_say_goodbye(struct nr_endpoint *e)
{
    return datagrams_of(e)->raw ? 0 : send_with_header(datagrams_of(e), NULL, 0, 0, NR_RECORD_BYE);
}

static void datagram_close(struct nr_endpoint *e) { nr_os_close(datagrams_of(e)->fd); }

static void datagram_free(struct nr_endpoint *e) { free(datagrams_of(e)->buffer); }

static int datagram_fileno(struct nr_endpoint *e) { return datagrams_of(e)->fd; }

static const struct nr_transport_ops datagram_ops = {
    .name = "datagram",
    .send = datagram_send,
    .receive = datagram_receive,
    .release = datagram_release,
    .is_ready = datagram_is_ready,
    .fall_asleep = datagram_fall_asleep,
    .wake = datagram_wake,
    .check = datagram_check,
    .beat = datagram_beat,
    .say_goodbye = datagram_say_goodbye,
    .close = datagram_close,
    .free = datagram_free,
    .fileno = datagram_fileno,
};

int nr_datagram_open(const struct nr_settings *settings, int fd, bool raw, uint64_t connection,
                     uint32_t heartbeat_ms, struct nr_endpoint **endpoint)
{
    const uint32_t most = MAX_UDP_PAYLOAD - (raw ? 0 : NR_DATAGRAM_HEADER);
    struct nr_datagrams *d;
    int result = nr_os_set_nonblocking(fd);

    if (result < 0)
        return result;
    d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->fd = fd;
    d->raw = raw;
    d->connection = connection;
    d->heartbeat_ms = heartbeat_ms;
    atomic_store(&d->heard_ns, nr_os_now_ns());
    nr_endpoint_init(&d->base, &datagram_ops, settings->wait,
                     settings->max_message_bytes < most ? settings->max_message_bytes : most,
                     settings->allocator);
    if (heartbeat_ms)
        d->base.check_interval_ns = heartbeat_ms * 1000000ull / NR_CHECKS_OF_SILENCE;
    *endpoint = &d->base;
    return 0;
}
