/* naru/table.h: a cache in shared memory: keys and values that all processes of a machine share.
 *
 * One file of S shards (a power of two), each with an index and two circular logs. A key belongs to one
 * shard for ever (by its hash). Writers of a shard take its robust mutex; readers take nothing and write
 * nothing but two frequency bits. Eviction is S3-FIFO: what is new goes into the small log; what was
 * read since moves on to the main log when it comes to the small one's tail; what was not is forgotten,
 * and its fingerprint stays among the ghosts: a ghost that comes again goes to main at once.
 *
 * File
 *     0        struct nr_table_header (one page): what it is, its sizes, its secret hash key, the tags'
 *              and the shards' places. Written once, except `successor` and the counters of tags
 *     tags     NR_TABLE_TAGS counters of 32 bits (evict_tag: one is raised)
 *     claims   NR_TABLE_CLAIMS claims (locks by name, and who makes a value)
 *     shard 0  struct nr_shard (its own pages), index, ghosts, small log, main log
 *     shard 1  ...
 * Slot         64 bits, in buckets of 8 (one cache line); a key may be in one of two buckets:
 *                  63..48 tag of the hash | 47..46 frequency | 45 log (0 small, 1 main) | 44..0 offset / 8
 *              0: empty. Readers change the frequency only (compare-and-swap, and never twice).
 * Record       16 bytes, tag marks, key, value; padded to 8. Never crosses the end of its log:
 *              a filler stands before it. A log position is a count of bytes since creation and never goes
 *              back; the offset is the position modulo the log's bytes.
 * Publication  bytes beyond the head are nobody's. A writer fills a record there, moves the head, then
 *              stores the slot: that one store is the instant of the change. Before it overwrites, it
 *              clears or moves the slots of what lies there, and moves the tail. A record of up to 4 KiB
 *              that is replaced becomes a filler, and the next one of its size that replaces another may
 *              take its place: who sets the same keys again and again moves no head and no tail.
 * Reading      tail -> slot -> bytes -> "has the tail not passed them?". Positions do not repeat, so bytes
 *              that were written over between the two looks are always noticed; a slot that changed makes
 *              the value older, not wrong. Of small records the slot and the version are looked at once
 *              more, because their place may have been taken. What was read before that is not believed: lengths are bounded
 *              by the log first.
 * Death        of a writer at any instruction leaves a table that is right but for its sums: each
 *              change of a slot is announced in the shard's intent, from which the next owner of the mutex
 *              (EOWNERDEAD) sees what happened and sets the sums right; dying in there leaves it to the next. A shard whose control page contradicts
 *              itself is emptied and counted (`rebuilt`); the others do not notice.
 * A stopped    holder of a mutex is not robbed: -ETIMEDOUT for writers of that shard. Readers and other
 *              shards go on.
 * Expiry       milliseconds of CLOCK_BOOTTIME since the file was made; an expired record is not found, and
 *              its room is taken back when the tail comes to it.
 * Trust        whoever may write the file may write anything into it: no read leaves the mapping and no
 *              loop is endless whatever stands there, but values can be forged. Mode 0600 is the wall.
 * Fork         a handle may be used in the child; the mutexes know threads, and the child has its own.
 *
 * Every function is for any thread. Keys are 0..NR_TABLE_KEY_MOST bytes; values 0..nr_table_value_most().
 * Returns 0 or more, or -errno: -ENOENT not there (or expired, or its tag evicted), -EEXIST there,
 * -E2BIG too large for a shard, -EINVAL key too long, -ETIMEDOUT the lock, -ESTALE the table was resized:
 * open its successor, -EBADMSG not what it claims to be, -EPROTONOSUPPORT another layout, -EXDEV opened from
 * another pid namespace, where the holder of a mutex could not be told from a stranger. */
#ifndef NARU_TABLE_H
#define NARU_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define NR_TABLE_KEY_MOST 65535u
#define NR_TABLE_TAGS 65536u
#define NR_TABLE_TAGS_OF_ONE 16u
#define NR_TABLE_CLAIMS 4096u
#define NR_TABLE_CODECS 16u
/* Kinds that every program knows; 3..15 are Python's (src/naru/cache/codecs.py). */
#define NR_KIND_BYTES 0u
#define NR_KIND_INTEGER 1u /* decimal text; nr_table_add_to() keeps the kind that it finds */
#define NR_KIND_TEXT 2u    /* UTF-8 */

struct nr_table;

struct nr_table_settings {
    uint64_t size_bytes;   /* of the whole file, rounded up to pages; at least 1 MiB a shard */
    uint32_t shards;       /* a power of two, 1..1024; 0: 16, fewer when they would be below 1 MiB */
    uint32_t entry_bytes;  /* expected of key and value: sizes the index; 0: 128 */
    uint32_t small_percent;/* of the logs; 0: 10 */
    uint64_t seed[2];      /* of the hash; random */
    char codec[16];        /* how values that are no bytes were packed; for readers of another program */
};

/* A key with its hash; made once, used often. */
struct nr_key {
    const uint8_t *bytes;
    uint32_t size;
    uint64_t hash;
};

