/* Sets, for tags: one value of its own kind, which is written anew at every change.
 *
 *     u32 count, then for each member u32 size and its bytes; little-endian
 *
 * A change of a set of n members costs n: made for hundreds of members, not for millions. */
#include <endian.h>

#include "parts.h"

#define HEADER_BYTES 4u

static struct nr_table *table_of(const struct call *call) { return call->server->table; }

static uint32_t read_u32(const uint8_t *bytes)
{
    uint32_t number;

    memcpy(&number, bytes, sizeof number);
    return le32toh(number);
}

static void write_u32(uint8_t *bytes, uint32_t number)
{
    number = htole32(number);
    memcpy(bytes, &number, sizeof number);
}

/* The member at *at, which moves on: false at the end, or where it is damaged. */
static bool next_member(struct nr_bytes set, size_t *at, struct nr_bytes *member)
{
    if (set.size - *at < HEADER_BYTES || *at > set.size)
        return false;
    member->size = read_u32(set.bytes + *at);
    if (member->size > set.size - *at - HEADER_BYTES)
        return false;
    member->bytes = set.bytes + *at + HEADER_BYTES;
    *at += HEADER_BYTES + member->size;
    return true;
}

static bool is_same(struct nr_bytes a, struct nr_bytes b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.bytes, b.bytes, a.size) == 0);
}

static uint32_t count_of(struct nr_bytes set) { return set.size < HEADER_BYTES ? 0 : read_u32(set.bytes); }

/* ---- many members at once: a hash table of them, so that a command of n costs n ---- */

#define LINEAR_MOST 4096u /* comparisons that are cheaper than a table */

struct index {
    struct nr_bytes *places; /* NULL: none is needed */
    uint32_t mask;
};

static bool make_index(struct index *index, uint64_t members)
{
    uint64_t room = 16;

    while (room < members * 2)
        room *= 2;
    index->places = room > UINT32_MAX ? NULL : calloc(room, sizeof *index->places);
    index->mask = (uint32_t)(room - 1);
    return index->places != NULL;
}

/* Where it is, or would be. By the table's secret key: nobody can choose members that collide. */
static struct nr_bytes *place_of(const struct nr_cache_server *server, const struct index *index,
                                 struct nr_bytes member)
{
    uint32_t at = (uint32_t)nr_table_key(server->table, member.bytes, member.size).hash & index->mask;

    while (index->places[at].bytes && !is_same(index->places[at], member))
        at = (at + 1) & index->mask;
    return &index->places[at];
}

/* True: it was not there. */
static bool put(const struct nr_cache_server *server, const struct index *index, struct nr_bytes member)
{
    struct nr_bytes *place = place_of(server, index, member);

    if (place->bytes)
        return false;
    *place = member;
    return true;
}

/* ---- changing ---- */

struct work {
    struct call *call;
    const struct nr_bytes *members; /* to add or to remove */
    uint32_t member_count;
    int64_t done;
    uint32_t take; /* SPOP */
    struct index index;
    struct iovec part;
};

static struct nr_bytes set_in(const uint8_t *bytes, const struct nr_entry *entry)
{
    return (struct nr_bytes){bytes, entry ? entry->size_bytes : 0};
}

static bool is_other_kind(const struct nr_entry *entry) { return entry && entry->kind != NR_KIND_SET; }

static int write_set(struct work *work, uint8_t *copy, size_t size, uint32_t count,
                     const struct nr_entry *entry, struct nr_change *change)
{
    if (count == 0)
        return entry ? NR_REMOVE : NR_LEAVE;
    write_u32(copy, count);
    work->part = (struct iovec){copy, size};
    change->parts = &work->part;
    change->count = 1;
    change->kind = NR_KIND_SET;
    change->expires_ms = entry ? NR_KEEP_EXPIRY : 0;
    return 0;
}

static bool has_member(struct nr_bytes set, struct nr_bytes sought)
{
    struct nr_bytes member;
    size_t at = HEADER_BYTES;

    while (next_member(set, &at, &member))
        if (is_same(member, sought))
            return true;
    return false;
}

static int add_members(void *context, const uint8_t *bytes, const struct nr_entry *entry,
                       struct nr_change *change)
{
    struct work *work = context;
    size_t size = entry ? entry->size_bytes : HEADER_BYTES, room = size;
    uint32_t count = count_of(set_in(bytes, entry));
    uint8_t *copy;

