/* Byte streams: pipes, Unix stream sockets, TCP.
 *
 * Out: one system call a message, or one for a whole batch. In: up to 256 KiB a system call, from
 * which many messages are handed out in place; a payload that does not fit is read straight into its
 * final object. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

#include "naru/transports.h"

#define BUFFER_BYTES (256u * 1024u)
#define PARTS_A_CALL 512 /* of UIO_MAXIOV 1024 */

#define SMALL_BYTES 4096u

/* TCP under load: a burst is so many sends in a row, each within so little time of the last. */
#define BURST_SENDS 8u
#define BURST_GAP_NS 30000u

/* A partial record at most is unread when more is read, and a read ends behind the first message
 * that has descriptors (unix(7)): two sets are the most of a peer that keeps to the rules. */
#define FD_SETS 4

struct nr_stream {
    struct nr_endpoint base;
    struct nr_stream_settings settings;
    int in, out;
    uint64_t taken; /* bytes read since the beginning */
    struct fd_set_mark { /* descriptors that came, the oldest first; naru framing */
        uint64_t end;    /* `taken` behind the read that brought them: their record begins before */
        unsigned count;
        bool lost; /* there was no number free for all of them: none is kept */
    } fd_sets[FD_SETS];
    unsigned fd_set_count;
    /* [first, last) is unread; [0, first) is read, and in use while `unreleased`. */
    uint8_t *buffer;
    size_t first, last;
    unsigned unreleased;
    struct { /* a payload that does not fit in the buffer */
        void *owner;
        uint8_t *data;
        size_t size, filled;
        uint32_t fds;
        bool fds_lost;
    } assembly;
    struct {
        uint64_t last_send_ns;
        unsigned sends;
        bool gathers;    /* TCP_NODELAY is off: the kernel gathers while data are unacknowledged */
        bool owes_ack;   /* received since the last send or acknowledgement */
    } burst;
};

static struct nr_stream *stream_of(struct nr_endpoint *e) { return (struct nr_stream *)e; }

static bool is_socket(const struct nr_stream *s) { return s->settings.kind != NR_STREAM_PIPE; }

/* ---- tcp under load ----
 *
 * TCP_NODELAY sends each small message as a segment of its own: 4 us each over loopback. In a burst
 * it is switched off, so that the kernel gathers what comes while earlier data are unacknowledged
 * (Nagle, RFC 896). What makes that wrong elsewhere, the receiver's delayed acknowledgement, is
 * switched off too: a naru receiver acknowledges whenever it has read everything (TCP_QUICKACK), and
 * that acknowledgement releases what the sender's kernel gathered. Nothing stays in user space.
 * Rejected: gathering in user space, which needs a timer thread and loses messages at kill -9. */

static void set_gathering(struct nr_stream *s, bool on)
{
    if (s->burst.gathers != on)
        (void)nr_os_set_option(s->out, IPPROTO_TCP, TCP_NODELAY, !on);
    s->burst.gathers = on;
}

static void note_send(struct nr_stream *s)
{
    uint64_t now;

    s->burst.owes_ack = false; /* it rides on the data */
    if (!s->settings.coalesce)
        return;
    now = nr_os_now_ns();
    if (now - s->burst.last_send_ns > BURST_GAP_NS) {
        s->burst.sends = 0;
        set_gathering(s, false);
    } else if (++s->burst.sends == BURST_SENDS)
        set_gathering(s, true);
    s->burst.last_send_ns = now;
}

static void note_drained(struct nr_stream *s)
{
    if (s->settings.kind != NR_STREAM_TCP)
        return;
    if (s->burst.gathers) { /* now this side waits for an answer to what it sent */
        s->burst.sends = 0;
        set_gathering(s, false);
    }
    if (s->burst.owes_ack && s->settings.coalesce)
        (void)nr_os_set_option(s->in, IPPROTO_TCP, TCP_QUICKACK, 1);
    s->burst.owes_ack = false;
}

/* ---- sending ---- */

