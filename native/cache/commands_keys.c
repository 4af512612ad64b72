/* Keys whatever their value is: presence, another name, what is known of them. */
#include "parts.h"

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

void nr_run_exists(struct call *call)
{
    struct nr_entry entry;
    struct nr_key key;
    int64_t there = 0;

    for (uint32_t i = 1; i < call->count; i++)
        there += nr_call_look(call, i, &key, &entry) >= 0;
    nr_reply_integer(call->reply, there);
}

void nr_run_touch(struct call *call) { nr_run_exists(call); }

void nr_run_type(struct call *call)
{
    struct nr_entry entry;
    struct nr_key key;
    int result = nr_call_look(call, 1, &key, &entry);

    nr_reply_text(call->reply, result < 0 ? "none" : entry.kind == NR_KIND_SET ? "set" : "string");
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
        result = nr_table_set(table_of(call), &keys[1], &change, nr_server_patience(call->server), NULL);
        if (result >= 0)
            result = nr_table_delete(table_of(call), &keys[0], nr_server_patience(call->server));
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

    if (nr_call_look(call, 2, &key, &entry) < 0)
        nr_reply_null(call->reply);
    else
        nr_reply_string(call->reply, encoding_of(call, &key, &entry));
}

static void reply_if_there(struct call *call, int64_t number)
{
    struct nr_entry entry;
    struct nr_key key;

    if (nr_call_look(call, 2, &key, &entry) < 0)
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

    if (nr_call_look(call, 2, &key, &entry) < 0)
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
