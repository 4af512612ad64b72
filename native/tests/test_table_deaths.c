/* FAULTS 56 to 58: a process dies or stops at each point of each verb of the shared table. A child does a
 * sequence of operations that follows from a number; its parent does the same to a model. After the death
 * every key is as the model says, but for the one of the last operation, which happened or did not. */
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include "../memory/table_parts.h" /* a mutex that somebody else spoils */
#include "tables.h"
#include "victims.h"

#define MIB (UINT64_C(1) << 20)
#define MOST_KEYS 800u
#define MOST_BYTES 5000u
#define OPERATIONS 4000u
#define FAR INT64_C(1000000000)

enum verb { SET, DELETE, TOUCH, ADD, VERBS };

struct operation {
    enum verb verb;
    uint32_t key;
    uint64_t number; /* of all: what is written follows from it */
};

/* What is there under one key. */
struct standing {
    bool is_there;
    uint64_t number; /* of the operation that wrote the value; of a counter: its value */
    int64_t expires_ms;
};

static struct {
    _Atomic uint64_t begun, done;
} *diary;
static struct nr_table *table;
static int table_fd;
static uint32_t keys;
static bool tight; /* what is missing may have been evicted */
static struct standing model[MOST_KEYS];

/* ---- operations ---- */

static struct operation operation_of(uint64_t number)
{
    uint64_t dice = number * 7919;
    uint32_t key = (uint32_t)(tables_random(&dice) % keys);
    uint64_t what = tables_random(&dice) % 10;

    if (key % 10 == 0) /* every tenth is a counter */
        return (struct operation){what < 8 ? ADD : DELETE, key, number};
    return (struct operation){what < 7 ? SET : what < 9 ? TOUCH : DELETE, key, number};
}

static uint64_t size_of(uint64_t number) { return 16 + number * 7907 % (MOST_BYTES - 16); }

static struct nr_key key_of(const uint32_t *number)
{
    return nr_table_key(table, number, sizeof *number);
}

static void do_one(struct operation one)
{
    uint8_t value[MOST_BYTES];
    struct nr_key key = key_of(&one.key);
    int64_t sum, first = 1;
    int result = 0;

    if (one.verb == SET) {
        tables_fill(value, size_of(one.number), one.key, one.number);
        result = tables_set(table, &key, value, size_of(one.number));
    } else if (one.verb == TOUCH) {
        result = nr_table_touch(table, &key, FAR + (int64_t)one.number, NR_FOREVER);
    } else if (one.verb == DELETE) {
        result = nr_table_delete(table, &key, NR_FOREVER);
    } else {
        result = nr_table_add_to(table, &key, 1, &first, 0, NR_FOREVER, &sum);
    }
    REQUIRE(result == 0 || result == -ENOENT);
}

static struct standing after(struct standing before, struct operation one)
{
    if (one.verb == DELETE)
        return (struct standing){false, 0, 0};
    if (one.verb == SET)
        return (struct standing){true, one.number, 0};
    if (one.verb == ADD)
        return (struct standing){true, before.is_there ? before.number + 1 : 1, 0};
    if (before.is_there)
        before.expires_ms = FAR + (int64_t)one.number;
    return before;
}

static void work(void)
{
    for (uint64_t i = 0; i < OPERATIONS; i++) {
        uint64_t number = atomic_load(&diary->begun) + 1;

        atomic_store(&diary->begun, number);
        do_one(operation_of(number));
        atomic_store(&diary->done, number);
    }
}

/* ---- processes ---- */

static pid_t start(void (*body)(void), const char *crashpoint)
{
    pid_t child = victim_fork(crashpoint);

    if (child == 0) {
        body();
        _exit(0);
    }
    return child;
}

static bool dies_at(void (*body)(void), int point, int repeat)
{
    char text[40];

    snprintf(text, sizeof text, "%d:abort@%d", point, repeat);
    return victim_bury(start(body, text));
}

