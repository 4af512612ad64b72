/* The engine's loop: turns, timers, wake-ups, processes and limits. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "engines.h"

/* ---- turns ---- */

static int burn(struct nr_engine *engine, nr_source source, uint32_t events, void *data)
{
    uint64_t until = nr_os_now_ns() + 200000;

    (void)engine;
    (void)source;
    (void)events;
    ++*(int *)data;
    while (nr_os_now_ns() < until)
        continue;
    return NR_MORE;
}

static void firehose_does_not_starve_the_quiet(void)
{
    struct nr_engine *engine;
    const struct nr_engine_settings settings = {.turn_ns = 1000000};
    struct seen quiet = {0}, last = {0};
    int fires[20] = {0}, pipes[22][2];
    nr_source source;

    REQUIRE(nr_engine_create(&settings, &engine) == 0);
    for (int i = 0; i < 22; i++) {
        open_pipe(pipes[i]);
        if (i < 20) {
            CHECK_EQUAL(nr_source_add(engine, pipes[i][0], NR_READABLE, NR_PRIORITY_FIRST, 0, burn,
                                      &fires[i], &source), 0);
            put_byte(pipes[i][1]);
        }
    }
    watch(engine, pipes[20][0], NR_READABLE, &quiet);
    CHECK_EQUAL(nr_source_add(engine, pipes[21][0], NR_READABLE, NR_PRIORITY_LAST, 0, note, &last,
                              &source), 0);
    put_byte(pipes[20][1]);
    put_byte(pipes[21][1]);
    for (int i = 0; i < 10; i++)
        CHECK(nr_engine_run_once(engine, NR_FOREVER) > 0);
    CHECK_EQUAL(quiet.calls, 10); /* in each turn, though the urgent ones never end */
    CHECK_EQUAL(last.calls, 10);
    for (int i = 0; i < 20; i++)
        CHECK(fires[i] >= 2); /* and they take turns among themselves */
    for (int i = 0; i < 22; i++)
        close_pipe(pipes[i]);
    nr_engine_destroy(engine);
}

static void more_needs_no_event(void)
{
    struct nr_engine *engine = make();
    struct seen seen = {.answer = NR_MORE};
    nr_source source;
    int ends[2];
    char byte;

    open_pipe(ends);
    source = watch(engine, ends[0], NR_READABLE, &seen);
    put_byte(ends[1]);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(read(ends[0], &byte, 1), 1);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(seen.calls, 3);
    seen.answer = NR_DONE;
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(nr_engine_run_once(engine, 0), 0);
    CHECK_EQUAL(nr_source_make_ready(engine, source, NR_READABLE), 0);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(seen.calls, 5);
    close_pipe(ends);
    nr_engine_destroy(engine);
}

static void negative_ends_the_turn_and_loses_nothing(void)
{
    struct nr_engine *engine = make();
    struct seen first = {.answer = -ECANCELED}, second = {0};
    nr_source source;
    int ends[2][2];

    open_pipe(ends[0]);
    open_pipe(ends[1]);
    CHECK_EQUAL(nr_source_add(engine, ends[0][0], NR_READABLE, NR_PRIORITY_FIRST, 0, note, &first,
                              &source), 0);
    watch(engine, ends[1][0], NR_READABLE, &second);
    put_byte(ends[0][1]);
    put_byte(ends[1][1]);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), -ECANCELED);
    CHECK_EQUAL(second.calls, 0);
    CHECK_EQUAL(nr_source_remove(engine, source), 0);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(second.calls, 1);
    close_pipe(ends[0]);
    close_pipe(ends[1]);
    nr_engine_destroy(engine);
}

static int run_again(struct nr_engine *engine, nr_source source, uint32_t events, void *data)
{
    (void)source;
    (void)events;
    *(int *)data = nr_engine_dispatch(engine);
    return NR_DONE;
}

static void callback_cannot_run_the_loop(void)
{
    struct nr_engine *engine = make();
    nr_source source;
    int ends[2], result = 0;

    open_pipe(ends);
    CHECK_EQUAL(nr_source_add(engine, ends[0], NR_READABLE, 0, 0, run_again, &result, &source), 0);
    put_byte(ends[1]);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(result, -EINVAL);
    close_pipe(ends);
    nr_engine_destroy(engine);
}

