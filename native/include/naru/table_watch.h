/* naru/table_watch.h: who wants to be told what others change in a table.
 *
 * Each shard has a ring of its last changes in its control page. Writers write into it only while somebody
 * watches (one word beside the successor, which they look at anyhow); watchers look at it every few
 * milliseconds, each with a cursor of its own. Who is too late, or cannot see any more which key it was, is
 * told "everything".
 *
 *     control page of a shard    1536  u64 noted, u64 changed
 *                                2048  128 entries: u64 hash of the key
 *                                      u64 63..56 what | 55..48 the writer's watcher | log and offset / 8
 *
 * Order         a change is noted, made, and then counted as made, all under the shard's mutex: who dies in
 *               between leaves a note that is given again and again until the next owner of the mutex has
 *               repaired the shard. Watchers see to that themselves (try the lock).
 * Watchers      up to 63, each a number of processes with one owner (pid, start time, and a number of its
 *               choice). A dead one's
 *               place is taken back by whoever opens the table next. What a watcher's own processes change is
 *               not given to it, but for what they forget (eviction): they know themselves.
 * Trust         as for the table: forged notes cost invalidations, never an access beyond the mapping. */
#ifndef NARU_TABLE_WATCH_H
#define NARU_TABLE_WATCH_H

#include "naru/table.h"

#define NR_WATCHERS 63u

struct nr_table_watch;

/* What has changed. Neither key nor hash: everything. */
struct nr_table_news {
    const uint8_t *key;  /* ends with the call; NULL: it cannot be told any more, only the hash */
    uint32_t size;
    uint64_t hash;       /* as nr_table_key() */
    bool everything;
    bool forgotten;      /* for want of room: its value has not changed */
};

/* Makes this process one of the watcher that `owner_pid` calls `number`: what it changes from now on is not
 * given to that watcher. -ENOSPC: there are 63. */
int nr_table_watch_join(struct nr_table *, uint32_t owner_pid, uint64_t number, uint64_t deadline_ns);
/* Of a process that has joined. From its return on, no change is missed: it has waited for each shard's
 * mutex once. */
int nr_table_watch_begin(struct nr_table *, uint64_t deadline_ns, struct nr_table_watch **);
/* `last`: no other process of this watcher has begun; writers are not to take the trouble any more. */
void nr_table_watch_end(struct nr_table_watch *, bool last);
bool nr_table_is_watched(const struct nr_table *); /* by a living watcher, or one that died since */
/* All that changed since: returns how many were told. */
uint32_t nr_table_watch_look(struct nr_table_watch *, void (*tell)(void *context, const struct nr_table_news *),
                       void *context);

#endif
