/* Going through all keys. */
#include "parts.h"

#define COUNTED_MOST 1000000u

static struct nr_table *table_of(const struct call *call) { return call->server->table; }

/* ---- going through them ---- */

struct walk {
    struct call *call;
    uint64_t cursor;
    uint32_t shard;
    int64_t now_ms;
    uint8_t *room;
    struct nr_bytes stored, key; /* as in the table; as the client knows it */
    struct nr_entry entry;
};

static bool begin_walk(struct walk *walk, struct call *call)
{
    memset(walk, 0, sizeof *walk);
    walk->call = call;
    walk->now_ms = (int64_t)nr_table_now_ms(table_of(call));
    walk->room = nr_server_scratch(call->server, NR_TABLE_KEY_MOST);
    if (!walk->room)
        nr_server_fail(call, -ENOMEM, NULL);
    return walk->room != NULL;
}

/* The next entry of any database: false: the end. */
static bool step(struct walk *walk)
{
    struct nr_cache_server *server = walk->call->server;

    while (walk->shard < server->shards) {
        uint32_t size = 0;

        if (nr_table_scan(server->table, walk->shard, &walk->cursor, walk->room, &size, &walk->entry) >= 0) {
            walk->stored = walk->key = (struct nr_bytes){walk->room, size};
            return true;
        }
        walk->shard++;
        walk->cursor = 0;
    }
    return false;
}

static bool is_alive(const struct walk *walk)
{
    return !walk->entry.expires_ms || walk->entry.expires_ms > walk->now_ms;
}

/* In a cluster each process shows its own share, so that a client who asks all of them sees each key once. */
static bool is_ours(const struct nr_cache_server *server, struct nr_bytes key)
{
    return !server->cluster_host || nr_slot_owner(server, nr_slot_of(key)) == server->settings.process;
}

/* Of the client's database, and alive; `key` is then as the client knows it. */
static bool is_visible(struct walk *walk)
{
    return is_alive(walk) && nr_database_owns(walk->call->client->database, &walk->key) &&
           is_ours(walk->call->server, walk->key);
}

void nr_run_keys(struct call *call)
{
    size_t at = call->reply->size, count = 0;
    struct walk walk;

    if (!begin_walk(&walk, call))
        return;
    while (step(&walk)) {
        if (!is_visible(&walk) || !nr_glob(call->arguments[1], walk.key))
            continue;
        nr_reply_bulk(call->reply, walk.key.bytes, walk.key.size);
        count++;
    }
    nr_reply_array_around(call->reply, at, count);
}

void nr_run_dbsize(struct call *call)
{
    struct nr_table_statistics statistics;
    struct walk walk;
    int64_t count = 0;

    if (nr_table_read_statistics(table_of(call), -1, &statistics) >= 0 &&
        statistics.entries > COUNTED_MOST) {
        uint32_t shares = call->server->cluster_host ? call->server->settings.processes : 1;

        nr_reply_integer(call->reply, (int64_t)(statistics.entries / shares)); /* of all databases */
        return;
    }
    if (!begin_walk(&walk, call))
        return;
    while (step(&walk))
        count += is_visible(&walk);
    nr_reply_integer(call->reply, count);
}

struct search {
    struct nr_bytes pattern, type;
    int64_t count;
};

static bool read_search(struct call *call, uint32_t from, struct search *search)
{
    *search = (struct search){.count = 10};
    for (uint32_t i = from; i < call->count; i += 2) {
        bool last = i + 1 == call->count;

        if (!last && nr_bytes_are(call->arguments[i], "count")) {
            if (!nr_call_integer(call, i + 1, &search->count))
                return false;
            if (search->count < 1)
                break;
        } else if (!last && nr_bytes_are(call->arguments[i], "match"))
            search->pattern = call->arguments[i + 1];
        else if (!last && from == 2 && nr_bytes_are(call->arguments[i], "type"))
            search->type = call->arguments[i + 1];
        else {
            search->count = 0;
            break;
        }
    }
    if (search->count < 1)
        nr_fail_syntax(call);
    return search->count >= 1;
}

static bool is_sought(const struct search *search, const struct walk *walk)
{
    const char *type = walk->entry.kind == NR_KIND_SET ? "set" : "string";

    return (!search->type.bytes || nr_bytes_are(search->type, type)) &&
           (!search->pattern.bytes || nr_glob(search->pattern, walk->key));
}

