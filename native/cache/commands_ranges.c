/* Parts of a string. */
#include "editing.h"

static struct nr_table *table_of(const struct call *call) { return call->server->table; }

/* ---- STRLEN, GETRANGE ---- */

struct copying {
    struct nr_cache_server *server;
    uint64_t size;
};

static uint8_t *place_in_scratch(void *context, uint64_t size)
{
    struct copying *copying = context;

    copying->size = size;
    return nr_server_scratch(copying->server, size + 1);
}

/* The whole value in the scratch memory. */
static int copy_value(struct call *call, const struct nr_key *key, struct nr_bytes *value)
{
    struct copying copying = {call->server, 0};
    struct nr_entry entry = {0};
    int result;

    nr_call_read(call, key, NULL);
    result = nr_table_get_with(table_of(call), key, place_in_scratch, &copying, &entry);
    if (result >= 0 && entry.kind == NR_KIND_SET)
        return -EDOM;
    *value = (struct nr_bytes){call->server->scratch, copying.size};
    return result;
}

void nr_run_strlen(struct call *call)
{
    struct nr_key key = nr_call_key(call, 1);
    struct nr_entry entry;
    int result;

    nr_call_read(call, &key, NULL);
    result = nr_table_look(table_of(call), &key, &entry);
    if (result >= 0 && entry.kind == NR_KIND_SET)
        nr_reply_error(call->reply, NR_WRONG_TYPE);
    else
        nr_reply_integer(call->reply, result < 0 ? 0 : (int64_t)entry.size_bytes);
}

void nr_run_getrange(struct call *call)
{
    struct nr_key key = nr_call_key(call, 1);
    struct nr_bytes value = {NULL, 0};
    int64_t first, last, size;
    int result;

    if (!nr_call_integer(call, 2, &first) || !nr_call_integer(call, 3, &last))
        return;
    result = copy_value(call, &key, &value);
    if (result < 0 && result != -ENOENT) {
        nr_string_fail(call, result, &key);
        return;
    }
    size = result < 0 ? 0 : (int64_t)value.size;
    if (first < 0 && last < 0 && first > last)
        size = 0;
    first = first < 0 ? (first + size < 0 ? 0 : first + size) : first;
    last = last < 0 ? (last + size < 0 ? 0 : last + size) : last;
    if (last >= size)
        last = size - 1;
    if (size == 0 || first > last)
        nr_reply_bulk(call->reply, "", 0);
    else
        nr_reply_bulk(call->reply, value.bytes + first, (size_t)(last - first + 1));
}

/* ---- APPEND, SETRANGE ---- */

/* The old value, copied: where it lies, room for the new one may be made. `size`: room for so many. */
static uint8_t *copy_old(struct editing *editing, const uint8_t *bytes, const struct nr_entry *entry,
                         size_t size)
{
    uint8_t *copy = nr_server_scratch(editing->call->server, size ? size : 1);

    if (copy && entry)
        memcpy(copy, bytes, entry->size_bytes < size ? entry->size_bytes : size);
    return copy;
}

/* Overwrites from `offset` on, zeroes up to there; offset SIZE_MAX: at the end. */
static int overwrite(void *context, const uint8_t *bytes, const struct nr_entry *entry,
                     struct nr_change *change)
{
    struct editing *editing = context;
    size_t old = entry ? entry->size_bytes : 0, added = editing->argument.size;
    size_t offset = editing->offset == SIZE_MAX ? old : editing->offset;
    size_t size = offset + added > old ? offset + added : old;
    uint8_t *copy;

    if (entry && entry->kind == NR_KIND_SET)
        return -EDOM;
    editing->number = (int64_t)(added ? size : old);
    if (added == 0 && editing->offset != SIZE_MAX)
        return NR_LEAVE;
    if (size > nr_table_value_most(editing->call->server->table))
        return -E2BIG;
    copy = copy_old(editing, bytes, entry, size);
    if (!copy)
        return -ENOMEM;
    if (offset > old)
        memset(copy + old, 0, offset - old);
    memcpy(copy + offset, editing->argument.bytes, added);
    editing->parts[0] = (struct iovec){copy, size};
    change->parts = editing->parts;
    change->count = 1;
    change->kind = NR_KIND_BYTES;
    change->expires_ms = entry ? NR_KEEP_EXPIRY : 0;
    return 0;
}

static void overwrite_value(struct call *call, size_t offset, uint32_t value)
{
    struct nr_key key = nr_call_key(call, 1);
    struct editing editing;
    int result;

    editing.call = call;
    editing.argument = call->arguments[value];
    editing.offset = offset;
    result = nr_string_update(call, &key, overwrite, &editing);
    if (result < 0)
        nr_string_fail(call, result, &key);
    else
        nr_reply_integer(call->reply, editing.number);
}

void nr_run_append(struct call *call) { overwrite_value(call, SIZE_MAX, 2); }

void nr_run_setrange(struct call *call)
{
    int64_t offset;

    if (!nr_call_integer(call, 2, &offset))
        return;
    if (offset < 0)
        nr_reply_error(call->reply, "ERR offset is out of range");
    else if ((uint64_t)offset + call->arguments[3].size > call->server->settings.value_bytes_most)
        nr_reply_error(call->reply, "ERR string exceeds maximum allowed size (proto-max-bulk-len)");
    else
        overwrite_value(call, (size_t)offset, 3);
}
