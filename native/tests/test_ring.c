/* The ring, one thread: sizes, places, positions, the words of sleep. */
#include "ledger.h"
#include "rings.h"

#define PAGE 4096u

static uint8_t sent[3 * PAGE], got[3 * PAGE];

static void fill(uint8_t *bytes, size_t size, uint64_t seed)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(seed * 131 + i * 7 + (i >> 8));
}

/* One record through the ring, compared. */
static int passes(struct both_ends *ends, uint32_t size, uint64_t seed)
{
    fill(sent, size, seed);
    memset(got, 0xee, size + 1);
    return CHECK_EQUAL(ring_put(&ends->producer, sent, size), 0) &&
           CHECK_EQUAL(ring_get(&ends->consumer, got, sizeof got), size) &&
           CHECK(memcmp(sent, got, size) == 0) && CHECK_EQUAL(got[size], 0xee);
}

static void every_size_passes(void)
{
    struct both_ends ends = open_both(2 * PAGE, 0);

    for (uint32_t size = 0; size <= 4097; size++)
        if (!passes(&ends, size, size))
            break;
    close_both(&ends);
}

static void every_place_passes(void)
{
    static const uint32_t sizes[] = {0, 1, 7, 8, 9, 100, 2048, PAGE - 8};

    for (uint64_t start = 0; start < PAGE; start += 8) {
        struct both_ends ends = open_both(PAGE, start);

        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            if (!passes(&ends, sizes[i], start + i))
                start = PAGE;
        close_both(&ends);
    }
}

/* A record that crosses the end is contiguous, and the mirror is the same memory. */
static void record_across_the_end_is_contiguous(void)
{
    struct both_ends ends = open_both(PAGE, PAGE - 16);
    uint8_t *place = NULL;

    REQUIRE(nr_ring_reserve(&ends.producer, 64, &place) == 0);
    CHECK(place == ends.producer.data + PAGE - 8);
    fill(place, 64, 3);
    CHECK(memcmp(place + 8, ends.producer.data, 56) == 0);
    close_both(&ends);
}

/* A queue that any reader believes, beside the ring. */
static void ledger_is_perfect(uint64_t capacity, uint64_t first_position, int rounds)
{
    struct both_ends ends = open_both(capacity, first_position);
    uint64_t random = first_position ^ capacity ^ 0x1234567, written = 0, read = 0;
    uint64_t sizes_random = 42, check_random = 42;

    for (int i = 0; i < rounds; i++) {
        uint64_t dice = ledger_random(&random);

        for (uint64_t n = dice % 8; n > 0; n--) {
            uint64_t before = sizes_random;
            uint32_t size = ledger_size(&sizes_random, 1000);
            uint8_t *place = NULL;
            int result = nr_ring_reserve(&ends.producer, size, &place);

            if (result == -EAGAIN) {
                sizes_random = before;
                break;
            }
            if (!CHECK_EQUAL(result, 0))
                goto out;
            ledger_fill(place, size, written++);
            nr_ring_commit(&ends.producer, size, 0);
            if (dice & 256)
                nr_ring_publish(&ends.producer);
        }
        nr_ring_publish(&ends.producer);
        for (uint64_t n = (dice >> 16) % 8; n > 0; n--) {
            struct nr_record record;
            const uint8_t *payload = NULL;
            int result = nr_ring_next(&ends.consumer, &record, &payload);

            if (result == -EAGAIN && CHECK_EQUAL(read, written))
                break;
            if (!CHECK_EQUAL(result, 1) || !CHECK(ledger_is(payload, record.length, read)) ||
                !CHECK_EQUAL(record.length, ledger_size(&check_random, 1000)))
                goto out;
            read++;
        }
        if (dice & 512)
            nr_ring_release(&ends.consumer);
    }
    CHECK(read > (uint64_t)rounds);
out:
    close_both(&ends);
}

static void ledger_is_perfect_from_the_start(void) { ledger_is_perfect(2 * PAGE, 0, 20000); }

static void ledger_is_perfect_in_three_pages(void) { ledger_is_perfect(3 * PAGE, 0, 20000); }

static void ledger_is_perfect_around_32_bits(void)
{
    ledger_is_perfect(PAGE, (1ull << 32) - 40, 5000);
    ledger_is_perfect(3 * PAGE, (1ull << 32) - 40, 5000);
}

static void ledger_is_perfect_around_63_bits(void)
{
    ledger_is_perfect(PAGE, (1ull << 63) - 40, 5000);
    ledger_is_perfect(3 * PAGE, (1ull << 63) - 40, 5000);
}

