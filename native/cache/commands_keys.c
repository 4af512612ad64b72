/* Keys whatever their value is: presence, expiry, going through them. */
#include "parts.h"

#define COUNTED_MOST 1000000u

static struct nr_table *table_of(const struct call *call) { return call->server->table; }

/* ---- presence ---- */

static bool delete_each(struct call *call, const struct nr_key *keys, int64_t *deleted)
{
    for (uint32_t i = 0; i + 1 < call->count; i++) {
        int result =
            nr_table_delete(table_of(call), &keys[i], nr_server_deadline(call->server, &keys[i]));

        if (result < 0 && result != -ENOENT && result != -EINVAL) {
            nr_server_fail(call, result, &keys[i]);
            return false;
        }
        if (result < 0)
            continue;
        ++*deleted;
        nr_call_changed(call, &keys[i]);
    }
    return true;
}

/* Several at once, so that none is deleted when the number of them cannot be told. */
void nr_run_del(struct call *call)
{
    const struct nr_key *keys = nr_call_keys(call, 1, 1, call->count - 1);
    bool several = call->count > 2, done;
    int64_t deleted = 0;

    if (!keys || (several && !nr_call_lock(call, keys, call->count - 1)))
        return;
    done = delete_each(call, keys, &deleted);
    if (several)
        nr_call_unlock(call);
    if (done)
        nr_reply_integer(call->reply, deleted);
}

static int look(struct call *call, uint32_t index, struct nr_key *key, struct nr_entry *entry)
{
    *key = nr_call_key(call, index);
    nr_call_read(call, key, NULL);
    return nr_table_look(table_of(call), key, entry);
}

void nr_run_exists(struct call *call)
{
    struct nr_entry entry;
    struct nr_key key;
    int64_t there = 0;

    for (uint32_t i = 1; i < call->count; i++)
        there += look(call, i, &key, &entry) >= 0;
    nr_reply_integer(call->reply, there);
}

void nr_run_touch(struct call *call) { nr_run_exists(call); }

void nr_run_type(struct call *call)
{
    struct nr_entry entry;
    struct nr_key key;
    int result = look(call, 1, &key, &entry);

    nr_reply_text(call->reply, result < 0 ? "none" : entry.kind == NR_KIND_SET ? "set" : "string");
}

/* ---- expiry ---- */

enum { IF_NONE = 1, IF_SOME = 2, IF_LATER = 4, IF_EARLIER = 8 };

static bool read_conditions(struct call *call, unsigned *conditions)
{
    static const char *const names[] = {"nx", "xx", "gt", "lt"};
    unsigned found;

    *conditions = 0;
    for (uint32_t i = 3; i < call->count; i++) {
        found = 0;
        for (unsigned name = 0; name < 4; name++)
            if (nr_bytes_are(call->arguments[i], names[name]))
                found = 1u << name;
        if (!found) {
            nr_reply_error(call->reply, "ERR Unsupported option %.*s", (int)call->arguments[i].size,
                           (const char *)call->arguments[i].bytes);
            return false;
        }
        *conditions |= found;
    }
    if (*conditions & IF_NONE && *conditions & ~(unsigned)IF_NONE)
        nr_reply_error(call->reply,
                       "ERR NX and XX, GT or LT options at the same time are not compatible");
    else if ((*conditions & (IF_LATER | IF_EARLIER)) == (IF_LATER | IF_EARLIER))
        nr_reply_error(call->reply, "ERR GT and LT options at the same time are not compatible");
    else
        return true;
    return false;
}

static bool agrees(unsigned conditions, int64_t now_expires_ms, int64_t expires_ms)
{
    bool has = now_expires_ms != 0;

    return !((conditions & IF_NONE && has) || (conditions & IF_SOME && !has) ||
             (conditions & IF_LATER && (!has || expires_ms <= now_expires_ms)) ||
             (conditions & IF_EARLIER && has && expires_ms >= now_expires_ms));
}

