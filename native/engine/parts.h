/* engine/parts.h: what the files of the engine share; private to this folder.
 *
 *   slab      chunks of equal items; an item's place never moves while it lives
 *   sources   slab of struct source, a table from descriptor to source, a ready list a priority
 *   timers    slab of struct timer, a heap of their due times, one timerfd
 */
#ifndef NARU_ENGINE_PARTS_H
#define NARU_ENGINE_PARTS_H

#include <stdatomic.h>
#include <sys/epoll.h>

#include "naru/engine.h"

/* ---- slab.c ---- */

#define NR_SLAB_CHUNK_ITEMS 256u

/* First members of every item. An odd generation: in use. */
struct nr_slab_item {
    uint32_t generation;
    uint32_t next_free; /* place + 1; 0: none. The owner's while in use. */
};

struct nr_slab {
    size_t item_bytes;
    uint32_t used, first_free; /* place + 1 */
    uint32_t place_count, chunk_room;
    uint8_t **chunks;
};

void nr_slab_init(struct nr_slab *, size_t item_bytes);
void nr_slab_destroy(struct nr_slab *);
/* A zeroed item but for its first members; NULL: no memory. */
void *nr_slab_take(struct nr_slab *, uint32_t *place);
void nr_slab_give(struct nr_slab *, uint32_t place);

static inline void *nr_slab_at(const struct nr_slab *slab, uint32_t place)
{
    return slab->chunks[place / NR_SLAB_CHUNK_ITEMS] +
           (size_t)(place % NR_SLAB_CHUNK_ITEMS) * slab->item_bytes;
}

static inline uint64_t nr_slab_number(const struct nr_slab *slab, uint32_t place)
{
    const struct nr_slab_item *item = nr_slab_at(slab, place);

    return (uint64_t)item->generation << 32 | place;
}

/* The item of a number, or NULL when it is gone. */
static inline void *nr_slab_find(const struct nr_slab *slab, uint64_t number)
{
    uint32_t place = (uint32_t)number, generation = (uint32_t)(number >> 32);
    struct nr_slab_item *item;

    if (place >= slab->place_count || !(generation & 1u))
        return NULL;
    item = nr_slab_at(slab, place);
    return item->generation == generation ? item : NULL;
}

/* ---- sources.c ---- */

struct source {
    uint32_t generation;
    uint32_t next, previous; /* in its ready list: place + 1. `next` is the slab's while free. */
    int fd;                  /* -1: forgotten by its owner, its number was reused */
    nr_source_callback callback;
    void *data;
    uint8_t wanted, pending;
    uint8_t priority;
    uint8_t turn; /* of the engine, when it was put on the ready list */
    bool one_shot : 1, edge : 1, disarmed : 1, listed : 1;
};

_Static_assert(sizeof(struct source) == 40, "a source is 40 bytes");

struct ready_list {
    uint32_t head, tail; /* place + 1 */
};

struct nr_sources {
    struct nr_slab slab;
    uint32_t *owners; /* by descriptor: place + 1 of its source */
    uint32_t owner_room;
    struct ready_list ready[NR_PRIORITIES];
    _Atomic uint32_t ready_count;
};

void nr_sources_init(struct nr_sources *);
void nr_sources_destroy(struct nr_sources *);
/* What the kernel reported goes to the ready lists. */
void nr_sources_collect(struct nr_engine *, const struct epoll_event *, int count);
/* Runs what was ready when the turn began: the number of callbacks, or a negative result. */
int nr_sources_run(struct nr_engine *, uint64_t until_ns);
/* Registers all of them with another epoll. */
int nr_sources_register_all(struct nr_engine *, int epoll);

/* ---- timers.c ---- */

struct heap_entry {
    uint64_t due_ns, sequence;
    uint32_t place;
};

struct nr_timers {
    struct nr_slab slab;
    struct heap_entry *heap;
    uint32_t count, room;
    uint64_t next_sequence;
    uint64_t armed_ns; /* what the timerfd is set to; NR_FOREVER: off */
};

void nr_timers_init(struct nr_timers *);
void nr_timers_destroy(struct nr_timers *);
/* Runs what is due: the number of callbacks, or a negative result. */
int nr_timers_run(struct nr_engine *, uint64_t now_ns);
/* Sets the timerfd to the next one; after it expired. */
void nr_timers_rearm(struct nr_engine *);

/* ---- engine.c ---- */

/* Event data of the engine's own descriptors; no source has an even generation. */
#define NR_DATA_WAKE 0u
#define NR_DATA_TIMER 1u

#define NR_STALE_TURNS_MOST 4u

struct nr_engine {
    const uint32_t *alive; /* NR_ALIVE; zero in a forked child */
    int epoll, timer, bell;
    uint64_t turn_ns, turn_start_ns;
    struct nr_sources sources;
    struct nr_timers timers;
    nr_wake_callback on_wake;
    void *on_wake_data;
    atomic_bool rung, stopped, asleep;
    bool dispatching, timer_expired;
    uint8_t turn;
    unsigned stale_turns;
    struct nr_engine_statistics statistics; /* written by nr_count() only */
    struct epoll_event *events;
    int room;
    _Atomic int collected; /* of `events`, by a wait that no dispatch has followed yet */
};

#define NR_ALIVE 0x6e617275u

static inline bool nr_engine_is_foreign(const struct nr_engine *engine)
{
    return *engine->alive != NR_ALIVE;
}

/* One writer at a time; nr_engine_read_statistics() may look at any moment. */
static inline void nr_count(uint64_t *counter, uint64_t more)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + more, __ATOMIC_RELAXED);
}

#endif
