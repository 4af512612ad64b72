#include <stdlib.h>

#include "table_parts.h"
#include "table_watching.h"

/* How much one set may move from main's tail to its head: enough to get through a dense stretch of what
 * is still alive, and a hundred small records at most. */
#define MAY_MOVE_BYTES(bytes) (16384 + 4 * (bytes))

/* What shall stand, all questions answered. */
struct draft {
    const struct iovec *parts;
    int count;
    uint64_t value_bytes;
    int64_t expires_ms;
    uint64_t marks[NR_TABLE_TAGS_OF_ONE];
    uint32_t tags;
    uint8_t kind;
};

/* The key's entry as the holder of the mutex finds it. */
struct standing {
    uint64_t number; /* NR_NO_SLOT: none */
    bool alive;
    const uint8_t *record;
    struct nr_record_facts facts;
};

static void find(const struct nr_view *view, const struct nr_key *key, struct standing *standing)
{
    standing->number = nr_index_find(view, key, &standing->facts);
    standing->alive = false;
    if (standing->number == NR_NO_SLOT)
        return;
    standing->record = nr_slot_record(view, nr_get(view->slots[standing->number]));
    standing->alive = nr_record_is_alive(view->table, standing->record, &standing->facts);
}

/* ---- writing a record ---- */

static void fill(uint8_t *record, const struct nr_key *key, const struct draft *draft, uint32_t version)
{
    uint8_t *at = record;

    nr_word_store(at + 8, nr_record_word(draft->expires_ms, key->size, draft->tags, draft->kind));
    at += NR_RECORD_WORDS;
    for (uint32_t i = 0; i < draft->tags; i++, at += 8)
        nr_word_store(at, draft->marks[i]);
    nr_racy_write(at, key->bytes, key->size);
    at += key->size;
    for (int i = 0; i < draft->count; i++) {
        nr_racy_write(at, draft->parts[i].iov_base, draft->parts[i].iov_len);
        at += draft->parts[i].iov_len;
    }
    /* Last: in a gap it is this word that ends the filler. pairs with: nr_record_read */
    atomic_store_explicit((_Atomic uint64_t *)record, version | draft->value_bytes << 32,
                          memory_order_release);
}

static int pick_log(struct nr_view *view, const struct nr_key *key, const struct standing *old,
                    uint64_t bytes)
{
    if (bytes > view->layout->log_bytes[NR_SMALL] / 4)
        return NR_MAIN;
    if (old->number != NR_NO_SLOT)
        return nr_slot_log(nr_get(view->slots[old->number]));
    if (!nr_ghost_take(view, key->hash))
        return NR_SMALL;
    nr_count(view->shard, NR_GHOSTS_RETURNED);
    return NR_MAIN;
}

static uint32_t next_version(struct nr_shard *shard)
{
    uint32_t version = (uint32_t)++shard->version;

    return version ? version : (uint32_t)++shard->version;
}

static uint64_t find_slot_for(struct nr_view *view, const struct nr_key *key)
{
    uint64_t number = nr_index_find_empty(view, key->hash);

    if (number == NR_NO_SLOT) {
        number = nr_index_find_least(view, key->hash);
        nr_index_clear(view, number);
        nr_count(view->shard, NR_INDEX_EVICTED);
    }
    return number;
}

static void make_room(struct nr_view *view, const struct nr_key *key, struct standing *old, int log,
                      uint64_t bytes)
{
    struct nr_shard *shard = view->shard;
    uint64_t tails = nr_get(shard->tail[NR_SMALL]) + nr_get(shard->tail[NR_MAIN]);

    view->may_move_bytes = MAY_MOVE_BYTES(bytes);
    view->replaced = old->number;
    nr_make_room(view, log, bytes);
    if (tails != nr_get(shard->tail[NR_SMALL]) + nr_get(shard->tail[NR_MAIN]))
        find(view, key, old); /* it may have been moved or evicted itself */
}

static int put(struct nr_view *view, const struct nr_key *key, const struct draft *draft,
               struct standing *old, struct nr_entry *written)
{
    uint64_t bytes = nr_record_bytes(key->size, draft->tags, draft->value_bytes);
    uint64_t gone = 0, reads = 0, before = 0;
    struct nr_spot spot;
    uint32_t version;
    bool in_gap;
    int log;

