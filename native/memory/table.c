#include <stdlib.h>
#include <sys/mman.h>

#include "table_parts.h"
#include "table_watching.h"

#define LAYOUT 2u
#define BYTE_ORDER_MARK 0x01020304u
#define LEAST_SHARD_BYTES (1u << 20)
#define MOST_SHARDS 1024u
#define LOAD_PERCENT 80u /* of the index when the logs are full; above, buckets overflow: cache.md */
#define OPENING_BYTE (UINT64_C(1) << 62) /* locked while a file's boot is looked at */

static const uint8_t magic[8] = {'N', 'A', 'R', 'U', 'T', 'A', 'B', 'L'};

static uint64_t fixed_bytes(void)
{
    return NR_TABLE_PAGE + NR_TABLE_TAGS * sizeof(uint32_t) + NR_TABLE_CLAIMS * sizeof(struct nr_claim);
}

/* ---- sizes ---- */

static uint32_t pick_shards(uint64_t size_bytes, uint32_t asked)
{
    uint32_t shards = asked ? asked : 16;

    while (!asked && shards > 1 && size_bytes / shards < LEAST_SHARD_BYTES)
        shards /= 2;
    return shards;
}

/* An entry takes its record, 8 / LOAD of the index, and 2 bytes among the ghosts for what lies in main. */
static int plan(const struct nr_table_settings *settings, struct nr_layout *layout)
{
    uint64_t record, cost, entries, logs, page = NR_TABLE_PAGE;

    *layout = (struct nr_layout){
        .shards = pick_shards(settings->size_bytes, settings->shards),
        .entry_bytes = settings->entry_bytes ? settings->entry_bytes : 128,
        .small_percent = settings->small_percent ? settings->small_percent : 10,
        .total_bytes = settings->size_bytes & ~(page - 1),
    };
    if (layout->shards > MOST_SHARDS || (layout->shards & (layout->shards - 1)) != 0 ||
        layout->small_percent > 90 || layout->entry_bytes > 1u << 30 ||
        layout->total_bytes > UINT64_C(1) << 46 ||
        layout->total_bytes / layout->shards < LEAST_SHARD_BYTES)
        return -EINVAL;
    layout->shard_bytes = (layout->total_bytes - fixed_bytes()) / layout->shards & ~(page - 1);
    record = nr_record_bytes(layout->entry_bytes, 0, 0);
    cost = record * 100 + 8 * 10000 / LOAD_PERCENT + 2 * (100 - layout->small_percent);
    entries = (layout->shard_bytes - NR_TABLE_PAGE) * 100 / cost + 1;
    layout->buckets = (uint32_t)(entries * 100 / (LOAD_PERCENT * NR_BUCKET_SLOTS)) + 1;
    layout->ghost_sets = (uint32_t)(entries * (100 - layout->small_percent) / 400) + 1;
    layout->ghosts_at = NR_TABLE_PAGE + (uint64_t)layout->buckets * NR_BUCKET_SLOTS * 8;
    layout->log_at[NR_SMALL] = (layout->ghosts_at + layout->ghost_sets * 8ull + 63) & ~63ull;
    logs = layout->shard_bytes - layout->log_at[NR_SMALL];
    layout->log_bytes[NR_SMALL] = logs / 100 * layout->small_percent & ~63ull;
    layout->log_at[NR_MAIN] = layout->log_at[NR_SMALL] + layout->log_bytes[NR_SMALL];
    layout->log_bytes[NR_MAIN] = (layout->shard_bytes - layout->log_at[NR_MAIN]) & ~63ull;
    /* half of its log, so that the filler before it always finds room too; a filler has 32 bits */
    layout->record_most = layout->log_bytes[NR_MAIN] / 2 & ~7ull;
    if (layout->record_most > UINT32_MAX - 7u)
        layout->record_most = UINT32_MAX - 7u;
    return 0;
}

