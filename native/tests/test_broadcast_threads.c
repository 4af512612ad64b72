/* One writer and readers of every policy as threads: for TSan, for torn messages, for the lost
 * wake-up, and for the sum: received + lost = published, for each of them.
 *
 *     test_broadcast_threads [messages]
 *
 * -DNR_PLANT_BUG=1: the floor is raised after its bytes were overwritten; the run must then fail. So
 * that no scheduler has a say in it, one reader has no thread: the writer reads for it at the wrong
 * instant. */
#include <pthread.h>
#include <sched.h>

#include "casts.h"
#include "check.h"

#define CAPACITY (16u * 1024)
#define MOST 3000u
#define READERS 5

static const enum nr_policy policies[READERS] = {NR_POLICY_BLOCK, NR_POLICY_BLOCK,
                                                 NR_POLICY_DROP_OLDEST, NR_POLICY_DROP_OLDEST,
                                                 NR_POLICY_LATEST};

static struct place {
    struct nr_broadcast_reader reader;
    struct nr_broadcast_slot *own;
    int data_bell, space_bell;
    uint64_t received, sleeps;
} places[READERS];

static struct cast cast;
static uint64_t messages = 300000;
static bool with_block;

static uint64_t size_of(uint64_t number) { return 8 + number * 2654435761u % MOST; }

static void sleep_on(int bell)
{
    struct pollfd fd = {.fd = bell, .events = POLLIN};

    (void)nr_os_sleep(&fd, 1, NR_FOREVER);
    (void)nr_os_eventfd_drain(bell);
}

/* Each message begins with its number; its bytes follow from that. */
static void check_message(struct place *place, const uint8_t *payload, uint64_t size)
{
    uint64_t number = place->reader.sequence - 1, told;

    memcpy(&told, payload, sizeof told);
    CHECK_EQUAL(told, number);
    if (!CHECK_EQUAL(size, size_of(number)))
        return;
    for (uint64_t i = 8; i < size; i += 61)
        if (!CHECK_EQUAL(payload[i], cast_byte(number, i)))
            return;
}

static int read_one(struct place *place)
{
    const uint8_t *payload;
    uint64_t size;
    int result = nr_broadcast_next(&place->reader, &payload, &size);

    if (result == 1) {
        check_message(place, payload, size);
        place->received++;
    }
    return result;
}

static void *read_all(void *argument)
{
    struct place *place = argument;

    while (place->reader.sequence < messages) {
        int result = read_one(place);

        if (result == 1 && place->reader.policy != NR_POLICY_BLOCK && place->received % 1000 == 0)
            sched_yield(); /* now and then it is slow */
        if (result == -EAGAIN && !nr_broadcast_reader_falls_asleep(&place->reader)) {
            place->sleeps++;
            sleep_on(place->data_bell);
            nr_broadcast_reader_wakes(&place->reader);
            continue;
        }
        if (!CHECK(result == 1 || result == -EAGAIN || result == -ENOBUFS))
            break;
        if (nr_broadcast_release(&place->reader))
            (void)nr_os_eventfd_ring(place->space_bell);
    }
    return NULL;
}

static struct place *in_the_way(uint64_t need)
{
    for (int i = 0; i < READERS; i++) {
        struct place *place = &places[i];
        uint64_t cursor;

        if (!place->own || place->reader.policy != NR_POLICY_BLOCK)
            continue;
        CHECK_EQUAL(nr_broadcast_cursor(&cast.writer, place->own, cast.segment->first_position,
                                        &cursor), 0);
        if (!nr_broadcast_fits(&cast.writer, cursor, need))
            return place;
    }
    return NULL;
}

static void wait_for_room(uint64_t need)
{
    struct place *place;

    while ((place = in_the_way(need))) {
        nr_broadcast_writer_announces(place->own,
                                      nr_broadcast_position(&cast.writer) + need - CAPACITY);
        nr_broadcast_barrier(false);
        if (in_the_way(need) == place)
            sleep_on(place->space_bell);
        nr_broadcast_writer_announces(place->own, 0);
    }
}

#if defined(NR_PLANT_BUG)
#define VICTIM 2 /* drops the oldest */
#define ROUND 20 /* messages, more than the ring holds: the victim is always overtaken */

