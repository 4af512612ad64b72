/* naru/cache_server.h: one process of a server that speaks Redis' protocol over a shared table.
 *
 * Any number of such processes (at most NR_SERVERS_MOST) serve one table. The data is in the table; a
 * process holds connections and what belongs to them: transactions, subscriptions, what a client has
 * cached. What the processes must tell each other goes over a mesh: one inbox each (a socket pair of
 * sequenced packets, made by their parent, who keeps both ends: nothing in it is lost when a process is
 * killed and replaced), and one page of memory with their counters and "I have subscribers".
 *
 * Used as the protocol of a service: the settings' context is what nr_cache_server_create() made, and is
 * freed with the service.
 *
 *   nr_cache_server_create -> nr_service_create(nr_protocol_cache) -> the engine runs -> nr_service_destroy
 */
#ifndef NARU_CACHE_SERVER_H
#define NARU_CACHE_SERVER_H

#include "naru/protocol.h"
#include "naru/table.h"

#define NR_SERVERS_MOST 64u
#define NR_SERVER_PAGE_BYTES 16384u

struct nr_cache_server;

struct nr_cache_server_settings {
    struct nr_table *table;  /* the server's from success on */
    uint32_t process;        /* this one, 0 .. processes - 1 */
    uint32_t processes;
    int page;                /* a memfd of NR_SERVER_PAGE_BYTES zeroes, shared by all; copied */
    int inbox;               /* this process's end; taken over. -1: alone */
    const int *outboxes;     /* the other end of every process's, `processes` of them; taken over */
    const char *password;    /* NULL: none is asked for */
    const char *name;        /* of the cache, for INFO */
    const char *path;        /* of its file: where its successor is found; NULL: not followed */
    const char *next_path;   /* + 16 hex digits: where a successor lies before it gets the name */
    uint32_t clients_most;   /* of all processes; 0: 10,000 */
    uint64_t value_bytes_most; /* of one argument; 0: what a shard can hold, at least 1 MiB */
    uint64_t lock_wait_ns;   /* that a client waits for a lock at most; 0: 2 s */
    const char *cluster_host; /* NULL: no cluster */
    const uint16_t *cluster_ports; /* of every process */
    uint16_t port;           /* for INFO; 0: none */
    uint64_t output_limit_bytes; /* as the service's: of the replies to one read, too; 0: 256 MiB */
};

struct nr_cache_server_statistics {
    uint64_t commands, errors, hits, misses;
    uint64_t refused_clients, protocol_errors, strangers; /* above the limit; HTTP and the like */
    uint64_t wrong_passwords;
    uint64_t published, invalidations, mesh_sent, mesh_received, mesh_dropped;
    uint64_t lock_timeouts;
};

int nr_cache_server_create(const struct nr_cache_server_settings *, struct nr_cache_server **);
/* Only what no service has got. */
void nr_cache_server_destroy(struct nr_cache_server *);
/* The table was resized: goes on with the successor, which is the server's then. Between turns of the
 * engine. */
int nr_cache_server_change_table(struct nr_cache_server *, struct nr_table *);
uint64_t nr_cache_server_successor(const struct nr_cache_server *); /* 0: none */
void nr_cache_server_read_statistics(const struct nr_cache_server *,
                                     struct nr_cache_server_statistics *);
extern const struct nr_protocol_ops nr_protocol_cache;

#endif
