/* The byte proxy: two connections, and what comes on either goes out on the other.
 *
 * Small traffic is copied through one buffer (two calls a hop). When reads come full, the direction
 * changes over to splice(2): the bytes go from socket to pipe to socket and are never copied; its pipe
 * comes from a pool and goes back as soon as it is empty, so that only stalled directions hold one.
 * Without a descriptor for a pipe it goes on copying. A direction never has bytes in both places.
 *
 * The end of one side is passed on as the end of that direction only (half-close). A side that breaks
 * takes the other one along with a reset: nobody must take a part for the whole. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#include "service.h"

#define PIPE_BYTES (256u * 1024u)
#define POOL_PIPES 32u
#define FULL_READS_TO_SPLICE 2u
#define SMALL_SPLICES_TO_COPY 8u
#define SMALL_BYTES 8192u
#define TURN_BYTES (1024u * 1024u) /* moved by one direction in one turn */
#define CONNECT_TIMEOUT_NS 5000000000u

struct pipe {
    int out, in;
    struct pipe *next;
};

struct nr_splice {
    struct nr_splice_target target;
    struct nr_splice_statistics statistics;
    struct pipe *pool;
    unsigned pooled;
    int next_socket; /* opened before its client is accepted; -1: none */
};

/* Of one connection, and of the direction from it to the other. */
struct side {
    struct nr_connection *other;
    struct pipe *pipe;
    uint8_t *kept; /* copied bytes that the other side did not take */
    uint32_t kept_first, kept_last, piped;
    uint8_t full_reads, small_splices;
    bool stands : 1;    /* connected */
    bool readable : 1, writable : 1;
    bool hung_up : 1;   /* an end is coming, and will not be announced again */
    bool splices : 1;
    bool ended : 1;     /* read to the end */
    bool passed_on : 1; /* and the other side knows */
    bool dead : 1;      /* the other side takes no more: something was lost */
};

static struct side *side_of(struct nr_connection *c) { return nr_connection_state(c); }

static struct nr_splice *splice_of(const struct nr_connection *c)
{
    return nr_service_context(c->service);
}

/* ---- pipes ---- */

static struct pipe *take_pipe(struct nr_splice *splice)
{
    struct pipe *pipe = splice->pool;
    int ends[2];

    if (pipe) {
        splice->pool = pipe->next;
        splice->pooled--;
    } else {
        pipe = malloc(sizeof *pipe);
        if (!pipe || nr_os_pipe(ends, PIPE_BYTES) < 0) {
            free(pipe);
            return NULL;
        }
        pipe->out = ends[0];
        pipe->in = ends[1];
        nr_count(&splice->statistics.pipes, 1);
    }
    nr_count(&splice->statistics.pipes_in_use, 1);
    return pipe;
}

static void close_pipe(struct nr_splice *splice, struct pipe *pipe)
{
    nr_os_close(pipe->out);
    nr_os_close(pipe->in);
    free(pipe);
    nr_count(&splice->statistics.pipes, (uint64_t)-1);
}

/* A pipe that still has bytes is another connection's secret. */
static void give_pipe(struct nr_splice *splice, struct side *side)
{
    struct pipe *pipe = side->pipe;

    if (!pipe)
        return;
    side->pipe = NULL;
    nr_count(&splice->statistics.pipes_in_use, (uint64_t)-1);
    if (side->piped > 0 || splice->pooled >= POOL_PIPES) {
        close_pipe(splice, pipe);
    } else {
        pipe->next = splice->pool;
        splice->pool = pipe;
        splice->pooled++;
    }
    side->piped = 0;
}

/* ---- one direction ---- */

static bool holds(const struct side *side) { return side->piped > 0 || side->kept; }

static void drop_held(struct nr_splice *splice, struct side *side)
{
    give_pipe(splice, side);
    free(side->kept);
    side->kept = NULL;
}

