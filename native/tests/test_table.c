/* The shared table, one property at a time. */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "../memory/table_parts.h" /* to damage what no caller can */
#include "tables.h"

#define MIB (UINT64_C(1) << 20)

static struct nr_key key_of(const struct nr_table *table, const char *text)
{
    return nr_table_key(table, text, strlen(text));
}

static int set_text(struct nr_table *table, const char *name, const char *value)
{
    struct nr_key key = key_of(table, name);

    return tables_set(table, &key, value, strlen(value));
}

static bool is_text(struct nr_table *table, const char *name, const char *value)
{
    struct nr_key key = key_of(table, name);
    struct nr_entry entry;
    char text[64];

    return nr_table_get(table, &key, text, sizeof text, &entry) == 0 &&
           entry.size_bytes == strlen(value) && memcmp(text, value, strlen(value)) == 0;
}

static void bad_settings_and_files_are_refused(void)
{
    struct nr_table_settings settings = {.size_bytes = MIB - 1, .shards = 1};
    int fd = nr_os_memfd("naru-test-table");
    struct nr_table *table;
    uint32_t other = 99;

    CHECK_EQUAL(nr_table_create(fd, &settings, &table), -EINVAL);
    settings = (struct nr_table_settings){.size_bytes = 64 * MIB, .shards = 3};
    CHECK_EQUAL(nr_table_create(fd, &settings, &table), -EINVAL);
    settings.shards = 2048;
    CHECK_EQUAL(nr_table_create(fd, &settings, &table), -EINVAL);
    CHECK_EQUAL(nr_table_open(fd, &table), -EBADMSG);
    REQUIRE(nr_os_allocate(fd, MIB) == 0); /* as a creator that died leaves it */
    CHECK_EQUAL(nr_table_open(fd, &table), -EBADMSG);
    nr_os_close(fd);
    fd = tables_fd(4 * MIB, 4, 0, &table);
    nr_table_close(table);
    REQUIRE(pwrite(fd, &other, 4, offsetof(struct nr_table_header, layout)) == 4);
    CHECK_EQUAL(nr_table_open(fd, &table), -EPROTONOSUPPORT);
    other = 2;
    REQUIRE(pwrite(fd, &other, 4, offsetof(struct nr_table_header, layout)) == 4);
    REQUIRE(ftruncate(fd, 3 * MIB) == 0);
    CHECK_EQUAL(nr_table_open(fd, &table), -EBADMSG);
    nr_os_close(fd);
}

static void versions_of_another_generation_are_others(void)
{
    struct nr_entry entries[2];

    for (int i = 0; i < 2; i++) {
        struct nr_table *table = tables_make(MIB, 1, 0); /* of the same seed */
        struct iovec part = {(void *)"v", 1};
        struct nr_change change = {.parts = &part, .count = 1};
        struct nr_key key = nr_table_key(table, "k", 1);

        CHECK_EQUAL(nr_table_set(table, &key, &change, NR_FOREVER, &entries[i]), 0);
        nr_table_close(table);
    }
    CHECK(entries[0].version != entries[1].version);
}

static void settings_come_back(void)
{
    struct nr_table_settings asked = {.size_bytes = 5 * MIB + 77, .seed = {3, 4}, .codec = "msgpack"};
    struct nr_table_settings settings;
    struct nr_table *table;
    int fd = nr_os_memfd("naru-test-table");

    REQUIRE(nr_table_create(fd, &asked, &table) == 0);
    nr_table_close(table);
    REQUIRE(nr_table_open(fd, &table) == 0);
    nr_table_read_settings(table, &settings);
    CHECK_EQUAL(settings.size_bytes, 5 * MIB);
    CHECK_EQUAL(settings.shards, 4); /* fewer than 16, so that each has 1 MiB */
    CHECK_EQUAL(settings.seed[1], 4);
    CHECK(strcmp(settings.codec, "msgpack") == 0);
    nr_table_close(table);
    nr_os_close(fd);
}

