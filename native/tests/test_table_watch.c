/* Who watches a table is told of every change that another process makes, also of one that its maker did not
 * live to finish. */
#include <pthread.h>
#include <sys/wait.h>

#include "naru/crashpoint.h"
#include "naru/table_watch.h"
#include "tables.h"

#define PATIENCE_NS 5000000000u

struct seen {
    uint32_t keys, hashes, everything, forgotten;
    char last[64];
};

static void tell(void *context, const struct nr_table_news *news)
{
    struct seen *seen = context;

    seen->everything += news->everything;
    seen->forgotten += news->forgotten;
    seen->keys += news->key != NULL;
    seen->hashes += !news->everything && !news->key;
    if (news->key && news->size < sizeof seen->last) {
        memcpy(seen->last, news->key, news->size);
        seen->last[news->size] = 0;
    }
}

static struct seen look(struct nr_table_watch *watch)
{
    struct seen seen = {0};

    (void)nr_table_watch_look(watch, tell, &seen);
    return seen;
}

static uint64_t soon(void) { return nr_os_now_ns() + PATIENCE_NS; }

struct pair { /* two programs with the same table */
    struct nr_table *watcher, *writer;
    struct nr_table_watch *watch;
};

static struct pair open_pair(uint64_t size_bytes, uint32_t shards)
{
    struct pair pair;
    int fd = tables_fd(size_bytes, shards, 100, &pair.watcher);

    REQUIRE(nr_table_open(fd, &pair.writer) == 0);
    nr_os_close(fd);
    REQUIRE(nr_table_watch_begin(pair.watcher, soon(), &pair.watch) == -EINVAL);
    REQUIRE(nr_table_watch_join(pair.watcher, (uint32_t)getpid(), 1, soon()) == 0);
    REQUIRE(nr_table_watch_begin(pair.watcher, soon(), &pair.watch) == 0);
    return pair;
}

static void close_pair(struct pair *pair)
{
    nr_table_watch_end(pair->watch, true);
    nr_table_close(pair->watcher);
    nr_table_close(pair->writer);
}

static void set(struct nr_table *table, const char *name)
{
    struct nr_key key = nr_table_key(table, name, strlen(name));

    REQUIRE(tables_set(table, &key, "value", 5) == 0);
}

static void set_large(struct nr_table *table, const char *name)
{
    static const uint8_t value[400];
    struct nr_key key = nr_table_key(table, name, strlen(name));

    REQUIRE(tables_set(table, &key, value, sizeof value) == 0);
}

static void each_change_is_told_once(void)
{
    struct pair pair = open_pair(4u << 20, 2);
    struct nr_key key = nr_table_key(pair.writer, "k", 1);
    struct seen seen;

    CHECK(look(pair.watch).keys == 0);
    set(pair.writer, "k");
    seen = look(pair.watch);
    CHECK(seen.keys == 1 && strcmp(seen.last, "k") == 0);
    CHECK(look(pair.watch).keys == 0);
    CHECK(nr_table_touch(pair.writer, &key, (int64_t)nr_table_now_ms(pair.writer) + 1000000, soon()) == 0);
    CHECK(look(pair.watch).keys == 1);
    CHECK(nr_table_delete(pair.writer, &key, soon()) == 0);
    seen = look(pair.watch);
    CHECK(seen.keys == 1 && seen.forgotten == 0);
    CHECK(nr_table_delete(pair.writer, &key, soon()) == -ENOENT);
    CHECK(look(pair.watch).keys == 0);
    CHECK(nr_table_clear(pair.writer, soon()) == 0);
    CHECK(look(pair.watch).everything == 2); /* a shard each */
    nr_table_evict_tag(pair.writer, nr_table_tag(pair.writer, "t", 1));
    CHECK(look(pair.watch).everything == 1);
    close_pair(&pair);
}

static void own_changes_are_known(void)
{
    struct pair pair = open_pair(4u << 20, 2);
    struct nr_table_watch *other;

    set(pair.watcher, "k");
    CHECK(nr_table_clear(pair.watcher, soon()) == 0);
    CHECK(look(pair.watch).keys + look(pair.watch).everything == 0);
    /* Another watcher is told of them, and the first still is not. */
    REQUIRE(nr_table_watch_join(pair.writer, (uint32_t)getpid(), 2, soon()) == 0);
    REQUIRE(nr_table_watch_begin(pair.writer, soon(), &other) == 0);
    set(pair.watcher, "k");
    CHECK(look(pair.watch).keys == 0);
    CHECK(look(other).keys == 1);
    nr_table_watch_end(other, true);
    close_pair(&pair);
}

static void what_is_forgotten_is_told(void)
{
    struct pair pair = open_pair(1u << 21, 1);
    struct nr_table_statistics statistics;
    struct seen seen = {0};
    char name[16];

    for (int i = 0; i < 20000; i++) {
        snprintf(name, sizeof name, "%d", i);
        set_large(pair.watcher, name); /* its own change, but not what it pushes out */
        (void)nr_table_watch_look(pair.watch, tell, &seen);
    }
    REQUIRE(nr_table_read_statistics(pair.watcher, -1, &statistics) == 0);
    CHECK(statistics.evicted > 1000);
    CHECK(seen.forgotten >= statistics.evicted && seen.everything == 0);
    CHECK(seen.forgotten == seen.keys + seen.hashes);
    close_pair(&pair);
}

static void who_is_late_is_told_everything(void)
{
    struct pair pair = open_pair(4u << 20, 1);
    struct seen seen;
    char name[16];

    for (int i = 0; i < 127; i++) {
        snprintf(name, sizeof name, "%d", i);
        set(pair.writer, name);
    }
    seen = look(pair.watch);
    CHECK(seen.keys == 127 && seen.everything == 0);
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof name, "%d", i);
        set(pair.writer, name);
    }
    CHECK(look(pair.watch).everything == 1);
    set(pair.writer, "k");
    CHECK(look(pair.watch).keys == 1);
    close_pair(&pair);
}