uint64_t nr_table_value_most(const struct nr_table *table)
{
    return table->layout.record_most -
           nr_record_bytes(NR_TABLE_KEY_MOST, NR_TABLE_TAGS_OF_ONE, 0);
}

/* ---- the clock ---- */

uint64_t nr_table_now_ms(const struct nr_table *table)
{
    return (uint64_t)((int64_t)(nr_os_boot_ns() / 1000000u) - nr_get(table->header->clock_base_ms) +
                      nr_get(table->clock_shift_ms));
}

void nr_table_shift_clock(struct nr_table *table, int64_t ms)
{
    atomic_fetch_add_explicit(&table->clock_shift_ms, ms, memory_order_relaxed);
}

/* ---- after another boot ----
 * The file outlived its machine's kernel: nobody holds its mutexes, whatever they say, and the clock began
 * anew. How long the machine was off, only the wall clock knows. */

static int make_mutexes(struct nr_table *table)
{
    int result = nr_mutex_make(&table->header->rebuilding);

    for (uint32_t i = 0; i < table->layout.shards && result == 0; i++)
        result = nr_mutex_make(&nr_shard_at(table, i)->lock);
    return result;
}

static int settle_in_boot(struct nr_table *table)
{
    struct nr_table_header *header = table->header;
    int64_t boot_ms = (int64_t)(nr_os_boot_ns() / 1000000u);
    int64_t age_ms = (int64_t)(nr_os_real_ns() / 1000000u) - header->made_real_ms;
    uint8_t boot[16];
    uint64_t pids;
    int result = nr_os_boot_id(boot);

    if (result == 0)
        result = nr_os_pid_namespace(&pids);
    if (result < 0)
        return result;
    if (memcmp(boot, header->boot, sizeof boot) == 0)
        return pids == header->pid_namespace ? 0 : -EXDEV; /* a thread's number must mean one thread */
    result = make_mutexes(table);
    if (result < 0)
        return result;
    if (age_ms < 0)
        age_ms = 0;
    nr_put(header->clock_base_ms, boot_ms - age_ms - 1); /* no moment is 0: that is "never" */
    for (uint32_t i = 0; i < NR_TABLE_CLAIMS; i++)
        nr_put(table->claims[i].pid, 0);
    header->pid_namespace = pids;
    memcpy(header->boot, boot, sizeof boot); /* last: who dies before leaves it to the next */
    return 0;
}

/* ---- handles ---- */

static void forget(struct nr_table *table)
{
    if (table->map)
        nr_os_unmap(table->map, table->layout.total_bytes);
    if (table->tallies)
        nr_os_unmap(table->tallies, table->layout.shards * sizeof *table->tallies);
    free(table);
}

static uint64_t mix(uint64_t *state)
{
    uint64_t word = *state += 0x9e3779b97f4a7c15ull;

    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9ull;
    word = (word ^ word >> 27) * 0x94d049bb133111ebull;
    return word ^ word >> 31;
}

static int map(int fd, const struct nr_layout *layout, struct nr_table **out)
{
    struct nr_table *table = calloc(1, sizeof *table);
    void *mapped = NULL;
    int result;

    if (!table)
        return -ENOMEM;
    table->layout = *layout;
    result = nr_os_map_private(layout->shards * sizeof *table->tallies, &mapped);
    if (result == 0) {
        table->tallies = mapped;
        result = nr_os_map(NULL, layout->total_bytes, fd, 0, &mapped);
    }
    if (result < 0) {
        forget(table);
        return result;
    }
    table->map = mapped;
    table->header = mapped;
    table->tags = (_Atomic uint32_t *)(table->map + NR_TABLE_PAGE);
    table->claims = (struct nr_claim *)(table->tags + NR_TABLE_TAGS);
    table->first_shard = (uint8_t *)(table->claims + NR_TABLE_CLAIMS);
    *out = table;
    return 0;
}

