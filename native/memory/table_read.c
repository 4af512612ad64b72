/* Readers. They hold nothing, wait for nobody, and believe nothing before was_overtaken() has said no.
 *
 * What decides: bytes of a record are written before its slot (release, and the reader's load of the slot
 * acquires), and are written over only after the tail has passed them, or after the record was replaced
 * and its first word made a filler's. A record of more than NR_GAP_MOST is never made a filler: as long as
 * the tail has not passed it, it is what the slot pointed to when it was read, which is an instant within
 * the call; a slot that changed meanwhile makes that value old, not wrong, so a writer that overwrites a
 * large value all the time never makes a reader begin anew. For the others see was_replaced(). */
#include "table_parts.h"

#define TRIES 64 /* each means that all of a log went by, or a set of just that key, while it was copied */
#define FOLD_EACH 4096u

struct sight {
    uint64_t tails[NR_LOGS]; /* before the slot was read */
    _Atomic uint64_t *place;
    uint64_t slot;
    const uint8_t *record;
    struct nr_record_facts facts;
    uint64_t gaps_taken; /* at the beginning of this try, if the one before was in doubt */
    bool in_doubt;       /* a slot with our tag did not lead to our key */
};

enum outcome { FOUND, ABSENT, OVERTAKEN };

/* Has the tail passed the record of a slot since `seen`, which was read before the slot? Where it lies
 * follows: it is the only position from `seen` on with that offset, because nothing that a slot points to
 * is older than the tail or newer than one lap. (If the tail moved on before the slot was read, the record
 * may be one lap further than that; then the answer is yes, and the next try knows better.) */
static inline bool was_overtaken(const struct nr_layout *layout, const struct nr_shard *shard,
                                 const struct sight *sight, uint64_t slot)
{
    int log = nr_slot_log(slot);

    /* pairs with: nr_log_move_tail, restart_log in table_index.c */
    NR_FENCE(memory_order_acquire);
    return nr_tail_has_passed(layout->log_bytes[log], sight->tails[log], nr_get(shard->tail[log]),
                              nr_slot_offset(slot));
}

/* Was a small record replaced since its slot was read? First the slot, then the version, which no other
 * record of the shard has: the slot pointed there at an instant when that version stood there, and had
 * stood there since its first word was read. That instant is when the read happens. */
static inline bool was_replaced(const struct sight *sight)
{
    uint64_t slot;

    if (sight->facts.bytes > NR_GAP_MOST)
        return false;
    NR_FENCE(memory_order_acquire); /* pairs with: nr_gap_take */
    slot = atomic_load_explicit(sight->place, memory_order_acquire);
    return !nr_slot_is_same(slot, sight->slot) ||
           (uint32_t)nr_word_load(sight->record) != sight->facts.version;
}

static inline void prefetch_record(const uint8_t *record)
{
    __builtin_prefetch(record);
    __builtin_prefetch(record + 64);
    __builtin_prefetch(record + 128);
}

/* A record of the slot that fits into its log. */
static inline bool read_facts(const struct nr_table *table, const struct nr_shard *shard, uint64_t slot,
                              struct sight *sight)
{
    int log = nr_slot_log(slot);
    uint64_t offset = nr_slot_offset(slot);

    if (offset >= table->layout.log_bytes[log])
        return false;
    sight->slot = slot;
    sight->record = (const uint8_t *)shard + table->layout.log_at[log] + offset;
    prefetch_record(sight->record);
    return nr_record_read(sight->record, table->layout.log_bytes[log] - offset, &sight->facts) &&
           sight->facts.version != 0;
}

__attribute__((always_inline)) static inline enum outcome look_into(const struct nr_table *table, const struct nr_shard *shard,
                                     const struct nr_key *key, _Atomic uint64_t *slots,
                                     struct sight *sight)
{
    uint64_t tag = nr_hash_tag(key->hash);

    for (unsigned left = nr_bucket_matches(slots, tag); left != 0; left &= left - 1) {
        int i = __builtin_ctz(left);
        /* pairs with: nr_index_change */
        uint64_t slot = atomic_load_explicit(&slots[i], memory_order_acquire);

        NR_CRASHPOINT(NR_AT_TABLE_SLOT_READ);
        if (nr_slot_tag(slot) != tag)
            continue;
        sight->place = &slots[i];
        if (read_facts(table, shard, slot, sight) && sight->facts.key_bytes == key->size &&
            nr_racy_is_same(sight->record + nr_record_key_at(&sight->facts), key->bytes, key->size))
            return FOUND;
        /* another key, or what was ours? */
        if (was_overtaken(&table->layout, shard, sight, slot) || !nr_slot_is_same(nr_get(slots[i]), slot))
            return OVERTAKEN;
        sight->in_doubt = true;
    }
    return ABSENT;
}

