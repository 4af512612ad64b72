/* The protocol: bytes to commands, commands to replies, and what a process of the server is made of. */
#include <stdio.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "parts.h"

#define SEND_ABOVE_BYTES 65536u
#define KEPT_REPLY_BYTES (1u << 20)
#define CLIENTS_MOST 10000u
#define ARGUMENTS_MOST (1u << 20)
#define LOCK_WAIT_NS 250000000u
#define OUTPUT_LIMIT_BYTES (256u << 20)
#define BLOCKED_NS 1000000000u
#define NAMES_BEHIND_WRONG_COMMAND 128

/* ---- small things ---- */

void nr_server_count(uint64_t *counter)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}

static void add_to_line(_Atomic uint64_t *counter, uint64_t more)
{
    uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);

    atomic_store_explicit(counter, now + more, memory_order_relaxed);
}

int64_t nr_server_unix_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Kept, so that a time that was set is read as it was set; another when somebody set the clock. */
int64_t nr_server_clock_offset(struct nr_cache_server *server)
{
    int64_t now = nr_server_unix_ms() - (int64_t)nr_table_now_ms(server->table);
    int64_t kept = atomic_load(&server->page->clock_offset_ms);

    if (now - kept < -1000 || now - kept > 1000) {
        atomic_store(&server->page->clock_offset_ms, now);
        return now;
    }
    return kept;
}

uint32_t nr_server_random(struct nr_cache_server *server)
{
    uint32_t x = server->random;

    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return server->random = x;
}

uint8_t *nr_server_scratch(struct nr_cache_server *server, size_t size)
{
    if (size > server->scratch_room) {
        uint8_t *scratch = realloc(server->scratch, size * 2);

        if (!scratch)
            return NULL;
        server->scratch = scratch;
        server->scratch_room = size * 2;
    }
    return server->scratch;
}

/* ---- the table's lock, and its errors ---- */

uint64_t nr_server_deadline(struct nr_cache_server *server, const struct nr_key *key)
{
    uint64_t now = nr_os_coarse_now_ns();
    uint64_t blocked = server->blocked_until_ns[nr_table_shard_of(server->table, key)];

    /* Its holder was stopped a moment ago: one look, so that the other clients are served. */
    return blocked > now ? now : now + server->settings.lock_wait_ns;
}

void nr_server_fail(struct call *call, int error, const struct nr_key *key)
{
    struct nr_cache_server *server = call->server;

    switch (error) {
    case -ETIMEDOUT:
        nr_server_count(&server->statistics.lock_timeouts);
        if (key)
            server->blocked_until_ns[nr_table_shard_of(server->table, key)] =
                nr_os_coarse_now_ns() + BLOCKED_NS;
        nr_reply_error(call->reply, "TRYAGAIN a stopped process holds the lock of this key's shard");
        break;
    case -ESTALE:
        nr_reply_error(call->reply, "TRYAGAIN the cache is being resized");
        break;
    case -E2BIG:
        nr_reply_error(call->reply, "OOM value too large: an entry of this cache has %llu bytes at most",
                       (unsigned long long)nr_table_value_most(server->table));
        break;
    case -EINVAL:
        nr_reply_error(call->reply, "ERR key too long: %u bytes at most", NR_TABLE_KEY_MOST);
        break;
    case -ENOMEM:
        nr_reply_error(call->reply, "OOM no memory for this reply");
        break;
    default:
        nr_reply_error(call->reply, "ERR the cache: %s", strerror(-error));
    }
}

/* ---- keys ---- */

struct nr_bytes nr_database_key(struct nr_cache_server *server, uint8_t database, struct nr_bytes key)
{
    bool looks_prefixed = key.size >= 2 && key.bytes[0] == 0xff && key.bytes[1] == 0xfe;

    /* Too long is for the table to say. */
    if ((database == 0 && !looks_prefixed) || key.size > NR_TABLE_KEY_MOST)
        return key;
    server->key_room[0] = 0xff;
    server->key_room[1] = 0xfe;
    server->key_room[2] = database;
    memcpy(server->key_room + 3, key.bytes, key.size);
    return (struct nr_bytes){server->key_room, key.size + 3};
}

