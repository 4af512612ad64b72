/* What a call of the shared table costs in C, without Python. Not a test: it prints, by hand.
 *
 *     taskset -c 1 table_timing [rounds]
 *
 * Keys of 16 bytes (hashed within the time), values of 100, in random order. The median of the rounds. */
#include "tables.h"

#define BATCH 16u

static uint64_t rounds = 7;
static char *names;
static uint32_t *order;
static uint8_t value[100];

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;

    return (left > right) - (left < right);
}

static void get_each(struct nr_table *table, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct nr_key key = nr_table_key(table, names + order[i] * 16ul, 16);
        struct nr_entry entry;

        REQUIRE(nr_table_get(table, &key, value, sizeof value, &entry) == 0);
    }
}

static void get_in_batches(struct nr_table *table, uint32_t count)
{
    for (uint32_t i = 0; i + BATCH <= count; i += BATCH) {
        struct nr_key keys[BATCH];
        struct nr_entry entry;

        for (uint32_t k = 0; k < BATCH; k++)
            keys[k] = nr_table_key(table, names + order[i + k] * 16ul, 16);
        nr_table_prefetch(table, keys, BATCH);
        for (uint32_t k = 0; k < BATCH; k++)
            REQUIRE(nr_table_get(table, &keys[k], value, sizeof value, &entry) == 0);
    }
}

static void set_each(struct nr_table *table, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct nr_key key = nr_table_key(table, names + order[i] * 16ul, 16);

        REQUIRE(tables_set(table, &key, value, sizeof value) == 0);
    }
}

static void time_it(const char *what, void (*body)(struct nr_table *, uint32_t),
                    struct nr_table *table, uint32_t count)
{
    double times[64];
    uint32_t repeats = count < 100000 ? 30 : 1;

    for (uint64_t i = 0; i < rounds && i < 64; i++) {
        uint64_t begun_ns = nr_os_now_ns();

        for (uint32_t k = 0; k < repeats; k++)
            body(table, count);
        times[i] = (double)(nr_os_now_ns() - begun_ns) / count / repeats;
    }
    qsort(times, rounds, sizeof *times, compare);
    printf("%-24s %8u keys %7.1f ns   (%.1f - %.1f)\n", what, count, times[rounds / 2], times[0],
           times[rounds - 1]);
}

static void time_all(uint32_t count)
{
    struct nr_table *table = tables_make(count * 240ul + (4u << 20), 16, 116);
    uint64_t dice = 5;

    for (uint32_t i = 0; i < count; i++) {
        char name[17];

        snprintf(name, sizeof name, "key:%012u", i);
        memcpy(names + i * 16ul, name, 16);
        order[i] = i;
    }
    for (uint32_t i = count - 1; i > 0; i--) {
        uint32_t other = (uint32_t)(tables_random(&dice) % (i + 1)), kept = order[i];

        order[i] = order[other];
        order[other] = kept;
    }
    set_each(table, count);
    get_each(table, count);
    time_it("get", get_each, table, count);
    time_it("get, 16 at once", get_in_batches, table, count);
    time_it("set (overwrite)", set_each, table, count);
    time_it("get, after the sets", get_each, table, count);
    nr_table_close(table);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        rounds = strtoull(argv[1], NULL, 10) % 64;
    names = malloc(16u << 20);
    order = malloc(4u << 20);
    REQUIRE(rounds > 0 && names && order);
    time_all(10000);
    time_all(1000000);
    free(names);
    free(order);
    return 0;
}
