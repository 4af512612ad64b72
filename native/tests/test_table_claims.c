/* Claims of the shared table: one owner, until it is given back, its time is up, or its process is dead. */
#include <pthread.h>
#include <sys/wait.h>

#include "../memory/table_parts.h" /* to see that somebody sleeps */
#include "tables.h"

#define MIB (UINT64_C(1) << 20)

static struct nr_key key_of(const struct nr_table *table, const char *text)
{
    return nr_table_key(table, text, strlen(text));
}

static struct nr_claim_owner self(uint64_t number)
{
    struct nr_claim_owner owner = {.pid = (uint32_t)getpid(), .number = number};

    REQUIRE(nr_os_process_started(owner.pid, &owner.started) == 0);
    return owner;
}

static void claims_have_one_owner(void)
{
    struct nr_table *table = tables_make(MIB, 1, 0);
    struct nr_key key = key_of(table, "turn");
    struct nr_claim_owner mine = self(1), other = self(2), holder = {0};
    int64_t soon = (int64_t)nr_table_now_ms(table) + 100000;

    CHECK_EQUAL(nr_table_claim(table, &key, &mine, 0, NR_FOREVER, &holder), 1);
    CHECK_EQUAL(nr_table_claim(table, &key, &mine, soon, NR_FOREVER, &holder), 1);
    CHECK_EQUAL(nr_table_claim(table, &key, &other, 0, NR_FOREVER, &holder), 0);
    CHECK_EQUAL(holder.number, 1);
    CHECK_EQUAL(nr_table_give_back(table, &key, &other, NR_FOREVER), -EPERM);
    CHECK_EQUAL(nr_table_await_claim(table, &key, 1000000), 0);
    nr_table_shift_clock(table, 100001); /* its time is up */
    CHECK_EQUAL(nr_table_give_back(table, &key, &mine, NR_FOREVER), -EPERM);
    CHECK_EQUAL(nr_table_claim(table, &key, &other, 0, NR_FOREVER, &holder), 1);
    CHECK_EQUAL(nr_table_give_back(table, &key, &other, NR_FOREVER), 0);
    CHECK_EQUAL(nr_table_give_back(table, &key, &other, NR_FOREVER), -EPERM);
    CHECK_EQUAL(nr_table_await_claim(table, &key, NR_FOREVER), 0); /* nobody has it */
    nr_table_close(table);
}

static void claim_of_a_dead_process_is_free(void)
{
    struct nr_table *table = tables_make(MIB, 1, 0);
    struct nr_key key = key_of(table, "turn");
    struct nr_claim_owner mine = self(1);
    pid_t child = fork();

    if (child == 0) {
        struct nr_claim_owner its = self(1);

        _exit(nr_table_claim(table, &key, &its, 0, NR_FOREVER, NULL) != 1);
    }
    /* a zombie is as dead as one that was waited for */
    REQUIRE(waitid(P_PID, (id_t)child, &(siginfo_t){0}, WEXITED | WNOWAIT) == 0);
    CHECK_EQUAL(nr_table_await_claim(table, &key, NR_FOREVER), 0);
    CHECK_EQUAL(nr_table_claim(table, &key, &mine, 0, NR_FOREVER, NULL), 1);
    waitpid(child, NULL, 0);
    nr_table_close(table);
}

static void *give_back_later(void *context)
{
    struct nr_table *table = context;
    struct nr_key key = key_of(table, "turn");
    struct nr_claim_owner mine = self(1);
    struct nr_shard *shard = nr_shard_at(table, 0);

    while (nr_get(shard->awaited) == 0)
        usleep(100);
    CHECK_EQUAL(nr_table_give_back(table, &key, &mine, NR_FOREVER), 0);
    return NULL;
}

static void sleeper_wakes_when_a_claim_is_given_back(void)
{
    struct nr_table *table = tables_make(MIB, 1, 0);
    struct nr_key key = key_of(table, "turn");
    struct nr_claim_owner mine = self(1), other = self(2);
    pthread_t thread;

    CHECK_EQUAL(nr_table_claim(table, &key, &mine, 0, NR_FOREVER, NULL), 1);
    REQUIRE(pthread_create(&thread, NULL, give_back_later, table) == 0);
    CHECK_EQUAL(nr_table_await_claim(table, &key, NR_FOREVER), 0);
    CHECK_EQUAL(nr_table_claim(table, &key, &other, 0, NR_FOREVER, NULL), 1);
    pthread_join(thread, NULL);
    nr_table_close(table);
}

static void claims_run_out_with_an_error(void)
{
    struct nr_table *table = tables_make(MIB, 1, 0);
    struct nr_claim_owner mine = self(1);
    uint32_t i;

    for (i = 0; i <= NR_TABLE_CLAIMS; i++) {
        struct nr_key key = nr_table_key(table, &i, sizeof i);
        int result = nr_table_claim(table, &key, &mine, 0, NR_FOREVER, NULL);

        CHECK_EQUAL(result, i < NR_TABLE_CLAIMS ? 1 : -ENOSPC);
    }
    nr_table_close(table);
}

int main(void)
{
    RUN(claims_have_one_owner);
    RUN(claim_of_a_dead_process_is_free);
    RUN(sleeper_wakes_when_a_claim_is_given_back);
    RUN(claims_run_out_with_an_error);
    return check_finish();
}
