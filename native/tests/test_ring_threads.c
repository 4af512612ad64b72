/* Both ends of a ring as two threads on one mapping: for TSan, for the ledger, and for the lost
 * wake-up (FAULTS 49, 52).
 *
 *     test_ring_threads [messages [ping-pongs]]
 *
 * A third thread watches. It judges by state and not by the clock, because a machine may be slow:
 * when both threads sleep in poll and no doorbell is rung, nobody will ever wake them. The longest
 * time without progress is only printed.
 *
 * -DNR_PLANT_BUG=n breaks the protocol in this file's own copy of a step; the run must then fail:
 *     1  the tail is published before the payload is written
 *     2  no second look after sleep is announced
 *     3  a record is released before it is read
 *     4  no barrier between the announcement and the second look
 *     5  the sleeper's word is read before the tail is published
 * In all but 4 the broken step waits in its window for the other thread, so that the scheduler has no
 * say in whether the bug shows. */
#include <pthread.h>
#include <sched.h>

#include "ledger.h"
#include "rings.h"

#ifndef NR_PLANT_BUG
#define NR_PLANT_BUG 0
#endif

/* A planted race is TSan's to find: the ledger, which is quicker, does not end the program. */
#ifdef __SANITIZE_THREAD__
#define TSAN_JUDGES (NR_PLANT_BUG != 0)
#else
#define TSAN_JUDGES 0
#endif

#define CAPACITY (16u * 1024)
#define MOST 4000u
#define WATCH_NS 20000000u

/* By its address, because TSan does not see a memcpy that the compiler has put in place. */
static void *(*volatile copy)(void *, const void *, size_t) = memcpy;

/* One ring with its doorbells, and what the watcher may see of its two threads. */
struct line {
    struct nr_ring producer, consumer;
    int data_bell, space_bell;
    _Atomic uint64_t sent, received;
    _Atomic int asleep; /* threads in poll on one of the two bells */
    uint64_t sleeps, wakes; /* of the consumer; for the report */
};

static struct line lines[2];
static uint64_t messages = 2000000, ping_pongs = 100000;
static _Atomic int players; /* threads that have not finished */
static _Atomic bool finished;
static _Atomic uint64_t longest_gap_ns;

static void line_open(struct line *line, struct nr_segment *segment, int index, bool fences)
{
    memset(line, 0, sizeof *line);
    nr_segment_open_ring(segment, index, fences, &line->producer);
    nr_segment_open_ring(segment, index, fences, &line->consumer);
    line->data_bell = nr_os_eventfd();
    line->space_bell = nr_os_eventfd();
    REQUIRE(line->data_bell >= 0 && line->space_bell >= 0);
}

static void line_close(struct line *line)
{
    nr_os_close(line->data_bell);
    nr_os_close(line->space_bell);
}

/* Between two steps of the protocol; the ring's own windows have their crash points. */
static void hesitate(void) { NR_CRASHPOINT(NR_CRASHPOINTS); }

static void poll_bell(struct line *line, int bell)
{
    struct pollfd one = {.fd = bell, .events = POLLIN};

    atomic_fetch_add(&line->asleep, 1);
    hesitate();
    while (nr_os_sleep(&one, 1, NR_FOREVER) < 0)
        continue;
    hesitate();
    atomic_fetch_sub(&line->asleep, 1);
}

/* ---- the steps, and their broken copies ---- */

#define WINDOW_NS 1000000000u

static bool is_behind_the_bug(struct line *line)
{
    switch (NR_PLANT_BUG) {
    case 1: /* the consumer has read what was not written */
        return atomic_load(&line->received) > atomic_load(&line->sent);
    case 2: /* the producer has published, and seen nobody asleep */
        return nr_ring_has_record(&line->consumer);
    case 3: /* the producer has overwritten the record: the ring is full */
        return atomic_load(&line->producer.control->producer_wants);
    case 5: /* the consumer has announced its sleep */
        return atomic_load(&line->producer.control->consumer_sleeps);
    default:
        return true;
    }
}

