/* naru/broadcast.h: one writer, many readers, each with its own cursor in one shared ring.
 *
 * The data (a sealed memfd, made by the writer, mapped for reading only by everybody else:
 * F_SEAL_FUTURE_WRITE):
 *
 *        0  header: "NARUCAST", version, byte order, sizes (struct nr_broadcast_header)
 *     4096  control page, written by the writer alone:
 *               0 u64 tail      bytes ever written
 *               8 u64 newest    where the newest whole record begins (with the tail on one line)
 *             128 u64 floor     where the oldest record begins that has not been overwritten
 *             256 u32 closed    1: closed in good order, nothing follows
 *     8192  reserved, zero
 *    12288  data of the ring, mapped twice in a row
 *
 *   record   0      4      8        16           16+length
 *            +------+------+--------+------------+ . . . . +
 *            |length|flags |sequence|  payload   | padding |  padding to 8; flags are 0
 *            +------+------+--------+------------+ . . . . +
 *
 * A slot (a sealed memfd of one page for each reader, mapped by that reader and by the writer):
 *
 *        0  header: "NARUSLOT", version, byte order, policy, where to start (nr_broadcast_slot)
 *      512 u64 cursor          the reader has done with everything below
 *      640 u32 reader_sleeps   1: ring its doorbell
 *      768 u64 writer_wants    0: awake; else ring the writer's bell once the cursor is there
 *      896 u64 lost            messages that the reader missed, as it says
 *     1024 u32 reader_closed   1: left in good order
 *
 * Positions only grow and are multiples of 8. A record is invisible until `tail` moves past it.
 *
 * Policies. A `block` reader is never overtaken: the writer has to wait for its cursor. The others
 * may be: they copy, then look at `floor`, and what lies below it is thrown away and counted by its
 * sequence numbers (a seqlock whose counter is a position). The writer moves `floor` from record to
 * record *before* it overwrites anything, so floor is always a place where a reader can go on.
 *
 * Trust. Readers share no writable memory with each other: a broken one can ruin its own slot only,
 * whose cursor the writer compares with what it has written itself (-EBADMSG). A reader keeps its
 * cursor and capacity in private memory, reads each shared word once, and checks the copy. */
#ifndef NARU_BROADCAST_H
#define NARU_BROADCAST_H

#include "naru/segment.h"

#define NR_BROADCAST_VERSION 1u
#define NR_BROADCAST_RECORD 16u   /* the record's header */
#define NR_BROADCAST_DATA_FDS 4   /* what a reader gets: data, slot, data bell, space bell */
#define NR_BROADCAST_RUN 65536u   /* bytes that a reader which may be overtaken copies at once */

enum nr_policy { NR_POLICY_BLOCK = 0, NR_POLICY_DROP_OLDEST = 1, NR_POLICY_LATEST = 2 };

struct nr_broadcast_header {
    uint8_t magic[8];        /*  0  "NARUCAST" */
    uint32_t version;        /*  8 */
    uint32_t byte_order;     /* 12  0x01020304 */
    uint64_t total_bytes;    /* 16 */
    uint64_t capacity;       /* 24 */
    uint64_t first_position; /* 32  a multiple of 8 */
    uint64_t reserved[59];   /* 40 */
};

struct nr_broadcast_control {
    _Alignas(NR_RING_LINE) _Atomic uint64_t tail;
    _Atomic uint64_t newest;
    _Alignas(NR_RING_LINE) _Atomic uint64_t floor;
    _Alignas(NR_RING_LINE) _Atomic uint32_t closed;
    _Alignas(NR_RING_LINE) uint8_t reserved[4096 - 3 * NR_RING_LINE];
};

struct nr_broadcast_slot {
    uint8_t magic[8];        /*  0  "NARUSLOT" */
    uint32_t version;        /*  8 */
    uint32_t byte_order;     /* 12 */
    uint32_t policy;         /* 16  enum nr_policy */
    uint32_t padding;        /* 20 */
    uint64_t start;          /* 24  position of the first record to read */
    uint64_t start_sequence; /* 32  and its number */
    uint8_t header_rest[512 - 40];
    _Alignas(NR_RING_LINE) _Atomic uint64_t cursor;
    _Alignas(NR_RING_LINE) _Atomic uint32_t reader_sleeps;
    _Alignas(NR_RING_LINE) _Atomic uint64_t writer_wants;
    _Alignas(NR_RING_LINE) _Atomic uint64_t lost;
    _Alignas(NR_RING_LINE) _Atomic uint32_t reader_closed;
    _Alignas(NR_RING_LINE) uint8_t reserved[4096 - 512 - 5 * NR_RING_LINE];
};