bool nr_database_owns(uint8_t database, struct nr_bytes *key)
{
    bool prefixed = key->size >= 3 && key->bytes[0] == 0xff && key->bytes[1] == 0xfe;

    if (!prefixed)
        return database == 0;
    if (key->bytes[2] != database)
        return false;
    key->bytes += 3;
    key->size -= 3;
    return true;
}

struct nr_key nr_call_key(struct call *call, uint32_t index)
{
    struct nr_bytes key =
        nr_database_key(call->server, call->client->database, call->arguments[index]);

    return nr_table_key(call->server->table, key.bytes, key.size);
}

struct nr_key *nr_call_keys(struct call *call, uint32_t first, uint32_t step, uint32_t count)
{
    struct nr_cache_server *server = call->server;
    size_t size = 0;
    uint8_t *at;

    if (count > server->key_count_room) {
        struct nr_key *keys = realloc(server->keys, count * sizeof *keys);

        if (keys) {
            server->keys = keys;
            server->key_count_room = count;
        }
    }
    for (uint32_t i = 0; i < count; i++)
        size += call->arguments[first + i * step].size + 3;
    at = nr_server_scratch(server, size);
    if (!at || count > server->key_count_room) {
        nr_server_fail(call, -ENOMEM, NULL);
        return NULL;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct nr_bytes key = nr_database_key(server, call->client->database,
                                              call->arguments[first + i * step]);

        if (key.bytes == server->key_room) {
            memcpy(at, key.bytes, key.size);
            key.bytes = at;
            at += key.size;
        }
        server->keys[i] = nr_table_key(server->table, key.bytes, key.size);
    }
    return server->keys;
}

void nr_call_changed(struct call *call, const struct nr_key *key)
{
    if (nr_tracking_wanted(call->server))
        nr_tracking_changed(call->server, (struct nr_bytes){key->bytes, key->size});
}

void nr_call_read(struct call *call, const struct nr_key *key, const struct nr_entry *entry)
{
    if (call->client->tracking & NR_TRACKING)
        nr_tracking_note(call->server, call->client, (struct nr_bytes){key->bytes, key->size},
                         entry ? entry->expires_ms : 0);
}

/* ---- refusals in Redis' words ---- */

void nr_fail_arity(struct call *call)
{
    nr_reply_error(call->reply, "ERR wrong number of arguments for '%s' command", call->command->name);
}

void nr_fail_syntax(struct call *call) { nr_reply_error(call->reply, NR_SYNTAX); }

void nr_fail_subcommand(struct call *call)
{
    char upper[32];
    size_t i;

    for (i = 0; call->command->name[i] && i + 1 < sizeof upper; i++)
        upper[i] = (char)(call->command->name[i] & ~0x20);
    upper[i] = 0;
    nr_reply_error(call->reply, "ERR unknown subcommand '%.*s'. Try %s HELP.",
                   (int)(call->arguments[1].size < 128 ? call->arguments[1].size : 128),
                   (const char *)call->arguments[1].bytes, upper);
}

static bool fits_arity(const struct nr_command *command, uint32_t count)
{
    return command->arity < 0 ? count >= (uint32_t)-command->arity : count == (uint32_t)command->arity;
}

void nr_run_subcommand(struct call *call, const struct nr_command *subcommands, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!nr_bytes_are(call->arguments[1], subcommands[i].name))
            continue;
        if (fits_arity(&subcommands[i], call->count)) {
            if (!call->probing)
                subcommands[i].run(call);
        } else
            nr_reply_error(call->reply, "ERR wrong number of arguments for '%s|%s' command",
                           call->command->name, subcommands[i].name);
        return;
    }
    nr_fail_subcommand(call);
}

static void fail_unknown(struct call *call)
{
    char text[NAMES_BEHIND_WRONG_COMMAND * 2 + 8];
    size_t size = 0;
    struct nr_bytes name = call->arguments[0];

    text[0] = 0;
    for (uint32_t i = 1; i < call->count && size < NAMES_BEHIND_WRONG_COMMAND; i++) {
        size_t room = NAMES_BEHIND_WRONG_COMMAND - size;
        struct nr_bytes word = call->arguments[i];

        size += (size_t)snprintf(text + size, sizeof text - size, "'%.*s' ",
                                 (int)(word.size < room ? word.size : room), (const char *)word.bytes);
        if (size >= sizeof text)
            break;
    }
    nr_reply_error(call->reply, "ERR unknown command '%.*s', with args beginning with: %s",
                   (int)(name.size < 128 ? name.size : 128), (const char *)name.bytes, text);
}