/* TSan sees a race without it. */
__attribute__((unused)) static void stay_in_the_window(struct line *line)
{
    uint64_t end = nr_os_now_ns() + WINDOW_NS;

    while (!TSAN_JUDGES && !is_behind_the_bug(line) && nr_os_now_ns() < end)
        sched_yield();
}

static bool consumer_falls_asleep(struct line *line)
{
    struct nr_ring *ring = &line->consumer;

    hesitate();
#if NR_PLANT_BUG == 2
    stay_in_the_window(line);
    atomic_store(&ring->control->consumer_sleeps, 1);
    return false;
#elif NR_PLANT_BUG == 4
    atomic_store(&ring->control->consumer_sleeps, 1);
    if (!nr_ring_has_record(ring))
        return false;
    nr_ring_consumer_wakes(ring);
    return true;
#else
    return nr_ring_consumer_falls_asleep(ring);
#endif
}

static void publish(struct line *line)
{
#if NR_PLANT_BUG == 5
    bool call = nr_ring_consumer_must_be_woken(&line->producer);

    if (!call)
        stay_in_the_window(line);
    nr_ring_publish(&line->producer);
#else
    bool call;

    nr_ring_publish(&line->producer);
    call = nr_ring_consumer_must_be_woken(&line->producer);
#endif
    hesitate();
    if (call)
        nr_os_eventfd_ring(line->data_bell);
}

static void write_record(struct line *line, uint8_t *place, const uint8_t *message, uint32_t size)
{
#if NR_PLANT_BUG == 1
    nr_ring_commit(&line->producer, size, 0);
    publish(line);
    stay_in_the_window(line);
    copy(place, message, size);
#else
    (void)line;
    copy(place, message, size);
    nr_ring_commit(&line->producer, size, 0);
#endif
}

static void call_producer(struct line *line)
{
    if (nr_ring_producer_must_be_woken(&line->consumer))
        nr_os_eventfd_ring(line->space_bell);
}

static void release(struct line *line)
{
    nr_ring_release(&line->consumer);
    call_producer(line);
}

/* ---- the two verbs ---- */

static void put(struct line *line, const uint8_t *message, uint32_t size, bool at_once)
{
    uint8_t *place = NULL;
    int result;

    while ((result = nr_ring_reserve(&line->producer, size, &place)) == -EAGAIN) {
        publish(line);
        if (nr_ring_producer_falls_asleep(&line->producer, NR_RECORD_HEADER + NR_RING_PAD(size)))
            continue;
        poll_bell(line, line->space_bell);
        nr_ring_producer_wakes(&line->producer);
        nr_os_eventfd_drain(line->space_bell);
    }
    REQUIRE(result == 0);
    write_record(line, place, message, size);
    if (at_once)
        publish(line);
    atomic_fetch_add_explicit(&line->sent, 1, memory_order_relaxed);
}

/* Copies the next record out; it stays unreleased. */
static uint32_t take(struct line *line, uint8_t *message)
{
    struct nr_record record;
    const uint8_t *payload = NULL;
    int result;

    while ((result = nr_ring_next(&line->consumer, &record, &payload)) == -EAGAIN) {
        if (consumer_falls_asleep(line))
            continue;
        call_producer(line);
        line->sleeps++;
        poll_bell(line, line->data_bell);
        nr_ring_consumer_wakes(&line->consumer);
        nr_os_eventfd_drain(line->data_bell);
    }
    REQUIRE(result == 1 && record.length <= MOST);
#if NR_PLANT_BUG == 3
    release(line);
    stay_in_the_window(line);
#endif
    copy(message, payload, record.length);
    atomic_fetch_add_explicit(&line->received, 1, memory_order_relaxed);
    return record.length;
}

/* ---- watching ---- */

static bool is_rung(int bell) { return nr_os_poll_now(bell, POLLIN) & POLLIN; }

static uint64_t progress(void)
{
    uint64_t sum = 0;

    for (int i = 0; i < 2; i++)
        sum += atomic_load(&lines[i].sent) + atomic_load(&lines[i].received);
    return sum;
}