/* The other side takes no more. Its own direction may go on; this one's sender is told as far as its
 * socket can (Unix: EPIPE), and is read no more. Not after ECONNRESET: that is said once, and the next
 * read would take the break for an end. */
static void give_up(struct nr_connection *from)
{
    struct side *side = side_of(from);

    side->dead = side->passed_on = true;
    drop_held(splice_of(from), side);
    (void)nr_os_shutdown(from->fd, SHUT_RD);
}

static ssize_t write_held(struct nr_connection *from, struct nr_connection *to)
{
    struct side *side = side_of(from);
    ssize_t sent;

    if (side->kept) {
        sent = nr_os_send(to->fd, side->kept + side->kept_first, side->kept_last - side->kept_first, 0);
        if (sent > 0)
            side->kept_first += (uint32_t)sent;
        if (side->kept_first == side->kept_last) {
            free(side->kept);
            side->kept = NULL;
        }
        return sent;
    }
    sent = nr_os_splice(side->pipe->out, to->fd, side->piped);
    if (sent > 0)
        side->piped -= (uint32_t)sent;
    if (side->piped == 0)
        give_pipe(splice_of(from), side);
    return sent;
}

/* Everything held goes out: 1; 0 when the other side takes no more now; -errno. */
static int deliver(struct nr_connection *from, struct nr_connection *to)
{
    struct side *side = side_of(from), *target = side_of(to);

    while (holds(side)) {
        ssize_t sent = target->writable ? write_held(from, to) : -EAGAIN;

        if (sent == -EAGAIN) {
            target->writable = false;
            return 0;
        }
        if (sent == -EPIPE) {
            give_up(from);
            return 0;
        }
        if (sent < 0)
            return (int)sent;
        nr_connection_count(to, 0, (size_t)sent);
    }
    return 1;
}

static int keep_copy(struct side *side, const uint8_t *bytes, size_t size)
{
    side->kept = malloc(size);
    if (!side->kept)
        return -ENOMEM;
    memcpy(side->kept, bytes, size);
    side->kept_first = 0;
    side->kept_last = (uint32_t)size;
    return 0;
}

/* What was copied goes on at once; the rest is kept. */
static int pass_copied(struct nr_connection *from, struct nr_connection *to, const uint8_t *bytes,
                       size_t size)
{
    struct side *side = side_of(from);
    ssize_t sent = side_of(to)->writable ? nr_os_send(to->fd, bytes, size, 0) : -EAGAIN;

    nr_count(&splice_of(from)->statistics.copied_bytes, size);
    if (sent == -EPIPE) {
        give_up(from);
        return 0;
    }
    if (sent < 0 && sent != -EAGAIN)
        return (int)sent;
    if (sent == -EAGAIN) {
        side_of(to)->writable = false;
        sent = 0;
    }
    nr_connection_count(to, 0, (size_t)sent);
    return (size_t)sent == size ? 0 : keep_copy(side, bytes + sent, size - (size_t)sent);
}

static ssize_t read_by_copy(struct nr_connection *from, struct nr_connection *to)
{
    struct side *side = side_of(from);
    uint8_t *buffer = from->service->read_buffer;
    ssize_t got = nr_os_receive(from->fd, buffer, NR_READ_BYTES, 0);
    int result;

    if (got <= 0)
        return got;
    if (got == NR_READ_BYTES) {
        if (++side->full_reads >= FULL_READS_TO_SPLICE) {
            side->splices = true;
            side->small_splices = 0;
        }
    } else {
        side->full_reads = 0;
        if (!side->hung_up)
            side->readable = false; /* drained: more of it is another event (epoll(7)) */
    }
    result = pass_copied(from, to, buffer, (size_t)got);
    return result < 0 ? result : got;
}

