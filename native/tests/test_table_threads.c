/* Readers and writers of one mapping in threads of one process: no value is torn, no value is another
 * key's. The table is so small that its logs go round all the time.
 *
 *     test_table_threads [operations of each thread] */
#include <pthread.h>

#include "../memory/table_parts.h"
#include "tables.h"

#define THREADS 4
#define KEYS 4000u
#define MOST 1500u

static struct nr_table *table;
static uint64_t operations = 200000;
static _Atomic uint64_t hits, last_writing;
static _Atomic int writers_left;

static uint64_t appended_bytes(struct nr_table *of)
{
    struct nr_shard *shard = nr_shard_at(of, 0);

    return nr_get(shard->head[NR_SMALL]) + nr_get(shard->head[NR_MAIN]);
}

static struct nr_key key_of(uint32_t *number) { return nr_table_key(table, number, sizeof *number); }

static void write_one(uint64_t *dice)
{
    uint8_t value[MOST];
    uint32_t number = (uint32_t)(tables_random(dice) % KEYS);
    uint64_t size = 16 + tables_random(dice) % (MOST - 16), what = tables_random(dice) % 100;
    struct nr_key key = key_of(&number);
    int result;

    if (what < 90) {
        tables_fill(value, size, number, atomic_fetch_add(&last_writing, 1) + 1);
        CHECK_EQUAL(tables_set(table, &key, value, size), 0);
    } else if (what < 97) {
        result = nr_table_delete(table, &key, NR_FOREVER);
        CHECK(result == 0 || result == -ENOENT);
    } else if (what < 99) {
        result = nr_table_touch(table, &key, (int64_t)nr_table_now_ms(table) + 100000, NR_FOREVER);
        CHECK(result == 0 || result == -ENOENT);
    } else if (tables_random(dice) % 500 == 0) {
        CHECK_EQUAL(nr_table_clear(table, NR_FOREVER), 0);
    }
}

static void *write_many(void *seed)
{
    uint64_t dice = (uint64_t)(uintptr_t)seed;

    for (uint64_t i = 0; i < operations; i++)
        write_one(&dice);
    atomic_fetch_sub(&writers_left, 1);
    return NULL;
}

static uint8_t *give_room(void *context, uint64_t size)
{
    CHECK(size <= MOST);
    return context;
}

static void read_one(uint64_t *dice)
{
    uint8_t value[MOST];
    uint32_t number = (uint32_t)(tables_random(dice) % KEYS);
    struct nr_key key = key_of(&number);
    struct nr_entry entry;
    uint64_t writing;
    int result = tables_random(dice) % 2 ? nr_table_get(table, &key, value, sizeof value, &entry)
                                         : nr_table_get_with(table, &key, give_room, value, &entry);

    if (result == -ENOENT)
        return;
    CHECK_EQUAL(result, 0);
    CHECK(tables_is_whole(value, entry.size_bytes, number, &writing));
    atomic_fetch_add_explicit(&hits, 1, memory_order_relaxed);
}

static void scan_all(void)
{
    static _Thread_local uint8_t key[NR_TABLE_KEY_MOST];
    struct nr_entry entry;
    uint32_t size;

    for (uint32_t shard = 0; shard < 2; shard++)
        for (uint64_t cursor = 0; nr_table_scan(table, shard, &cursor, key, &size, &entry) == 0;) {
            uint32_t number;

            CHECK_EQUAL(size, sizeof number);
            memcpy(&number, key, sizeof number);
            CHECK(number < KEYS && entry.size_bytes <= MOST);
        }
}

static void *read_many(void *seed)
{
    uint64_t dice = (uint64_t)(uintptr_t)seed;

    for (uint64_t i = 0; atomic_load(&writers_left) > 0; i++) {
        read_one(&dice);
        if (i % 20000 == 0)
            scan_all();
    }
    return NULL;
}

static void no_value_is_torn_or_foreign(void)
{
    pthread_t threads[THREADS];
    struct nr_table_statistics statistics;

    table = tables_make(2u << 20, 2, 700);
    atomic_store(&writers_left, THREADS / 2);
    for (uintptr_t i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, i % 2 ? read_many : write_many,
                               (void *)(i + 1)) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQUAL(tables_faults(table), 0);
    nr_table_read_statistics(table, -1, &statistics);
    CHECK_EQUAL(statistics.hits, atomic_load(&hits));
    CHECK_EQUAL(statistics.rebuilt, 0);
    CHECK(statistics.evicted > 0);
    printf("%llu hits, %llu retries, %llu evicted\n", (unsigned long long)statistics.hits,
           (unsigned long long)statistics.retries, (unsigned long long)statistics.evicted);
    nr_table_close(table);
}

