/* FIFOs: many writers, one reader, one byte stream that they all share.
 *
 * pipe(7) keeps a write of at most PIPE_BUF bytes together, so everything is sent in chunks of that
 * size, and the receiver puts the chunks of each sender together. Each sender holds a lock on one
 * byte of the FIFO itself (a random one, its number); a message whose sender lost its lock half-way
 * is dropped and counted as torn. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "naru/transports.h"

#define BUFFER_BYTES (64u * 1024u)
#define CHUNK_PAYLOAD (PIPE_BUF - NR_CHUNK_HEADER)
#define PARTS_A_CALL 64
#define MAX_PARTIAL 1024 /* senders that are half-way through a message at one time */
#define LOOK_NS 50000000u

struct partial { /* a message on its way in, in several chunks */
    uint64_t sender;
    void *owner;
    uint8_t *data;
    size_t size, filled;
    uint32_t index;
};

struct nr_fifo {
    struct nr_endpoint base;
    int fd;
    int keep_open; /* receiver: a write end of its own, so that a last writer's leaving is no end */
    uint64_t sender;
    uint8_t *buffer;
    size_t first, last;
    unsigned unreleased;
    struct partial *partials;
    unsigned partial_count;
    uint64_t next_look_ns;
};

static struct nr_fifo *fifo_of(struct nr_endpoint *e) { return (struct nr_fifo *)e; }

/* ---- sending ---- */

static int add_parts(struct iovec *to, int used, const struct nr_outgoing *out, size_t size)
{
    size_t skip = out->progress;

    for (int i = 0; i < out->part_count && size > 0; i++) {
        size_t part = out->parts[i].iov_len;

        if (skip >= part) {
            skip -= part;
            continue;
        }
        part -= skip;
        if (part > size)
            part = size;
        if (used == PARTS_A_CALL)
            return -EAGAIN;
        to[used++] = (struct iovec){(uint8_t *)out->parts[i].iov_base + skip, part};
        size -= part;
        skip = 0;
    }
    return used;
}

static int fifo_send(struct nr_endpoint *e, struct nr_outgoing *out)
{
    struct nr_fifo *f = fifo_of(e);

    do {
        size_t rest = out->size - out->progress;
        size_t size = rest < CHUNK_PAYLOAD ? rest : CHUNK_PAYLOAD;
        struct nr_chunk chunk = {.length = (uint32_t)size,
                                 .flags = (out->progress == 0 ? NR_RECORD_FIRST : 0u) |
                                          (rest > size ? NR_RECORD_MORE : 0u),
                                 .sender = f->sender,
                                 .total = (uint32_t)out->size,
                                 .index = (uint32_t)(out->progress / CHUNK_PAYLOAD)};
        struct iovec parts[PARTS_A_CALL] = {{&chunk, sizeof chunk}};
        uint8_t gathered[CHUNK_PAYLOAD];
        int count = add_parts(parts, 1, out, size);
        ssize_t written;

        if (count < 0) { /* very many tiny parts */
            nr_parts_copy(out->parts, out->part_count, out->progress, size, gathered);
            parts[1] = (struct iovec){gathered, size};
            count = 2;
        }
        written = nr_os_write_parts(f->fd, parts, count);
        if (written < 0)
            return (int)written;
        out->progress += size;
    } while (out->progress < out->size);
    return 0;
}

static int fifo_send_many(struct nr_endpoint *e, const struct iovec *messages, int count)
{
    struct nr_fifo *f = fifo_of(e);
    struct nr_chunk chunks[PARTS_A_CALL / 2];
    struct iovec parts[PARTS_A_CALL];
    size_t bytes = 0;
    int taken = 0;
    ssize_t written;

    while (taken < count && taken < PARTS_A_CALL / 2 &&
           bytes + NR_CHUNK_HEADER + messages[taken].iov_len <= PIPE_BUF) {
        uint32_t size = (uint32_t)messages[taken].iov_len;

        chunks[taken] = (struct nr_chunk){size, NR_RECORD_FIRST, f->sender, size, 0};
        parts[2 * taken] = (struct iovec){&chunks[taken], NR_CHUNK_HEADER};
        parts[2 * taken + 1] = messages[taken];
        bytes += NR_CHUNK_HEADER + size;
        taken++;
    }
    if (taken == 0) {
        struct nr_outgoing out = {.parts = messages, .part_count = 1, .size = messages->iov_len};
        int result = fifo_send(e, &out);

        if (result == -EAGAIN && out.progress > 0)
            result = nr_endpoint_keep_rest(e, &out);
        return result < 0 ? result : 1;
    }
    written = nr_os_write_parts(f->fd, parts, 2 * taken);
    return written < 0 ? (int)written : taken; /* at most PIPE_BUF: all or nothing */
}

