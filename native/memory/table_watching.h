/* table_watching.h: what the table's writers do for those who watch it (naru/table_watch.h). */
#ifndef NR_TABLE_WATCHING_H
#define NR_TABLE_WATCHING_H

#include "table_parts.h"

uint64_t nr_note_slot(struct nr_view *, uint64_t old, uint64_t value);
uint64_t nr_note_all(struct nr_view *);
void nr_note_tag(struct nr_table *);
void nr_watchers_sweep(struct nr_table *);

static inline bool nr_is_watched(const struct nr_table *table)
{
    return __builtin_expect(nr_get(table->header->watched) != 0, 0);
}
/* Before a slot gets another value (0: it is cleared), under the mutex. */
static inline uint64_t nr_note_change(struct nr_view *view, uint64_t old, uint64_t value)
{
    return nr_is_watched(view->table) ? nr_note_slot(view, old, value) : 0;
}
/* Behind it, with what the first one gave. */
static inline void nr_note_made(struct nr_view *view, uint64_t noted)
{
    if (noted)
        atomic_store_explicit(&view->shard->watch_changed, noted, memory_order_release);
}

#endif
