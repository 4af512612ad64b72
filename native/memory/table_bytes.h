/* table_bytes.h: bytes of the shared table that may change while they are read, and what a record is made
 * of. A part of table_parts.h, which includes it. */
#ifndef NR_TABLE_BYTES_H
#define NR_TABLE_BYTES_H

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "table_parts.h"

/* ---- bytes that may be read while they are overwritten ----
 * A torn copy is thrown away after a look at the tail. TSan knows neither that nor fences: for it,
 * bytes and words are atomic. */

#if defined(__SANITIZE_THREAD__)
#define NR_TABLE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define NR_TABLE_TSAN 1
#endif
#endif

#ifdef NR_TABLE_TSAN
#define NR_FENCE(order) atomic_signal_fence(memory_order_seq_cst)
static inline void nr_racy_read(uint8_t *to, const uint8_t *from, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        to[i] = atomic_load_explicit((const _Atomic uint8_t *)from + i, memory_order_relaxed);
}
static inline void nr_racy_write(uint8_t *to, const uint8_t *from, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        atomic_store_explicit((_Atomic uint8_t *)to + i, from[i], memory_order_relaxed);
}
static inline bool nr_racy_is_same(const uint8_t *shared, const uint8_t *own, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        if (atomic_load_explicit((const _Atomic uint8_t *)shared + i, memory_order_relaxed) != own[i])
            return false;
    return true;
}
#else
#define NR_FENCE(order) atomic_thread_fence(order)
static inline void nr_racy_read(uint8_t *to, const uint8_t *from, uint64_t size)
{
    if (size > 0) /* a part of nothing may be NULL */
        memcpy(to, from, size);
}
static inline void nr_racy_write(uint8_t *to, const uint8_t *from, uint64_t size)
{
    if (size > 0) /* a part of nothing may be NULL */
        memcpy(to, from, size);
}
static inline bool nr_racy_is_same(const uint8_t *shared, const uint8_t *own, uint64_t size)
{
    return size == 0 || memcmp(shared, own, size) == 0;
}
#endif

static inline uint64_t nr_word_load(const uint8_t *at)
{
    return atomic_load_explicit((const _Atomic uint64_t *)at, memory_order_relaxed);
}
static inline void nr_word_store(uint8_t *at, uint64_t word)
{
    atomic_store_explicit((_Atomic uint64_t *)at, word, memory_order_relaxed);
}
#define nr_get(word) atomic_load_explicit(&(word), memory_order_relaxed)
#define nr_put(word, value) atomic_store_explicit(&(word), (value), memory_order_relaxed)

/* ---- buckets ---- */

/* Which slots of a bucket have this tag (0: are empty): bit i for slot i. What they say of a slot may be
 * old when it is used: it is loaded again. */
static inline unsigned nr_bucket_matches(const _Atomic uint64_t *bucket, uint64_t tag)
{
    unsigned matches = 0;

#if defined(__SSE2__) && !defined(NR_TABLE_TSAN)
    /* Half a bucket at a time: the upper 32 bits of four slots beside each other. Each slot is aligned,
     * and x86 loads its eight bytes at once, whatever the width of the register. */
    const __m128i wanted = _mm_set1_epi32((int)tag);
    const __m128 *at = (const __m128 *)bucket;

    for (int half = 0; half < 2; half++, at += 2) {
        __m128i upper = _mm_castps_si128(_mm_shuffle_ps(at[0], at[1], _MM_SHUFFLE(3, 1, 3, 1)));
        __m128i equal = _mm_cmpeq_epi32(_mm_srli_epi32(upper, 16), wanted);

        matches |= (unsigned)_mm_movemask_ps(_mm_castsi128_ps(equal)) << 4 * half;
    }
#else
    for (unsigned i = 0; i < NR_BUCKET_SLOTS; i++)
        matches |= (unsigned)(nr_get(bucket[i]) >> 48 == tag) << i;
#endif
    return matches;
}