static void ledger_is_perfect_around_64_bits(void)
{
    for (uint64_t before = 40; before < 16 * PAGE; before += 4000) /* with every filling */
        ledger_is_perfect(16 * PAGE, -before, 2000);
    ledger_is_perfect(PAGE, -40ull, 5000);
}

/* 2^64 is no multiple of this capacity: a place computed from the position alone would jump. */
static void ledger_is_perfect_around_64_bits_in_three_pages(void)
{
    for (uint64_t before = 40; before < 16 * PAGE; before += 504)
        ledger_is_perfect(3 * PAGE, -before, 2000);
}

static void full_and_empty(void)
{
    struct both_ends ends = open_both(PAGE, 0);
    struct nr_record record;
    const uint8_t *payload = NULL;
    int records = 0;

    CHECK_EQUAL(nr_ring_next(&ends.consumer, &record, &payload), -EAGAIN);
    CHECK(!nr_ring_has_record(&ends.consumer) && nr_ring_has_room(&ends.producer, PAGE));
    fill(sent, 56, 1);
    while (ring_put(&ends.producer, sent, 56) == 0)
        records++;
    CHECK_EQUAL(records, PAGE / 64);
    CHECK_EQUAL(ring_put(&ends.producer, sent, 0), -EAGAIN);
    CHECK(nr_ring_has_record(&ends.consumer) && !nr_ring_has_room(&ends.producer, 8));
    CHECK_EQUAL(nr_ring_depth_bytes(&ends.consumer), PAGE);
    CHECK_EQUAL(ring_get(&ends.consumer, got, sizeof got), 56);
    CHECK(nr_ring_has_room(&ends.producer, 64) && !nr_ring_has_room(&ends.producer, 72));
    CHECK_EQUAL(ring_put(&ends.producer, sent, 57), -EAGAIN);
    CHECK_EQUAL(ring_put(&ends.producer, sent, 56), 0);
    while (ring_get(&ends.consumer, got, sizeof got) >= 0)
        records--;
    CHECK_EQUAL(records, 0);
    CHECK_EQUAL(nr_ring_depth_bytes(&ends.consumer), 0);
    close_both(&ends);
}

static void largest_record_fits_and_the_next_never(void)
{
    struct both_ends ends = open_both(PAGE, 8 * 77);
    uint8_t *place = NULL;

    CHECK_EQUAL(nr_ring_max_record(&ends.producer), PAGE - 8);
    CHECK_EQUAL(nr_ring_reserve(&ends.producer, PAGE - 7, &place), -EMSGSIZE);
    CHECK_EQUAL(nr_ring_reserve(&ends.producer, 1ull << 32, &place), -EMSGSIZE);
    CHECK_EQUAL(nr_ring_reserve(&ends.producer, 1ull << 62, &place), -EMSGSIZE);
    passes(&ends, PAGE - 8, 1);
    CHECK_EQUAL(ring_put(&ends.producer, sent, PAGE - 8), 0);
    CHECK_EQUAL(ring_put(&ends.producer, sent, PAGE - 8), -EAGAIN);
    CHECK_EQUAL(ring_put(&ends.producer, sent, PAGE - 7), -EMSGSIZE);
    CHECK_EQUAL(nr_ring_reserve(&ends.producer, NR_MAX_MESSAGE, &place), -EMSGSIZE);
    CHECK_EQUAL(nr_ring_reserve(&ends.producer, 1ull << 62, &place), -EMSGSIZE);
    close_both(&ends);
}

/* A record's length has 32 bits, a ring's capacity more. */
static void largest_record_of_a_huge_ring_is_the_largest_message(void)
{
    struct nr_ring ring = {.capacity = 1ull << 33};

    CHECK_EQUAL(nr_ring_max_record(&ring), NR_MAX_MESSAGE);
}

static void batch_is_invisible_until_published(void)
{
    struct both_ends ends = open_both(PAGE, 0);
    struct nr_record record;
    const uint8_t *payload = NULL;
    uint8_t *place = NULL;

    for (uint32_t i = 0; i < 10; i++) {
        REQUIRE(nr_ring_reserve(&ends.producer, i, &place) == 0);
        memset(place, (int)i, i);
        nr_ring_commit(&ends.producer, i, i % 2 ? NR_RECORD_SKIP : 0);
        CHECK_EQUAL(nr_ring_next(&ends.consumer, &record, &payload), -EAGAIN);
    }
    CHECK_EQUAL(nr_ring_depth_bytes(&ends.producer), 0);
    nr_ring_publish(&ends.producer);
    for (uint32_t i = 0; i < 10; i++) {
        REQUIRE(nr_ring_next(&ends.consumer, &record, &payload) == 1);
        CHECK_EQUAL(record.length, i);
        CHECK_EQUAL(record.flags, i % 2 ? NR_RECORD_SKIP : 0);
        CHECK(i == 0 || (payload[0] == i && payload[i - 1] == i));
    }
    CHECK_EQUAL(nr_ring_next(&ends.consumer, &record, &payload), -EAGAIN);
    close_both(&ends);
}

