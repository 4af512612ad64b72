/* cache/parts.h: what the files of the cache server share; private to this folder.
 *
 *   resp, reply      the wire, pure                      glob, numbers, sha1, slots   pure helpers
 *   bytes, dispatch  the protocol: bytes -> commands -> replies
 *   clients          who is connected               server      what a process is made of
 *   following        the table's locks and errors, and its successor after a resize
 *   refusals         who is refused, on standard error
 *   keys, command_names  what arguments mean
 *   table_of_commands  names, arity, keys; COMMAND
 *   commands_*       what the commands do, by subject
 *   topics           names with the clients that wait for news of them
 *   subscriptions    SUBSCRIBE ...; tracking: CLIENT TRACKING
 *   outside          what others change in the table           mesh: between the processes
 */
#ifndef NARU_CACHE_PARTS_H
#define NARU_CACHE_PARTS_H

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "naru/cache_server.h"
#include "naru/resp.h"
#include "naru/table_watch.h"

#define NR_KIND_BYTES 0u
#define NR_KIND_INTEGER 1u /* decimal text */
#define NR_KIND_SET 15u /* u32 count, then for each member u32 size and its bytes */
#define NR_DATABASES 16u
#define NR_SLOTS 16384u
#define NR_SERVER_VERSION "7.4.0" /* of Redis: what clients look at to know what they may ask */

#define NR_WRONG_TYPE "WRONGTYPE Operation against a key holding the wrong kind of value"
#define NR_NOT_INTEGER "ERR value is not an integer or out of range"
#define NR_SYNTAX "ERR syntax error"

/* ---- commands ---- */

struct call;

enum command_flags {
    NR_WRITES = 1u << 0,
    NR_READS = 1u << 1,
    NR_FAST = 1u << 2,
    NR_ADMIN = 1u << 3,
    NR_PUBSUB = 1u << 4,
    NR_NO_AUTH = 1u << 5,
    NR_NO_MULTI = 1u << 6,    /* not within MULTI */
    NR_NO_QUEUE = 1u << 7,    /* runs at once, also within MULTI */
    NR_SUBSCRIBED = 1u << 8,  /* allowed in RESP2 while subscribed */
    NR_MOVABLE_KEYS = 1u << 9, /* numkeys at argument 2, keys behind it */
    NR_ALL_KEYS = 1u << 10,   /* in MULTI: every shard is locked */
    NR_CONTAINER = 1u << 11,  /* has subcommands: its own `run` looks at argument 1 */
    NR_LOADING = 1u << 12,
};

struct nr_command {
    const char *name; /* lower case; a subcommand: container|name */
    int16_t arity;    /* with the name; negative: at least */
    uint16_t flags;
    int8_t first_key, last_key, step;
    const char *group, *summary;
    void (*run)(struct call *);
};

extern const struct nr_command nr_commands[];
extern const size_t nr_command_count;
const struct nr_command *nr_command_find(const struct nr_cache_server *, struct nr_bytes name);

struct call {
    struct nr_cache_server *server;
    struct nr_connection *connection;
    struct client *client;
    struct nr_reply *reply;
    const struct nr_command *command;
    const struct nr_bytes *arguments;
    uint32_t count;
    bool probing; /* of a container: only whether it has the subcommand (before it is queued) */
};

/* ---- clients ---- */

enum tracking_mode {
    NR_TRACKING = 1u << 0,
    NR_TRACKING_BROADCAST = 1u << 1,
    NR_TRACKING_OPTIN = 1u << 2,
    NR_TRACKING_OPTOUT = 1u << 3,
    NR_TRACKING_NOLOOP = 1u << 4,
    NR_TRACKING_CACHING = 1u << 5, /* CLIENT CACHING: of the next command */
    NR_TRACKING_BROKEN = 1u << 6,  /* the client that invalidations go to is gone */
};

struct topic;

/* What only some clients have. */
struct client_extra {
    struct nr_bytes name, library, library_version; /* owned */
    struct topic **channels, **patterns, **prefixes;
    uint32_t channel_count, pattern_count, prefix_count;
    uint64_t redirect; /* a client's id; 0: to itself */
};

struct queued {
    struct queued *next;
    const struct nr_command *command;
    uint32_t count;
    struct nr_bytes arguments[]; /* their bytes lie behind them */
};

struct watched {
    struct watched *next;
    uint64_t version; /* 0: it was not there */
    int64_t expires_ms; /* another expiry is a change, too */
    uint32_t size;
    uint8_t key[];    /* as in the table */
};

