/* Every command: name, arity, flags, keys. The server obeys it, COMMAND shows it. */
#include "parts.h"

#define READS NR_READS
#define WRITES NR_WRITES
#define FAST NR_FAST
#define ALL NR_ALL_KEYS

const struct nr_command nr_commands[] = {
    /* strings */
    {"append", 3, WRITES | FAST, 1, 1, 1, "string", "Appends to a value.", nr_run_append},
    {"decr", 2, WRITES | FAST, 1, 1, 1, "string", "Takes one from a number.", nr_run_decr},
    {"decrby", 3, WRITES | FAST, 1, 1, 1, "string", "Takes from a number.", nr_run_decrby},
    {"get", 2, READS | FAST, 1, 1, 1, "string", "The value of a key.", nr_run_get},
    {"getdel", 2, WRITES | FAST, 1, 1, 1, "string", "The value, which is deleted.", nr_run_getdel},
    {"getex", -2, WRITES | FAST, 1, 1, 1, "string", "The value, with another expiry.", nr_run_getex},
    {"getrange", 4, READS, 1, 1, 1, "string", "A part of a value.", nr_run_getrange},
    {"getset", 3, WRITES | FAST, 1, 1, 1, "string", "Sets, and gives what was there.", nr_run_getset},
    {"incr", 2, WRITES | FAST, 1, 1, 1, "string", "Adds one to a number.", nr_run_incr},
    {"incrby", 3, WRITES | FAST, 1, 1, 1, "string", "Adds to a number.", nr_run_incrby},
    {"incrbyfloat", 3, WRITES | FAST, 1, 1, 1, "string", "Adds to a number with a fraction.",
     nr_run_incrbyfloat},
    {"mget", -2, READS | FAST, 1, -1, 1, "string", "The values of several keys.", nr_run_mget},
    {"mset", -3, WRITES, 1, -1, 2, "string", "Sets several keys.", nr_run_mset},
    {"msetnx", -3, WRITES, 1, -1, 2, "string", "Sets several keys if none is there.", nr_run_msetnx},
    {"psetex", 4, WRITES, 1, 1, 1, "string", "Sets, with an expiry in ms.", nr_run_psetex},
    {"set", -3, WRITES, 1, 1, 1, "string", "Sets a key.", nr_run_set},
    {"setex", 4, WRITES, 1, 1, 1, "string", "Sets, with an expiry in s.", nr_run_setex},
    {"setnx", 3, WRITES | FAST, 1, 1, 1, "string", "Sets if it is not there.", nr_run_setnx},
    {"setrange", 4, WRITES, 1, 1, 1, "string", "Overwrites a part of a value.", nr_run_setrange},
    {"strlen", 2, READS | FAST, 1, 1, 1, "string", "The size of a value.", nr_run_strlen},
    {"substr", 4, READS, 1, 1, 1, "string", "A part of a value.", nr_run_getrange},
    /* keys */
    {"dbsize", 1, READS | FAST | ALL, 0, 0, 0, "server", "How many keys there are.", nr_run_dbsize},
    {"del", -2, WRITES, 1, -1, 1, "generic", "Deletes keys.", nr_run_del},
    {"exists", -2, READS | FAST, 1, -1, 1, "generic", "How many of the keys are there.", nr_run_exists},
    {"expire", -3, WRITES | FAST, 1, 1, 1, "generic", "Expires in so many s.", nr_run_expire},
    {"expireat", -3, WRITES | FAST, 1, 1, 1, "generic", "Expires at a Unix time.", nr_run_expireat},
    {"expiretime", 2, READS | FAST, 1, 1, 1, "generic", "When it expires, in s.", nr_run_expiretime},
    {"flushall", -1, WRITES | ALL, 0, 0, 0, "server", "Deletes all databases.", nr_run_flushall},
    {"flushdb", -1, WRITES | ALL, 0, 0, 0, "server", "Deletes this database.", nr_run_flushdb},
    {"keys", 2, READS | ALL, 0, 0, 0, "generic", "The keys that match.", nr_run_keys},
    {"object", -2, READS | NR_CONTAINER, 2, 2, 1, "generic", "What is known of a value.", nr_run_object},
    {"persist", 2, WRITES | FAST, 1, 1, 1, "generic", "Takes the expiry off.", nr_run_persist},
    {"pexpire", -3, WRITES | FAST, 1, 1, 1, "generic", "Expires in so many ms.", nr_run_pexpire},
    {"pexpireat", -3, WRITES | FAST, 1, 1, 1, "generic", "Expires at a Unix time in ms.",
     nr_run_pexpireat},
    {"pexpiretime", 2, READS | FAST, 1, 1, 1, "generic", "When it expires, in ms.", nr_run_pexpiretime},
    {"pttl", 2, READS | FAST, 1, 1, 1, "generic", "How long it lives, in ms.", nr_run_pttl},
    {"randomkey", 1, READS | ALL, 0, 0, 0, "generic", "Some key.", nr_run_randomkey},
    {"rename", 3, WRITES, 1, 2, 1, "generic", "Gives a key another name.", nr_run_rename},
    {"renamenx", 3, WRITES | FAST, 1, 2, 1, "generic", "Renames if the name is free.", nr_run_renamenx},
    {"scan", -2, READS | ALL, 0, 0, 0, "generic", "Goes through the keys.", nr_run_scan},
    {"touch", -2, READS | FAST, 1, -1, 1, "generic", "Marks keys as used.", nr_run_touch},
    {"ttl", 2, READS | FAST, 1, 1, 1, "generic", "How long it lives, in s.", nr_run_ttl},
    {"type", 2, READS | FAST, 1, 1, 1, "generic", "What kind of value it is.", nr_run_type},
    {"unlink", -2, WRITES | FAST, 1, -1, 1, "generic", "Deletes keys.", nr_run_del},
    /* sets */
    {"sadd", -3, WRITES | FAST, 1, 1, 1, "set", "Adds members.", nr_run_sadd},
    {"scard", 2, READS | FAST, 1, 1, 1, "set", "How many members there are.", nr_run_scard},
    {"sismember", 3, READS | FAST, 1, 1, 1, "set", "Is it a member?", nr_run_sismember},
    {"smembers", 2, READS, 1, 1, 1, "set", "All members.", nr_run_smembers},
    {"smismember", -3, READS | FAST, 1, 1, 1, "set", "Which of them are members?", nr_run_smismember},
    {"spop", -2, WRITES | FAST, 1, 1, 1, "set", "Takes members out, by chance.", nr_run_spop},
    {"srandmember", -2, READS, 1, 1, 1, "set", "Members, by chance.", nr_run_srandmember},
    {"srem", -3, WRITES | FAST, 1, 1, 1, "set", "Removes members.", nr_run_srem},
    {"sscan", -3, READS, 1, 1, 1, "set", "Goes through the members.", nr_run_sscan},
    /* connections */
    {"auth", -2, FAST | NR_NO_AUTH | NR_NO_QUEUE, 0, 0, 0, "connection", "Shows the password.",
     nr_run_auth},
    {"client", -2, NR_CONTAINER, 0, 0, 0, "connection", "This connection and the others.", nr_run_client},
    {"echo", 2, FAST, 0, 0, 0, "connection", "Gives it back.", nr_run_echo},
    {"hello", -1, FAST | NR_NO_AUTH | NR_NO_MULTI, 0, 0, 0, "connection", "Chooses the protocol.",
     nr_run_hello},
    {"ping", -1, FAST | NR_SUBSCRIBED, 0, 0, 0, "connection", "PONG.", nr_run_ping},
    {"quit", -1, FAST | NR_NO_AUTH | NR_NO_QUEUE | NR_SUBSCRIBED, 0, 0, 0, "connection",
     "Closes the connection.", nr_run_quit},
    {"reset", 1, FAST | NR_NO_AUTH | NR_NO_QUEUE | NR_SUBSCRIBED, 0, 0, 0, "connection",
     "As a new connection.", nr_run_reset},
    {"select", 2, FAST, 0, 0, 0, "connection", "Chooses a database.", nr_run_select},
    /* transactions */
    {"discard", 1, FAST | NR_NO_QUEUE, 0, 0, 0, "transactions", "Forgets the transaction.",
     nr_run_discard},
    {"exec", 1, NR_NO_QUEUE, 0, 0, 0, "transactions", "Runs the transaction.", nr_run_exec},
    {"multi", 1, FAST | NR_NO_QUEUE, 0, 0, 0, "transactions", "Begins a transaction.", nr_run_multi},
    {"unwatch", 1, FAST, 0, 0, 0, "transactions", "Watches no key.", nr_run_unwatch},
    {"watch", -2, FAST | NR_NO_QUEUE, 1, -1, 1, "transactions", "EXEC only if these do not change.",
     nr_run_watch},
    /* scripts */
    {"eval", -3, WRITES | NR_MOVABLE_KEYS, 0, 0, 0, "scripting", "Runs a script that is known.",
     nr_run_eval},
    {"evalsha", -3, WRITES | NR_MOVABLE_KEYS, 0, 0, 0, "scripting", "Runs a known script by its SHA1.",
     nr_run_evalsha},
    {"script", -2, NR_CONTAINER, 0, 0, 0, "scripting", "The scripts that are known.", nr_run_script},
    /* messages */
    {"psubscribe", -2, NR_PUBSUB | NR_SUBSCRIBED | NR_NO_MULTI, 0, 0, 0, "pubsub",
     "Listens to channels that match.", nr_run_psubscribe},
    {"publish", 3, NR_PUBSUB | FAST, 0, 0, 0, "pubsub", "Sends to a channel.", nr_run_publish},
    {"pubsub", -2, NR_PUBSUB | NR_CONTAINER, 0, 0, 0, "pubsub", "Who listens.", nr_run_pubsub},
    {"punsubscribe", -1, NR_PUBSUB | NR_SUBSCRIBED | NR_NO_MULTI, 0, 0, 0, "pubsub",
     "Listens no more.", nr_run_punsubscribe},
    {"subscribe", -2, NR_PUBSUB | NR_SUBSCRIBED | NR_NO_MULTI, 0, 0, 0, "pubsub",
     "Listens to channels.", nr_run_subscribe},
    {"unsubscribe", -1, NR_PUBSUB | NR_SUBSCRIBED | NR_NO_MULTI, 0, 0, 0, "pubsub",
     "Listens no more.", nr_run_unsubscribe},
    /* the server */
    {"command", -1, NR_LOADING, 0, 0, 0, "server", "The commands.", nr_run_command},
    {"config", -2, NR_ADMIN | NR_CONTAINER, 0, 0, 0, "server", "Settings.", nr_run_config},
    {"info", -1, NR_LOADING, 0, 0, 0, "server", "Counters.", nr_run_info},
    {"latency", -2, NR_ADMIN | NR_CONTAINER, 0, 0, 0, "server", "Nothing is recorded.", nr_run_latency},
    {"memory", -2, READS | NR_CONTAINER, 2, 2, 1, "server", "What an entry takes.", nr_run_memory},
    {"role", 1, FAST | NR_ADMIN, 0, 0, 0, "server", "master.", nr_run_role},
    {"slowlog", -2, NR_ADMIN | NR_CONTAINER, 0, 0, 0, "server", "Nothing is recorded.", nr_run_slowlog},
    {"time", 1, FAST, 0, 0, 0, "server", "The clock.", nr_run_time},
    {"wait", 3, FAST, 0, 0, 0, "generic", "There are no replicas to wait for.", nr_run_wait},
    /* cluster */
    {"asking", 1, FAST, 0, 0, 0, "cluster", "Slots do not move here.", nr_run_readonly},
    {"cluster", -2, NR_CONTAINER, 0, 0, 0, "cluster", "The processes as nodes.", nr_run_cluster},
    {"readonly", 1, FAST, 0, 0, 0, "cluster", "There are no replicas.", nr_run_readonly},
    {"readwrite", 1, FAST, 0, 0, 0, "cluster", "There are no replicas.", nr_run_readonly},
};
const size_t nr_command_count = sizeof nr_commands / sizeof *nr_commands;