static ssize_t read_by_splice(struct nr_connection *from)
{
    struct side *side = side_of(from);
    ssize_t got;

    if (!side->pipe)
        side->pipe = take_pipe(splice_of(from));
    if (!side->pipe)
        return -EMFILE;
    got = nr_os_splice(from->fd, side->pipe->in, PIPE_BYTES);
    if (got <= 0) {
        give_pipe(splice_of(from), side);
        return got;
    }
    side->piped = (uint32_t)got;
    nr_count(&splice_of(from)->statistics.spliced_bytes, (uint64_t)got);
    side->small_splices = got < SMALL_BYTES ? side->small_splices + 1 : 0;
    if (side->small_splices >= SMALL_SPLICES_TO_COPY) {
        side->splices = false;
        side->full_reads = 0;
    }
    return got;
}

static ssize_t read_more(struct nr_connection *from, struct nr_connection *to)
{
    if (side_of(from)->splices) {
        ssize_t got = read_by_splice(from);

        if (got != -EMFILE && got != -EINVAL)
            return got;
        side_of(from)->splices = false; /* no descriptor for a pipe now, or no such socket */
        side_of(from)->full_reads = 0;
    }
    return read_by_copy(from, to);
}

static int pass_end_on(struct nr_connection *from, struct nr_connection *to)
{
    struct side *side = side_of(from);

    side->passed_on = true;
    (void)nr_os_shutdown(to->fd, SHUT_WR); /* fails when that side is gone: it says so itself */
    nr_count(&splice_of(from)->statistics.half_closes, 1);
    return NR_DONE;
}

/* Moves what there is from one to the other: NR_DONE, NR_MORE, or -errno. */
static int move(struct nr_connection *from, struct nr_connection *to)
{
    struct side *side = side_of(from);
    size_t moved = 0;

    while (!side->passed_on) {
        int result = deliver(from, to);
        ssize_t got;

        if (result <= 0)
            return result;
        if (side->ended)
            return pass_end_on(from, to);
        if (!side->readable)
            return NR_DONE;
        if (moved >= TURN_BYTES)
            return NR_MORE;
        got = read_more(from, to);
        if (got == -EAGAIN) {
            side->readable = false;
        } else if (got < 0) {
            return (int)got;
        } else if (got == 0) {
            side->ended = true;
        } else {
            moved += (size_t)got;
            nr_connection_count(from, (size_t)got, 0);
        }
    }
    return NR_DONE;
}

/* ---- the pair ---- */

static bool is_over(struct nr_connection *c)
{
    return side_of(c)->passed_on && side_of(side_of(c)->other)->passed_on;
}

static void end_pair(struct nr_connection *c)
{
    struct nr_connection *other = side_of(c)->other;

    /* What was lost must not look like a whole to anybody. */
    nr_connection_cut(c, side_of(c)->dead || side_of(other)->dead ? -ECONNRESET : 0);
}

static int move_both(struct nr_connection *c)
{
    struct nr_connection *other = side_of(c)->other;
    uint64_t before = c->service->statistics.bytes_received + c->service->statistics.bytes_sent;
    int out = move(c, other), in = out < 0 ? out : move(other, c);

    if (in < 0)
        return in;
    if (c->service->statistics.bytes_received + c->service->statistics.bytes_sent != before)
        nr_connection_touch(c->outgoing ? other : c);
    if (is_over(c)) {
        end_pair(c);
        return NR_DONE;
    }
    return out == NR_MORE || in == NR_MORE ? NR_MORE : NR_DONE;
}

static void note_events(struct side *side, uint32_t events)
{
    if (events & (NR_READABLE | NR_PEER_ENDED | NR_HANGUP | NR_FAILED))
        side->readable = true;
    if (events & (NR_PEER_ENDED | NR_HANGUP | NR_FAILED))
        side->hung_up = true;
    if (events & (NR_WRITABLE | NR_HANGUP | NR_FAILED))
        side->writable = true;
}

static int on_events(struct nr_connection *c, uint32_t events)
{
    struct side *side = side_of(c);

    note_events(side, events);
    if (!side->stands || !side_of(side->other)->stands) /* a hang-up may have bytes before it */
        return events & NR_FAILED ? -ECONNRESET : NR_DONE;
    return move_both(c);
}