__attribute__((always_inline)) static inline enum outcome look_up(const struct nr_table *table, const struct nr_shard *shard,
                                   const struct nr_key *key, struct sight *sight)
{
    enum outcome outcome;
    bool was_in_doubt = sight->in_doubt;
    _Atomic uint64_t *slots = (_Atomic uint64_t *)((uint8_t *)shard + NR_TABLE_PAGE);
    _Atomic uint64_t *second = slots + nr_hash_bucket(&table->layout, key->hash, 1);

    __builtin_prefetch(second);
    if (was_in_doubt)
        sight->gaps_taken = atomic_load_explicit(&shard->gaps_taken, memory_order_acquire);
    sight->in_doubt = false;
    /* Before any slot, see was_overtaken: no slot seen after it points below. pairs with:
     * nr_log_move_tail */
    for (int log = 0; log < NR_LOGS; log++)
        sight->tails[log] = atomic_load_explicit(&shard->tail[log], memory_order_acquire);
    outcome = look_into(table, shard, key, slots + nr_hash_bucket(&table->layout, key->hash, 0), sight);
    if (outcome == ABSENT)
        outcome = look_into(table, shard, key, second, sight);
    if (__builtin_expect(outcome != ABSENT || !sight->in_doubt, 1))
        return outcome;
    /* A slot led to another key. Twice replaced while we looked, it may have been ours all the time: then a
     * gap was taken in between. */
    NR_FENCE(memory_order_acquire);
    return was_in_doubt && nr_get(shard->gaps_taken) == sight->gaps_taken ? ABSENT : OVERTAKEN;
}

/* Two bits, at most three writes until the next eviction takes one back. A lost race loses a mark. */
static inline void mark_as_read(const struct sight *sight)
{
    uint64_t slot = sight->slot;

    if (nr_slot_reads(slot) < 3)
        atomic_compare_exchange_strong_explicit(sight->place, &slot, slot + NR_SLOT_ONE_READ,
                                                memory_order_relaxed, memory_order_relaxed);
}

static inline void tally(struct nr_table *table, uint32_t shard, bool hit)
{
    struct nr_tally *tally = &table->tallies[shard];
    uint64_t before = atomic_fetch_add_explicit(hit ? &tally->hits : &tally->misses, 1,
                                                memory_order_relaxed);

    if (__builtin_expect(before == FOLD_EACH, 0))
        nr_table_fold(table, shard);
}

typedef uint8_t *place_function(void *, uint64_t);

enum reading { USES, COPIES, LOOKS }; /* only use counts and leaves a mark */

/* One try: 0, -ENOENT, -ENOBUFS, -ENOMEM, -EAGAIN (overtaken). */
__attribute__((always_inline)) static inline int try_read(const struct nr_table *table, const struct nr_shard *shard,
                           const struct nr_key *key, struct sight *sight, uint8_t *into, size_t room,
                           place_function *place, void *context, enum reading reading,
                           struct nr_entry *entry)
{
    enum outcome outcome = look_up(table, shard, key, sight);
    int result = 0;

    if (outcome != FOUND)
        return outcome == ABSENT ? -ENOENT : -EAGAIN;
    if (!nr_record_is_alive(table, sight->record, &sight->facts)) {
        result = -ENOENT;
    } else if (reading != LOOKS) {
        uint64_t size = sight->facts.value_bytes;

        if (place)
            into = place(context, size);
        if (place && !into)
            result = -ENOMEM;
        else if (!place && size > room)
            result = -ENOBUFS;
        else
            nr_racy_read(into, sight->record + nr_record_value_at(&sight->facts), size);
    }
    if (was_replaced(sight) || was_overtaken(&table->layout, shard, sight, sight->slot))
        return -EAGAIN;
    if (entry && (result == 0 || result == -ENOBUFS))
        nr_record_describe(&sight->facts, entry);
    return result;
}

/* In each verb anew, with what that verb does not use left out. */
__attribute__((always_inline)) static inline int
read_value(struct nr_table *table, const struct nr_key *key, uint8_t *into, size_t room,
           place_function *place, void *context, enum reading reading, struct nr_entry *entry)
{
    uint32_t number = nr_hash_shard(&table->layout, key->hash);
    struct nr_shard *shard = nr_shard_at(table, number);
    struct sight sight; /* no {0}: that is a `rep stos`, which takes longer than the hash */
    int result = -EAGAIN;

    sight.record = NULL;
    sight.facts = (struct nr_record_facts){0};
    sight.in_doubt = false;
    if (key->size > NR_TABLE_KEY_MOST)
        return -EINVAL;
    for (int tries = 0; tries < TRIES; tries++) {
        result = try_read(table, shard, key, &sight, into, room, place, context, reading,
                          entry);
        if (__builtin_expect(result != -EAGAIN, 1))
            break;
        nr_count_shared(shard, NR_RETRIES, 1);
    }
    if (result == -EAGAIN)
        result = -ENOENT; /* it was evicted at least once meanwhile */
    if (reading != USES)
        return result;
    if (result == 0)
        mark_as_read(&sight);
    if (result == 0 || result == -ENOENT)
        tally(table, number, result == 0);
    return result;
}

int nr_table_get(struct nr_table *table, const struct nr_key *key, void *into, size_t room,
                 struct nr_entry *entry)
{
    return read_value(table, key, into, room, NULL, NULL, USES, entry);
}