/* ---- one command ---- */

/* HTTP on this port: a web page that makes a browser send commands gets no answer (as Redis does). */
static bool is_stranger(struct nr_bytes name)
{
    return nr_bytes_are(name, "post") || nr_bytes_are(name, "host:");
}

/* As Redis: a wrong subcommand is not queued. */
static bool may_be_queued(const struct call *call)
{
    size_t before = call->reply->size;
    struct call probe = *call;

    if (!(call->command->flags & NR_CONTAINER))
        return true;
    probe.probing = true;
    call->command->run(&probe);
    return call->reply->size == before;
}

/* False: it was refused, with a reply. */
static bool is_allowed(struct call *call)
{
    const struct nr_command *command = call->command;
    struct client *client = call->client;

    if (!command)
        fail_unknown(call);
    else if (!fits_arity(command, call->count))
        nr_fail_arity(call);
    else if (!client->admitted && !(command->flags & NR_NO_AUTH))
        nr_reply_error(call->reply, "NOAUTH Authentication required.");
    else if (client->resp == 2 && !(command->flags & NR_SUBSCRIBED) && nr_client_is_subscribed(client))
        nr_reply_error(call->reply,
                       "ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / "
                       "RESET are allowed in this context",
                       command->name);
    else if (nr_client_in_multi(client) && command->flags & NR_NO_MULTI)
        nr_reply_error(call->reply, "ERR Command not allowed inside a transaction");
    else if (!nr_client_in_multi(client) || may_be_queued(call))
        return !call->server->cluster_host || nr_cluster_admits(call);
    return false;
}

void nr_server_run(struct call *call)
{
    struct nr_cache_server *server = call->server;

    call->command->run(call);
    if (server->changed_bytes || server->changed_everything)
        nr_tracking_flush(server, call->client);
}

static void handle(struct call *call)
{
    struct client *client = call->client;
    size_t before = call->reply->size;
    bool skipped = client->skip_next, was_off = client->replies_off;

    client->skip_next = false;
    call->command = nr_command_find(call->server, call->arguments[0]);
    if (!is_allowed(call))
        nr_transaction_refuse(client);
    else {
        client->last = call->command;
        if (nr_client_in_multi(client) && !(call->command->flags & NR_NO_QUEUE))
            nr_transaction_queue(call);
        else {
            nr_server_run(call);
            if (client->tracking & NR_TRACKING_CACHING && call->command->run != nr_run_client)
                client->tracking &= (uint8_t)~NR_TRACKING_CACHING;
        }
    }
    if (call->reply->size > before && call->reply->bytes[before] == '-')
        nr_server_count(&call->server->statistics.errors);
    if (skipped || (was_off && client->replies_off)) /* CLIENT REPLY ON is answered */
        call->reply->size = before;
}

/* ---- bytes ---- */

/* What the commands so far have answered goes out. */
static int send_replies(struct nr_cache_server *server, struct nr_connection *c)
{
    struct nr_reply *reply = &server->reply;
    int result = reply->failed ? -ENOBUFS : 0;

    reply->failed = false;
    if (c->phase == NR_CONNECTED && result == 0 && reply->size)
        result = nr_connection_send(c, reply->bytes, reply->size);
    reply->size = 0;
    if (reply->room > KEPT_REPLY_BYTES)
        nr_reply_free(reply);
    return result;
}

static struct nr_resp *new_parser(void)
{
    struct nr_resp *parser = malloc(sizeof *parser);

    if (parser)
        nr_resp_init(parser);
    return parser;
}

static void free_parser(struct nr_resp *parser)
{
    if (parser) {
        nr_resp_free(parser);
        free(parser);
    }
}

static struct nr_resp *parser_for(struct nr_cache_server *server, struct client *client)
{
    if (client->parked)
        return client->parked;
    if (!server->parser)
        server->parser = new_parser();
    if (server->parser)
        nr_resp_reset(server->parser);
    return server->parser;
}