static void reserved_place_can_be_given_up(void)
{
    struct both_ends ends = open_both(PAGE, 0);
    uint8_t *first = NULL, *second = NULL;

    CHECK_EQUAL(nr_ring_reserve(&ends.producer, 4000, &first), 0);
    nr_ring_publish(&ends.producer); /* of nothing */
    CHECK(!nr_ring_has_record(&ends.consumer));
    CHECK_EQUAL(nr_ring_reserve(&ends.producer, 10, &second), 0);
    CHECK(first == second);
    passes(&ends, 10, 9);
    close_both(&ends);
}

/* FAULTS 54: what the reader has not released is never overwritten, whatever the producer does. */
static void unreleased_records_are_not_overwritten(void)
{
    struct both_ends ends = open_both(PAGE, 8 * 100);
    const uint8_t *held[3];
    struct nr_record record;
    uint64_t written = 0;

    for (uint64_t read = 0; read < 600; read += 3) {
        ledger_fill(sent, 120, written);
        while (ring_put(&ends.producer, sent, 120) == 0)
            ledger_fill(sent, 120, ++written);
        for (uint64_t i = 0; i < 3; i++)
            REQUIRE(nr_ring_next(&ends.consumer, &record, &held[i]) == 1);
        /* full, and stays full while three are held */
        for (int i = 0; i < 10; i++)
            CHECK_EQUAL(ring_put(&ends.producer, sent, 0), -EAGAIN);
        for (uint64_t i = 0; i < 3; i++)
            CHECK(ledger_is(held[i], 120, read + i));
        nr_ring_release(&ends.consumer);
    }
    close_both(&ends);
}

static void release_gives_back_everything_up_to_the_cursor(void)
{
    struct both_ends ends = open_both(PAGE, 0);
    struct nr_record record;
    const uint8_t *payload = NULL;

    while (ring_put(&ends.producer, sent, 120) == 0)
        continue;
    for (int i = 0; i < 5; i++)
        REQUIRE(nr_ring_next(&ends.consumer, &record, &payload) == 1);
    CHECK(!nr_ring_has_room(&ends.producer, 8));
    CHECK_EQUAL(nr_ring_depth_bytes(&ends.producer), PAGE);
    nr_ring_release(&ends.consumer);
    nr_ring_release(&ends.consumer); /* again: nothing more */
    CHECK(nr_ring_has_room(&ends.producer, 5 * 128) && !nr_ring_has_room(&ends.producer, 5 * 129));
    CHECK_EQUAL(nr_ring_depth_bytes(&ends.producer), PAGE - 5 * 128);
    close_both(&ends);
}

static void sleeping_consumer_is_woken_once(void)
{
    struct both_ends ends = open_both(PAGE, 0);

    CHECK(!nr_ring_consumer_must_be_woken(&ends.producer));
    CHECK(!nr_ring_consumer_falls_asleep(&ends.consumer));
    ring_put(&ends.producer, sent, 1);
    CHECK(nr_ring_consumer_must_be_woken(&ends.producer));
    CHECK(!nr_ring_consumer_must_be_woken(&ends.producer));
    CHECK(nr_ring_consumer_falls_asleep(&ends.consumer)); /* there is a record: no sleep */
    CHECK(!nr_ring_consumer_must_be_woken(&ends.producer));
    ring_get(&ends.consumer, got, sizeof got);
    CHECK(!nr_ring_consumer_falls_asleep(&ends.consumer));
    nr_ring_consumer_wakes(&ends.consumer);
    CHECK(!nr_ring_consumer_must_be_woken(&ends.producer));
    close_both(&ends);
}

