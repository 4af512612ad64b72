/* Processes on one table, some of which are killed or stopped at the worst instants.
 *
 *     test_table_processes [kills]
 *
 * A writer says in a shared diary what it is about to write and what was acknowledged. After its death, the
 * table has the one or the other for each of its keys. */
#include <sched.h>
#include <sys/mman.h>

#include "tables.h"
#include "victims.h"

#define WRITERS 2
#define KEYS 2000u /* of each writer */
#define MOST 900u
#define SHARDS 2u

struct diary {
    _Atomic uint64_t trying[WRITERS][KEYS], done[WRITERS][KEYS]; /* 0: not yet, or deleted */
    _Atomic uint64_t reads, torn;
};

static struct diary *diary;
static struct nr_table *table;
static int table_fd;
static bool tight; /* the table evicts: what is missing is no fault */
static uint64_t kills = 100, most_recovery_ns;

static struct nr_key key_of(const struct nr_table *of, uint32_t *number)
{
    return nr_table_key(of, number, sizeof *number);
}

static void open_all(bool is_tight)
{
    tight = is_tight;
    table_fd = tables_fd(tight ? 2u << 20 : 8u << 20, SHARDS, 400, &table);
    diary = mmap(NULL, sizeof *diary, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(diary != MAP_FAILED);
}

static void close_all(void)
{
    nr_table_close(table);
    nr_os_close(table_fd);
    munmap(diary, sizeof *diary);
}

/* ---- the victims ---- */

static void write_one(struct nr_table *own, unsigned writer, uint64_t *dice)
{
    uint8_t value[MOST];
    uint32_t i = (uint32_t)(tables_random(dice) % KEYS), number = writer * KEYS + i;
    /* half of them of one size: those take each other's room */
    uint64_t size = tables_random(dice) % 2 ? 200 : 16 + tables_random(dice) % (MOST - 16);
    uint64_t writing = atomic_load(&diary->trying[writer][i]) + 1;
    struct nr_key key = key_of(own, &number);

    tables_fill(value, size, number, writing);
    atomic_store(&diary->trying[writer][i], writing);
    REQUIRE(tables_set(own, &key, value, size) == 0);
    atomic_store(&diary->done[writer][i], writing);
}

static void write_until_killed(unsigned writer, uint64_t seed, uint64_t count)
{
    struct nr_table *own;
    uint64_t dice = seed;

    REQUIRE(nr_table_open(table_fd, &own) == 0);
    for (uint64_t i = 0; i < count; i++)
        write_one(own, writer, &dice);
}

static void read_until_killed(uint64_t seed)
{
    struct nr_table *own;
    uint64_t dice = seed;

    REQUIRE(nr_table_open(table_fd, &own) == 0);
    for (;;) {
        uint8_t value[MOST];
        uint32_t number = (uint32_t)(tables_random(&dice) % (WRITERS * KEYS));
        struct nr_key key = key_of(own, &number);
        struct nr_entry entry;
        uint64_t writing;

        if (nr_table_get(own, &key, value, sizeof value, &entry) != 0)
            continue;
        atomic_fetch_add(&diary->reads, 1);
        if (!tables_is_whole(value, entry.size_bytes, number, &writing))
            atomic_fetch_add(&diary->torn, 1);
    }
}

static pid_t start(void (*body)(unsigned, uint64_t, uint64_t), unsigned writer, uint64_t seed,
                   uint64_t count, const char *crashpoint)
{
    pid_t child = victim_fork(crashpoint);

    if (child == 0) {
        if (body)
            body(writer, seed, count);
        else
            read_until_killed(seed);
        _exit(0);
    }
    return child;
}

static void kill_now(pid_t child)
{
    kill(child, SIGKILL);
    CHECK(victim_bury(child));
}

/* ---- what must hold after a death ---- */

static void check_key(unsigned writer, uint32_t i)
{
    uint8_t value[MOST];
    uint32_t number = writer * KEYS + i;
    struct nr_key key = key_of(table, &number);
    uint64_t done = atomic_load(&diary->done[writer][i]), writing;
    struct nr_entry entry;
    int result = nr_table_get(table, &key, value, sizeof value, &entry);

    if (result == -ENOENT) {
        CHECK(done == 0 || tight);
        return;
    }
    CHECK_EQUAL(result, 0);
    CHECK(tables_is_whole(value, entry.size_bytes, number, &writing));
    CHECK(writing == done || writing == atomic_load(&diary->trying[writer][i]));
}

/* Nobody else writes any more. */
static void check_all(void)
{
    struct nr_table_statistics statistics;

    for (unsigned writer = 0; writer < WRITERS; writer++)
        for (uint32_t i = 0; i < KEYS; i++)
            check_key(writer, i);
    CHECK_EQUAL(tables_faults(table), 0); /* takes each mutex: the repairs are done */
    nr_table_read_statistics(table, -1, &statistics);
    CHECK_EQUAL(statistics.rebuilt, 0);
    if (statistics.last_recovery_ns > most_recovery_ns)
        most_recovery_ns = statistics.last_recovery_ns;
}

static void kill_at_random(uint64_t *dice)
{
    pid_t writers[WRITERS], reader;
    uint64_t until, before;

    for (unsigned i = 0; i < WRITERS; i++)
        writers[i] = start(write_until_killed, i, tables_random(dice), UINT64_MAX, NULL);
    reader = start(NULL, 0, tables_random(dice), 0, NULL);
    until = nr_os_now_ns() + 1000000 + tables_random(dice) % 6000000;
    while (nr_os_now_ns() < until)
        sched_yield();
    kill_now(writers[0]);
    for (uint32_t i = 0; i < KEYS; i++)
        check_key(0, i); /* while the other one goes on */
    before = 0;
    for (uint32_t i = 0; i < KEYS; i++)
        before += atomic_load(&diary->done[1][i]);
    for (uint64_t now = before; now < before + 200;) { /* it does go on; or the watchdog says so */
        now = 0;
        for (uint32_t i = 0; i < KEYS; i++)
            now += atomic_load(&diary->done[1][i]);
        sched_yield();
    }
    kill_now(writers[1]);
    kill_now(reader);
    check_all();
}

static void kill_many(bool is_tight)
{
    struct nr_table_statistics statistics;
    uint64_t dice = 7 + is_tight;

    open_all(is_tight);
    for (uint64_t i = 0; i < kills && atomic_load(&check_state.failures) == 0; i++) {
        check_watch(60);
        kill_at_random(&dice);
    }
    CHECK_EQUAL(atomic_load(&diary->torn), 0);
    nr_table_read_statistics(table, -1, &statistics);
    printf("%llu rounds, %llu sets, %llu reads, %llu retries, %llu evicted, %llu holders died, "
           "longest repair %llu ns\n",
           (unsigned long long)kills, (unsigned long long)statistics.sets,
           (unsigned long long)atomic_load(&diary->reads), (unsigned long long)statistics.retries,
           (unsigned long long)statistics.evicted, (unsigned long long)statistics.owners_died,
           (unsigned long long)most_recovery_ns);
    close_all();
}

static void nothing_is_lost_when_writers_are_killed(void) { kill_many(false); }
static void nothing_is_torn_when_a_full_table_writes(void) { kill_many(true); }

/* ---- at every crash point ---- */

static const int repeats[] = {1, 2, 9, 100, 1500};

static int die_at(int point, int repeat)
{
    char text[40];
    bool died;

    snprintf(text, sizeof text, "%d:abort@%d", point, repeat);
    died = victim_bury(start(write_until_killed, 0, (uint64_t)(point * 100 + repeat), 4000, text));
    check_all();
    if (atomic_load(&check_state.failures) > 0)
        fprintf(stderr, "  at %s\n", text);
    return died;
}

static void at_every_point(bool is_tight)
{
    open_all(is_tight);
    victim_bury(start(write_until_killed, 0, 1, 30000, NULL)); /* the logs have gone round */
    for (int point = NR_AT_TABLE_LOCKED; point <= NR_AT_TABLE_GAP_LEFT; point++) {
        int died = 0;

        if (point > NR_AT_TABLE_UNLOCK && point < NR_AT_TABLE_GAP_TAKEN)
            continue; /* others come there */

        check_watch(60);
        for (size_t i = 0; i < sizeof repeats / sizeof *repeats; i++)
            died += die_at(point, repeats[i]);
        CHECK(died > 0);
    }
    close_all();
}

static void death_at_every_point_loses_nothing(void) { at_every_point(false); }
static void death_at_every_point_of_a_full_table(void) { at_every_point(true); }

static void empty_table(unsigned writer, uint64_t seed, uint64_t count)
{
    (void)writer, (void)seed, (void)count;
    REQUIRE(nr_table_clear(table, NR_FOREVER) == 0);
}

static void death_in_the_repair_leaves_it_to_the_next(void)
{
    static const int points[] = {NR_AT_TABLE_INTENT, NR_AT_TABLE_CHANGED, NR_AT_TABLE_SUMS};
    struct nr_table_statistics statistics;

    open_all(false);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        for (int repair = NR_AT_TABLE_OWNER_DIED; repair <= NR_AT_TABLE_RECOVERED; repair++) {
            char text[40];

            snprintf(text, sizeof text, "%d:abort@50", points[i]);
            CHECK(victim_bury(start(write_until_killed, 0, 3, 4000, text)));
            snprintf(text, sizeof text, "%d:abort", repair);
            CHECK(victim_bury(start(write_until_killed, 1, 4, 4000, text)));
            check_all();
        }
    CHECK(victim_bury(start(empty_table, 0, 0, 0, "33:abort")));
    CHECK_EQUAL(tables_faults(table), 0); /* finished by who came next */
    nr_table_read_statistics(table, 0, &statistics);
    CHECK_EQUAL(statistics.entries, 0);
    close_all();
}

/* ---- a stopped holder ---- */

static void stopped_holder_is_waited_for_and_others_go_on(void)
{
    struct nr_key key;
    struct nr_entry entry;
    uint8_t value[MOST];
    uint32_t stuck = SHARDS, blocked = 0, passed = 0;
    siginfo_t info = {0};
    pid_t child;

    open_all(false);
    victim_bury(start(write_until_killed, 0, 1, 30 * KEYS, NULL)); /* each of them, almost surely */
    child = start(write_until_killed, 0, 2, UINT64_MAX, "21:stop@50");
    REQUIRE(waitid(P_PID, (id_t)child, &info, WSTOPPED | WNOWAIT) == 0);
    for (uint32_t number = 0; number < KEYS; number++) {
        int result;

        key = key_of(table, &number);
        result = nr_table_touch(table, &key, 0, nr_os_now_ns() + 2000000);
        CHECK(result == 0 || result == -ETIMEDOUT);
        if (result == -ETIMEDOUT) {
            CHECK(stuck == SHARDS || stuck == nr_table_shard_of(table, &key));
            stuck = nr_table_shard_of(table, &key);
        }
        blocked += result == -ETIMEDOUT;
        passed += result == 0;
        CHECK_EQUAL(nr_table_get(table, &key, value, sizeof value, &entry), 0);
    }
    CHECK(blocked > KEYS / 4 && passed > KEYS / 4);
    CHECK(stuck < SHARDS);
    kill(child, SIGCONT);
    for (uint32_t number = 0; number < KEYS; number++) {
        key = key_of(table, &number);
        CHECK_EQUAL(nr_table_touch(table, &key, 0, NR_FOREVER), 0);
    }
    kill_now(child);
    check_all();
    close_all();
}

/* ---- a record that is written and not published ---- */

static uint64_t writing_of_first(struct nr_table *of)
{
    uint8_t value[MOST];
    uint32_t number = 0;
    struct nr_key key = key_of(of, &number);
    struct nr_entry entry;
    uint64_t writing = 0;

    CHECK_EQUAL(nr_table_get(of, &key, value, sizeof value, &entry), 0);
    CHECK(tables_is_whole(value, entry.size_bytes, number, &writing));
    return writing;
}

static void write_first(unsigned writer, uint64_t writing, uint64_t count)
{
    uint8_t value[200];
    uint32_t number = 0;
    struct nr_key key = key_of(table, &number);

    (void)writer, (void)count;
    tables_fill(value, sizeof value, number, writing);
    REQUIRE(tables_set(table, &key, value, sizeof value) == 0);
}

static void read_first(unsigned writer, uint64_t seed, uint64_t count)
{
    (void)writer, (void)seed, (void)count;
    atomic_store(&diary->reads, writing_of_first(table));
}

static void await_stop(pid_t child)
{
    siginfo_t info = {0};

    REQUIRE(waitid(P_PID, (id_t)child, &info, WSTOPPED | WNOWAIT) == 0);
}

/* The reader has seen the slot point to a place that is given up, and then taken for the same key by a writer
 * who dies before he publishes: what he wrote there was never the value. */
static void unpublished_value_is_not_read(void)
{
    pid_t reader, writer;
    int status;

    open_all(false);
    for (uint64_t writing = 1; writing <= 3; writing++)
        write_first(0, writing, 0); /* the third is where the first was */
    reader = start(read_first, 0, 0, 0, "39:stop");
    await_stop(reader);
    write_first(0, 4, 0);
    writer = start(write_first, 0, 5, 0, "36:stop");
    await_stop(writer);
    kill(reader, SIGCONT);
    REQUIRE(waitpid(reader, &status, 0) == reader);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_EQUAL(atomic_load(&diary->reads), 4);
    kill_now(writer);
    CHECK_EQUAL(writing_of_first(table), 4);
    write_first(0, 6, 0);
    CHECK_EQUAL(writing_of_first(table), 6);
    CHECK_EQUAL(tables_faults(table), 0);
    close_all();
}

int main(int argc, char **argv)
{
    if (argc > 1)
        kills = strtoull(argv[1], NULL, 10);
    RUN(nothing_is_lost_when_writers_are_killed);
    RUN(nothing_is_torn_when_a_full_table_writes);
    RUN(death_at_every_point_loses_nothing);
    RUN(death_at_every_point_of_a_full_table);
    RUN(death_in_the_repair_leaves_it_to_the_next);
    RUN(stopped_holder_is_waited_for_and_others_go_on);
    RUN(unpublished_value_is_not_read);
    return check_finish();
}
