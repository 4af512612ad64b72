/* EVAL without Lua: the scripts of known clients, each done by hand.
 *
 * A script is known by its text: white space and the kind of its quotes do not count, because the same
 * client indents it differently from release to release. Its SHA-1 is of the very text, so EVALSHA knows
 * those that were shipped and those that came with EVAL or SCRIPT LOAD. */
#include <ctype.h>
#include <stdio.h>

#include "parts.h"

static struct nr_table *table_of(const struct call *call) { return call->server->table; }

static struct nr_key key_of(struct call *call) { return nr_call_key(call, 3); }
static struct nr_bytes value_of(const struct call *call, uint32_t index)
{
    return call->arguments[4 + index];
}

/* ---- "if it is mine": compare, then do ---- */

struct comparison {
    struct call *call;
    struct nr_bytes expected;
    int then;            /* NR_REMOVE, or 0: another value */
    struct iovec part;
    int64_t expires_ms;
    bool agreed;
};

static int compare(void *context, const uint8_t *bytes, const struct nr_entry *entry,
                   struct nr_change *change)
{
    struct comparison *comparison = context;

    if (entry && entry->kind == NR_KIND_SET)
        return -EDOM;
    comparison->agreed =
        entry && entry->size_bytes == comparison->expected.size &&
        (!entry->size_bytes || memcmp(bytes, comparison->expected.bytes, entry->size_bytes) == 0);
    if (!comparison->agreed)
        return NR_LEAVE;
    change->parts = &comparison->part;
    change->count = 1;
    change->kind = NR_KIND_BYTES;
    change->expires_ms = comparison->expires_ms;
    return comparison->then;
}

/* False: an error was replied. */
static bool run_comparison(struct comparison *comparison)
{
    struct call *call = comparison->call;
    struct nr_key key = key_of(call);
    int result = nr_table_update(table_of(call), &key, nr_server_deadline(call->server, &key), compare,
                                 comparison, NULL);

    if (result == -EDOM)
        nr_reply_error(call->reply, NR_WRONG_TYPE);
    else if (result < 0)
        nr_server_fail(call, result, &key);
    else if (comparison->agreed)
        nr_call_changed(call, &key);
    return result >= 0;
}

/* Deletes the key when its value is the argument: 1 or 0. */
static void release(struct call *call)
{
    struct comparison comparison = {.call = call, .expected = value_of(call, 0), .then = NR_REMOVE};

    if (run_comparison(&comparison))
        nr_reply_integer(call->reply, comparison.agreed);
}

/* Another expiry when the value is the argument: 1 or 0. The value itself is written again. */
static void expire_own(struct call *call, int64_t expires_ms)
{
    struct comparison comparison = {.call = call, .expected = value_of(call, 0),
                                    .expires_ms = expires_ms};

    comparison.part = (struct iovec){(void *)comparison.expected.bytes, comparison.expected.size};
    if (run_comparison(&comparison))
        nr_reply_integer(call->reply, comparison.agreed);
}

static void reacquire(struct call *call)
{
    int64_t ms, expires_ms;

    if (nr_call_integer(call, 5, &ms) && nr_call_expiry(call, ms, 1, false, &expires_ms))
        expire_own(call, expires_ms);
}

static void extend(struct call *call)
{
    struct nr_key key = key_of(call);
    struct nr_entry entry;
    int64_t ms, expires_ms;
    bool replaces = value_of(call, 2).size != 1 || value_of(call, 2).bytes[0] != '0';

    if (!nr_call_integer(call, 5, &ms) || !nr_call_expiry(call, ms, 1, false, &expires_ms))
        return;
    if (nr_table_look(table_of(call), &key, &entry) < 0 || !entry.expires_ms)
        nr_reply_integer(call->reply, 0);
    else
        expire_own(call, replaces ? expires_ms : entry.expires_ms + ms);
}

/* Sets when the value is what it was: OK or 0. ARGV: new, old[, EX or PX, time] */
static void compare_and_set(struct call *call)
{
    struct comparison comparison = {.call = call, .expected = value_of(call, 1)};
    struct nr_bytes value = value_of(call, 0);
    int64_t amount;

    if (call->count == 8) {
        bool seconds = nr_bytes_are(value_of(call, 2), "ex");

        if (!seconds && !nr_bytes_are(value_of(call, 2), "px")) {
            nr_fail_syntax(call);
            return;
        }
        if (!nr_call_integer(call, 7, &amount) ||
            !nr_call_expiry(call, amount, seconds ? 1000 : 1, false, &comparison.expires_ms))
            return;
    }
    comparison.part = (struct iovec){(void *)value.bytes, value.size};
    if (!run_comparison(&comparison))
        return;
    if (comparison.agreed)
        nr_reply_ok(call->reply);
    else
        nr_reply_integer(call->reply, 0);
}