/* ---- timers (FAULTS 105) ---- */

static void timer_fires_and_is_gone(void)
{
    struct nr_engine *engine = make();
    struct seen seen = {0};
    nr_timer timer;
    uint64_t due_ns = in_ms(2);

    CHECK_EQUAL(nr_timer_start(engine, due_ns, 0, note_timer, &seen, &timer), 0);
    CHECK_EQUAL(nr_timer_due_ns(engine, timer), due_ns);
    while (seen.calls == 0 && CHECK(nr_engine_run_once(engine, NR_FOREVER) >= 0))
        continue;
    CHECK(nr_os_now_ns() >= due_ns);
    CHECK_EQUAL(nr_timer_cancel(engine, timer), -ENOENT);
    CHECK_EQUAL(nr_timer_move(engine, timer, due_ns), -ENOENT);
    CHECK_EQUAL(nr_timer_due_ns(engine, timer), 0);
    nr_engine_destroy(engine);
}

#define MANY 20000

struct order {
    nr_timer timers[MANY];
    uint64_t due_ns[MANY];
    bool cancelled[MANY];
    unsigned fired;
    uint64_t last_due_ns, early, disorder, dead;
    unsigned last_index;
};

static struct order order;

static int note_order(struct nr_engine *engine, nr_timer timer, uint64_t missed, void *data)
{
    unsigned index = (unsigned)((uint64_t *)data - order.due_ns);

    (void)engine;
    (void)missed;
    (void)timer;
    order.fired++;
    order.dead += order.cancelled[index];
    order.early += nr_os_now_ns() < order.due_ns[index];
    if (order.due_ns[index] < order.last_due_ns ||
        (order.due_ns[index] == order.last_due_ns && index < order.last_index))
        order.disorder++;
    order.last_due_ns = order.due_ns[index];
    order.last_index = index;
    return 0;
}

static void many_timers_in_order(void)
{
    struct nr_engine *engine = make();
    uint64_t start_ns = in_ms(30);
    unsigned random = 7, cancelled = 0;

    memset(&order, 0, sizeof order);
    for (unsigned i = 0; i < MANY; i++) {
        random = random * 1664525u + 1013904223u;
        order.due_ns[i] = start_ns + (random >> 20) * 10000ull; /* many of the same instant */
        CHECK_EQUAL(nr_timer_start(engine, order.due_ns[i], 0, note_order, &order.due_ns[i],
                                   &order.timers[i]), 0);
    }
    for (unsigned i = 0; i < MANY; i += 3) {
        order.cancelled[i] = true;
        cancelled++;
        CHECK_EQUAL(nr_timer_cancel(engine, order.timers[i]), 0);
    }
    while (order.fired < MANY - cancelled && CHECK(nr_engine_run_once(engine, NR_FOREVER) >= 0))
        continue;
    CHECK_EQUAL(order.early, 0);
    CHECK_EQUAL(order.disorder, 0);
    CHECK_EQUAL(order.dead, 0);
    CHECK_EQUAL(counts_of(engine).timer_count, 0);
    nr_engine_destroy(engine);
}

static void missed_periods_do_not_burst(void)
{
    struct nr_engine *engine = make();
    struct seen seen = {0};
    uint64_t first_ns = in_ms(1);
    nr_timer timer;

    CHECK_EQUAL(nr_timer_start(engine, first_ns, 1000000, note_timer, &seen, &timer), 0);
    usleep(60000); /* as if stopped */
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(seen.calls, 1);
    CHECK(seen.missed >= 50);
    CHECK_EQUAL((nr_timer_due_ns(engine, timer) - first_ns) % 1000000, 0); /* still on its grid */
    CHECK(counts_of(engine).timers_missed >= 50);
    CHECK_EQUAL(nr_timer_cancel(engine, timer), 0);
    nr_engine_destroy(engine);
}

struct chain {
    int begun;
    nr_timer other;
    bool cancels;
};