static void make_keys(struct nr_table *table, const uint64_t seed[2])
{
    uint64_t state[2] = {seed[0], seed[1]};

    for (int i = 0; i < 4; i++)
        table->hash_keys[i] = mix(&state[0]) ^ mix(&state[1]) * (2 * (uint64_t)i + 1);
}

/* Another generation of the same cache counts from elsewhere: a version that somebody has read there is none
 * here (cas). */
static void begin_versions(struct nr_table *table)
{
    for (uint32_t i = 0; i < table->layout.shards; i++) {
        const uint64_t moment[2] = {nr_os_real_ns(), i};

        nr_shard_at(table, i)->version = nr_table_hash(table->hash_keys, moment, sizeof moment);
    }
}

int nr_table_create(int fd, const struct nr_table_settings *settings, struct nr_table **out)
{
    struct nr_table *table;
    struct nr_table_header *header;
    struct nr_layout layout;
    int result = plan(settings, &layout);

    if (result == 0)
        result = nr_os_allocate(fd, layout.total_bytes);
    if (result == 0)
        result = map(fd, &layout, &table);
    if (result < 0)
        return result;
    NR_CRASHPOINT(NR_AT_TABLE_ALLOCATED);
    header = table->header;
    header->layout = LAYOUT;
    header->byte_order = BYTE_ORDER_MARK;
    header->total_bytes = layout.total_bytes;
    header->shard_bytes = layout.shard_bytes;
    header->shards = layout.shards;
    header->entry_bytes = layout.entry_bytes;
    header->small_percent = layout.small_percent;
    memcpy(header->seed, settings->seed, sizeof header->seed);
    memcpy(header->codec, settings->codec, sizeof header->codec);
    header->made_real_ms = (int64_t)(nr_os_real_ns() / 1000000u);
    make_keys(table, settings->seed);
    begin_versions(table);
    result = settle_in_boot(table); /* of zeroes: certainly another one */
    if (result < 0) {
        forget(table);
        return result;
    }
    atomic_thread_fence(memory_order_release);
    memcpy(header->magic, magic, sizeof magic);
    *out = table;
    return 0;
}

static int check_header(const struct nr_table_header *header, uint64_t file_bytes,
                        struct nr_layout *layout)
{
    struct nr_table_settings settings = {.size_bytes = header->total_bytes,
                                         .shards = header->shards,
                                         .entry_bytes = header->entry_bytes,
                                         .small_percent = header->small_percent};

    if (memcmp(header->magic, magic, sizeof magic) != 0)
        return -EBADMSG;
    if (header->layout != LAYOUT || header->byte_order != BYTE_ORDER_MARK)
        return -EPROTONOSUPPORT;
    if (header->shards == 0 || header->total_bytes > file_bytes || plan(&settings, layout) < 0 ||
        layout->total_bytes != header->total_bytes || layout->shard_bytes != header->shard_bytes)
        return -EBADMSG;
    return 0;
}

int nr_table_open(int fd, struct nr_table **out)
{
    struct nr_table_header header;
    struct nr_table *table;
    struct nr_layout layout;
    int64_t file_bytes = nr_os_file_size(fd);
    void *mapped;
    int result;

    if (file_bytes < (int64_t)NR_TABLE_PAGE)
        return file_bytes < 0 ? (int)file_bytes : -EBADMSG;
    result = nr_os_map(NULL, NR_TABLE_PAGE, fd, 0, &mapped);
    if (result < 0)
        return result;
    memcpy(&header, mapped, sizeof header); /* one copy is checked and used */
    atomic_thread_fence(memory_order_acquire);
    nr_os_unmap(mapped, NR_TABLE_PAGE);
    result = check_header(&header, (uint64_t)file_bytes, &layout);
    if (result == 0)
        result = map(fd, &layout, &table);
    if (result < 0)
        return result;
    make_keys(table, header.seed);
    result = nr_os_lock_byte(fd, OPENING_BYTE);
    if (result == 0) {
        result = settle_in_boot(table);
        if (result == 0 && nr_is_watched(table))
            nr_watchers_sweep(table);
        (void)nr_os_unlock_byte(fd, OPENING_BYTE);
    }
    if (result < 0) {
        forget(table);
        return result;
    }
    *out = table;
    return 0;
}