    if (bytes > view->layout->record_most)
        return -E2BIG;
    log = pick_log(view, key, old, bytes);
    in_gap = old->number != NR_NO_SLOT && nr_slot_log(nr_get(view->slots[old->number])) == log &&
             nr_gap_take(view, log, bytes, &spot);
    if (!in_gap)
        make_room(view, key, old, log, bytes);
    if (old->number != NR_NO_SLOT) {
        before = nr_get(view->slots[old->number]);
        gone = old->facts.bytes;
        reads = old->alive ? nr_slot_reads(before) : 0;
    } else {
        old->number = find_slot_for(view, key);
    }
    if (!in_gap)
        nr_log_reserve(view, log, bytes, &spot);
    version = next_version(view->shard);
    fill(spot.at, key, draft, version);
    if (in_gap)
        NR_CRASHPOINT(NR_AT_TABLE_GAP_WRITTEN);
    else
        nr_log_commit(view, log, &spot);
    nr_index_change(view, old->number,
                    nr_slot_make(nr_hash_tag(key->hash), reads, log, spot.offset), gone, bytes);
    if (gone > 0)
        nr_gap_leave(view, before, gone);
    nr_count(view->shard, NR_SETS);
    if (written)
        *written = (struct nr_entry){draft->value_bytes, version, draft->expires_ms, draft->kind,
                                     draft->tags};
    return 0;
}

/* ---- what a change asks for ---- */

static int64_t limit_expiry(int64_t expires_ms)
{
    if (expires_ms < 0)
        return 1; /* long past: no clock begins before it */
    return expires_ms >> NR_EXPIRY_BITS ? 0 : expires_ms;
}

static int make_draft(const struct nr_table *table, const struct nr_change *change,
                      const struct standing *old, struct draft *draft)
{
    draft->parts = change->parts;
    draft->count = change->count;
    draft->kind = change->kind & 15;
    draft->value_bytes = 0;
    for (int i = 0; i < change->count; i++) {
        if (change->parts[i].iov_len > table->layout.record_most)
            return -E2BIG;
        draft->value_bytes += change->parts[i].iov_len;
        if (draft->value_bytes > table->layout.record_most)
            return -E2BIG;
    }
    draft->expires_ms = limit_expiry(change->expires_ms);
    if (change->expires_ms == NR_KEEP_EXPIRY)
        draft->expires_ms = old->alive ? old->facts.expires_ms : 0;
    draft->tags = change->tag_count;
    if (change->tag_count == NR_KEEP_TAGS) {
        draft->tags = old->alive ? old->facts.tags : 0;
        for (uint32_t i = 0; i < draft->tags; i++)
            draft->marks[i] = nr_word_load(old->record + NR_RECORD_WORDS + i * 8);
    } else if (draft->tags > NR_TABLE_TAGS_OF_ONE) {
        return -EINVAL;
    } else {
        for (uint32_t i = 0; i < draft->tags; i++) {
            uint64_t counter = change->tags[i] & (NR_TABLE_TAGS - 1);

            draft->marks[i] = counter << 32 | nr_get(table->tags[counter]);
        }
    }
    return 0;
}

static int check_condition(const struct nr_change *change, const struct standing *old)
{
    switch (change->condition) {
    case NR_ALWAYS:
        return 0;
    case NR_IF_ABSENT:
        return old->alive ? -EEXIST : 0;
    case NR_IF_PRESENT:
        return old->alive ? 0 : -ENOENT;
    case NR_IF_VERSION:
        if (!old->alive)
            return -ENOENT;
        return old->facts.version == change->version ? 0 : -EAGAIN;
    }
    return -EINVAL;
}

static int begin(struct nr_table *table, const struct nr_key *key, uint64_t deadline_ns,
                 struct nr_view *view, struct standing *standing)
{
    uint32_t number = nr_table_shard_of(table, key);
    int result;

    if (key->size > NR_TABLE_KEY_MOST)
        return -EINVAL;
    nr_prefetch_buckets(table, key->hash); /* they come while the mutex is taken */
    result = nr_shard_lock_to_write(table, number, deadline_ns);
    if (result < 0)
        return result;
    *view = nr_view_of(table, number);
    find(view, key, standing);
    return 0;
}

static int finish(struct nr_view *view, int result)
{
    struct nr_shard *shard = view->shard;

    nr_shard_unlock(view->table, view->number);
    if (result == 0 && nr_get(shard->awaited))
        nr_claims_wake(shard);
    return result;
}

int nr_table_set(struct nr_table *table, const struct nr_key *key, const struct nr_change *change,
                 uint64_t deadline_ns, struct nr_entry *written)
{
    struct standing old;
    struct nr_view view;
    struct draft draft;
    int result = begin(table, key, deadline_ns, &view, &old);

    if (result < 0)
        return result;
    result = check_condition(change, &old);
    if (result == 0)
        result = make_draft(table, change, &old, &draft);
    if (result == 0)
        result = put(&view, key, &draft, &old, written);
    return finish(&view, result);
}

static void remove_standing(struct nr_view *view, const struct standing *old)
{
    uint64_t before = nr_get(view->slots[old->number]);

    view->removing = true;
    nr_index_change(view, old->number, 0, old->facts.bytes, 0);
    nr_gap_leave(view, before, old->facts.bytes);
    nr_count(view->shard, old->alive ? NR_DELETES : NR_EXPIRED);
}