static void limits_are_told(void)
{
    struct nr_table *table = tables_make(4 * MIB, 2, 0);
    uint64_t most = nr_table_value_most(table);
    uint8_t *bytes = calloc(1, 2 * most);
    struct nr_key key = nr_table_key(table, bytes, NR_TABLE_KEY_MOST);
    struct nr_key long_key = nr_table_key(table, bytes, NR_TABLE_KEY_MOST + 1);
    struct nr_entry entry;

    CHECK(most > MIB / 4);
    CHECK_EQUAL(tables_set(table, &key, bytes, most), 0);
    CHECK_EQUAL(nr_table_get(table, &key, bytes, most, &entry), 0);
    CHECK_EQUAL(entry.size_bytes, most);
    CHECK_EQUAL(nr_table_get(table, &key, bytes, most - 1, &entry), -ENOBUFS);
    CHECK_EQUAL(entry.size_bytes, most);
    CHECK_EQUAL(tables_set(table, &key, bytes, 2 * most), -E2BIG);
    CHECK_EQUAL(nr_table_look(table, &key, NULL), 0); /* the old one stands */
    CHECK_EQUAL(tables_set(table, &long_key, bytes, 1), -EINVAL);
    CHECK_EQUAL(nr_table_get(table, &long_key, bytes, 1, &entry), -EINVAL);
    free(bytes);
    nr_table_close(table);
}

static int add(struct nr_table *table, const char *name, int64_t delta, const int64_t *initial,
               int64_t *result)
{
    struct nr_key key = key_of(table, name);

    return nr_table_add_to(table, &key, delta, initial, 0, NR_FOREVER, result);
}

static void numbers_are_as_in_redis(void)
{
    static const char *const no_numbers[] = {"", "-", "+1", " 1", "1 ", "01", "-0", "1.0", "0x1", "1e3",
                                             "9223372036854775808", "-9223372036854775809"};
    struct nr_table *table = tables_make(MIB, 1, 0);
    int64_t result = 0, initial = 40;

    CHECK_EQUAL(add(table, "n", 1, NULL, &result), -ENOENT);
    CHECK_EQUAL(add(table, "n", 1, &initial, &result), 0);
    CHECK_EQUAL(result, 40);
    CHECK_EQUAL(add(table, "n", -82, &initial, &result), 0);
    CHECK_EQUAL(result, -42);
    CHECK(is_text(table, "n", "-42"));
    for (size_t i = 0; i < sizeof no_numbers / sizeof *no_numbers; i++) {
        CHECK_EQUAL(set_text(table, "n", no_numbers[i]), 0);
        CHECK_EQUAL(add(table, "n", 1, NULL, &result), -EDOM);
    }
    set_text(table, "n", "9223372036854775807");
    CHECK_EQUAL(add(table, "n", 1, NULL, &result), -ERANGE);
    CHECK_EQUAL(add(table, "n", INT64_MIN, NULL, &result), 0);
    CHECK_EQUAL(result, -1);
    set_text(table, "n", "-9223372036854775808");
    CHECK_EQUAL(add(table, "n", -1, NULL, &result), -ERANGE);
    CHECK_EQUAL(add(table, "n", 0, NULL, &result), 0);
    CHECK_EQUAL(result, INT64_MIN);
    nr_table_close(table);
}

static void evicted_tags_take_their_entries_along(void)
{
    struct nr_table *table = tables_make(MIB, 1, 0);
    uint64_t red = nr_table_tag(table, "red", 3), blue = nr_table_tag(table, "blue", 4);
    uint64_t both[2] = {red, blue}, back[NR_TABLE_TAGS_OF_ONE];
    struct iovec part = {"v", 1};
    struct nr_change change = {.parts = &part, .count = 1, .tags = both, .tag_count = 2};
    struct nr_key one = key_of(table, "one"), two = key_of(table, "two");

    CHECK_EQUAL(nr_table_set(table, &one, &change, NR_FOREVER, NULL), 0);
    change.tag_count = 1;
    CHECK_EQUAL(nr_table_set(table, &two, &change, NR_FOREVER, NULL), 0);
    CHECK_EQUAL(nr_table_read_tags(table, &one, back), 2);
    CHECK_EQUAL(back[1], blue & (NR_TABLE_TAGS - 1));
    nr_table_evict_tag(table, blue);
    CHECK_EQUAL(nr_table_look(table, &one, NULL), -ENOENT);
    CHECK_EQUAL(nr_table_look(table, &two, NULL), 0);
    change.condition = NR_IF_ABSENT;
    CHECK_EQUAL(nr_table_set(table, &one, &change, NR_FOREVER, NULL), 0);
    change.tag_count = NR_TABLE_TAGS_OF_ONE + 1;
    change.condition = NR_ALWAYS;
    CHECK_EQUAL(nr_table_set(table, &one, &change, NR_FOREVER, NULL), -EINVAL);
    nr_table_close(table);
}

