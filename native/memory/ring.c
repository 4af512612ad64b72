#include "naru/ring.h"

bool nr_ring_has_record(const struct nr_ring *ring)
{
    return atomic_load_explicit(&ring->control->tail, memory_order_acquire) !=
           nr_ring_position(ring);
}

bool nr_ring_has_room(const struct nr_ring *ring, uint64_t bytes)
{
    uint64_t used = nr_ring_position(ring) -
                    atomic_load_explicit(&ring->control->head, memory_order_acquire);

    /* nonsense counts as room: the next reserve looks at it and reports -EBADMSG */
    return used > ring->capacity || ring->capacity - used >= bytes;
}

/* The sleeper's half of the asymmetric fence: after it, either the peer's hot side sees the
 * announcement, or this side sees what the peer had published.
 * pairs with: ring.h:nr_ring_hand_over */
static void sleeper_barrier(const struct nr_ring *ring)
{
#if !defined(__SANITIZE_THREAD__)
    atomic_thread_fence(memory_order_seq_cst);
#endif
    if (!ring->fences)
        (void)nr_os_barrier(); /* registered at attach: it cannot fail */
}

bool nr_ring_consumer_falls_asleep(struct nr_ring *ring)
{
    atomic_store_explicit(&ring->control->consumer_sleeps, 1, memory_order_seq_cst);
    NR_CRASHPOINT(NR_AT_CONSUMER_ANNOUNCED);
    sleeper_barrier(ring);
    if (!nr_ring_has_record(ring)) {
        NR_CRASHPOINT(NR_AT_CONSUMER_LOOKED);
        return false;
    }
    nr_ring_consumer_wakes(ring);
    return true;
}

bool nr_ring_producer_falls_asleep(struct nr_ring *ring, uint64_t bytes)
{
    /* Wait for a quarter of the ring, not for one record: waking costs more than a record. */
    uint64_t quarter = ring->capacity / 4;
    uint64_t wants = bytes > quarter ? bytes : quarter;

    atomic_store_explicit(&ring->control->producer_wants, wants, memory_order_seq_cst);
    NR_CRASHPOINT(NR_AT_PRODUCER_ANNOUNCED);
    sleeper_barrier(ring);
    if (!nr_ring_has_room(ring, bytes)) {
        NR_CRASHPOINT(NR_AT_PRODUCER_LOOKED);
        return false;
    }
    nr_ring_producer_wakes(ring);
    return true;
}

void nr_ring_consumer_wakes(struct nr_ring *ring)
{
    atomic_store_explicit(&ring->control->consumer_sleeps, 0, memory_order_relaxed);
}

void nr_ring_producer_wakes(struct nr_ring *ring)
{
    atomic_store_explicit(&ring->control->producer_wants, 0, memory_order_relaxed);
}

uint64_t nr_ring_depth_bytes(const struct nr_ring *ring)
{
    uint64_t tail = atomic_load_explicit(&ring->control->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&ring->control->head, memory_order_relaxed);

    return tail - head > ring->capacity ? 0 : tail - head;
}
