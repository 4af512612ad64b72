/* What the processes of a server tell each other: packets over socket pairs.
 *
 * Packet    u16 from, u16 kind, u32 bytes of the whole message, u32 offset of this part, the part
 *           In the order of its sender. The machine's byte order: it never leaves the machine.
 *
 * A full inbox is waited for (the packets queue up here); above QUEUED_MOST they are dropped and counted,
 * and a lost invalidation becomes "everything has changed": nobody is left with old data. */
#include <sys/socket.h>
#include <unistd.h>

#include "parts.h"

#define PART_BYTES 60000u
#define QUEUED_MOST (32u << 20)
#define MESSAGE_MOST (1u << 30)
#define PACKETS_A_TURN 256

struct packet_head {
    uint16_t from, kind;
    uint32_t total, offset;
};

struct packet {
    struct packet *next;
    size_t size;
    uint8_t bytes[];
};

/* ---- sending ---- */

static int on_outbox(struct nr_engine *engine, nr_source source, uint32_t events, void *data);

static bool is_invalidation(uint16_t kind)
{
    return kind == NR_MESH_CHANGED || kind == NR_MESH_CHANGED_ALL || kind == NR_MESH_DELIVER;
}

static void drop(struct nr_cache_server *server, struct outbox *outbox, uint16_t kind)
{
    nr_server_count(&server->statistics.mesh_dropped);
    if (is_invalidation(kind))
        outbox->lost_invalidations = true;
}

static void queue(struct nr_cache_server *server, struct outbox *outbox, const struct packet_head *head,
                  const struct iovec *parts, int count)
{
    struct packet *packet;
    size_t size = sizeof *head;
    uint8_t *at;

    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    packet = outbox->queued_bytes + size > QUEUED_MOST ? NULL : malloc(sizeof *packet + size);
    if (!packet) {
        drop(server, outbox, head->kind);
        return;
    }
    packet->next = NULL;
    packet->size = size;
    memcpy(packet->bytes, head, sizeof *head);
    at = packet->bytes + sizeof *head;
    for (int i = 0; i < count; i++) {
        if (parts[i].iov_len)
            memcpy(at, parts[i].iov_base, parts[i].iov_len);
        at += parts[i].iov_len;
    }
    if (!outbox->first)
        outbox->last = &outbox->first;
    *outbox->last = packet;
    outbox->last = &packet->next;
    outbox->queued_bytes += size;
    if (!outbox->source)
        (void)nr_source_add(nr_service_engine(server->service), outbox->fd, NR_WRITABLE,
                            NR_PRIORITY_USUAL, 0, on_outbox, server, &outbox->source);
}

static void send_packet(struct nr_cache_server *server, struct outbox *outbox, enum mesh_kind kind,
                        uint32_t total, uint32_t offset, const struct iovec *parts, int count)
{
    struct packet_head head = {(uint16_t)server->settings.process, (uint16_t)kind, total, offset};
    struct iovec all[5] = {{&head, sizeof head}};
    struct msghdr message = {.msg_iov = all, .msg_iovlen = (size_t)count + 1};
    ssize_t sent = -EAGAIN;

    if (count > 0) /* parts of nothing may be NULL */
        memcpy(all + 1, parts, (size_t)count * sizeof *parts);
    if (!outbox->first)
        sent = nr_os_send_message(outbox->fd, &message, MSG_DONTWAIT);
    if (sent >= 0)
        nr_server_count(&server->statistics.mesh_sent);
    else if (sent == -EAGAIN || sent == -ENOBUFS || sent == -ENOMEM)
        queue(server, outbox, &head, parts, count);
    else
        drop(server, outbox, (uint16_t)kind);
}

void nr_mesh_send(struct nr_cache_server *server, uint32_t process, enum mesh_kind kind,
                  const struct iovec *parts, int count)
{
    struct outbox *outbox = &server->outboxes[process];
    size_t total = 0, at = 0;
    uint8_t *whole;

    if (process == server->settings.process || outbox->fd < 0)
        return;
    for (int i = 0; i < count; i++)
        total += parts[i].iov_len;
    if (total <= PART_BYTES) {
        send_packet(server, outbox, kind, (uint32_t)total, 0, parts, count);
        return;
    }
    whole = total > MESSAGE_MOST ? NULL : malloc(total);
    if (!whole) {
        drop(server, outbox, (uint16_t)kind);
        return;
    }
    for (int i = 0; i < count; at += parts[i++].iov_len)
        memcpy(whole + at, parts[i].iov_base, parts[i].iov_len);
    for (at = 0; at < total; at += PART_BYTES) {
        const struct iovec part = {whole + at, total - at < PART_BYTES ? total - at : PART_BYTES};

        send_packet(server, outbox, kind, (uint32_t)total, (uint32_t)at, &part, 1);
    }
    free(whole);
}

