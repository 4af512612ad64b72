#include "table_parts.h"

bool nr_log_is_empty(const struct nr_view *view, int log)
{
    return nr_get(view->shard->head[log]) == nr_get(view->shard->tail[log]);
}

/* Bytes to the end of the log that a record of that size leaves to a filler. */
static uint64_t filler_before(const struct nr_view *view, int log, uint64_t head, uint64_t bytes)
{
    uint64_t to_end = view->layout->log_bytes[log] - head % view->layout->log_bytes[log];

    return bytes <= to_end ? 0 : to_end;
}

bool nr_log_has_room(const struct nr_view *view, int log, uint64_t bytes, uint64_t spare)
{
    uint64_t head = nr_get(view->shard->head[log]);
    uint64_t free_bytes = nr_get(view->shard->tail[log]) + view->layout->log_bytes[log] - head;

    return bytes <= free_bytes && filler_before(view, log, head, bytes) + bytes + spare <= free_bytes;
}

void nr_log_reserve(struct nr_view *view, int log, uint64_t bytes, struct nr_spot *spot)
{
    uint64_t head = nr_get(view->shard->head[log]);
    uint64_t filler = filler_before(view, log, head, bytes);

    if (filler > 0) {
        nr_word_store(view->log[log] + head % view->layout->log_bytes[log], filler << 32);
        atomic_signal_fence(memory_order_seq_cst); /* a filler that has no words is never walked over */
        head += filler;
        nr_put(view->shard->head[log], head);
        NR_CRASHPOINT(NR_AT_TABLE_FILLED);
    }
    spot->offset = head % view->layout->log_bytes[log];
    spot->at = view->log[log] + spot->offset;
    spot->bytes = bytes;
}

void nr_log_commit(struct nr_view *view, int log, const struct nr_spot *spot)
{
    NR_CRASHPOINT(NR_AT_TABLE_WRITTEN);
    /* After its bytes, also for the eyes of the next owner of the mutex, who walks from tail to head. */
    atomic_signal_fence(memory_order_seq_cst);
    nr_put(view->shard->head[log], nr_get(view->shard->head[log]) + spot->bytes);
    NR_CRASHPOINT(NR_AT_TABLE_HEAD);
}

void nr_log_move_tail(struct nr_view *view, int log, uint64_t bytes)
{
    NR_CRASHPOINT(NR_AT_TABLE_TAIL);
    /* Release: who sees this tail sees no slot that points below it. pairs with: look_up in table_read.c.
     * Then the fence, then the first byte over what lay there: who saw such a byte sees this tail. pairs
     * with: was_overtaken */
    atomic_store_explicit(&view->shard->tail[log], nr_get(view->shard->tail[log]) + bytes,
                          memory_order_release);
    NR_FENCE(memory_order_release);
    NR_CRASHPOINT(NR_AT_TABLE_TAIL_MOVED);
}
