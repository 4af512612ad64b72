#include "table_parts.h"
#include "table_watching.h"

bool nr_slot_facts(const struct nr_view *view, uint64_t slot, struct nr_record_facts *facts)
{
    uint64_t offset = nr_slot_offset(slot), bytes = view->layout->log_bytes[nr_slot_log(slot)];

    return offset < bytes && nr_record_read(nr_slot_record(view, slot), bytes - offset, facts) &&
           facts->version != 0;
}

uint64_t nr_index_find(const struct nr_view *view, const struct nr_key *key,
                       struct nr_record_facts *facts)
{
    uint64_t tag = nr_hash_tag(key->hash);

    for (int which = 0; which < 2; which++) {
        uint64_t first = nr_hash_bucket(view->layout, key->hash, which);

        for (unsigned left = nr_bucket_matches(&view->slots[first], tag); left != 0; left &= left - 1) {
            uint64_t number = first + (unsigned)__builtin_ctz(left), slot = nr_get(view->slots[number]);

            if (nr_slot_facts(view, slot, facts) && facts->key_bytes == key->size &&
                nr_racy_is_same(nr_slot_record(view, slot) + nr_record_key_at(facts), key->bytes,
                                key->size))
                return number;
        }
    }
    return NR_NO_SLOT;
}

uint64_t nr_index_find_slot(const struct nr_view *view, uint64_t hash, uint64_t wanted)
{
    for (int which = 0; which < 2; which++) {
        uint64_t first = nr_hash_bucket(view->layout, hash, which);
        unsigned left = nr_bucket_matches(&view->slots[first], nr_slot_tag(wanted));

        for (; left != 0; left &= left - 1) {
            uint64_t number = first + (unsigned)__builtin_ctz(left);

            if (nr_slot_is_same(nr_get(view->slots[number]), wanted))
                return number;
        }
    }
    return NR_NO_SLOT;
}

/* In the emptier one of the two: that is what lets buckets of 8 be 80 % full. */
uint64_t nr_index_find_empty(const struct nr_view *view, uint64_t hash)
{
    uint64_t first[2];
    unsigned empty[2];
    int which;

    for (which = 0; which < 2; which++) {
        first[which] = nr_hash_bucket(view->layout, hash, which);
        empty[which] = nr_bucket_matches(&view->slots[first[which]], 0);
    }
    which = __builtin_popcount(empty[1]) > __builtin_popcount(empty[0]);
    return empty[which] ? first[which] + (unsigned)__builtin_ctz(empty[which]) : NR_NO_SLOT;
}

uint64_t nr_index_find_least(const struct nr_view *view, uint64_t hash)
{
    uint64_t least = NR_NO_SLOT;
    unsigned fewest = 8;

    for (int which = 0; which < 2; which++) {
        uint64_t number = nr_hash_bucket(view->layout, hash, which);

        for (uint64_t end = number + NR_BUCKET_SLOTS; number < end; number++) {
            uint64_t slot = nr_get(view->slots[number]);
            /* of equals, one that has not yet come to main */
            unsigned reads = (unsigned)nr_slot_reads(slot) * 2 + (nr_slot_log(slot) == NR_MAIN);

            if (reads < fewest) {
                fewest = reads;
                least = number;
            }
        }
    }
    return least;
}

/* ---- changes ---- */

static void put_sums(struct nr_sums *sums, const uint64_t values[3])
{
    nr_put(sums->entries, values[0]);
    NR_CRASHPOINT(NR_AT_TABLE_SUMS);
    nr_put(sums->live_bytes[NR_SMALL], values[1]);
    nr_put(sums->live_bytes[NR_MAIN], values[2]);
}

/* The intent, the slot, the sums, in this order. A process that dies has done a beginning of it: its
 * stores are all there, in the order of the program (hence the compiler's fences; between the processors
 * it is the mutex that orders them). */