/* The cursor stands before the keys, and is known behind them. */
static void put_cursor(struct nr_reply *reply, size_t at, int64_t cursor)
{
    struct nr_reply head = {.version = reply->version};

    nr_reply_array(&head, 2);
    nr_reply_bulk_integer(&head, cursor);
    if (!head.failed && nr_reply_grow(reply, head.size)) {
        memmove(reply->bytes + at + head.size, reply->bytes + at, reply->size - at);
        memcpy(reply->bytes + at, head.bytes, head.size);
        reply->size += head.size;
    }
    nr_reply_free(&head);
}

/* A cursor: the shard and the place in it, as one number that is 0 at the beginning and at the end. */
void nr_run_scan(struct call *call)
{
    struct nr_reply *reply = call->reply;
    size_t at = reply->size, count = 0;
    uint32_t shards = call->server->shards;
    struct search search;
    struct walk walk;
    int64_t cursor;

    if (!nr_read_integer(call->arguments[1], &cursor) || cursor < 0) {
        nr_reply_error(reply, "ERR invalid cursor");
        return;
    }
    if (!read_search(call, 2, &search) || !begin_walk(&walk, call))
        return;
    walk.shard = (uint32_t)((uint64_t)cursor % shards);
    walk.cursor = (uint64_t)cursor / shards;
    for (int64_t looked = 0; looked < search.count && step(&walk); looked++) {
        if (!is_visible(&walk) || !is_sought(&search, &walk))
            continue;
        nr_reply_bulk(reply, walk.key.bytes, walk.key.size);
        count++;
    }
    nr_reply_array_around(reply, at, count);
    cursor = walk.shard >= shards ? 0 : (int64_t)(walk.cursor * shards + walk.shard);
    put_cursor(reply, at, cursor);
}

void nr_run_randomkey(struct call *call)
{
    struct nr_table_statistics statistics;
    struct walk walk;
    uint64_t slots;

    if (!begin_walk(&walk, call))
        return;
    slots = nr_table_read_statistics(table_of(call), -1, &statistics) < 0
                ? 0
                : statistics.index_slots / call->server->shards;
    walk.shard = nr_server_random(call->server) % call->server->shards;
    walk.cursor = slots ? nr_server_random(call->server) % slots : 0;
    for (int round = 0; round < 2; round++) { /* from there, and then from the beginning */
        while (step(&walk))
            if (is_visible(&walk)) {
                nr_reply_bulk(call->reply, walk.key.bytes, walk.key.size);
                return;
            }
        walk.shard = 0;
        walk.cursor = 0;
    }
    nr_reply_null(call->reply);
}

/* ---- flushing ---- */

static bool reads_flush(struct call *call)
{
    if (call->count == 1 || (call->count == 2 && (nr_bytes_are(call->arguments[1], "async") ||
                                                  nr_bytes_are(call->arguments[1], "sync"))))
        return true;
    nr_fail_syntax(call);
    return false;
}

static void clear_all(struct call *call)
{
    int result = nr_table_clear(table_of(call), nr_server_patience(call->server));

    if (result < 0) {
        nr_server_fail(call, result, NULL);
        return;
    }
    nr_tracking_changed_everything(call->server);
    nr_reply_ok(call->reply);
}

void nr_run_flushall(struct call *call)
{
    if (reads_flush(call))
        clear_all(call);
}

/* Other databases live in the same table: only when there are none, all of it may be cleared at once. */
void nr_run_flushdb(struct call *call)
{
    bool alone = true;
    struct walk walk;

    if (!reads_flush(call) || !begin_walk(&walk, call))
        return;
    while (alone && step(&walk))
        alone = nr_database_owns(call->client->database, &walk.key);
    if (alone) {
        clear_all(call);
        return;
    }
    if (!begin_walk(&walk, call))
        return;
    while (step(&walk)) {
        struct nr_key key;
        int result;

        if (!nr_database_owns(call->client->database, &walk.key))
            continue;
        key = nr_table_key(table_of(call), walk.stored.bytes, walk.stored.size);
        result = nr_table_delete(table_of(call), &key, nr_server_deadline(call->server, &key));
        if (result == -ETIMEDOUT || result == -ESTALE) {
            nr_tracking_changed_everything(call->server);
            nr_server_fail(call, result, &key);
            return;
        }
    }
    nr_tracking_changed_everything(call->server);
    nr_reply_ok(call->reply);
}
