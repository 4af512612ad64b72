/* naru/resp.h: Redis' wire protocol, pure: bytes to commands, replies to bytes. No input, no output.
 *
 * A command is an array of bulk strings (*2\r\n$3\r\nGET\r\n$1\r\nk\r\n) or a line of words (inline, with
 * Redis' quotes). The parser is incremental: it remembers how far it came, so that a value of 100 MB that
 * arrives in 1,600 pieces is not looked at 1,600 times. It keeps places (offsets from the command's first
 * byte), never addresses: the bytes may lie elsewhere when more of them came.
 *
 * Source: redis.io/docs/latest/develop/reference/protocol-spec; the error texts are Redis' own, because
 * clients and their tests know them. */
#ifndef NARU_RESP_H
#define NARU_RESP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NR_RESP_LINE_MOST 65536u /* of an inline command, or of a count */

struct nr_bytes {
    const uint8_t *bytes;
    size_t size;
};

/* ---- commands ---- */

struct nr_resp_limits {
    uint32_t arguments_most;
    uint64_t bulk_bytes_most;
    bool stranger; /* has not shown its password: 10 arguments of 16 KiB, as Redis */
};

struct nr_resp_place {
    uint32_t offset, size;
};

struct nr_resp {
    struct nr_resp_place *places;
    uint32_t count, room;  /* of places: arguments that are whole */
    uint32_t wanted;       /* arguments of the array that was begun; 0: none was */
    uint32_t position;     /* what was looked at, from the command's first byte */
    int64_t bulk_bytes;    /* of the argument whose header was read; -1: none was */
    uint8_t *words;        /* of an inline command, without its quotes; NULL: they stand in the input */
    char error[64];
};

enum nr_resp_result {
    NR_RESP_PARTIAL, /* more is needed */
    NR_RESP_COMMAND, /* `count` arguments, 1 or more */
    NR_RESP_NOTHING, /* an empty line or array: skip `position` bytes */
    NR_RESP_WRONG,   /* `error`; nothing behind it can be understood */
    NR_RESP_NO_MEMORY,
};

void nr_resp_init(struct nr_resp *);
void nr_resp_free(struct nr_resp *);
/* Forgets the last command; keeps the memory. */
void nr_resp_reset(struct nr_resp *);
/* `bytes`: from the command's first byte on, as many as there are by now (at most 4 GiB). */
enum nr_resp_result nr_resp_parse(struct nr_resp *, const struct nr_resp_limits *,
                                  const uint8_t *bytes, size_t size);
/* A glance ahead, for fetching what will be wanted: the second arguments of the whole commands at the
 * beginning of the bytes, at most `most`, and where the last of these commands ends. Stops at anything unusual. */
uint32_t nr_resp_glance(const uint8_t *bytes, size_t size, struct nr_bytes *seconds, uint32_t most,
                        size_t *end);
static inline struct nr_bytes nr_resp_argument(const struct nr_resp *resp, const uint8_t *bytes,
                                               uint32_t index)
{
    const struct nr_resp_place *place = &resp->places[index];

    return (struct nr_bytes){(resp->words ? resp->words : bytes) + place->offset, place->size};
}

/* ---- replies ---- */

/* A growing piece of memory. When it could not grow, `failed` stays set and nothing is added. */
struct nr_reply {
    uint8_t *bytes;
    size_t size, room, most; /* most: it may not become larger; 0: it may */
    uint8_t version; /* 2 or 3 */
    bool failed;
};

void nr_reply_free(struct nr_reply *);
/* Room for so many more bytes; NULL: none. The caller adds to `size` what it used. */
uint8_t *nr_reply_grow(struct nr_reply *, size_t more);
void nr_reply_raw(struct nr_reply *, const void *bytes, size_t size);
void nr_reply_text(struct nr_reply *, const char *text); /* +text: constants, without line ends */
void nr_reply_ok(struct nr_reply *);
/* -text: `format` begins with Redis' code word. Line ends that came in with arguments become spaces. */
void nr_reply_error(struct nr_reply *, const char *format, ...) __attribute__((format(printf, 2, 3)));
void nr_reply_integer(struct nr_reply *, int64_t);
void nr_reply_bulk(struct nr_reply *, const void *bytes, size_t size);
void nr_reply_string(struct nr_reply *, const char *text); /* a bulk of a C string */
void nr_reply_bulk_integer(struct nr_reply *, int64_t);
/* Its header; returns where its bytes are to be put, NULL: no memory. The reply is whole with them. */
uint8_t *nr_reply_place_bulk(struct nr_reply *, size_t size);
void nr_reply_null(struct nr_reply *);
void nr_reply_null_array(struct nr_reply *);
void nr_reply_array(struct nr_reply *, size_t count);
/* Of what was added since `at`, when its count is only known now. */
void nr_reply_array_around(struct nr_reply *, size_t at, size_t count);
void nr_reply_map(struct nr_reply *, size_t pairs);
void nr_reply_set(struct nr_reply *, size_t count);
void nr_reply_push(struct nr_reply *, size_t count);
void nr_reply_verbatim(struct nr_reply *, const char *text, size_t size);

#endif
