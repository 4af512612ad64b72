/* naru/ring.h: a single-producer single-consumer byte ring in shared memory.
 *
 * Layout of the control page (offsets in bytes; each word on its own 128 bytes, because this
 * class of CPU prefetches cache lines in pairs):
 *
 *      0  u64 tail             written by the producer: bytes ever written
 *    128  u64 head             written by the consumer: bytes ever released
 *    256  u32 consumer_sleeps  1: ring the consumer's doorbell
 *    384  u64 producer_wants   0: awake; else ring the producer's doorbell once so much is free
 *    512  u32 producer_closed  1: closed in good order, no record will follow
 *    640  reserved, zero
 *
 * The data follows elsewhere in the segment (segment.h), mapped twice in a row, so that a record
 * which crosses the end is contiguous. Positions only grow; a ring starts at the place
 * `first_position % capacity` and goes on from there.
 *
 * Trust: a peer may be hostile or broken. Each side keeps its own position and its own capacity in
 * private memory, reads a shared word once, checks the copy, and leaves with -EBADMSG when it does
 * not add up. Nothing that the peer writes can move a read or a write out of the mapping.
 *
 * Crash: a record is invisible until `tail` moves past it, so a producer killed at any instruction
 * leaves whole records only. */
#ifndef NARU_RING_H
#define NARU_RING_H

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "naru/crashpoint.h"
#include "naru/os.h"
#include "naru/record.h"

#define NR_RING_LINE 128

struct nr_ring_control {
    _Alignas(NR_RING_LINE) _Atomic uint64_t tail;
    _Alignas(NR_RING_LINE) _Atomic uint64_t head;
    _Alignas(NR_RING_LINE) _Atomic uint32_t consumer_sleeps;
    _Alignas(NR_RING_LINE) _Atomic uint64_t producer_wants;
    _Alignas(NR_RING_LINE) _Atomic uint32_t producer_closed;
    _Alignas(NR_RING_LINE) uint8_t reserved[4096 - 5 * NR_RING_LINE];
};

_Static_assert(sizeof(struct nr_ring_control) == 4096, "the control block is one page");
_Static_assert(offsetof(struct nr_ring_control, head) == 128, "layout");
_Static_assert(offsetof(struct nr_ring_control, consumer_sleeps) == 256, "layout");
_Static_assert(offsetof(struct nr_ring_control, producer_wants) == 384, "layout");
_Static_assert(offsetof(struct nr_ring_control, producer_closed) == 512, "layout");

/* One side's private view. `position` is this side's own (tail of a producer, read cursor of a
 * consumer), `limit` its last copy of the other's. They are atomic only because a thread of this
 * process may spin on them without the lock that orders writers; relaxed costs nothing. */
struct nr_ring {
    struct nr_ring_control *control; /* NULL: this direction does not exist */
    uint8_t *data;
    uint64_t capacity; /* a multiple of the page size */
    _Atomic uint64_t position;
    uint64_t limit;
    uint64_t published; /* producer: tail as the peer sees it; consumer: head, likewise */
    uint64_t offset;    /* place in the data of `position` (producer), `published` (consumer); kept
                         * beside the position, because a division costs as much as a small copy */
    bool fences;        /* the peer has no membarrier(2): pay for a fence at each hand-over */
};

#define NR_RING_PAD(size) (((uint64_t)(size) + 7u) & ~(uint64_t)7u)

static inline uint64_t nr_ring_position(const struct nr_ring *ring)
{
    return atomic_load_explicit(&ring->position, memory_order_relaxed);
}

/* Keeps `offset` within the capacity; `bytes` is at most that. */
static inline void nr_ring_move(struct nr_ring *ring, uint64_t bytes)
{
    ring->offset += bytes;
    if (ring->offset >= ring->capacity)
        ring->offset -= ring->capacity;
}

static inline void nr_ring_advance(struct nr_ring *ring, uint64_t bytes)
{
    atomic_store_explicit(&ring->position, nr_ring_position(ring) + bytes, memory_order_relaxed);
}

/* Orders an earlier store to the shared page before a later load of the peer's sleep word. With
 * membarrier the sleeper pays instead (nr_ring_*_falls_asleep) and this is nothing.
 * Rejected: always fencing. It drains the store buffer once a message, which costs the overlap of
 * one message's cache misses with the next message's copy. */