static int begin_another(struct nr_engine *engine, nr_timer timer, uint64_t missed, void *data)
{
    struct chain *chain = data;
    nr_timer next;

    (void)timer;
    (void)missed;
    chain->begun++;
    if (chain->cancels)
        CHECK_EQUAL(nr_timer_cancel(engine, chain->other), 0);
    chain->cancels = false;
    CHECK_EQUAL(nr_timer_start(engine, 0, 0, begin_another, chain, &next), 0);
    return 0;
}

static void timers_in_the_past_do_not_starve_the_others(void)
{
    struct nr_engine *engine = make();
    struct chain chain = {0};
    struct seen seen = {0};
    nr_timer timer;
    uint64_t now = nr_os_now_ns();

    CHECK_EQUAL(nr_timer_start(engine, now - 5, 0, begin_another, &chain, &timer), 0);
    CHECK_EQUAL(nr_timer_start(engine, now, 1, note_timer, &seen, &timer), 0);
    for (int i = 0; i < 10; i++)
        CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 2); /* each once a turn */
    CHECK_EQUAL(chain.begun, 10);
    CHECK_EQUAL(seen.calls, 10);
    nr_engine_destroy(engine);
}

static void callback_cancels_another_that_is_due(void)
{
    struct nr_engine *engine = make();
    struct chain chain = {.cancels = true};
    struct seen seen = {0};
    nr_timer timer;

    CHECK_EQUAL(nr_timer_start(engine, 1, 0, begin_another, &chain, &timer), 0);
    CHECK_EQUAL(nr_timer_start(engine, 2, 0, note_timer, &seen, &chain.other), 0);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(seen.calls, 0);
    nr_engine_destroy(engine);
}

/* ---- waking ---- */

static int note_wake(struct nr_engine *engine, void *data)
{
    ++*(int *)data;
    (void)engine;
    return 0;
}

static void *wake_soon(void *data)
{
    usleep(2000);
    nr_engine_wake(data);
    nr_engine_wake(data);
    return NULL;
}

static void wake_from_a_thread(void)
{
    struct nr_engine *engine = make();
    pthread_t thread;
    int woken = 0;

    nr_engine_on_wake(engine, note_wake, &woken);
    REQUIRE(pthread_create(&thread, NULL, wake_soon, engine) == 0);
    CHECK_EQUAL(nr_engine_wait(engine, NR_FOREVER), 1);
    CHECK(nr_engine_dispatch(engine) >= 0);
    CHECK(woken >= 1);
    pthread_join(thread, NULL);
    nr_engine_wake(engine); /* before the wait: not lost */
    CHECK_EQUAL(nr_engine_wait(engine, NR_FOREVER), 1);
    CHECK(nr_engine_dispatch(engine) >= 0);
    nr_engine_destroy(engine);
}

static struct nr_engine *stopped_by_signal;

static void on_alarm(int number)
{
    (void)number;
    nr_engine_stop(stopped_by_signal);
}

static void stop_from_a_signal_handler(void)
{
    struct sigaction action = {.sa_handler = on_alarm}, before;
    struct nr_engine *engine = make();
    int result;

    stopped_by_signal = engine;
    REQUIRE(sigaction(SIGUSR1, &action, &before) == 0);
    raise(SIGUSR1); /* before the run: not lost */
    CHECK_EQUAL(nr_engine_run(engine, NR_FOREVER), 1);
    REQUIRE(fork() != 0 || (usleep(5000), kill(getppid(), SIGUSR1), _exit(0), 0));
    while ((result = nr_engine_run(engine, NR_FOREVER)) == -EINTR)
        continue;
    CHECK_EQUAL(result, 1);
    wait(NULL);
    sigaction(SIGUSR1, &before, NULL);
    nr_engine_destroy(engine);
}

static void deadline_ends_the_run(void)
{
    struct nr_engine *engine = make();
    uint64_t deadline = in_ms(3);

    CHECK_EQUAL(nr_engine_run(engine, deadline), 0);
    CHECK(nr_os_now_ns() >= deadline);
    CHECK(counts_of(engine).wakeups == 0); /* idle is idle */
    nr_engine_destroy(engine);
}