/* numkeys stands behind the script; its keys behind that. */
static int64_t movable_keys(const struct nr_bytes *arguments, uint32_t count, uint32_t *first,
                            uint32_t *step)
{
    int64_t number;

    *first = 3;
    *step = 1;
    if (count < 3 || !nr_read_integer(arguments[2], &number) || number < 0 || number > (int64_t)count - 3)
        return -1;
    return number;
}

int64_t nr_command_keys(const struct nr_command *command, const struct nr_bytes *arguments,
                        uint32_t count, uint32_t *first, uint32_t *step)
{
    int64_t last = command->last_key;

    if (command->flags & NR_MOVABLE_KEYS)
        return movable_keys(arguments, count, first, step);
    if (command->first_key <= 0 || (uint32_t)command->first_key >= count)
        return 0;
    if (last < 0)
        last += count;
    *first = (uint32_t)command->first_key;
    *step = (uint32_t)command->step;
    return (last - *first) / *step + 1;
}

/* ---- COMMAND ---- */

static void reply_flags(struct nr_reply *reply, uint16_t flags)
{
    static const struct {
        uint16_t flag;
        const char *name;
    } names[] = {{NR_WRITES, "write"},   {NR_READS, "readonly"},       {NR_FAST, "fast"},
                 {NR_ADMIN, "admin"},    {NR_PUBSUB, "pubsub"},        {NR_NO_AUTH, "no_auth"},
                 {NR_NO_MULTI, "no_multi"}, {NR_MOVABLE_KEYS, "movablekeys"}, {NR_LOADING, "loading"}};
    size_t count = 0;

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        count += (flags & names[i].flag) != 0;
    nr_reply_set(reply, count);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (flags & names[i].flag)
            nr_reply_text(reply, names[i].name);
}