static inline void nr_ring_hand_over(const struct nr_ring *ring)
{
#if defined(__SANITIZE_THREAD__)
    (void)ring; /* TSan knows no fences; the tests run with membarrier */
#else
    if (ring->fences)
        atomic_thread_fence(memory_order_seq_cst);
#endif
    atomic_signal_fence(memory_order_seq_cst);
}

/* ---- producer ---- */

/* The most payload that one record can carry. */
static inline uint64_t nr_ring_max_record(const struct nr_ring *ring)
{
    uint64_t most = ring->capacity - NR_RECORD_HEADER;

    return most < NR_MAX_MESSAGE ? most : NR_MAX_MESSAGE;
}

static inline int nr_ring_refresh_head(struct nr_ring *ring)
{
    /* pairs with: nr_ring_release */
    uint64_t head = atomic_load_explicit(&ring->control->head, memory_order_acquire);
    uint64_t used = nr_ring_position(ring) - head;

    if (used > ring->capacity || head & 7u)
        return -EBADMSG;
    ring->limit = head;
    return 0;
}

/* Finds room for one record of `size` payload bytes, at most NR_MAX_MESSAGE: 0 and the payload's
 * place; -EAGAIN when the ring is full; -EMSGSIZE when it can never fit; -EBADMSG for a nonsensical
 * head. A place that is not committed costs nothing: the next reserve finds it again. */
static inline int nr_ring_reserve(struct nr_ring *ring, uint64_t size, uint8_t **place)
{
    uint64_t need = NR_RECORD_HEADER + NR_RING_PAD(size);
    uint64_t tail = nr_ring_position(ring);

    if (__builtin_expect(need > ring->capacity - (tail - ring->limit), 0)) {
        int result;

        if (size > nr_ring_max_record(ring))
            return -EMSGSIZE;
        result = nr_ring_refresh_head(ring);
        if (result < 0)
            return result;
        if (need > ring->capacity - (tail - ring->limit))
            return -EAGAIN;
    }
    *place = ring->data + ring->offset + NR_RECORD_HEADER;
    NR_CRASHPOINT(NR_AT_RESERVED);
    return 0;
}

/* Completes the record at the reserved place; not visible until nr_ring_publish(). */
static inline void nr_ring_commit(struct nr_ring *ring, uint32_t size, uint32_t flags)
{
    struct nr_record record = {size, flags};

    NR_CRASHPOINT(NR_AT_COMMIT);
    memcpy(ring->data + ring->offset, &record, sizeof record);
    NR_CRASHPOINT(NR_AT_COMMITTED);
    nr_ring_move(ring, NR_RECORD_HEADER + NR_RING_PAD(size));
    nr_ring_advance(ring, NR_RECORD_HEADER + NR_RING_PAD(size));
}

static inline void nr_ring_publish(struct nr_ring *ring)
{
    NR_CRASHPOINT(NR_AT_PUBLISH);
    ring->published = nr_ring_position(ring);
    /* pairs with: nr_ring_refresh_tail */
    atomic_store_explicit(&ring->control->tail, ring->published, memory_order_release);
    NR_CRASHPOINT(NR_AT_PUBLISHED);
    nr_ring_hand_over(ring);
}

/* True once: the consumer sleeps, and it is now this producer's duty to ring its doorbell.
 * pairs with: nr_ring_consumer_falls_asleep */
static inline bool nr_ring_consumer_must_be_woken(struct nr_ring *ring)
{
    if (__builtin_expect(
            !atomic_load_explicit(&ring->control->consumer_sleeps, memory_order_relaxed), 1))
        return false;
    atomic_store_explicit(&ring->control->consumer_sleeps, 0, memory_order_relaxed);
    NR_CRASHPOINT(NR_AT_CONSUMER_CALLED);
    return true;
}

/* ---- consumer ---- */

static inline int nr_ring_refresh_tail(struct nr_ring *ring)
{
    /* pairs with: nr_ring_publish */
    uint64_t tail = atomic_load_explicit(&ring->control->tail, memory_order_acquire);

    if (tail - ring->published > ring->capacity || tail - nr_ring_position(ring) > ring->capacity ||
        tail & 7u)
        return -EBADMSG;
    ring->limit = tail;
    return 0;
}