/* What stands with a value. */
struct nr_entry {
    uint64_t size_bytes;
    uint64_t version;      /* of this value: another after every change of it (cas); never 0 */
    int64_t expires_ms;    /* of the table's clock; 0: never */
    uint8_t kind;          /* the caller's, 0..15: how the value is packed */
    uint32_t tags;         /* how many */
};

/* ---- files and handles ---- */

/* `fd`: an empty file of the caller's, open for reading and writing. Allocated at once (fallocate:
 * -ENOSPC now, not SIGBUS later). The header is written last: a half-made file is -EBADMSG. */
int nr_table_create(int fd, const struct nr_table_settings *, struct nr_table **);
/* Checks magic, layout, sizes against the file's. The fd may be closed afterwards. */
int nr_table_open(int fd, struct nr_table **);
void nr_table_close(struct nr_table *);
/* In readers' way from now on: -ESTALE to writers; readers ask nr_table_successor() now and then. */
int nr_table_retire(struct nr_table *, uint64_t successor_number);
uint64_t nr_table_successor(const struct nr_table *); /* 0: none */
uint64_t nr_table_value_most(const struct nr_table *);
uint64_t nr_table_now_ms(const struct nr_table *);
/* Tests: added to the clock, in this process only. */
void nr_table_shift_clock(struct nr_table *, int64_t ms);
void nr_table_read_settings(const struct nr_table *, struct nr_table_settings *);

struct nr_key nr_table_key(const struct nr_table *, const void *bytes, size_t size);

/* ---- reading: no locks ---- */

/* Copies up to `room` bytes of the value to `into`; `entry->size_bytes` says how many there are
 * (more than room: -ENOBUFS, nothing is to be believed of `into`). Counts a hit or a miss, and marks the
 * entry as read. */
int nr_table_get(struct nr_table *, const struct nr_key *, void *into, size_t room,
                 struct nr_entry *entry);
/* For values whose size is not known: `place(context, size)` gives memory for the copy (NULL: -ENOMEM);
 * it may be called more than once (a writer came in between), with the size of the moment. */
int nr_table_get_with(struct nr_table *, const struct nr_key *, uint8_t *(*place)(void *, uint64_t),
                      void *context, struct nr_entry *entry);
/* As get, without a hit or a mark: for copies of everything, which are no use of it. */
int nr_table_peek(struct nr_table *, const struct nr_key *, void *into, size_t room, struct nr_entry *entry);
/* As get, without a copy, a hit or a mark. */
int nr_table_look(struct nr_table *, const struct nr_key *, struct nr_entry *entry);
/* The tags of a living entry, as nr_table_tag() gave them but for the bits that do not matter: how many. */
int nr_table_read_tags(struct nr_table *, const struct nr_key *, uint64_t tags[NR_TABLE_TAGS_OF_ONE]);
/* Fetches the buckets and records of many keys into the processor's cache: before a loop over them. */
void nr_table_prefetch(const struct nr_table *, const struct nr_key *, size_t count);

/* ---- writing: the shard's mutex, waited for until `deadline_ns` (nr_os_now_ns(); NR_FOREVER) ----
 * 0 tries once: -ETIMEDOUT at once, which no statistics count. */

enum nr_condition {
    NR_ALWAYS,
    NR_IF_ABSENT,   /* -EEXIST */
    NR_IF_PRESENT,  /* -ENOENT */
    NR_IF_VERSION,  /* -EAGAIN when it is another; -ENOENT */
};

struct nr_change {
    const struct iovec *parts; /* of the value */
    int count;
    uint8_t kind;
    enum nr_condition condition;
    uint64_t version;         /* NR_IF_VERSION */
    int64_t expires_ms;       /* 0: never; NR_KEEP_EXPIRY: as it was */
    const uint64_t *tags;     /* nr_table_tag(); */
    uint32_t tag_count;
};

#define NR_KEEP_EXPIRY INT64_MIN
#define NR_KEEP_TAGS UINT32_MAX /* as tag_count: those that it had, evicted ones too */

/* `written` (NULL: not asked) is what stands there now. */
int nr_table_set(struct nr_table *, const struct nr_key *, const struct nr_change *,
                 uint64_t deadline_ns, struct nr_entry *written);
int nr_table_delete(struct nr_table *, const struct nr_key *, uint64_t deadline_ns);
int nr_table_delete_version(struct nr_table *, const struct nr_key *, uint64_t version,
                            uint64_t deadline_ns);
int nr_table_touch(struct nr_table *, const struct nr_key *, int64_t expires_ms, uint64_t deadline_ns);
/* Read, change, write under the lock: `change` sees the value as it is (entry NULL: absent; bytes are in
 * place and end with the call) and fills in what shall stand; kind, expiry (NR_KEEP_EXPIRY) and tags
 * (NR_KEEP_TAGS) are as they were until it says otherwise, and parts may lie in the old bytes. It answers
 * 0 write, NR_LEAVE, NR_REMOVE, or -errno to leave it, which is the answer of the call too. It must not
 * call the table. (incr, append, SADD) */