void nr_mesh_send_all(struct nr_cache_server *server, enum mesh_kind kind, const struct iovec *parts,
                      int count)
{
    for (uint32_t i = 0; i < server->settings.processes; i++)
        nr_mesh_send(server, i, kind, parts, count);
}

/* All is out, and some was lost before: whoever caches anything there begins anew. */
static void end_queue(struct nr_cache_server *server, struct outbox *outbox)
{
    (void)nr_source_remove(nr_service_engine(server->service), outbox->source);
    outbox->source = 0;
    if (!outbox->lost_invalidations)
        return;
    outbox->lost_invalidations = false;
    nr_mesh_send(server, (uint32_t)(outbox - server->outboxes), NR_MESH_CHANGED_ALL, NULL, 0);
}

static int on_outbox(struct nr_engine *engine, nr_source source, uint32_t events, void *data)
{
    struct nr_cache_server *server = data;
    struct outbox *outbox = server->outboxes;

    (void)engine;
    (void)events;
    while (outbox->source != source)
        outbox++;
    while (outbox->first) {
        struct packet *packet = outbox->first;
        ssize_t sent = nr_os_send(outbox->fd, packet->bytes, packet->size, MSG_DONTWAIT);

        if (sent == -EAGAIN || sent == -ENOBUFS || sent == -ENOMEM)
            return 0;
        outbox->first = packet->next;
        outbox->queued_bytes -= packet->size;
        free(packet);
        nr_server_count(&server->statistics.mesh_sent);
    }
    end_queue(server, outbox);
    return 0;
}

/* ---- receiving ---- */

static void see_keys(struct nr_cache_server *server, struct nr_bytes keys)
{
    while (keys.size >= sizeof(uint32_t)) {
        uint32_t size;

        memcpy(&size, keys.bytes, sizeof size);
        if (size > keys.size - sizeof size)
            return;
        nr_tracking_invalidate(server, (struct nr_bytes){keys.bytes + sizeof size, size}, 0);
        keys.bytes += sizeof size + size;
        keys.size -= sizeof size + size;
    }
}

static void see_delivery(struct nr_cache_server *server, struct nr_bytes message)
{
    uint64_t id;
    uint32_t size;
    struct nr_bytes key;

    if (message.size < sizeof id)
        return;
    memcpy(&id, message.bytes, sizeof id);
    if (message.size < sizeof id + sizeof size) {
        nr_tracking_deliver(server, id, NULL, 0);
        return;
    }
    memcpy(&size, message.bytes + sizeof id, sizeof size);
    key = (struct nr_bytes){message.bytes + sizeof id + sizeof size,
                            message.size - sizeof id - sizeof size};
    if (key.size == size)
        nr_tracking_deliver(server, id, &key, 1);
}

static void see_publication(struct nr_cache_server *server, struct nr_bytes message)
{
    uint32_t size;

    if (message.size < sizeof size)
        return;
    memcpy(&size, message.bytes, sizeof size);
    message.bytes += sizeof size;
    message.size -= sizeof size;
    if (size <= message.size)
        (void)nr_publish_here(server, (struct nr_bytes){message.bytes, size},
                              (struct nr_bytes){message.bytes + size, message.size - size});
}

static void see_subscription(struct nr_cache_server *server, uint32_t from, bool pattern,
                             struct nr_bytes message)
{
    uint32_t count;

    if (message.size < sizeof count)
        return;
    memcpy(&count, message.bytes, sizeof count);
    nr_subscriptions_learn(server, from, pattern,
                           (struct nr_bytes){message.bytes + sizeof count, message.size - sizeof count},
                           count);
}

static void see_kill(struct nr_cache_server *server, struct nr_bytes message)
{
    struct client *client;
    uint64_t id;

    if (message.size != sizeof id)
        return;
    memcpy(&id, message.bytes, sizeof id);
    client = nr_client_find(server, id);
    if (client)
        nr_client_kill(server, client);
}

