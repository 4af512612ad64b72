/* HELLO, AUTH, CLIENT and the like: this connection and the others. */
#include <stdio.h>

#include "parts.h"

/* ---- the password ---- */

/* Takes as long whatever the first difference is. */
static bool is_password(const struct nr_cache_server *server, struct nr_bytes given)
{
    size_t size = strlen(server->password);
    unsigned difference = (unsigned)(size ^ given.size) != 0;

    for (size_t i = 0; i < given.size; i++)
        difference |= (unsigned)(given.bytes[i] ^ (uint8_t)server->password[size ? i % size : 0]);
    return difference == 0;
}

/* False: replied why not. There is one user. */
static bool authenticate(struct call *call, struct nr_bytes user, struct nr_bytes password)
{
    static const struct nr_bytes usual = {(const uint8_t *)"default", 7};
    bool known = user.size == usual.size && memcmp(user.bytes, usual.bytes, usual.size) == 0;

    if (known && (!call->server->password || is_password(call->server, password))) {
        call->client->admitted = true;
        return true;
    }
    nr_server_count(&call->server->statistics.wrong_passwords);
    nr_client_refused(call->server, call->connection, NR_REFUSED_PASSWORD);
    nr_reply_error(call->reply, "WRONGPASS invalid username-password pair or user is disabled.");
    return false;
}

void nr_run_auth(struct call *call)
{
    static const struct nr_bytes usual = {(const uint8_t *)"default", 7};

    if (call->count > 3)
        nr_fail_syntax(call);
    else if (call->count == 2 && !call->server->password)
        nr_reply_error(call->reply, "ERR AUTH <password> called without any password configured for the "
                                    "default user. Are you sure your configuration is correct?");
    else if (authenticate(call, call->count == 3 ? call->arguments[1] : usual,
                          call->arguments[call->count - 1]))
        nr_reply_ok(call->reply);
}

/* ---- names ---- */

static bool keep_text(struct nr_bytes *kept, struct nr_bytes text)
{
    uint8_t *copy = malloc(text.size + 1);

    if (!copy)
        return false;
    memcpy(copy, text.bytes, text.size);
    copy[text.size] = 0;
    free((void *)kept->bytes);
    *kept = (struct nr_bytes){copy, text.size};
    return true;
}

static bool is_printable(struct nr_bytes text)
{
    for (size_t i = 0; i < text.size; i++)
        if (text.bytes[i] < '!' || text.bytes[i] > '~')
            return false;
    return true;
}

static bool set_name(struct call *call, struct nr_bytes name)
{
    struct client_extra *extra = nr_client_extra(call->client);

    if (!is_printable(name))
        nr_reply_error(call->reply,
                       "ERR Client names cannot contain spaces, newlines or special characters.");
    else if (!extra || !keep_text(&extra->name, name))
        nr_server_fail(call, -ENOMEM, NULL);
    else
        return true;
    return false;
}

/* ---- HELLO, RESET, SELECT ---- */

static void reply_hello(struct call *call)
{
    struct nr_reply *reply = call->reply;

    nr_reply_map(reply, 7);
    nr_reply_string(reply, "server");
    nr_reply_string(reply, "redis");
    nr_reply_string(reply, "version");
    nr_reply_string(reply, NR_SERVER_VERSION);
    nr_reply_string(reply, "proto");
    nr_reply_integer(reply, call->client->resp);
    nr_reply_string(reply, "id");
    nr_reply_integer(reply, (int64_t)call->client->id);
    nr_reply_string(reply, "mode");
    nr_reply_string(reply, call->server->cluster_host ? "cluster" : "standalone");
    nr_reply_string(reply, "role");
    nr_reply_string(reply, "master");
    nr_reply_string(reply, "modules");
    nr_reply_array(reply, 0);
}