struct adder {
    struct nr_engine *engine;
    int fd;
    struct seen *seen;
};

static void *add_while_it_sleeps(void *data)
{
    struct adder *adder = data;
    nr_timer timer;

    usleep(2000);
    watch(adder->engine, adder->fd, NR_READABLE, adder->seen);
    CHECK_EQUAL(nr_timer_start(adder->engine, in_ms(1), 0, note_timer, adder->seen, &timer), 0);
    return NULL;
}

static void added_during_a_sleep_takes_effect(void)
{
    struct nr_engine *engine = make();
    struct seen seen = {0};
    struct adder adder = {engine, -1, &seen};
    pthread_t thread;
    int ends[2];

    open_pipe(ends);
    put_byte(ends[1]);
    adder.fd = ends[0];
    REQUIRE(pthread_create(&thread, NULL, add_while_it_sleeps, &adder) == 0);
    CHECK_EQUAL(nr_engine_wait(engine, NR_FOREVER), 1); /* the lock would be free here */
    pthread_join(thread, NULL);
    while (seen.calls < 2 && CHECK(nr_engine_run_once(engine, NR_FOREVER) >= 0))
        continue;
    close_pipe(ends);
    nr_engine_destroy(engine);
}

/* ---- processes and limits ---- */

static int in_child(struct nr_engine *engine, nr_source source)
{
    struct seen seen = {0};
    nr_timer timer;
    bool right = nr_engine_wait(engine, 0) == -ECHILD && nr_engine_dispatch(engine) == -ECHILD &&
                 nr_source_remove(engine, source) == -ECHILD &&
                 nr_source_change(engine, source, 0) == -ECHILD &&
                 nr_timer_start(engine, 1, 0, note_timer, &seen, &timer) == -ECHILD &&
                 nr_engine_fileno(engine) == -ECHILD;

    nr_engine_destroy(engine);
    return right ? 0 : 1;
}

static void forked_child_leaves_the_parents_engine_alone(void)
{
    struct nr_engine *engine = make();
    struct seen seen = {0};
    nr_source source;
    int ends[2], status = -1;
    pid_t child;

    open_pipe(ends);
    source = watch(engine, ends[0], NR_READABLE, &seen);
    child = fork();
    REQUIRE(child >= 0);
    if (child == 0)
        _exit(in_child(engine, source));
    waitpid(child, &status, 0);
    CHECK_EQUAL(status, 0);
    put_byte(ends[1]);
    CHECK_EQUAL(nr_engine_run_once(engine, NR_FOREVER), 1);
    CHECK_EQUAL(seen.calls, 1);
    close_pipe(ends);
    nr_engine_destroy(engine);
}

static void no_descriptor_free(void)
{
    struct rlimit before, few;
    struct nr_engine *engine = NULL;
    int next = dup(0);

    close(next);
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
    for (int left = 0; left < 3; left++) {
        few = (struct rlimit){(rlim_t)(next + left), before.rlim_max};
        REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
        CHECK_EQUAL(nr_engine_create(NULL, &engine), -EMFILE);
        CHECK_EQUAL(fcntl(next, F_GETFD), -1); /* and none was kept */
    }
    REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
    CHECK_EQUAL(nr_engine_create(NULL, &engine), 0);
    nr_engine_destroy(engine);
    nr_engine_destroy(NULL);
}

int main(void)
{
    RUN(firehose_does_not_starve_the_quiet);
    RUN(more_needs_no_event);
    RUN(negative_ends_the_turn_and_loses_nothing);
    RUN(callback_cannot_run_the_loop);
    RUN(timer_fires_and_is_gone);
    RUN(many_timers_in_order);
    RUN(missed_periods_do_not_burst);
    RUN(timers_in_the_past_do_not_starve_the_others);
    RUN(callback_cancels_another_that_is_due);
    RUN(wake_from_a_thread);
    RUN(stop_from_a_signal_handler);
    RUN(deadline_ends_the_run);
    RUN(added_during_a_sleep_takes_effect);
    RUN(forked_child_leaves_the_parents_engine_alone);
    RUN(no_descriptor_free);
    return check_finish();
}