int nr_table_get_with(struct nr_table *table, const struct nr_key *key, place_function *place,
                      void *context, struct nr_entry *entry)
{
    return read_value(table, key, NULL, 0, place, context, USES, entry);
}

int nr_table_peek(struct nr_table *table, const struct nr_key *key, void *into, size_t room,
                  struct nr_entry *entry)
{
    return read_value(table, key, into, room, NULL, NULL, COPIES, entry);
}

int nr_table_look(struct nr_table *table, const struct nr_key *key, struct nr_entry *entry)
{
    return read_value(table, key, NULL, 0, NULL, NULL, LOOKS, entry);
}

int nr_table_read_tags(struct nr_table *table, const struct nr_key *key,
                       uint64_t tags[NR_TABLE_TAGS_OF_ONE])
{
    const struct nr_shard *shard = nr_shard_at(table, nr_table_shard_of(table, key));
    struct sight sight = {0};

    if (key->size > NR_TABLE_KEY_MOST)
        return -EINVAL;
    for (int tries = 0; tries < TRIES; tries++) {
        int result = try_read(table, shard, key, &sight, NULL, 0, NULL, NULL, LOOKS, NULL);

        if (result != 0 && result != -EAGAIN)
            return result;
        for (uint32_t i = 0; result == 0 && i < sight.facts.tags; i++)
            tags[i] = nr_word_load(sight.record + NR_RECORD_WORDS + i * 8) >> 32;
        if (result == 0 && !was_replaced(&sight) &&
            !was_overtaken(&table->layout, shard, &sight, sight.slot))
            return (int)sight.facts.tags;
    }
    return -ENOENT;
}

/* All buckets, and then, where they have come, the records. */
void nr_table_prefetch(const struct nr_table *table, const struct nr_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++)
        nr_prefetch_buckets(table, keys[i].hash);
    for (size_t i = 0; i < count; i++) {
        const struct nr_shard *shard = nr_shard_at(table, nr_table_shard_of(table, &keys[i]));
        uint64_t tag = nr_hash_tag(keys[i].hash);

        for (int which = 0; which < 2; which++) {
            const _Atomic uint64_t *slots =
                (const _Atomic uint64_t *)((const uint8_t *)shard + NR_TABLE_PAGE) +
                nr_hash_bucket(&table->layout, keys[i].hash, which);

            for (unsigned left = nr_bucket_matches(slots, tag); left != 0; left &= left - 1) {
                uint64_t slot = nr_get(slots[__builtin_ctz(left)]);

                /* an address only: prefetching faults nowhere */
                prefetch_record((const uint8_t *)shard + table->layout.log_at[nr_slot_log(slot)] +
                                nr_slot_offset(slot));
            }
        }
    }
}

/* ---- scan ---- */

/* The entry of one slot: 0, -ENOENT, -EAGAIN (overtaken). */
static int read_slot(struct nr_table *table, const struct nr_shard *shard, uint64_t number,
                     uint8_t *key, struct nr_record_facts *facts)
{
    _Atomic uint64_t *slots = (_Atomic uint64_t *)((uint8_t *)shard + NR_TABLE_PAGE);
    struct sight sight = {0};
    uint64_t slot;
    bool found;

    for (int log = 0; log < NR_LOGS; log++)
        sight.tails[log] = atomic_load_explicit(&shard->tail[log], memory_order_acquire);
    sight.place = &slots[number];
    slot = atomic_load_explicit(sight.place, memory_order_acquire);
    if (slot == 0)
        return -ENOENT;
    found = read_facts(table, shard, slot, &sight) &&
            nr_record_is_alive(table, sight.record, &sight.facts);
    if (found)
        nr_racy_read(key, sight.record + nr_record_key_at(&sight.facts), sight.facts.key_bytes);
    if (was_overtaken(&table->layout, shard, &sight, slot) || was_replaced(&sight) ||
        sight.facts.version == 0) /* a filler: it was replaced, and the slot knows where */
        return -EAGAIN;
    *facts = sight.facts;
    return found ? 0 : -ENOENT;
}

int nr_table_scan(struct nr_table *table, uint32_t number, uint64_t *cursor, uint8_t *key,
                  uint32_t *key_bytes, struct nr_entry *entry)
{
    uint64_t slots = (uint64_t)table->layout.buckets * NR_BUCKET_SLOTS;
    const struct nr_shard *shard;
    struct nr_record_facts facts;

    if (number >= table->layout.shards)
        return -EINVAL;
    shard = nr_shard_at(table, number);
    while (*cursor < slots) {
        int result = -EAGAIN;

        for (int tries = 0; tries < TRIES && result == -EAGAIN; tries++)
            result = read_slot(table, shard, *cursor, key, &facts);
        ++*cursor;
        if (result != 0)
            continue;
        *key_bytes = facts.key_bytes;
        if (entry)
            nr_record_describe(&facts, entry);
        return 0;
    }
    return -ENOENT;
}
