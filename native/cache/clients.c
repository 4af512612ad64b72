/* Clients: from their first byte to their last, and how the others find them. */
#include "parts.h"

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
    nr_client_refused(server, c, NR_REFUSED_LIMIT);
    if (nr_connection_send(c, text, sizeof text - 1) == 0)
        nr_connection_close(c);
    return 0;
}

int nr_client_open(struct nr_connection *c)
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
    nr_line_add(&server->line->clients, 1);
    nr_line_add(&server->line->connections, 1);
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

void nr_client_close(struct nr_connection *c, int reason)
{
    struct nr_cache_server *server = nr_server_of(c);
    struct client *client = nr_client_of(c);

    (void)reason;
    server->held_clients -= client->held;
    nr_subscriptions_end(server, client);
    nr_tracking_end(server, client);
    nr_transaction_free(client);
    nr_parser_free(client->parked);
    free_extra(client->extra);
    if (client->previous)
        client->previous->next = client->next;
    else if (server->clients == client)
        server->clients = client->next;
    if (client->next)
        client->next->previous = client->previous;
    if (client->counted) {
        atomic_fetch_sub(&server->page->clients, 1);
        nr_line_add(&server->line->clients, (uint64_t)-1);
    }
}
