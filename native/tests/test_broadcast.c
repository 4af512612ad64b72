/* The broadcast ring by itself: what each policy sees, what it has lost, what is refused. */
#include <fcntl.h>
#include <linux/memfd.h>

#include "casts.h"
#include "check.h"

#define PAGE 4096u

/* The next message has this number and size, and this is what was lost by now. */
static void expect(struct nr_broadcast_reader *reader, uint64_t number, uint64_t size, uint64_t lost)
{
    const uint8_t *payload;
    uint64_t got = 0;

    if (!CHECK_EQUAL(nr_broadcast_next(reader, &payload, &got), 1))
        return;
    CHECK_EQUAL(got, size);
    CHECK(cast_matches(payload, got, number));
    CHECK_EQUAL(reader->lost, lost);
    CHECK_EQUAL(reader->sequence, number + 1);
}

static void expect_nothing(struct nr_broadcast_reader *reader)
{
    const uint8_t *payload;
    uint64_t size;

    CHECK_EQUAL(nr_broadcast_next(reader, &payload, &size), -EAGAIN);
    CHECK(!nr_broadcast_has_record(reader));
}

static const uint64_t starts[] = {0, 8, 4088, (1ull << 32) - 40, -40ull};

static void every_policy_reads_what_is_published(void)
{
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++)
        for (int policy = 0; policy <= NR_POLICY_LATEST; policy++) {
            struct cast cast;
            struct nr_broadcast_reader reader;
            struct nr_broadcast_slot *own;

            cast_open(&cast, PAGE, starts[s]);
            own = cast_join(&cast, policy, &reader);
            expect_nothing(&reader);
            for (uint64_t number = 0; number < 1000; number++) {
                uint64_t size = number * 37 % 2033;

                cast_put(&cast, number, size);
                CHECK_EQUAL(nr_broadcast_depth_bytes(&reader), 0);
                nr_broadcast_publish(&cast.writer);
                expect(&reader, number, size, 0);
                (void)nr_broadcast_release(&reader);
                expect_nothing(&reader);
            }
            cast_leave(&reader, own);
            cast_close(&cast);
        }
}

static void a_late_reader_starts_at_the_newest(void)
{
    for (int policy = 0; policy <= NR_POLICY_LATEST; policy++) {
        struct cast cast;
        struct nr_broadcast_reader reader;
        struct nr_broadcast_slot *own;

        cast_open(&cast, PAGE, 0);
        for (uint64_t number = 0; number < 5; number++)
            cast_put(&cast, number, 100);
        nr_broadcast_publish(&cast.writer);
        own = cast_join(&cast, policy, &reader);
        expect(&reader, 4, 100, 0);
        expect_nothing(&reader);
        cast_leave(&reader, own);
        cast_close(&cast);
    }
}

static void the_overtaken_lose_the_oldest_and_count_them(void)
{
    struct cast cast;
    struct nr_broadcast_reader reader;
    struct nr_broadcast_slot *own;

    cast_open(&cast, PAGE, 0);
    own = cast_join(&cast, NR_POLICY_DROP_OLDEST, &reader);
    for (uint64_t number = 0; number < 100; number++) {
        cast_put(&cast, number, 1000); /* 1016 bytes: four fit */
        nr_broadcast_publish(&cast.writer);
    }
    for (uint64_t number = 96; number < 100; number++)
        expect(&reader, number, 1000, 96);
    (void)nr_broadcast_release(&reader);
    CHECK_EQUAL(atomic_load(&own->lost), 96);
    expect_nothing(&reader);
    cast_leave(&reader, own);
    cast_close(&cast);
}

/* A run that was copied stays whole however far the writer goes on. */
static void what_was_taken_is_safe(void)
{
    struct cast cast;
    struct nr_broadcast_reader reader;
    struct nr_broadcast_slot *own;
    const uint8_t *payload;
    uint64_t size;

    cast_open(&cast, PAGE, 0);
    own = cast_join(&cast, NR_POLICY_DROP_OLDEST, &reader);
    for (uint64_t number = 0; number < 4; number++)
        cast_put(&cast, number, 1000);
    nr_broadcast_publish(&cast.writer);
    CHECK_EQUAL(nr_broadcast_next(&reader, &payload, &size), 1);
    for (uint64_t number = 4; number < 40; number++) {
        cast_put(&cast, number, 1000);
        nr_broadcast_publish(&cast.writer);
    }
    CHECK(cast_matches(payload, size, 0));
    expect(&reader, 1, 1000, 0);
    expect(&reader, 2, 1000, 0);
    expect(&reader, 3, 1000, 0);
    CHECK(cast_matches(payload, size, 0));
    (void)nr_broadcast_release(&reader);
    expect(&reader, 36, 1000, 32);
    cast_leave(&reader, own);
    cast_close(&cast);
}

