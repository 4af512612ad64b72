/* How often the table has what is asked for, beside a plain LRU of as many entries, on the same requests.
 *
 *     test_table_hit_ratio [requests]
 *
 * A million keys, their popularity zipf 0.99, room for a tenth of them; a miss is followed by a set. The
 * requests follow from a fixed seed, so the ratios are the same on every machine. */
#include <math.h>

#include "tables.h"

#define KEYS 1000000u
#define ROOM (KEYS / 10)
#define SCANNED 4000000u /* keys that come once each */
#define NOWHERE UINT32_MAX

struct zipf {
    double *sums;
    uint32_t *guide; /* where to begin to search */
};

struct lru {
    uint32_t *newer, *older, newest, oldest, count;
    bool *there;
};

struct trace {
    const char *name;
    uint32_t shifts;       /* how often other keys become the popular ones */
    uint32_t scan_percent; /* of the requests */
    double least;          /* that the table must reach, in percent; 0: only printed */
};

static uint64_t requests = 6000000;

static struct zipf make_zipf(void)
{
    struct zipf zipf = {malloc(KEYS * sizeof(double)), malloc(KEYS * sizeof(uint32_t))};
    double sum = 0;

    REQUIRE(zipf.sums && zipf.guide);
    for (uint32_t i = 0; i < KEYS; i++)
        zipf.sums[i] = sum += pow(i + 1, -0.99);
    for (uint32_t i = 0, k = 0; i < KEYS; i++) {
        zipf.sums[i] /= sum;
        while (k < KEYS && k <= zipf.sums[i] * KEYS)
            zipf.guide[k++] = i;
    }
    return zipf;
}

static uint32_t draw(const struct zipf *zipf, uint64_t *dice)
{
    double point = (double)(tables_random(dice) >> 11) * 0x1p-53;
    uint32_t i = zipf->guide[(uint32_t)(point * KEYS)];

    while (i < KEYS - 1 && zipf->sums[i] < point)
        i++;
    return i;
}

static void lru_unlink(struct lru *lru, uint32_t key)
{
    uint32_t newer = lru->newer[key], older = lru->older[key];

    *(newer == NOWHERE ? &lru->newest : &lru->older[newer]) = older;
    *(older == NOWHERE ? &lru->oldest : &lru->newer[older]) = newer;
    lru->count--;
}

static void lru_put(struct lru *lru, uint32_t key)
{
    lru->newer[key] = NOWHERE;
    lru->older[key] = lru->newest;
    *(lru->newest == NOWHERE ? &lru->oldest : &lru->newer[lru->newest]) = key;
    lru->newest = key;
    lru->there[key] = true;
    lru->count++;
}

static bool lru_ask(struct lru *lru, uint32_t key)
{
    bool hit = lru->there[key];

    if (hit)
        lru_unlink(lru, key);
    else if (lru->count == ROOM) {
        lru->there[lru->oldest] = false;
        lru_unlink(lru, lru->oldest);
    }
    lru_put(lru, key);
    return hit;
}

static bool ask(struct nr_table *table, uint32_t number)
{
    uint8_t value[100] = {0};
    char name[17];
    struct nr_key key;
    struct nr_entry entry;

    snprintf(name, sizeof name, "key:%012u", number);
    key = nr_table_key(table, name, 16);
    if (nr_table_get(table, &key, value, sizeof value, &entry) == 0)
        return true;
    CHECK_EQUAL(tables_set(table, &key, value, sizeof value), 0);
    return false;
}

/* The first half of the requests fills; the second is counted, but for what shifts: there, all are. */
static void replay(const struct trace *trace, const struct zipf *zipf)
{
    const uint32_t all = KEYS + SCANNED;
    struct nr_table *table = tables_make((uint64_t)ROOM * 150 + (516u << 10), 8, 116);
    struct lru lru = {malloc(all * 4ul), malloc(all * 4ul), NOWHERE, NOWHERE, 0, calloc(all, 1)};
    struct nr_table_statistics statistics;
    uint64_t dice = 11, hits = 0, lru_hits = 0, counted = 0;
    uint32_t scanned = 0;

    REQUIRE(lru.newer && lru.older && lru.there);
    for (uint64_t i = 0; i < requests; i++) {
        uint32_t shift = (uint32_t)(i * (trace->shifts + 1) / requests), number;
        bool counts = i >= requests / 2 || trace->shifts, scans, hit, lru_hit;

        scans = tables_random(&dice) % 100 < trace->scan_percent;
        number = scans ? KEYS + scanned++ % SCANNED
                       : (uint32_t)((draw(zipf, &dice) + (uint64_t)shift * KEYS / 7) % KEYS);
        hit = ask(table, number);
        lru_hit = lru_ask(&lru, number);
        if (!counts || scans)
            continue;
        hits += hit;
        lru_hits += lru_hit;
        counted++;
    }
    nr_table_read_statistics(table, -1, &statistics);
    printf("%-10s naru %.2f %%  LRU %.2f %%   entries %llu, %.1f bytes of the file each, evicted by a "
           "full bucket %llu of %llu\n",
           trace->name, 100.0 * (double)hits / (double)counted,
           100.0 * (double)lru_hits / (double)counted, (unsigned long long)statistics.entries,
           (double)(ROOM * 150ull) / (double)statistics.entries,
           (unsigned long long)statistics.index_evicted,
           (unsigned long long)(statistics.evicted + statistics.index_evicted));
    CHECK(100.0 * (double)hits / (double)counted >= trace->least);
    CHECK(hits > lru_hits);
    nr_table_close(table);
    free(lru.newer);
    free(lru.older);
    free(lru.there);
}

static void hit_ratios(void)
{
    static const struct trace traces[] = {
        {"zipf", 0, 0, 77.0}, {"scan", 0, 20, 0}, {"shifting", 4, 0, 72.5}};
    struct zipf zipf = make_zipf();

    for (size_t i = 0; i < sizeof traces / sizeof *traces; i++)
        replay(&traces[i], &zipf);
    free(zipf.sums);
    free(zipf.guide);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        requests = strtoull(argv[1], NULL, 10);
    RUN(hit_ratios);
    return check_finish();
}
