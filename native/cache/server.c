/* What a process of the server is made of, from its making to its end. */
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "parts.h"

#define CLIENTS_MOST 10000u
#define LOCK_WAIT_NS 2000000000u
#define OUTPUT_LIMIT_BYTES (256u << 20)

/* ---- small things ---- */

void nr_server_count(uint64_t *counter)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
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

/* Takes the place of one that may have been killed: its clients are gone. */
static int open_page(struct nr_cache_server *server)
{
    struct stat status;
    void *mapped;
    int result = nr_os_map(NULL, NR_SERVER_PAGE_BYTES, server->settings.page, 0, &mapped);

    if (result < 0)
        return result;
    server->page = mapped;
    if (fstat(server->settings.page, &status) == 0)
        server->page_number = status.st_ino;
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
    server->path = copy_text(settings->path);
    server->next_path = copy_text(settings->next_path);
    if (settings->cluster_ports)
        memcpy(server->cluster_ports, settings->cluster_ports, settings->processes * sizeof(uint16_t));
    for (uint32_t i = 0; i < NR_SERVERS_MOST; i++)
        server->outboxes[i].fd =
            i < settings->processes && settings->inbox >= 0 ? settings->outboxes[i] : -1;
    server->reply.most = server->settings.output_limit_bytes;
    server->started_ms = nr_server_unix_ms();
    server->random = (uint32_t)(nr_os_now_ns() ^ (uint64_t)getpid() << 16) | 1u;
    nr_commands_index(server);
    name_nodes(server);
    server->key_room = malloc(NR_TABLE_KEY_MOST + 8u);
    result = server->key_room ? nr_server_allocate_for(server, server->table) : -ENOMEM;
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
    nr_changes_join(server);
    *created = server;
    return 0;
}

void nr_cache_server_destroy(struct nr_cache_server *server)
{
    if (!server)
        return;
    nr_mesh_close(server);
    if (server->held_timer)
        (void)nr_timer_cancel(nr_service_engine(server->service), server->held_timer);
    nr_changes_leave(server);
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
    nr_parser_free(server->parser);
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
    free(server->path);
    free(server->next_path);
    nr_table_close(server->table);
    free(server);
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
    .on_open = nr_client_open,
    .on_bytes = nr_client_bytes,
    .on_writable = nr_client_writable,
    .on_close = nr_client_close,
    .on_destroy = on_destroy,
};