/* It has got a whole command; its memory serves the next one. */
static void unpark(struct nr_cache_server *server, struct client *client)
{
    if (!client->parked)
        return;
    free_parser(server->parser);
    server->parser = client->parked;
    client->parked = NULL;
}

static void park(struct nr_cache_server *server, struct client *client)
{
    if (!client->parked) {
        client->parked = server->parser;
        server->parser = NULL;
    }
}

static bool take_arguments(struct nr_cache_server *server, const struct nr_resp *parser,
                           const uint8_t *bytes)
{
    if (parser->count > server->argument_room) {
        struct nr_bytes *arguments = realloc(server->arguments, parser->count * sizeof *arguments);

        if (!arguments)
            return false;
        server->arguments = arguments;
        server->argument_room = parser->count;
    }
    for (uint32_t i = 0; i < parser->count; i++)
        server->arguments[i] = nr_resp_argument(parser, bytes, i);
    return true;
}

static int run_parsed(struct nr_cache_server *server, struct nr_connection *c,
                      const struct nr_resp *parser, const uint8_t *bytes)
{
    struct call call = {.server = server, .connection = c, .client = nr_client_of(c),
                        .reply = &server->reply};

    if (!take_arguments(server, parser, bytes))
        return -ENOMEM;
    if (is_stranger(server->arguments[0])) {
        nr_server_count(&server->statistics.strangers);
        return -EPROTO;
    }
    call.arguments = server->arguments;
    call.count = parser->count;
    nr_server_count(&server->statistics.commands);
    handle(&call);
    return 0;
}

/* One command, or what there is of it: how many bytes it took, 0: it is not whole, -errno. */
static ssize_t see_command(struct nr_cache_server *server, struct nr_connection *c, const uint8_t *bytes,
                           size_t size)
{
    struct client *client = nr_client_of(c);
    const struct nr_resp_limits limits = {.arguments_most = ARGUMENTS_MOST,
                                          .bulk_bytes_most = server->settings.value_bytes_most,
                                          .stranger = !client->admitted};
    struct nr_resp *parser = parser_for(server, client);
    int result;

    if (!parser)
        return -ENOMEM;
    switch (nr_resp_parse(parser, &limits, bytes, size)) {
    case NR_RESP_PARTIAL:
        park(server, client);
        return 0;
    case NR_RESP_NOTHING:
        break;
    case NR_RESP_WRONG:
        nr_server_count(&server->statistics.protocol_errors);
        nr_reply_error(&server->reply, "ERR %s", parser->error);
        client->ending = true;
        break;
    case NR_RESP_NO_MEMORY:
        return -ENOMEM;
    case NR_RESP_COMMAND:
        result = run_parsed(server, c, parser, bytes);
        if (result < 0 || c->phase != NR_CONNECTED)
            return result < 0 ? result : (ssize_t)size;
    }
    unpark(server, client);
    return (ssize_t)server->parser->position;
}

/* For INFO, which adds up all processes. */
static void show_counters(struct nr_cache_server *server)
{
    const struct nr_cache_server_statistics *own = &server->statistics;

    atomic_store_explicit(&server->line->commands, own->commands, memory_order_relaxed);
    atomic_store_explicit(&server->line->hits, own->hits, memory_order_relaxed);
    atomic_store_explicit(&server->line->misses, own->misses, memory_order_relaxed);
}

static ssize_t on_bytes(struct nr_connection *c, const uint8_t *bytes, size_t size)
{
    struct nr_cache_server *server = nr_server_of(c);
    struct client *client = nr_client_of(c);
    size_t used = 0;
    ssize_t took = 1;
    int result = 0;

    server->busy = c;
    server->reply.version = client->resp;
    client->active_s = (uint32_t)(nr_os_coarse_now_ns() / 1000000000u);
    while (used < size && took > 0 && result == 0 && c->phase == NR_CONNECTED && !client->ending &&
           !c->choked) {
        took = see_command(server, c, bytes + used, size - used);
        if (took > 0)
            used += (size_t)took;
        if (server->reply.size > SEND_ABOVE_BYTES)
            result = send_replies(server, c);
    }
    /* Cut for what it did: without an answer to that, but with those before. */
    if (result == 0)
        result = send_replies(server, c);
    server->busy = NULL;
    show_counters(server);
    if (took < 0 || result < 0)
        return took < 0 ? took : result;
    if (client->ending && c->phase == NR_CONNECTED)
        nr_connection_close(c);
    return (ssize_t)(used < size ? used : size);
}

