/* GET, SET and its relatives. */
#include "editing.h"

static struct nr_table *table_of(const struct call *call) { return call->server->table; }

/* ---- reading ---- */

struct placing {
    struct nr_reply *reply;
    size_t start;
};

/* The value goes from the table into the reply, once. */
static uint8_t *place_in_reply(void *context, uint64_t size)
{
    struct placing *placing = context;

    placing->reply->size = placing->start; /* a writer came between: again */
    return nr_reply_place_bulk(placing->reply, size);
}

static int get_one(struct call *call, const struct nr_key *key, struct nr_entry *entry)
{
    struct placing placing = {call->reply, call->reply->size};
    int result = nr_table_get_with(table_of(call), key, place_in_reply, &placing, entry);

    if (result < 0)
        call->reply->size = placing.start;
    else if (entry->kind == NR_KIND_SET) {
        call->reply->size = placing.start;
        result = -EDOM;
    }
    nr_server_count(result >= 0 ? &call->server->statistics.hits : &call->server->statistics.misses);
    return result;
}

void nr_run_get(struct call *call)
{
    struct nr_entry entry = {0};
    struct nr_key key = nr_call_key(call, 1);
    int result;

    nr_call_read(call, &key, NULL); /* before: what changes from now on is told */
    result = get_one(call, &key, &entry);
    if (result == -ENOENT)
        nr_reply_null(call->reply);
    else if (result == -EDOM)
        nr_reply_error(call->reply, NR_WRONG_TYPE);
    else if (result < 0)
        nr_server_fail(call, result, &key);
    else if (entry.expires_ms)
        nr_call_read(call, &key, &entry);
}

void nr_run_mget(struct call *call)
{
    uint32_t count = call->count - 1;
    struct nr_key *keys = nr_call_keys(call, 1, 1, count);
    struct nr_entry entry;

    if (!keys)
        return;
    nr_table_prefetch(table_of(call), keys, count);
    nr_reply_array(call->reply, count);
    for (uint32_t i = 0; i < count; i++) {
        nr_call_read(call, &keys[i], NULL);
        if (get_one(call, &keys[i], &entry) < 0)
            nr_reply_null(call->reply);
        else if (entry.expires_ms)
            nr_call_read(call, &keys[i], &entry);
    }
}

/* ---- editing ---- */

/* -EDOM: WRONGTYPE; else the table's. */
void nr_string_fail(struct call *call, int error, const struct nr_key *key)
{
    if (error == -EDOM)
        nr_reply_error(call->reply, NR_WRONG_TYPE);
    else
        nr_server_fail(call, error, key);
}

int nr_string_update(struct call *call, const struct nr_key *key,
                  int (*change)(void *, const uint8_t *, const struct nr_entry *, struct nr_change *),
                  struct editing *editing)
{
    size_t before = call->reply->size;
    int result = nr_table_update(table_of(call), key, nr_server_deadline(call->server, key), change,
                                 editing, NULL);

    if (result == 0)
        nr_call_changed(call, key);
    else if (result < 0)
        call->reply->size = before; /* what the function had said is not so */
    return result;
}

/* ---- SET and its relatives ---- */

struct wish {
    enum nr_condition condition;
    bool get, keep_expiry, persist;
    bool has_time, absolute;
    int64_t amount, unit_ms, expires_ms;
};

/* An option that is followed by a time. */
static bool take_time(struct call *call, uint32_t *at, struct wish *wish)
{
    static const struct {
        const char *name;
        int64_t unit_ms;
        bool absolute;
    } times[] = {{"ex", 1000, false}, {"px", 1, false}, {"exat", 1000, true}, {"pxat", 1, true}};

    if (wish->has_time || wish->keep_expiry || wish->persist || *at + 1 >= call->count)
        return false;
    for (size_t i = 0; i < 4; i++) {
        if (!nr_bytes_are(call->arguments[*at], times[i].name))
            continue;
        wish->has_time = true;
        wish->unit_ms = times[i].unit_ms;
        wish->absolute = times[i].absolute;
        (*at)++; /* its number is looked at when all options are known to be good, as Redis does */
        wish->amount = *at;
        return true;
    }
    return false;
}

static bool take_option(struct call *call, uint32_t *at, bool set, struct wish *wish)
{
    struct nr_bytes word = call->arguments[*at];

    if (set && nr_bytes_are(word, "nx") && wish->condition != NR_IF_PRESENT)
        wish->condition = NR_IF_ABSENT;
    else if (set && nr_bytes_are(word, "xx") && wish->condition != NR_IF_ABSENT)
        wish->condition = NR_IF_PRESENT;
    else if (set && nr_bytes_are(word, "get"))
        wish->get = true;
    else if (set && nr_bytes_are(word, "keepttl") && !wish->has_time)
        wish->keep_expiry = true;
    else if (!set && nr_bytes_are(word, "persist") && !wish->has_time)
        wish->persist = true;
    else
        return take_time(call, at, wish);
    return true;
}