static void retired_table_is_read_and_not_written(void)
{
    struct nr_table *table = tables_make(2 * MIB, 2, 0);
    struct nr_key key = key_of(table, "k");
    uint64_t all = 3;

    CHECK_EQUAL(set_text(table, "k", "v"), 0);
    CHECK_EQUAL(nr_table_lock_shards(table, &all, NR_FOREVER), 0);
    CHECK_EQUAL(nr_table_retire(table, 7), 0);
    nr_table_unlock_shards(table, &all);
    CHECK_EQUAL(nr_table_successor(table), 7);
    CHECK_EQUAL(set_text(table, "k", "w"), -ESTALE);
    CHECK_EQUAL(nr_table_delete(table, &key, NR_FOREVER), -ESTALE);
    CHECK_EQUAL(nr_table_clear(table, NR_FOREVER), -ESTALE);
    CHECK_EQUAL(nr_table_lock_shards(table, &all, NR_FOREVER), -ESTALE);
    CHECK(is_text(table, "k", "v"));
    nr_table_close(table);
}

static void *write_within_a_moment(void *context)
{
    struct nr_table *table = context;
    struct nr_key key = key_of(table, "k");
    struct nr_change change = {0};

    CHECK_EQUAL(nr_table_set(table, &key, &change, 0, NULL), -ETIMEDOUT);
    CHECK_EQUAL(nr_table_set(table, &key, &change, nr_os_now_ns() + 5000000, NULL), -ETIMEDOUT);
    return NULL;
}

static void locked_shards_are_their_holders(void)
{
    struct nr_table *table = tables_make(MIB, 1, 0);
    struct nr_table_statistics statistics;
    uint64_t all = 1;
    pthread_t thread;

    CHECK_EQUAL(nr_table_lock_shards(table, &all, NR_FOREVER), 0);
    CHECK_EQUAL(set_text(table, "k", "mine"), 0);
    REQUIRE(pthread_create(&thread, NULL, write_within_a_moment, table) == 0);
    pthread_join(thread, NULL);
    CHECK(is_text(table, "k", "mine"));
    nr_table_unlock_shards(table, &all);
    nr_table_read_statistics(table, -1, &statistics);
    CHECK_EQUAL(statistics.lock_timeouts, 1);
    CHECK_EQUAL(statistics.lock_waits, 1);
    nr_table_close(table);
}

static void fill_with(struct nr_table *table, uint32_t from, uint32_t count, bool read)
{
    uint8_t value[100] = {0};
    struct nr_entry entry;

    for (uint32_t i = from; i < from + count; i++) {
        struct nr_key key = nr_table_key(table, &i, sizeof i);

        CHECK_EQUAL(tables_set(table, &key, value, sizeof value), 0);
        if (read)
            CHECK_EQUAL(nr_table_get(table, &key, value, sizeof value, &entry), 0);
    }
}

static uint32_t count_there(struct nr_table *table, uint32_t from, uint32_t count)
{
    uint32_t there = 0;

    for (uint32_t i = from; i < from + count; i++) {
        struct nr_key key = nr_table_key(table, &i, sizeof i);

        there += nr_table_look(table, &key, NULL) == 0;
    }
    return there;
}

