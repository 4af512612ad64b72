/* naru's own messages over a stream. Source: record.h, docs/design/wire.md. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "parts.h"
#include "naru/protocol.h"

#define USUAL_MESSAGE_BYTES (16u << 20)
#define HELLO_REFUSAL 0x100u /* a hello of this kind carries an errno in its last field */

struct nr_frames {
    struct nr_frames_settings settings;
    struct nr_frames_statistics statistics;
};

struct state {
    uint32_t peer_max_bytes; /* 0: not greeted yet */
    bool left;               /* said goodbye */
};

static struct nr_frames *frames_of(const struct nr_connection *c)
{
    return nr_service_context(c->service);
}

static struct state *state_of(struct nr_connection *c) { return nr_connection_state(c); }

/* ---- pure ---- */

ssize_t nr_frames_parse(const uint8_t *bytes, size_t size, uint32_t max_message_bytes,
                        struct nr_record *record)
{
    uint32_t kind;
    int result;

    if (size < NR_RECORD_HEADER)
        return 0;
    result = nr_record_parse(bytes, max_message_bytes, record);
    if (result < 0)
        return result;
    kind = record->flags & NR_RECORD_KNOWN;
    /* Fragments and skipped places are the ring's; descriptors do not come with plain reads. */
    if (nr_record_fds(*record) || kind & ~(uint32_t)(NR_RECORD_BYE | NR_RECORD_HEARTBEAT))
        return -EPROTO;
    if (kind && record->length)
        return -EPROTO;
    if (size - NR_RECORD_HEADER < record->length)
        return 0;
    return (ssize_t)(NR_RECORD_HEADER + (size_t)record->length);
}

/* ---- the hello ---- */

static int say_hello(struct nr_connection *c, uint16_t kind, uint32_t max_message_bytes,
                     uint32_t extra)
{
    const struct nr_hello hello = {NR_HELLO_MAGIC, NR_PROTOCOL_VERSION, kind, max_message_bytes,
                                   extra};

    return nr_connection_send(c, &hello, sizeof hello);
}

/* It is told why, and then closed: by hello.py:refuse() the client makes an error of it. */
static int refuse(struct nr_connection *c, int error)
{
    nr_count(&frames_of(c)->statistics.strangers, 1);
    if (say_hello(c, HELLO_REFUSAL, 0, (uint32_t)error) == 0)
        nr_connection_close(c);
    return 0;
}

static int greet(struct nr_connection *c, const uint8_t *bytes)
{
    struct nr_frames *frames = frames_of(c);
    struct nr_hello theirs;
    int result = nr_hello_parse(bytes, &theirs);

    if (result < 0) {
        nr_count(&frames->statistics.strangers, 1);
        return result;
    }
    if (theirs.kind == NR_HELLO_RECEIVER || theirs.max_message_bytes == 0)
        return refuse(c, EPROTOTYPE);
    if (theirs.heartbeat_ms)
        return refuse(c, EOPNOTSUPP);
    state_of(c)->peer_max_bytes = theirs.max_message_bytes;
    result = say_hello(c, theirs.kind == NR_HELLO_SENDER ? NR_HELLO_RECEIVER : NR_HELLO_CHANNEL,
                       frames->settings.max_message_bytes, 0);
    if (result < 0)
        return result;
    return frames->settings.on_open ? frames->settings.on_open(c, frames->settings.data) : 0;
}

/* ---- the ops ---- */

static int see_record(struct nr_connection *c, struct nr_record record, const uint8_t *payload)
{
    struct nr_frames *frames = frames_of(c);

    if (record.flags & NR_RECORD_BYE) {
        state_of(c)->left = true;
        nr_connection_close(c);
        return 0;
    }
    if (record.flags & NR_RECORD_HEARTBEAT)
        return 0;
    nr_count(&frames->statistics.messages_received, 1);
    return frames->settings.on_frame(c, payload, record.length, frames->settings.data);
}

static ssize_t on_bytes(struct nr_connection *c, const uint8_t *bytes, size_t size)
{
    struct nr_frames *frames = frames_of(c);
    size_t used = 0;

    if (!state_of(c)->peer_max_bytes) {
        int result = size < NR_HELLO_BYTES ? 0 : greet(c, bytes);

        if (result < 0 || size < NR_HELLO_BYTES)
            return result;
        used = NR_HELLO_BYTES;
    }
    while (c->phase == NR_CONNECTED) {
        struct nr_record record;
        ssize_t taken = nr_frames_parse(bytes + used, size - used,
                                        frames->settings.max_message_bytes, &record);
        int result;

        if (taken <= 0)
            return taken < 0 ? taken : (ssize_t)used;
        result = see_record(c, record, bytes + used + NR_RECORD_HEADER);
        if (result < 0)
            return result;
        used += (size_t)taken;
    }
    return (ssize_t)size;
}

/* An end without a goodbye is a death: what was begun is never delivered. */
static int on_end(struct nr_connection *c, size_t rest)
{
    (void)rest;
    return state_of(c)->left ? 0 : -ECONNRESET;
}

static void on_close(struct nr_connection *c, int reason)
{
    struct nr_frames *frames = frames_of(c);

    if (state_of(c)->peer_max_bytes && frames->settings.on_close)
        frames->settings.on_close(c, reason, frames->settings.data);
}

static int send_goodbye(struct nr_connection *c)
{
    const struct nr_record goodbye = {0, NR_RECORD_BYE};
    int result = 0;

    if (state_of(c)->peer_max_bytes)
        result = nr_connection_send(c, &goodbye, sizeof goodbye);
    if (result == 0)
        nr_connection_close(c);
    return 0;
}

int nr_frames_send(struct nr_connection *c, const void *bytes, size_t size)
{
    struct nr_record record = {(uint32_t)size, 0};
    const struct iovec parts[2] = {{&record, sizeof record}, {(void *)bytes, size}};
    int result;

    if (size > state_of(c)->peer_max_bytes)
        return state_of(c)->peer_max_bytes ? -EMSGSIZE : -EPIPE;
    result = nr_connection_send_parts(c, parts, 2);
    if (result == 0)
        nr_count(&frames_of(c)->statistics.messages_sent, 1);
    return result;
}

static void on_destroy(struct nr_service *service) { free(nr_service_context(service)); }

int nr_frames_create(const struct nr_frames_settings *settings, struct nr_frames **created)
{
    struct nr_frames *frames;

    if (!settings->on_frame || settings->max_message_bytes > NR_MAX_MESSAGE)
        return -EINVAL;
    frames = calloc(1, sizeof *frames);
    if (!frames)
        return -ENOMEM;
    frames->settings = *settings;
    if (!frames->settings.max_message_bytes)
        frames->settings.max_message_bytes = USUAL_MESSAGE_BYTES;
    *created = frames;
    return 0;
}

void nr_frames_read_statistics(const struct nr_frames *frames, struct nr_frames_statistics *copy)
{
    const uint64_t *from = (const uint64_t *)&frames->statistics;
    uint64_t *to = (uint64_t *)copy;

    for (size_t i = 0; i < sizeof *copy / sizeof *to; i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

const struct nr_protocol_ops nr_protocol_frames = {
    .name = "frames",
    .state_bytes = sizeof(struct state),
    .on_bytes = on_bytes,
    .on_end = on_end,
    .on_close = on_close,
    .on_drain = send_goodbye,
    .on_destroy = on_destroy,
};