static void sleeping_producer_is_woken_for_a_quarter_or_all(void)
{
    struct both_ends ends = open_both(PAGE, 0);
    int released = 0;

    CHECK(nr_ring_producer_falls_asleep(&ends.producer, 128)); /* there is room: no sleep */
    while (ring_put(&ends.producer, sent, 120) == 0)
        continue;
    CHECK(!nr_ring_producer_must_be_woken(&ends.consumer));
    CHECK(!nr_ring_producer_falls_asleep(&ends.producer, 128));
    do {
        REQUIRE(ring_get(&ends.consumer, got, sizeof got) == 120);
        released++;
    } while (!nr_ring_producer_must_be_woken(&ends.consumer));
    CHECK_EQUAL(released, PAGE / 4 / 128);
    CHECK(!nr_ring_producer_must_be_woken(&ends.consumer));

    while (ring_put(&ends.producer, sent, 120) == 0)
        continue;
    released = 0;
    CHECK(!nr_ring_producer_falls_asleep(&ends.producer, PAGE));
    do {
        REQUIRE(ring_get(&ends.consumer, got, sizeof got) == 120);
        released++;
    } while (!nr_ring_producer_must_be_woken(&ends.consumer));
    CHECK_EQUAL(released, PAGE / 128);
    close_both(&ends);
}

/* The producer waits for a quarter of the ring. The consumer holds the last record and waits for
 * another: the quarter will never be free, but the room for the record is. */
static void consumer_that_sleeps_on_a_record_wakes_the_producer(void)
{
    struct both_ends ends = open_both(PAGE, 0);
    struct nr_record record;
    const uint8_t *payload = NULL;

    REQUIRE(ring_put(&ends.producer, sent, 192) == 0);
    REQUIRE(ring_put(&ends.producer, sent, PAGE - 200 - 8) == 0);
    CHECK(!nr_ring_producer_falls_asleep(&ends.producer, 200));
    CHECK_EQUAL(ring_get(&ends.consumer, got, sizeof got), 192);
    CHECK(!nr_ring_producer_must_be_woken(&ends.consumer));
    CHECK_EQUAL(nr_ring_next(&ends.consumer, &record, &payload), 1);
    CHECK(!nr_ring_consumer_falls_asleep(&ends.consumer));
    CHECK(nr_ring_has_room(&ends.producer, 200));
    CHECK(nr_ring_producer_must_be_woken(&ends.consumer));
    close_both(&ends);
}

static void missing_ring_is_no_ring(void)
{
    struct nr_segment *segment = make_segment(0, PAGE, 0);
    struct nr_ring ring;

    nr_segment_open_ring(segment, 0, false, &ring);
    CHECK(ring.control == NULL && ring.data == NULL);
    nr_segment_open_ring(segment, 1, true, &ring);
    CHECK(ring.control != NULL && ring.fences);
    nr_segment_release(segment);
}

/* Each ring of a segment has its own words and its own memory. */
static void two_rings_do_not_touch(void)
{
    struct nr_segment *segment = make_segment(PAGE, 2 * PAGE, 0);
    struct nr_ring out[2], in[2];

    for (int i = 0; i < 2; i++) {
        nr_segment_open_ring(segment, i, false, &out[i]);
        nr_segment_open_ring(segment, i, false, &in[i]);
    }
    for (uint64_t n = 0; n < 200; n++) {
        for (uint64_t i = 0; i < 2; i++) {
            ledger_fill(sent, 900, 2 * n + i);
            CHECK_EQUAL(ring_put(&out[i], sent, 900), 0);
        }
        for (uint64_t i = 0; i < 2; i++) {
            CHECK_EQUAL(ring_get(&in[i], got, sizeof got), 900);
            CHECK(ledger_is(got, 900, 2 * n + i));
        }
    }
    nr_segment_release(segment);
}

int main(void)
{
    REQUIRE(nr_os_barrier_register() == 0);
    RUN(every_size_passes);
    RUN(every_place_passes);
    RUN(record_across_the_end_is_contiguous);
    RUN(ledger_is_perfect_from_the_start);
    RUN(ledger_is_perfect_in_three_pages);
    RUN(ledger_is_perfect_around_32_bits);
    RUN(ledger_is_perfect_around_63_bits);
    RUN(ledger_is_perfect_around_64_bits);
    RUN(ledger_is_perfect_around_64_bits_in_three_pages);
    RUN(full_and_empty);
    RUN(largest_record_fits_and_the_next_never);
    RUN(largest_record_of_a_huge_ring_is_the_largest_message);
    RUN(batch_is_invisible_until_published);
    RUN(reserved_place_can_be_given_up);
    RUN(unreleased_records_are_not_overwritten);
    RUN(release_gives_back_everything_up_to_the_cursor);
    RUN(sleeping_consumer_is_woken_once);
    RUN(sleeping_producer_is_woken_for_a_quarter_or_all);
    RUN(consumer_that_sleeps_on_a_record_wakes_the_producer);
    RUN(missing_ring_is_no_ring);
    RUN(two_rings_do_not_touch);
    return check_finish();
}
