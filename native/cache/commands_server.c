/* INFO, CONFIG and what else is asked of the server itself. */
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "parts.h"

/* ---- INFO ---- */

struct page_sums {
    uint64_t clients, commands, hits, misses, connections;
};

static void add_up(const struct nr_cache_server *server, struct page_sums *sums)
{
    memset(sums, 0, sizeof *sums);
    for (uint32_t i = 0; i < server->settings.processes; i++) {
        struct process_line *line = &server->page->lines[i];

        sums->clients += atomic_load(&line->clients);
        sums->connections += atomic_load(&line->connections);
        sums->commands += atomic_load(&line->commands);
        sums->hits += atomic_load(&line->hits);
        sums->misses += atomic_load(&line->misses);
    }
}

static void say(struct nr_reply *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct nr_reply *text, const char *format, ...)
{
    char line[512];
    va_list arguments;
    int size;

    va_start(arguments, format);
    size = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    nr_reply_raw(text, line, size < (int)sizeof line ? (size_t)size : sizeof line - 1);
    nr_reply_raw(text, "\r\n", 2);
}

static void say_server(struct call *call, struct nr_reply *text)
{
    const struct nr_cache_server *server = call->server;
    int64_t up_s = (nr_server_unix_ms() - server->started_ms) / 1000;

    say(text, "redis_version:%s", NR_SERVER_VERSION);
    say(text, "server_name:naru");
    say(text, "cache_name:%s", server->name ? server->name : "");
    say(text, "redis_mode:%s", server->cluster_host ? "cluster" : "standalone");
    say(text, "arch_bits:64");
    say(text, "process_id:%d", (int)getpid());
    say(text, "process_number:%u", server->settings.process);
    say(text, "processes:%u", server->settings.processes);
    say(text, "run_id:%s", server->node_ids[server->settings.process]);
    say(text, "tcp_port:%u", server->settings.port);
    say(text, "uptime_in_seconds:%lld", (long long)up_s);
    say(text, "uptime_in_days:%lld", (long long)up_s / 86400);
    say(text, "executable:naru cache serve");
}

static void say_clients(struct call *call, struct nr_reply *text)
{
    struct page_sums sums;

    add_up(call->server, &sums);
    say(text, "connected_clients:%llu", (unsigned long long)sums.clients);
    say(text, "connected_clients_here:%llu", (unsigned long long)atomic_load(&call->server->line->clients));
    say(text, "maxclients:%u", call->server->settings.clients_most);
    say(text, "tracking_clients:%u", call->server->tracking_clients);
    say(text, "blocked_clients:0");
}

static void say_memory(struct call *call, struct nr_reply *text)
{
    struct nr_table_statistics found = {0};
    struct nr_table_settings settings;

    (void)nr_table_read_statistics(call->server->table, -1, &found);
    nr_table_read_settings(call->server->table, &settings);
    say(text, "used_memory:%llu", (unsigned long long)found.live_bytes);
    say(text, "used_memory_human:%.2fM", (double)found.live_bytes / 1048576);
    say(text, "used_memory_dataset:%llu", (unsigned long long)found.live_bytes);
    say(text, "maxmemory:%llu", (unsigned long long)settings.size_bytes);
    say(text, "maxmemory_human:%.2fM", (double)settings.size_bytes / 1048576);
    say(text, "maxmemory_policy:allkeys-s3fifo");
    say(text, "shards:%u", settings.shards);
}

static void say_persistence(struct call *call, struct nr_reply *text)
{
    (void)call;
    say(text, "loading:0");
    say(text, "rdb_bgsave_in_progress:0");
    say(text, "aof_enabled:0");
}

static void say_stats(struct call *call, struct nr_reply *text)
{
    struct nr_table_statistics found = {0};
    const struct nr_cache_server *server = call->server;
    struct page_sums sums;

    (void)nr_table_read_statistics(server->table, -1, &found);
    add_up(server, &sums);
    say(text, "total_connections_received:%llu", (unsigned long long)sums.connections);
    say(text, "total_commands_processed:%llu", (unsigned long long)sums.commands);
    say(text, "keyspace_hits:%llu", (unsigned long long)sums.hits);
    say(text, "keyspace_misses:%llu", (unsigned long long)sums.misses);
    say(text, "rejected_connections:%llu", (unsigned long long)server->statistics.refused_clients);
    say(text, "rejected_http:%llu", (unsigned long long)server->statistics.strangers);
    say(text, "acl_access_denied_auth:%llu", (unsigned long long)server->statistics.wrong_passwords);
    say(text, "protocol_errors:%llu", (unsigned long long)server->statistics.protocol_errors);
    say(text, "expired_keys:%llu", (unsigned long long)found.expired);
    say(text, "evicted_keys:%llu", (unsigned long long)found.evicted);
    say(text, "pubsub_channels:%u", server->channels.count);
    say(text, "pubsub_patterns:%u", server->patterns.count);
    say(text, "tracking_total_keys:%u", server->tracked.count);
    say(text, "total_error_replies:%llu", (unsigned long long)server->statistics.errors);
    say(text, "lock_owners_died:%llu", (unsigned long long)found.owners_died);
    say(text, "mesh_dropped:%llu", (unsigned long long)server->statistics.mesh_dropped);
}

