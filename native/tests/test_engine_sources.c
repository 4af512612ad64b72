/* Sources: what they tell, their numbers when descriptors are closed and used again, one-shot ones.
 *
 *     test_engine_sources [rounds of the reuse storm [messages of the one-shot race]]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>

#include "engines.h"

static unsigned storm_rounds = 20000, race_messages = 100000;

/* ---- sources ---- */

static void readable_descriptor(void)
{
    struct nr_engine *engine = make();
    struct seen seen = {0};
    nr_source source;
    int ends[2];

    open_pipe(ends);
    source = watch(engine, ends[0], NR_READABLE, &seen);
    CHECK_EQUAL(nr_source_fileno(engine, source), ends[0]);
    CHECK_EQUAL(nr_engine_wait(engine, 0), 0);
    put_byte(ends[1]);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1); /* a level: it was not read */
    CHECK_EQUAL(seen.calls, 2);
    CHECK_EQUAL(seen.events, NR_READABLE);
    CHECK_EQUAL(nr_source_remove(engine, source), 0);
    CHECK_EQUAL(nr_source_remove(engine, source), -ENOENT);
    CHECK_EQUAL(nr_source_change(engine, source, NR_READABLE), -ENOENT);
    CHECK_EQUAL(nr_source_fileno(engine, source), -ENOENT);
    CHECK_EQUAL(nr_engine_run_once(engine, 0), 0);
    CHECK_EQUAL(seen.calls, 2);
    CHECK_EQUAL(counts_of(engine).source_count, 0);
    close_pipe(ends);
    nr_engine_destroy(engine);
}

static void bad_arguments_change_nothing(void)
{
    struct nr_engine *engine = make();
    struct seen seen = {0};
    nr_source source, twice;
    int ends[2], file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

    open_pipe(ends);
    CHECK_EQUAL(nr_source_add(engine, -1, NR_READABLE, 0, 0, note, &seen, &source), -EBADF);
    CHECK_EQUAL(nr_source_add(engine, 1000, NR_READABLE, 0, 0, note, &seen, &source), -EBADF);
    CHECK_EQUAL(nr_source_add(engine, file, NR_READABLE, 0, 0, note, &seen, &source), -EPERM);
    CHECK_EQUAL(nr_source_add(engine, ends[0], NR_HANGUP, 0, 0, note, &seen, &source), -EINVAL);
    CHECK_EQUAL(nr_source_add(engine, ends[0], 0, NR_PRIORITIES, 0, note, &seen, &source), -EINVAL);
    CHECK_EQUAL(nr_source_add(engine, ends[0], 0, 0, 8, note, &seen, &source), -EINVAL);
    CHECK_EQUAL(nr_source_add(engine, ends[0], 0, 0, 0, NULL, &seen, &source), -EINVAL);
    CHECK_EQUAL(counts_of(engine).source_count, 0);
    source = watch(engine, ends[0], NR_READABLE, &seen);
    CHECK_EQUAL(nr_source_add(engine, ends[0], 0, 0, 0, note, &seen, &twice), -EEXIST);
    CHECK_EQUAL(nr_source_change(engine, source, 1u << 7), -EINVAL);
    CHECK_EQUAL(nr_source_set_priority(engine, source, NR_PRIORITIES), -EINVAL);
    put_byte(ends[1]);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    close(file);
    close_pipe(ends);
    nr_engine_destroy(engine);
}

static void nothing_wanted_is_told_of_the_end_once(void)
{
    struct nr_engine *engine = make();
    struct seen seen = {0};
    nr_source source;
    int ends[2];

    open_pipe(ends);
    source = watch(engine, ends[0], 0, &seen);
    put_byte(ends[1]);
    CHECK_EQUAL(nr_engine_run_once(engine, in_ms(5)), 0);
    close(ends[1]);
    for (int i = 0; i < 10; i++)
        CHECK(nr_engine_run_once(engine, in_ms(2)) >= 0);
    CHECK_EQUAL(seen.calls, 1);
    CHECK_EQUAL(seen.events, NR_HANGUP);
    CHECK_EQUAL(nr_source_change(engine, source, NR_READABLE), 0);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK(seen.events & NR_READABLE);
    close(ends[0]);
    nr_engine_destroy(engine);
}

static void unwanted_events_are_not_delivered(void)
{
    struct nr_engine *engine = make();
    struct seen seen = {0};
    nr_source source;
    int ends[2];

    open_pipe(ends);
    source = watch(engine, ends[0], NR_READABLE, &seen);
    put_byte(ends[1]);
    CHECK_EQUAL(nr_engine_wait(engine, NR_FOREVER), 1);
    CHECK_EQUAL(nr_source_change(engine, source, 0), 0);
    CHECK_EQUAL(nr_engine_dispatch(engine), 1); /* looked at, and nothing to tell */
    CHECK_EQUAL(seen.calls, 0);
    close_pipe(ends);
    nr_engine_destroy(engine);
}

