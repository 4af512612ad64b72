/* rings.h: rings for tests.
 *
 * open_both() makes both views of one ring over one mapping of a real segment, as TSan needs it (it
 * does not see that two mappings are one memory). guarded_ring() places the control page and the
 * mirrored data by hand between PROT_NONE pages, so that one byte out of bounds is a SIGSEGV, also
 * where ASan is blind: it knows nothing of mmap. */
#ifndef NR_TESTS_RINGS_H
#define NR_TESTS_RINGS_H

#include <sys/mman.h>

#include "check.h"
#include "naru/segment.h"

#define RINGS_UNUSED __attribute__((unused)) static

struct both_ends {
    struct nr_segment *segment;
    struct nr_ring producer, consumer;
};

RINGS_UNUSED struct nr_segment *make_segment(uint64_t capacity0, uint64_t capacity1,
                                             uint64_t first_position)
{
    const uint64_t capacity[2] = {capacity0, capacity1};
    struct nr_segment *segment = NULL;
    int fd = nr_segment_create(capacity, first_position);

    REQUIRE(fd >= 0);
    REQUIRE(nr_segment_map(fd, &segment) == 0);
    nr_os_close(fd);
    return segment;
}

RINGS_UNUSED struct both_ends open_both(uint64_t capacity, uint64_t first_position)
{
    struct both_ends ends = {.segment = make_segment(capacity, 0, first_position)};

    nr_segment_open_ring(ends.segment, 0, false, &ends.producer);
    nr_segment_open_ring(ends.segment, 0, false, &ends.consumer);
    return ends;
}

RINGS_UNUSED void close_both(struct both_ends *ends) { nr_segment_release(ends->segment); }

/* The tests' own short verbs over the inline functions. */
RINGS_UNUSED int ring_put(struct nr_ring *ring, const void *data, uint32_t size)
{
    uint8_t *place = NULL;
    int result = nr_ring_reserve(ring, size, &place);

    if (result < 0)
        return result;
    if (size)
        memcpy(place, data, size);
    nr_ring_commit(ring, size, 0);
    nr_ring_publish(ring);
    return 0;
}

/* Takes and gives back one record: its size, or -errno. */
RINGS_UNUSED int64_t ring_get(struct nr_ring *ring, uint8_t *data, uint64_t limit)
{
    struct nr_record record;
    const uint8_t *payload = NULL;
    int result = nr_ring_next(ring, &record, &payload);

    if (result < 0)
        return result;
    if (record.length > limit)
        return -EMSGSIZE;
    if (record.length)
        memcpy(data, payload, record.length);
    nr_ring_release(ring);
    return record.length;
}

struct guarded_ring {
    uint8_t *place; /* guard, control, guard, data, mirror, guard */
    size_t size;
    struct nr_ring_control *control;
    uint8_t *data;
    uint64_t capacity;
};

RINGS_UNUSED struct guarded_ring guarded_ring(uint64_t capacity)
{
    const uint64_t page = NR_SEGMENT_PAGE;
    struct guarded_ring guarded = {.size = 4 * page + 2 * capacity, .capacity = capacity};
    int fd = nr_os_memfd("guarded");
    void *place, *mapped;

    REQUIRE(fd >= 0 && nr_os_allocate(fd, page + capacity) == 0);
    REQUIRE(nr_os_map_reserve(guarded.size, &place) == 0);
    guarded.place = place;
    REQUIRE(nr_os_map(guarded.place + page, page, fd, 0, &mapped) == 0);
    guarded.control = mapped;
    REQUIRE(nr_os_map(guarded.place + 3 * page, capacity, fd, page, &mapped) == 0);
    guarded.data = mapped;
    REQUIRE(nr_os_map(guarded.data + capacity, capacity, fd, page, &mapped) == 0);
    nr_os_close(fd);
    return guarded;
}

RINGS_UNUSED void guarded_free(struct guarded_ring *guarded)
{
    nr_os_unmap(guarded->place, guarded->size);
}

/* A fresh private view, as an end has that attaches at this position. */
RINGS_UNUSED struct nr_ring guarded_open(const struct guarded_ring *guarded, uint64_t position)
{
    struct nr_ring ring = {.control = guarded->control,
                           .data = guarded->data,
                           .capacity = guarded->capacity,
                           .limit = position,
                           .published = position,
                           .offset = position % guarded->capacity};

    atomic_store_explicit(&ring.position, position, memory_order_relaxed);
    return ring;
}

#endif