/* The queue is short again: what stayed behind may run. */
static int on_writable(struct nr_connection *c) { return nr_connection_show_again(c); }

/* ---- clients ---- */

/* connection's generation | ours (8 bits) | its place (20) | process (6) */
uint64_t nr_client_id(const struct nr_cache_server *server, const struct nr_connection *c)
{
    return (uint64_t)(c->generation & 0x1fffffffu) << 34 | (uint64_t)server->generation << 26 |
           (uint64_t)(c->place & 0xfffffu) << 6 | server->settings.process;
}

uint32_t nr_client_process(uint64_t id) { return (uint32_t)id & 63u; }

struct client *nr_client_find(struct nr_cache_server *server, uint64_t id)
{
    struct nr_connection *c;

    if (nr_client_process(id) != server->settings.process || !server->service)
        return NULL;
    c = nr_service_find(server->service, id >> 34 << 32 | (id >> 6 & 0xfffffu));
    return c && c->phase == NR_CONNECTED && nr_client_of(c)->id == id ? nr_client_of(c) : NULL;
}

struct client_extra *nr_client_extra(struct client *client)
{
    if (!client->extra)
        client->extra = calloc(1, sizeof *client->extra);
    return client->extra;
}

void nr_client_send(struct nr_cache_server *server, struct client *client, const struct nr_reply *reply)
{
    if (reply->failed)
        nr_connection_cut(client->connection, -ENOMEM);
    else if (client->connection == server->busy)
        nr_reply_raw(&server->reply, reply->bytes, reply->size);
    else
        (void)nr_connection_send(client->connection, reply->bytes, reply->size);
}

void nr_client_kill(struct nr_cache_server *server, struct client *client)
{
    if (client->connection == server->busy)
        client->ending = true; /* behind its answer */
    else
        nr_connection_cut(client->connection, -ECANCELED);
}

static int refuse(struct nr_cache_server *server, struct nr_connection *c)
{
    static const char text[] = "-ERR max number of clients reached\r\n";

    nr_server_count(&server->statistics.refused_clients);
    if (nr_connection_send(c, text, sizeof text - 1) == 0)
        nr_connection_close(c);
    return 0;
}

static int on_open(struct nr_connection *c)
{
    struct nr_cache_server *server = nr_server_of(c);
    struct client *client = nr_client_of(c);

    client->connection = c;
    client->id = nr_client_id(server, c);
    client->resp = 2;
    client->admitted = !server->password;
    client->born_s = client->active_s = (uint32_t)(nr_os_coarse_now_ns() / 1000000000u);
    client->next = server->clients;
    if (server->clients)
        server->clients->previous = client;
    server->clients = client;
    if (atomic_fetch_add(&server->page->clients, 1) >= server->settings.clients_most) {
        atomic_fetch_sub(&server->page->clients, 1);
        return refuse(server, c);
    }
    client->counted = true;
    add_to_line(&server->line->clients, 1);
    add_to_line(&server->line->connections, 1);
    return 0;
}

static void free_extra(struct client_extra *extra)
{
    if (!extra)
        return;
    free((void *)extra->name.bytes);
    free((void *)extra->library.bytes);
    free((void *)extra->library_version.bytes);
    free(extra->channels);
    free(extra->patterns);
    free(extra->prefixes);
    free(extra);
}

static void on_close(struct nr_connection *c, int reason)
{
    struct nr_cache_server *server = nr_server_of(c);
    struct client *client = nr_client_of(c);

    (void)reason;
    nr_subscriptions_end(server, client);
    nr_tracking_end(server, client);
    nr_transaction_free(client);
    free_parser(client->parked);
    free_extra(client->extra);
    if (client->previous)
        client->previous->next = client->next;
    else if (server->clients == client)
        server->clients = client->next;
    if (client->next)
        client->next->previous = client->previous;
    if (client->counted) {
        atomic_fetch_sub(&server->page->clients, 1);
        add_to_line(&server->line->clients, (uint64_t)-1);
    }
}