/* ---- numbers: what was closed or reused (FAULTS 99) ---- */

struct killer {
    struct nr_engine *engine;
    nr_source victim;
    int victim_fd, fresh[2];
    struct seen *fresh_seen;
    bool done;
};

static int kill_another(struct nr_engine *engine, nr_source source, uint32_t events, void *data)
{
    struct killer *killer = data;

    (void)source;
    (void)events;
    if (killer->done)
        return NR_DONE;
    killer->done = true;
    CHECK_EQUAL(nr_source_remove(engine, killer->victim), 0);
    close(killer->victim_fd);
    open_pipe(killer->fresh);
    CHECK_EQUAL(killer->fresh[0], killer->victim_fd); /* the number is used again */
    watch(engine, killer->fresh[0], NR_READABLE, killer->fresh_seen);
    return NR_DONE;
}

static void event_of_a_closed_descriptor_does_not_reach_its_successor(void)
{
    struct nr_engine *engine = make();
    struct seen victim = {0}, fresh = {0};
    struct killer killer = {.engine = engine, .fresh_seen = &fresh};
    nr_source source;
    int first[2], second[2];

    open_pipe(first);
    open_pipe(second);
    killer.victim_fd = second[0];
    CHECK_EQUAL(nr_source_add(engine, first[0], NR_READABLE, 0, 0, kill_another, &killer, &source), 0);
    killer.victim = watch(engine, second[0], NR_READABLE, &victim);
    put_byte(first[1]);
    put_byte(second[1]);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1); /* both were ready; one is left */
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(victim.calls, 0);
    CHECK_EQUAL(fresh.calls, 0);
    close_pipe(first);
    close(second[1]);
    close_pipe(killer.fresh);
    nr_engine_destroy(engine);
}

static void forgotten_source_does_not_disturb_its_successor(void)
{
    struct nr_engine *engine = make();
    struct seen old = {0}, fresh = {0};
    nr_source forgotten;
    int first[2], second[2];

    open_pipe(first);
    forgotten = watch(engine, first[0], NR_READABLE, &old);
    close_pipe(first);
    open_pipe(second);
    CHECK_EQUAL(second[0], first[0]);
    watch(engine, second[0], NR_READABLE, &fresh);
    CHECK_EQUAL(nr_source_fileno(engine, forgotten), -EBADF);
    CHECK_EQUAL(nr_source_change(engine, forgotten, NR_WRITABLE), -EBADF);
    CHECK_EQUAL(nr_source_remove(engine, forgotten), 0);
    put_byte(second[1]);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(old.calls, 0);
    CHECK_EQUAL(fresh.calls, 1);
    close_pipe(second);
    nr_engine_destroy(engine);
}

static void closed_while_a_copy_lives_does_not_spin(void)
{
    struct nr_engine *engine = make();
    struct seen old = {0}, other = {0};
    nr_source source;
    int first[2], second[2], copy;

    open_pipe(first);
    open_pipe(second);
    copy = dup(first[0]);
    source = watch(engine, first[0], NR_READABLE, &old);
    watch(engine, second[0], NR_READABLE, &other);
    put_byte(first[1]);
    close(first[0]);
    CHECK_EQUAL(nr_source_remove(engine, source), 0); /* too late: the kernel does not find it */
    for (int i = 0; i < 10; i++)
        CHECK(nr_engine_run_once(engine, in_ms(1)) >= 0);
    CHECK_EQUAL(nr_engine_wait(engine, in_ms(5)), 0); /* and it is quiet */
    CHECK_EQUAL(counts_of(engine).rebuilds, 1);
    CHECK(counts_of(engine).stale_events >= 4);
    put_byte(second[1]);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(other.calls, 1);
    CHECK_EQUAL(old.calls, 0);
    close(copy);
    close(first[1]);
    close_pipe(second);
    nr_engine_destroy(engine);
}

#define STORM 64

struct storm {
    struct storm_member {
        struct storm *storm;
        nr_source source;
        int fds[2];
        uint32_t identity;
    } members[STORM];
    uint32_t random, next_identity;
    uint64_t delivered, foreign, empty;
};

static uint32_t next_random(struct storm *storm)
{
    storm->random = storm->random * 1664525u + 1013904223u;
    return storm->random >> 8;
}

static int storm_event(struct nr_engine *, nr_source, uint32_t, void *);

static void begin_member(struct nr_engine *engine, struct storm *storm, struct storm_member *member)
{
    member->storm = storm;
    member->identity = ++storm->next_identity;
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, member->fds) == 0);
    CHECK_EQUAL(nr_source_add(engine, member->fds[0], NR_READABLE, next_random(storm) % NR_PRIORITIES,
                              0, storm_event, member, &member->source), 0);
}