static void open_all(uint64_t size_bytes, uint32_t shards, uint32_t key_count, bool is_tight)
{
    keys = key_count;
    tight = is_tight;
    memset(model, 0, sizeof model);
    table_fd = tables_fd(size_bytes, shards, 1000, &table);
    diary = mmap(NULL, sizeof *diary, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(diary != MAP_FAILED);
}

static void close_all(void)
{
    nr_table_close(table);
    nr_os_close(table_fd);
    munmap(diary, sizeof *diary);
}

/* ---- what must hold ---- */

static struct standing read_standing(uint32_t number)
{
    uint8_t value[MOST_BYTES];
    struct nr_key key = key_of(&number);
    struct nr_entry entry;
    struct standing found = {false, 0, 0};
    int result = nr_table_get(table, &key, value, sizeof value, &entry);

    if (result == -ENOENT)
        return found;
    CHECK_EQUAL(result, 0);
    found.is_there = true;
    found.expires_ms = entry.expires_ms;
    if (number % 10 == 0) {
        value[entry.size_bytes < 20 ? entry.size_bytes : 20] = 0;
        found.number = strtoull((char *)value, NULL, 10);
    } else {
        CHECK(tables_is_whole(value, entry.size_bytes, number, &found.number));
        CHECK_EQUAL(entry.size_bytes, size_of(found.number));
    }
    return found;
}

static bool is_same(struct standing a, struct standing b)
{
    return a.is_there == b.is_there &&
           (!a.is_there || (a.number == b.number && a.expires_ms == b.expires_ms));
}

/* A full table forgets: then nothing is there, a counter began anew, a time was not set. */
static bool may_be(struct standing found, struct standing due, uint32_t key)
{
    if (!tight)
        return is_same(found, due);
    return !found.is_there || (due.is_there && (key % 10 == 0 || found.number == due.number));
}

static void replay(uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i <= to; i++) {
        struct operation one = operation_of(i);

        model[one.key] = after(model[one.key], one);
    }
}

/* Afterwards the model is what is there. `replayed`: how far the model is. */
static void check_all(uint64_t replayed)
{
    uint64_t begun = atomic_load(&diary->begun), done = atomic_load(&diary->done);
    struct nr_table_statistics statistics;
    struct operation last = operation_of(begun);

    CHECK(begun - done <= 1);
    replay(replayed + 1, done);
    for (uint32_t i = 0; i < keys; i++) {
        struct standing found = read_standing(i);
        bool is_last = begun > done && i == last.key;

        CHECK(may_be(found, model[i], i) || (is_last && may_be(found, after(model[i], last), i)));
        if (!CHECK(found.number <= begun))
            break;
        model[i] = found;
    }
    CHECK_EQUAL(tables_faults(table), 0); /* takes each mutex: the repairs are done */
    nr_table_read_statistics(table, -1, &statistics);
    CHECK_EQUAL(statistics.rebuilt, 0);
    CHECK_EQUAL(statistics.lock_timeouts, 0);
    atomic_store(&diary->done, begun);
}

/* ---- 56: each verb ---- */

static void at_every_point(bool is_tight)
{
    static const int repeats[] = {1, 2, 3, 10, 47, 300};

    open_all(is_tight ? 2 * MIB : 4 * MIB, 2, is_tight ? MOST_KEYS : 200, is_tight);
    CHECK(!victim_bury(start(work, NULL))); /* the logs have gone round */
    check_all(0);
    for (int point = NR_AT_TABLE_LOCKED; point <= NR_AT_TABLE_UNLOCK; point++) {
        int died = 0;

        check_watch(60);
        for (size_t i = 0; i < sizeof repeats / sizeof *repeats; i++) {
            uint64_t before = atomic_load(&diary->done);

            died += dies_at(work, point, repeats[i]);
            check_all(before);
            if (atomic_load(&check_state.failures) > 0)
                fprintf(stderr, "  at %d, time %d\n", point, repeats[i]);
        }
        CHECK(died >= 4);
    }
    close_all();
}

static void death_in_any_verb_changes_its_key_only(void) { at_every_point(false); }
static void death_in_any_verb_of_a_full_table(void) { at_every_point(true); }

/* A transaction: the locks of all shards in one hand. */
static void work_in_transactions(void)
{
    const uint64_t all[16] = {UINT64_MAX};

    for (uint64_t i = 0; i < 100; i++) {
        REQUIRE(nr_table_lock_shards(table, all, NR_FOREVER) == 0);
        for (int j = 0; j < 5; j++) {
            uint64_t number = atomic_load(&diary->begun) + 1;

            atomic_store(&diary->begun, number);
            do_one(operation_of(number));
            atomic_store(&diary->done, number);
        }
        nr_table_unlock_shards(table, all);
    }
}