static ssize_t write_parts(struct nr_stream *s, struct iovec *parts, int count, const int *fds,
                           unsigned fd_count)
{
    _Alignas(struct cmsghdr) uint8_t control[NR_FD_CONTROL_BYTES];
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};

    if (!is_socket(s))
        return nr_os_write_parts(s->out, parts, count);
    if (fd_count)
        nr_fds_attach(&message, control, fds, fd_count);
    return nr_os_send_message(s->out, &message, MSG_DONTWAIT);
}

/* Adds the parts of `from` behind the first `skip` bytes; returns how many were used. */
static int add_parts(struct iovec *to, int used, int room, const struct iovec *from, int count,
                     size_t skip)
{
    for (int i = 0; i < count && used < room; i++) {
        if (skip >= from[i].iov_len) {
            skip -= from[i].iov_len;
            continue;
        }
        to[used++] = (struct iovec){(uint8_t *)from[i].iov_base + skip, from[i].iov_len - skip};
        skip = 0;
    }
    return used;
}

static size_t frame_overhead(const struct nr_stream *s)
{
    switch (s->settings.framing) {
    case NR_FRAMING_NARU:
        return NR_RECORD_HEADER;
    case NR_FRAMING_LINES:
        return 1;
    default:
        return 0;
    }
}

/* The usual message, small and whole, in one piece: a gathering system call costs more than copying
 * it next to its header. */
static ssize_t send_small(struct nr_stream *s, struct nr_record record,
                          const struct nr_outgoing *out)
{
    uint8_t piece[NR_RECORD_HEADER + SMALL_BYTES];
    struct iovec part = {piece, NR_RECORD_HEADER + out->size};

    memcpy(piece, &record, sizeof record);
    nr_parts_copy(out->parts, out->part_count, 0, out->size, piece + NR_RECORD_HEADER);
    return is_socket(s) ? nr_os_send(s->out, part.iov_base, part.iov_len, MSG_DONTWAIT)
                        : nr_os_write_parts(s->out, &part, 1);
}

static int stream_send(struct nr_endpoint *e, struct nr_outgoing *out)
{
    struct nr_stream *s = stream_of(e);
    struct nr_record record = {(uint32_t)out->size,
                               out->flags | out->fd_count << NR_RECORD_FDS_SHIFT};
    struct iovec ends[3] = {{&record, sizeof record}, {NULL, 0}, {"\n", 1}};
    const size_t total = out->size + frame_overhead(s);
    const enum nr_framing framing = s->settings.framing;

    if (s->settings.kind == NR_STREAM_TCP)
        note_send(s);
    if (out->progress == 0 && out->size <= SMALL_BYTES && framing == NR_FRAMING_NARU &&
        out->fd_count == 0) {
        ssize_t written = send_small(s, record, out);

        if (written < 0)
            return (int)written;
        out->progress = (size_t)written;
    }
    while (out->progress < total) {
        struct iovec parts[PARTS_A_CALL + 2];
        size_t skip = out->progress;
        int count = 0;
        ssize_t written;

        if (framing == NR_FRAMING_NARU) {
            count = add_parts(parts, 0, 1, ends, 1, skip);
            skip = skip > NR_RECORD_HEADER ? skip - NR_RECORD_HEADER : 0;
        }
        count = add_parts(parts, count, PARTS_A_CALL, out->parts, out->part_count, skip);
        if (framing == NR_FRAMING_LINES && count < PARTS_A_CALL)
            count = add_parts(parts, count, PARTS_A_CALL + 2, ends + 2, 1, 0);
        written = write_parts(s, parts, count, out->fds, out->progress ? 0 : out->fd_count);
        if (written < 0)
            return (int)written;
        out->progress += (size_t)written;
    }
    return 0;
}

