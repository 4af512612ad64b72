/* hostile.h: what an honest end does on a ring whose other end lies, and the values it lies with.
 *
 * The drivers touch what the ring hands out from end to end, so that a place out of bounds is a
 * SIGSEGV (guard pages of rings.h), and count their steps, so that no loop of theirs is endless. */
#ifndef NR_TESTS_HOSTILE_H
#define NR_TESTS_HOSTILE_H

#include <sys/time.h>

#include "rings.h"

#define HOSTILE_UNUSED __attribute__((unused)) static

/* Whatever a liar writes costs less than a second of CPU time, or the program ends. */
HOSTILE_UNUSED void allow_one_cpu_second(void)
{
    const struct itimerval limit = {{0, 0}, {1, 0}};

    signal(SIGPROF, check_hangs);
    setitimer(ITIMER_PROF, &limit, NULL);
}

HOSTILE_UNUSED void allow_everything(void)
{
    setitimer(ITIMER_PROF, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
}

/* Reads what there is: the records taken. `end` is why it stopped: -EAGAIN or -EBADMSG. */
HOSTILE_UNUSED uint64_t drive_consumer(struct nr_ring *ring, int *end)
{
    /* what the view knew of already, and a tail that a liar moved on since */
    const uint64_t most = 2 * ring->capacity / NR_RECORD_HEADER + 1;
    static volatile uint8_t sink __attribute__((unused));
    uint64_t taken = 0;
    int result;

    do {
        struct nr_record record;
        const uint8_t *payload = NULL;

        result = nr_ring_next(ring, &record, &payload);
        if (result != 1)
            break;
        taken++;
        REQUIRE(record.length <= ring->capacity - NR_RECORD_HEADER);
        REQUIRE(payload >= ring->data &&
                payload + record.length <= ring->data + 2 * ring->capacity);
        for (uint32_t i = 0; i < record.length; i += 64)
            sink = payload[i];
        if (record.length)
            sink = payload[record.length - 1];
        if (taken % 3 == 0) {
            nr_ring_release(ring);
            sink = nr_ring_producer_must_be_woken(ring);
        }
    } while (taken < most);
    nr_ring_release(ring);
    sink = nr_ring_producer_must_be_woken(ring);
    sink = nr_ring_has_record(ring);
    sink = (uint8_t)nr_ring_depth_bytes(ring);
    *end = result;
    return taken;
}

/* Writes records of `size` while there is room, at most what the ring can hold. */
HOSTILE_UNUSED uint64_t drive_producer(struct nr_ring *ring, uint64_t size, int *end)
{
    const uint64_t most = ring->capacity / NR_RECORD_HEADER;
    static volatile uint8_t sink __attribute__((unused));
    uint64_t written = 0;
    int result;

    do {
        uint8_t *place = NULL;

        result = nr_ring_reserve(ring, size, &place);
        if (result != 0)
            break;
        REQUIRE(place >= ring->data + NR_RECORD_HEADER &&
                place + size <= ring->data + 2 * ring->capacity);
        memset(place, 0xa5, size);
        nr_ring_commit(ring, (uint32_t)size, 0);
        if (++written % 3 == 0) {
            nr_ring_publish(ring);
            sink = nr_ring_consumer_must_be_woken(ring);
        }
    } while (written < most);
    nr_ring_publish(ring);
    sink = nr_ring_consumer_must_be_woken(ring);
    sink = nr_ring_has_room(ring, size);
    *end = result;
    return written;
}

/* Nonsense for a shared position, and its neighbours that make sense, seen from `own`. */
#define HOSTILE_POSITIONS 30u

HOSTILE_UNUSED uint64_t hostile_position(unsigned kind, uint64_t own, uint64_t capacity)
{
    const uint64_t values[HOSTILE_POSITIONS] = {
        own,
        own + 1,
        own + 7,
        own + 8,
        own - 1,
        own - 8,
        own + 16,
        own + capacity - 8,
        own + capacity - 1,
        own + capacity,
        own + capacity + 1,
        own + capacity + 8,
        own - capacity,
        own - capacity - 8,
        own - capacity + 8,
        own + 2 * capacity,
        own + (1ull << 31),
        own + (1ull << 32) - 8,
        own + (1ull << 32),
        own + (1ull << 63),
        own - (1ull << 32),
        own ^ 1ull << 63,
        0,
        8,
        1ull << 31,
        1ull << 32,
        1ull << 63,
        -1ull,
        -8ull,
        0x0102030405060708ull,
    };

    return values[kind % HOSTILE_POSITIONS];
}

/* A record's length that does not fit, or just does. */
#define HOSTILE_LENGTHS 16u

HOSTILE_UNUSED uint32_t hostile_length(unsigned kind, uint64_t capacity)
{
    const uint64_t values[HOSTILE_LENGTHS] = {0,
                                              1,
                                              7,
                                              8,
                                              capacity - 16,
                                              capacity - 9,
                                              capacity - 8,
                                              capacity - 7,
                                              capacity,
                                              2 * capacity,
                                              1ull << 31,
                                              (1ull << 31) - 1,
                                              NR_MAX_MESSAGE,
                                              NR_MAX_MESSAGE + 1ull,
                                              0xfffffff8u,
                                              0xffffffffu};

    return (uint32_t)values[kind % HOSTILE_LENGTHS];
}

#endif
