/* tables.h: what the tests of the shared table have in common: a table in a memfd, keys by number, and
 * values that say whose they are and whether they are whole. */
#ifndef NR_TESTS_TABLES_H
#define NR_TESTS_TABLES_H

#include <errno.h>

#include "check.h"
#include "naru/os.h"
#include "naru/table.h"

static const uint64_t tables_seed[2] = {0x0123456789abcdef, 0xfedcba9876543210};

__attribute__((unused)) static int tables_fd(uint64_t size_bytes, uint32_t shards,
                                             uint32_t entry_bytes, struct nr_table **table)
{
    struct nr_table_settings settings = {.size_bytes = size_bytes,
                                         .shards = shards,
                                         .entry_bytes = entry_bytes,
                                         .seed = {tables_seed[0], tables_seed[1]}};
    int fd = nr_os_memfd("naru-test-table");

    REQUIRE(fd >= 0);
    REQUIRE(nr_table_create(fd, &settings, table) == 0);
    return fd;
}

__attribute__((unused)) static struct nr_table *tables_make(uint64_t size_bytes, uint32_t shards,
                                                            uint32_t entry_bytes)
{
    struct nr_table *table;

    nr_os_close(tables_fd(size_bytes, shards, entry_bytes, &table));
    return table;
}

__attribute__((unused)) static uint64_t tables_random(uint64_t *state)
{
    uint64_t word = *state += 0x9e3779b97f4a7c15ull;

    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9ull;
    word = (word ^ word >> 27) * 0x94d049bb133111ebull;
    return word ^ word >> 31;
}

/* A value: u64 the key's number, u64 a number of this writing, then bytes that follow from both. */
__attribute__((unused)) static void tables_fill(uint8_t *value, uint64_t size, uint64_t key,
                                                uint64_t writing)
{
    uint64_t state = key * 1000003 + writing;

    for (uint64_t i = 0; i < size; i += 8) {
        uint64_t word = i == 0 ? key : i == 8 ? writing : tables_random(&state);

        memcpy(value + i, &word, size - i < 8 ? size - i : 8);
    }
}

/* Sizes below 16 carry less than all of it. */
__attribute__((unused)) static bool tables_is_whole(const uint8_t *value, uint64_t size, uint64_t key,
                                                    uint64_t *writing)
{
    uint64_t state, word;

    *writing = 0;
    if (size < 16)
        return false;
    memcpy(writing, value + 8, 8);
    state = key * 1000003 + *writing;
    if (memcmp(value, &key, 8) != 0)
        return false;
    for (uint64_t i = 16; i < size; i += 8) {
        word = tables_random(&state);
        if (memcmp(value + i, &word, size - i < 8 ? size - i : 8) != 0)
            return false;
    }
    return true;
}

__attribute__((unused)) static int tables_set(struct nr_table *table, const struct nr_key *key,
                                              const void *value, size_t size)
{
    struct iovec part = {(void *)value, size};
    struct nr_change change = {.parts = &part, .count = 1};

    return nr_table_set(table, key, &change, NR_FOREVER, NULL);
}

/* All shards; what check() finds wrong. */
__attribute__((unused)) static uint64_t tables_faults(struct nr_table *table)
{
    struct nr_table_settings settings;
    uint64_t faults = 0;

    nr_table_read_settings(table, &settings);
    for (uint32_t i = 0; i < settings.shards; i++) {
        struct nr_table_report report;

        REQUIRE(nr_table_check(table, i, false, NR_FOREVER, &report) == 0);
        faults += report.damaged_slots + report.wrong_sums;
    }
    return faults;
}

#endif
