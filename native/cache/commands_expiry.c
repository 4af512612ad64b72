/* When a key ends. */
#include "parts.h"

static struct nr_table *table_of(const struct call *call) { return call->server->table; }

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
    int result = nr_call_look(call, 1, &key, &entry);
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