/* ---- numbers ---- */

static void call_incrby(struct call *call)
{
    const struct nr_bytes arguments[3] = {{(const uint8_t *)"incrby", 6}, call->arguments[3],
                                          value_of(call, 0)};
    struct call one = *call;

    one.arguments = arguments;
    one.count = 3;
    nr_run_incrby(&one);
}

static void increment(struct call *call) { call_incrby(call); }

static void increment_present(struct call *call)
{
    struct nr_key key = key_of(call);
    struct nr_entry entry;

    if (nr_table_look(table_of(call), &key, &entry) < 0)
        nr_reply_null(call->reply);
    else
        call_incrby(call);
}

/* The first increment sets the expiry. */
static void increment_expiring(struct call *call)
{
    size_t before = call->reply->size;
    int64_t ms, expires_ms;
    struct nr_key key;

    if (!nr_call_integer(call, 5, &ms) || !nr_call_expiry(call, ms, 1, false, &expires_ms))
        return;
    key = key_of(call);
    if (!nr_call_lock(call, &key, 1))
        return;
    call_incrby(call);
    if (!call->reply->failed && call->reply->size == before + 4 &&
        memcmp(call->reply->bytes + before, ":1\r\n", 4) == 0) {
        key = key_of(call);
        (void)nr_table_touch(table_of(call), &key, expires_ms, nr_server_deadline(call->server, &key));
    }
    nr_call_unlock(call);
}

/* ---- which is which ---- */

/* `text` is without white space, and with single quotes. */
static const struct script {
    const char *sha1, *text;
    uint8_t arguments_least, arguments_most;
    void (*run)(struct call *);
} scripts[] = {
    /* redis-py and valkey-py: Lock */
    {"c3f8721cbb97f72bc19e972846bd7aaf91901658",
     "localtoken=redis.call('get',KEYS[1])ifnottokenortoken~=ARGV[1]thenreturn0endredis.call('del',"
     "KEYS[1])return1",
     1, 1, release},
    {"a4e8783852e6b949f9ef3a97212805108459a890",
     "localtoken=redis.call('get',KEYS[1])ifnottokenortoken~=ARGV[1]thenreturn0endlocalexpiration="
     "redis.call('pttl',KEYS[1])ifnotexpirationthenexpiration=0endifexpiration<0thenreturn0end"
     "localnewttl=ARGV[2]ifARGV[3]=='0'thennewttl=ARGV[2]+expirationendredis.call('pexpire',KEYS[1],"
     "newttl)return1",
     3, 3, extend},
    {"1cac51482acf5858da00f6d685d68f886cd6b6b2",
     "localtoken=redis.call('get',KEYS[1])ifnottokenortoken~=ARGV[1]thenreturn0endredis.call("
     "'pexpire',KEYS[1],ARGV[2])return1",
     2, 2, reacquire},
    /* django-redis: incr */
    {"f4a7da3e5d8ea3b46642af08427151cae0190400",
     "localexists=redis.call('EXISTS',KEYS[1])if(exists==1)thenreturnredis.call('INCRBY',KEYS[1],"
     "ARGV[1])elsereturnfalseend",
     1, 1, increment_present},
    {"4d15273b16b10c15e1d9202cbe93c959ab7d250b", "returnredis.call('INCRBY',KEYS[1],ARGV[1])", 1, 1,
     increment},
    /* cashews: unlock, rate limits */
    {"b948f76fda6b97319d3426a2fb42b0d4f02c7146",
     "ifredis.call('GET',KEYS[1])==ARGV[1]thenreturnredis.call('DEL',KEYS[1])elsereturn0end", 1, 1,
     release},
    {"0f8a745c1b5efe281bd1299ea0d1b2994c6ae601",
     "localcurrent_count=redis.call('INCRBY',KEYS[1],ARGV[1])ifcurrent_count==1thenredis.call("
     "'PEXPIRE',KEYS[1],ARGV[2])endreturncurrent_count",
     2, 2, increment_expiring},
    /* aiocache: locks */
    {"ae3671744a5dbb24ea37ef607b8b10ac7856d43e",
     "ifredis.call('get',KEYS[1])==ARGV[1]thenreturnredis.call('del',KEYS[1])elsereturn0end", 1, 1,
     release},
    {"782e993d12091daacc7a3164ddf5c4624fe56042",
     "ifredis.call('get',KEYS[1])==ARGV[2]thenif#ARGV==4thenreturnredis.call('set',KEYS[1],ARGV[1],"
     "ARGV[3],ARGV[4])elsereturnredis.call('set',KEYS[1],ARGV[1])endelsereturn0end",
     2, 4, compare_and_set},
};
#define SCRIPTS (sizeof scripts / sizeof *scripts)