static int fifo_say_goodbye(struct nr_endpoint *e)
{
    struct nr_fifo *f = fifo_of(e);
    struct nr_chunk chunk = {.flags = NR_RECORD_BYE, .sender = f->sender};
    struct iovec part = {&chunk, sizeof chunk};

    ssize_t written = f->sender ? nr_os_write_parts(f->fd, &part, 1) : 0;

    return written < 0 ? (int)written : 0; /* below PIPE_BUF: all or nothing */
}

/* ---- receiving ---- */

static struct partial *find_partial(struct nr_fifo *f, uint64_t sender)
{
    for (unsigned i = 0; i < f->partial_count; i++)
        if (f->partials[i].sender == sender)
            return &f->partials[i];
    return NULL;
}

static void remove_partial(struct nr_fifo *f, struct partial *partial)
{
    *partial = f->partials[--f->partial_count];
}

static void drop_partial(struct nr_fifo *f, struct partial *partial)
{
    f->base.allocator->discard(partial->owner);
    f->base.statistics.torn++;
    remove_partial(f, partial);
}

/* Messages whose sender has died half-way. */
static void drop_orphans(struct nr_fifo *f)
{
    for (unsigned i = f->partial_count; i-- > 0;)
        if (nr_os_lock_byte_is_held(f->fd, f->partials[i].sender) == 0) {
            drop_partial(f, &f->partials[i]);
            f->base.statistics.peers_lost++;
        }
}

static int add_chunk(struct nr_fifo *f, const struct nr_chunk *chunk, const uint8_t *payload,
                     struct nr_message *message)
{
    struct partial *partial = find_partial(f, chunk->sender);

    if (chunk->flags & NR_RECORD_FIRST) {
        if (partial) /* gave up the last one: it said so by starting anew */
            drop_partial(f, partial);
        if (f->partial_count == MAX_PARTIAL)
            return -EPROTO;
        partial = &f->partials[f->partial_count];
        *partial = (struct partial){.sender = chunk->sender, .size = chunk->total};
        partial->owner = f->base.allocator->allocate(chunk->total, &partial->data);
        if (!partial->owner)
            return -ENOMEM;
        f->partial_count++;
    }
    if (!partial || partial->size != chunk->total || partial->index != chunk->index ||
        chunk->length > partial->size - partial->filled)
        return -EPROTO;
    memcpy(partial->data + partial->filled, payload, chunk->length);
    partial->filled += chunk->length;
    partial->index++;
    if (chunk->flags & NR_RECORD_MORE)
        return 0;
    if (partial->filled != partial->size)
        return -EPROTO;
    *message = (struct nr_message){
        .data = partial->data, .size = partial->size, .owner = partial->owner};
    remove_partial(f, partial);
    return 1;
}

static int fill(struct nr_fifo *f)
{
    ssize_t got;

    if (!f->unreleased && f->first > 0) {
        memmove(f->buffer, f->buffer + f->first, f->last - f->first);
        f->last -= f->first;
        f->first = 0;
    }
    if (f->last == BUFFER_BYTES)
        return -ENOBUFS;
    got = nr_os_read(f->fd, f->buffer + f->last, BUFFER_BYTES - f->last);
    if (got == 0)
        return -EAGAIN; /* no writer at this moment, not even our own: one will come */
    if (got < 0)
        return (int)got;
    f->last += (size_t)got;
    return 0;
}

/* 1 a message, 0 go on, -EAGAIN more bytes are needed, -EPROTO. */
static int next_chunk(struct nr_fifo *f, struct nr_message *message)
{
    size_t here = f->last - f->first;
    const uint8_t *place = f->buffer + f->first;
    struct partial *partial;
    struct nr_chunk chunk;
    int result;

    if (here < NR_CHUNK_HEADER)
        return -EAGAIN;
    result = nr_chunk_parse(place, f->base.max_message_bytes, CHUNK_PAYLOAD, &chunk);
    if (result < 0)
        return -EPROTO;
    if (here - NR_CHUNK_HEADER < chunk.length)
        return -EAGAIN;
    f->first += NR_CHUNK_HEADER + chunk.length;
    if (chunk.flags & NR_RECORD_BYE) {
        f->base.statistics.peers_closed++;
        partial = find_partial(f, chunk.sender);
        if (partial)
            drop_partial(f, partial);
        return 0;
    }
    if (chunk.flags == NR_RECORD_FIRST && chunk.length == chunk.total) {
        *message = (struct nr_message){.data = place + NR_CHUNK_HEADER, .size = chunk.length};
        f->unreleased++;
        return 1;
    }
    return add_chunk(f, &chunk, place + NR_CHUNK_HEADER, message);
}

