/* engines.h: an engine with what a test watches; for the tests of the loop. */
#ifndef NR_TESTS_ENGINES_H
#define NR_TESTS_ENGINES_H

#include <fcntl.h>

#include "check.h"
#include "naru/engine.h"

__attribute__((unused)) static struct nr_engine *make(void)
{
    struct nr_engine *engine;

    REQUIRE(nr_engine_create(NULL, &engine) == 0);
    return engine;
}

__attribute__((unused)) static uint64_t in_ms(unsigned ms) { return nr_os_now_ns() + ms * 1000000ull; }

struct seen {
    int calls;
    uint32_t events;
    uint64_t missed;
    int answer;
};

__attribute__((unused)) static int note(struct nr_engine *engine, nr_source source, uint32_t events, void *data)
{
    struct seen *seen = data;

    (void)engine;
    (void)source;
    seen->calls++;
    seen->events = events;
    return seen->answer;
}

__attribute__((unused)) static int note_timer(struct nr_engine *engine, nr_timer timer, uint64_t missed, void *data)
{
    struct seen *seen = data;

    (void)engine;
    (void)timer;
    seen->calls++;
    seen->missed = missed;
    return seen->answer;
}

__attribute__((unused)) static void open_pipe(int *ends) { REQUIRE(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0); }

__attribute__((unused)) static void close_pipe(const int *ends)
{
    close(ends[0]);
    close(ends[1]);
}

__attribute__((unused)) static nr_source watch(struct nr_engine *engine, int fd, uint32_t events, struct seen *seen)
{
    nr_source source = 0;

    CHECK_EQUAL(nr_source_add(engine, fd, events, NR_PRIORITY_USUAL, 0, note, seen, &source), 0);
    return source;
}

__attribute__((unused)) static void put_byte(int fd) { REQUIRE(write(fd, "x", 1) == 1); }

__attribute__((unused)) static struct nr_engine_statistics counts_of(const struct nr_engine *engine)
{
    struct nr_engine_statistics counts;

    nr_engine_read_statistics(engine, &counts);
    return counts;
}

#endif
