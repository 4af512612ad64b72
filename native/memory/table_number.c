#include <stdio.h>

#include "table_parts.h"

struct sum {
    int64_t delta, result, expires_ms;
    const int64_t *initial;
    char text[24];
    struct iovec part;
};

/* As Redis reads one: digits and a minus, no zero in front, nothing else. */
static int read_number(const uint8_t *at, uint64_t size, int64_t *number)
{
    bool negative = size > 1 && at[0] == '-';
    uint64_t magnitude = 0, limit = (uint64_t)INT64_MAX + negative;
    uint64_t begin = negative;

    if (size == 0 || size > 20 || (at[begin] == '0' && size > 1))
        return -EDOM;
    for (uint64_t i = begin; i < size; i++) {
        uint64_t digit = (uint64_t)at[i] - '0';

        if (digit > 9 || magnitude > (limit - digit) / 10)
            return -EDOM;
        magnitude = magnitude * 10 + digit;
    }
    *number = (int64_t)(negative ? 0 - magnitude : magnitude);
    return 0;
}

static int add(void *context, const uint8_t *bytes, const struct nr_entry *entry,
               struct nr_change *change)
{
    struct sum *sum = context;
    int result;

    if (entry) {
        result = read_number(bytes, entry->size_bytes, &sum->result);
        if (result < 0)
            return result;
        if (__builtin_add_overflow(sum->result, sum->delta, &sum->result))
            return -ERANGE;
    } else {
        if (!sum->initial)
            return -ENOENT;
        sum->result = *sum->initial;
        change->expires_ms = sum->expires_ms;
    }
    sum->part.iov_base = sum->text;
    sum->part.iov_len =
        (size_t)snprintf(sum->text, sizeof sum->text, "%lld", (long long)sum->result);
    change->parts = &sum->part;
    change->count = 1;
    return 0;
}

int nr_table_add_to(struct nr_table *table, const struct nr_key *key, int64_t delta,
                    const int64_t *initial, int64_t expires_ms, uint64_t deadline_ns, int64_t *result)
{
    struct sum sum = {.delta = delta, .initial = initial, .expires_ms = expires_ms};
    int answer = nr_table_update(table, key, deadline_ns, add, &sum, NULL);

    if (answer == 0)
        *result = sum.result;
    return answer;
}
