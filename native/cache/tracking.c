/* CLIENT TRACKING: who has cached what, and is to be told that it changed.
 *
 * Each process knows what its own clients have read. A process that changes a key tells the processes that
 * track anything (one bit each in the shared page: while nobody tracks, a write costs one look at it).
 * What expires is told by a timer, which goes through the tracked keys once a second. What local processes
 * change in the table itself, outside.c sees. */
#include "parts.h"

#define KEYS_MOST 1000000u
#define TICK_NS 100000000u
#define TICKS_A_ROUND 10u

bool nr_tracking_wanted(const struct nr_cache_server *server)
{
    return atomic_load(&server->page->trackers) != 0;
}

/* ---- telling a client ---- */

/* The keys as clients know them; NULL: all. */
static void write_keys(struct nr_reply *reply, const struct nr_bytes *keys, uint32_t count)
{
    if (!keys) {
        nr_reply_null_array(reply);
        return;
    }
    nr_reply_array(reply, count);
    for (uint32_t i = 0; i < count; i++) {
        struct nr_bytes key = keys[i];

        if (key.size >= 3 && key.bytes[0] == 0xff && key.bytes[1] == 0xfe) { /* its database */
            key.bytes += 3;
            key.size -= 3;
        }
        nr_reply_bulk(reply, key.bytes, key.size);
    }
}

/* To this very client, which has asked for it or is where another one's go. */
static void tell(struct nr_cache_server *server, struct client *client, const struct nr_bytes *keys,
                 uint32_t count)
{
    struct nr_reply *text = &server->pushes[client->resp == 3];

    text->size = 0;
    text->version = client->resp;
    if (client->resp == 3) {
        nr_reply_push(text, 2);
        nr_reply_string(text, "invalidate");
    } else {
        if (!nr_client_is_subscribed(client))
            return; /* RESP2 has no pushes */
        nr_reply_array(text, 3);
        nr_reply_string(text, "message");
        nr_reply_string(text, "__redis__:invalidate");
    }
    write_keys(text, keys, count);
    nr_server_count(&server->statistics.invalidations);
    nr_client_send(server, client, text);
}

static void tell_broken(struct nr_cache_server *server, struct client *client)
{
    struct nr_reply *text = &server->pushes[1];

    client->tracking |= NR_TRACKING_BROKEN;
    if (client->resp != 3)
        return;
    text->size = 0;
    text->version = 3;
    nr_reply_push(text, 2);
    nr_reply_string(text, "tracking-redir-broken");
    nr_reply_integer(text, (int64_t)client->extra->redirect);
    nr_client_send(server, client, text);
}

static void tell_elsewhere(struct nr_cache_server *server, uint64_t id, const struct nr_bytes *keys,
                           uint32_t count)
{
    /* One at a time is what comes here; all of them is none. */
    uint32_t size = keys && count ? (uint32_t)keys->size : 0;
    const struct iovec parts[3] = {{&id, sizeof id}, {&size, sizeof size},
                                   {keys ? (void *)keys->bytes : NULL, size}};

    nr_mesh_send(server, nr_client_process(id), NR_MESH_DELIVER, parts, keys ? 3 : 1);
}

static void tell_reader(struct nr_cache_server *server, struct client *client, const struct nr_bytes *keys,
                        uint32_t count)
{
    uint64_t redirect = client->extra ? client->extra->redirect : 0;
    struct client *target = redirect ? nr_client_find(server, redirect) : client;

    if (target)
        tell(server, target, keys, count);
    else if (nr_client_process(redirect) != server->settings.process)
        tell_elsewhere(server, redirect, keys, count);
    else
        tell_broken(server, client);
}

void nr_tracking_deliver(struct nr_cache_server *server, uint64_t id, const struct nr_bytes *keys,
                         uint32_t count)
{
    struct client *client = nr_client_find(server, id);

    if (client)
        tell(server, client, keys, count);
}

/* ---- what was read ---- */

static bool is_for_cache(const struct client *client)
{
    bool named = client->tracking & NR_TRACKING_CACHING;

    if (client->tracking & NR_TRACKING_BROADCAST)
        return false;
    return client->tracking & NR_TRACKING_OPTIN ? named : !(client->tracking & NR_TRACKING_OPTOUT && named);
}