static void say_replication(struct call *call, struct nr_reply *text)
{
    say(text, "role:master");
    say(text, "connected_slaves:0");
    say(text, "master_failover_state:no-failover");
    say(text, "master_replid:%s", call->server->node_ids[0]);
    say(text, "master_repl_offset:0");
}

static void say_cpu(struct call *call, struct nr_reply *text)
{
    struct rusage used;

    (void)call;
    getrusage(RUSAGE_SELF, &used);
    say(text, "used_cpu_sys:%lld.%06ld", (long long)used.ru_stime.tv_sec, (long)used.ru_stime.tv_usec);
    say(text, "used_cpu_user:%lld.%06ld", (long long)used.ru_utime.tv_sec, (long)used.ru_utime.tv_usec);
}

static void say_cluster(struct call *call, struct nr_reply *text)
{
    say(text, "cluster_enabled:%d", call->server->cluster_host != NULL);
}

static void say_keyspace(struct call *call, struct nr_reply *text)
{
    struct nr_table_statistics found = {0};

    (void)nr_table_read_statistics(call->server->table, -1, &found);
    if (found.entries)
        say(text, "db0:keys=%llu,expires=0,avg_ttl=0", (unsigned long long)found.entries);
}

static bool is_asked_for(struct call *call, const char *section)
{
    for (uint32_t i = 1; i < call->count; i++)
        if (nr_bytes_are(call->arguments[i], section) || nr_bytes_are(call->arguments[i], "all") ||
            nr_bytes_are(call->arguments[i], "default") || nr_bytes_are(call->arguments[i], "everything"))
            return true;
    return call->count == 1;
}

void nr_run_info(struct call *call)
{
    static const struct {
        const char *name, *title;
        void (*say)(struct call *, struct nr_reply *);
    } sections[] = {
        {"server", "Server", say_server},       {"clients", "Clients", say_clients},
        {"memory", "Memory", say_memory},       {"persistence", "Persistence", say_persistence},
        {"stats", "Stats", say_stats},          {"replication", "Replication", say_replication},
        {"cpu", "CPU", say_cpu},                {"cluster", "Cluster", say_cluster},
        {"keyspace", "Keyspace", say_keyspace},
    };
    struct nr_reply text = {.version = 2};

    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        if (!is_asked_for(call, sections[i].name))
            continue;
        if (text.size)
            nr_reply_raw(&text, "\r\n", 2);
        say(&text, "# %s", sections[i].title);
        sections[i].say(call, &text);
    }
    nr_reply_verbatim(call->reply, (const char *)text.bytes, text.size);
    nr_reply_free(&text);
}

/* ---- CONFIG: what there is to be seen; little can be set ---- */

struct setting {
    const char *name;
    char value[64];
};

static size_t list_settings(struct call *call, struct setting *into)
{
    const struct nr_cache_server *server = call->server;
    struct nr_table_settings table;
    size_t count = 0;

#define SETTING(key, ...)                                                                            \
    do {                                                                                             \
        into[count].name = key;                                                                      \
        snprintf(into[count++].value, sizeof into->value, __VA_ARGS__);                              \
    } while (0)
    nr_table_read_settings(server->table, &table);
    SETTING("save", "%s", "");
    SETTING("appendonly", "no");
    SETTING("maxmemory", "%llu", (unsigned long long)table.size_bytes);
    SETTING("maxmemory-policy", "allkeys-s3fifo");
    SETTING("maxclients", "%u", server->settings.clients_most);
    SETTING("databases", "%u", server->cluster_host ? 1 : NR_DATABASES);
    SETTING("proto-max-bulk-len", "%llu", (unsigned long long)server->settings.value_bytes_most);
    SETTING("client-output-buffer-limit", "normal %llu 0 0",
            (unsigned long long)server->settings.output_limit_bytes);
    SETTING("cluster-enabled", "%s", server->cluster_host ? "yes" : "no");
    SETTING("port", "%u", server->settings.port);
    SETTING("notify-keyspace-events", "%s", "");
    SETTING("timeout", "0");
    SETTING("io-threads", "1");
    SETTING("slowlog-log-slower-than", "-1");
#undef SETTING
    return count;
}