void nr_run_hello(struct call *call)
{
    struct nr_bytes name = {NULL, 0};
    int64_t version = call->client->resp;

    if (call->count > 1 && !nr_read_integer(call->arguments[1], &version)) {
        nr_reply_error(call->reply, "ERR Protocol version is not an integer or out of range");
        return;
    }
    if (version < 2 || version > 3) {
        nr_reply_error(call->reply, "NOPROTO unsupported protocol version");
        return;
    }
    for (uint32_t i = 2; i < call->count; i++) {
        uint32_t behind = call->count - 1 - i;

        if (behind >= 2 && nr_bytes_are(call->arguments[i], "auth")) {
            if (!authenticate(call, call->arguments[i + 1], call->arguments[i + 2]))
                return;
            i += 2;
        } else if (behind >= 1 && nr_bytes_are(call->arguments[i], "setname"))
            name = call->arguments[++i];
        else {
            nr_reply_error(call->reply, "ERR Syntax error in HELLO option '%.*s'",
                           (int)call->arguments[i].size, (const char *)call->arguments[i].bytes);
            return;
        }
    }
    if (!call->client->admitted) {
        nr_reply_error(call->reply,
                       "NOAUTH HELLO must be called with the client already authenticated, otherwise the "
                       "HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client "
                       "and select the RESP protocol version at the same time");
        return;
    }
    if (name.bytes && !set_name(call, name))
        return;
    call->client->resp = call->reply->version = (uint8_t)version;
    reply_hello(call);
}

void nr_run_reset(struct call *call)
{
    struct client *client = call->client;

    nr_transaction_free(client);
    nr_subscriptions_end(call->server, client);
    nr_tracking_end(call->server, client);
    client->resp = call->reply->version = 2;
    client->database = 0;
    client->admitted = !call->server->password;
    client->replies_off = client->no_evict = client->no_touch = false;
    if (client->extra) {
        free((void *)client->extra->name.bytes);
        client->extra->name = (struct nr_bytes){NULL, 0};
    }
    nr_reply_text(call->reply, "RESET");
}

void nr_run_select(struct call *call)
{
    int64_t database;

    if (!nr_call_integer(call, 1, &database))
        return;
    if (call->server->cluster_host && database != 0)
        nr_reply_error(call->reply, "ERR SELECT is not allowed in cluster mode");
    else if (database < 0 || database >= NR_DATABASES)
        nr_reply_error(call->reply, "ERR DB index is out of range");
    else {
        call->client->database = (uint8_t)database;
        nr_reply_ok(call->reply);
    }
}

void nr_run_ping(struct call *call)
{
    if (call->count > 2)
        nr_fail_arity(call);
    else if (call->client->resp == 2 && nr_client_is_subscribed(call->client)) {
        nr_reply_array(call->reply, 2);
        nr_reply_string(call->reply, "pong");
        if (call->count == 2)
            nr_reply_bulk(call->reply, call->arguments[1].bytes, call->arguments[1].size);
        else
            nr_reply_string(call->reply, "");
    } else if (call->count == 2)
        nr_reply_bulk(call->reply, call->arguments[1].bytes, call->arguments[1].size);
    else
        nr_reply_raw(call->reply, "+PONG\r\n", 7);
}

void nr_run_echo(struct call *call)
{
    nr_reply_bulk(call->reply, call->arguments[1].bytes, call->arguments[1].size);
}

void nr_run_quit(struct call *call)
{
    call->client->ending = true;
    nr_reply_ok(call->reply);
}

/* ---- CLIENT ---- */

static const char *text_of(struct nr_bytes text) { return text.bytes ? (const char *)text.bytes : ""; }