/* ---- the life of a server ---- */

static int on_create(struct nr_service *service)
{
    struct nr_cache_server *server = nr_service_context(service);

    int result;

    server->service = service;
    result = nr_mesh_open(server);
    if (result < 0)
        server->service = NULL;
    return result;
}

static void on_destroy(struct nr_service *service)
{
    nr_cache_server_destroy(nr_service_context(service));
}

/* Names of the commands: a hash of their letters, without case. */
static uint32_t bucket_of(struct nr_bytes name)
{
    uint32_t hash = 2166136261u;

    for (size_t i = 0; i < name.size; i++)
        hash = (hash ^ (name.bytes[i] | 0x20u)) * 16777619u;
    return (hash ^ hash >> 15) % NR_COMMAND_BUCKETS;
}

const struct nr_command *nr_command_find(const struct nr_cache_server *server, struct nr_bytes name)
{
    uint32_t bucket = bucket_of(name);

    for (; server->command_buckets[bucket]; bucket = (bucket + 1) % NR_COMMAND_BUCKETS) {
        const struct nr_command *command = &nr_commands[server->command_buckets[bucket] - 1];

        if (nr_bytes_are(name, command->name))
            return command;
    }
    return NULL;
}

static void index_commands(struct nr_cache_server *server)
{
    for (size_t i = 0; i < nr_command_count; i++) {
        const char *name = nr_commands[i].name;
        uint32_t bucket = bucket_of((struct nr_bytes){(const uint8_t *)name, strlen(name)});

        while (server->command_buckets[bucket])
            bucket = (bucket + 1) % NR_COMMAND_BUCKETS;
        server->command_buckets[bucket] = (uint16_t)(i + 1);
    }
}

static char *copy_text(const char *text) { return text ? strdup(text) : NULL; }

static void set_defaults(struct nr_cache_server_settings *settings)
{
    uint64_t most = nr_table_value_most(settings->table);

    if (!settings->clients_most)
        settings->clients_most = CLIENTS_MOST;
    if (!settings->lock_wait_ns)
        settings->lock_wait_ns = LOCK_WAIT_NS;
    if (!settings->output_limit_bytes)
        settings->output_limit_bytes = OUTPUT_LIMIT_BYTES;
    if (!settings->value_bytes_most)
        settings->value_bytes_most = most > (1u << 20) ? most : 1u << 20;
    if (settings->value_bytes_most > 512u << 20)
        settings->value_bytes_most = 512u << 20;
}

/* A node's name in a cluster: the same in every process, and after a restart of one. */
static void name_nodes(struct nr_cache_server *server)
{
    struct nr_table_settings table;
    char text[64];

    nr_table_read_settings(server->table, &table);
    for (uint32_t i = 0; i < server->settings.processes; i++) {
        int size = snprintf(text, sizeof text, "%llx %u", (unsigned long long)table.seed[0], i);

        nr_sha1_hex(text, (size_t)size, server->node_ids[i]);
    }
}

/* What there is of each shard. */
static int allocate_for(struct nr_cache_server *server, const struct nr_table *table)
{
    struct nr_table_settings settings;
    uint64_t *shard_mask, *lock_mask, *blocked;

    nr_table_read_settings(table, &settings);
    shard_mask = calloc((settings.shards + 63) / 64, sizeof *shard_mask);
    lock_mask = calloc((settings.shards + 63) / 64, sizeof *lock_mask);
    blocked = calloc(settings.shards, sizeof *blocked);
    if (!shard_mask || !lock_mask || !blocked) {
        free(shard_mask);
        free(lock_mask);
        free(blocked);
        return -ENOMEM;
    }
    free(server->shard_mask);
    free(server->lock_mask);
    free(server->blocked_until_ns);
    server->shard_mask = shard_mask;
    server->lock_mask = lock_mask;
    server->blocked_until_ns = blocked;
    server->shards = settings.shards;
    return 0;
}