/* Room for one more: some key is taken for changed. */
static void make_room(struct nr_cache_server *server)
{
    struct topics *tracked = &server->tracked;
    uint32_t bucket = nr_server_random(server) & tracked->mask;

    while (!tracked->buckets[bucket])
        bucket = (bucket + 1) & tracked->mask;
    nr_tracking_invalidate(server, nr_topic_name(tracked->buckets[bucket]), 0);
}

void nr_tracking_note(struct nr_cache_server *server, struct client *client, struct nr_bytes key,
                      int64_t expires_ms)
{
    struct topic *topic;

    if (!is_for_cache(client))
        return;
    if (server->tracked.count >= KEYS_MOST)
        make_room(server);
    topic = nr_topic_make(server, &server->tracked, key);
    if (!topic)
        return;
    if (expires_ms)
        topic->expires_ms = expires_ms;
    if (!nr_topic_has(topic, client->id))
        (void)nr_topic_add(topic, client->id);
}

/* ---- what has changed ---- */

static void tell_all(struct nr_cache_server *server, const uint64_t *ids, uint32_t count,
                     const struct nr_bytes *key, uint64_t writer)
{
    for (uint32_t i = 0; i < count; i++) {
        struct client *client = nr_client_find(server, ids[i]);

        if (client && client->tracking & NR_TRACKING &&
            !(client->tracking & NR_TRACKING_NOLOOP && client->id == writer))
            tell_reader(server, client, key, 1);
    }
}

static void invalidate_tracked(struct nr_cache_server *server, struct nr_bytes key, uint64_t writer)
{
    struct topic *topic = nr_topic_find(server, &server->tracked, key);

    if (!topic)
        return;
    nr_topic_detach(&server->tracked, topic); /* told once, until it is read again */
    key = nr_topic_name(topic);
    tell_all(server, topic->clients, topic->count, &key, writer);
    nr_topic_free(topic);
}

static void invalidate_prefixes(struct nr_cache_server *server, struct nr_bytes key, uint64_t writer)
{
    struct nr_bytes name = key;

    if (key.size >= 3 && key.bytes[0] == 0xff && key.bytes[1] == 0xfe)
        name = (struct nr_bytes){key.bytes + 3, key.size - 3};
    for (const struct topic *topic = nr_topic_after(&server->prefixes, NULL); topic;
         topic = nr_topic_after(&server->prefixes, topic)) {
        uint64_t *ids;
        uint32_t count = topic->count;

        if (topic->size > name.size || (topic->size && memcmp(topic->name, name.bytes, topic->size) != 0))
            continue;
        ids = malloc(count * sizeof *ids + 1);
        if (!ids)
            return;
        memcpy(ids, topic->clients, count * sizeof *ids);
        tell_all(server, ids, count, &key, writer);
        free(ids);
    }
}

void nr_tracking_invalidate_hash(struct nr_cache_server *server, uint64_t hash)
{
    struct topics *tracked = &server->tracked;
    struct topic *topic = tracked->buckets ? tracked->buckets[hash & tracked->mask] : NULL;

    while (topic && topic->hash != hash)
        topic = topic->next;
    if (topic)
        nr_tracking_invalidate(server, nr_topic_name(topic), 0);
}

void nr_tracking_invalidate(struct nr_cache_server *server, struct nr_bytes key, uint64_t writer)
{
    nr_topics_begin(server);
    if (server->prefixes.count)
        invalidate_prefixes(server, key, writer);
    if (server->tracked.count)
        invalidate_tracked(server, key, writer);
    nr_topics_end(server);
}

void nr_tracking_invalidate_everything(struct nr_cache_server *server, uint64_t writer)
{
    uint64_t *ids = malloc(server->tracking_clients * sizeof *ids + 1);
    uint32_t count = 0;

    nr_topics_free(&server->tracked);
    if (!ids)
        return;
    for (const struct client *client = server->clients; client; client = client->next)
        if (client->tracking & NR_TRACKING)
            ids[count++] = client->id;
    nr_topics_begin(server);
    tell_all(server, ids, count, NULL, writer);
    nr_topics_end(server);
    free(ids);
}

