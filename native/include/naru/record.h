/* naru/record.h: the wire format. Pure functions over bytes, no I/O: everything here faces a peer
 * and is fuzzed (native/tests/fuzz_record.c).
 *
 *   record   0      4      8            8+length
 *            +------+------+------------+ . . . . +
 *            |length|flags |  payload   | padding |   padding to 8 in the ring only
 *            +------+------+------------+ . . . . +
 *
 *   hello    0      4    6    8        12           16   sent once by each end of a connection
 *            +------+----+----+--------+------------+
 *            |"NARU"|vers|kind|max size|heartbeat ms|
 *            +------+----+----+--------+------------+
 *
 *   chunk    0      4      8        16      20      24   a FIFO's writers share one stream, so each
 *            +------+------+--------+-------+-------+    write is one chunk of at most PIPE_BUF
 *            |length|flags | sender | total | index |    (pipe(7): those are never interleaved)
 *            +------+------+--------+-------+-------+
 *
 * Integers are in the machine's own byte order: both ends of every transport but tcp and udp run on
 * one machine, and for those two the magic, read in the wrong order, refuses the stranger. */
#ifndef NARU_RECORD_H
#define NARU_RECORD_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define NR_RECORD_HEADER 8u
#define NR_HELLO_BYTES 16u
#define NR_CHUNK_HEADER 24u
#define NR_DATAGRAM_HEADER 24u
#define NR_PROTOCOL_VERSION 1u
#define NR_MAX_FDS 253u /* SCM_MAX_FD, unix(7) */
#define NR_MAX_MESSAGE 0xfffffff0u

enum nr_record_flags {
    NR_RECORD_FIRST = 1u << 0,     /* the first fragment; its payload starts with the u64 total */
    NR_RECORD_MORE = 1u << 1,      /* fragments follow */
    NR_RECORD_BYE = 1u << 2,       /* the sender closed in good order; nothing follows */
    NR_RECORD_HEARTBEAT = 1u << 3, /* no message, only a sign of life */
    NR_RECORD_SKIP = 1u << 4,      /* a reserved place that was given up */
    NR_RECORD_KNOWN = 0x1fu,
    NR_RECORD_GAP = 1u << 5,       /* publish/subscribe over streams alone: the payload, a u64, is
                                    * how many messages were left out here */
    NR_RECORD_FDS_SHIFT = 24,      /* the upper byte: how many descriptors go with the record */
};

struct nr_record {
    uint32_t length;
    uint32_t flags;
};

_Static_assert(sizeof(struct nr_record) == NR_RECORD_HEADER, "the record header is 8 bytes");

static inline unsigned nr_record_fds(struct nr_record record)
{
    return record.flags >> NR_RECORD_FDS_SHIFT;
}

/* Reads the header at `bytes` (which another process may be changing: one copy, then checks on the
 * copy). -EPROTO for unknown flags, -EMSGSIZE for a length above the limit. */
static inline int nr_record_parse(const uint8_t *bytes, uint32_t max_message, struct nr_record *record)
{
    memcpy(record, bytes, sizeof *record);
    if (record->flags & ~(uint32_t)(NR_RECORD_KNOWN | 0xffu << NR_RECORD_FDS_SHIFT))
        return -EPROTO;
    if (nr_record_fds(*record) > NR_MAX_FDS)
        return -EPROTO;
    if (record->length > max_message)
        return -EMSGSIZE;
    return 0;
}

enum nr_hello_kind {
    NR_HELLO_CHANNEL = 1,
    NR_HELLO_SENDER = 2,
    NR_HELLO_RECEIVER = 3,
    NR_HELLO_PUBLISHER = 4,
    NR_HELLO_SUBSCRIBER_BLOCK = 5,
    NR_HELLO_SUBSCRIBER_DROP_OLDEST = 6,
    NR_HELLO_SUBSCRIBER_LATEST = 7,
};

struct nr_hello {
    uint32_t magic;
    uint16_t version;
    uint16_t kind;
    uint32_t max_message_bytes;
    uint32_t heartbeat_ms;
};

_Static_assert(sizeof(struct nr_hello) == NR_HELLO_BYTES, "the hello is 16 bytes");

#define NR_HELLO_MAGIC 0x5552414eu /* "NARU" on a little-endian machine */

/* -EPROTO: not naru, or of the other byte order; -EPROTONOSUPPORT: another version. */
static inline int nr_hello_parse(const uint8_t *bytes, struct nr_hello *hello)
{
    memcpy(hello, bytes, sizeof *hello);
    if (hello->magic != NR_HELLO_MAGIC)
        return -EPROTO;
    if (hello->version != NR_PROTOCOL_VERSION)
        return -EPROTONOSUPPORT;
    if (hello->kind < NR_HELLO_CHANNEL || hello->kind > NR_HELLO_SUBSCRIBER_LATEST)
        return -EPROTO;
    return 0;
}

struct nr_chunk {
    uint32_t length; /* payload bytes of this chunk */
    uint32_t flags;  /* NR_RECORD_FIRST, NR_RECORD_MORE, NR_RECORD_BYE */
    uint64_t sender; /* random; also the byte of the lock file that shows the sender's life */
    uint32_t total;  /* payload bytes of the whole message */
    uint32_t index;  /* of this chunk in its message */
};

_Static_assert(sizeof(struct nr_chunk) == NR_CHUNK_HEADER, "the chunk header is 24 bytes");

static inline int nr_chunk_parse(const uint8_t *bytes, uint32_t max_message, uint32_t max_chunk,
                                 struct nr_chunk *chunk)
{
    memcpy(chunk, bytes, sizeof *chunk);
    if (chunk->flags & ~(uint32_t)(NR_RECORD_FIRST | NR_RECORD_MORE | NR_RECORD_BYE))
        return -EPROTO;
    if (chunk->length > max_chunk || chunk->length > chunk->total)
        return -EPROTO;
    if (chunk->total > max_message)
        return -EMSGSIZE;
    return 0;
}

struct nr_datagram {
    uint32_t length;
    uint32_t flags;
    uint64_t connection; /* random, chosen by the connecting side; strays are told by it */
    uint64_t sequence;   /* counts the sender's messages from 0 */
};

_Static_assert(sizeof(struct nr_datagram) == NR_DATAGRAM_HEADER, "the datagram header is 24 bytes");

#endif
