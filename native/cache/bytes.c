/* Bytes to commands, commands to replies. */
#include "parts.h"

#define SEND_ABOVE_BYTES 65536u
#define KEPT_REPLY_BYTES (1u << 20)
#define ARGUMENTS_MOST (1u << 20)
#define FETCHED_AHEAD 16u

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

void nr_parser_free(struct nr_resp *parser)
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
    nr_parser_free(server->parser);
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

/* HTTP on this port: a web page that makes a browser send commands gets no answer (as Redis does). */
static bool is_stranger(struct nr_bytes name)
{
    return nr_bytes_are(name, "post") || nr_bytes_are(name, "host:");
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
        nr_client_refused(server, c, NR_REFUSED_HTTP);
        return -EPROTO;
    }
    call.arguments = server->arguments;
    call.count = parser->count;
    nr_server_handle(&call);
    if (server->retry != NR_RETRY_LATER)
        nr_server_count(&server->statistics.commands);
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
        nr_client_refused(server, c, NR_REFUSED_BYTES);
        nr_reply_error(&server->reply, "ERR %s", parser->error);
        client->ending = true;
        break;
    case NR_RESP_NO_MEMORY:
        return -ENOMEM;
    case NR_RESP_COMMAND:
        result = run_parsed(server, c, parser, bytes);
        if (result < 0 || c->phase != NR_CONNECTED)
            return result < 0 ? result : (ssize_t)size;
        if (server->retry == NR_RETRY_LATER) {
            nr_resp_reset(parser); /* parked or not: it begins at the same byte again */
            nr_client_hold(server, client);
            return 0;
        }
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

/* What the next commands will look for is on its way from memory before the first of them runs: their misses
 * then are one wait, not one each. Returns how far it saw. */
static size_t fetch_ahead(const struct nr_cache_server *server, const struct client *client,
                          const uint8_t *bytes, size_t size)
{
    struct nr_bytes names[FETCHED_AHEAD];
    struct nr_key keys[FETCHED_AHEAD];
    size_t end;
    uint32_t count;

    if (client->database != 0) /* its keys are others */
        return size;
    count = nr_resp_glance(bytes, size, names, FETCHED_AHEAD, &end);
    if (count < 2)
        return size;
    for (uint32_t i = 0; i < count; i++)
        keys[i] = nr_table_key(server->table, names[i].bytes, names[i].size);
    nr_table_prefetch(server->table, keys, count);
    return end;
}

ssize_t nr_client_bytes(struct nr_connection *c, const uint8_t *bytes, size_t size)
{
    struct nr_cache_server *server = nr_server_of(c);
    struct client *client = nr_client_of(c);
    size_t used = 0, fetched = 0;
    ssize_t took = 1;
    int result = 0;

    if (client->held)
        return 0;
    server->busy = c;
    server->reply.version = client->resp;
    client->active_s = (uint32_t)(nr_os_coarse_now_ns() / 1000000000u);
    while (used < size && took > 0 && result == 0 && c->phase == NR_CONNECTED && !client->ending &&
           !c->choked) {
        if (used >= fetched)
            fetched = used + fetch_ahead(server, client, bytes + used, size - used);
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
int nr_client_writable(struct nr_connection *c) { return nr_connection_show_again(c); }