struct nr_broadcast_record {
    uint32_t length;
    uint32_t flags;
    uint64_t sequence;
};

_Static_assert(sizeof(struct nr_broadcast_header) == 512, "layout");
_Static_assert(offsetof(struct nr_broadcast_header, first_position) == 32, "layout");
_Static_assert(sizeof(struct nr_broadcast_control) == 4096, "the control block is one page");
_Static_assert(offsetof(struct nr_broadcast_control, newest) == 8, "layout");
_Static_assert(offsetof(struct nr_broadcast_control, floor) == 128, "layout");
_Static_assert(offsetof(struct nr_broadcast_control, closed) == 256, "layout");
_Static_assert(sizeof(struct nr_broadcast_slot) == 4096, "a slot is one page");
_Static_assert(offsetof(struct nr_broadcast_slot, start_sequence) == 32, "layout");
_Static_assert(offsetof(struct nr_broadcast_slot, cursor) == 512, "layout");
_Static_assert(offsetof(struct nr_broadcast_slot, reader_sleeps) == 640, "layout");
_Static_assert(offsetof(struct nr_broadcast_slot, writer_wants) == 768, "layout");
_Static_assert(offsetof(struct nr_broadcast_slot, lost) == 896, "layout");
_Static_assert(offsetof(struct nr_broadcast_slot, reader_closed) == 1024, "layout");
_Static_assert(sizeof(struct nr_broadcast_record) == NR_BROADCAST_RECORD, "layout");

/* ---- the shared memory ---- */

/* Makes and maps the data; `*fd` is for the readers, who cannot map it for writing. -ENOSPC, -ENOMEM,
 * -EMFILE, -EINVAL for a bad capacity or position (Linux before 5.1: no F_SEAL_FUTURE_WRITE). */
int nr_broadcast_create(uint64_t capacity, uint64_t first_position, struct nr_segment **segment,
                        int *fd);
/* A reader's mapping of it, read-only, after the checks of nr_segment_map (same errors). */
int nr_broadcast_map(int fd, struct nr_segment **segment);
/* One page for a reader; returns its descriptor. */
int nr_broadcast_slot_create(enum nr_policy policy, uint64_t start, uint64_t start_sequence);
int nr_broadcast_slot_map(int fd, struct nr_broadcast_slot **slot);
void nr_broadcast_slot_unmap(struct nr_broadcast_slot *slot);

/* The most payload that one message can have: half of the ring, so that the newest message is always
 * there while the next is written. */
static inline uint64_t nr_broadcast_max_message(uint64_t capacity)
{
    uint64_t most = capacity / 2 - NR_BROADCAST_RECORD;

    return most < NR_MAX_MESSAGE ? most : NR_MAX_MESSAGE;
}

static inline uint64_t nr_broadcast_need(uint64_t size)
{
    return NR_BROADCAST_RECORD + NR_RING_PAD(size);
}

static inline struct nr_broadcast_control *nr_broadcast_control_of(const struct nr_segment *segment)
{
    return (struct nr_broadcast_control *)((uint8_t *)segment->header + NR_SEGMENT_PAGE);
}

/* ---- the writer ---- */

struct nr_broadcast_writer {
    struct nr_broadcast_control *control;
    uint8_t *data;
    uint64_t capacity;
    _Atomic uint64_t position; /* atomic for a thread that spins without the lock */
    uint64_t offset;           /* place in the data of `position` */
    uint64_t published;        /* the tail as readers see it; the floor never passes it */
    uint64_t newest;
    uint64_t floor, floor_offset;
    uint64_t sequence;         /* of the next record */
    bool fences;               /* some reader has no membarrier(2) */
};

