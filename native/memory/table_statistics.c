#include "table_parts.h"

static void add_shard(struct nr_table *table, uint32_t number, struct nr_table_statistics *total)
{
    struct nr_shard *shard = nr_shard_at(table, number);
    uint64_t recovery_ns = nr_get(shard->counters[NR_LAST_RECOVERY_NS]);

    nr_table_fold(table, number);
    total->entries += nr_get(shard->sums.entries);
    for (int log = 0; log < NR_LOGS; log++) {
        total->live_bytes += nr_get(shard->sums.live_bytes[log]);
        total->log_bytes += table->layout.log_bytes[log];
    }
    total->index_slots += (uint64_t)table->layout.buckets * NR_BUCKET_SLOTS;
    total->hits += nr_get(shard->counters[NR_HITS]);
    total->misses += nr_get(shard->counters[NR_MISSES]);
    total->sets += nr_get(shard->counters[NR_SETS]);
    total->deletes += nr_get(shard->counters[NR_DELETES]);
    total->evicted += nr_get(shard->counters[NR_EVICTED]);
    total->expired += nr_get(shard->counters[NR_EXPIRED]);
    total->ghosts_returned += nr_get(shard->counters[NR_GHOSTS_RETURNED]);
    total->moved_to_main += nr_get(shard->counters[NR_MOVED_TO_MAIN]);
    total->index_evicted += nr_get(shard->counters[NR_INDEX_EVICTED]);
    total->retries += nr_get(shard->counters[NR_RETRIES]);
    total->lock_waits += nr_get(shard->counters[NR_LOCK_WAITS]);
    total->lock_timeouts += nr_get(shard->counters[NR_LOCK_TIMEOUTS]);
    total->owners_died += nr_get(shard->counters[NR_OWNERS_DIED]);
    total->rebuilt += nr_get(shard->counters[NR_REBUILT]);
    if (recovery_ns > total->last_recovery_ns) /* of several shards, the slowest */
        total->last_recovery_ns = recovery_ns;
}

int nr_table_read_statistics(struct nr_table *table, int shard, struct nr_table_statistics *statistics)
{
    if (shard >= (int)table->layout.shards)
        return -EINVAL;
    *statistics = (struct nr_table_statistics){0};
    for (uint32_t i = 0; i < table->layout.shards; i++)
        if (shard < 0 || (uint32_t)shard == i)
            add_shard(table, i, statistics);
    return 0;
}