bool nr_call_expiry(struct call *call, int64_t amount, int64_t unit_ms, bool absolute,
                    int64_t *expires_ms)
{
    int64_t now = (int64_t)nr_table_now_ms(table_of(call));
    int64_t base = absolute ? -nr_server_clock_offset(call->server) : now, most = INT64_MAX / unit_ms;

    if (amount > most || amount < INT64_MIN / unit_ms ||
        (!absolute && amount * unit_ms > INT64_MAX - base - now)) {
        nr_reply_error(call->reply, "ERR invalid expire time in '%s' command", call->command->name);
        return false;
    }
    /* 0 would be never; 1 is past */
    *expires_ms = amount * unit_ms < -INT64_MAX / 2 ? 1 : base + amount * unit_ms;
    if (*expires_ms < 1)
        *expires_ms = 1;
    return true;
}

/* As SET and its kin: only times above 0. */
static bool take_expiry(struct call *call, uint32_t index, int64_t unit_ms, bool absolute,
                        int64_t *expires_ms)
{
    int64_t amount;

    if (!nr_call_integer(call, index, &amount))
        return false;
    if (amount > 0)
        return nr_call_expiry(call, amount, unit_ms, absolute, expires_ms);
    nr_reply_error(call->reply, "ERR invalid expire time in '%s' command", call->command->name);
    return false;
}

static bool read_options(struct call *call, uint32_t from, bool set, struct wish *wish)
{
    memset(wish, 0, sizeof *wish);
    for (uint32_t at = from; at < call->count; at++)
        if (!take_option(call, &at, set, wish)) {
            nr_fail_syntax(call);
            return false;
        }
    if (wish->keep_expiry)
        wish->expires_ms = NR_KEEP_EXPIRY;
    return true;
}

static bool read_time(struct call *call, struct wish *wish)
{
    return !wish->has_time || take_expiry(call, (uint32_t)wish->amount, wish->unit_ms, wish->absolute,
                                          &wish->expires_ms);
}

static int set_value(struct call *call, const struct nr_key *key, struct nr_bytes value,
                     enum nr_condition condition, int64_t expires_ms)
{
    const struct iovec part = {(void *)value.bytes, value.size};
    const struct nr_change change = {.parts = &part, .count = 1, .kind = NR_KIND_BYTES,
                                     .condition = condition, .expires_ms = expires_ms};
    int result = nr_table_set(table_of(call), key, &change, nr_server_deadline(call->server, key), NULL);

    if (result >= 0)
        nr_call_changed(call, key);
    return result;
}

/* SET ... GET: the old value is the reply. */
static int exchange(void *context, const uint8_t *bytes, const struct nr_entry *entry,
                    struct nr_change *change)
{
    struct editing *editing = context;
    struct nr_reply *reply = editing->call->reply;

    if (entry && entry->kind == NR_KIND_SET)
        return -EDOM;
    if (entry)
        nr_reply_bulk(reply, bytes, entry->size_bytes);
    else
        nr_reply_null(reply);
    if (editing->wish->condition == (entry ? NR_IF_ABSENT : NR_IF_PRESENT))
        return NR_LEAVE;
    editing->parts[0] = (struct iovec){(void *)editing->argument.bytes, editing->argument.size};
    change->parts = editing->parts;
    change->count = 1;
    change->kind = NR_KIND_BYTES;
    change->expires_ms = editing->wish->expires_ms;
    change->tag_count = 0;
    if (!entry && change->expires_ms == NR_KEEP_EXPIRY)
        change->expires_ms = 0;
    return 0;
}

static void exchange_value(struct call *call, uint32_t value, const struct wish *wish)
{
    struct nr_key key = nr_call_key(call, 1);
    struct editing editing;
    int result;

    editing.call = call;
    editing.wish = wish;
    editing.argument = call->arguments[value];
    result = nr_string_update(call, &key, exchange, &editing);
    if (result < 0)
        nr_string_fail(call, result, &key);
}

void nr_run_set(struct call *call)
{
    struct wish wish;
    struct nr_key key;
    int result;

    if (!read_options(call, 3, true, &wish) || !read_time(call, &wish))
        return;
    if (wish.get) {
        exchange_value(call, 2, &wish);
        return;
    }
    key = nr_call_key(call, 1);
    result = set_value(call, &key, call->arguments[2], wish.condition, wish.expires_ms);
    if (result == -EEXIST || result == -ENOENT)
        nr_reply_null(call->reply);
    else if (result < 0)
        nr_server_fail(call, result, &key);
    else
        nr_reply_ok(call->reply);
}

