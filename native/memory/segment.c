#include "naru/segment.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <sys/mman.h>

static const uint8_t magic[8] = {'N', 'A', 'R', 'U', 'S', 'H', 'M', '1'};
#define BYTE_ORDER_MARK 0x01020304u
#define DATA_OFFSET NR_SEGMENT_DATA_OFFSET

static uint64_t round_to_pages(uint64_t size)
{
    return (size + NR_SEGMENT_PAGE - 1) & ~(uint64_t)(NR_SEGMENT_PAGE - 1);
}

static int write_header(int fd, const uint64_t capacity[2], uint64_t total, uint64_t first_position)
{
    struct nr_segment_header *header;
    struct nr_ring_control *control;
    void *mapped;
    int result = nr_os_map(NULL, DATA_OFFSET, fd, 0, &mapped);

    if (result < 0)
        return result;
    header = mapped;
    memcpy(header->magic, magic, sizeof magic);
    header->version = NR_SEGMENT_VERSION;
    header->byte_order = BYTE_ORDER_MARK;
    header->total_bytes = total;
    header->capacity[0] = capacity[0];
    header->capacity[1] = capacity[1];
    header->first_position = first_position;
    control = (struct nr_ring_control *)((uint8_t *)mapped + NR_SEGMENT_PAGE);
    for (int i = 0; i < 2; i++) {
        atomic_store(&control[i].tail, first_position);
        atomic_store(&control[i].head, first_position);
    }
    return nr_os_unmap(mapped, DATA_OFFSET);
}

