/* The table as a server meets it: its locks, its errors, and the one that takes its place after a resize.
 *
 * A lock may be held for long: its holder was stopped, or waits for a processor, or copies the whole table.
 * A process that waited would keep all its clients waiting. So it waits for a moment only, as long as another
 * writer needs, and then it is the client that waits: what it sent stays unconsumed, and is looked at again a
 * few milliseconds later. A command must have changed nothing by then, so those of several keys take all their
 * locks first. A command that came upon a table with a successor is run again, on that. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "parts.h"

#define LOCK_AT_ONCE_NS 8000000u    /* that a process waits for one lock, by a clock of 4 ms */
#define LOCKS_AT_ONCE_NS 16000000u  /* and for those of one command */
#define PATIENCE_NS 250000000u      /* for a lock without which the client is refused */
#define LOOK_NS 1000000u            /* and for all that held clients want, each time that it looks at them */
#define SHORT_WAIT_NS 20000000u     /* no sign of a stopped holder yet */
#define BUSY_NS 20000000u           /* so long a lock that was not had is only tried */
#define BLOCKED_NS 1000000000u      /* the same, when a client was refused for it */
#define HELD_MOST_NS 60000000000u /* as long as anybody may hold a client back */
#define LOOK_AT_HELD_NS 4000000u
#define FOLLOW_AGAIN_NS 100000000u
#define GENERATIONS_MOST 16

/* ---- locks ---- */

/* Somebody copies it: one try, and then the client waits, not the process. */
static bool only_tries(struct nr_cache_server *server)
{
    server->only_tried = nr_table_copier(server->table) != 0;
    return server->only_tried;
}

static uint64_t at_most(uint64_t ns, const struct nr_cache_server *server)
{
    return ns < server->settings.lock_wait_ns ? ns : server->settings.lock_wait_ns;
}

uint64_t nr_server_deadline(struct nr_cache_server *server, const struct nr_key *key)
{
    uint64_t now;

    if (only_tries(server))
        return 0;
    if (server->look_until_ns)
        return server->look_until_ns;
    now = nr_os_coarse_now_ns();
    if (server->blocked_until_ns[nr_table_shard_of(server->table, key)] > now)
        return 0;
    return now + at_most(LOCK_AT_ONCE_NS, server);
}

uint64_t nr_server_deadline_of_several(struct nr_cache_server *server)
{
    if (only_tries(server))
        return 0;
    return server->look_until_ns ? server->look_until_ns
                                 : nr_os_now_ns() + at_most(LOCKS_AT_ONCE_NS, server);
}

static uint64_t patient_deadline(struct nr_cache_server *server, uint32_t times)
{
    server->was_patient = true;
    return only_tries(server) ? 0 : nr_os_now_ns() + at_most(PATIENCE_NS, server) * times;
}

uint64_t nr_server_deadline_of_all(struct nr_cache_server *server)
{
    return patient_deadline(server, 1);
}

uint64_t nr_server_patience(struct nr_cache_server *server)
{
    return patient_deadline(server, server->shards);
}

/* ---- clients that wait ---- */

static int look_at_held(struct nr_engine *engine, nr_timer timer, uint64_t missed, void *data)
{
    struct nr_cache_server *server = data;
    uint64_t *ids = malloc(server->held_clients * sizeof *ids + 1);
    uint32_t count = 0;

    (void)missed;
    if (!ids)
        return 0; /* the next time */
    server->look_until_ns = nr_os_now_ns() + LOOK_NS;
    for (const struct client *client = server->clients; client && count < server->held_clients;
         client = client->next)
        if (client->held)
            ids[count++] = client->id;
    for (uint32_t i = 0; i < count; i++) { /* one may end another */
        struct client *client = nr_client_find(server, ids[i]);
        int result;

        if (!client || !client->held)
            continue;
        client->held = false;
        server->held_clients--;
        nr_connection_resume_reading(client->connection);
        result = nr_connection_show_again(client->connection);
        client = nr_client_find(server, ids[i]);
        if (result < 0 && client)
            nr_connection_cut(client->connection, result);
    }
    free(ids);
    server->look_until_ns = 0;
    if (server->held_clients == 0) {
        (void)nr_timer_cancel(engine, timer);
        server->held_timer = 0;
    }
    return 0;
}

