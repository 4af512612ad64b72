/* Random operations on a table and on a simple model of one, side by side.
 *
 *     test_table_model [operations]
 *
 * What the model has and the table has not must have been evicted, and counted. */
#include "tables.h"

#define KEYS 160u
#define TAGS 6u
#define MOST (400u * 1024)

struct model {
    bool there;
    uint8_t *value;
    uint64_t size, version;
    int64_t expires_ms;
    uint32_t tags[3], tag_count, tag_ages[3];
    uint8_t kind;
};

static struct nr_table *table;
static struct model models[KEYS];
static struct nr_key keys[KEYS];
static uint8_t key_bytes[KEYS][70000];
static uint64_t tag_words[TAGS], dice, evicted_seen, vanished;
static uint32_t tag_ages[TAGS];
static uint8_t out[MOST * 2], made[MOST];
static uint64_t operations = 60000;

static uint64_t roll(uint64_t below) { return tables_random(&dice) % below; }

static bool lives(const struct model *model)
{
    if (!model->there ||
        (model->expires_ms != 0 && (uint64_t)model->expires_ms <= nr_table_now_ms(table)))
        return false;
    for (uint32_t i = 0; i < model->tag_count; i++)
        if (tag_ages[model->tags[i]] != model->tag_ages[i])
            return false;
    return true;
}

static uint64_t count_evicted(void)
{
    struct nr_table_statistics statistics;

    nr_table_read_statistics(table, -1, &statistics);
    return statistics.evicted + statistics.index_evicted;
}

/* The table's answer against the model's. */
static void compare(unsigned i)
{
    struct model *model = &models[i];
    struct nr_entry entry;
    int result = roll(2) ? nr_table_get(table, &keys[i], out, sizeof out, &entry)
                         : nr_table_peek(table, &keys[i], out, sizeof out, &entry);

    if (!lives(model)) {
        CHECK_EQUAL(result, -ENOENT);
        return;
    }
    if (result == -ENOENT) {
        vanished++;
        model->there = false;
        return;
    }
    CHECK_EQUAL(result, 0);
    CHECK_EQUAL(entry.size_bytes, model->size);
    CHECK_EQUAL(entry.version, model->version);
    CHECK_EQUAL(entry.expires_ms, model->expires_ms);
    CHECK_EQUAL(entry.kind, model->kind);
    CHECK_EQUAL(entry.tags, model->tag_count);
    CHECK(memcmp(out, model->value, model->size) == 0);
}

static void compare_all(void)
{
    for (unsigned i = 0; i < KEYS; i++)
        compare(i);
    evicted_seen = count_evicted();
    CHECK_EQUAL(vanished, evicted_seen);
}

static void sync_evictions(void)
{
    if (count_evicted() != evicted_seen)
        compare_all();
}

static void keep(unsigned i, const uint8_t *value, uint64_t size, const struct nr_entry *written)
{
    struct model *model = &models[i];

    model->there = true;
    model->value = realloc(model->value, size + 1);
    REQUIRE(model->value != NULL);
    memcpy(model->value, value, size);
    model->size = size;
    CHECK(written->version != 0 && written->version != model->version);
    model->version = written->version;
    model->expires_ms = written->expires_ms;
    model->kind = written->kind;
    CHECK_EQUAL(written->size_bytes, size);
}

static uint64_t pick_size(void)
{
    switch (roll(40)) {
    case 0:
        return roll(MOST);
    case 1:
        return 0;
    case 2:
        return roll(20000);
    default:
        return roll(300);
    }
}

static int64_t pick_expiry(void)
{
    int64_t now_ms = (int64_t)nr_table_now_ms(table);

    switch (roll(6)) {
    case 0:
        return now_ms + 1000000 + (int64_t)roll(1000000);
    case 1:
        return now_ms - (int64_t)roll(3);
    case 2:
        return NR_KEEP_EXPIRY;
    default:
        return 0;
    }
}