#define NR_LEAVE 1
#define NR_REMOVE 2
int nr_table_update(struct nr_table *, const struct nr_key *, uint64_t deadline_ns,
                    int (*change)(void *context, const uint8_t *bytes, const struct nr_entry *entry,
                                  struct nr_change *change),
                    void *context, struct nr_entry *written);
/* Decimal integers of 64 bits in text, as Redis: -EDOM not a number, -ERANGE overflow. Absent: `initial`
 * itself is written, without delta (NULL: -ENOENT), to expire at expires_ms. What is there keeps its
 * expiry, kind and tags. */
int nr_table_add_to(struct nr_table *, const struct nr_key *, int64_t delta, const int64_t *initial,
                    int64_t expires_ms, uint64_t deadline_ns, int64_t *result);
/* All keys of a few shards at once: takes the shards' locks in order (MULTI/EXEC). Between lock and
 * unlock the same thread's calls on these shards take no lock. `mask`: one bit a shard, (shards + 63) / 64
 * words. */
int nr_table_lock_shards(struct nr_table *, const uint64_t *mask, uint64_t deadline_ns);
void nr_table_unlock_shards(struct nr_table *, const uint64_t *mask);
/* By who takes all of them to copy the table, which takes a while, as does waiting for them: whoever has
 * others to serve can see it, and come again. Of two at a time the first one says it; the other says it once
 * more when it has the locks. */
void nr_table_say_copied(struct nr_table *, uint32_t pid);
void nr_table_say_over(struct nr_table *, uint32_t pid);
uint64_t nr_table_copier(const struct nr_table *);  /* who said so: a pid, alive or not; 0: nobody */
bool nr_table_is_copied(const struct nr_table *);   /* and it lives */
uint32_t nr_table_shard_of(const struct nr_table *, const struct nr_key *);
/* For who comes again after a short wait: only longer ones of this process are lock_timeouts. */
void nr_table_comes_again_after(struct nr_table *, uint64_t short_wait_ns);

/* ---- tags: entries are forgotten together ---- */

uint64_t nr_table_tag(const struct nr_table *, const void *name, size_t size);
/* From now on nothing that bears the tag is found. Constant time. Two tags may share a counter (1 in
 * 65,536): then the other's entries are missed too. */
void nr_table_evict_tag(struct nr_table *, uint64_t tag);

/* ---- everything ---- */

int nr_table_clear(struct nr_table *, uint64_t deadline_ns);
/* Goes through a shard's index without a lock: each call gives the next entry at or behind *cursor (0:
 * the beginning) and moves it; -ENOENT: the end. What stays there all the time is given exactly once (a
 * change of its value does not move it to another slot); what comes or goes meanwhile may be given. The
 * key is copied to `key` (room NR_TABLE_KEY_MOST). */
int nr_table_scan(struct nr_table *, uint32_t shard, uint64_t *cursor, uint8_t *key,
                  uint32_t *key_bytes, struct nr_entry *entry);

struct nr_table_statistics {
    uint64_t entries, live_bytes, log_bytes, index_slots;
    uint64_t hits, misses, sets, deletes;
    uint64_t evicted, expired, ghosts_returned, moved_to_main, index_evicted;
    uint64_t retries;           /* of readers that a writer came across */
    uint64_t lock_waits, lock_timeouts, owners_died, rebuilt;
    uint64_t last_recovery_ns;
};
/* shard >= 0: of one; -1: of all. Hits and misses are counted by process in the handle and added to the
 * file now and then and at close: exact once all handles are closed. */
int nr_table_read_statistics(struct nr_table *, int shard, struct nr_table_statistics *);

struct nr_table_report {
    uint64_t entries, records, dead_records;
    uint64_t damaged_slots;   /* that pointed to nothing of theirs; repaired */
    uint64_t wrong_sums;      /* counters that did not agree; repaired */
};
/* Every slot and every record of a shard against each other, under its lock. */
int nr_table_check(struct nr_table *, uint32_t shard, bool repair, uint64_t deadline_ns,
                   struct nr_table_report *);

/* ---- claims: locks by name, and the turn to make a value ---- */

/* A claim is held by an owner (process and a number of its choice, so that threads and tasks differ) until
 * it is given back, its time is up, or its process is dead (pid and start time). */
struct nr_claim_owner {
    uint32_t pid;
    uint64_t started;       /* of the process: /proc/PID/stat, field 22 */
    uint64_t number;
};
/* 1: it is ours (again); 0: another's (`holder`); -ENOSPC: all claims are taken. Never waits for a holder. */
int nr_table_claim(struct nr_table *, const struct nr_key *, const struct nr_claim_owner *,
                   int64_t expires_ms, uint64_t deadline_ns, struct nr_claim_owner *holder);
int nr_table_give_back(struct nr_table *, const struct nr_key *, const struct nr_claim_owner *,
                       uint64_t deadline_ns); /* -EPERM: not ours */
/* Sleeps until somebody gave back a claim or set a value of this key's shard, the holder died, or the
 * time is up: at most `most_ns`. -EINTR is passed on. */
int nr_table_await_claim(struct nr_table *, const struct nr_key *, uint64_t most_ns);

#endif
