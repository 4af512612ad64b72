#include "table_parts.h"

/* 64 x 64 -> 128 bits, folded: each bit of the result depends on all bits of both. */
static inline uint64_t fold(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t read8(const uint8_t *at)
{
    uint64_t word;

    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint64_t read4(const uint8_t *at)
{
    uint32_t word;

    memcpy(&word, at, sizeof word);
    return word;
}

/* Every multiplication has a secret in both operands. Who does not know the four keys cannot make keys
 * that collide; and who could would gain little, since a bucket has 8 slots and no chain to walk: such
 * keys evict each other. That is why this and not SipHash-1-3, which takes three times as long. */
uint64_t nr_table_hash(const uint64_t keys[4], const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    uint64_t state = keys[1], first = 0, second = 0, left = size;

    for (; left > 16; left -= 16, at += 16)
        state = fold(read8(at) ^ keys[0], read8(at + 8) ^ state);
    if (left >= 8) {
        first = read8(at);
        second = read8(at + left - 8);
    } else if (left >= 4) {
        first = read4(at);
        second = read4(at + left - 4);
    } else if (left > 0) {
        first = (uint64_t)at[0] << 16 | (uint64_t)at[left / 2] << 8 | at[left - 1];
    }
    state = fold(first ^ keys[2], second ^ state);
    return fold(state ^ keys[3], keys[0] ^ size);
}

struct nr_key nr_table_key(const struct nr_table *table, const void *bytes, size_t size)
{
    return (struct nr_key){bytes, size > UINT32_MAX ? UINT32_MAX : (uint32_t)size,
                           size > NR_TABLE_KEY_MOST ? 0 : nr_table_hash(table->hash_keys, bytes, size)};
}

uint64_t nr_table_tag(const struct nr_table *table, const void *name, size_t size)
{
    return nr_table_hash(table->hash_keys, name, size);
}