void nr_broadcast_writer_start(struct nr_broadcast_writer *, const struct nr_segment *);
/* Room for a record of `size` bytes, at most the maximum; the caller knows that no `block` reader
 * stands in the way (nr_broadcast_fits). What it overwrites is given up now, even when no commit
 * follows. */
uint8_t *nr_broadcast_reserve(struct nr_broadcast_writer *, uint64_t size);
void nr_broadcast_fill(uint8_t *place, const void *data, uint64_t size);
void nr_broadcast_commit(struct nr_broadcast_writer *, uint64_t size);
void nr_broadcast_publish(struct nr_broadcast_writer *);
/* Where a reader that joins now begins: at the newest record, or at the first that will be. */
void nr_broadcast_join(const struct nr_broadcast_writer *, uint64_t *start, uint64_t *sequence);

static inline uint64_t nr_broadcast_position(const struct nr_broadcast_writer *writer)
{
    return atomic_load_explicit(&writer->position, memory_order_relaxed);
}

/* May `need` bytes be written while a `block` reader stands at `cursor`? */
static inline bool nr_broadcast_fits(const struct nr_broadcast_writer *writer, uint64_t cursor,
                                     uint64_t need)
{
    return nr_broadcast_position(writer) + need - cursor <= writer->capacity;
}

/* A slot's cursor, checked against what was written and what it was before: 0, or -EBADMSG. */
int nr_broadcast_cursor(const struct nr_broadcast_writer *, const struct nr_broadcast_slot *,
                        uint64_t before, uint64_t *cursor);
/* True once: this reader sleeps, and ringing its bell is now the writer's duty.
 * pairs with: broadcast.c:nr_broadcast_reader_falls_asleep */
static inline bool nr_broadcast_must_wake(struct nr_broadcast_slot *slot)
{
    if (__builtin_expect(!atomic_load_explicit(&slot->reader_sleeps, memory_order_relaxed), 1))
        return false;
    atomic_store_explicit(&slot->reader_sleeps, 0, memory_order_relaxed);
    return true;
}
/* Announces that the writer sleeps until `cursor` is reached; after the last slot, one barrier. */
void nr_broadcast_writer_announces(struct nr_broadcast_slot *, uint64_t cursor);
void nr_broadcast_barrier(bool fences);

/* ---- a reader ---- */

struct nr_broadcast_reader {
    const struct nr_broadcast_control *control; /* NULL: not started */
    struct nr_broadcast_slot *slot;
    const uint8_t *data;
    uint64_t capacity;
    enum nr_policy policy;
    bool fences;
    bool out;                  /* something that was taken is not released */
    _Atomic uint64_t position; /* everything below was delivered, or is lost */
    uint64_t released;         /* the cursor as the writer sees it */
    uint64_t offset;           /* place in the data of `released` (block) */
    uint64_t limit;            /* block: the last look at the tail */
    uint64_t sequence;         /* expected next */
    uint64_t lost;
    struct { /* the others: a private copy of a run of records */
        uint8_t *bytes;
        uint64_t size, next, end;
    } arena;
};

/* Takes the slot over. -EBADMSG: the slot's words do not fit; -ENOMEM. */
int nr_broadcast_reader_start(struct nr_broadcast_reader *, const struct nr_segment *,
                              struct nr_broadcast_slot *, bool fences);
void nr_broadcast_reader_stop(struct nr_broadcast_reader *); /* unmaps the slot */
void nr_broadcast_reader_free(struct nr_broadcast_reader *); /* and the private copy */
/* The next message: 1, with its place (in the ring for `block`, in a private copy for the others;
 * valid until nr_broadcast_release). -EAGAIN: none now. -ENOBUFS: not before a release. -EBADMSG. */
int nr_broadcast_next(struct nr_broadcast_reader *, const uint8_t **payload, uint64_t *size);
/* Done with everything taken so far. True: the writer's bell must be rung. */
bool nr_broadcast_release(struct nr_broadcast_reader *);
bool nr_broadcast_has_record(const struct nr_broadcast_reader *);
/* Announces sleep, then looks once more: true when there is something after all. */
bool nr_broadcast_reader_falls_asleep(struct nr_broadcast_reader *);
void nr_broadcast_reader_wakes(struct nr_broadcast_reader *);
uint64_t nr_broadcast_depth_bytes(const struct nr_broadcast_reader *);

#endif