    if (is_other_kind(entry))
        return -EDOM;
    for (uint32_t i = 0; i < work->member_count; i++)
        room += HEADER_BYTES + work->members[i].size;
    copy = nr_server_scratch(work->call->server, room);
    if (!copy)
        return -ENOMEM;
    if (entry)
        memcpy(copy, bytes, size);
    if ((uint64_t)(count + work->member_count) * work->member_count > LINEAR_MOST) {
        struct nr_bytes member;
        size_t at = HEADER_BYTES;

        if (!make_index(&work->index, (uint64_t)count + work->member_count))
            return -ENOMEM;
        while (entry && next_member((struct nr_bytes){copy, size}, &at, &member))
            (void)put(work->call->server, &work->index, member);
    }
    work->done = 0;
    for (uint32_t i = 0; i < work->member_count; i++) {
        if (work->index.places ? !put(work->call->server, &work->index, work->members[i])
                               : has_member((struct nr_bytes){copy, size}, work->members[i]))
            continue;
        write_u32(copy + size, (uint32_t)work->members[i].size);
        memcpy(copy + size + HEADER_BYTES, work->members[i].bytes, work->members[i].size);
        size += HEADER_BYTES + work->members[i].size;
        work->done++;
    }
    return work->done ? write_set(work, copy, size, count + (uint32_t)work->done, entry, change) : NR_LEAVE;
}

static bool is_to_go(const struct work *work, struct nr_bytes member)
{
    if (work->index.places)
        return place_of(work->call->server, &work->index, member)->bytes != NULL;
    for (uint32_t i = 0; i < work->member_count; i++)
        if (is_same(work->members[i], member))
            return true;
    return false;
}

/* Without those that are to go, or (SPOP) without some, which are the reply. */
static int remove_members(void *context, const uint8_t *bytes, const struct nr_entry *entry,
                          struct nr_change *change)
{
    struct work *work = context;
    struct nr_bytes set = set_in(bytes, entry), member;
    uint32_t left = count_of(set), take = work->take < left ? work->take : left;
    size_t at = HEADER_BYTES, size = HEADER_BYTES;
    uint8_t *copy;

    if (is_other_kind(entry))
        return -EDOM;
    work->done = 0;
    if (!entry)
        return NR_LEAVE;
    copy = nr_server_scratch(work->call->server, set.size + HEADER_BYTES);
    if (!copy)
        return -ENOMEM;
    if ((uint64_t)left * work->member_count > LINEAR_MOST) {
        if (!make_index(&work->index, work->member_count))
            return -ENOMEM;
        for (uint32_t i = 0; i < work->member_count; i++)
            (void)put(work->call->server, &work->index, work->members[i]);
    }
    for (uint32_t count = left; next_member(set, &at, &member); count--) {
        /* Each of the rest with the same chance. */
        bool taken = work->members ? is_to_go(work, member)
                                   : take && nr_server_random(work->call->server) % (count ? count : 1) < take;

        if (taken) {
            work->done++;
            left--;
            if (!work->members) {
                take--;
                nr_reply_bulk(work->call->reply, member.bytes, member.size);
            }
            continue;
        }
        write_u32(copy + size, (uint32_t)member.size);
        memcpy(copy + size + HEADER_BYTES, member.bytes, member.size);
        size += HEADER_BYTES + member.size;
    }
    return work->done ? write_set(work, copy, size, left, entry, change) : NR_LEAVE;
}

static bool change_set(struct work *work, int (*change)(void *, const uint8_t *, const struct nr_entry *,
                                                        struct nr_change *))
{
    struct call *call = work->call;
    struct nr_key key = nr_call_key(call, 1);
    size_t before = call->reply->size;
    int result = nr_table_update(table_of(call), &key, nr_server_deadline(call->server, &key), change,
                                 work, NULL);

    free(work->index.places);
    if (result < 0) {
        call->reply->size = before;
        if (result == -EDOM)
            nr_reply_error(call->reply, NR_WRONG_TYPE);
        else
            nr_server_fail(call, result, &key);
        return false;
    }
    if (work->done)
        nr_call_changed(call, &key);
    return true;
}

static void change_members(struct call *call, int (*change)(void *, const uint8_t *,
                                                            const struct nr_entry *, struct nr_change *))
{
    struct work work = {.call = call, .members = call->arguments + 2, .member_count = call->count - 2};

    if (change_set(&work, change))
        nr_reply_integer(call->reply, work.done);
}

void nr_run_sadd(struct call *call) { change_members(call, add_members); }
void nr_run_srem(struct call *call) { change_members(call, remove_members); }

void nr_run_spop(struct call *call)
{
    struct work work = {.call = call, .take = 1};
    size_t before = call->reply->size;
    int64_t count = 1;

    if (call->count > 3) {
        nr_fail_syntax(call);
        return;
    }
    if (call->count == 3 && (!nr_read_integer(call->arguments[2], &count) || count < 0)) {
        nr_reply_error(call->reply, "ERR value is out of range, must be positive");
        return;
    }
    work.take = count > UINT32_MAX ? UINT32_MAX : (uint32_t)count;
    if (!change_set(&work, remove_members))
        return;
    if (call->count == 2 && !work.done)
        nr_reply_null(call->reply);
    else if (call->count == 3) {
        nr_reply_array_around(call->reply, before, (size_t)work.done);
        if (call->reply->version == 3 && !call->reply->failed)
            call->reply->bytes[before] = '~';
    }
}

/* ---- reading ---- */

struct copying {
    struct nr_cache_server *server;
    uint64_t size;
};

static uint8_t *place(void *context, uint64_t size)
{
    struct copying *copying = context;

    copying->size = size;
    return nr_server_scratch(copying->server, size + 1);
}