static int delete_if(struct nr_table *table, const struct nr_key *key, const uint64_t *version,
                     uint64_t deadline_ns)
{
    struct standing old;
    struct nr_view view;
    int result = begin(table, key, deadline_ns, &view, &old);

    if (result < 0)
        return result;
    if (version && old.alive && old.facts.version != *version)
        return finish(&view, -EAGAIN);
    if (old.number != NR_NO_SLOT)
        remove_standing(&view, &old);
    return finish(&view, old.alive ? 0 : -ENOENT);
}

int nr_table_delete(struct nr_table *table, const struct nr_key *key, uint64_t deadline_ns)
{
    return delete_if(table, key, NULL, deadline_ns);
}

int nr_table_delete_version(struct nr_table *table, const struct nr_key *key, uint64_t version,
                            uint64_t deadline_ns)
{
    return delete_if(table, key, &version, deadline_ns);
}

int nr_table_touch(struct nr_table *table, const struct nr_key *key, int64_t expires_ms,
                   uint64_t deadline_ns)
{
    struct standing old;
    struct nr_view view;
    int result = begin(table, key, deadline_ns, &view, &old);

    if (result < 0)
        return result;
    if (!old.alive)
        return finish(&view, -ENOENT);
    /* In place: one word, which a reader sees as it was or as it is. */
    if (expires_ms != NR_KEEP_EXPIRY) {
        uint64_t noted = nr_note_change(&view, 0, nr_get(view.slots[old.number]));

        nr_word_store((uint8_t *)old.record + 8,
                      nr_record_word(limit_expiry(expires_ms), old.facts.key_bytes, old.facts.tags,
                                     old.facts.kind));
        nr_note_made(&view, noted);
    }
    return finish(&view, 0);
}

/* ---- read, change, write ---- */

/* Parts of the old value would be overwritten while they are copied. */
static int keep_own_parts(const struct nr_table *table, struct draft *draft, struct iovec *whole)
{
    uint8_t *copy, *end = table->map + table->layout.total_bytes;
    uint64_t done = 0;
    bool inside = false;

    for (int i = 0; i < draft->count; i++) {
        const uint8_t *base = draft->parts[i].iov_base;

        inside |= base >= table->map && base < end && draft->parts[i].iov_len > 0;
    }
    whole->iov_base = NULL;
    if (!inside)
        return 0;
    copy = malloc(draft->value_bytes);
    if (!copy)
        return -ENOMEM;
    for (int i = 0; i < draft->count; i++) {
        nr_racy_read(copy + done, draft->parts[i].iov_base, draft->parts[i].iov_len);
        done += draft->parts[i].iov_len;
    }
    *whole = (struct iovec){copy, draft->value_bytes};
    draft->parts = whole;
    draft->count = 1;
    return 0;
}

static int write_change(struct nr_view *view, const struct nr_key *key, const struct nr_change *change,
                        struct standing *old, struct nr_entry *written)
{
    struct iovec whole = {NULL, 0};
    struct draft draft;
    int result = make_draft(view->table, change, old, &draft);

    if (result == 0)
        result = keep_own_parts(view->table, &draft, &whole);
    if (result == 0)
        result = put(view, key, &draft, old, written);
    free(whole.iov_base);
    return result;
}

int nr_table_update(struct nr_table *table, const struct nr_key *key, uint64_t deadline_ns,
                    int (*change)(void *context, const uint8_t *bytes, const struct nr_entry *entry,
                                  struct nr_change *change),
                    void *context, struct nr_entry *written)
{
    struct nr_change wanted = {.expires_ms = NR_KEEP_EXPIRY, .tag_count = NR_KEEP_TAGS};
    struct nr_entry entry = {0};
    struct standing old;
    struct nr_view view;
    int result = begin(table, key, deadline_ns, &view, &old);

    if (result < 0)
        return result;
    if (old.alive) {
        nr_record_describe(&old.facts, &entry);
        wanted.kind = entry.kind;
    }
    if (written)
        *written = entry;
    result = change(context, old.alive ? old.record + nr_record_value_at(&old.facts) : NULL,
                    old.alive ? &entry : NULL, &wanted);
    if (result == NR_REMOVE && old.number != NR_NO_SLOT)
        remove_standing(&view, &old);
    if (result == 0)
        result = write_change(&view, key, &wanted, &old, written);
    return finish(&view, result);
}

int nr_table_clear(struct nr_table *table, uint64_t deadline_ns)
{
    for (uint32_t i = 0; i < table->layout.shards; i++) {
        int result = nr_shard_lock_to_write(table, i, deadline_ns);
        struct nr_view view = nr_view_of(table, i);

        if (result < 0)
            return result;
        view.removing = true;
        nr_shard_empty(&view);
        nr_shard_unlock(table, i);
    }
    return 0;
}