static void latest_is_the_newest(void)
{
    struct cast cast;
    struct nr_broadcast_reader reader;
    struct nr_broadcast_slot *own;
    uint64_t number = 0, lost = 0;

    cast_open(&cast, PAGE, 0);
    own = cast_join(&cast, NR_POLICY_LATEST, &reader);
    for (uint64_t row = 1; row < 40; row++) {
        for (uint64_t i = 0; i < row; i++)
            cast_put(&cast, number++, row * 50);
        nr_broadcast_publish(&cast.writer);
        lost += row - 1;
        expect(&reader, number - 1, row * 50, lost);
        (void)nr_broadcast_release(&reader);
        expect_nothing(&reader);
    }
    cast_leave(&reader, own);
    cast_close(&cast);
}

static void a_batch_is_one_run_of_addresses(void)
{
    for (int policy = 0; policy <= NR_POLICY_DROP_OLDEST; policy++) {
        struct cast cast;
        struct nr_broadcast_reader reader;
        struct nr_broadcast_slot *own;
        const uint8_t *payload, *before = NULL;
        uint64_t size;

        cast_open(&cast, PAGE, 2000); /* the third crosses the end */
        own = cast_join(&cast, policy, &reader);
        for (uint64_t number = 0; number < 4; number++)
            cast_put(&cast, number, 1000);
        nr_broadcast_publish(&cast.writer);
        for (uint64_t number = 0; number < 4; number++) {
            CHECK_EQUAL(nr_broadcast_next(&reader, &payload, &size), 1);
            CHECK(before == NULL || payload == before + 1016);
            CHECK(cast_matches(payload, size, number));
            before = payload;
        }
        cast_leave(&reader, own);
        cast_close(&cast);
    }
}

static void block_holds_the_writer_and_wakes_it(void)
{
    struct cast cast;
    struct nr_broadcast_reader reader;
    struct nr_broadcast_slot *own;
    uint64_t cursor = 0;

    cast_open(&cast, PAGE, 0);
    own = cast_join(&cast, NR_POLICY_BLOCK, &reader);
    for (uint64_t number = 0; number < 4; number++)
        cast_put(&cast, number, 1000);
    nr_broadcast_publish(&cast.writer);
    CHECK_EQUAL(nr_broadcast_cursor(&cast.writer, own, cursor, &cursor), 0);
    CHECK(!nr_broadcast_fits(&cast.writer, cursor, nr_broadcast_need(1000)));
    nr_broadcast_writer_announces(own, 2 * 1016);
    expect(&reader, 0, 1000, 0);
    CHECK(!nr_broadcast_release(&reader));
    expect(&reader, 1, 1000, 0);
    CHECK(nr_broadcast_release(&reader)); /* there: ring, once */
    expect(&reader, 2, 1000, 0);
    CHECK(!nr_broadcast_release(&reader));
    CHECK_EQUAL(nr_broadcast_cursor(&cast.writer, own, cursor, &cursor), 0);
    CHECK_EQUAL(cursor, 3 * 1016);
    CHECK(nr_broadcast_fits(&cast.writer, cursor, nr_broadcast_need(1000)));
    CHECK(!nr_broadcast_must_wake(own));
    expect(&reader, 3, 1000, 0);
    CHECK(!nr_broadcast_reader_falls_asleep(&reader));
    CHECK(nr_broadcast_must_wake(own));
    CHECK(!nr_broadcast_must_wake(own));
    cast_leave(&reader, own);
    cast_close(&cast);
}

static void half_of_the_ring_is_the_largest(void)
{
    const uint64_t most = nr_broadcast_max_message(PAGE);

    CHECK_EQUAL(most, PAGE / 2 - NR_BROADCAST_RECORD);
    for (int policy = 0; policy <= NR_POLICY_LATEST; policy++) {
        struct cast cast;
        struct nr_broadcast_reader reader;
        struct nr_broadcast_slot *own;

        cast_open(&cast, PAGE, 24);
        own = cast_join(&cast, policy, &reader);
        for (uint64_t number = 0; number < 10; number++) {
            cast_put(&cast, number, most);
            nr_broadcast_publish(&cast.writer);
            expect(&reader, number, most, 0);
            (void)nr_broadcast_release(&reader);
        }
        cast_leave(&reader, own);
        cast_close(&cast);
    }
}

/* However long a batch is before it becomes visible, the floor stays behind the tail. */
static void the_floor_never_passes_the_tail(void)
{
    struct cast cast;

    cast_open(&cast, PAGE, 0);
    for (uint64_t number = 0; number < 500; number++) {
        struct nr_broadcast_control *control = nr_broadcast_control_of(cast.readable);

        cast_put(&cast, number, number * 613 % 2033);
        CHECK((int64_t)(atomic_load(&control->tail) - atomic_load(&control->floor)) >= 0);
    }
    cast_close(&cast);
}

/* ---- who may do what ---- */

static void a_reader_cannot_write_to_the_ring(void)
{
    struct cast cast;
    void *mapped;

    cast_open(&cast, PAGE, 0);
    CHECK_EQUAL(nr_os_map(NULL, PAGE, cast.fd, 0, &mapped), -EPERM);
    CHECK(pwrite(cast.fd, "x", 1, 0) < 0 && errno == EPERM);
    CHECK(ftruncate(cast.fd, PAGE) < 0 && errno == EPERM);
    cast_close(&cast);
}