static void set(unsigned i)
{
    struct model *model = &models[i];
    uint64_t size = pick_size(), cut = roll(size + 1), tags[3];
    struct iovec parts[3] = {{made, cut}, {NULL, 0}, {made + cut, size - cut}};
    struct nr_change change = {.parts = parts,
                               .count = 3,
                               .kind = (uint8_t)roll(16),
                               .condition = (enum nr_condition)roll(4),
                               .version = roll(4) ? model->version : 77,
                               .expires_ms = pick_expiry(),
                               .tags = tags,
                               .tag_count = roll(4) ? 0 : (uint32_t)roll(4)};
    struct nr_entry written = {0};
    uint32_t picked[3];
    bool alive = lives(model);
    int expected = 0, result;

    for (uint64_t k = 0; k < size; k += 8)
        memcpy(made + k, &(uint64_t){roll(UINT64_MAX)}, size - k < 8 ? size - k : 8);
    for (uint32_t k = 0; k < change.tag_count; k++)
        tags[k] = tag_words[picked[k] = (uint32_t)roll(TAGS)];
    if (change.condition == NR_IF_ABSENT && alive)
        expected = -EEXIST;
    if (change.condition == NR_IF_PRESENT && !alive)
        expected = -ENOENT;
    if (change.condition == NR_IF_VERSION)
        expected = !alive ? -ENOENT : change.version != model->version ? -EAGAIN : 0;
    result = nr_table_set(table, &keys[i], &change, NR_FOREVER, &written);
    if (!CHECK_EQUAL(result, expected) || result != 0)
        return;
    if (change.expires_ms == NR_KEEP_EXPIRY)
        change.expires_ms = alive ? model->expires_ms : 0;
    CHECK_EQUAL(written.expires_ms, change.expires_ms < 0 ? 1 : change.expires_ms);
    keep(i, made, size, &written);
    model->tag_count = change.tag_count;
    for (uint32_t k = 0; k < change.tag_count; k++) {
        model->tags[k] = picked[k];
        model->tag_ages[k] = tag_ages[picked[k]];
    }
    sync_evictions();
}

static void drop(unsigned i)
{
    bool alive = lives(&models[i]), by_version = roll(2);
    uint64_t version = roll(3) ? models[i].version : 5;
    int result = by_version ? nr_table_delete_version(table, &keys[i], version, NR_FOREVER)
                            : nr_table_delete(table, &keys[i], NR_FOREVER);

    if (alive && by_version && version != models[i].version) {
        CHECK_EQUAL(result, -EAGAIN);
        return;
    }
    CHECK_EQUAL(result, alive ? 0 : -ENOENT);
    models[i].there = false;
}

static void touch(unsigned i)
{
    int64_t expires_ms = pick_expiry();
    bool alive = lives(&models[i]);

    CHECK_EQUAL(nr_table_touch(table, &keys[i], expires_ms, NR_FOREVER), alive ? 0 : -ENOENT);
    if (alive && expires_ms != NR_KEEP_EXPIRY)
        models[i].expires_ms = expires_ms < 0 ? 1 : expires_ms;
}

static int append(void *context, const uint8_t *bytes, const struct nr_entry *entry,
                  struct nr_change *change)
{
    struct iovec *parts = context;

    if (!entry)
        return NR_LEAVE;
    if (entry->size_bytes > 5000)
        return NR_REMOVE;
    parts[0] = (struct iovec){(void *)bytes, entry->size_bytes};
    parts[1] = (struct iovec){"tail", 4};
    change->parts = parts;
    change->count = 2;
    return 0;
}

static void update(unsigned i)
{
    struct model *model = &models[i];
    struct nr_entry written;
    struct iovec parts[2];
    bool alive = lives(model);
    int result = nr_table_update(table, &keys[i], NR_FOREVER, append, parts, &written);

    CHECK_EQUAL(result, !alive ? NR_LEAVE : model->size > 5000 ? NR_REMOVE : 0);
    if (result == NR_REMOVE)
        model->there = false;
    if (result != 0)
        return;
    memcpy(made, model->value, model->size);
    memcpy(made + model->size, "tail", 4);
    CHECK_EQUAL(written.kind, model->kind);
    CHECK_EQUAL(written.expires_ms, model->expires_ms);
    keep(i, made, model->size + 4, &written);
}

