/* What a connection sends: collected while its protocol is at work, sent in one call, queued only
 * when the kernel does not take it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service.h"

#define GATHERED_ALONE_BYTES 16384u /* above it, copying costs more than another call saves */
#define FIRST_ROOM 4096u

size_t nr_connection_queued_bytes(const struct nr_connection *c)
{
    return c->output ? c->output->last - c->output->first : 0;
}

/* ---- the queue ---- */

static int make_room(struct nr_connection *c, size_t more)
{
    struct nr_output *output = c->output;
    size_t used = nr_connection_queued_bytes(c), room = output ? output->room : FIRST_ROOM;

    if (used + more > c->service->settings.output_limit_bytes)
        return -ENOBUFS;
    if (output && output->last + more <= output->room)
        return 0;
    if (output && output->first >= used && used + more <= output->room) {
        memcpy(output->bytes, output->bytes + output->first, used);
        output->first = 0;
        output->last = used;
        return 0;
    }
    while (room < used + more)
        room *= 2;
    output = malloc(sizeof *output + room);
    if (!output)
        return -ENOMEM;
    *output = (struct nr_output){.first = 0, .last = used, .room = room};
    if (c->output)
        memcpy(output->bytes, c->output->bytes + c->output->first, used);
    free(c->output);
    c->output = output;
    return 0;
}

static int queue_parts(struct nr_connection *c, const struct iovec *parts, int count, size_t skip)
{
    bool was_empty = !c->output;
    size_t size = 0;
    int result;

    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    result = make_room(c, size - skip);
    if (result < 0)
        return result;
    for (int i = 0; i < count; i++) {
        size_t leave = skip < parts[i].iov_len ? skip : parts[i].iov_len;
        size_t taken = parts[i].iov_len - leave;

        skip -= leave;
        memcpy(c->output->bytes + c->output->last, (const uint8_t *)parts[i].iov_base + leave, taken);
        c->output->last += taken;
    }
    if (was_empty)
        nr_timeouts_touch(c);
    if (!c->choked && nr_connection_queued_bytes(c) > c->service->settings.high_water_bytes) {
        c->choked = true;
        nr_count(&c->service->statistics.chokes, 1);
    }
    return nr_connection_update(c);
}

static bool is_below_low_water(const struct nr_connection *c)
{
    return nr_connection_queued_bytes(c) <= c->service->settings.low_water_bytes;
}

int nr_output_flush(struct nr_connection *c)
{
    struct nr_output *output = c->output;
    ssize_t sent = nr_os_send(c->fd, output->bytes + output->first, output->last - output->first, 0);
    bool was_choked = c->choked;
    int result;

    if (sent == -EAGAIN)
        return 0;
    if (sent < 0)
        return (int)sent;
    nr_count(&c->service->statistics.bytes_sent, (uint64_t)sent);
    output->first += (size_t)sent;
    if (output->first == output->last) {
        free(output);
        c->output = NULL;
    }
    nr_timeouts_touch(c);
    if (was_choked && is_below_low_water(c))
        c->choked = false;
    result = nr_connection_update(c);
    if (result < 0 || c->choked == was_choked || c->phase != NR_CONNECTED ||
        !c->service->ops->on_writable)
        return result;
    result = c->service->ops->on_writable(c);
    return result < 0 ? result : 0;
}

/* ---- sending ---- */

static int send_now(struct nr_connection *c, const struct iovec *parts, int count)
{
    struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
    ssize_t sent = 0;
    size_t size = 0;

    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    if (!c->output) {
        sent = count == 1 ? nr_os_send(c->fd, parts->iov_base, parts->iov_len, 0)
                          : nr_os_send_message(c->fd, &message, 0);
        if (sent < 0 && sent != -EAGAIN)
            return (int)sent;
        if (sent > 0)
            nr_count(&c->service->statistics.bytes_sent, (uint64_t)sent);
    }
    if (sent < 0)
        sent = 0;
    return (size_t)sent == size ? 0 : queue_parts(c, parts, count, (size_t)sent);
}

static int send_gathered(struct nr_connection *c)
{
    struct nr_service *service = c->service;
    const struct iovec all = {service->gathered, service->gathered_bytes};

    if (service->gathered_bytes == 0)
        return 0;
    service->gathered_bytes = 0;
    return send_now(c, &all, 1);
}

void nr_output_begin_gathering(struct nr_connection *c)
{
    c->service->gathering = c;
    c->service->gathered_bytes = 0;
}

int nr_output_end_gathering(struct nr_connection *c)
{
    if (c->service->gathering != c)
        return 0;
    c->service->gathering = NULL;
    return send_gathered(c);
}

static int gather(struct nr_connection *c, const struct iovec *parts, int count, size_t size)
{
    struct nr_service *service = c->service;
    int result = 0;

    if (service->gathered_bytes + size > NR_GATHER_BYTES || size > GATHERED_ALONE_BYTES)
        result = send_gathered(c);
    if (result < 0)
        return result;
    if (size > GATHERED_ALONE_BYTES)
        return send_now(c, parts, count);
    for (int i = 0; i < count; i++) {
        memcpy(service->gathered + service->gathered_bytes, parts[i].iov_base, parts[i].iov_len);
        service->gathered_bytes += parts[i].iov_len;
    }
    return 0;
}

int nr_connection_send_parts(struct nr_connection *c, const struct iovec *parts, int count)
{
    size_t size = 0;
    int result;

    if (c->phase != NR_CONNECTED)
        return -EPIPE;
    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    if (size == 0)
        return 0;
    result = c->service->gathering == c ? gather(c, parts, count, size) : send_now(c, parts, count);
    if (result < 0)
        nr_connection_cut(c, result);
    return result;
}

int nr_connection_send(struct nr_connection *c, const void *bytes, size_t size)
{
    const struct iovec one = {(void *)bytes, size};

    return nr_connection_send_parts(c, &one, 1);
}