/* After a short write: how many messages went, and the rest of the one that was cut. */
static int settle_batch(struct nr_endpoint *e, const struct iovec *messages, int count,
                        size_t written)
{
    const size_t overhead = frame_overhead(stream_of(e));
    int taken = 0;

    while (taken < count && written >= messages[taken].iov_len + overhead)
        written -= messages[taken++].iov_len + overhead;
    if (written > 0) {
        struct nr_outgoing cut = {.parts = &messages[taken], .part_count = 1,
                                  .size = messages[taken].iov_len, .progress = written};

        if (nr_endpoint_keep_rest(e, &cut) < 0) {
            nr_endpoint_break_off(e, -ENOMEM);
            return taken > 0 ? taken : -ENOMEM;
        }
        taken++;
    }
    return taken;
}

static int stream_send_many(struct nr_endpoint *e, const struct iovec *messages, int count)
{
    struct nr_stream *s = stream_of(e);
    struct nr_record records[PARTS_A_CALL / 2];
    struct iovec parts[PARTS_A_CALL];
    const enum nr_framing framing = s->settings.framing;
    int used = 0;
    ssize_t written;

    if (count > PARTS_A_CALL / 2)
        count = PARTS_A_CALL / 2;
    for (int i = 0; i < count; i++) {
        if (framing == NR_FRAMING_NARU) {
            records[i] = (struct nr_record){(uint32_t)messages[i].iov_len, 0};
            parts[used++] = (struct iovec){&records[i], sizeof records[i]};
        }
        parts[used++] = messages[i];
        if (framing == NR_FRAMING_LINES)
            parts[used++] = (struct iovec){"\n", 1};
    }
    if (s->settings.kind == NR_STREAM_TCP)
        note_send(s);
    written = write_parts(s, parts, used, NULL, 0);
    if (written < 0)
        return (int)written;
    return settle_batch(e, messages, count, (size_t)written);
}

static int send_bare_record(struct nr_stream *s, uint32_t flags)
{
    struct nr_record record = {0, flags};
    struct iovec part = {&record, sizeof record};
    ssize_t written;

    if (s->settings.framing != NR_FRAMING_NARU || s->out < 0)
        return 0;
    written = write_parts(s, &part, 1, NULL, 0);
    if (written > 0 && written < (ssize_t)sizeof record) {
        /* 1 to 7 bytes of 8: a kernel buffer that is full to the last byte. Complete it later. */
        struct iovec nothing = {NULL, 0};
        struct nr_outgoing cut = {.parts = &nothing, .part_count = 1, .flags = flags,
                                  .progress = (size_t)written};

        return nr_endpoint_keep_rest(&s->base, &cut);
    }
    return written < 0 ? (int)written : 0;
}

/* ---- receiving ---- */

static int fail(struct nr_stream *s, int error)
{
    s->base.end_error = error;
    return error;
}

static void drop_assembly(struct nr_stream *s)
{
    if (s->assembly.owner)
        s->base.allocator->discard(s->assembly.owner);
    s->assembly.owner = NULL;
}

/* Books the descriptors of one read. 0 or -EPROTO. */
static int note_fds(struct nr_stream *s, struct msghdr *message, size_t got)
{
    struct nr_fd_queue *queue = &s->base.incoming_fds;
    unsigned before = queue->count;
    int result = nr_fds_collect(queue, message);
    unsigned came = queue->count - before;

    if (result == -EPROTO || (came == 0 && result == 0))
        return result;
    if (s->settings.framing == NR_FRAMING_LINES) { /* no line can say that they are its own */
        s->base.statistics.fds_dropped += came;
        nr_fds_close(queue, queue->count);
        return 0;
    }
    if (s->fd_set_count == FD_SETS)
        return -EPROTO;
    s->fd_sets[s->fd_set_count++] =
        (struct fd_set_mark){s->taken + got, came, result == -EMFILE};
    return 0;
}

static void forget_fd_set(struct nr_stream *s)
{
    s->fd_set_count--;
    memmove(s->fd_sets, s->fd_sets + 1, s->fd_set_count * sizeof *s->fd_sets);
}

/* Do the descriptors that came fit what the record at `first` announces? 0; -EMFILE: they are lost,
 * and the record with them; -EPROTO. */