/* What a thread has written and nobody else touches, it reads again: never an older value. */
static void *own_one(void *seed)
{
    uint32_t number = (uint32_t)(uintptr_t)seed;
    struct nr_key key = key_of(&number);
    uint8_t value[64], back[64];
    struct nr_entry entry;
    uint64_t writing;

    for (uint64_t i = 1; i <= operations / 4; i++) {
        int result;

        tables_fill(value, sizeof value, number, i);
        CHECK_EQUAL(tables_set(table, &key, value, sizeof value), 0);
        result = nr_table_get(table, &key, back, sizeof back, &entry);
        if (!CHECK(result == 0 || result == -ENOENT))
            break;
        if (result == 0 &&
            !(CHECK(tables_is_whole(back, entry.size_bytes, number, &writing)) &&
              CHECK_EQUAL(writing, i)))
            break;
    }
    return NULL;
}

static void what_was_set_is_what_is_read(void)
{
    pthread_t threads[THREADS];

    table = tables_make(1u << 20, 1, 100);
    for (uintptr_t i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, own_one, (void *)(i + 1)) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQUAL(tables_faults(table), 0);
    nr_table_close(table);
}

/* ---- keys that are replaced all the time: each record's room is soon another key's ---- */

#define HOT 6u

static void *replace_hot(void *first)
{
    for (uint64_t i = 1; i <= operations; i++) {
        uint32_t number = (uint32_t)(uintptr_t)first + (uint32_t)(i % 3);
        struct nr_key key = key_of(&number);
        uint8_t value[48];

        tables_fill(value, sizeof value, number, i);
        CHECK_EQUAL(tables_set(table, &key, value, sizeof value), 0);
    }
    atomic_fetch_sub(&writers_left, 1);
    return NULL;
}

static void *read_hot(void *seed)
{
    uint64_t dice = (uint64_t)(uintptr_t)seed, newest[HOT] = {0};

    while (atomic_load(&writers_left) > 0) {
        uint32_t number = (uint32_t)(tables_random(&dice) % HOT);
        struct nr_key key = key_of(&number);
        uint8_t value[48];
        struct nr_entry entry;
        uint64_t writing;

        if (!(CHECK_EQUAL(nr_table_get(table, &key, value, sizeof value, &entry), 0) &&
              CHECK(tables_is_whole(value, entry.size_bytes, number, &writing)) &&
              CHECK(writing >= newest[number])))
            break;
        newest[number] = writing;
    }
    return NULL;
}

/* They are there at every instant, and nobody reads an older value after a newer one. */
static void hot_keys_are_always_there(void)
{
    pthread_t threads[THREADS];
    uint64_t bytes_before, bytes_after;

    table = tables_make(1u << 20, 1, 100);
    for (uint32_t number = 0; number < HOT; number++) {
        struct nr_key key = key_of(&number);
        uint8_t value[48];

        tables_fill(value, sizeof value, number, 0);
        CHECK_EQUAL(tables_set(table, &key, value, sizeof value), 0);
        CHECK_EQUAL(tables_set(table, &key, value, sizeof value), 0);
    }
    bytes_before = appended_bytes(table);
    atomic_store(&writers_left, 2);
    for (uintptr_t i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, i < 2 ? replace_hot : read_hot,
                               (void *)(i < 2 ? i * 3 : i)) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    bytes_after = appended_bytes(table);
    CHECK_EQUAL(bytes_after, bytes_before); /* nothing was appended */
    CHECK_EQUAL(tables_faults(table), 0);
    nr_table_close(table);
}

/* A counter that two threads raise loses nothing. */
static void *raise_it(void *unused)
{
    struct nr_key key = nr_table_key(table, "counter", 7);
    int64_t result, zero = 0;

    (void)unused;
    for (uint64_t i = 0; i < operations / 4; i++) {
        if (nr_table_add_to(table, &key, 1, NULL, 0, NR_FOREVER, &result) == -ENOENT) {
            CHECK_EQUAL(nr_table_add_to(table, &key, 0, &zero, 0, NR_FOREVER, &result), 0);
            i--;
        }
    }
    return NULL;
}

static void counter_loses_nothing(void)
{
    pthread_t threads[THREADS];
    struct nr_key key;
    int64_t result = 0;

    table = tables_make(1u << 20, 1, 100);
    for (int i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, raise_it, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    key = nr_table_key(table, "counter", 7);
    CHECK_EQUAL(nr_table_add_to(table, &key, 0, NULL, 0, NR_FOREVER, &result), 0);
    CHECK_EQUAL(result, operations / 4 * THREADS);
    nr_table_close(table);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        operations = strtoull(argv[1], NULL, 10);
    RUN(no_value_is_torn_or_foreign);
    RUN(what_was_set_is_what_is_read);
    RUN(hot_keys_are_always_there);
    RUN(counter_loses_nothing);
    return check_finish();
}