/* What this process counted, into the file. */
void nr_table_fold(struct nr_table *table, uint32_t shard)
{
    struct nr_tally *tally = &table->tallies[shard];
    uint64_t hits = atomic_exchange_explicit(&tally->hits, 0, memory_order_relaxed);
    uint64_t misses = atomic_exchange_explicit(&tally->misses, 0, memory_order_relaxed);

    nr_count_shared(nr_shard_at(table, shard), NR_HITS, hits);
    nr_count_shared(nr_shard_at(table, shard), NR_MISSES, misses);
}

void nr_table_close(struct nr_table *table)
{
    if (!table)
        return;
    for (uint32_t i = 0; i < table->layout.shards; i++)
        nr_table_fold(table, i);
    forget(table);
}

void nr_table_read_settings(const struct nr_table *table, struct nr_table_settings *settings)
{
    *settings = (struct nr_table_settings){
        .size_bytes = table->layout.total_bytes,
        .shards = table->layout.shards,
        .entry_bytes = table->layout.entry_bytes,
        .small_percent = table->layout.small_percent,
    };
    memcpy(settings->seed, table->header->seed, sizeof settings->seed);
    memcpy(settings->codec, table->header->codec, sizeof settings->codec);
}

void nr_table_comes_again_after(struct nr_table *table, uint64_t short_wait_ns)
{
    table->short_wait_ns = short_wait_ns;
}

uint32_t nr_table_shard_of(const struct nr_table *table, const struct nr_key *key)
{
    return nr_hash_shard(&table->layout, key->hash);
}

/* ---- a larger one follows ---- */

int nr_table_retire(struct nr_table *table, uint64_t successor_number)
{
    uint64_t deadline_ns = nr_os_now_ns() + 10 * UINT64_C(1000000000);

    atomic_store_explicit(&table->header->successor, successor_number, memory_order_release);
    /* Who had looked before it has written when its mutex is free. */
    for (uint32_t i = 0; i < table->layout.shards; i++) {
        int result = nr_shard_lock(table, i, deadline_ns);

        if (result < 0)
            return result;
        nr_shard_unlock(table, i);
    }
    return 0;
}

uint64_t nr_table_successor(const struct nr_table *table)
{
    return atomic_load_explicit(&table->header->successor, memory_order_acquire);
}

void nr_table_say_copied(struct nr_table *table, uint32_t pid)
{
    uint64_t nobody = 0;

    if (!nr_table_is_copied(table))
        (void)atomic_compare_exchange_strong(&table->header->copier, &nobody, pid);
}

void nr_table_say_over(struct nr_table *table, uint32_t pid)
{
    uint64_t own = pid;

    (void)atomic_compare_exchange_strong(&table->header->copier, &own, 0);
}

uint64_t nr_table_copier(const struct nr_table *table) { return nr_get(table->header->copier); }

bool nr_table_is_copied(const struct nr_table *table)
{
    uint64_t pid = nr_get(table->header->copier), started;

    if (pid == 0)
        return false;
    if (nr_os_process_started((uint32_t)pid, &started) != -ESRCH)
        return true;
    (void)atomic_compare_exchange_strong(&table->header->copier, &pid, 0); /* it died */
    return false;
}

/* ---- tags ---- */

void nr_table_evict_tag(struct nr_table *table, uint64_t tag)
{
    /* pairs with: nr_record_is_alive */
    atomic_fetch_add_explicit(&table->tags[tag & (NR_TABLE_TAGS - 1)], 1, memory_order_acq_rel);
    nr_note_tag(table);
}
