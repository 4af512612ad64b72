/* table_parts.h: the structs of the shared table (naru/table.h), and what its files tell each other.
 *
 *     table.c             file, header, handle, clock, tags
 *     table_hash.c        keyed hash
 *     table_read.c        readers: no locks
 *     table_statistics.c  what was counted
 *     table_lock.c        mutex of a shard, repair after a death
 *     table_index.c       the writer's way to slots; each change with its intent
 *     table_log.c         records, heads and tails of the logs
 *     table_gaps.c        replaced records, whose room is taken again
 *     table_evict.c       S3-FIFO: what leaves, what stays, ghosts
 *     table_write.c       set, delete, touch, update, clear
 *     table_number.c      incr
 *     table_check.c       every slot and record against each other
 *     table_claims.c      locks by name
 *     table_watch.c       who is told of changes
 *     table_bytes.h       bytes that are read while they change; records
 *
 * Shard (its control page first, all of it in the file)
 *        0  u64 tail[2]        the oldest byte of the small and the main log    readers look here
 *       64  the mutex
 *      128  u64 head[2]        the first byte that is nobody's; version, sums
 *      256  the intent         what the holder of the mutex is about to change
 *      512  counters
 *     1024  gaps: replaced records whose room one of the same size may take
 *     1536  what has changed, for those who watch: naru/table_watch.h
 *     4096  index, ghosts, small log, main log
 * Record (8 byte words, a multiple of them)
 *        0  u32 version (0: filler, no more words), u32 bytes of the value (filler: of all of it)
 *        8  39 bit expiry in ms (0: never) | 16 bit bytes of the key | 5 bit tags | 4 bit kind
 *       16  u64 for each tag: its counter's number << 32 | what the counter said; key; value */
#ifndef NR_TABLE_PARTS_H
#define NR_TABLE_PARTS_H

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>

#include "naru/crashpoint.h"
#include "naru/os.h"
#include "naru/table.h"
#include "naru/table_watch.h"

#define NR_TABLE_PAGE 4096u
#define NR_BUCKET_SLOTS 8u
#define NR_RECORD_WORDS 16u /* bytes of its header */
#define NR_EXPIRY_BITS 39   /* 17 years of milliseconds */
#define NR_NO_SLOT UINT64_MAX
#define NR_GAPS 16u
#define NR_GAP_MOST 4096u /* bytes of a record that may be replaced in the middle of a log */

enum { NR_SMALL, NR_MAIN, NR_LOGS };

/* ---- slots ---- */

#define NR_SLOT_ONE_READ (1ull << 46)
#define NR_SLOT_READS (3ull << 46)
#define NR_SLOT_MAIN (1ull << 45)
#define NR_SLOT_OFFSET (NR_SLOT_MAIN - 1)

static inline uint64_t nr_slot_make(uint64_t tag, uint64_t reads, int log, uint64_t offset)
{
    return tag << 48 | reads << 46 | (uint64_t)log << 45 | offset >> 3;
}
static inline uint64_t nr_slot_tag(uint64_t slot) { return slot >> 48; }
static inline uint64_t nr_slot_reads(uint64_t slot) { return slot >> 46 & 3; }
static inline int nr_slot_log(uint64_t slot) { return slot & NR_SLOT_MAIN ? NR_MAIN : NR_SMALL; }
static inline uint64_t nr_slot_offset(uint64_t slot) { return (slot & NR_SLOT_OFFSET) << 3; }
static inline bool nr_slot_is_same(uint64_t a, uint64_t b) { return ((a ^ b) & ~NR_SLOT_READS) == 0; }

/* ---- the file ---- */

struct nr_watcher {
    _Atomic uint64_t pid; /* 0: free */
    _Atomic uint64_t started, number;
};