int nr_segment_create(const uint64_t asked[2], uint64_t first_position)
{
    uint64_t capacity[2], total = DATA_OFFSET;
    int fd, result;

    for (int i = 0; i < 2; i++) {
        if (asked[i] > NR_SEGMENT_MAX_CAPACITY)
            return -EINVAL;
        capacity[i] = round_to_pages(asked[i]);
        total += capacity[i];
    }
    if (first_position & 7u)
        return -EINVAL;
    fd = nr_os_memfd("naru");
    if (fd < 0)
        return fd;
    NR_CRASHPOINT(NR_AT_SEGMENT_MADE);
    result = nr_os_allocate(fd, total);
    NR_CRASHPOINT(NR_AT_SEGMENT_ALLOCATED);
    if (result == 0)
        result = write_header(fd, capacity, total, first_position);
    NR_CRASHPOINT(NR_AT_SEGMENT_WRITTEN);
    if (result == 0)
        result = nr_os_add_seals(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    NR_CRASHPOINT(NR_AT_SEGMENT_SEALED);
    if (result < 0) {
        nr_os_close(fd);
        return result;
    }
    return fd;
}

/* Checks a private copy of the header against the file that it came in. */
static int check_header(const struct nr_segment_header *header, uint64_t file_bytes)
{
    uint64_t total = DATA_OFFSET;

    if (memcmp(header->magic, magic, sizeof magic) != 0)
        return -EPROTO;
    if (header->version != NR_SEGMENT_VERSION || header->byte_order != BYTE_ORDER_MARK)
        return -EPROTONOSUPPORT;
    for (int i = 0; i < 2; i++) {
        if (header->capacity[i] > NR_SEGMENT_MAX_CAPACITY ||
            header->capacity[i] % NR_SEGMENT_PAGE != 0)
            return -EBADMSG;
        total += header->capacity[i];
    }
    if (total != header->total_bytes || total != file_bytes || header->first_position & 7u)
        return -EBADMSG;
    return 0;
}

static int map_mirrored(int fd, uint64_t offset, uint64_t capacity, bool writable, uint8_t **data)
{
    int (*map)(void *, size_t, int, uint64_t, void **) = writable ? nr_os_map : nr_os_map_readable;
    void *place, *half;
    int result = nr_os_map_reserve(2 * capacity, &place);

    if (result < 0)
        return result;
    result = map(place, capacity, fd, offset, &half);
    if (result == 0)
        result = map((uint8_t *)place + capacity, capacity, fd, offset, &half);
    if (result < 0) {
        nr_os_unmap(place, 2 * capacity);
        return result;
    }
    *data = place;
    return 0;
}

static void unmap_all(struct nr_segment *segment)
{
    for (int i = 0; i < 2; i++)
        if (segment->data[i])
            nr_os_unmap(segment->data[i], 2 * segment->capacity[i]);
    if (segment->header)
        nr_os_unmap(segment->header, DATA_OFFSET);
    free(segment);
}

int nr_segment_map(int fd, struct nr_segment **out)
{
    const int required = F_SEAL_SHRINK | F_SEAL_GROW;
    struct nr_segment_header header;
    struct nr_segment *segment;
    uint64_t offset = DATA_OFFSET;
    int64_t file_bytes = nr_os_file_size(fd);
    int seals = nr_os_get_seals(fd);
    void *mapped;
    int result;

    if (seals < 0 || (seals & required) != required)
        return -EPROTO; /* not a sealed memfd: its owner could truncate it under us (SIGBUS) */
    if (file_bytes < (int64_t)DATA_OFFSET)
        return -EPROTO;
    segment = calloc(1, sizeof *segment);
    if (!segment)
        return -ENOMEM;
    result = nr_os_map(NULL, DATA_OFFSET, fd, 0, &mapped);
    if (result == -EPERM || result == -EACCES)
        result = -EPROTO; /* sealed against writing, or opened for reading only: no ring */
    if (result < 0)
        goto failed;
    segment->header = mapped;
    memcpy(&header, mapped, sizeof header); /* the peer may write on: check and use one copy */
    atomic_signal_fence(memory_order_seq_cst); /* and let the compiler not look again */
    result = check_header(&header, (uint64_t)file_bytes);
    if (result < 0)
        goto failed;
    segment->first_position = header.first_position;
    for (int i = 0; i < 2; i++) {
        segment->control[i] = (struct nr_ring_control *)((uint8_t *)mapped + NR_SEGMENT_PAGE) + i;
        if (header.capacity[i] == 0)
            continue;
        result = map_mirrored(fd, offset, header.capacity[i], true, &segment->data[i]);
        if (result < 0)
            goto failed;
        segment->capacity[i] = header.capacity[i];
        offset += header.capacity[i];
    }
    atomic_store(&segment->references, 1);
    *out = segment;
    return 0;
failed:
    unmap_all(segment);
    return result;
}

int nr_segment_map_one(int fd, uint64_t capacity, bool writable, struct nr_segment **out)
{
    struct nr_segment *segment = calloc(1, sizeof *segment);
    void *mapped;
    int result;

    if (!segment)
        return -ENOMEM;
    result = writable ? nr_os_map(NULL, DATA_OFFSET, fd, 0, &mapped)
                      : nr_os_map_readable(NULL, DATA_OFFSET, fd, 0, &mapped);
    if (result == 0) {
        segment->header = mapped;
        result = map_mirrored(fd, DATA_OFFSET, capacity, writable, &segment->data[0]);
    }
    if (result < 0) {
        unmap_all(segment);
        return result;
    }
    segment->capacity[0] = capacity;
    atomic_store(&segment->references, 1);
    *out = segment;
    return 0;
}

void nr_segment_retain(struct nr_segment *segment)
{
    atomic_fetch_add_explicit(&segment->references, 1, memory_order_relaxed);
}

void nr_segment_release(struct nr_segment *segment)
{
    if (atomic_fetch_sub_explicit(&segment->references, 1, memory_order_acq_rel) == 1)
        unmap_all(segment);
}

void nr_segment_open_ring(struct nr_segment *segment, int index, bool fences, struct nr_ring *ring)
{
    memset(ring, 0, sizeof *ring);
    if (segment->capacity[index] == 0)
        return;
    ring->control = segment->control[index];
    ring->data = segment->data[index];
    ring->capacity = segment->capacity[index];
    atomic_store_explicit(&ring->position, segment->first_position, memory_order_relaxed);
    ring->limit = segment->first_position;
    ring->published = segment->first_position;
    ring->offset = segment->first_position % ring->capacity;
    ring->fences = fences;
}
