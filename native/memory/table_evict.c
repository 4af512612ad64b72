/* S3-FIFO (Yang, Zhang, Qiu, Yue, Vinayak: "FIFO queues are all you need for cache eviction", SOSP 2023).
 * What it must not know: who reads and writes, and why. It moves tails. */
#include "table_parts.h"

#define READS_FOR_MAIN 1
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

static uint64_t with_spare(const struct nr_view *view, int log, uint64_t bytes)
{
    uint64_t spare = bytes > SPARE_BYTES ? bytes : SPARE_BYTES;

    return bytes + least(spare, view->layout->log_bytes[log] / 16);
}

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
    nr_count(view->shard, counter);
}

static void leave_small(struct nr_view *view, uint64_t number, const uint8_t *record, uint64_t bytes,
                        uint64_t hash)
{
    uint64_t reads = nr_slot_reads(nr_get(view->slots[number]));

    if (reads >= READS_FOR_MAIN || main_is_sparse(view) ||
        nr_log_has_room(view, NR_MAIN, with_spare(view, NR_MAIN, bytes))) {
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

    if ((reads > 0 || main_is_sparse(view)) && view->second_chances > 0 &&
        nr_log_has_room(view, NR_MAIN, bytes)) {
        view->second_chances--;
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

/* Each turn moves the tail; those that also move the head are counted in second_chances. */
void nr_make_room(struct nr_view *view, int log, uint64_t bytes)
{
    uint64_t wanted = with_spare(view, log, bytes);

    while (!nr_log_has_room(view, log, wanted) && !nr_log_is_empty(view, log))
        pass_tail(view, log);
}