struct transaction {
    struct queued *first, **last;
    uint32_t count, watched_count;
    size_t bytes;       /* of what is queued */
    bool begun, failed; /* MULTI came; a command was refused */
    bool outdated;      /* the watched versions are of another table */
    struct watched *watched;
};

struct client {
    uint64_t id;
    struct client *next, *previous;
    struct nr_connection *connection;
    struct nr_resp *parked; /* a command that has not come wholly */
    struct transaction *transaction;
    struct client_extra *extra;
    const struct nr_command *last;
    uint32_t born_s, active_s;
    uint8_t resp, database, tracking;
    bool admitted; /* it has shown the password, or none is asked for */
    bool counted;
    bool replies_off, skip_next, ending;
    bool no_evict, no_touch;
    bool held;              /* what it sent waits until the table has been copied */
    uint64_t held_since_ns; /* 0: it does not wait */
};

static inline struct client *nr_client_of(struct nr_connection *c) { return nr_connection_state(c); }
static inline bool nr_client_is_subscribed(const struct client *client)
{
    return client->extra && (client->extra->channel_count || client->extra->pattern_count);
}
static inline bool nr_client_in_multi(const struct client *client)
{
    return client->transaction && client->transaction->begun;
}
struct client_extra *nr_client_extra(struct client *); /* NULL: no memory */
uint64_t nr_client_id(const struct nr_cache_server *, const struct nr_connection *);
/* Of this process; NULL when it is gone. */
struct client *nr_client_find(struct nr_cache_server *, uint64_t id);
uint32_t nr_client_process(uint64_t id);
void nr_client_kill(struct nr_cache_server *, struct client *);
void nr_client_hold(struct nr_cache_server *, struct client *); /* it is heard again when the table is free */
/* Says so on standard error, now and then. */
enum nr_refusal { NR_REFUSED_LIMIT, NR_REFUSED_PASSWORD, NR_REFUSED_HTTP, NR_REFUSED_BYTES, NR_REFUSALS };
void nr_client_refused(struct nr_cache_server *, const struct nr_connection *, enum nr_refusal);
void nr_print_address(int fd, bool peer, char *text, size_t room);
int nr_client_open(struct nr_connection *);
ssize_t nr_client_bytes(struct nr_connection *, const uint8_t *bytes, size_t size);
int nr_client_writable(struct nr_connection *);
void nr_client_close(struct nr_connection *, int reason);

/* ---- the server ---- */

/* A process's line in the shared page. */
struct process_line {
    _Atomic uint64_t clients, commands, hits, misses, connections, input_bytes, output_bytes;
    _Atomic uint64_t generation; /* raised at each start */
};

struct server_page {
    _Atomic uint64_t trackers;      /* a bit a process: somebody there tracks keys */
    _Atomic uint64_t clients;       /* of all */
    _Atomic int64_t clock_offset_ms; /* Unix time - the table's time; 0: not known yet */
    uint64_t reserved[5];
    struct process_line lines[NR_SERVERS_MOST];
};
_Static_assert(sizeof(struct server_page) <= NR_SERVER_PAGE_BYTES, "the page holds all processes");

struct topics {
    struct topic **buckets;
    uint32_t mask, count;
};

struct outbox {
    int fd;
    struct packet *first, **last;
    size_t queued_bytes;
    bool lost_invalidations;
    nr_source source;
};

struct inbox_part { /* a message that comes in several packets */
    uint8_t *bytes;
    size_t size, room;
};

struct script_alias {
    struct script_alias *next;
    char sha1[41];
    uint8_t script;
};

struct refusal { /* when the next one may be said, and how many were not */
    uint64_t next_ns, unsaid;
};

#define NR_COMMAND_BUCKETS 512u

enum nr_retry { NR_RETRY_NOT, NR_RETRY_NOW, NR_RETRY_LATER };

struct nr_cache_server {
    struct nr_cache_server_settings settings;
    struct nr_table *table;
    struct nr_service *service;
    struct server_page *page;
    struct process_line *line;
    uint64_t page_number;      /* the same for all processes of this server, and for no other */
    char *password, *name, *cluster_host;
    uint16_t cluster_ports[NR_SERVERS_MOST];
    char node_ids[NR_SERVERS_MOST][41];
    uint32_t shards;
    uint32_t generation;       /* of this process, 8 bits: the ids of its clients are not its predecessor's */
    int64_t started_ms; /* Unix */