static void reply_command(struct nr_reply *reply, const struct nr_command *command)
{
    bool contains = command->flags & NR_CONTAINER;

    nr_reply_array(reply, 10);
    nr_reply_string(reply, command->name);
    nr_reply_integer(reply, command->arity);
    reply_flags(reply, command->flags);
    /* Where a container's keys are, its subcommands say: it has none itself. */
    nr_reply_integer(reply, contains ? 0 : command->first_key);
    nr_reply_integer(reply, contains ? 0 : command->last_key);
    nr_reply_integer(reply, contains ? 0 : command->step);
    for (int i = 0; i < 4; i++) /* categories, tips, key specifications, subcommands */
        nr_reply_array(reply, 0);
}

static void reply_docs(struct nr_reply *reply, const struct nr_command *command)
{
    nr_reply_string(reply, command->name);
    nr_reply_map(reply, 2);
    nr_reply_string(reply, "summary");
    nr_reply_string(reply, command->summary);
    nr_reply_string(reply, "group");
    nr_reply_string(reply, command->group);
}

static void list_commands(struct call *call)
{
    nr_reply_array(call->reply, nr_command_count);
    for (size_t i = 0; i < nr_command_count; i++)
        reply_command(call->reply, &nr_commands[i]);
}

static void command_info(struct call *call)
{
    if (call->count == 2) {
        list_commands(call);
        return;
    }
    nr_reply_array(call->reply, call->count - 2);
    for (uint32_t i = 2; i < call->count; i++) {
        const struct nr_command *command = nr_command_find(call->server, call->arguments[i]);

        if (command)
            reply_command(call->reply, command);
        else
            nr_reply_null_array(call->reply);
    }
}