static bool has_text(struct nr_bytes text, const char *sought)
{
    for (size_t i = 0; i < text.size; i++) {
        char c = (char)text.bytes[i];

        if (isspace((unsigned char)c))
            continue;
        if (c == '"')
            c = '\'';
        if (*sought++ != c)
            return false;
    }
    return *sought == 0;
}

static const struct script *find_text(struct nr_bytes text)
{
    for (size_t i = 0; i < SCRIPTS; i++)
        if (has_text(text, scripts[i].text))
            return &scripts[i];
    return NULL;
}

static const struct script *find_sha1(const struct nr_cache_server *server, struct nr_bytes sha1)
{
    for (size_t i = 0; i < SCRIPTS; i++)
        if (nr_bytes_are(sha1, scripts[i].sha1))
            return &scripts[i];
    for (const struct script_alias *alias = server->scripts; alias; alias = alias->next)
        if (nr_bytes_are(sha1, alias->sha1))
            return &scripts[alias->script];
    return NULL;
}

/* Under the name that its very text has. */
static void learn(struct nr_cache_server *server, const struct script *script, const char *sha1)
{
    struct script_alias *alias;

    if (find_sha1(server, (struct nr_bytes){(const uint8_t *)sha1, 40}))
        return;
    alias = malloc(sizeof *alias);
    if (!alias)
        return; /* a client that asks for it is told NOSCRIPT, and sends the text */
    memcpy(alias->sha1, sha1, sizeof alias->sha1);
    alias->script = (uint8_t)(script - scripts);
    alias->next = server->scripts;
    server->scripts = alias;
}

static void fail_script(struct call *call)
{
    nr_reply_error(call->reply, "ERR naru runs no Lua; it knows the scripts of redis-py, valkey-py, "
                                "django-redis, cashews and aiocache");
}

/* numkeys is looked at first, as Redis does. */
static bool reads_keys(struct call *call, int64_t *keys)
{
    if (!nr_read_integer(call->arguments[2], keys))
        nr_reply_error(call->reply, NR_NOT_INTEGER);
    else if (*keys > (int64_t)call->count - 3)
        nr_reply_error(call->reply, "ERR Number of keys can't be greater than number of args");
    else if (*keys < 0)
        nr_reply_error(call->reply, "ERR Number of keys can't be negative");
    else
        return true;
    return false;
}

static void run_script(struct call *call, const struct script *script, int64_t keys)
{
    if (keys != 1 || call->count - 4 < script->arguments_least ||
        call->count - 4 > script->arguments_most)
        nr_reply_error(call->reply, "ERR this script takes one key and %u arguments",
                       script->arguments_least);
    else
        script->run(call);
}

void nr_run_eval(struct call *call)
{
    const struct script *script;
    char sha1[41];
    int64_t keys;

    if (!reads_keys(call, &keys))
        return;
    script = find_text(call->arguments[1]);
    if (!script) {
        fail_script(call);
        return;
    }
    nr_sha1_hex(call->arguments[1].bytes, call->arguments[1].size, sha1);
    learn(call->server, script, sha1);
    run_script(call, script, keys);
}

void nr_run_evalsha(struct call *call)
{
    const struct script *script;
    int64_t keys;

    if (!reads_keys(call, &keys))
        return;
    script = find_sha1(call->server, call->arguments[1]);
    if (script)
        run_script(call, script, keys);
    else
        nr_reply_error(call->reply, "NOSCRIPT No matching script. Please use EVAL.");
}

static void script_load(struct call *call)
{
    const struct script *script = find_text(call->arguments[2]);
    char sha1[41];

    if (!script) {
        fail_script(call);
        return;
    }
    nr_sha1_hex(call->arguments[2].bytes, call->arguments[2].size, sha1);
    learn(call->server, script, sha1);
    nr_reply_string(call->reply, sha1);
}

static void script_exists(struct call *call)
{
    nr_reply_array(call->reply, call->count - 2);
    for (uint32_t i = 2; i < call->count; i++)
        nr_reply_integer(call->reply, find_sha1(call->server, call->arguments[i]) != NULL);
}

static void script_flush(struct call *call) { nr_reply_ok(call->reply); /* they are part of the server */ }

static void script_kill(struct call *call)
{
    nr_reply_error(call->reply, "NOTBUSY No scripts in execution right now.");
}

void nr_run_script(struct call *call)
{
    static const struct nr_command subcommands[] = {
        {.name = "load", .arity = 3, .run = script_load},
        {.name = "exists", .arity = -3, .run = script_exists},
        {.name = "flush", .arity = -2, .run = script_flush},
        {.name = "kill", .arity = 2, .run = script_kill},
    };

    nr_run_subcommand(call, subcommands, sizeof subcommands / sizeof *subcommands);
}
