/* What others change in the table, for clients that cache: local processes, other servers, and what is
 * forgotten for want of room. Looked at every few milliseconds, only while a client of this process tracks.
 *
 * What the processes of this server change they tell each other (tracking.c, mesh.c): at once, and with the
 * client that did it. */
#include <unistd.h>

#include "parts.h"

#define LOOK_NS 2000000u

/* ---- telling ---- */

static void tell(void *context, const struct nr_table_news *news)
{
    struct nr_cache_server *server = context;

    if (server->tracking_clients == 0)
        return; /* the last one was cut for what it did not read */
    if (news->everything || server->all_is_new)
        server->all_is_new = true; /* said once, by look() */
    else if (news->key)
        nr_tracking_invalidate(server, (struct nr_bytes){news->key, news->size}, 0);
    else if (server->prefixes.count && !news->forgotten)
        server->all_is_new = true; /* who knows which prefix it has */
    else
        nr_tracking_invalidate_hash(server, news->hash);
}

static int look(struct nr_engine *engine, nr_timer timer, uint64_t missed, void *data)
{
    struct nr_cache_server *server = data;

    (void)engine;
    (void)timer;
    (void)missed;
    if (nr_table_successor(server->table) != 0)
        nr_server_follow(server);
    if (!server->watch) { /* of a new generation, where a lock was held */
        if (nr_table_watch_begin(server->table, 0, &server->watch) < 0)
            return 0;
        server->all_is_new = true;
    }
    server->looking = true; /* clients may end meanwhile, but the watch does not */
    (void)nr_table_watch_look(server->watch, tell, server);
    if (server->all_is_new)
        nr_tracking_invalidate_everything(server, 0);
    server->all_is_new = false;
    server->looking = false;
    if (server->tracking_clients == 0)
        nr_changes_end(server);
    return 0;
}

/* ---- beginning and ending ---- */

/* Its processes are one watcher, named by their parent and the page that they share. */
static int join(struct nr_cache_server *server)
{
    uint32_t owner = (uint32_t)(server->settings.inbox >= 0 ? getppid() : getpid());

    return nr_table_watch_join(server->table, owner, server->page_number,
                               nr_server_deadline_of_all(server));
}

void nr_changes_join(struct nr_cache_server *server)
{
    (void)join(server); /* when it does not succeed: CLIENT TRACKING tries again */
    if (server->tracking_clients == 0)
        return;
    /* What was cached is of the table before. */
    (void)nr_table_watch_begin(server->table, nr_server_deadline_of_all(server), &server->watch);
    nr_tracking_invalidate_everything(server, 0);
}

int nr_changes_begin(struct nr_cache_server *server)
{
    int result = nr_table_watch_begin(server->table, nr_server_deadline_of_all(server), &server->watch);

    if (result == -EINVAL) {
        result = join(server);
        if (result == 0)
            result = nr_table_watch_begin(server->table, nr_server_deadline_of_all(server), &server->watch);
    }
    if (result == 0)
        result = nr_timer_start(nr_service_engine(server->service), nr_os_now_ns() + LOOK_NS, LOOK_NS, look,
                                server, &server->watch_timer);
    if (result < 0)
        nr_changes_leave(server);
    return result;
}

void nr_changes_leave(struct nr_cache_server *server)
{
    nr_table_watch_end(server->watch, false);
    server->watch = NULL;
}

/* Another process of this server may begin at the very moment at which this one says that nobody is left. */
static void say_it_again(struct nr_cache_server *server)
{
    if (nr_table_watch_begin(server->table, nr_server_deadline_of_all(server), &server->watch) == 0)
        nr_changes_leave(server);
    nr_mesh_send_all(server, NR_MESH_CHANGED_ALL, NULL, 0);
}

void nr_changes_end(struct nr_cache_server *server)
{
    bool last = atomic_load(&server->page->trackers) == 0;

    if (server->looking)
        return; /* it will see */
    (void)nr_timer_cancel(nr_service_engine(server->service), server->watch_timer);
    nr_table_watch_end(server->watch, last);
    server->watch = NULL;
    if (last && atomic_load(&server->page->trackers) != 0)
        say_it_again(server);
}