static void end_member(struct nr_engine *engine, struct storm_member *member)
{
    /* now and then in the wrong order, as people do */
    bool wrong = next_random(member->storm) % 4 == 0;

    if (wrong)
        close_pipe(member->fds);
    CHECK_EQUAL(nr_source_remove(engine, member->source), 0);
    if (!wrong)
        close_pipe(member->fds);
}

static int storm_event(struct nr_engine *engine, nr_source source, uint32_t events, void *data)
{
    struct storm_member *member = data;
    struct storm *storm = member->storm;
    uint32_t identity;

    if (source != member->source)
        storm->foreign++;
    if (recv(member->fds[0], &identity, sizeof identity, 0) == sizeof identity) {
        storm->delivered++;
        if (identity != member->identity)
            storm->foreign++;
    } else if (!(events & NR_HANGUP))
        storm->empty++;
    for (int i = 0; i < 2; i++) {
        struct storm_member *victim = &storm->members[next_random(storm) % STORM];

        end_member(engine, victim);
        begin_member(engine, storm, victim);
    }
    return NR_DONE;
}

static void reuse_storm(void)
{
    static struct storm storm;
    struct nr_engine *engine = make();

    storm = (struct storm){.random = 1};
    for (int i = 0; i < STORM; i++)
        begin_member(engine, &storm, &storm.members[i]);
    for (unsigned round = 0; round < storm_rounds; round++) {
        for (int i = 0; i < 8; i++) {
            struct storm_member *member = &storm.members[next_random(&storm) % STORM];

            (void)!send(member->fds[1], &member->identity, sizeof member->identity, MSG_NOSIGNAL);
        }
        if (!CHECK(nr_engine_run_once(engine, 0) >= 0))
            break;
    }
    CHECK(storm.delivered > storm_rounds / 2);
    CHECK_EQUAL(storm.foreign, 0);
    CHECK_EQUAL(storm.empty, 0);
    for (int i = 0; i < STORM; i++)
        end_member(engine, &storm.members[i]);
    nr_engine_destroy(engine);
}

/* ---- one-shot and its re-arming (FAULTS 102) ---- */

struct race {
    int fds[2];
    unsigned sent, received;
};

static void *race_send(void *data)
{
    struct race *race = data;

    for (unsigned i = 0; i < race_messages; i++)
        while (write(race->fds[1], "x", 1) < 0)
            sched_yield();
    return NULL;
}

static int race_event(struct nr_engine *engine, nr_source source, uint32_t events, void *data)
{
    struct race *race = data;
    char bytes[7];
    ssize_t got = read(race->fds[0], bytes, sizeof bytes); /* rarely all of it */

    (void)events;
    if (got > 0)
        race->received += (unsigned)got;
    CHECK_EQUAL(nr_source_change(engine, source, NR_READABLE), 0);
    if (race->received == race_messages)
        nr_engine_stop(engine);
    return NR_DONE;
}

static void one_shot_loses_nothing(void)
{
    struct nr_engine *engine = make();
    struct race race = {.received = 0};
    pthread_t thread;
    nr_source source;

    open_pipe(race.fds);
    CHECK_EQUAL(nr_source_add(engine, race.fds[0], NR_READABLE, 0, NR_ONE_SHOT, race_event, &race,
                              &source), 0);
    REQUIRE(pthread_create(&thread, NULL, race_send, &race) == 0);
    CHECK_EQUAL(nr_engine_run(engine, NR_FOREVER), 1);
    pthread_join(thread, NULL);
    CHECK_EQUAL(race.received, race_messages);
    close_pipe(race.fds);
    nr_engine_destroy(engine);
}

static void one_shot_is_silent_until_armed(void)
{
    struct nr_engine *engine = make();
    struct seen seen = {0};
    nr_source source;
    int ends[2];

    open_pipe(ends);
    CHECK_EQUAL(nr_source_add(engine, ends[0], NR_READABLE, 0, NR_ONE_SHOT, note, &seen, &source), 0);
    put_byte(ends[1]);
    for (int i = 0; i < 3; i++)
        CHECK(nr_engine_run_once(engine, in_ms(2)) >= 0);
    CHECK_EQUAL(seen.calls, 1);
    CHECK_EQUAL(nr_source_change(engine, source, NR_READABLE), 0);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(seen.calls, 2);
    close_pipe(ends);
    nr_engine_destroy(engine);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        storm_rounds = (unsigned)atoi(argv[1]);
    if (argc > 2)
        race_messages = (unsigned)atoi(argv[2]);
    RUN(readable_descriptor);
    RUN(bad_arguments_change_nothing);
    RUN(nothing_wanted_is_told_of_the_end_once);
    RUN(unwanted_events_are_not_delivered);
    RUN(event_of_a_closed_descriptor_does_not_reach_its_successor);
    RUN(forgotten_source_does_not_disturb_its_successor);
    RUN(closed_while_a_copy_lives_does_not_spin);
    RUN(reuse_storm);
    RUN(one_shot_loses_nothing);
    RUN(one_shot_is_silent_until_armed);
    return check_finish();
}