/* The set in the scratch memory; empty when it is not there. False: replied why not. */
static bool read_set(struct call *call, struct nr_bytes *set)
{
    struct copying copying = {call->server, 0};
    struct nr_key key = nr_call_key(call, 1);
    struct nr_entry entry;
    int result;

    nr_call_read(call, &key, NULL);
    result = nr_table_get_with(table_of(call), &key, place, &copying, &entry);
    *set = (struct nr_bytes){call->server->scratch, result < 0 ? 0 : copying.size};
    if (result == -ENOENT)
        return true;
    if (result < 0)
        nr_server_fail(call, result, &key);
    else if (entry.kind != NR_KIND_SET)
        nr_reply_error(call->reply, NR_WRONG_TYPE);
    else
        return true;
    return false;
}

void nr_run_scard(struct call *call)
{
    struct nr_bytes set;

    if (read_set(call, &set))
        nr_reply_integer(call->reply, count_of(set));
}

void nr_run_sismember(struct call *call)
{
    struct nr_bytes set;

    if (read_set(call, &set))
        nr_reply_integer(call->reply, has_member(set, call->arguments[2]));
}

void nr_run_smismember(struct call *call)
{
    struct nr_bytes set;

    if (!read_set(call, &set))
        return;
    nr_reply_array(call->reply, call->count - 2);
    for (uint32_t i = 2; i < call->count; i++)
        nr_reply_integer(call->reply, has_member(set, call->arguments[i]));
}

void nr_run_smembers(struct call *call)
{
    struct nr_bytes set, member;
    size_t at = HEADER_BYTES;

    if (!read_set(call, &set))
        return;
    nr_reply_set(call->reply, count_of(set));
    while (next_member(set, &at, &member))
        nr_reply_bulk(call->reply, member.bytes, member.size);
}

static struct nr_bytes member_at(struct nr_bytes set, uint32_t index)
{
    struct nr_bytes member = {(const uint8_t *)"", 0};
    size_t at = HEADER_BYTES;

    for (uint32_t i = 0; i <= index; i++)
        (void)next_member(set, &at, &member);
    return member;
}

/* count > 0: so many different ones; < 0: so many, perhaps the same. */
static void reply_random(struct call *call, struct nr_bytes set, int64_t wanted)
{
    uint32_t count = count_of(set);
    struct nr_bytes member;
    size_t at = HEADER_BYTES;

    if (wanted < 0) {
        nr_reply_array(call->reply, count ? (size_t)-wanted : 0);
        for (int64_t i = 0; count && i < -wanted; i++) {
            member = member_at(set, nr_server_random(call->server) % count);
            nr_reply_bulk(call->reply, member.bytes, member.size);
        }
        return;
    }
    if (wanted > count)
        wanted = count;
    nr_reply_array(call->reply, (size_t)wanted);
    for (; wanted && next_member(set, &at, &member); count--)
        if (nr_server_random(call->server) % count < wanted) {
            nr_reply_bulk(call->reply, member.bytes, member.size);
            wanted--;
        }
}

void nr_run_srandmember(struct call *call)
{
    struct nr_bytes set, member;
    int64_t wanted = 1;

    if (call->count > 3) {
        nr_fail_syntax(call);
        return;
    }
    if (call->count == 3 && !nr_call_integer(call, 2, &wanted))
        return;
    if (wanted < -1000000) {
        nr_reply_error(call->reply, "ERR value is out of range");
        return;
    }
    if (!read_set(call, &set))
        return;
    if (call->count == 3)
        reply_random(call, set, wanted);
    else if (count_of(set) == 0)
        nr_reply_null(call->reply);
    else {
        member = member_at(set, nr_server_random(call->server) % count_of(set));
        nr_reply_bulk(call->reply, member.bytes, member.size);
    }
}

/* All of them at once: a set is one value. */
void nr_run_sscan(struct call *call)
{
    struct nr_bytes set, member, pattern = {NULL, 0};
    size_t at = HEADER_BYTES, before, count = 0;
    int64_t number;

    if (!nr_read_integer(call->arguments[2], &number) || number < 0) {
        nr_reply_error(call->reply, "ERR invalid cursor");
        return;
    }
    for (uint32_t i = 3; i < call->count; i += 2) {
        if (i + 1 < call->count && nr_bytes_are(call->arguments[i], "match"))
            pattern = call->arguments[i + 1];
        else if (i + 1 < call->count && nr_bytes_are(call->arguments[i], "count")) {
            if (!nr_call_integer(call, i + 1, &number))
                return;
        } else {
            nr_fail_syntax(call);
            return;
        }
    }
    if (!read_set(call, &set))
        return;
    nr_reply_array(call->reply, 2);
    nr_reply_string(call->reply, "0");
    before = call->reply->size;
    while (next_member(set, &at, &member))
        if (!pattern.bytes || nr_glob(pattern, member)) {
            nr_reply_bulk(call->reply, member.bytes, member.size);
            count++;
        }
    nr_reply_array_around(call->reply, before, count);
}