static void command_docs(struct call *call)
{
    size_t count = 0;

    if (call->count == 2) {
        nr_reply_map(call->reply, nr_command_count);
        for (size_t i = 0; i < nr_command_count; i++)
            reply_docs(call->reply, &nr_commands[i]);
        return;
    }
    for (uint32_t i = 2; i < call->count; i++)
        count += nr_command_find(call->server, call->arguments[i]) != NULL;
    nr_reply_map(call->reply, count);
    for (uint32_t i = 2; i < call->count; i++) {
        const struct nr_command *command = nr_command_find(call->server, call->arguments[i]);

        if (command)
            reply_docs(call->reply, command);
    }
}

static void command_getkeys(struct call *call)
{
    const struct nr_command *command =
        call->count > 2 ? nr_command_find(call->server, call->arguments[2]) : NULL;
    uint32_t first = 0, step = 1, count = call->count - 2;
    int64_t keys;

    if (!command) {
        nr_reply_error(call->reply, "ERR Invalid command specified");
        return;
    }
    if (command->arity < 0 ? count < (uint32_t)-command->arity : count != (uint32_t)command->arity) {
        nr_reply_error(call->reply, "ERR Invalid number of arguments specified for command");
        return;
    }
    keys = nr_command_keys(command, call->arguments + 2, count, &first, &step);
    if (keys == 0)
        nr_reply_error(call->reply, "ERR The command has no key arguments");
    else if (keys < 0)
        nr_reply_error(call->reply, "ERR Invalid arguments specified for command");
    else {
        nr_reply_array(call->reply, (size_t)keys);
        for (int64_t i = 0; i < keys; i++) {
            struct nr_bytes key = call->arguments[2 + first + i * step];

            nr_reply_bulk(call->reply, key.bytes, key.size);
        }
    }
}

void nr_run_command(struct call *call)
{
    struct nr_bytes sub = {(const uint8_t *)"", 0};

    if (call->count > 1)
        sub = call->arguments[1];
    if (call->count == 1)
        list_commands(call);
    else if (nr_bytes_are(sub, "count") && call->count == 2)
        nr_reply_integer(call->reply, (int64_t)nr_command_count);
    else if (nr_bytes_are(sub, "info"))
        command_info(call);
    else if (nr_bytes_are(sub, "docs"))
        command_docs(call);
    else if (nr_bytes_are(sub, "getkeys"))
        command_getkeys(call);
    else if (nr_bytes_are(sub, "list") && call->count == 2) {
        nr_reply_array(call->reply, nr_command_count);
        for (size_t i = 0; i < nr_command_count; i++)
            nr_reply_string(call->reply, nr_commands[i].name);
    } else
        nr_fail_subcommand(call);
}