/* By the holder of the mutex. */
static inline void nr_count(struct nr_shard *shard, enum nr_counter counter)
{
    nr_put(shard->counters[counter], nr_get(shard->counters[counter]) + 1);
}
/* By anybody. */
static inline void nr_count_shared(struct nr_shard *shard, enum nr_counter counter, uint64_t by)
{
    atomic_fetch_add_explicit(&shard->counters[counter], by, memory_order_relaxed);
}

/* ---- records ---- */

struct nr_record_facts {
    uint64_t bytes; /* of all of it; of a filler too */
    uint64_t value_bytes;
    int64_t expires_ms;
    uint32_t version; /* 0: a filler */
    uint32_t key_bytes, tags;
    uint8_t kind;
};

static inline uint64_t nr_record_bytes(uint64_t key, uint64_t tags, uint64_t value)
{
    return (NR_RECORD_WORDS + tags * 8 + key + value + 7) & ~7ull;
}
static inline uint64_t nr_record_word(int64_t expires_ms, uint32_t key, uint32_t tags, uint32_t kind)
{
    return (uint64_t)expires_ms | (uint64_t)key << 39 | (uint64_t)tags << 55 | (uint64_t)kind << 60;
}
static inline uint64_t nr_record_key_at(const struct nr_record_facts *facts)
{
    return NR_RECORD_WORDS + facts->tags * 8;
}
static inline uint64_t nr_record_value_at(const struct nr_record_facts *facts)
{
    return nr_record_key_at(facts) + facts->key_bytes;
}
/* False: no record or filler that ends within `room`. Each word is read once: a lie cannot change
 * after it was checked. Acquire: who sees the first word sees the rest of that record. */
static inline bool nr_record_read(const uint8_t *at, uint64_t room, struct nr_record_facts *facts)
{
    uint64_t word;

    if (room < 8)
        return false;
    word = atomic_load_explicit((const _Atomic uint64_t *)at, memory_order_acquire);
    facts->version = (uint32_t)word;
    facts->value_bytes = word >> 32;
    if (facts->version == 0) {
        facts->bytes = facts->value_bytes;
        return facts->bytes >= 8 && facts->bytes % 8 == 0 && facts->bytes <= room;
    }
    if (room < NR_RECORD_WORDS)
        return false;
    word = nr_word_load(at + 8);
    facts->expires_ms = (int64_t)(word & ((1ull << NR_EXPIRY_BITS) - 1));
    facts->key_bytes = word >> 39 & 0xffff;
    facts->tags = word >> 55 & 31;
    facts->kind = word >> 60;
    facts->bytes = nr_record_bytes(facts->key_bytes, facts->tags, facts->value_bytes);
    return facts->tags <= NR_TABLE_TAGS_OF_ONE && facts->bytes <= room;
}
static inline void nr_record_describe(const struct nr_record_facts *facts, struct nr_entry *entry)
{
    entry->size_bytes = facts->value_bytes;
    entry->version = facts->version;
    entry->expires_ms = facts->expires_ms;
    entry->kind = facts->kind;
    entry->tags = facts->tags;
}
/* Neither expired nor evicted by a tag. */
static inline bool nr_record_is_alive(const struct nr_table *table, const uint8_t *at,
                                      const struct nr_record_facts *facts)
{
    if (facts->expires_ms != 0 && (uint64_t)facts->expires_ms <= nr_table_now_ms(table))
        return false;
    for (uint32_t i = 0; i < facts->tags; i++) {
        uint64_t mark = nr_word_load(at + NR_RECORD_WORDS + i * 8);

        /* pairs with: nr_table_evict_tag */
        if (atomic_load_explicit(&table->tags[mark >> 32 & (NR_TABLE_TAGS - 1)],
                                 memory_order_acquire) != (uint32_t)mark)
            return false;
    }
    return true;
}

#endif
