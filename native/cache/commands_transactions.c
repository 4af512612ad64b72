/* MULTI, EXEC, WATCH: what is queued runs with all its shards locked. */
#include "parts.h"

#define WATCHED_MOST 10000u

static struct nr_table *table_of(const struct call *call) { return call->server->table; }

/* ---- locks ---- */

static void mark_shard(const struct nr_cache_server *server, uint64_t *mask, const struct nr_key *key)
{
    uint32_t shard = nr_table_shard_of(server->table, key);

    mask[shard / 64] |= UINT64_C(1) << shard % 64;
}

static void clear_mask(const struct nr_cache_server *server, uint64_t *mask, uint64_t word)
{
    for (uint32_t i = 0; i < (server->shards + 63) / 64; i++)
        mask[i] = word;
}

static bool lock_mask(struct call *call, const uint64_t *mask)
{
    int result = nr_table_lock_shards(table_of(call), mask,
                                      nr_server_deadline_of_several(call->server));

    if (result < 0)
        nr_server_fail(call, result, NULL);
    return result >= 0;
}

bool nr_call_lock(struct call *call, const struct nr_key *keys, uint32_t count)
{
    struct nr_cache_server *server = call->server;

    if (server->in_exec)
        return true;
    clear_mask(server, server->lock_mask, 0);
    for (uint32_t i = 0; i < count; i++)
        mark_shard(server, server->lock_mask, &keys[i]);
    return lock_mask(call, server->lock_mask);
}

void nr_call_unlock(struct call *call)
{
    if (!call->server->in_exec)
        nr_table_unlock_shards(table_of(call), call->server->lock_mask);
}

/* ---- what a client has queued and watches ---- */

static struct transaction *transaction_of(struct client *client)
{
    if (!client->transaction) {
        client->transaction = calloc(1, sizeof *client->transaction);
        if (client->transaction)
            client->transaction->last = &client->transaction->first;
    }
    return client->transaction;
}

static void forget_queue(struct transaction *transaction)
{
    while (transaction->first) {
        struct queued *queued = transaction->first;

        transaction->first = queued->next;
        free(queued);
    }
    transaction->last = &transaction->first;
    transaction->count = 0;
    transaction->bytes = 0;
    transaction->begun = transaction->failed = false;
}

static void forget_watched(struct transaction *transaction)
{
    while (transaction->watched) {
        struct watched *watched = transaction->watched;

        transaction->watched = watched->next;
        free(watched);
    }
    transaction->watched_count = 0;
    transaction->outdated = false;
}

void nr_transaction_free(struct client *client)
{
    if (!client->transaction)
        return;
    forget_queue(client->transaction);
    forget_watched(client->transaction);
    free(client->transaction);
    client->transaction = NULL;
}

void nr_transaction_refuse(struct client *client)
{
    if (nr_client_in_multi(client))
        client->transaction->failed = true;
}

void nr_transaction_queue(struct call *call)
{
    struct transaction *transaction = call->client->transaction;
    size_t size = sizeof(struct queued) + call->count * sizeof(struct nr_bytes);
    struct queued *queued;
    uint8_t *at;

    for (uint32_t i = 0; i < call->count; i++)
        size += call->arguments[i].size;
    transaction->bytes += size;
    queued = transaction->bytes > call->server->settings.output_limit_bytes ? NULL : malloc(size);
    if (!queued) {
        transaction->failed = true;
        nr_server_fail(call, -ENOMEM, NULL);
        return;
    }
    queued->next = NULL;
    queued->command = call->command;
    queued->count = call->count;
    at = (uint8_t *)&queued->arguments[call->count];
    for (uint32_t i = 0; i < call->count; i++) {
        queued->arguments[i] = (struct nr_bytes){at, call->arguments[i].size};
        memcpy(at, call->arguments[i].bytes, call->arguments[i].size);
        at += call->arguments[i].size;
    }
    *transaction->last = queued;
    transaction->last = &queued->next;
    transaction->count++;
    nr_reply_raw(call->reply, "+QUEUED\r\n", 9);
}

/* ---- the commands ---- */

void nr_run_multi(struct call *call)
{
    struct transaction *transaction = transaction_of(call->client);

    if (!transaction)
        nr_server_fail(call, -ENOMEM, NULL);
    else if (transaction->begun)
        nr_reply_error(call->reply, "ERR MULTI calls can not be nested");
    else {
        transaction->begun = true;
        nr_reply_ok(call->reply);
    }
}

void nr_run_discard(struct call *call)
{
    if (!nr_client_in_multi(call->client)) {
        nr_reply_error(call->reply, "ERR DISCARD without MULTI");
        return;
    }
    nr_transaction_free(call->client);
    nr_reply_ok(call->reply);
}