    struct nr_reply reply;     /* of the command at work */
    struct nr_connection *busy; /* whose reply it is */
    struct nr_resp *parser;    /* the spare one */
    struct nr_bytes *arguments;
    uint32_t argument_room;
    uint8_t *key_room;         /* of a key with its database */
    uint8_t *scratch;          /* keys of one command, a scan's key */
    size_t scratch_room;
    struct nr_key *keys;
    uint32_t key_count_room;
    bool in_exec;
    enum nr_retry retry;       /* of the command at work */
    bool only_tried;           /* it did not wait for a lock, because the table was being copied */
    bool was_patient;          /* it waited for long, and is not run again for a lock */
    uint64_t look_until_ns;    /* while held clients are looked at: how long for their locks; else 0 */
    uint32_t held_clients;
    nr_timer held_timer;
    char *path, *next_path;    /* of the table's file; NULL: it is not followed */
    uint64_t follow_again_ns;
    uint64_t *shard_mask, *lock_mask;
    uint64_t *blocked_until_ns; /* a shard: its lock was not had a moment ago, and is only tried */

    struct client *clients;
    uint16_t command_buckets[NR_COMMAND_BUCKETS]; /* index + 1 */
    uint32_t random;

    struct nr_reply pushes[2]; /* a message in RESP2, in RESP3 */
    struct topics channels, patterns, tracked, prefixes;
    uint32_t tracking_clients;
    struct nr_table_watch *watch;    /* NULL: nobody here tracks */
    nr_timer watch_timer;
    bool looking, all_is_new;
    nr_timer expiry_timer;
    uint32_t expiry_bucket;
    uint8_t *changed;          /* keys to tell of: u32 size, bytes */
    size_t changed_bytes, changed_room;
    bool changed_everything;
    uint32_t telling;          /* going through topics: none is freed meanwhile */
    bool stale_topics;         /* some are empty since */

    struct outbox outboxes[NR_SERVERS_MOST];
    struct inbox_part parts[NR_SERVERS_MOST];
    nr_source inbox_source;
    struct script_alias *scripts;
    struct refusal refusals[NR_REFUSALS];
    struct nr_cache_server_statistics statistics;
};

static inline struct nr_cache_server *nr_server_of(const struct nr_connection *c)
{
    return nr_service_context(c->service);
}

void nr_server_handle(struct call *);
int64_t nr_server_unix_ms(void);
/* Unix time = the table's + this. */
int64_t nr_server_clock_offset(struct nr_cache_server *);
uint64_t nr_server_deadline(struct nr_cache_server *, const struct nr_key *);
uint64_t nr_server_deadline_of_several(struct nr_cache_server *);
/* For what is not run again: of all shards, and of one after the other. */
uint64_t nr_server_deadline_of_all(struct nr_cache_server *);
uint64_t nr_server_patience(struct nr_cache_server *);
/* Replies what a table's error means; remembers a stopped shard. Or sets `retry`. */
void nr_server_fail(struct call *, int error, const struct nr_key *);
void nr_server_count(uint64_t *counter);
uint8_t *nr_server_scratch(struct nr_cache_server *, size_t size); /* NULL: no memory */
uint32_t nr_server_random(struct nr_cache_server *);
int nr_server_allocate_for(struct nr_cache_server *, struct nr_table *);
void nr_server_follow(struct nr_cache_server *); /* the table has a successor: uses that from now on */
void nr_commands_index(struct nr_cache_server *);
void nr_parser_free(struct nr_resp *);
/* For INFO: adds to a number that this process alone changes. */
static inline void nr_line_add(_Atomic uint64_t *counter, uint64_t more)
{
    uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);

    atomic_store_explicit(counter, now + more, memory_order_relaxed);
}

/* ---- keys ---- */

/* The key in the table, for an argument of this client's database. Of the next call's memory. */
struct nr_key nr_call_key(struct call *, uint32_t index);
/* The key of an argument, and what stands there, noted as read: 0, or the table's error. */
int nr_call_look(struct call *, uint32_t index, struct nr_key *, struct nr_entry *);
/* Several: stay until the next call of this. NULL: no memory (replied). */
struct nr_key *nr_call_keys(struct call *, uint32_t first, uint32_t step, uint32_t count);
struct nr_bytes nr_database_key(struct nr_cache_server *, uint8_t database, struct nr_bytes key);
/* The way back: true when the key is of this database; `key` then without its prefix. */
bool nr_database_owns(uint8_t database, struct nr_bytes *key);
/* After a change of it: tells those who have it cached. */
void nr_call_changed(struct call *, const struct nr_key *);
void nr_call_read(struct call *, const struct nr_key *, const struct nr_entry *); /* it may be cached */
/* The keys of a command by its description: how many; their indexes by nr_command_key_at(). -1: bad numkeys. */
int64_t nr_command_keys(const struct nr_command *, const struct nr_bytes *arguments, uint32_t count,
                        uint32_t *first, uint32_t *step);