static int fifo_receive(struct nr_endpoint *e, struct nr_message *message)
{
    struct nr_fifo *f = fifo_of(e);
    int result;

    if (!f->buffer) {
        f->buffer = malloc(BUFFER_BYTES);
        if (!f->buffer)
            return -ENOMEM;
    }
    for (;;) {
        if (e->end_error)
            return e->end_error;
        result = next_chunk(f, message);
        if (result == 0)
            continue;
        if (result == -EPROTO) /* a stranger wrote into the FIFO: the stream has no boundaries now */
            e->end_error = result;
        if (result != -EAGAIN)
            return result;
        result = fill(f);
        if (result == -EAGAIN && f->partial_count && nr_os_coarse_now_ns() >= f->next_look_ns) {
            f->next_look_ns = nr_os_coarse_now_ns() + LOOK_NS;
            drop_orphans(f);
        }
        if (result < 0)
            return result;
    }
}

static void fifo_release(struct nr_endpoint *e)
{
    fifo_of(e)->unreleased = 0;
}

/* ---- waiting, the end ---- */

static bool fifo_is_ready(struct nr_endpoint *e, enum nr_direction direction)
{
    return nr_os_poll_now(fifo_of(e)->fd, direction == NR_SEND ? POLLOUT : POLLIN) != 0;
}

static int fifo_fall_asleep(struct nr_endpoint *e, enum nr_direction direction, struct pollfd *fds)
{
    fds[0] = (struct pollfd){.fd = fifo_of(e)->fd,
                             .events = direction == NR_SEND ? POLLOUT : POLLIN};
    return 1;
}

static void fifo_wake(struct nr_endpoint *e, enum nr_direction direction)
{
    (void)e;
    (void)direction;
}

static void fifo_close(struct nr_endpoint *e)
{
    struct nr_fifo *f = fifo_of(e);

    while (f->partial_count > 0)
        f->base.allocator->discard(f->partials[--f->partial_count].owner);
    free(f->partials);
    f->partials = NULL;
    nr_os_close(f->fd);
    if (f->keep_open >= 0)
        nr_os_close(f->keep_open);
}

static void fifo_free(struct nr_endpoint *e) { free(fifo_of(e)->buffer); }

static int fifo_fileno(struct nr_endpoint *e) { return fifo_of(e)->fd; }

static uint64_t fifo_depth_bytes(struct nr_endpoint *e)
{
    return fifo_of(e)->last - fifo_of(e)->first;
}

static const struct nr_transport_ops fifo_ops = {
    .name = "fifo",
    .send = fifo_send,
    .send_many = fifo_send_many,
    .receive = fifo_receive,
    .release = fifo_release,
    .is_ready = fifo_is_ready,
    .fall_asleep = fifo_fall_asleep,
    .wake = fifo_wake,
    .say_goodbye = fifo_say_goodbye,
    .close = fifo_close,
    .free = fifo_free,
    .depth_bytes = fifo_depth_bytes,
    .fileno = fifo_fileno,
};

static int open_fifo(const struct nr_settings *settings, int fd, struct nr_fifo **out)
{
    struct nr_fifo *f;
    int result = nr_os_set_nonblocking(fd);

    if (result < 0)
        return result;
    f = calloc(1, sizeof *f);
    if (!f)
        return -ENOMEM;
    f->fd = fd;
    f->keep_open = -1;
    nr_endpoint_init(&f->base, &fifo_ops, settings->wait, settings->max_message_bytes,
                     settings->allocator);
    *out = f;
    return 0;
}

int nr_fifo_open_receiver(const struct nr_settings *settings, int fd, int keep_open,
                          struct nr_endpoint **endpoint)
{
    struct partial *partials = calloc(MAX_PARTIAL, sizeof *partials);
    struct nr_fifo *f = NULL;
    int result = partials ? open_fifo(settings, fd, &f) : -ENOMEM;

    if (result < 0) {
        free(partials);
        return result;
    }
    f->partials = partials;
    f->keep_open = keep_open;
    *endpoint = &f->base;
    return 0;
}

int nr_fifo_open_sender(const struct nr_settings *settings, int fd, uint64_t sender,
                        struct nr_endpoint **endpoint)
{
    struct nr_fifo *f;
    int result = open_fifo(settings, fd, &f);

    if (result < 0)
        return result;
    f->sender = sender;
    *endpoint = &f->base;
    return 0;
}