void nr_run_getset(struct call *call)
{
    const struct wish wish = {0};

    exchange_value(call, 2, &wish);
}

static void set_with_time(struct call *call, int64_t unit_ms)
{
    int64_t expires_ms;
    struct nr_key key;
    int result;

    if (!take_expiry(call, 2, unit_ms, false, &expires_ms))
        return;
    key = nr_call_key(call, 1);
    result = set_value(call, &key, call->arguments[3], NR_ALWAYS, expires_ms);
    if (result < 0)
        nr_server_fail(call, result, &key);
    else
        nr_reply_ok(call->reply);
}

void nr_run_setex(struct call *call) { set_with_time(call, 1000); }
void nr_run_psetex(struct call *call) { set_with_time(call, 1); }

void nr_run_setnx(struct call *call)
{
    struct nr_key key = nr_call_key(call, 1);
    int result = set_value(call, &key, call->arguments[2], NR_IF_ABSENT, 0);

    if (result < 0 && result != -EEXIST)
        nr_server_fail(call, result, &key);
    else
        nr_reply_integer(call->reply, result >= 0);
}

static bool is_any_there(struct call *call, const struct nr_key *keys, uint32_t count)
{
    struct nr_entry entry;

    for (uint32_t i = 0; i < count; i++)
        if (nr_table_look(table_of(call), &keys[i], &entry) >= 0)
            return true;
    return false;
}

/* 1: all are set; 0: one was there; -1: replied why not. */
static int set_many(struct call *call, bool if_none)
{
    uint32_t count = (call->count - 1) / 2;
    struct nr_key *keys;
    int done = 1;

    if (call->count % 2 == 0) {
        nr_fail_arity(call);
        return -1;
    }
    keys = nr_call_keys(call, 1, 2, count);
    if (!keys || !nr_call_lock(call, keys, count))
        return -1;
    if (if_none && is_any_there(call, keys, count))
        done = 0;
    for (uint32_t i = 0; i < count && done > 0; i++) {
        int result = set_value(call, &keys[i], call->arguments[2 + i * 2], NR_ALWAYS, 0);

        if (result < 0) {
            nr_server_fail(call, result, &keys[i]);
            done = -1;
        }
    }
    nr_call_unlock(call);
    return done;
}

void nr_run_mset(struct call *call)
{
    if (set_many(call, false) > 0)
        nr_reply_ok(call->reply);
}

void nr_run_msetnx(struct call *call)
{
    int done = set_many(call, true);

    if (done >= 0)
        nr_reply_integer(call->reply, done);
}

/* ---- GETDEL, GETEX ---- */

static int take_out(void *context, const uint8_t *bytes, const struct nr_entry *entry,
                    struct nr_change *change)
{
    struct editing *editing = context;

    (void)change;
    if (entry && entry->kind == NR_KIND_SET)
        return -EDOM;
    if (!entry) {
        nr_reply_null(editing->call->reply);
        return NR_LEAVE;
    }
    nr_reply_bulk(editing->call->reply, bytes, entry->size_bytes);
    return NR_REMOVE;
}

void nr_run_getdel(struct call *call)
{
    struct nr_key key = nr_call_key(call, 1);
    struct editing editing;
    int result;

    editing.call = call;
    result = nr_string_update(call, &key, take_out, &editing);
    if (result < 0)
        nr_string_fail(call, result, &key);
    else
        nr_call_changed(call, &key);
}

void nr_run_getex(struct call *call)
{
    size_t before = call->reply->size;
    struct wish wish;
    struct nr_key key;
    struct nr_entry entry;
    int result;

    if (!read_options(call, 2, false, &wish))
        return;
    key = nr_call_key(call, 1);
    result = nr_table_look(table_of(call), &key, &entry);
    /* A wrong time matters only when there is what it is for: as Redis. */
    if (result >= 0 && entry.kind != NR_KIND_SET && !read_time(call, &wish))
        return;
    result = get_one(call, &key, &entry);
    if (result == -ENOENT)
        nr_reply_null(call->reply);
    else if (result < 0)
        nr_string_fail(call, result, &key);
    else if (wish.has_time || wish.persist) {
        result = nr_table_touch(table_of(call), &key, wish.expires_ms,
                                nr_server_deadline(call->server, &key));
        if (result == -ETIMEDOUT || result == -ESTALE) {
            call->reply->size = before;
            nr_server_fail(call, result, &key);
        } else
            nr_call_changed(call, &key);
    }
}