/* ---- helpers ---- */

bool nr_bytes_are(struct nr_bytes, const char *lower_case); /* without regard to case */
bool nr_read_integer(struct nr_bytes, int64_t *);
/* Or replies that it is none. */
bool nr_call_integer(struct call *, uint32_t index, int64_t *);
bool nr_read_double(struct nr_bytes, long double *);
bool nr_glob(struct nr_bytes pattern, struct nr_bytes text);
void nr_sha1_hex(const void *bytes, size_t size, char text[41]);
uint32_t nr_slot_of(struct nr_bytes key);
void nr_fail_arity(struct call *);
void nr_fail_subcommand(struct call *);
void nr_fail_syntax(struct call *);
/* Of a container: finds argument 1, checks the count, runs it. */
void nr_run_subcommand(struct call *, const struct nr_command *subcommands, size_t count);

/* ---- topics ---- */

struct topic {
    struct topic *next;
    uint64_t hash;
    uint32_t count, room;     /* of clients of this process */
    uint64_t *clients;        /* their ids */
    uint32_t *remote;         /* subscribers in each process; NULL: none */
    uint32_t remote_total;
    int64_t expires_ms;       /* of a tracked key */
    uint32_t size;
    uint8_t name[];
};

struct topic *nr_topic_find(const struct nr_cache_server *, const struct topics *, struct nr_bytes name);
struct topic *nr_topic_make(struct nr_cache_server *, struct topics *, struct nr_bytes name);
bool nr_topic_add(struct topic *, uint64_t id); /* false: no memory */
bool nr_topic_has(const struct topic *, uint64_t id);
bool nr_topic_remove(struct topic *, uint64_t id);
/* Gone when nobody waits for it any more; between the two below, later. */
void nr_topic_drop_empty(struct nr_cache_server *, struct topics *, struct topic *);
/* Around what sends to the clients of topics: a client that is cut for it leaves its topics. */
void nr_topics_begin(struct nr_cache_server *);
void nr_topics_end(struct nr_cache_server *);
/* Out of the table, to be freed by nr_topic_free(). */
void nr_topic_detach(struct topics *, struct topic *);
void nr_topic_free(struct topic *);
void nr_topics_free(struct topics *);
void nr_topics_hash_again(struct nr_cache_server *); /* another table has another hash */
/* The next behind `topic` (NULL: the first). */
struct topic *nr_topic_after(const struct topics *, const struct topic *);
static inline struct nr_bytes nr_topic_name(const struct topic *topic)
{
    return (struct nr_bytes){topic->name, topic->size};
}

/* ---- subscriptions ---- */

uint64_t nr_publish_here(struct nr_cache_server *, struct nr_bytes channel, struct nr_bytes message);
void nr_subscriptions_end(struct nr_cache_server *, struct client *);
/* Another process has so many subscribers of a channel (or pattern) now. */
void nr_subscriptions_learn(struct nr_cache_server *, uint32_t process, bool pattern,
                            struct nr_bytes name, uint32_t count);
void nr_subscriptions_forget(struct nr_cache_server *, uint32_t process);
void nr_subscriptions_tell_all(struct nr_cache_server *, uint32_t process);

/* ---- tracking ---- */

void nr_tracking_note(struct nr_cache_server *, struct client *, struct nr_bytes key, int64_t expires_ms);
int nr_tracking_begin(struct nr_cache_server *); /* of one more client */
void nr_tracking_end(struct nr_cache_server *, struct client *);
void nr_client_tracking(struct call *);
void nr_client_trackinginfo(struct call *);
void nr_client_caching(struct call *);
/* A key has changed (all processes are told at nr_tracking_flush()). */
void nr_tracking_changed(struct nr_cache_server *, struct nr_bytes key);
void nr_tracking_changed_everything(struct nr_cache_server *);
void nr_tracking_flush(struct nr_cache_server *, struct client *writer);
/* Tells the clients of this process. `writer`: its id, 0: another process's. */
void nr_tracking_invalidate(struct nr_cache_server *, struct nr_bytes key, uint64_t writer);
/* Tracked keys only: their hash is all that is known. */
void nr_tracking_invalidate_hash(struct nr_cache_server *, uint64_t hash);
void nr_tracking_invalidate_everything(struct nr_cache_server *, uint64_t writer);
void nr_tracking_deliver(struct nr_cache_server *, uint64_t id, const struct nr_bytes *keys, uint32_t count);
bool nr_tracking_wanted(const struct nr_cache_server *);

