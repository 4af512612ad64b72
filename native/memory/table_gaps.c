/* Room in the middle of a log: a replaced record becomes a filler, and the next record of the same size that
 * replaces another takes its place. So a program that sets the same keys again and again moves no head, and
 * hence no tail. Readers see by the record's first word that it went (was_replaced in table_read.c).
 * While somebody watches (naru/table_watch.h) there are none: which key changed is read from its record, some
 * milliseconds later.
 * What it must not know: which key is replaced, and why. */
#include "table_watching.h"

static struct nr_gap *gap_of(const struct nr_view *view, uint64_t bytes)
{
    return &view->shard->gaps[bytes / 8 % NR_GAPS];
}

/* Anybody who may write the file may have written it. */
static bool is_sound(const struct nr_view *view, int log, const struct nr_gap *gap, uint64_t bytes)
{
    uint64_t log_bytes = view->layout->log_bytes[log], offset = gap->offset;

    return offset % 8 == 0 && offset < log_bytes && bytes <= log_bytes - offset &&
           !nr_tail_has_passed(log_bytes, gap->tail, nr_get(view->shard->tail[log]), offset) &&
           nr_word_load(view->log[log] + offset) == bytes << 32;
}

bool nr_gap_take(const struct nr_view *view, int log, uint64_t bytes, struct nr_spot *spot)
{
    struct nr_gap *gap = gap_of(view, bytes);

    if (gap->bytes != bytes || gap->log != (uint32_t)log || nr_is_watched(view->table))
        return false;
    gap->bytes = 0;
    if (!is_sound(view, log, gap, bytes))
        return false;
    spot->offset = gap->offset;
    spot->at = view->log[log] + spot->offset;
    spot->bytes = bytes;
    nr_put(view->shard->gaps_taken, nr_get(view->shard->gaps_taken) + 1);
    /* Who sees a byte of what is written now sees that the filler was there. pairs with: was_replaced */
    NR_FENCE(memory_order_release);
    NR_CRASHPOINT(NR_AT_TABLE_GAP_TAKEN);
    return true;
}

void nr_gap_leave(const struct nr_view *view, uint64_t slot, uint64_t bytes)
{
    int log = nr_slot_log(slot);
    struct nr_gap *gap = gap_of(view, bytes);

    if (bytes > NR_GAP_MOST || nr_is_watched(view->table))
        return;
    gap->bytes = 0;
    /* Release: who sees the filler sees that the slot points elsewhere. pairs with: look_into */
    atomic_store_explicit((_Atomic uint64_t *)(view->log[log] + nr_slot_offset(slot)), bytes << 32,
                          memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    NR_CRASHPOINT(NR_AT_TABLE_GAP_LEFT);
    gap->tail = nr_get(view->shard->tail[log]);
    gap->offset = nr_slot_offset(slot);
    gap->log = (uint32_t)log;
    atomic_signal_fence(memory_order_seq_cst);
    gap->bytes = (uint32_t)bytes;
}