static void death_with_all_shards_locked_frees_all(void)
{
    struct nr_table_statistics statistics;
    int died = 0;

    open_all(8 * MIB, 4, 100, false);
    CHECK(!victim_bury(start(work, NULL)));
    check_all(0);
    for (int point = NR_AT_TABLE_LOCKED; point <= NR_AT_TABLE_UNLOCK; point++) {
        uint64_t before = atomic_load(&diary->done);

        died += dies_at(work_in_transactions, point, 23);
        check_all(before);
    }
    CHECK(died >= 7);
    nr_table_read_statistics(table, -1, &statistics);
    CHECK(statistics.owners_died > 2 * (uint64_t)died);
    close_all();
}

/* ---- 56: everything at once ---- */

static void clear_all(void) { REQUIRE(nr_table_clear(table, NR_FOREVER) == 0); }

static void fill_all(void)
{
    for (uint32_t i = 0; i < keys; i++) {
        uint64_t number = atomic_load(&diary->begun) + 1;
        uint32_t key = i;

        atomic_store(&diary->begun, number);
        do_one((struct operation){key % 10 == 0 ? ADD : SET, key, number});
        atomic_store(&diary->done, number);
    }
}

/* Each shard is as it was, or empty. */
static uint32_t shards_that_are_empty(uint32_t shards)
{
    uint32_t empty = 0;

    for (uint32_t shard = 0; shard < shards; shard++) {
        uint32_t there = 0, all = 0;

        for (uint32_t i = 0; i < keys; i++) {
            struct nr_key key = key_of(&i);

            if (nr_table_shard_of(table, &key) != shard)
                continue;
            all++;
            there += read_standing(i).is_there;
        }
        CHECK(there == 0 || there == all);
        empty += there == 0;
    }
    return empty;
}

static void death_while_clearing_leaves_each_shard_whole_or_empty(void)
{
    static const struct {
        int point, repeat;
        uint32_t empty; /* once the next one came */
    } deaths[] = {{NR_AT_TABLE_LOCKED, 1, 0},   {NR_AT_TABLE_LOCKED, 3, 2},   {NR_AT_TABLE_EMPTYING, 1, 1},
                  {NR_AT_TABLE_EMPTYING, 4, 4}, {NR_AT_TABLE_SUMS, 2, 2},     {NR_AT_TABLE_UNLOCK, 1, 1},
                  {NR_AT_TABLE_UNLOCK, 4, 4}};

    open_all(8 * MIB, 4, 200, false);
    for (size_t i = 0; i < sizeof deaths / sizeof *deaths; i++) {
        fill_all();
        CHECK_EQUAL(shards_that_are_empty(4), 0);
        CHECK(dies_at(clear_all, deaths[i].point, deaths[i].repeat));
        CHECK_EQUAL(tables_faults(table), 0);
        CHECK_EQUAL(shards_that_are_empty(4), deaths[i].empty);
    }
    close_all();
}

static void retire_it(void) { REQUIRE(nr_table_retire(table, 7) == 0); }

/* Resizing: from the moment that the old generation names its successor, nobody writes to it. */
static void death_while_retiring_leaves_no_writer(void)
{
    static const int points[] = {NR_AT_TABLE_LOCKED, NR_AT_TABLE_UNLOCK};

    for (size_t i = 0; i < 2; i++)
        for (int repeat = 1; repeat <= 4; repeat++) {
            open_all(8 * MIB, 4, 100, false);
            fill_all();
            CHECK(dies_at(retire_it, points[i], repeat));
            CHECK_EQUAL(nr_table_successor(table), 7);
            for (uint32_t key = 0; key < keys; key++) {
                struct nr_key of = key_of(&key);

                CHECK_EQUAL(tables_set(table, &of, "v", 1), -ESTALE);
                CHECK(read_standing(key).is_there);
            }
            close_all();
        }
}

static void make_a_table(void)
{
    struct nr_table_settings settings = {.size_bytes = MIB, .shards = 1};
    struct nr_table *made;

    (void)nr_table_create(table_fd, &settings, &made);
}

static void death_while_creating_leaves_no_table(void)
{
    struct nr_table *made;

    table_fd = nr_os_memfd("naru-test-half");
    REQUIRE(table_fd >= 0);
    CHECK(dies_at(make_a_table, NR_AT_TABLE_ALLOCATED, 1));
    CHECK_EQUAL(nr_table_open(table_fd, &made), -EBADMSG);
    nr_os_close(table_fd);
}