/* ---- what others change ---- */

void nr_changes_join(struct nr_cache_server *);  /* a table that is new to us */
void nr_changes_leave(struct nr_cache_server *); /* the one before */
int nr_changes_begin(struct nr_cache_server *);  /* somebody tracks: nothing is missed from now on */
void nr_changes_end(struct nr_cache_server *);

/* ---- mesh ---- */

enum mesh_kind {
    NR_MESH_HELLO,          /* I am new: forget what I was, tell me who you are */
    NR_MESH_CHANNEL,        /* u32 count, name */
    NR_MESH_PATTERN,
    NR_MESH_PUBLISH,        /* u32 size of the channel, channel, message */
    NR_MESH_CHANGED,        /* keys: u32 size, bytes */
    NR_MESH_CHANGED_ALL,
    NR_MESH_DELIVER,        /* u64 client, keys: an invalidation that goes to this client of yours */
    NR_MESH_KILL,           /* u64 client */
};

int nr_mesh_open(struct nr_cache_server *);
void nr_mesh_close(struct nr_cache_server *);
void nr_mesh_send(struct nr_cache_server *, uint32_t process, enum mesh_kind, const struct iovec *parts,
                  int count);
void nr_mesh_send_all(struct nr_cache_server *, enum mesh_kind, const struct iovec *parts, int count);
/* Looks at what has come, now. */
void nr_mesh_read(struct nr_cache_server *);

/* ---- cluster ---- */

uint32_t nr_slot_owner(const struct nr_cache_server *, uint32_t slot);
/* True when this process may answer; else it has replied MOVED or CROSSSLOT. */
bool nr_cluster_admits(struct call *);

/* ---- transactions ---- */

void nr_transaction_queue(struct call *);
void nr_transaction_refuse(struct client *);
void nr_transaction_free(struct client *);
void nr_transactions_outdate(struct nr_cache_server *); /* the table is another one */

/* Of the shards of these keys, in order; within EXEC they are held already. False: replied why not. */
bool nr_call_lock(struct call *, const struct nr_key *, uint32_t count);
void nr_call_unlock(struct call *);

/* ---- times ---- */

/* `amount` of `unit_ms`, from now or of Unix time, as the table counts: false: it is none (replied). */
bool nr_call_expiry(struct call *, int64_t amount, int64_t unit_ms, bool absolute, int64_t *expires_ms);

/* ---- sending ---- */

/* To whoever it is: behind the reply at work when it is the client at work, else at once. */
void nr_client_send(struct nr_cache_server *, struct client *, const struct nr_reply *);

/* ---- the commands: commands_*.c ---- */
#define NR_COMMAND_FUNCTIONS(X)                                                                      \
    X(append) X(auth) X(client) X(cluster) X(command) X(config) X(dbsize) X(decr) X(decrby) X(del)   \
    X(discard) X(echo) X(eval) X(evalsha) X(exec) X(exists) X(expire) X(expireat) X(expiretime)      \
    X(flushall) X(flushdb) X(get) X(getdel) X(getex) X(getrange) X(getset) X(hello) X(incr)          \
    X(incrby) X(incrbyfloat) X(info) X(keys) X(latency) X(memory) X(mget) X(mset) X(msetnx)          \
    X(multi) X(object) X(persist) X(pexpire) X(pexpireat) X(pexpiretime) X(ping) X(psetex)           \
    X(psubscribe) X(pttl) X(publish) X(pubsub) X(punsubscribe) X(quit) X(randomkey) X(readonly)      \
    X(rename) X(renamenx) X(reset) X(role) X(sadd) X(scan) X(scard) X(script) X(select) X(set)       \
    X(setex) X(setnx) X(setrange) X(sismember) X(slowlog) X(smembers) X(smismember) X(spop)          \
    X(srandmember) X(srem) X(sscan) X(strlen) X(subscribe) X(time) X(touch) X(ttl) X(type)           \
    X(unsubscribe) X(unwatch) X(wait) X(watch)
#define NR_DECLARE(name) void nr_run_##name(struct call *);
NR_COMMAND_FUNCTIONS(NR_DECLARE)

#endif