static bool is_stuck(void)
{
    uint64_t before = progress();

    for (int turn = 0; turn < 2; turn++) {
        int awake = atomic_load(&players) - atomic_load(&lines[0].asleep) -
                    atomic_load(&lines[1].asleep);

        for (int i = 0; i < 2; i++)
            if (is_rung(lines[i].data_bell) || is_rung(lines[i].space_bell))
                return false;
        if (awake > 0 || progress() != before)
            return false;
    }
    return atomic_load(&players) > 0;
}

static void report_stuck(void)
{
    for (int i = 0; i < 2; i++)
        if (lines[i].producer.control)
            fprintf(stderr,
                    "line %d: sent %llu received %llu asleep %d has_record %d consumer_sleeps %u "
                    "producer_wants %llu\n",
                    i, (unsigned long long)lines[i].sent, (unsigned long long)lines[i].received,
                    (int)lines[i].asleep, (int)nr_ring_has_record(&lines[i].consumer),
                    (unsigned)lines[i].consumer.control->consumer_sleeps,
                    (unsigned long long)lines[i].consumer.control->producer_wants);
    fprintf(stderr, "%s: stuck: everybody sleeps and no doorbell is rung\n", check_state.running);
    printf("0 passed, 1 failed\n");
    fflush(stdout);
    _exit(1);
}

static void *watch(void *unused)
{
    uint64_t seen = progress(), since = nr_os_now_ns();

    while (!atomic_load(&finished)) {
        struct timespec pause = {0, WATCH_NS};
        uint64_t now, gap;

        nanosleep(&pause, NULL);
        (void)nr_ring_depth_bytes(&lines[0].consumer); /* as a spinning thread does */
        (void)nr_ring_has_record(&lines[0].consumer);
        (void)nr_ring_has_room(&lines[0].producer, MOST);
        now = nr_os_now_ns();
        gap = now - since;
        if (progress() != seen) {
            seen = progress();
            since = now;
            continue;
        }
        if (gap > atomic_load(&longest_gap_ns))
            atomic_store(&longest_gap_ns, gap);
        if (is_stuck())
            report_stuck();
    }
    return unused;
}

/* ---- a stream ---- */

static void *stream_out(void *unused)
{
    static uint8_t message[MOST];
    uint64_t random = 7, sizes = 42;

    (void)unused;
    for (uint64_t i = 0; i < messages; i++) {
        uint32_t size = ledger_size(&sizes, MOST);

        ledger_fill(message, size, i);
        put(&lines[0], message, size, ledger_random(&random) % 4 != 0);
    }
    publish(&lines[0]);
    atomic_fetch_sub(&players, 1);
    return NULL;
}

static void *stream_in(void *unused)
{
    static uint8_t message[MOST];
    uint64_t random = 9, sizes = 42;

    (void)unused;
    for (uint64_t i = 0; i < messages; i++) {
        uint32_t size = take(&lines[0], message);

        if ((!CHECK_EQUAL(size, ledger_size(&sizes, MOST)) ||
             !CHECK(ledger_is(message, size, i))) &&
            !TSAN_JUDGES)
            exit(1); /* the other thread would wait for ever */
        /* Holding up to a third of the ring: with more, the largest record finds no room. */
        if (ledger_random(&random) % 4 != 0 ||
            nr_ring_position(&lines[0].consumer) - lines[0].consumer.published > CAPACITY / 3)
            release(&lines[0]);
    }
    release(&lines[0]);
    atomic_fetch_sub(&players, 1);
    return NULL;
}

/* ---- ping-pong ---- */

/* Spins for a random part of the time that the answers take (at most 100 us), so that they come at
 * every instant of falling asleep, on any machine. */
static void dawdle(uint64_t *random, uint64_t answer_ns)
{
    uint64_t dice = ledger_random(random);
    uint64_t most = answer_ns < 80000 ? answer_ns + answer_ns / 4 : 100000;
    uint64_t until = nr_os_now_ns() + (dice >> 16) % (most + 1);

    if (dice % 512 == 0)
        sched_yield();
    while (nr_os_now_ns() < until)
        continue;
}

