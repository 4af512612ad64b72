/* Keys as clients name them, and as the table does: with the number of their database. */
#include "parts.h"

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

int nr_call_look(struct call *call, uint32_t index, struct nr_key *key, struct nr_entry *entry)
{
    *key = nr_call_key(call, index);
    nr_call_read(call, key, NULL);
    return nr_table_look(call->server->table, key, entry);
}