static void config_get(struct call *call)
{
    struct setting settings[24];
    size_t count = list_settings(call, settings), found = 0;
    bool shown[24] = {false};

    for (size_t i = 0; i < count; i++)
        for (uint32_t a = 2; a < call->count && !shown[i]; a++) {
            const struct nr_bytes name = {(const uint8_t *)settings[i].name, strlen(settings[i].name)};

            shown[i] = nr_glob(call->arguments[a], name) ||
                       nr_bytes_are(call->arguments[a], settings[i].name);
            found += shown[i];
        }
    nr_reply_map(call->reply, found);
    for (size_t i = 0; i < count; i++)
        if (shown[i]) {
            nr_reply_string(call->reply, settings[i].name);
            nr_reply_string(call->reply, settings[i].value);
        }
}

/* What a cache has anyway may be asked for; nothing else. */
static bool may_be_set(struct nr_bytes name, struct nr_bytes value)
{
    return (nr_bytes_are(name, "save") && value.size == 0) ||
           (nr_bytes_are(name, "appendonly") && nr_bytes_are(value, "no")) ||
           (nr_bytes_are(name, "notify-keyspace-events") && value.size == 0) ||
           (nr_bytes_are(name, "timeout") && nr_bytes_are(value, "0"));
}

static void config_set(struct call *call)
{
    if (call->count % 2) {
        nr_reply_error(call->reply, "ERR wrong number of arguments for 'config|set' command");
        return;
    }
    for (uint32_t i = 2; i < call->count; i += 2) {
        if (nr_bytes_are(call->arguments[i], "maxclients") && call->count == 4) {
            int64_t most;

            if (!nr_read_integer(call->arguments[3], &most) || most < 1 || most > UINT32_MAX) {
                nr_reply_error(call->reply, "ERR CONFIG SET failed (possibly related to argument "
                                            "'maxclients') - argument must be a number of clients");
                return;
            }
            call->server->settings.clients_most = (uint32_t)most; /* of this process */
            continue;
        }
        if (!may_be_set(call->arguments[i], call->arguments[i + 1])) {
            nr_reply_error(call->reply,
                           "ERR Unknown option or number of arguments for CONFIG SET - '%.*s'",
                           (int)(call->arguments[i].size < 128 ? call->arguments[i].size : 128),
                           (const char *)call->arguments[i].bytes);
            return;
        }
    }
    nr_reply_ok(call->reply);
}

static void config_resetstat(struct call *call)
{
    call->server->statistics.commands = 0; /* of this process */
    call->server->statistics.hits = 0;
    call->server->statistics.misses = 0;
    nr_reply_ok(call->reply);
}

void nr_run_config(struct call *call)
{
    static const struct nr_command subcommands[] = {
        {.name = "get", .arity = -3, .run = config_get},
        {.name = "set", .arity = -4, .run = config_set},
        {.name = "resetstat", .arity = 2, .run = config_resetstat},
    };

    nr_run_subcommand(call, subcommands, sizeof subcommands / sizeof *subcommands);
}

/* ---- small ones ---- */

void nr_run_time(struct call *call)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    nr_reply_array(call->reply, 2);
    nr_reply_bulk_integer(call->reply, now.tv_sec);
    nr_reply_bulk_integer(call->reply, now.tv_nsec / 1000);
}

void nr_run_role(struct call *call)
{
    nr_reply_array(call->reply, 3);
    nr_reply_string(call->reply, "master");
    nr_reply_integer(call->reply, 0);
    nr_reply_array(call->reply, 0);
}

void nr_run_wait(struct call *call)
{
    int64_t number;

    if (nr_call_integer(call, 1, &number) && nr_call_integer(call, 2, &number))
        nr_reply_integer(call->reply, 0);
}

static void reply_nothing(struct call *call) { nr_reply_array(call->reply, 0); }
static void reply_zero(struct call *call) { nr_reply_integer(call->reply, 0); }
static void reply_ok(struct call *call) { nr_reply_ok(call->reply); }

void nr_run_slowlog(struct call *call)
{
    static const struct nr_command subcommands[] = {
        {.name = "get", .arity = -2, .run = reply_nothing},
        {.name = "len", .arity = 2, .run = reply_zero},
        {.name = "reset", .arity = 2, .run = reply_ok},
    };

    nr_run_subcommand(call, subcommands, sizeof subcommands / sizeof *subcommands);
}

void nr_run_latency(struct call *call)
{
    static const struct nr_command subcommands[] = {
        {.name = "latest", .arity = 2, .run = reply_nothing},
        {.name = "history", .arity = 3, .run = reply_nothing},
        {.name = "reset", .arity = -2, .run = reply_zero},
    };

    nr_run_subcommand(call, subcommands, sizeof subcommands / sizeof *subcommands);
}
