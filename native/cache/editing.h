/* cache/editing.h: read, change and write of one string, for the commands that do it. */
#ifndef NARU_CACHE_EDITING_H
#define NARU_CACHE_EDITING_H

#include "parts.h"

struct wish; /* what SET's options say */

/* Read, change and write of one string: what the functions below are told. */
struct editing {
    struct call *call;
    const struct wish *wish;
    struct nr_bytes argument;
    struct iovec parts[3];
    int64_t number;
    size_t offset;
    char text[5200];
};

/* Calls `change` with the struct editing, under the lock. */
int nr_string_update(struct call *, const struct nr_key *,
                     int (*change)(void *, const uint8_t *, const struct nr_entry *, struct nr_change *),
                     struct editing *);
/* -EDOM: WRONGTYPE; else the table's. */
void nr_string_fail(struct call *, int error, const struct nr_key *);

#endif