struct nr_table_header {
    uint8_t magic[8]; /* last of all: a half-made file has none */
    uint32_t layout, byte_order;
    uint64_t total_bytes;
    uint64_t shard_bytes;
    uint32_t shards, entry_bytes, small_percent, reserved;
    uint64_t seed[2];
    char codec[NR_TABLE_CODECS];
    /* of this boot: set again by who opens the file first after another one */
    uint8_t boot[16];
    uint64_t pid_namespace;
    int64_t made_real_ms; /* CLOCK_REALTIME: how long the machine was off */
    _Atomic int64_t clock_base_ms;
    alignas(64) _Atomic uint64_t successor;
    _Atomic uint64_t watched;     /* a bit for each watcher; beside what every writer looks at */
    _Atomic uint64_t evicted_tags; /* while watched */
    _Atomic uint64_t copier;      /* who makes a new generation of it: a pid */
    alignas(64) pthread_mutex_t rebuilding; /* whoever makes a shard's mutex anew, or changes watchers */
    alignas(64) struct nr_watcher watchers[NR_WATCHERS];
};
static_assert(sizeof(struct nr_table_header) <= NR_TABLE_PAGE, "one page");
static_assert(offsetof(struct nr_table_header, successor) == 128, "layout");

struct nr_claim {
    _Atomic uint64_t hash; /* of its name; written last */
    _Atomic uint32_t pid;  /* 0: free */
    uint32_t reserved;
    _Atomic uint64_t started, number;
    _Atomic int64_t expires_ms;
    uint64_t padding[3];
};
static_assert(sizeof(struct nr_claim) == 64, "layout");

struct nr_sums {
    _Atomic uint64_t entries;
    _Atomic uint64_t live_bytes[NR_LOGS]; /* records that a slot points to, with header and padding */
};

/* What a change of one slot does to the sums: written before it, so that the next owner of the mutex
 * sees from the slot alone whether it happened. */
enum { NR_INTENDS_NOTHING, NR_INTENDS_SLOT, NR_INTENDS_EMPTYING, NR_INTENDS_DROPPING };
struct nr_intent {
    _Atomic uint64_t state; /* DROPPING: + log << 8 */
    uint64_t slot, value;
    uint64_t before[3], after[3];
};

enum nr_counter {
    NR_HITS,
    NR_MISSES,
    NR_SETS,
    NR_DELETES,
    NR_EVICTED,
    NR_EXPIRED,
    NR_GHOSTS_RETURNED,
    NR_MOVED_TO_MAIN,
    NR_INDEX_EVICTED,
    NR_RETRIES,
    NR_LOCK_WAITS,
    NR_LOCK_TIMEOUTS,
    NR_OWNERS_DIED,
    NR_REBUILT,
    NR_LAST_RECOVERY_NS,
    NR_COUNTERS
};

/* Known to nobody else once taken; its first word stays a filler's until a record is whole there. */
struct nr_gap {
    uint64_t tail; /* of its log when it was left: whether the tail has passed it follows */
    uint64_t offset;
    uint32_t bytes; /* 0: none */
    uint32_t log;
};

#define NR_NOTES 128u /* a power of two */
struct nr_note {
    _Atomic uint64_t hash, what;
};

struct nr_shard {
    alignas(64) _Atomic uint64_t tail[NR_LOGS];
    alignas(64) pthread_mutex_t lock;
    alignas(64) _Atomic uint64_t head[NR_LOGS];
    uint64_t version;
    struct nr_sums sums;
    _Atomic uint64_t gaps_taken; /* readers whose key was not where a slot pointed look here */
    alignas(64) _Atomic uint32_t awaited; /* somebody sleeps until a claim is given back */
    _Atomic uint32_t given_back;          /* the word that they sleep on */
    alignas(256) struct nr_intent intent;
    alignas(512) _Atomic uint64_t counters[NR_COUNTERS];
    alignas(1024) struct nr_gap gaps[NR_GAPS]; /* by size: bytes / 8 % NR_GAPS */
    alignas(512) _Atomic uint64_t watch_noted; /* naru/table_watch.h */
    _Atomic uint64_t watch_changed;
    alignas(2048) struct nr_note notes[NR_NOTES];
};
static_assert(sizeof(struct nr_shard) <= NR_TABLE_PAGE, "one page");
static_assert(offsetof(struct nr_shard, head) == 128, "layout");
static_assert(offsetof(struct nr_shard, intent) == 256, "layout");
static_assert(offsetof(struct nr_shard, counters) == 512, "layout");
static_assert(offsetof(struct nr_shard, gaps) == 1024, "layout");
static_assert(offsetof(struct nr_shard, watch_noted) == 1536, "layout");
static_assert(offsetof(struct nr_shard, notes) == 2048, "layout");