/* The bytes are overwritten, and the floor does not say so yet. */
static void read_at_the_wrong_instant(struct place *victim, uint64_t number)
{
    if (number % ROUND)
        return;
    for (int i = 0; i < ROUND; i++) {
        (void)read_one(victim);
        (void)nr_broadcast_release(&victim->reader);
    }
    if (atomic_load(&check_state.failures)) {
        printf("0 passed, 1 failed: a message that was overwritten passed for whole\n");
        fflush(stdout);
        _exit(1);
    }
}
#endif

static bool has_thread(int index)
{
#if defined(NR_PLANT_BUG)
    if (index == VICTIM)
        return false;
#endif
    return places[index].own;
}

static uint8_t *reserve(uint64_t size)
{
#if defined(NR_PLANT_BUG)
    uint64_t floor = atomic_load(&cast.writer.control->floor);
    uint8_t *place = nr_broadcast_reserve(&cast.writer, size);

    atomic_store(&cast.writer.control->floor, floor);
    return place;
#else
    return nr_broadcast_reserve(&cast.writer, size);
#endif
}

static void *write_all(void *unused)
{
    static uint8_t bytes[MOST + 16];

    for (uint64_t number = 0; number < messages; number++) {
        uint64_t size = size_of(number);
        uint8_t *place;

        memcpy(bytes, &number, sizeof number);
        for (uint64_t i = 8; i < size; i++)
            bytes[i] = cast_byte(number, i);
        wait_for_room(nr_broadcast_need(size));
        place = reserve(size);
        nr_broadcast_fill(place, bytes, size);
        nr_broadcast_commit(&cast.writer, size);
#if defined(NR_PLANT_BUG)
        read_at_the_wrong_instant(&places[VICTIM], number);
        atomic_store(&cast.writer.control->floor, cast.writer.floor);
#endif
        if (number % 3 && number + 1 < messages)
            continue; /* three become visible together */
        nr_broadcast_publish(&cast.writer);
        for (int i = 0; i < READERS; i++)
            if (places[i].own && nr_broadcast_must_wake(places[i].own))
                (void)nr_os_eventfd_ring(places[i].data_bell);
    }
    return unused;
}

static void run(void)
{
    pthread_t writer, readers[READERS];

    cast_open(&cast, CAPACITY, -(uint64_t)CAPACITY * 10); /* positions wrap around 2^64 on the way */
    memset(places, 0, sizeof places);
    for (int i = 0; i < READERS; i++) {
        if (policies[i] == NR_POLICY_BLOCK && !with_block)
            continue;
        places[i].own = cast_join(&cast, policies[i], &places[i].reader);
        places[i].data_bell = nr_os_eventfd();
        places[i].space_bell = nr_os_eventfd();
        REQUIRE(places[i].data_bell >= 0 && places[i].space_bell >= 0);
    }
    for (int i = 0; i < READERS; i++)
        if (has_thread(i))
            pthread_create(&readers[i], NULL, read_all, &places[i]);
    pthread_create(&writer, NULL, write_all, NULL);
    pthread_join(writer, NULL);
    for (int i = 0; i < READERS; i++) {
        struct place *place = &places[i];

        if (!place->own)
            continue;
        if (has_thread(i))
            pthread_join(readers[i], NULL);
        CHECK_EQUAL(place->received + place->reader.lost, messages);
        CHECK(place->reader.policy != NR_POLICY_BLOCK || place->reader.lost == 0);
        printf("policy %d: %llu received, %llu lost, %llu sleeps\n", (int)place->reader.policy,
               (unsigned long long)place->received, (unsigned long long)place->reader.lost,
               (unsigned long long)place->sleeps);
        cast_leave(&place->reader, place->own);
        nr_os_close(place->data_bell);
        nr_os_close(place->space_bell);
    }
    cast_close(&cast);
}

static void everybody_together(void)
{
    with_block = true;
    run();
}

static void nobody_holds_the_writer(void)
{
    with_block = false;
    run();
}

int main(int argc, char **argv)
{
    if (argc > 1)
        messages = strtoull(argv[1], NULL, 10);
    REQUIRE(nr_os_barrier_register() == 0);
    RUN(everybody_together);
    RUN(nobody_holds_the_writer);
    return check_finish();
}