static void nothing_is_noted_for_nobody(void)
{
    struct pair pair = open_pair(4u << 20, 1);

    nr_table_watch_end(pair.watch, true);
    set(pair.writer, "k");
    REQUIRE(nr_table_watch_begin(pair.watcher, soon(), &pair.watch) == 0);
    CHECK(look(pair.watch).keys == 0);
    close_pair(&pair);
}

static void let_one_die(struct nr_table *table, int point)
{
    pid_t child = fork();
    int status;

    REQUIRE(child >= 0);
    if (child == 0) {
        char plan[32];

        snprintf(plan, sizeof plan, "%d", point);
        nr_crashpoint_arm(plan);
        set(table, "k");
        _exit(0);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* The change may have been made, and nobody ever writes again: it is told, and in the end it is over. */
static void an_unfinished_change_is_told_until_it_is_settled(void)
{
    const int points[] = {NR_AT_TABLE_NOTED, NR_AT_TABLE_INTENT, NR_AT_TABLE_CHANGED, NR_AT_TABLE_SUMS};

    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        struct pair pair = open_pair(4u << 20, 1);
        struct seen seen = {0};
        uint32_t looks = 0;

        let_one_die(pair.writer, points[i]);
        while (nr_table_watch_look(pair.watch, tell, &seen) != 0)
            REQUIRE(++looks < 1000);
        CHECK(seen.keys > 0 && seen.everything == 0 && strcmp(seen.last, "k") == 0);
        set(pair.writer, "other");
        CHECK(look(pair.watch).keys == 1);
        CHECK(tables_faults(pair.writer) == 0);
        close_pair(&pair);
    }
}

static void a_dead_watcher_is_forgotten(void)
{
    struct nr_table *table, *again;
    struct nr_table_watch *watch;
    struct nr_key key;
    int fd = tables_fd(4u << 20, 1, 100, &table);
    pid_t child = fork();
    int status;

    REQUIRE(child >= 0);
    if (child == 0) {
        REQUIRE(nr_table_watch_join(table, (uint32_t)getpid(), 1, soon()) == 0);
        REQUIRE(nr_table_watch_begin(table, soon(), &watch) == 0);
        raise(SIGKILL);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(nr_table_is_watched(table));
    REQUIRE(nr_table_open(fd, &again) == 0);
    CHECK(!nr_table_is_watched(table));
    key = nr_table_key(again, "k", 1);
    CHECK(tables_set(again, &key, "v", 1) == 0);
    nr_table_close(again);
    nr_table_close(table);
    nr_os_close(fd);
}

/* ---- a cache in front of it, while others write ---- */

#define HOT 50u
#define WRITINGS 60000u

struct near {
    struct nr_table *table;
    bool held[HOT];
    uint64_t copy[HOT];
};

static void drop(void *context, const struct nr_table_news *news)
{
    struct near *near = context;
    uint32_t number;

    if (news->everything || !news->key) {
        memset(near->held, 0, sizeof near->held);
        return;
    }
    REQUIRE(news->size == sizeof number);
    memcpy(&number, news->key, sizeof number);
    near->held[number] = false;
}

static uint64_t value_of(struct nr_table *table, uint32_t number)
{
    struct nr_key key = nr_table_key(table, &number, sizeof number);
    struct nr_entry entry;
    uint64_t value = 0;

    return nr_table_get(table, &key, &value, sizeof value, &entry) == 0 ? value : 0;
}

static void *write_many(void *data)
{
    struct nr_table *table = data;
    uint64_t dice = 7;

    for (uint64_t i = 1; i <= WRITINGS; i++) {
        uint32_t number = (uint32_t)(tables_random(&dice) % HOT);
        struct nr_key key = nr_table_key(table, &number, sizeof number);

        if (i % 50 == 0)
            (void)nr_table_delete(table, &key, NR_FOREVER);
        else
            REQUIRE(tables_set(table, &key, &i, sizeof i) == 0);
    }
    return NULL;
}

static void a_near_copy_is_never_old_in_the_end(void)
{
    struct pair pair = open_pair(4u << 20, 2);
    struct near near = {.table = pair.watcher};
    pthread_t writers[2];

    for (int i = 0; i < 2; i++)
        REQUIRE(pthread_create(&writers[i], NULL, write_many, pair.writer) == 0);
    for (int round = 0; round < 2000; round++) {
        for (uint32_t i = 0; i < HOT; i++)
            if (!near.held[i]) {
                near.held[i] = true; /* before it is read: what comes from now on is told */
                near.copy[i] = value_of(near.table, i);
            }
        (void)nr_table_watch_look(pair.watch, drop, &near);
    }
    for (int i = 0; i < 2; i++)
        REQUIRE(pthread_join(writers[i], NULL) == 0);
    (void)nr_table_watch_look(pair.watch, drop, &near);
    for (uint32_t i = 0; i < HOT; i++)
        CHECK(!near.held[i] || near.copy[i] == value_of(near.table, i));
    close_pair(&pair);
}

int main(void)
{
    RUN(each_change_is_told_once);
    RUN(own_changes_are_known);
    RUN(what_is_forgotten_is_told);
    RUN(who_is_late_is_told_everything);
    RUN(nothing_is_noted_for_nobody);
    RUN(an_unfinished_change_is_told_until_it_is_settled);
    RUN(a_dead_watcher_is_forgotten);
    RUN(a_near_copy_is_never_old_in_the_end);
    return check_finish();
}