static int print_client(const struct client *client, char *text, size_t room)
{
    static const struct client_extra none;
    const struct client_extra *extra = client->extra ? client->extra : &none;
    uint32_t now_s = (uint32_t)(nr_os_coarse_now_ns() / 1000000000u);
    char address[128], here[128], flags[8];
    size_t flag = 0;

    nr_print_address(client->connection->fd, true, address, sizeof address);
    nr_print_address(client->connection->fd, false, here, sizeof here);
    if (nr_client_is_subscribed(client))
        flags[flag++] = 'P';
    if (nr_client_in_multi(client))
        flags[flag++] = 'x';
    if (client->tracking & NR_TRACKING)
        flags[flag++] = 't';
    if (flag == 0)
        flags[flag++] = 'N';
    flags[flag] = 0;
    return snprintf(
        text, room,
        "id=%llu addr=%s laddr=%s fd=%d name=%s age=%u idle=%u flags=%s db=%u sub=%u psub=%u ssub=0 "
        "multi=%d qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 obl=0 oll=0 omem=%zu tot-mem=%zu events=r "
        "cmd=%s user=default redir=%lld resp=%u lib-name=%s lib-ver=%s\n",
        (unsigned long long)client->id, address, here, client->connection->fd, text_of(extra->name),
        now_s - client->born_s, now_s - client->active_s, flags, client->database, extra->channel_count,
        extra->pattern_count, nr_client_in_multi(client) ? (int)client->transaction->count : -1,
        nr_connection_queued_bytes(client->connection), nr_connection_queued_bytes(client->connection),
        client->last ? client->last->name : "NULL",
        client->tracking & NR_TRACKING ? (long long)extra->redirect : -1LL, client->resp,
        text_of(extra->library), text_of(extra->library_version));
}

static void client_id(struct call *call)
{
    nr_reply_integer(call->reply, (int64_t)call->client->id);
}

static void client_info(struct call *call)
{
    char text[1024];
    int size = print_client(call->client, text, sizeof text);

    nr_reply_verbatim(call->reply, text, size < (int)sizeof text ? (size_t)size : sizeof text - 1);
}

/* Of this process: each knows its own. */
static void client_list(struct call *call)
{
    struct nr_reply lines = {.version = 2};
    char text[1024];

    for (const struct client *client = call->server->clients; client; client = client->next) {
        int size;

        if (client->connection->phase != NR_CONNECTED)
            continue;
        size = print_client(client, text, sizeof text);
        nr_reply_raw(&lines, text, size < (int)sizeof text ? (size_t)size : sizeof text - 1);
    }
    nr_reply_verbatim(call->reply, (const char *)lines.bytes, lines.size);
    nr_reply_free(&lines);
}

static void client_setname(struct call *call)
{
    if (set_name(call, call->arguments[2]))
        nr_reply_ok(call->reply);
}

static void client_getname(struct call *call)
{
    const struct client_extra *extra = call->client->extra;

    if (extra && extra->name.size)
        nr_reply_bulk(call->reply, extra->name.bytes, extra->name.size);
    else
        nr_reply_null(call->reply);
}

static void client_setinfo(struct call *call)
{
    struct client_extra *extra = nr_client_extra(call->client);
    bool is_name = nr_bytes_are(call->arguments[2], "lib-name");

    if (!is_name && !nr_bytes_are(call->arguments[2], "lib-ver"))
        nr_reply_error(call->reply, "ERR Unrecognized option '%.*s'", (int)call->arguments[2].size,
                       (const char *)call->arguments[2].bytes);
    else if (!is_printable(call->arguments[3]))
        nr_reply_error(call->reply, "ERR %s cannot contain spaces, newlines or special characters.",
                       is_name ? "lib-name" : "lib-ver");
    else if (!extra ||
             !keep_text(is_name ? &extra->library : &extra->library_version, call->arguments[3]))
        nr_server_fail(call, -ENOMEM, NULL);
    else
        nr_reply_ok(call->reply);
}

static bool set_switch(struct call *call, bool *into)
{
    if (nr_bytes_are(call->arguments[2], "on"))
        *into = true;
    else if (nr_bytes_are(call->arguments[2], "off"))
        *into = false;
    else {
        nr_fail_syntax(call);
        return false;
    }
    nr_reply_ok(call->reply);
    return true;
}

static void client_no_evict(struct call *call) { (void)set_switch(call, &call->client->no_evict); }
static void client_no_touch(struct call *call) { (void)set_switch(call, &call->client->no_touch); }

static void client_reply(struct call *call)
{
    struct nr_bytes how = call->arguments[2];

    if (nr_bytes_are(how, "on")) {
        call->client->replies_off = false;
        nr_reply_ok(call->reply);
    } else if (nr_bytes_are(how, "off"))
        call->client->replies_off = true;
    else if (nr_bytes_are(how, "skip"))
        call->client->skip_next = !call->client->replies_off;
    else
        nr_fail_syntax(call);
}