void nr_index_change(struct nr_view *view, uint64_t number, uint64_t value, uint64_t gone, uint64_t come)
{
    struct nr_shard *shard = view->shard;
    struct nr_intent *intent = &shard->intent;
    uint64_t old = nr_get(view->slots[number]), noted = nr_note_change(view, old, value);

    intent->slot = number;
    intent->value = value;
    intent->before[0] = intent->after[0] = nr_get(shard->sums.entries);
    for (int log = 0; log < NR_LOGS; log++)
        intent->before[1 + log] = intent->after[1 + log] = nr_get(shard->sums.live_bytes[log]);
    intent->after[0] += (uint64_t)(come > 0) - (uint64_t)(gone > 0);
    intent->after[1 + nr_slot_log(old)] -= gone;
    intent->after[1 + nr_slot_log(value)] += come;
    atomic_signal_fence(memory_order_seq_cst);
    nr_put(intent->state, NR_INTENDS_SLOT);
    atomic_signal_fence(memory_order_seq_cst);
    NR_CRASHPOINT(NR_AT_TABLE_INTENT);
    /* Release: who sees the slot sees the record. pairs with: look_into in table_read.c */
    atomic_store_explicit(&view->slots[number], value, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    NR_CRASHPOINT(NR_AT_TABLE_CHANGED);
    nr_note_made(view, noted);
    put_sums(&shard->sums, intent->after);
    atomic_signal_fence(memory_order_seq_cst);
    nr_put(intent->state, NR_INTENDS_NOTHING);
}

void nr_index_clear(struct nr_view *view, uint64_t number)
{
    struct nr_record_facts facts;
    bool counted = nr_slot_facts(view, nr_get(view->slots[number]), &facts);

    nr_index_change(view, number, 0, counted ? facts.bytes : 0, 0);
}

/* ---- many slots at once ----
 * The intent says so before the first one, and whoever takes over begins again: each step may be done
 * twice. */

static void begin(struct nr_view *view, uint64_t what)
{
    nr_put(view->shard->intent.state, what);
    atomic_signal_fence(memory_order_seq_cst);
}

static void end(struct nr_view *view)
{
    atomic_signal_fence(memory_order_seq_cst);
    nr_put(view->shard->intent.state, NR_INTENDS_NOTHING);
}

/* A position that no reader can have seen: the next lap's beginning. */
static void restart_log(struct nr_view *view, int log)
{
    uint64_t bytes = view->layout->log_bytes[log];
    uint64_t head = nr_get(view->shard->head[log]), tail = nr_get(view->shard->tail[log]);
    uint64_t last = head - tail <= bytes ? head : head > tail ? head : tail;

    last = (last / bytes + 1) * bytes;
    nr_put(view->shard->head[log], last);
    /* as in nr_log_move_tail */
    atomic_store_explicit(&view->shard->tail[log], last, memory_order_release);
    NR_FENCE(memory_order_release);
}

static uint64_t slot_count(const struct nr_view *view)
{
    return (uint64_t)view->layout->buckets * NR_BUCKET_SLOTS;
}

void nr_shard_empty(struct nr_view *view)
{
    const uint64_t nothing[3] = {0, 0, 0};
    uint64_t noted = nr_note_all(view);

    begin(view, NR_INTENDS_EMPTYING);
    for (uint64_t i = 0; i < slot_count(view); i++) {
        nr_put(view->slots[i], 0);
        if (i == slot_count(view) / 2)
            NR_CRASHPOINT(NR_AT_TABLE_EMPTYING);
    }
    for (int log = 0; log < NR_LOGS; log++)
        restart_log(view, log);
    put_sums(&view->shard->sums, nothing);
    nr_note_made(view, noted);
    end(view);
}

void nr_shard_drop_log(struct nr_view *view, int log)
{
    uint64_t noted = nr_note_all(view);

    begin(view, NR_INTENDS_DROPPING | (uint64_t)log << 8);
    for (uint64_t i = 0; i < slot_count(view); i++) {
        uint64_t slot = nr_get(view->slots[i]);

        if (slot != 0 && nr_slot_log(slot) == log)
            nr_put(view->slots[i], 0);
    }
    restart_log(view, log);
    nr_index_recount(view);
    nr_note_made(view, noted);
    end(view);
    nr_count(view->shard, NR_REBUILT);
}

void nr_index_recount(struct nr_view *view)
{
    uint64_t sums[3] = {0, 0, 0};

    for (uint64_t i = 0; i < slot_count(view); i++) {
        struct nr_record_facts facts;
        uint64_t slot = nr_get(view->slots[i]);

        if (slot == 0 || !nr_slot_facts(view, slot, &facts))
            continue;
        sums[0]++;
        sums[1 + nr_slot_log(slot)] += facts.bytes;
    }
    put_sums(&view->shard->sums, sums);
}

void nr_index_repair(struct nr_view *view)
{
    struct nr_intent *intent = &view->shard->intent;
    uint64_t state = nr_get(intent->state), number = intent->slot;

    if (state == NR_INTENDS_SLOT && number < slot_count(view)) {
        bool happened = nr_slot_is_same(nr_get(view->slots[number]), intent->value);

        put_sums(&view->shard->sums, happened ? intent->after : intent->before);
        end(view);
    } else if (state == NR_INTENDS_EMPTYING) {
        nr_shard_empty(view);
    } else if ((state & 0xff) == NR_INTENDS_DROPPING) {
        nr_shard_drop_log(view, state >> 8 & 1 ? NR_MAIN : NR_SMALL);
    } else if (state != NR_INTENDS_NOTHING) {
        nr_index_recount(view);
        end(view);
    }
    /* Whatever was noted has happened by now, or never will. */
    nr_note_made(view, nr_get(view->shard->watch_noted));
}
