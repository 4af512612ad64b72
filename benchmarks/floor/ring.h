/*
 * ring.h: the least a shared-memory ring can be: one producer, one consumer.
 *
 * Holds: records of an 8-byte length and a payload padded to 8 bytes, in a
 * buffer mapped twice in a row so that each record is contiguous; positions
 * that only grow, each on its own cache line; each side's copy of the other's.
 * Must not know: waiting, other processes dying, hostile content. There is no
 * safety here: this is the bar that a safe ring is held against.
 * Joins: shm.c runs it.
 */
#ifndef FLOOR_RING_H
#define FLOOR_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { RING_HEADER_BYTES = 8 };

/* Shared by both sides. `sleeping` words are used by the waits of shm.c. */
typedef struct ring_shared {
    _Alignas(64) _Atomic uint64_t written;
    _Alignas(64) _Atomic uint64_t consumed;
    _Alignas(64) _Atomic uint32_t receiver_sleeps;
    _Atomic uint32_t receiver_wakes; /* the futex word */
} ring_shared;

/* One side's own view. */
typedef struct ring {
    ring_shared *shared;
    unsigned char *bytes; /* capacity bytes, then the same bytes again */
    uint64_t capacity;    /* a power of two, whole pages */
    uint64_t mine;        /* position reached by this side, published or not */
    uint64_t published;
    uint64_t theirs;      /* the other side's position as last seen */
} ring;

static inline uint64_t ring_record_bytes(size_t size_bytes) {
    return RING_HEADER_BYTES + ((size_bytes + 7u) & ~(uint64_t)7u);
}

/* Room for a record of size_bytes, or NULL while the ring is full. */
static inline unsigned char *ring_reserve(ring *self, size_t size_bytes) {
    uint64_t record = ring_record_bytes(size_bytes);
    if (self->mine + record - self->theirs > self->capacity) {
        /* pairs with: the release store in ring_release */
        self->theirs = atomic_load_explicit(&self->shared->consumed, memory_order_acquire);
        if (self->mine + record - self->theirs > self->capacity)
            return NULL;
    }
    unsigned char *at = self->bytes + (self->mine & (self->capacity - 1));
    *(uint64_t *)(void *)at = size_bytes;
    self->mine += record;
    return at + RING_HEADER_BYTES;
}

static inline void ring_publish(ring *self) {
    self->published = self->mine;
    /* pairs with: the acquire load in ring_peek */
    atomic_store_explicit(&self->shared->written, self->mine, memory_order_release);
}

/* The next record, or NULL while the ring is empty. */
static inline unsigned char *ring_peek(ring *self, size_t *size_bytes) {
    if (self->mine == self->theirs) {
        /* pairs with: the release store in ring_publish */
        self->theirs = atomic_load_explicit(&self->shared->written, memory_order_acquire);
        if (self->mine == self->theirs)
            return NULL;
    }
    unsigned char *at = self->bytes + (self->mine & (self->capacity - 1));
    *size_bytes = *(uint64_t *)(void *)at;
    self->mine += ring_record_bytes(*size_bytes);
    return at + RING_HEADER_BYTES;
}

static inline void ring_release(ring *self) {
    self->published = self->mine;
    /* pairs with: the acquire load in ring_reserve */
    atomic_store_explicit(&self->shared->consumed, self->mine, memory_order_release);
}

#endif