static void claim_one(void)
{
    uint32_t number = 1;
    struct nr_key key = key_of(&number);
    struct nr_claim_owner owner = {.pid = (uint32_t)getpid(), .number = 1};

    REQUIRE(nr_os_process_started(owner.pid, &owner.started) == 0);
    REQUIRE(nr_table_claim(table, &key, &owner, 0, NR_FOREVER, NULL) == 1);
}

static void death_while_claiming_leaves_the_claim_to_others(void)
{
    static const int points[] = {NR_AT_TABLE_LOCKED, NR_AT_TABLE_CLAIM, NR_AT_TABLE_UNLOCK};

    open_all(MIB, 1, 10, false);
    for (size_t i = 0; i < 3; i++) {
        CHECK(dies_at(claim_one, points[i], 1));
        CHECK(!victim_bury(start(claim_one, NULL))); /* who dies without giving it back */
    }
    CHECK_EQUAL(tables_faults(table), 0);
    close_all();
}

/* ---- 58: who repairs dies, and a mutex that is lost ---- */

static void work_one(void)
{
    uint32_t number = 0; /* a counter */

    do_one((struct operation){ADD, number, 1});
}

static void nine_repairers_die_one_after_the_other(void)
{
    uint64_t counted;

    open_all(MIB, 1, 10, false);
    work_one();
    CHECK(dies_at(work_one, NR_AT_TABLE_CHANGED, 1));
    for (int i = 0; i < 9; i++)
        CHECK(dies_at(work_one, i % 2 ? NR_AT_TABLE_OWNER_DIED : NR_AT_TABLE_RECOVERED, 1));
    CHECK(dies_at(clear_all, NR_AT_TABLE_EMPTYING, 1));
    for (int i = 0; i < 9; i++) /* each begins to empty it anew, and dies in there */
        CHECK(dies_at(work_one, i % 2 ? NR_AT_TABLE_EMPTYING : NR_AT_TABLE_OWNER_DIED, 1));
    work_one();
    CHECK_EQUAL(tables_faults(table), 0);
    counted = read_standing(0).number;
    CHECK_EQUAL(counted, 1); /* what stood there was cleared */
    close_all();
}

static void hold_and_die(void)
{
    REQUIRE(pthread_mutex_lock(&nr_shard_at(table, 0)->lock) == 0);
    kill(getpid(), SIGKILL);
}

/* A program that is not ours: takes it over and lets it go without a repair. */
static void give_up_the_repair(void)
{
    pthread_mutex_t *lock = &nr_shard_at(table, 0)->lock;

    REQUIRE(pthread_mutex_lock(lock) == EOWNERDEAD);
    REQUIRE(pthread_mutex_unlock(lock) == 0);
}

static void lose_the_mutex(void)
{
    CHECK(victim_bury(start(hold_and_die, NULL)));
    CHECK(!victim_bury(start(give_up_the_repair, NULL)));
}

static uint32_t count_in(uint32_t shard)
{
    uint32_t found = 0;

    for (uint32_t i = 0; i < keys; i++) {
        struct nr_key key = key_of(&i);

        found += nr_table_shard_of(table, &key) == shard && read_standing(i).is_there;
    }
    return found;
}

static uint64_t rebuilt(void)
{
    struct nr_table_statistics statistics;

    nr_table_read_statistics(table, -1, &statistics);
    return statistics.rebuilt;
}

static void lost_mutex_costs_its_shard_once_and_no_other(void)
{
    enum { PROCESSES = 4 };
    pid_t children[PROCESSES];
    uint32_t others;

    open_all(2 * MIB, 2, 100, false);
    fill_all();
    others = count_in(1);
    for (uint64_t turn = 1; turn <= 20; turn++) {
        check_watch(60);
        lose_the_mutex();
        if (turn % 2)
            CHECK(dies_at(fill_all, NR_AT_TABLE_EMPTYING, 1)); /* while he rebuilds it */
        for (int i = 0; i < PROCESSES; i++)
            children[i] = start(fill_all, NULL);
        for (int i = 0; i < PROCESSES; i++)
            CHECK(!victim_bury(children[i]));
        CHECK_EQUAL(rebuilt(), turn);
        CHECK_EQUAL(count_in(1), others);
        CHECK_EQUAL(count_in(0), keys - others);
        CHECK_EQUAL(tables_faults(table), 0);
    }
    lose_the_mutex();
    CHECK_EQUAL(count_in(0), keys - others); /* readers need no mutex */
    CHECK(dies_at(clear_all, NR_AT_TABLE_UNLOCK, 1));
    CHECK_EQUAL(count_in(0), 0);
    CHECK_EQUAL(count_in(1), others);
    close_all();
}