/* Steps over the next record: 1 with its header and payload in place (valid until
 * nr_ring_release), -EAGAIN when there is none, -EBADMSG when the peer wrote nonsense. */
static inline int nr_ring_next(struct nr_ring *ring, struct nr_record *record,
                               const uint8_t **payload)
{
    uint64_t cursor = nr_ring_position(ring);
    uint64_t available = ring->limit - cursor;
    uint64_t header;
    const uint8_t *place;

    if (__builtin_expect(available == 0, 0)) {
        int result = nr_ring_refresh_tail(ring);

        if (result < 0)
            return result;
        available = ring->limit - cursor;
        if (available == 0)
            return -EAGAIN;
    }
    /* from the first unreleased byte on, so that a batch is one contiguous run of addresses */
    place = ring->data + ring->offset + (cursor - ring->published);
    /* Atomic, so that the compiler may not fetch it again after the checks: the peer may write. */
    header = atomic_load_explicit((const _Atomic uint64_t *)place, memory_order_relaxed);
    if (available < NR_RECORD_HEADER ||
        nr_record_parse((const uint8_t *)&header, NR_MAX_MESSAGE, record) < 0 ||
        NR_RING_PAD(record->length) > available - NR_RECORD_HEADER)
        return -EBADMSG;
    *payload = place + NR_RECORD_HEADER;
    NR_CRASHPOINT(NR_AT_NEXT);
    nr_ring_advance(ring, NR_RECORD_HEADER + NR_RING_PAD(record->length));
    NR_CRASHPOINT(NR_AT_TAKEN);
    return 1;
}

/* Gives everything up to the cursor back to the producer. */
static inline void nr_ring_release(struct nr_ring *ring)
{
    NR_CRASHPOINT(NR_AT_RELEASE);
    nr_ring_move(ring, nr_ring_position(ring) - ring->published);
    ring->published = nr_ring_position(ring);
    /* pairs with: nr_ring_refresh_head */
    atomic_store_explicit(&ring->control->head, ring->published, memory_order_release);
    NR_CRASHPOINT(NR_AT_RELEASED);
    nr_ring_hand_over(ring);
}

/* True once: the producer sleeps and has what it wanted, or all there is to have. To be asked after
 * each release, and by a consumer that goes to sleep on records which it has not released: the
 * producer may have room for its record and still wait for a quarter of the ring, which would
 * never come.
 * pairs with: nr_ring_producer_falls_asleep */
static inline bool nr_ring_producer_must_be_woken(struct nr_ring *ring)
{
    uint64_t wants = atomic_load_explicit(&ring->control->producer_wants, memory_order_relaxed);
    uint64_t tail;

    if (__builtin_expect(wants == 0, 1))
        return false;
    tail = atomic_load_explicit(&ring->control->tail, memory_order_acquire);
    if (tail != nr_ring_position(ring) && ring->capacity - (tail - ring->published) < wants)
        return false;
    atomic_store_explicit(&ring->control->producer_wants, 0, memory_order_relaxed);
    NR_CRASHPOINT(NR_AT_PRODUCER_CALLED);
    return true;
}

/* ---- ring.c: the rare half ---- */

/* Readiness for a spinning thread that holds no lock: reads shared words only. */
bool nr_ring_has_record(const struct nr_ring *ring);
bool nr_ring_has_room(const struct nr_ring *ring, uint64_t bytes);
/* Announce sleep, then look once more: true when there is something after all (and the
 * announcement is taken back). A sleeper that got false may poll its doorbell. A producer has
 * published everything before, and wants `bytes` with the record's header and padding. */
bool nr_ring_consumer_falls_asleep(struct nr_ring *ring);
bool nr_ring_producer_falls_asleep(struct nr_ring *ring, uint64_t bytes);
void nr_ring_consumer_wakes(struct nr_ring *ring);
void nr_ring_producer_wakes(struct nr_ring *ring);
/* Bytes that are written and not yet released, for statistics. */
uint64_t nr_ring_depth_bytes(const struct nr_ring *ring);

#endif