static int match_fds(const struct nr_stream *s, unsigned announced)
{
    const struct fd_set_mark *set = s->fd_set_count ? s->fd_sets : NULL;

    if (set && set->end <= s->taken - (s->last - s->first))
        return -EPROTO; /* of an earlier record, which did not announce them */
    if (announced == 0)
        return 0;
    if (!set || (!set->lost && set->count != announced))
        return -EPROTO;
    return set->lost ? -EMFILE : 0;
}

/* One read; the stream's end is -EPIPE here. */
static ssize_t read_some(struct nr_stream *s, uint8_t *to, size_t size)
{
    _Alignas(struct cmsghdr) uint8_t control[NR_FD_CONTROL_BYTES];
    struct iovec part = {to, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t got;
    int result;

    switch (s->settings.kind) {
    case NR_STREAM_PIPE:
        got = nr_os_read(s->in, to, size);
        /* A FIFO has no end before its first writer (no event), nor when one came and left since
         * the read (POLLIN): poll(2). */
        if (got == 0 && nr_os_poll_now(s->in, POLLIN) != POLLHUP)
            got = -EAGAIN;
        break;
    case NR_STREAM_TCP:
        got = nr_os_receive(s->in, to, size, MSG_DONTWAIT);
        s->burst.owes_ack |= got > 0;
        break;
    default:
        got = nr_os_receive_message(s->in, &message, MSG_DONTWAIT);
        if (got < 0)
            break;
        result = note_fds(s, &message, (size_t)got);
        if (result < 0)
            return fail(s, result);
    }
    if (got > 0)
        s->taken += (size_t)got;
    return got == 0 ? -EPIPE : got;
}

/* The stream ended with `error`: in good order, or in the middle of something? */
static int ended(struct nr_stream *s, int error)
{
    if (s->base.end_error)
        return s->base.end_error; /* known already */
    if (s->assembly.owner || (s->first < s->last && s->settings.framing == NR_FRAMING_NARU)) {
        drop_assembly(s);
        s->base.statistics.torn++;
        return fail(s, -EBADMSG);
    }
    /* Without naru's goodbye there is no telling; a plain end of file is a foreign stream's good end. */
    if (error == -EPIPE && s->settings.framing != NR_FRAMING_NARU)
        error = -ESHUTDOWN;
    return fail(s, error);
}

/* Reads more into the buffer: 0, or -errno. */
static int fill(struct nr_stream *s)
{
    ssize_t got;

    if (!s->buffer) {
        s->buffer = malloc(BUFFER_BYTES);
        if (!s->buffer)
            return -ENOMEM;
    }
    if (!s->unreleased && s->first > 0) {
        memmove(s->buffer, s->buffer + s->first, s->last - s->first);
        s->last -= s->first;
        s->first = 0;
    }
    if (s->last == BUFFER_BYTES)
        return -ENOBUFS;
    got = read_some(s, s->buffer + s->last, BUFFER_BYTES - s->last);
    if (got == -EAGAIN)
        note_drained(s);
    if (got < 0)
        return (int)got;
    s->last += (size_t)got;
    return 0;
}

static int continue_assembly(struct nr_stream *s, struct nr_message *message)
{
    while (s->assembly.filled < s->assembly.size) {
        ssize_t got = read_some(s, s->assembly.data + s->assembly.filled,
                                s->assembly.size - s->assembly.filled);

        if (got == -EAGAIN)
            note_drained(s);
        if (got == -EAGAIN)
            return (int)got;
        if (got < 0)
            return ended(s, (int)got);
        s->assembly.filled += (size_t)got;
    }
    if (s->assembly.fds_lost) {
        drop_assembly(s);
        return -EMFILE;
    }
    *message = (struct nr_message){.data = s->assembly.data, .size = s->assembly.size,
                                   .owner = s->assembly.owner, .fd_count = s->assembly.fds};
    s->assembly.owner = NULL;
    return 1;
}

/* 0, or -ENOMEM with nothing changed. */
static int begin_assembly(struct nr_stream *s, size_t size, uint32_t fds, bool fds_lost)
{
    size_t here = s->last - s->first - NR_RECORD_HEADER;
    void *owner = s->base.allocator->allocate(size, &s->assembly.data);

    if (!owner)
        return -ENOMEM;
    if (here > size)
        here = size;
    memcpy(s->assembly.data, s->buffer + s->first + NR_RECORD_HEADER, here);
    s->first += NR_RECORD_HEADER + here;
    s->assembly.owner = owner;
    s->assembly.size = size;
    s->assembly.filled = here;
    s->assembly.fds = fds;
    s->assembly.fds_lost = fds_lost;
    if (fds)
        forget_fd_set(s);
    return 0;
}

/* A record without a message: 0 to go on. */
static int special_record(struct nr_stream *s, struct nr_record record)
{
    s->first += NR_RECORD_HEADER;
    if (record.length != 0)
        return fail(s, -EPROTO);
    if (record.flags & NR_RECORD_BYE)
        return fail(s, -ESHUTDOWN);
    return record.flags & NR_RECORD_HEARTBEAT ? 0 : fail(s, -EPROTO);
}

/* A publisher left messages out at this place: 0 to go on. */
static int read_gap(struct nr_stream *s, struct nr_record record, size_t here)
{
    uint64_t lost;

    if (record.length != sizeof lost)
        return fail(s, -EPROTO);
    if (here < NR_RECORD_HEADER + sizeof lost)
        return -EAGAIN;
    if (s->unreleased)
        return -ENOBUFS; /* a batch is contiguous */
    memcpy(&lost, s->buffer + s->first + NR_RECORD_HEADER, sizeof lost);
    s->base.statistics.lost += lost;
    s->first += NR_RECORD_HEADER + sizeof lost;
    return 0;
}

/* 1 a message; 0 special, go on; -EAGAIN more bytes are needed; -EMFILE this one is lost. */
static int next_record(struct nr_stream *s, struct nr_message *message)
{
    size_t here = s->last - s->first;
    struct nr_record record;
    uint32_t fds;
    int lost, result;

    if (here < NR_RECORD_HEADER)
        return -EAGAIN;
    memcpy(&record, s->buffer + s->first, sizeof record);
    if (__builtin_expect(record.flags == NR_RECORD_GAP, 0))
        return read_gap(s, record, here);
    result = nr_record_parse(s->buffer + s->first, s->base.max_message_bytes, &record);
    if (result < 0)
        return fail(s, -EPROTO);
    fds = nr_record_fds(record);
    lost = match_fds(s, fds);
    if (lost == -EPROTO || (fds && record.flags & NR_RECORD_KNOWN))
        return fail(s, -EPROTO);
    if (record.flags & NR_RECORD_KNOWN)
        return special_record(s, record);
    if (here - NR_RECORD_HEADER < record.length && record.length <= BUFFER_BYTES - NR_RECORD_HEADER)
        return -EAGAIN;
    /* A batch reports no loss: what is lost waits until those before it are released. */
    if (s->unreleased && (lost || here - NR_RECORD_HEADER < record.length))
        return -ENOBUFS;
    if (here - NR_RECORD_HEADER < record.length)
        return begin_assembly(s, record.length, fds, lost);
    if (fds)
        forget_fd_set(s);
    *message = (struct nr_message){.data = s->buffer + s->first + NR_RECORD_HEADER,
                                   .size = record.length, .fd_count = fds};
    s->first += NR_RECORD_HEADER + record.length;
    return lost ? lost : 1;
}

static int next_line(struct nr_stream *s, struct nr_message *message)
{
    size_t here = s->last - s->first;
    const uint8_t *start = s->buffer + s->first;
    const uint8_t *end = here ? memchr(start, '\n', here) : NULL;

    if (!end) {
        if (here == BUFFER_BYTES)
            return fail(s, -EMSGSIZE);
        return -EAGAIN;
    }
    *message = (struct nr_message){.data = start, .size = (size_t)(end - start)};
    s->first += message->size + 1;
    return message->size > s->base.max_message_bytes ? fail(s, -EMSGSIZE) : 1;
}

static int all_there_is(struct nr_stream *s, struct nr_message *message)
{
    size_t here = s->last - s->first;
    bool lost = false;

    for (; s->fd_set_count; s->fd_set_count--)
        lost |= s->fd_sets[s->fd_set_count - 1].lost;
    if (lost)
        return -EMFILE; /* the bytes follow, without them */
    if (here == 0)
        return -EAGAIN;
    if (here > s->base.max_message_bytes)
        here = s->base.max_message_bytes;
    *message = (struct nr_message){.data = s->buffer + s->first, .size = here,
                                   .fd_count = s->base.incoming_fds.count};
    s->first += here;
    return 1;
}

static int parse(struct nr_stream *s, struct nr_message *message)
{
    switch (s->settings.framing) {
    case NR_FRAMING_NARU:
        return next_record(s, message);
    case NR_FRAMING_LINES:
        return next_line(s, message);
    default:
        return all_there_is(s, message);
    }
}

/* A last line without its newline is a line. */
static int last_words(struct nr_stream *s, struct nr_message *message, int error)
{
    if (s->settings.framing == NR_FRAMING_LINES && s->first < s->last)
        return all_there_is(s, message);
    return ended(s, error);
}

static int stream_receive(struct nr_endpoint *e, struct nr_message *message)
{
    struct nr_stream *s = stream_of(e);
    int result;

    for (;;) {
        if (e->end_error)
            return e->end_error;
        if (s->assembly.owner)
            return continue_assembly(s, message);
        result = parse(s, message);
        if (result == 0)
            continue;
        if (result != -EAGAIN)
            break;
        result = fill(s);
        if (result == -EAGAIN || result == -ENOBUFS || result == -ENOMEM)
            return result;
        if (result < 0) {
            result = last_words(s, message, result);
            break;
        }
    }
    if (result == 1)
        s->unreleased++;
    return result;
}

static void stream_release(struct nr_endpoint *e)
{
    struct nr_stream *s = stream_of(e);

    s->unreleased = 0;
    if (s->first == s->last)
        s->first = s->last = 0;
}

/* ---- waiting ---- */

static int fd_of(const struct nr_stream *s, enum nr_direction direction)
{
    return direction == NR_SEND ? s->out : s->in;
}

static bool stream_is_ready(struct nr_endpoint *e, enum nr_direction direction)
{
    return nr_os_poll_now(fd_of(stream_of(e), direction),
                          direction == NR_SEND ? POLLOUT : POLLIN) != 0;
}

static int stream_fall_asleep(struct nr_endpoint *e, enum nr_direction direction,
                              struct pollfd *fds)
{
    struct nr_stream *s = stream_of(e);

    fds[0] = (struct pollfd){.fd = fd_of(s, direction),
                             .events = direction == NR_SEND ? POLLOUT : POLLIN};
    if (direction == NR_RECEIVE && e->outbox.active) { /* the answer may depend on the rest */
        fds[1] = (struct pollfd){.fd = s->out, .events = POLLOUT};
        return 2;
    }
    return 1;
}

static void stream_wake(struct nr_endpoint *e, enum nr_direction direction)
{
    (void)e;
    (void)direction;
}

/* The kernel acknowledges for a stopped process; only its own heartbeats show that it runs. */
static int stream_check(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_stream *s = stream_of(e);

    (void)direction;
    if (s->settings.heartbeat_ms == 0 || nr_os_poll_now(s->in, POLLIN))
        return 0; /* unread data: it is this side that is late */
    return nr_os_tcp_silence_ms(s->in) > (int64_t)s->settings.heartbeat_ms ? -EHOSTDOWN : 0;
}

static int stream_beat(struct nr_endpoint *e)
{
    if (nr_endpoint_state(e) != NR_OPEN || e->outbox.active || e->send_begun)
        return 0; /* data under way are a sign of life too */
    return send_bare_record(stream_of(e), NR_RECORD_HEARTBEAT);
}

/* ---- the end ---- */

static int stream_say_goodbye(struct nr_endpoint *e)
{
    return send_bare_record(stream_of(e), NR_RECORD_BYE);
}

/* Data that come to a closed TCP socket, or lie there unread when it is closed, reset the
 * connection (RFC 1122 4.2.2.13), and with it goes what the kernel has not sent yet. MSG_TRUNC:
 * thrown away uncopied, tcp(7). */
static void discard_incoming(struct nr_stream *s)
{
    while (nr_os_receive(s->in, NULL, BUFFER_BYTES, MSG_DONTWAIT | MSG_TRUNC) > 0)
        continue;
}

static int stream_linger(struct nr_endpoint *e)
{
    struct nr_stream *s = stream_of(e);

    if (s->settings.kind != NR_STREAM_TCP || (e->end_error && e->end_error != -ECANCELED))
        return 0;
    if (nr_os_poll_now(s->out, 0) || nr_os_tcp_unsent_bytes(s->out) <= 0)
        return 0; /* there is nobody who could take it; or nothing is left */
    e->end_error = -ECANCELED;
    discard_incoming(s); /* so that a peer which is itself stuck in a send reads again */
    return -EAGAIN;
}

/* A copy of an end of a pair that another process uses, or will use: what came is not for us. */
static bool is_claimed_here(const struct nr_endpoint *e)
{
    return !e->pair.claims ||
           nr_claims_owner(e->pair.claims, e->pair.index) == nr_process_token();
}

static void stream_close(struct nr_endpoint *e)
{
    struct nr_stream *s = stream_of(e);

    if (s->settings.kind == NR_STREAM_TCP && nr_endpoint_state(e) == NR_CLOSED && is_claimed_here(e))
        discard_incoming(s); /* but not in a forked child: it is the parent's there */
    if (s->in >= 0)
        nr_os_close(s->in);
    if (s->out >= 0 && s->out != s->in)
        nr_os_close(s->out);
    drop_assembly(s);
    /* The buffer stays while in-place views may exist: the binding frees it with the endpoint. */
    s->in = s->out = -1;
}

static uint64_t stream_depth_bytes(struct nr_endpoint *e)
{
    return stream_of(e)->last - stream_of(e)->first;
}

static int stream_fileno(struct nr_endpoint *e) { return stream_of(e)->in; }

static void stream_free(struct nr_endpoint *e) { free(stream_of(e)->buffer); }

static const struct nr_transport_ops stream_ops = {
    .name = "stream",
    .send = stream_send,
    .send_many = stream_send_many,
    .receive = stream_receive,
    .release = stream_release,
    .is_ready = stream_is_ready,
    .fall_asleep = stream_fall_asleep,
    .wake = stream_wake,
    .check = stream_check,
    .beat = stream_beat,
    .say_goodbye = stream_say_goodbye,
    .linger = stream_linger,
    .close = stream_close,
    .free = stream_free,
    .depth_bytes = stream_depth_bytes,
    .fileno = stream_fileno,
};

int nr_stream_open(const struct nr_settings *settings, const struct nr_stream_settings *kind,
                   int in, int out, struct nr_endpoint **endpoint)
{
    struct nr_stream *s;
    int result = 0;

    if (in >= 0)
        result = nr_os_set_nonblocking(in);
    if (result == 0 && out >= 0)
        result = nr_os_set_nonblocking(out);
    if (result < 0)
        return result;
    s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->settings = *kind;
    s->in = in;
    s->out = out;
    nr_endpoint_init(&s->base, &stream_ops, settings->wait, settings->max_message_bytes,
                     settings->allocator);
    if (kind->heartbeat_ms)
        s->base.check_interval_ns = kind->heartbeat_ms * 1000000ull / NR_CHECKS_OF_SILENCE;
    *endpoint = &s->base;
    return 0;
}