static int connect_target(struct nr_connection *client)
{
    struct nr_splice *splice = splice_of(client);
    const struct side back = {.other = client};
    uint64_t patience_ns = splice->target.connect_timeout_ns;
    int fd = splice->next_socket;
    int result;

    splice->next_socket = -1;
    side_of(client)->stands = true;
    result = fd < 0 ? -EMFILE
                    : nr_service_connect(client->service, fd,
                                         (const struct sockaddr *)&splice->target.address,
                                         splice->target.address_bytes,
                                         nr_os_now_ns() + (patience_ns ? patience_ns
                                                                       : CONNECT_TIMEOUT_NS),
                                         &back, &side_of(client)->other);
    if (result < 0) {
        nr_count(&splice->statistics.pairs_failed, 1);
        nr_connection_cut(client, result);
    }
    return 0;
}

static int on_open(struct nr_connection *c)
{
    if (!c->outgoing)
        return connect_target(c);
    nr_count(&splice_of(c)->statistics.pairs, 1);
    side_of(c)->stands = true;
    side_of(c)->writable = true;
    /* The client's events have come already; those of the target come now. */
    side_of(side_of(c)->other)->writable = true;
    return 0;
}

static void on_close(struct nr_connection *c, int reason)
{
    struct nr_splice *splice = splice_of(c);
    struct side *side = side_of(c);
    struct nr_connection *other = side->other;

    drop_held(splice, side);
    side->other = NULL;
    if (!other)
        return;
    drop_held(splice, side_of(other));
    side_of(other)->other = NULL;
    /* A target that refuses says so; a reset comes from one that had accepted. */
    if (c->outgoing && !side->stands && reason != -ECONNRESET)
        nr_count(&splice->statistics.pairs_failed, 1);
    else if (reason < 0)
        nr_count(&splice->statistics.aborts, 1);
    nr_connection_cut(other, reason);
}

static int on_admit(struct nr_service *service)
{
    struct nr_splice *splice = nr_service_context(service);
    int fd;

    if (splice->next_socket >= 0)
        return 0;
    fd = nr_os_socket(splice->target.address.ss_family);
    if (fd < 0)
        return fd;
    if (splice->target.address.ss_family != AF_UNIX) {
        (void)nr_os_set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        (void)nr_os_set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    }
    splice->next_socket = fd;
    return 0;
}

/* A pair ends by itself; the drain's patience is its limit. */
static int on_drain(struct nr_connection *c)
{
    (void)c;
    return 0;
}

static void on_destroy(struct nr_service *service)
{
    struct nr_splice *splice = nr_service_context(service);

    while (splice->pool) {
        struct pipe *pipe = splice->pool;

        splice->pool = pipe->next;
        close_pipe(splice, pipe);
    }
    if (splice->next_socket >= 0)
        nr_os_close(splice->next_socket);
    free(splice);
}

int nr_splice_create(const struct nr_splice_target *target, struct nr_splice **created)
{
    struct nr_splice *splice = calloc(1, sizeof *splice);

    if (!splice)
        return -ENOMEM;
    splice->target = *target;
    splice->next_socket = -1;
    *created = splice;
    return 0;
}

void nr_splice_read_statistics(const struct nr_splice *splice, struct nr_splice_statistics *copy)
{
    const uint64_t *from = (const uint64_t *)&splice->statistics;
    uint64_t *to = (uint64_t *)copy;

    for (size_t i = 0; i < sizeof *copy / sizeof *to; i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

const struct nr_protocol_ops nr_protocol_splice = {
    .name = "splice",
    .state_bytes = sizeof(struct side),
    .breaks_off = true,
    .on_admit = on_admit,
    .on_open = on_open,
    .on_close = on_close,
    .on_drain = on_drain,
    .on_events = on_events,
    .on_destroy = on_destroy,
};
