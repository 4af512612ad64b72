/* The processes as the nodes of a Redis Cluster: each answers for its share of the 16,384 slots, at its own
 * port. All of them see the same data: what a client is redirected for is the division of the work. */
#include <stdio.h>

#include "parts.h"

uint32_t nr_slot_owner(const struct nr_cache_server *server, uint32_t slot)
{
    return slot * server->settings.processes / NR_SLOTS;
}

static uint32_t first_slot(const struct nr_cache_server *server, uint32_t process)
{
    uint32_t processes = server->settings.processes;

    return (process * NR_SLOTS + processes - 1) / processes;
}

static uint32_t last_slot(const struct nr_cache_server *server, uint32_t process)
{
    return first_slot(server, process + 1) - 1;
}

bool nr_cluster_admits(struct call *call)
{
    const struct nr_cache_server *server = call->server;
    uint32_t first = 0, step = 1, slot, owner;
    int64_t keys = nr_command_keys(call->command, call->arguments, call->count, &first, &step);

    if (keys <= 0)
        return true;
    slot = nr_slot_of(call->arguments[first]);
    for (int64_t i = 1; i < keys; i++)
        if (nr_slot_of(call->arguments[first + (uint32_t)i * step]) != slot) {
            nr_reply_error(call->reply, "CROSSSLOT Keys in request don't hash to the same slot");
            return false;
        }
    owner = nr_slot_owner(server, slot);
    if (owner == server->settings.process)
        return true;
    nr_reply_error(call->reply, "MOVED %u %s:%u", slot, server->cluster_host,
                   server->cluster_ports[owner]);
    return false;
}

/* ---- what clients ask to find their way ---- */

static void cluster_slots(struct call *call)
{
    const struct nr_cache_server *server = call->server;

    nr_reply_array(call->reply, server->settings.processes);
    for (uint32_t i = 0; i < server->settings.processes; i++) {
        nr_reply_array(call->reply, 3);
        nr_reply_integer(call->reply, first_slot(server, i));
        nr_reply_integer(call->reply, last_slot(server, i));
        nr_reply_array(call->reply, 4);
        nr_reply_string(call->reply, server->cluster_host);
        nr_reply_integer(call->reply, server->cluster_ports[i]);
        nr_reply_string(call->reply, server->node_ids[i]);
        nr_reply_array(call->reply, 0);
    }
}

static void reply_node(struct call *call, uint32_t process)
{
    const struct nr_cache_server *server = call->server;
    struct nr_reply *reply = call->reply;

    nr_reply_map(reply, 7);
    nr_reply_string(reply, "id");
    nr_reply_string(reply, server->node_ids[process]);
    nr_reply_string(reply, "port");
    nr_reply_integer(reply, server->cluster_ports[process]);
    nr_reply_string(reply, "ip");
    nr_reply_string(reply, server->cluster_host);
    nr_reply_string(reply, "endpoint");
    nr_reply_string(reply, server->cluster_host);
    nr_reply_string(reply, "role");
    nr_reply_string(reply, "master");
    nr_reply_string(reply, "replication-offset");
    nr_reply_integer(reply, 0);
    nr_reply_string(reply, "health");
    nr_reply_string(reply, "online");
}

static void cluster_shards(struct call *call)
{
    const struct nr_cache_server *server = call->server;

    nr_reply_array(call->reply, server->settings.processes);
    for (uint32_t i = 0; i < server->settings.processes; i++) {
        nr_reply_map(call->reply, 2);
        nr_reply_string(call->reply, "slots");
        nr_reply_array(call->reply, 2);
        nr_reply_integer(call->reply, first_slot(server, i));
        nr_reply_integer(call->reply, last_slot(server, i));
        nr_reply_string(call->reply, "nodes");
        nr_reply_array(call->reply, 1);
        reply_node(call, i);
    }
}

static void cluster_nodes(struct call *call)
{
    const struct nr_cache_server *server = call->server;
    struct nr_reply lines = {.version = 2};

    for (uint32_t i = 0; i < server->settings.processes; i++) {
        char line[512];
        int size = snprintf(line, sizeof line, "%s %s:%u@%u %smaster - 0 0 %u connected %u-%u\n",
                            server->node_ids[i], server->cluster_host, server->cluster_ports[i],
                            server->cluster_ports[i], i == server->settings.process ? "myself," : "",
                            i + 1, first_slot(server, i), last_slot(server, i));

        nr_reply_raw(&lines, line, size < (int)sizeof line ? (size_t)size : sizeof line - 1);
    }
    nr_reply_verbatim(call->reply, (const char *)lines.bytes, lines.size);
    nr_reply_free(&lines);
}