static void scan(void)
{
    static uint8_t key[NR_TABLE_KEY_MOST];
    static bool seen[KEYS];
    uint32_t size;

    memset(seen, 0, sizeof seen);
    for (uint32_t shard = 0; shard < 4; shard++) {
        uint64_t cursor = 0;

        while (nr_table_scan(table, shard, &cursor, key, &size, NULL) == 0)
            for (unsigned i = 0; i < KEYS; i++)
                if (keys[i].size == size && memcmp(keys[i].bytes, key, size) == 0) {
                    CHECK(!seen[i]);
                    seen[i] = true;
                    CHECK_EQUAL(nr_table_shard_of(table, &keys[i]), shard);
                }
    }
    for (unsigned i = 0; i < KEYS; i++)
        CHECK_EQUAL(seen[i], lives(&models[i]));
}

static void step(unsigned i)
{
    uint64_t what = roll(1000), tag;

    if (what < 500)
        set(i);
    else if (what < 700)
        compare(i);
    else if (what < 800)
        drop(i);
    else if (what < 860)
        touch(i);
    else if (what < 960)
        update(i);
    else if (what < 970)
        nr_table_shift_clock(table, (int64_t)roll(2000));
    else if (what < 980) {
        tag = roll(TAGS);
        nr_table_evict_tag(table, tag_words[tag]);
        tag_ages[tag]++;
    } else if (what < 995)
        scan();
    else if (what < 998)
        CHECK_EQUAL(tables_faults(table), 0);
    else if (roll(5) == 0) {
        CHECK_EQUAL(nr_table_clear(table, NR_FOREVER), 0);
        for (unsigned k = 0; k < KEYS; k++)
            models[k].there = false;
    }
}

static void start(uint64_t size_bytes, uint64_t seed)
{
    dice = seed;
    vanished = evicted_seen = 0;
    table = tables_make(size_bytes, 4, 128);
    for (unsigned i = 0; i < KEYS; i++) {
        size_t size = i == 0 ? 0 : i == 1 ? NR_TABLE_KEY_MOST : i < 8 ? i : 4 + i * (i % 9);

        memset(key_bytes[i], 0, size);
        if (size > 1)
            memcpy(key_bytes[i] + size - 2, &(uint16_t){(uint16_t)i}, 2);
        else if (size == 1)
            key_bytes[i][0] = (uint8_t)i;
        keys[i] = nr_table_key(table, key_bytes[i], size);
        models[i].there = false;
        models[i].version = 0;
    }
    for (unsigned i = 0; i < TAGS; i++)
        tag_words[i] = nr_table_tag(table, &i, sizeof i);
    memset(tag_ages, 0, sizeof tag_ages);
}

static void play(uint64_t size_bytes, uint64_t seed)
{
    struct nr_table_statistics statistics;

    start(size_bytes, seed);
    for (uint64_t i = 0; i < operations && atomic_load(&check_state.failures) == 0; i++) {
        step((unsigned)roll(KEYS));
        sync_evictions();
    }
    compare_all();
    scan();
    CHECK_EQUAL(tables_faults(table), 0);
    nr_table_read_statistics(table, -1, &statistics);
    CHECK_EQUAL(statistics.rebuilt, 0);
    CHECK_EQUAL(statistics.owners_died, 0);
    printf("%llu sets, %llu evicted\n", (unsigned long long)statistics.sets,
           (unsigned long long)(statistics.evicted + statistics.index_evicted));
    nr_table_close(table);
    for (unsigned i = 0; i < KEYS; i++) {
        free(models[i].value);
        models[i].value = NULL;
    }
}

static void roomy_table_is_the_model(void) { play(64u << 20, 1); }
static void tight_table_is_the_model_but_for_what_it_evicted(void) { play(6u << 20, 2); }

int main(int argc, char **argv)
{
    if (argc > 1)
        operations = strtoull(argv[1], NULL, 10);
    RUN(roomy_table_is_the_model);
    RUN(tight_table_is_the_model_but_for_what_it_evicted);
    return check_finish();
}