/* Its version, 0: it is not there. */
static uint64_t look(struct call *call, const struct nr_key *key, int64_t *expires_ms)
{
    struct nr_entry entry;
    bool there = nr_table_look(table_of(call), key, &entry) >= 0;

    *expires_ms = there ? entry.expires_ms : 0;
    return there ? entry.version : 0;
}

void nr_run_watch(struct call *call)
{
    struct transaction *transaction = transaction_of(call->client);

    if (!transaction) {
        nr_server_fail(call, -ENOMEM, NULL);
        return;
    }
    if (transaction->begun) {
        nr_reply_error(call->reply, "ERR WATCH inside MULTI is not allowed");
        return;
    }
    for (uint32_t i = 1; i < call->count; i++) {
        struct nr_key key = nr_call_key(call, i);
        struct watched *watched = malloc(sizeof *watched + key.size);

        if (!watched || ++transaction->watched_count > WATCHED_MOST) {
            free(watched);
            nr_server_fail(call, -ENOMEM, NULL);
            return;
        }
        watched->version = look(call, &key, &watched->expires_ms);
        watched->size = key.size;
        memcpy(watched->key, key.bytes, key.size);
        watched->next = transaction->watched;
        transaction->watched = watched;
    }
    nr_reply_ok(call->reply);
}

void nr_run_unwatch(struct call *call)
{
    /* Within EXEC the keys have been looked at already. */
    if (call->client->transaction && !call->server->in_exec)
        forget_watched(call->client->transaction);
    nr_reply_ok(call->reply);
}

/* The shards of everything that is watched or will be touched. */
static void collect_shards(struct call *call, const struct transaction *transaction)
{
    struct nr_cache_server *server = call->server;

    clear_mask(server, server->shard_mask, 0);
    for (const struct watched *w = transaction->watched; w; w = w->next) {
        struct nr_key key = nr_table_key(server->table, w->key, w->size);

        mark_shard(server, server->shard_mask, &key);
    }
    for (const struct queued *q = transaction->first; q; q = q->next) {
        struct call one = *call;
        uint32_t first = 0, step = 1;
        int64_t keys = nr_command_keys(q->command, q->arguments, q->count, &first, &step);

        /* SELECT within MULTI: its keys cannot be told beforehand. */
        if (q->command->flags & NR_ALL_KEYS || q->command->run == nr_run_select)
            clear_mask(server, server->shard_mask, UINT64_MAX);
        one.arguments = q->arguments;
        one.count = q->count;
        for (int64_t i = 0; i < keys; i++) {
            struct nr_key key = nr_call_key(&one, first + (uint32_t)i * step);

            mark_shard(server, server->shard_mask, &key);
        }
    }
    if (server->shards % 64)
        server->shard_mask[server->shards / 64] &= (UINT64_C(1) << server->shards % 64) - 1;
}

void nr_transactions_outdate(struct nr_cache_server *server)
{
    for (struct client *client = server->clients; client; client = client->next)
        if (client->transaction && client->transaction->watched)
            client->transaction->outdated = true;
}

static bool is_unchanged(struct call *call, const struct transaction *transaction)
{
    if (transaction->outdated)
        return false; /* versions are counted by table: the same number may be another value's */
    for (const struct watched *w = transaction->watched; w; w = w->next) {
        struct nr_key key = nr_table_key(table_of(call), w->key, w->size);
        int64_t expires_ms;

        if (look(call, &key, &expires_ms) != w->version || expires_ms != w->expires_ms)
            return false;
    }
    return true;
}

static void run_queue(struct call *call, const struct transaction *transaction)
{
    nr_reply_array(call->reply, transaction->count);
    for (const struct queued *q = transaction->first; q; q = q->next) {
        struct call one = *call;

        one.command = q->command;
        one.arguments = q->arguments;
        one.count = q->count;
        q->command->run(&one);
    }
}

void nr_run_exec(struct call *call)
{
    struct nr_cache_server *server = call->server;
    struct transaction *transaction = call->client->transaction;

    if (!nr_client_in_multi(call->client)) {
        nr_reply_error(call->reply, "ERR EXEC without MULTI");
        return;
    }
    if (transaction->failed)
        nr_reply_error(call->reply, "EXECABORT Transaction discarded because of previous errors.");
    else {
        collect_shards(call, transaction);
        if (lock_mask(call, server->shard_mask)) {
            call->client->transaction = NULL; /* within it there is none */
            transaction->begun = false;
            server->in_exec = true;
            if (is_unchanged(call, transaction))
                run_queue(call, transaction);
            else
                nr_reply_null_array(call->reply);
            server->in_exec = false;
            nr_table_unlock_shards(server->table, server->shard_mask);
        } else if (server->retry != NR_RETRY_NOT)
            return; /* EXEC will come again */
    }
    call->client->transaction = NULL;
    forget_queue(transaction);
    forget_watched(transaction);
    free(transaction);
}