static void set_expiry(struct call *call, int64_t unit_ms, bool absolute)
{
    unsigned conditions;
    int64_t amount, expires_ms;
    struct nr_entry entry;
    struct nr_key key;
    int result;

    if (!read_conditions(call, &conditions) || !nr_call_integer(call, 2, &amount) ||
        !nr_call_expiry(call, amount, unit_ms, absolute, &expires_ms))
        return;
    key = nr_call_key(call, 1);
    result = nr_table_look(table_of(call), &key, &entry);
    if (result < 0 || !agrees(conditions, entry.expires_ms, expires_ms)) {
        nr_reply_integer(call->reply, 0);
        return;
    }
    if (expires_ms <= (int64_t)nr_table_now_ms(table_of(call)))
        result = nr_table_delete(table_of(call), &key, nr_server_deadline(call->server, &key));
    else
        result = nr_table_touch(table_of(call), &key, expires_ms, nr_server_deadline(call->server, &key));
    if (result < 0 && result != -ENOENT)
        nr_server_fail(call, result, &key);
    else {
        if (result >= 0)
            nr_call_changed(call, &key);
        nr_reply_integer(call->reply, result >= 0);
    }
}

void nr_run_expire(struct call *call) { set_expiry(call, 1000, false); }
void nr_run_pexpire(struct call *call) { set_expiry(call, 1, false); }
void nr_run_expireat(struct call *call) { set_expiry(call, 1000, true); }
void nr_run_pexpireat(struct call *call) { set_expiry(call, 1, true); }

void nr_run_persist(struct call *call)
{
    struct nr_key key = nr_call_key(call, 1);
    struct nr_entry entry;
    int result = nr_table_look(table_of(call), &key, &entry);

    if (result < 0 || !entry.expires_ms) {
        nr_reply_integer(call->reply, 0);
        return;
    }
    result = nr_table_touch(table_of(call), &key, 0, nr_server_deadline(call->server, &key));
    if (result < 0 && result != -ENOENT)
        nr_server_fail(call, result, &key);
    else {
        nr_call_changed(call, &key);
        nr_reply_integer(call->reply, result >= 0);
    }
}

/* -2: not there, -1: for ever; else `from_ms` is taken off, and it is given in units. */
static void reply_time(struct call *call, bool absolute, int64_t unit_ms)
{
    struct nr_entry entry;
    struct nr_key key;
    int result = look(call, 1, &key, &entry);
    int64_t ms;

    if (result < 0 || !entry.expires_ms) {
        nr_reply_integer(call->reply, result < 0 ? -2 : -1);
        return;
    }
    ms = absolute ? entry.expires_ms + nr_server_clock_offset(call->server)
                  : entry.expires_ms - (int64_t)nr_table_now_ms(table_of(call));
    nr_reply_integer(call->reply, ((ms < 0 ? 0 : ms) + unit_ms / 2) / unit_ms);
}

void nr_run_ttl(struct call *call) { reply_time(call, false, 1000); }
void nr_run_pttl(struct call *call) { reply_time(call, false, 1); }
void nr_run_expiretime(struct call *call) { reply_time(call, true, 1000); }
void nr_run_pexpiretime(struct call *call) { reply_time(call, true, 1); }

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

