/* naru/segment.h: the memory that two processes share on a shm connection.
 *
 * One memfd, allocated at once (fallocate: a full machine is -ENOSPC here, never SIGBUS later) and
 * sealed against shrinking, growing and further seals, so neither side can pull the pages away:
 *
 *        0  header: "NARUSHM1", version, byte order, sizes (struct nr_segment_header)
 *     4096  control page of ring 0 (the creator writes, the other end reads)
 *     8192  control page of ring 1 (the other end writes, the creator reads)
 *    12288  data of ring 0, then of ring 1; a capacity of 0 means that there is no such ring
 *
 * In memory each ring's data is mapped twice in a row. Everything follows from the two capacities,
 * so the end that attaches computes the layout itself and only compares. */
#ifndef NARU_SEGMENT_H
#define NARU_SEGMENT_H

#include "naru/ring.h"

#define NR_SEGMENT_VERSION 1u
#define NR_SEGMENT_PAGE 4096u
#define NR_SEGMENT_DATA_OFFSET (3u * NR_SEGMENT_PAGE)
#define NR_SEGMENT_MAX_CAPACITY (1ull << 40)

struct nr_segment_header {
    uint8_t magic[8];        /*  0  "NARUSHM1" */
    uint32_t version;        /*  8 */
    uint32_t byte_order;     /* 12  0x01020304 */
    uint64_t total_bytes;    /* 16 */
    uint64_t capacity[2];    /* 24 */
    uint64_t first_position; /* 40  where both positions of both rings start, a multiple of 8 */
    uint64_t reserved[58];   /* 48 */
};

_Static_assert(sizeof(struct nr_segment_header) == 512, "layout");
_Static_assert(offsetof(struct nr_segment_header, capacity) == 24, "layout");

/* One process's mapping; counted, because in-place views may outlive the channel. */
struct nr_segment {
    _Atomic uint32_t references;
    struct nr_segment_header *header;
    struct nr_ring_control *control[2];
    uint8_t *data[2];
    uint64_t capacity[2];
    uint64_t first_position;
};

/* Makes a segment; returns its descriptor. Capacities are rounded up to pages. -EINVAL for a
 * capacity above NR_SEGMENT_MAX_CAPACITY, -ENOSPC / -ENOMEM / -EMFILE from the kernel. */
int nr_segment_create(const uint64_t capacity[2], uint64_t first_position);

/* Maps a segment after checking it: the seals, the size of the file, every field of the header.
 * -EPROTO: not a naru segment or not sealed; -EPROTONOSUPPORT: another version or byte order;
 * -EBADMSG: its fields do not fit each other. The descriptor may be closed afterwards. */
int nr_segment_map(int fd, struct nr_segment **segment);
/* For memory of another layout (broadcast.h): the pages before the data, and one data area mapped
 * twice in a row, as ring 0; nothing is checked or written. */
int nr_segment_map_one(int fd, uint64_t capacity, bool writable, struct nr_segment **segment);
void nr_segment_retain(struct nr_segment *segment);
void nr_segment_release(struct nr_segment *segment);

/* Fills the private view of one ring for its producer or consumer. */
void nr_segment_open_ring(struct nr_segment *segment, int index, bool fences, struct nr_ring *ring);

#endif
