/* The engine's loop: sources, their numbers, turns, timers, wake-ups.
 *
 *     test_engine [rounds of the reuse storm]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "check.h"
#include "naru/engine.h"

static unsigned storm_rounds = 20000;

static struct nr_engine *make(void)
{
    struct nr_engine *engine;

    REQUIRE(nr_engine_create(NULL, &engine) == 0);
    return engine;
}

struct seen {
    int calls;
    uint32_t events;
    uint64_t missed;
    int answer;
};

static int note(struct nr_engine *engine, nr_source source, uint32_t events, void *data)
{
    struct seen *seen = data;

    (void)engine;
    (void)source;
    seen->calls++;
    seen->events = events;
    return seen->answer;
}

static int note_timer(struct nr_engine *engine, nr_timer timer, uint64_t missed, void *data)
{
    struct seen *seen = data;

    (void)engine;
    (void)timer;
    seen->calls++;
    seen->missed = missed;
    return seen->answer;
}

static void open_pipe(int *ends) { REQUIRE(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0); }

static void close_pipe(const int *ends)
{
    close(ends[0]);
    close(ends[1]);
}

static void readable_descriptor(void)
{
    struct nr_engine *engine = make();
    struct seen seen = {0};
    nr_source source;
    int ends[2];

    open_pipe(ends);
    CHECK_EQUAL(nr_source_add(engine, ends[0], NR_READABLE, NR_PRIORITY_USUAL, 0, note, &seen, &source), 0);
    CHECK_EQUAL(nr_engine_wait(engine, 0), 0);
    REQUIRE(write(ends[1], "x", 1) == 1);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(seen.calls, 1);
    CHECK_EQUAL(seen.events, NR_READABLE);
    CHECK_EQUAL(nr_source_remove(engine, source), 0);
    CHECK_EQUAL(nr_source_remove(engine, source), -ENOENT);
    CHECK_EQUAL(nr_engine_run_once(engine, 0), 0);
    CHECK_EQUAL(seen.calls, 1);
    close_pipe(ends);
    nr_engine_destroy(engine);
}

static void timer_fires_and_is_gone(void)
{
    struct nr_engine *engine = make();
    struct seen seen = {0};
    nr_timer timer;
    uint64_t due_ns = nr_os_now_ns() + 2000000;

    CHECK_EQUAL(nr_timer_start(engine, due_ns, 0, note_timer, &seen, &timer), 0);
    CHECK_EQUAL(nr_timer_due_ns(engine, timer), due_ns);
    while (seen.calls == 0 && CHECK(nr_engine_run_once(engine, NR_FOREVER) >= 0))
        continue;
    CHECK(nr_os_now_ns() >= due_ns);
    CHECK_EQUAL(nr_timer_cancel(engine, timer), -ENOENT);
    nr_engine_destroy(engine);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        storm_rounds = (unsigned)atoi(argv[1]);
    (void)storm_rounds;
    RUN(readable_descriptor);
    RUN(timer_fires_and_is_gone);
    return check_finish();
}