static void cluster_info(struct call *call)
{
    char text[512];
    uint32_t nodes = call->server->settings.processes;
    int size = snprintf(text, sizeof text,
                        "cluster_enabled:1\r\ncluster_state:ok\r\ncluster_slots_assigned:16384\r\n"
                        "cluster_slots_ok:16384\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\n"
                        "cluster_known_nodes:%u\r\ncluster_size:%u\r\ncluster_current_epoch:%u\r\n"
                        "cluster_my_epoch:%u\r\n",
                        nodes, nodes, nodes, call->server->settings.process + 1);

    nr_reply_verbatim(call->reply, text, (size_t)size);
}

static void cluster_keyslot(struct call *call)
{
    nr_reply_integer(call->reply, nr_slot_of(call->arguments[2]));
}

static void cluster_myid(struct call *call)
{
    nr_reply_string(call->reply, call->server->node_ids[call->server->settings.process]);
}

/* Goes through all keys: slots are not kept. `most` < 0: only the count is the reply. */
static void keys_in_slot(struct call *call, int64_t most)
{
    struct nr_cache_server *server = call->server;
    size_t at = call->reply->size, count = 0;
    uint8_t *room = nr_server_scratch(server, NR_TABLE_KEY_MOST);
    struct nr_entry entry;
    uint32_t size;
    int64_t slot;

    if (!nr_call_integer(call, 2, &slot))
        return;
    if (slot < 0 || slot >= (int64_t)NR_SLOTS || !room) {
        nr_reply_error(call->reply, "ERR Invalid or out of range slot");
        return;
    }
    for (uint32_t shard = 0; shard < server->shards; shard++)
        for (uint64_t cursor = 0;
             nr_table_scan(server->table, shard, &cursor, room, &size, &entry) >= 0;) {
            struct nr_bytes key = {room, size};

            if (!nr_database_owns(0, &key) || nr_slot_of(key) != (uint32_t)slot)
                continue;
            if (most >= 0 && (int64_t)count == most)
                break;
            if (most >= 0)
                nr_reply_bulk(call->reply, key.bytes, key.size);
            count++;
        }
    if (most >= 0)
        nr_reply_array_around(call->reply, at, count);
    else
        nr_reply_integer(call->reply, (int64_t)count);
}

static void cluster_countkeysinslot(struct call *call) { keys_in_slot(call, -1); }

static void cluster_getkeysinslot(struct call *call)
{
    int64_t most;

    if (!nr_call_integer(call, 3, &most))
        return;
    if (most < 0)
        nr_reply_error(call->reply, "ERR Invalid number of keys");
    else
        keys_in_slot(call, most);
}

static void reply_nothing(struct call *call) { nr_reply_array(call->reply, 0); }

void nr_run_cluster(struct call *call)
{
    static const struct nr_command subcommands[] = {
        {.name = "slots", .arity = 2, .run = cluster_slots},
        {.name = "shards", .arity = 2, .run = cluster_shards},
        {.name = "nodes", .arity = 2, .run = cluster_nodes},
        {.name = "info", .arity = 2, .run = cluster_info},
        {.name = "keyslot", .arity = 3, .run = cluster_keyslot},
        {.name = "myid", .arity = 2, .run = cluster_myid},
        {.name = "myshardid", .arity = 2, .run = cluster_myid},
        {.name = "countkeysinslot", .arity = 3, .run = cluster_countkeysinslot},
        {.name = "getkeysinslot", .arity = 4, .run = cluster_getkeysinslot},
        {.name = "replicas", .arity = 3, .run = reply_nothing},
        {.name = "slaves", .arity = 3, .run = reply_nothing},
        {.name = "links", .arity = 2, .run = reply_nothing},
    };

    if (!call->server->cluster_host && !call->probing)
        nr_reply_error(call->reply, "ERR This instance has cluster support disabled");
    else
        nr_run_subcommand(call, subcommands, sizeof subcommands / sizeof *subcommands);
}

void nr_run_readonly(struct call *call)
{
    if (call->server->cluster_host)
        nr_reply_ok(call->reply);
    else
        nr_reply_error(call->reply, "ERR This instance has cluster support disabled");
}