static void a_lying_cursor_is_known(void)
{
    static const uint64_t lies[] = {4, 1, 1 << 20, 24, UINT64_MAX, UINT64_MAX - 7, 1ull << 63};
    struct cast cast;
    struct nr_broadcast_reader reader;
    struct nr_broadcast_slot *own;
    uint64_t cursor = 32;

    cast_open(&cast, PAGE, 0);
    own = cast_join(&cast, NR_POLICY_BLOCK, &reader);
    for (uint64_t number = 0; number < 4; number++)
        cast_put(&cast, number, 16);
    nr_broadcast_publish(&cast.writer);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        atomic_store(&own->cursor, lies[i]); /* 24 goes back behind what it had said before */
        CHECK_EQUAL(nr_broadcast_cursor(&cast.writer, own, cursor, &cursor), -EBADMSG);
        CHECK_EQUAL(cursor, 32);
    }
    cast_leave(&reader, own);
    cast_close(&cast);
}

static int mapped_with(uint64_t offset, uint64_t value, size_t bytes, int seals, off_t size)
{
    struct nr_broadcast_header header = {.magic = "NARUCAST", .version = NR_BROADCAST_VERSION,
                                         .byte_order = 0x01020304, .total_bytes = 4 * PAGE,
                                         .capacity = PAGE};
    struct nr_segment *segment;
    int fd = nr_os_memfd("liar"), result;

    memcpy((uint8_t *)&header + offset, &value, bytes);
    REQUIRE(fd >= 0 && ftruncate(fd, size) == 0);
    REQUIRE(pwrite(fd, &header, sizeof header, 0) == sizeof header);
    REQUIRE(nr_os_add_seals(fd, seals) == 0);
    result = nr_broadcast_map(fd, &segment);
    if (result == 0)
        nr_segment_release(segment);
    nr_os_close(fd);
    return result;
}

static void strange_memory_is_refused(void)
{
    const int sealed = F_SEAL_SHRINK | F_SEAL_GROW;

    CHECK_EQUAL(mapped_with(0, 'N', 1, sealed, 4 * PAGE), 0);
    CHECK_EQUAL(mapped_with(0, 'X', 1, sealed, 4 * PAGE), -EPROTO);
    CHECK_EQUAL(mapped_with(0, 'N', 1, F_SEAL_GROW, 4 * PAGE), -EPROTO);
    CHECK_EQUAL(mapped_with(0, 'N', 1, sealed, PAGE), -EPROTO);
    CHECK_EQUAL(mapped_with(8, 2, 4, sealed, 4 * PAGE), -EPROTONOSUPPORT);
    CHECK_EQUAL(mapped_with(12, 0x04030201, 4, sealed, 4 * PAGE), -EPROTONOSUPPORT);
    CHECK_EQUAL(mapped_with(16, 5 * PAGE, 8, sealed, 4 * PAGE), -EBADMSG);
    CHECK_EQUAL(mapped_with(24, 0, 8, sealed, 4 * PAGE), -EBADMSG);
    CHECK_EQUAL(mapped_with(24, 2 * PAGE, 8, sealed, 4 * PAGE), -EBADMSG);
    CHECK_EQUAL(mapped_with(24, 1ull << 63, 8, sealed, 4 * PAGE), -EBADMSG);
    CHECK_EQUAL(mapped_with(32, 4, 8, sealed, 4 * PAGE), -EBADMSG);
    CHECK_EQUAL(mapped_with(32, 8, 8, sealed, 5 * PAGE), -EBADMSG);
}

static void strange_slots_are_refused(void)
{
    struct nr_broadcast_slot *slot;
    struct nr_broadcast_reader reader;
    struct cast cast;
    int fd;

    CHECK_EQUAL(nr_broadcast_slot_map(0, &slot), -EPROTO);
    fd = nr_broadcast_slot_create(7, 0, 0); /* no such policy */
    REQUIRE(fd >= 0 && nr_broadcast_slot_map(fd, &slot) == 0);
    cast_open(&cast, PAGE, 0);
    CHECK_EQUAL(nr_broadcast_reader_start(&reader, cast.readable, slot, false), -EBADMSG);
    nr_broadcast_slot_unmap(slot);
    nr_os_close(fd);
    cast_close(&cast);
}

int main(void)
{
    (void)nr_os_barrier_register();
    RUN(every_policy_reads_what_is_published);
    RUN(a_late_reader_starts_at_the_newest);
    RUN(the_overtaken_lose_the_oldest_and_count_them);
    RUN(what_was_taken_is_safe);
    RUN(latest_is_the_newest);
    RUN(a_batch_is_one_run_of_addresses);
    RUN(block_holds_the_writer_and_wakes_it);
    RUN(half_of_the_ring_is_the_largest);
    RUN(the_floor_never_passes_the_tail);
    RUN(a_reader_cannot_write_to_the_ring);
    RUN(a_lying_cursor_is_known);
    RUN(strange_memory_is_refused);
    RUN(strange_slots_are_refused);
    return check_finish();
}