/* ---- this process ---- */

/* Where what is in a shard; from the settings alone, never from what anybody may write. */
struct nr_layout {
    uint32_t shards, entry_bytes, small_percent;
    uint64_t total_bytes, shard_bytes;
    uint32_t buckets;    /* of a shard */
    uint32_t ghost_sets; /* words of four fingerprints */
    uint64_t ghosts_at, log_at[NR_LOGS], log_bytes[NR_LOGS];
    uint64_t record_most;
};

struct nr_tally { /* of one shard; zeroed in a forked child, which has counted nothing */
    alignas(64) _Atomic uint64_t hits;
    _Atomic uint64_t misses;
};

struct nr_table {
    uint8_t *map;
    struct nr_table_header *header;
    _Atomic uint32_t *tags;
    struct nr_claim *claims;
    uint8_t *first_shard;
    struct nr_layout layout;
    uint64_t hash_keys[4];
    struct nr_tally *tallies;
    _Atomic int64_t clock_shift_ms;
    uint64_t short_wait_ns; /* whoever gives a lock up sooner is not counted */
    uint32_t watcher; /* whose process this is, from 1 on; 0: nobody's */
};

/* A shard as its writer sees it, and what is decided within one change. */
struct nr_view {
    struct nr_table *table;
    struct nr_shard *shard;
    _Atomic uint64_t *slots;
    uint64_t *ghosts;
    uint8_t *log[NR_LOGS];
    const struct nr_layout *layout;
    uint32_t number;
    uint64_t replaced; /* the slot whose record is about to be replaced: its eviction is none */
    bool removing; /* a slot that is cleared was asked for, not evicted */
    uint64_t may_move_bytes; /* from main's tail to its head: bounds the work of one set */
};

static inline struct nr_shard *nr_shard_at(const struct nr_table *table, uint32_t number)
{
    return (struct nr_shard *)(table->first_shard + number * table->layout.shard_bytes);
}
static inline struct nr_view nr_view_of(struct nr_table *table, uint32_t number)
{
    uint8_t *base = table->first_shard + number * table->layout.shard_bytes;

    return (struct nr_view){
        .table = table,
        .shard = (struct nr_shard *)base,
        .slots = (_Atomic uint64_t *)(base + NR_TABLE_PAGE),
        .ghosts = (uint64_t *)(base + table->layout.ghosts_at),
        .log = {base + table->layout.log_at[0], base + table->layout.log_at[1]},
        .layout = &table->layout,
        .number = number,
        .replaced = NR_NO_SLOT,
    };
}

/* ---- what a hash decides: bits 0..9 shard, 10..25 tag, 32..63 first bucket; mixed: the second ---- */

static inline uint32_t nr_hash_shard(const struct nr_layout *layout, uint64_t hash)
{
    return (uint32_t)hash & (layout->shards - 1);
}
static inline uint64_t nr_hash_tag(uint64_t hash)
{
    uint64_t tag = hash >> 10 & 0xffff;

    return tag ? tag : 1; /* so that no slot is 0 but an empty one */
}
static inline uint64_t nr_hash_bucket(const struct nr_layout *layout, uint64_t hash, int which)
{
    if (which)
        hash = (hash ^ hash >> 29) * 0x9e3779b97f4a7c15ull;
    return ((hash >> 32) * layout->buckets >> 32) * NR_BUCKET_SLOTS;
}
uint64_t nr_table_hash(const uint64_t keys[4], const void *bytes, size_t size);
/* Has the tail, which was at `seen`, passed the record at `offset` by now? It lies at the only position from
 * `seen` on with that offset. The division is for tails that moved. */