/* Of the client's database, and alive; `key` is then as the client knows it. */
static bool is_visible(struct walk *walk)
{
    return is_alive(walk) && nr_database_owns(walk->call->client->database, &walk->key);
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
        nr_reply_integer(call->reply, (int64_t)statistics.entries); /* of all databases */
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

static uint64_t patience(struct call *call)
{
    if (nr_table_copier(table_of(call)) != 0)
        return 0;
    return nr_os_now_ns() + call->server->settings.lock_wait_ns * call->server->shards;
}

static void clear_all(struct call *call)
{
    int result = nr_table_clear(table_of(call), patience(call));

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

/* ---- RENAME ---- */

struct moving {
    uint8_t *bytes;
    uint64_t size;
};

static uint8_t *place_moving(void *context, uint64_t size)
{
    struct moving *moving = context;

    free(moving->bytes);
    moving->size = size;
    return moving->bytes = malloc(size ? size : 1);
}

/* 1: done; 0: the new name is taken; -errno. Both shards are locked. */
static int rename_locked(struct call *call, const struct nr_key *keys, bool if_free)
{
    struct moving moving = {NULL, 0};
    struct nr_entry entry, other;
    struct nr_change change = {.count = 1};
    struct iovec part;
    int result = nr_table_get_with(table_of(call), &keys[0], place_moving, &moving, &entry);
    bool same = keys[0].size == keys[1].size && !memcmp(keys[0].bytes, keys[1].bytes, keys[0].size);

    if (result >= 0 && if_free && nr_table_look(table_of(call), &keys[1], &other) >= 0)
        result = -EEXIST;
    if (result >= 0 && !same) {
        part = (struct iovec){moving.bytes, moving.size};
        change.parts = &part;
        change.kind = entry.kind;
        change.expires_ms = entry.expires_ms;
        result = nr_table_set(table_of(call), &keys[1], &change, patience(call), NULL);
        if (result >= 0)
            result = nr_table_delete(table_of(call), &keys[0], patience(call));
    }
    free(moving.bytes);
    return result < 0 ? (result == -EEXIST ? 0 : result) : 1;
}

static int rename_key(struct call *call, bool if_free)
{
    struct nr_key *keys = nr_call_keys(call, 1, 1, 2);
    int result;

    if (!keys || !nr_call_lock(call, keys, 2))
        return -1;
    result = rename_locked(call, keys, if_free);
    nr_call_unlock(call);
    if (result == -ENOENT)
        nr_reply_error(call->reply, "ERR no such key");
    else if (result < 0)
        nr_server_fail(call, result, &keys[0]);
    else if (result > 0) {
        nr_call_changed(call, &keys[0]);
        nr_call_changed(call, &keys[1]);
    }
    return result;
}

void nr_run_rename(struct call *call)
{
    if (rename_key(call, false) > 0)
        nr_reply_ok(call->reply);
}

void nr_run_renamenx(struct call *call)
{
    int result = rename_key(call, true);

    if (result >= 0)
        nr_reply_integer(call->reply, result);
}

/* ---- what is known of a value ---- */

static const char *encoding_of(struct call *call, const struct nr_key *key, const struct nr_entry *entry)
{
    uint8_t text[24];
    struct nr_entry now;
    int64_t number;

    if (entry->kind == NR_KIND_SET)
        return "hashtable";
    if (entry->size_bytes <= 20 &&
        nr_table_get(table_of(call), key, text, sizeof text, &now) >= 0 &&
        nr_read_integer((struct nr_bytes){text, now.size_bytes}, &number))
        return "int";
    return entry->size_bytes <= 44 ? "embstr" : "raw";
}

static void object_freq(struct call *call)
{
    nr_reply_error(call->reply, "ERR An LFU maxmemory policy is not selected, access frequency not "
                                "tracked. Please note that when switching between policies at "
                                "runtime LRU and LFU data will take some time to adjust.");
}

static void object_encoding(struct call *call)
{
    struct nr_entry entry;
    struct nr_key key;

    if (look(call, 2, &key, &entry) < 0)
        nr_reply_null(call->reply);
    else
        nr_reply_string(call->reply, encoding_of(call, &key, &entry));
}

static void reply_if_there(struct call *call, int64_t number)
{
    struct nr_entry entry;
    struct nr_key key;

    if (look(call, 2, &key, &entry) < 0)
        nr_reply_null(call->reply);
    else
        nr_reply_integer(call->reply, number);
}

static void object_refcount(struct call *call) { reply_if_there(call, 1); }
static void object_idletime(struct call *call) { reply_if_there(call, 0); }

void nr_run_object(struct call *call)
{
    static const struct nr_command subcommands[] = {
        {.name = "encoding", .arity = 3, .run = object_encoding},
        {.name = "refcount", .arity = 3, .run = object_refcount},
        {.name = "idletime", .arity = 3, .run = object_idletime},
        {.name = "freq", .arity = 3, .run = object_freq},
    };

    nr_run_subcommand(call, subcommands, sizeof subcommands / sizeof *subcommands);
}

/* A record and its slot: table.h. */
static void memory_usage(struct call *call)
{
    struct nr_entry entry;
    struct nr_key key;

    if (look(call, 2, &key, &entry) < 0)
        nr_reply_null(call->reply);
    else
        nr_reply_integer(call->reply, (int64_t)((16 + key.size + entry.tags * 8 + entry.size_bytes + 7) / 8 *
                                                    8 + 8));
}

void nr_run_memory(struct call *call)
{
    static const struct nr_command subcommands[] = {
        {.name = "usage", .arity = -3, .run = memory_usage},
    };

    nr_run_subcommand(call, subcommands, sizeof subcommands / sizeof *subcommands);
}