static void see_message(struct nr_cache_server *server, uint32_t from, uint16_t kind,
                        struct nr_bytes message)
{
    switch (kind) {
    case NR_MESH_HELLO:
        nr_subscriptions_forget(server, from);
        nr_subscriptions_tell_all(server, from);
        break;
    case NR_MESH_CHANNEL:
    case NR_MESH_PATTERN:
        see_subscription(server, from, kind == NR_MESH_PATTERN, message);
        break;
    case NR_MESH_PUBLISH:
        see_publication(server, message);
        break;
    case NR_MESH_CHANGED:
        see_keys(server, message);
        break;
    case NR_MESH_CHANGED_ALL:
        nr_tracking_invalidate_everything(server, 0);
        break;
    case NR_MESH_DELIVER:
        see_delivery(server, message);
        break;
    case NR_MESH_KILL:
        see_kill(server, message);
        break;
    }
}

/* A part of a larger message: seen when the last one is there. */
static void see_part(struct nr_cache_server *server, const struct packet_head *head, const uint8_t *bytes,
                     size_t size)
{
    struct inbox_part *part = &server->parts[head->from];

    if (head->offset == 0) { /* of a sender that died, something may have been left */
        free(part->bytes);
        *part = (struct inbox_part){malloc(head->total), 0, head->total};
    }
    if (!part->bytes || part->size != head->offset || part->room != head->total ||
        size > part->room - part->size)
        return;
    memcpy(part->bytes + part->size, bytes, size);
    part->size += size;
    if (part->size < part->room)
        return;
    see_message(server, head->from, head->kind, (struct nr_bytes){part->bytes, part->size});
    free(part->bytes);
    *part = (struct inbox_part){NULL, 0, 0};
}

static bool read_one(struct nr_cache_server *server)
{
    uint8_t bytes[sizeof(struct packet_head) + PART_BYTES];
    struct packet_head head;
    ssize_t got = nr_os_receive(server->settings.inbox, bytes, sizeof bytes, MSG_DONTWAIT);

    if (got < (ssize_t)sizeof head)
        return got > 0;
    memcpy(&head, bytes, sizeof head);
    if (head.from >= server->settings.processes || head.total > MESSAGE_MOST)
        return true;
    nr_server_count(&server->statistics.mesh_received);
    if (head.total == (size_t)got - sizeof head)
        see_message(server, head.from, head.kind,
                    (struct nr_bytes){bytes + sizeof head, (size_t)got - sizeof head});
    else
        see_part(server, &head, bytes + sizeof head, (size_t)got - sizeof head);
    return true;
}

void nr_mesh_read(struct nr_cache_server *server)
{
    if (server->settings.inbox < 0)
        return;
    for (int i = 0; i < PACKETS_A_TURN && read_one(server); i++)
        continue;
}

static int on_inbox(struct nr_engine *engine, nr_source source, uint32_t events, void *data)
{
    (void)engine;
    (void)source;
    (void)events;
    nr_mesh_read(data);
    return 0;
}

/* ---- life ---- */

/* What was meant for a predecessor is not for us: the others tell us all that counts after the hello. */
static void empty_inbox(const struct nr_cache_server *server)
{
    uint8_t byte;

    while (nr_os_receive(server->settings.inbox, &byte, 1, MSG_DONTWAIT) > 0)
        continue;
}

int nr_mesh_open(struct nr_cache_server *server)
{
    int result;

    if (server->settings.inbox < 0)
        return 0;
    empty_inbox(server);
    result = nr_source_add(nr_service_engine(server->service), server->settings.inbox, NR_READABLE,
                           NR_PRIORITY_FIRST, 0, on_inbox, server, &server->inbox_source);
    if (result == 0)
        nr_mesh_send_all(server, NR_MESH_HELLO, NULL, 0);
    return result;
}

void nr_mesh_close(struct nr_cache_server *server)
{
    struct nr_engine *engine = server->service ? nr_service_engine(server->service) : NULL;

    if (server->inbox_source)
        (void)nr_source_remove(engine, server->inbox_source);
    for (uint32_t i = 0; i < NR_SERVERS_MOST; i++) {
        struct outbox *outbox = &server->outboxes[i];

        if (outbox->source)
            (void)nr_source_remove(engine, outbox->source);
        while (outbox->first) {
            struct packet *packet = outbox->first;

            outbox->first = packet->next;
            free(packet);
        }
        if (outbox->fd >= 0)
            nr_os_close(outbox->fd);
        free(server->parts[i].bytes);
    }
    if (server->settings.inbox >= 0)
        nr_os_close(server->settings.inbox);
}