/* A client of another process gets it over the mesh, and may be gone by then. */
static int64_t kill_by_id(struct call *call, uint64_t id)
{
    struct client *client = nr_client_find(call->server, id);
    const struct iovec part = {&id, sizeof id};

    if (client) {
        nr_client_kill(call->server, client);
        return 1;
    }
    if (nr_client_process(id) == call->server->settings.process ||
        nr_client_process(id) >= call->server->settings.processes)
        return 0;
    nr_mesh_send(call->server, nr_client_process(id), NR_MESH_KILL, &part, 1);
    return 1;
}

static int64_t kill_by_address(struct call *call, struct nr_bytes address, bool skip_me)
{
    int64_t killed = 0;
    struct client *next;

    for (struct client *client = call->server->clients; client; client = next) {
        char text[128];

        next = client->next;
        if (client->connection->phase != NR_CONNECTED || (skip_me && client == call->client))
            continue;
        nr_print_address(client->connection->fd, true, text, sizeof text);
        if (strlen(text) != address.size || memcmp(text, address.bytes, address.size) != 0)
            continue;
        nr_client_kill(call->server, client);
        killed++;
    }
    return killed;
}

static void client_kill(struct call *call)
{
    struct nr_bytes address = {NULL, 0};
    bool skip_me = true, has_id = false;
    int64_t id = 0;

    if (call->count == 3) { /* the old form: an address */
        if (kill_by_address(call, call->arguments[2], false))
            nr_reply_ok(call->reply);
        else
            nr_reply_error(call->reply, "ERR No such client");
        return;
    }
    for (uint32_t i = 2; i < call->count; i += 2) {
        bool last = i + 1 == call->count;

        if (!last && nr_bytes_are(call->arguments[i], "id")) {
            has_id = nr_read_integer(call->arguments[i + 1], &id) && id > 0;
            if (!has_id) {
                nr_reply_error(call->reply, "ERR client-id should be greater than 0");
                return;
            }
        } else if (!last && nr_bytes_are(call->arguments[i], "addr"))
            address = call->arguments[i + 1];
        else if (!last && nr_bytes_are(call->arguments[i], "skipme"))
            skip_me = !nr_bytes_are(call->arguments[i + 1], "no");
        else {
            nr_fail_syntax(call);
            return;
        }
    }
    if (has_id && skip_me && (uint64_t)id == call->client->id)
        nr_reply_integer(call->reply, 0);
    else
        nr_reply_integer(call->reply, has_id          ? kill_by_id(call, (uint64_t)id)
                                      : address.bytes ? kill_by_address(call, address, skip_me)
                                                      : 0);
}

static void client_getredir(struct call *call)
{
    const struct client *client = call->client;

    nr_reply_integer(call->reply, client->tracking & NR_TRACKING
                                      ? (int64_t)(client->extra ? client->extra->redirect : 0)
                                      : -1);
}

void nr_run_client(struct call *call)
{
    static const struct nr_command subcommands[] = {
        {.name = "id", .arity = 2, .run = client_id},
        {.name = "info", .arity = 2, .run = client_info},
        {.name = "list", .arity = -2, .run = client_list},
        {.name = "setname", .arity = 3, .run = client_setname},
        {.name = "getname", .arity = 2, .run = client_getname},
        {.name = "setinfo", .arity = 4, .run = client_setinfo},
        {.name = "no-evict", .arity = 3, .run = client_no_evict},
        {.name = "no-touch", .arity = 3, .run = client_no_touch},
        {.name = "reply", .arity = 3, .run = client_reply},
        {.name = "kill", .arity = -3, .run = client_kill},
        {.name = "getredir", .arity = 2, .run = client_getredir},
        {.name = "tracking", .arity = -3, .run = nr_client_tracking},
        {.name = "trackinginfo", .arity = 2, .run = nr_client_trackinginfo},
        {.name = "caching", .arity = 3, .run = nr_client_caching},
    };

    nr_run_subcommand(call, subcommands, sizeof subcommands / sizeof *subcommands);
}