static inline bool nr_tail_has_passed(uint64_t log_bytes, uint64_t seen, uint64_t tail, uint64_t offset)
{
    uint64_t ahead;

    if (__builtin_expect(tail == seen, 1))
        return false;
    ahead = offset + log_bytes - seen % log_bytes;
    if (ahead >= log_bytes)
        ahead -= log_bytes;
    return tail - seen > ahead;
}
static inline void nr_prefetch_buckets(const struct nr_table *table, uint64_t hash)
{
    const struct nr_layout *layout = &table->layout;
    const uint64_t *slots = (const uint64_t *)(table->first_shard + NR_TABLE_PAGE +
                                               nr_hash_shard(layout, hash) * layout->shard_bytes);

    __builtin_prefetch(slots + nr_hash_bucket(layout, hash, 0));
    __builtin_prefetch(slots + nr_hash_bucket(layout, hash, 1));
}

#include "table_bytes.h"

/* ---- table.c ---- */
void nr_table_fold(struct nr_table *, uint32_t shard);

/* ---- table_lock.c ---- */
int nr_mutex_make(pthread_mutex_t *);
int nr_shard_lock(struct nr_table *, uint32_t shard, uint64_t deadline_ns);
int nr_shard_lock_to_write(struct nr_table *, uint32_t shard, uint64_t deadline_ns); /* -ESTALE */
void nr_shard_unlock(struct nr_table *, uint32_t shard);

/* ---- table_index.c: under the mutex ---- */
uint64_t nr_index_find(const struct nr_view *, const struct nr_key *, struct nr_record_facts *);
uint64_t nr_index_find_slot(const struct nr_view *, uint64_t hash, uint64_t slot);
uint64_t nr_index_find_empty(const struct nr_view *, uint64_t hash); /* NR_NO_SLOT: both are full */
uint64_t nr_index_find_least(const struct nr_view *, uint64_t hash); /* whom nobody will miss */
/* The instant of every change. `gone` and `come`: bytes of the record that the slot points to before and
 * after it; 0: none. */
void nr_index_change(struct nr_view *, uint64_t number, uint64_t value, uint64_t gone, uint64_t come);
void nr_index_clear(struct nr_view *, uint64_t number); /* whatever it points to */
void nr_index_repair(struct nr_view *);                 /* of a holder that died */
void nr_index_recount(struct nr_view *);
void nr_shard_empty(struct nr_view *);
void nr_shard_drop_log(struct nr_view *, int log); /* whose records cannot be walked any more */
static inline const uint8_t *nr_slot_record(const struct nr_view *view, uint64_t slot)
{
    return view->log[nr_slot_log(slot)] + nr_slot_offset(slot);
}
bool nr_slot_facts(const struct nr_view *, uint64_t slot, struct nr_record_facts *);

/* ---- table_log.c, table_gaps.c: under the mutex ---- */
struct nr_spot { /* room for a record */
    uint8_t *at;
    uint64_t offset, bytes;
};
bool nr_log_has_room(const struct nr_view *, int log, uint64_t bytes, uint64_t spare);
void nr_log_reserve(struct nr_view *, int log, uint64_t bytes, struct nr_spot *); /* has_room said so */
void nr_log_commit(struct nr_view *, int log, const struct nr_spot *);
void nr_log_move_tail(struct nr_view *, int log, uint64_t bytes);
bool nr_log_is_empty(const struct nr_view *, int log);
/* Room of a replaced record of just that size; what is written there becomes a record with its first word,
 * which is stored last. */
bool nr_gap_take(const struct nr_view *, int log, uint64_t bytes, struct nr_spot *);
/* No slot points any more to the record that `slot` pointed to. */
void nr_gap_leave(const struct nr_view *, uint64_t slot, uint64_t bytes);

/* ---- table_evict.c: under the mutex ---- */
void nr_make_room(struct nr_view *, int log, uint64_t bytes);
bool nr_ghost_take(struct nr_view *, uint64_t hash); /* was it one? It is none any more */
void nr_ghost_add(struct nr_view *, uint64_t hash);

/* ---- table_claims.c ---- */
void nr_claims_wake(struct nr_shard *);

#endif