void nr_client_hold(struct nr_cache_server *server, struct client *client)
{
    client->held = true;
    server->held_clients++;
    nr_connection_pause_reading(client->connection);
    if (!server->held_timer)
        (void)nr_timer_start(nr_service_engine(server->service), nr_os_now_ns() + LOOK_AT_HELD_NS,
                             LOOK_AT_HELD_NS, look_at_held, server, &server->held_timer);
}

/* Whether a command that met a lock is to be tried again later, rather than refused. */
static bool may_wait(const struct call *call)
{
    struct nr_cache_server *server = call->server;
    struct client *client = call->client;
    uint64_t now = nr_os_coarse_now_ns();
    /* It may be over since the lock was tried. */
    bool is_copied = nr_table_is_copied(server->table) || server->only_tried;

    if (server->in_exec || (server->was_patient && !is_copied))
        return false;
    if (client->held_since_ns == 0)
        client->held_since_ns = now;
    return now - client->held_since_ns < (is_copied ? HELD_MOST_NS : server->settings.lock_wait_ns);
}

/* The next ones only try this lock, so that the other clients are served. */
static void block(struct nr_cache_server *server, const struct nr_key *key, uint64_t ns)
{
    if (key)
        server->blocked_until_ns[nr_table_shard_of(server->table, key)] = nr_os_coarse_now_ns() + ns;
}

/* ---- errors ---- */

void nr_server_fail(struct call *call, int error, const struct nr_key *key)
{
    struct nr_cache_server *server = call->server;

    switch (error) {
    case -ETIMEDOUT:
        if (nr_table_successor(server->table) != 0) {
            nr_server_fail(call, -ESTALE, key);
            return;
        }
        if (may_wait(call)) {
            server->retry = NR_RETRY_LATER;
            block(server, key, BUSY_NS);
            return;
        }
        nr_server_count(&server->statistics.lock_timeouts);
        block(server, key, BLOCKED_NS);
        nr_reply_error(call->reply, "TRYAGAIN a stopped process holds the lock of this key's shard");
        break;
    case -ESTALE:
        if (!server->in_exec)
            server->retry = NR_RETRY_NOW;
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

/* ---- the next generation ---- */

/* Whoever made it may have died before it got the cache's name. */
static void finish_succession(const struct nr_cache_server *server, uint64_t number)
{
    char path[4096 + 32];
    int size = server->next_path ? snprintf(path, sizeof path, "%s%016llx", server->next_path,
                                            (unsigned long long)number)
                                 : -1;

    if (size > 0 && (size_t)size < sizeof path)
        (void)rename(path, server->path); /* not there: somebody else did it */
}

static int open_newest(const struct nr_cache_server *server, struct nr_table **table)
{
    for (int i = 0; i < GENERATIONS_MOST; i++) {
        int fd = open(server->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY), result;
        uint64_t number;

        if (fd < 0)
            return -errno;
        result = nr_table_open(fd, table);
        nr_os_close(fd);
        if (result < 0)
            return result;
        number = nr_table_successor(*table);
        if (number == 0)
            return 0;
        nr_table_close(*table);
        finish_succession(server, number);
    }
    return -EBADMSG;
}

void nr_server_follow(struct nr_cache_server *server)
{
    uint64_t now = nr_os_coarse_now_ns();
    struct nr_table *table;

    if (!server->path || now < server->follow_again_ns)
        return;
    server->follow_again_ns = now + FOLLOW_AGAIN_NS;
    if (open_newest(server, &table) < 0)
        return;
    if (nr_cache_server_change_table(server, table) < 0)
        nr_table_close(table);
    else
        server->follow_again_ns = 0;
}

/* What there is of each shard. */
int nr_server_allocate_for(struct nr_cache_server *server, struct nr_table *table)
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
    nr_table_comes_again_after(table, SHORT_WAIT_NS);
    return 0;
}

int nr_cache_server_change_table(struct nr_cache_server *server, struct nr_table *table)
{
    struct nr_table *old = server->table;
    int result = nr_server_allocate_for(server, table);

    if (result < 0)
        return result;
    nr_changes_leave(server);
    server->table = table;
    nr_topics_hash_again(server);
    nr_transactions_outdate(server);
    nr_changes_join(server);
    nr_table_close(old);
    return 0;
}

uint64_t nr_cache_server_successor(const struct nr_cache_server *server)
{
    return nr_table_successor(server->table);
}
