/* S3-FIFO (Yang, Zhang, Qiu, Yue, Vinayak: "FIFO queues are all you need for cache eviction", SOSP 2023).
 * What it must not know: who reads and writes, and why. It moves tails. */
#include "table_parts.h"

#define READS_FOR_MAIN 1
#define GOING_ROUND 16 /* records that one set moves on though there is room */
#define RECLAIMED 4 /* dead records of main's tail that one record of the small log may look for */
#define SPARE_BYTES 4096u /* kept free, so that a record at the tail finds room at the head */

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* ---- ghosts: fingerprints of what was forgotten unread, four to a word, the newest lowest ---- */

static uint64_t *ghost_set(const struct nr_view *view, uint64_t hash)
{
    return view->ghosts + ((hash >> 32) * view->layout->ghost_sets >> 32);
}

void nr_ghost_add(struct nr_view *view, uint64_t hash)
{
    uint64_t *set = ghost_set(view, hash);

    *set = *set << 16 | nr_hash_tag(hash);
}

bool nr_ghost_take(struct nr_view *view, uint64_t hash)
{
    uint64_t *set = ghost_set(view, hash), tag = nr_hash_tag(hash);

    for (int shift = 0; shift < 64; shift += 16)
        if ((*set >> shift & 0xffff) == tag) {
            uint64_t newer = *set & ((UINT64_C(1) << shift) - 1);
            uint64_t older = shift == 48 ? 0 : *set >> (shift + 16) << shift;

            *set = older | newer;
            return true;
        }
    return false;
}

/* ---- what happens to the record at a tail ---- */

/* A shard of which a quarter is dead needs no victims: what comes to main's tail goes to its head. */
static bool main_is_sparse(const struct nr_view *view)
{
    return nr_get(view->shard->sums.live_bytes[NR_MAIN]) < view->layout->log_bytes[NR_MAIN] / 4 * 3;
}

static uint64_t spare_for(const struct nr_view *view, int log, uint64_t bytes)
{
    return least(bytes > SPARE_BYTES ? bytes : SPARE_BYTES, view->layout->log_bytes[log] / 16);
}

static void pass_tail(struct nr_view *view, int log);

static void move(struct nr_view *view, uint64_t number, const uint8_t *record, uint64_t bytes,
                 uint64_t reads)
{
    uint64_t tag = nr_slot_tag(nr_get(view->slots[number]));
    struct nr_spot spot;

    nr_log_reserve(view, NR_MAIN, bytes, &spot);
    nr_racy_write(spot.at, record, bytes); /* only writers write, and this is the one */
    nr_log_commit(view, NR_MAIN, &spot);
    nr_index_change(view, number, nr_slot_make(tag, reads, NR_MAIN, spot.offset), bytes, bytes);
}

static void evict(struct nr_view *view, uint64_t number, uint64_t bytes, enum nr_counter counter)
{
    nr_index_change(view, number, 0, bytes, 0);
    if (number != view->replaced)
        nr_count(view->shard, counter);
}

static bool tail_is_dead(const struct nr_view *view, int log)
{
    uint64_t tail = nr_get(view->shard->tail[log]), head = nr_get(view->shard->head[log]), hash;
    uint64_t offset = tail % view->layout->log_bytes[log];
    const uint8_t *record = view->log[log] + offset;
    struct nr_record_facts facts;

    if (!nr_record_read(record, least(view->layout->log_bytes[log] - offset, head - tail), &facts))
        return false;
    if (facts.version == 0 || !nr_record_is_alive(view->table, record, &facts))
        return true;
    hash = nr_table_hash(view->table->hash_keys, record + nr_record_key_at(&facts), facts.key_bytes);
    return nr_index_find_slot(view, hash, nr_slot_make(nr_hash_tag(hash), 0, log, offset)) ==
           NR_NO_SLOT;
}

/* Before somebody is forgotten for want of room in main: room that the expired have there. */
static void reclaim_main(struct nr_view *view)
{
    for (int i = 0; i < RECLAIMED && !nr_log_is_empty(view, NR_MAIN) && tail_is_dead(view, NR_MAIN); i++)
        pass_tail(view, NR_MAIN);
}

static bool main_takes(struct nr_view *view, uint64_t bytes)
{
    uint64_t spare = spare_for(view, NR_MAIN, bytes);

    if (main_is_sparse(view) || nr_log_has_room(view, NR_MAIN, bytes, spare))
        return true;
    reclaim_main(view);
    return nr_log_has_room(view, NR_MAIN, bytes, spare);
}