static void what_is_read_outlives_a_scan(void)
{
    struct nr_table *table = tables_make(4 * MIB, 1, 104);
    struct nr_table_statistics statistics;

    fill_with(table, 0, 1000, true);
    fill_with(table, 1000000, 100000, false); /* four times what fits */
    CHECK(count_there(table, 0, 1000) > 900);
    nr_table_read_statistics(table, -1, &statistics);
    CHECK(statistics.entries > 20000 && statistics.evicted > 50000);
    CHECK_EQUAL(statistics.entries + statistics.evicted + statistics.index_evicted, 101000);
    CHECK(statistics.index_evicted < 1000);
    fill_with(table, 1095000 - 30000, 2000, false); /* forgotten a while ago, still among the ghosts */
    nr_table_read_statistics(table, -1, &statistics);
    CHECK(statistics.ghosts_returned > 0);
    CHECK_EQUAL(tables_faults(table), 0);
    nr_table_close(table);
}

static void expired_entries_give_their_room_back(void)
{
    struct nr_table *table = tables_make(MIB, 1, 104);
    struct nr_table_statistics statistics;
    struct iovec part = {(void *)"0123456789", 10};
    struct nr_change change = {.parts = &part, .count = 1};

    change.expires_ms = (int64_t)nr_table_now_ms(table) + 1000000;
    for (uint32_t i = 0; i < 2000; i++) {
        struct nr_key key = nr_table_key(table, &i, sizeof i);

        CHECK_EQUAL(nr_table_set(table, &key, &change, NR_FOREVER, NULL), 0);
    }
    CHECK_EQUAL(count_there(table, 0, 2000), 2000);
    nr_table_shift_clock(table, 1000001);
    CHECK_EQUAL(count_there(table, 0, 2000), 0);
    fill_with(table, 10000, 20000, false);
    nr_table_read_statistics(table, -1, &statistics);
    /* but for one or the other that a full bucket took */
    CHECK(statistics.expired > 1980 && statistics.expired + statistics.index_evicted >= 2000);
    nr_table_close(table);
}