/* ---- 57: a stopped holder ---- */

static uint32_t a_key_of(uint32_t shard)
{
    for (uint32_t i = 1;; i++) {
        struct nr_key key = key_of(&i);

        if (i % 10 != 0 && nr_table_shard_of(table, &key) == shard)
            return i;
    }
}

static void set_in_first_shard(void)
{
    atomic_store(&diary->begun, 1);
    do_one((struct operation){SET, a_key_of(0), 1});
    atomic_store(&diary->done, 1);
}

/* The best of many short ones: what else runs on this machine is in none of the best. */
static uint64_t quickest_ns(uint32_t shard)
{
    uint32_t number = a_key_of(shard);
    struct nr_key key = key_of(&number);
    uint64_t best = UINT64_MAX, value[8] = {0};

    for (int i = 0; i < 300; i++) {
        uint64_t begun = nr_os_now_ns(), took;

        for (int j = 0; j < 100; j++)
            REQUIRE(tables_set(table, &key, value, sizeof value) == 0);
        took = nr_os_now_ns() - begun;
        best = took < best ? took : best;
    }
    return best;
}

static void writers_time_out(uint32_t key_number, int tries)
{
    struct nr_key key = key_of(&key_number);

    for (int i = 0; i < tries; i++) {
        uint64_t begun = nr_os_now_ns();

        CHECK_EQUAL(nr_table_touch(table, &key, 0, begun + 3000000), -ETIMEDOUT);
        CHECK(nr_os_now_ns() - begun >= 3000000); /* not before its time, either */
        CHECK_EQUAL(nr_table_touch(table, &key, 0, 0), -ETIMEDOUT);
    }
}

static void stop_at(int point)
{
    struct nr_table_statistics statistics;
    char text[40];
    siginfo_t info = {0};
    bool is_as_quick = false;
    pid_t child;

    open_all(2 * MIB, 2, 100, false);
    snprintf(text, sizeof text, "%d:stop", point);
    for (int i = 0; i < 10 && !is_as_quick; i++) {
        uint64_t before = quickest_ns(1), during;

        atomic_store(&diary->done, 0);
        child = start(set_in_first_shard, text);
        REQUIRE(waitid(P_PID, (id_t)child, &info, WSTOPPED | WNOWAIT) == 0);
        during = quickest_ns(1);
        is_as_quick = during * 9 < before * 10;
        writers_time_out(a_key_of(0), 3);
        CHECK_EQUAL(atomic_load(&diary->done), 0);
        kill(child, SIGCONT);
        CHECK(!victim_bury(child));
        CHECK_EQUAL(atomic_load(&diary->done), 1); /* nobody took it from him: he ended what he began */
        CHECK_EQUAL(read_standing(a_key_of(0)).number, 1);
    }
    CHECK(is_as_quick);
    CHECK_EQUAL(tables_faults(table), 0);
    nr_table_read_statistics(table, 1, &statistics);
    CHECK_EQUAL(statistics.lock_waits, 0);
    nr_table_read_statistics(table, -1, &statistics);
    CHECK(statistics.lock_timeouts >= 3);
    CHECK_EQUAL(statistics.owners_died + statistics.rebuilt, 0);
    close_all();
}

static void stopped_holder_slows_no_other_shard_and_is_not_robbed(void)
{
    static const int points[] = {NR_AT_TABLE_LOCKED, NR_AT_TABLE_WRITTEN, NR_AT_TABLE_INTENT,
                                 NR_AT_TABLE_CHANGED, NR_AT_TABLE_UNLOCK};

    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        check_watch(60);
        stop_at(points[i]);
    }
}

int main(void)
{
    RUN(death_in_any_verb_changes_its_key_only);
    RUN(death_in_any_verb_of_a_full_table);
    RUN(death_with_all_shards_locked_frees_all);
    RUN(death_while_clearing_leaves_each_shard_whole_or_empty);
    RUN(death_while_retiring_leaves_no_writer);
    RUN(death_while_creating_leaves_no_table);
    RUN(death_while_claiming_leaves_the_claim_to_others);
    RUN(nine_repairers_die_one_after_the_other);
    RUN(lost_mutex_costs_its_shard_once_and_no_other);
    RUN(stopped_holder_slows_no_other_shard_and_is_not_robbed);
    return check_finish();
}
