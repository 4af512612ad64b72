/* casts.h: a writer and readers of one broadcast ring in one process, for the C tests. Readers map the
 * ring again, read-only, as another process would. */
#ifndef NR_TESTS_CASTS_H
#define NR_TESTS_CASTS_H

#include <stdio.h>
#include <stdlib.h>

#include "naru/broadcast.h"

#define CAST_REQUIRE(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: cannot test: %s\n", __FILE__, __LINE__, #condition);           \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct cast {
    struct nr_segment *segment, *readable;
    struct nr_broadcast_writer writer;
    int fd;
};

static inline void cast_open(struct cast *cast, uint64_t capacity, uint64_t first_position)
{
    CAST_REQUIRE(nr_broadcast_create(capacity, first_position, &cast->segment, &cast->fd) == 0);
    CAST_REQUIRE(nr_broadcast_map(cast->fd, &cast->readable) == 0);
    nr_broadcast_writer_start(&cast->writer, cast->segment);
}

static inline void cast_close(struct cast *cast)
{
    nr_segment_release(cast->readable);
    nr_segment_release(cast->segment);
    nr_os_close(cast->fd);
}

/* A reader, and the writer's mapping of its slot. */
static inline struct nr_broadcast_slot *cast_join(struct cast *cast, enum nr_policy policy,
                                                  struct nr_broadcast_reader *reader)
{
    struct nr_broadcast_slot *theirs, *own;
    uint64_t start, sequence;
    int fd;

    nr_broadcast_join(&cast->writer, &start, &sequence);
    fd = nr_broadcast_slot_create(policy, start, sequence);
    CAST_REQUIRE(fd >= 0 && nr_broadcast_slot_map(fd, &own) == 0);
    CAST_REQUIRE(nr_broadcast_slot_map(fd, &theirs) == 0);
    nr_os_close(fd);
    CAST_REQUIRE(nr_broadcast_reader_start(reader, cast->readable, theirs, false) == 0);
    return own;
}

static inline void cast_leave(struct nr_broadcast_reader *reader, struct nr_broadcast_slot *own)
{
    nr_broadcast_reader_stop(reader);
    nr_broadcast_reader_free(reader);
    nr_broadcast_slot_unmap(own);
}

/* The bytes of message `number` follow from its number. */
static inline uint8_t cast_byte(uint64_t number, uint64_t i)
{
    return (uint8_t)(number * 131 + i * 7 + 1);
}

static inline void cast_put(struct cast *cast, uint64_t number, uint64_t size)
{
    uint8_t *bytes = malloc(size + 8);
    uint8_t *place = nr_broadcast_reserve(&cast->writer, size);

    CAST_REQUIRE(bytes);
    for (uint64_t i = 0; i < size; i++)
        bytes[i] = cast_byte(number, i);
    nr_broadcast_fill(place, bytes, size);
    nr_broadcast_commit(&cast->writer, size);
    free(bytes);
}

static inline bool cast_matches(const uint8_t *payload, uint64_t size, uint64_t number)
{
    for (uint64_t i = 0; i < size; i++)
        if (payload[i] != cast_byte(number, i))
            return false;
    return true;
}

#endif