static void leave_small(struct nr_view *view, uint64_t number, const uint8_t *record, uint64_t bytes,
                        uint64_t hash)
{
    uint64_t reads = nr_slot_reads(nr_get(view->slots[number]));

    if (number == view->replaced || reads >= READS_FOR_MAIN || main_takes(view, bytes)) {
        nr_make_room(view, NR_MAIN, bytes);
        move(view, number, record, bytes, 0);
        nr_count(view->shard, NR_MOVED_TO_MAIN);
        return;
    }
    evict(view, number, bytes, NR_EVICTED);
    nr_ghost_add(view, hash);
}

static void leave_main(struct nr_view *view, uint64_t number, const uint8_t *record, uint64_t bytes)
{
    uint64_t reads = nr_slot_reads(nr_get(view->slots[number]));

    if ((number == view->replaced || reads > 0 || main_is_sparse(view)) && view->may_move_bytes >= bytes &&
        nr_log_has_room(view, NR_MAIN, bytes, 0)) {
        view->may_move_bytes -= bytes;
        move(view, number, record, bytes, reads - (reads > 0));
        return;
    }
    evict(view, number, bytes, NR_EVICTED);
}

/* One record, or a filler, is left behind the tail. */
static void pass_tail(struct nr_view *view, int log)
{
    uint64_t tail = nr_get(view->shard->tail[log]), head = nr_get(view->shard->head[log]);
    uint64_t offset = tail % view->layout->log_bytes[log], hash, number;
    const uint8_t *record = view->log[log] + offset;
    struct nr_record_facts facts;

    if (!nr_record_read(record, least(view->layout->log_bytes[log] - offset, head - tail), &facts)) {
        nr_shard_drop_log(view, log); /* it is damaged, and where the next record begins nobody knows */
        return;
    }
    if (facts.version != 0) {
        hash = nr_table_hash(view->table->hash_keys, record + nr_record_key_at(&facts),
                             facts.key_bytes);
        number = nr_index_find_slot(view, hash, nr_slot_make(nr_hash_tag(hash), 0, log, offset));
        if (number == NR_NO_SLOT)
            ; /* dead: overwritten or deleted */
        else if (!nr_record_is_alive(view->table, record, &facts))
            evict(view, number, facts.bytes, NR_EXPIRED);
        else if (log == NR_SMALL)
            leave_small(view, number, record, facts.bytes, hash);
        else
            leave_main(view, number, record, facts.bytes);
    }
    nr_log_move_tail(view, log, facts.bytes);
}

/* The next set of this shard will ask about the record at the tail: its buckets are on their way then, and
 * the record behind it too. */
static void prefetch_tail(const struct nr_view *view, int log)
{
    uint64_t tail = nr_get(view->shard->tail[log]), head = nr_get(view->shard->head[log]), hash;
    uint64_t offset = tail % view->layout->log_bytes[log];
    const uint8_t *record = view->log[log] + offset;
    struct nr_record_facts facts;

    if (!nr_record_read(record, least(view->layout->log_bytes[log] - offset, head - tail), &facts) ||
        facts.version == 0)
        return;
    hash = nr_table_hash(view->table->hash_keys, record + nr_record_key_at(&facts), facts.key_bytes);
    __builtin_prefetch(&view->slots[nr_hash_bucket(view->layout, hash, 0)]);
    __builtin_prefetch(&view->slots[nr_hash_bucket(view->layout, hash, 1)]);
    __builtin_prefetch(record + facts.bytes);
    __builtin_prefetch(record + facts.bytes + 64);
}

/* What lives long gathers in long stretches, and to get through one for the room of a single record takes
 * long. So while main is sparse a few records go round with each set, before there is need. */
static void go_round(struct nr_view *view, uint64_t bytes)
{
    const uint64_t log_bytes = view->layout->log_bytes[NR_MAIN];

    for (int i = 0; i < GOING_ROUND && main_is_sparse(view) && !nr_log_is_empty(view, NR_MAIN) &&
                    !nr_log_has_room(view, NR_MAIN, bytes, log_bytes / 16); i++) {
        uint64_t offset = nr_get(view->shard->tail[NR_MAIN]) % log_bytes;
        struct nr_record_facts facts;

        if (!nr_record_read(view->log[NR_MAIN] + offset, log_bytes - offset, &facts) ||
            facts.bytes > view->may_move_bytes || !nr_log_has_room(view, NR_MAIN, facts.bytes, 0))
            return; /* it would be evicted */
        pass_tail(view, NR_MAIN);
    }
}

/* Each turn moves the tail; may_move_bytes bounds those that also move the head. */
void nr_make_room(struct nr_view *view, int log, uint64_t bytes)
{
    uint64_t spare = log == NR_MAIN ? spare_for(view, log, bytes) : 0; /* nothing comes back to small */

    if (log == NR_MAIN)
        go_round(view, bytes);
    if (nr_log_has_room(view, log, bytes, spare))
        return;
    while (!nr_log_has_room(view, log, bytes, spare) && !nr_log_is_empty(view, log))
        pass_tail(view, log);
    prefetch_tail(view, log);
}