/* Takes the place of one that may have been killed: its clients are gone. */
static int open_page(struct nr_cache_server *server)
{
    void *mapped;
    int result = nr_os_map(NULL, NR_SERVER_PAGE_BYTES, server->settings.page, 0, &mapped);

    if (result < 0)
        return result;
    server->page = mapped;
    server->line = &server->page->lines[server->settings.process];
    atomic_fetch_sub(&server->page->clients, atomic_exchange(&server->line->clients, 0));
    atomic_fetch_and(&server->page->trackers, ~(UINT64_C(1) << server->settings.process));
    server->generation = (uint32_t)atomic_fetch_add(&server->line->generation, 1) & 0xffu;
    return 0;
}

int nr_cache_server_create(const struct nr_cache_server_settings *settings,
                           struct nr_cache_server **created)
{
    struct nr_cache_server *server;
    int result;

    if (!settings->processes || settings->processes > NR_SERVERS_MOST ||
        settings->process >= settings->processes)
        return -EINVAL;
    server = calloc(1, sizeof *server);
    if (!server)
        return -ENOMEM;
    server->settings = *settings;
    set_defaults(&server->settings);
    server->table = settings->table;
    server->password = copy_text(settings->password);
    server->name = copy_text(settings->name);
    server->cluster_host = copy_text(settings->cluster_host);
    if (settings->cluster_ports)
        memcpy(server->cluster_ports, settings->cluster_ports, settings->processes * sizeof(uint16_t));
    for (uint32_t i = 0; i < NR_SERVERS_MOST; i++)
        server->outboxes[i].fd =
            i < settings->processes && settings->inbox >= 0 ? settings->outboxes[i] : -1;
    server->reply.most = server->settings.output_limit_bytes;
    server->started_ms = nr_server_unix_ms();
    server->random = (uint32_t)(nr_os_now_ns() ^ (uint64_t)getpid() << 16) | 1u;
    index_commands(server);
    name_nodes(server);
    server->key_room = malloc(NR_TABLE_KEY_MOST + 8u);
    result = server->key_room ? allocate_for(server, server->table) : -ENOMEM;
    if (result == 0)
        result = open_page(server);
    if (result < 0) {
        server->table = NULL; /* the caller's still; and so are the descriptors */
        server->settings.inbox = -1;
        for (uint32_t i = 0; i < NR_SERVERS_MOST; i++)
            server->outboxes[i].fd = -1;
        nr_cache_server_destroy(server);
        return result;
    }
    *created = server;
    return 0;
}

void nr_cache_server_destroy(struct nr_cache_server *server)
{
    if (!server)
        return;
    nr_mesh_close(server);
    if (server->page)
        (void)nr_os_unmap(server->page, NR_SERVER_PAGE_BYTES);
    nr_topics_free(&server->channels);
    nr_topics_free(&server->patterns);
    nr_topics_free(&server->tracked);
    nr_topics_free(&server->prefixes);
    while (server->scripts) {
        struct script_alias *alias = server->scripts;

        server->scripts = alias->next;
        free(alias);
    }
    nr_reply_free(&server->reply);
    nr_reply_free(&server->pushes[0]);
    nr_reply_free(&server->pushes[1]);
    free_parser(server->parser);
    free(server->arguments);
    free(server->key_room);
    free(server->scratch);
    free(server->keys);
    free(server->shard_mask);
    free(server->lock_mask);
    free(server->blocked_until_ns);
    free(server->changed);
    free(server->password);
    free(server->name);
    free(server->cluster_host);
    nr_table_close(server->table);
    free(server);
}

uint64_t nr_cache_server_successor(const struct nr_cache_server *server)
{
    return nr_table_successor(server->table);
}

int nr_cache_server_change_table(struct nr_cache_server *server, struct nr_table *table)
{
    int result = allocate_for(server, table);

    if (result < 0)
        return result;
    nr_table_close(server->table);
    server->table = table;
    return 0;
}

void nr_cache_server_read_statistics(const struct nr_cache_server *server,
                                     struct nr_cache_server_statistics *copy)
{
    const uint64_t *from = (const uint64_t *)&server->statistics;
    uint64_t *to = (uint64_t *)copy;

    for (size_t i = 0; i < sizeof *copy / sizeof *to; i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

const struct nr_protocol_ops nr_protocol_cache = {
    .name = "cache",
    .state_bytes = sizeof(struct client),
    .on_create = on_create,
    .on_open = on_open,
    .on_bytes = on_bytes,
    .on_writable = on_writable,
    .on_close = on_close,
    .on_destroy = on_destroy,
};