void nr_tracking_changed(struct nr_cache_server *server, struct nr_bytes key)
{
    uint32_t size = (uint32_t)key.size;
    size_t more = sizeof size + key.size;

    if (server->changed_bytes + more > server->changed_room) {
        size_t room = (server->changed_bytes + more) * 2;
        uint8_t *changed = realloc(server->changed, room);

        if (!changed) {
            server->changed_everything = true; /* nobody is left with what is old */
            return;
        }
        server->changed = changed;
        server->changed_room = room;
    }
    memcpy(server->changed + server->changed_bytes, &size, sizeof size);
    memcpy(server->changed + server->changed_bytes + sizeof size, key.bytes, key.size);
    server->changed_bytes += more;
}

void nr_tracking_changed_everything(struct nr_cache_server *server)
{
    server->changed_everything = nr_tracking_wanted(server);
}

static void tell_processes(struct nr_cache_server *server)
{
    uint64_t others = atomic_load(&server->page->trackers) & ~(UINT64_C(1) << server->settings.process);
    const struct iovec part = {server->changed, server->changed_bytes};

    for (uint32_t i = 0; others; i++, others >>= 1)
        if (others & 1u)
            nr_mesh_send(server, i, server->changed_everything ? NR_MESH_CHANGED_ALL : NR_MESH_CHANGED,
                         &part, server->changed_everything ? 0 : 1);
}

void nr_tracking_flush(struct nr_cache_server *server, struct client *writer)
{
    size_t at = 0;

    tell_processes(server);
    if (server->tracking_clients && server->changed_everything)
        nr_tracking_invalidate_everything(server, writer->id);
    else if (server->tracking_clients)
        while (at < server->changed_bytes) {
            uint32_t size;

            memcpy(&size, server->changed + at, sizeof size);
            nr_tracking_invalidate(server, (struct nr_bytes){server->changed + at + sizeof size, size},
                                   writer->id);
            at += sizeof size + size;
        }
    server->changed_bytes = 0;
    server->changed_everything = false;
}

/* ---- what expires ---- */

static int on_tick(struct nr_engine *engine, nr_timer timer, uint64_t missed, void *data)
{
    struct nr_cache_server *server = data;
    struct topics *tracked = &server->tracked;
    int64_t now_ms = (int64_t)nr_table_now_ms(server->table);
    uint32_t buckets = tracked->buckets ? (tracked->mask + 1 + TICKS_A_ROUND - 1) / TICKS_A_ROUND : 0;

    (void)engine;
    (void)timer;
    (void)missed;
    for (uint32_t i = 0; i < buckets && tracked->buckets; i++) {
        struct topic *topic;

        server->expiry_bucket = (server->expiry_bucket + 1) & tracked->mask;
        topic = tracked->buckets[server->expiry_bucket];
        while (topic && tracked->buckets) { /* the last client may go, and all of them with it */
            struct topic *next = topic->next;

            if (topic->expires_ms && topic->expires_ms <= now_ms)
                nr_tracking_invalidate(server, nr_topic_name(topic), 0);
            topic = next;
        }
    }
    return 0;
}

/* ---- beginning and ending ---- */

int nr_tracking_begin(struct nr_cache_server *server)
{
    uint64_t bit = UINT64_C(1) << server->settings.process;
    int result = 0;

    if (server->tracking_clients++)
        return 0;
    atomic_fetch_or(&server->page->trackers, bit);
    result = nr_changes_begin(server);
    if (result < 0) {
        server->tracking_clients--;
        atomic_fetch_and(&server->page->trackers, ~bit);
        return result;
    }
    (void)nr_timer_start(nr_service_engine(server->service), nr_os_now_ns() + TICK_NS, TICK_NS, on_tick,
                         server, &server->expiry_timer);
    return 0;
}

void nr_tracking_end(struct nr_cache_server *server, struct client *client)
{
    struct client_extra *extra = client->extra;

    if (!(client->tracking & NR_TRACKING))
        return;
    client->tracking = 0;
    while (extra && extra->prefix_count) {
        struct topic *topic = extra->prefixes[--extra->prefix_count];

        (void)nr_topic_remove(topic, client->id);
        nr_topic_drop_empty(server, &server->prefixes, topic);
    }
    if (extra)
        extra->redirect = 0;
    if (--server->tracking_clients)
        return;
    atomic_fetch_and(&server->page->trackers, ~(UINT64_C(1) << server->settings.process));
    (void)nr_timer_cancel(nr_service_engine(server->service), server->expiry_timer);
    nr_changes_end(server);
    if (server->telling)
        server->stale_topics = true;
    else
        nr_topics_free(&server->tracked);
}