static void child_does_not_count_twice(void)
{
    struct nr_table *table = tables_make(MIB, 1, 0);
    struct nr_table_statistics statistics;
    int status;
    pid_t child;

    set_text(table, "k", "v");
    for (int i = 0; i < 10; i++)
        CHECK(is_text(table, "k", "v"));
    child = fork();
    if (child == 0) {
        bool read = is_text(table, "k", "v") && set_text(table, "k", "w") == 0;

        nr_table_close(table);
        _exit(!read);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_EQUAL(status, 0);
    CHECK(is_text(table, "k", "w"));
    nr_table_read_statistics(table, 0, &statistics);
    CHECK_EQUAL(statistics.hits, 12);
    nr_table_close(table);
}

/* The file of another boot: its mutex is held by nobody any more, its clock begins behind the old one. */
static void table_outlives_its_boot(void)
{
    struct nr_table *table, *before;
    struct nr_table_header *header;
    int fd = tables_fd(MIB, 1, 0, &table);
    uint64_t now_ms = nr_table_now_ms(table);

    set_text(table, "k", "v");
    header = table->header;
    memset(&nr_shard_at(table, 0)->lock, 0x77, sizeof(pthread_mutex_t));
    header->boot[3] ^= 1;
    before = table;
    nr_put(header->clock_base_ms, INT64_MAX / 2);
    CHECK_EQUAL(nr_table_open(fd, &table), 0);
    CHECK(nr_table_now_ms(table) + 2 >= now_ms && nr_table_now_ms(table) < now_ms + 60000);
    CHECK_EQUAL(set_text(table, "k", "w"), 0);
    CHECK(is_text(table, "k", "w"));
    header->pid_namespace++;
    CHECK_EQUAL(nr_table_open(fd, &(struct nr_table *){NULL}), -EXDEV);
    nr_table_close(table);
    nr_table_close(before);
    nr_os_close(fd);
}

static void check_finds_and_repairs_damage(void)
{
    struct nr_table *table = tables_make(2 * MIB, 1, 104);
    struct nr_table_report report;
    struct nr_view view = nr_view_of(table, 0);
    uint64_t slots = (uint64_t)table->layout.buckets * NR_BUCKET_SLOTS, spoilt = 0;

    fill_with(table, 0, 3000, false);
    CHECK_EQUAL(nr_table_check(table, 0, false, NR_FOREVER, &report), 0);
    CHECK_EQUAL(report.entries, 3000);
    CHECK_EQUAL(report.damaged_slots + report.wrong_sums, 0);
    for (uint64_t i = 0; i < slots && spoilt < 10; i++)
        if (nr_get(view.slots[i]) != 0) {
            nr_put(view.slots[i], nr_get(view.slots[i]) + 1);
            spoilt++;
        }
    nr_put(view.shard->sums.entries, 5);
    CHECK_EQUAL(nr_table_check(table, 0, false, NR_FOREVER, &report), 0);
    CHECK_EQUAL(report.damaged_slots, 10);
    CHECK(report.wrong_sums > 0);
    CHECK_EQUAL(nr_table_check(table, 0, true, NR_FOREVER, &report), 0);
    CHECK_EQUAL(report.damaged_slots, 10);
    CHECK_EQUAL(tables_faults(table), 0);
    CHECK_EQUAL(count_there(table, 0, 3000), 2990);
    nr_put(view.shard->head[NR_MAIN], UINT64_MAX - 8); /* the control page contradicts itself */
    CHECK_EQUAL(set_text(table, "k", "v"), 0);
    CHECK(is_text(table, "k", "v"));
    CHECK_EQUAL(nr_get(view.shard->counters[NR_REBUILT]), 1);
    CHECK_EQUAL(count_there(table, 0, 3000), 0);
    CHECK_EQUAL(tables_faults(table), 0);
    nr_table_close(table);
}

static void *hold_and_end(void *context)
{
    struct nr_shard *shard = context;

    CHECK_EQUAL(pthread_mutex_lock(&shard->lock), 0);
    return NULL; /* without unlocking: as dead as its process */
}

/* A stranger took a dead one's mutex and let it go without repairing anything. */
__attribute__((unused)) static void lost_mutex_is_made_anew(void)
{
    struct nr_table *table = tables_make(MIB, 1, 0);
    struct nr_shard *shard = nr_shard_at(table, 0);
    struct nr_table_statistics statistics;
    pthread_t thread;

    set_text(table, "k", "v");
    REQUIRE(pthread_create(&thread, NULL, hold_and_end, shard) == 0);
    pthread_join(thread, NULL);
    CHECK_EQUAL(pthread_mutex_lock(&shard->lock), EOWNERDEAD);
    pthread_mutex_unlock(&shard->lock);
    CHECK_EQUAL(pthread_mutex_lock(&shard->lock), ENOTRECOVERABLE);
    CHECK_EQUAL(set_text(table, "k", "w"), 0);
    CHECK(is_text(table, "k", "w"));
    REQUIRE(pthread_create(&thread, NULL, hold_and_end, shard) == 0);
    pthread_join(thread, NULL);
    CHECK_EQUAL(set_text(table, "l", "x"), 0);
    CHECK(is_text(table, "k", "w"));
    nr_table_read_statistics(table, -1, &statistics);
    CHECK_EQUAL(statistics.rebuilt, 1);
    CHECK_EQUAL(statistics.owners_died, 1);
    nr_table_close(table);
}

int main(void)
{
    RUN(bad_settings_and_files_are_refused);
    RUN(versions_of_another_generation_are_others);
    RUN(settings_come_back);
    RUN(limits_are_told);
    RUN(numbers_are_as_in_redis);
    RUN(evicted_tags_take_their_entries_along);
    RUN(retired_table_is_read_and_not_written);
    RUN(locked_shards_are_their_holders);
    RUN(what_is_read_outlives_a_scan);
    RUN(expired_entries_give_their_room_back);
    RUN(child_does_not_count_twice);
    RUN(table_outlives_its_boot);
    RUN(check_finds_and_repairs_damage);
#ifndef NR_TABLE_TSAN /* which knows only the trylock that loses it: table_lock.c */
    RUN(lost_mutex_is_made_anew);
#endif
    return check_finish();
}