static void play(struct line *out, struct line *in, bool first)
{
    uint8_t message[64];
    uint64_t random = first ? 11 : 13, answer_ns = 30000, asked = nr_os_now_ns(), now;

    for (uint64_t i = 0; i < ping_pongs; i++) {
        if (first) {
            ledger_fill(message, sizeof message, i);
            put(out, message, sizeof message, true);
            asked = nr_os_now_ns();
        }
        dawdle(&random, answer_ns);
        memset(message, 0, sizeof message);
        take(in, message);
        if (!CHECK(ledger_is(message, sizeof message, i)))
            exit(1);
        now = nr_os_now_ns();
        answer_ns += (now - asked) / 16;
        answer_ns -= answer_ns / 16;
        release(in);
        if (!first) {
            put(out, message, sizeof message, true);
            asked = nr_os_now_ns();
        }
    }
    atomic_fetch_sub(&players, 1);
}

static void *play_ping(void *unused)
{
    (void)unused;
    play(&lines[0], &lines[1], true);
    return NULL;
}

static void *play_pong(void *unused)
{
    (void)unused;
    play(&lines[1], &lines[0], false);
    return NULL;
}

static void run_both(void *(*one)(void *), void *(*other)(void *), bool fences)
{
    struct nr_segment *segment = make_segment(CAPACITY, CAPACITY, 0);
    pthread_t threads[3];

    check_watch(0); /* as long as it makes progress, it may take its time */
    for (int i = 0; i < 2; i++)
        line_open(&lines[i], segment, i, fences);
    atomic_store(&players, 2);
    atomic_store(&finished, false);
    atomic_store(&longest_gap_ns, 0);
    REQUIRE(pthread_create(&threads[0], NULL, one, NULL) == 0);
    REQUIRE(pthread_create(&threads[1], NULL, other, NULL) == 0);
    REQUIRE(pthread_create(&threads[2], NULL, watch, NULL) == 0);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    atomic_store(&finished, true);
    pthread_join(threads[2], NULL);
    printf("%llu messages, %llu sleeps, longest gap %llu ms\n",
           (unsigned long long)(lines[0].received + lines[1].received),
           (unsigned long long)(lines[0].sleeps + lines[1].sleeps),
           (unsigned long long)(longest_gap_ns / 1000000));
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL(lines[i].sent, lines[i].received);
        CHECK_EQUAL(nr_ring_depth_bytes(&lines[i].consumer), 0);
        line_close(&lines[i]);
    }
    nr_segment_release(segment);
}

static void stream_is_complete_and_whole(void) { run_both(stream_out, stream_in, false); }

static void no_wake_up_is_lost(void)
{
    nr_crashpoint_arm("0:jitter");
    run_both(play_ping, play_pong, false);
    nr_crashpoint_arm(NULL);
}

#ifndef __SANITIZE_THREAD__ /* which knows no fences */
static void no_wake_up_is_lost_with_fences(void)
{
    uint64_t all = ping_pongs;

    ping_pongs = all / 2;
    nr_crashpoint_arm("0:jitter");
    run_both(play_ping, play_pong, true);
    nr_crashpoint_arm(NULL);
    ping_pongs = all;
}
#endif

/* The same stream with sleeps at random instants of both sides. */
static void no_wake_up_is_lost_in_a_stream(void)
{
    uint64_t all = messages;

    messages = all / 8;
    nr_crashpoint_arm("0:jitter");
    run_both(stream_out, stream_in, false);
    nr_crashpoint_arm(NULL);
    messages = all;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        messages = strtoull(argv[1], NULL, 10);
    if (argc > 2)
        ping_pongs = strtoull(argv[2], NULL, 10);
    REQUIRE(nr_os_barrier_register() == 0);
    RUN(stream_is_complete_and_whole);
    RUN(no_wake_up_is_lost_in_a_stream);
    RUN(no_wake_up_is_lost);
#ifndef __SANITIZE_THREAD__
    RUN(no_wake_up_is_lost_with_fences);
#endif
    return check_finish();
}
