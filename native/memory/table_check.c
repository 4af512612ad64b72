/* Every slot and every record of one shard against each other. A slot is right when a walk from the tail
 * to the head comes to its record; the walk marks what it came to. */
#include <stdlib.h>

#include "table_parts.h"

struct walk {
    struct nr_view view;
    struct nr_table_report *report;
    uint8_t *reached; /* one bit a slot */
    bool repair;
};

static bool is_reached(const struct walk *walk, uint64_t number)
{
    return walk->reached[number / 8] >> number % 8 & 1;
}

/* False: from here on nobody can say where a record begins. */
static bool walk_log(struct walk *walk, int log)
{
    const struct nr_view *view = &walk->view;
    uint64_t position = nr_get(view->shard->tail[log]), head = nr_get(view->shard->head[log]);

    while (position != head) {
        uint64_t bytes = view->layout->log_bytes[log], offset = position % bytes, number, hash;
        uint64_t room = bytes - offset < head - position ? bytes - offset : head - position;
        const uint8_t *record = view->log[log] + offset;
        struct nr_record_facts facts;

        if (!nr_record_read(record, room, &facts))
            return false;
        position += facts.bytes;
        if (facts.version == 0)
            continue;
        walk->report->records++;
        hash = nr_table_hash(view->table->hash_keys, record + nr_record_key_at(&facts),
                             facts.key_bytes);
        number = nr_index_find_slot(view, hash, nr_slot_make(nr_hash_tag(hash), 0, log, offset));
        if (number == NR_NO_SLOT)
            walk->report->dead_records++;
        else
            walk->reached[number / 8] |= (uint8_t)(1u << number % 8);
    }
    return true;
}

static void check_slots(struct walk *walk, const bool damaged[NR_LOGS])
{
    struct nr_view *view = &walk->view;

    for (uint64_t i = 0; i < (uint64_t)view->layout->buckets * NR_BUCKET_SLOTS; i++) {
        if (nr_get(view->slots[i]) == 0)
            continue;
        if (is_reached(walk, i)) {
            walk->report->entries++;
            continue;
        }
        walk->report->damaged_slots++;
        if (walk->repair)
            atomic_store_explicit(&view->slots[i], 0, memory_order_release);
    }
    for (int log = 0; log < NR_LOGS; log++)
        if (damaged[log] && walk->repair)
            nr_shard_drop_log(view, log);
}

static void check_sums(struct walk *walk)
{
    struct nr_sums *sums = &walk->view.shard->sums;
    uint64_t before[3], after[3];

    for (int i = 0; i < 3; i++)
        before[i] = i == 0 ? nr_get(sums->entries) : nr_get(sums->live_bytes[i - 1]);
    nr_index_recount(&walk->view);
    for (int i = 0; i < 3; i++) {
        after[i] = i == 0 ? nr_get(sums->entries) : nr_get(sums->live_bytes[i - 1]);
        walk->report->wrong_sums += before[i] != after[i];
    }
    if (walk->repair)
        return;
    nr_put(sums->entries, before[0]);
    nr_put(sums->live_bytes[NR_SMALL], before[1]);
    nr_put(sums->live_bytes[NR_MAIN], before[2]);
}

int nr_table_check(struct nr_table *table, uint32_t number, bool repair, uint64_t deadline_ns,
                   struct nr_table_report *report)
{
    struct walk walk = {.report = report, .repair = repair};
    bool damaged[NR_LOGS];
    int result;

    *report = (struct nr_table_report){0};
    if (number >= table->layout.shards)
        return -EINVAL;
    walk.reached = calloc(table->layout.buckets, 1);
    if (!walk.reached)
        return -ENOMEM;
    result = nr_shard_lock(table, number, deadline_ns);
    if (result == 0) {
        walk.view = nr_view_of(table, number);
        for (int log = 0; log < NR_LOGS; log++)
            damaged[log] = !walk_log(&walk, log);
        check_slots(&walk, damaged);
        check_sums(&walk);
        nr_shard_unlock(table, number);
    }
    free(walk.reached);
    return result;
}
