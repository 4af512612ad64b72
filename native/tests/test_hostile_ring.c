/* The ring's shared words and records in the hands of a liar, between guard pages (FAULTS 37, 38).
 *
 *     test_hostile_ring [seconds of flipping]
 */
#include <pthread.h>

#include "hostile.h"
#include "ledger.h"

#define PAGE 4096u

static double flip_s = 2;

/* ---- shared words ---- */

static const uint64_t starts[] = {0, 8, (1ull << 32) - 40, (1ull << 63) - 8, -40ull};

static void lies_about_the_tail(void)
{
    struct guarded_ring guarded = guarded_ring(2 * PAGE);

    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++)
        for (unsigned kind = 0; kind < HOSTILE_POSITIONS; kind++)
            for (unsigned length = 0; length < HOSTILE_LENGTHS; length++) {
                struct nr_ring consumer = guarded_open(&guarded, starts[s]);
                uint64_t tail = hostile_position(kind, starts[s], guarded.capacity);
                uint64_t shown = tail - starts[s], taken;
                struct nr_record record = {hostile_length(length, guarded.capacity), 0};
                int end;

                for (uint64_t i = 0; i < guarded.capacity; i += 8)
                    memcpy(guarded.data + i, &record, sizeof record);
                atomic_store(&guarded.control->tail, tail);
                atomic_store(&guarded.control->producer_wants, tail);
                allow_one_cpu_second();
                taken = drive_consumer(&consumer, &end);
                allow_everything();
                if (shown > guarded.capacity || shown % 8 != 0)
                    CHECK(end == -EBADMSG && taken == 0);
                else if (shown == 0)
                    CHECK(end == -EAGAIN && taken == 0);
                else
                    CHECK(end == (taken > 0 && shown % (8 + NR_RING_PAD(record.length)) == 0
                                      ? -EAGAIN
                                      : -EBADMSG));
            }
    guarded_free(&guarded);
}

/* The same to a consumer that holds records: its cursor is ahead of what it has released. */
static void lies_about_the_tail_while_records_are_held(void)
{
    const uint64_t held = 512, capacity = 2 * PAGE;
    struct guarded_ring guarded = guarded_ring(capacity);

    memset(guarded.data, 0xff, capacity); /* no record anywhere */
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++)
        for (unsigned kind = 0; kind < 2 * HOSTILE_POSITIONS; kind++) {
            struct nr_ring consumer = guarded_open(&guarded, starts[s]);
            uint64_t own = starts[s] + (kind < HOSTILE_POSITIONS ? 0 : held);
            uint64_t tail = hostile_position(kind, own, capacity), shown = tail - starts[s];
            struct nr_record record = {1 << 30, 0};
            int end;

            nr_ring_advance(&consumer, held);
            consumer.limit = nr_ring_position(&consumer);
            memcpy(guarded.data + consumer.limit % capacity, &record, sizeof record);
            atomic_store(&guarded.control->tail, tail);
            CHECK_EQUAL(drive_consumer(&consumer, &end), 0);
            CHECK_EQUAL(end, shown == held ? -EAGAIN : -EBADMSG);
            /* beyond what the producer could have had room for */
            if (shown > capacity)
                CHECK_EQUAL(consumer.limit, starts[s] + held);
        }
    guarded_free(&guarded);
}

static void lies_about_the_head(void)
{
    static const uint64_t sizes[] = {0, 1, 100, 2 * PAGE - 8, 2 * PAGE - 7, 1ull << 32};
    struct guarded_ring guarded = guarded_ring(2 * PAGE);

    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++)
        for (unsigned kind = 0; kind < HOSTILE_POSITIONS; kind++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                struct nr_ring producer = guarded_open(&guarded, starts[s]);
                uint64_t head, used;
                int end;

                /* full, so that the cached head does not answer */
                atomic_store(&guarded.control->head, starts[s]);
                for (int n = 0; n < 8; n++)
                    REQUIRE(ring_put(&producer, guarded.place + PAGE, 1016) == 0);
                head = hostile_position(kind, nr_ring_position(&producer), guarded.capacity);
                used = nr_ring_position(&producer) - head;
                atomic_store(&guarded.control->head, head);
                atomic_store(&guarded.control->consumer_sleeps, (uint32_t)head);
                allow_one_cpu_second();
                (void)drive_producer(&producer, sizes[i], &end);
                allow_everything();
                if (sizes[i] > 2 * PAGE - 8)
                    CHECK_EQUAL(end, -EMSGSIZE);
                else if (used > guarded.capacity || head % 8 != 0)
                    CHECK_EQUAL(end, -EBADMSG);
                else
                    CHECK(end == -EAGAIN || (end == 0 && sizes[i] == 0));
            }
    guarded_free(&guarded);
}

static void lies_about_records(void)
{
    struct guarded_ring guarded = guarded_ring(PAGE);

    for (unsigned bit = 0; bit < 64; bit++)
        for (unsigned length = 0; length < HOSTILE_LENGTHS; length++)
            for (uint64_t shown = 8; shown <= PAGE; shown += 8 + shown / 2 / 8 * 8) {
                struct nr_ring consumer = guarded_open(&guarded, PAGE - 8);
                uint64_t header = hostile_length(length, PAGE) ^ 1ull << bit;
                uint32_t flags = (uint32_t)(header >> 32);
                uint64_t need = 8 + NR_RING_PAD((uint32_t)header);
                int end;

                memset(guarded.data, 0xff, PAGE);
                memcpy(guarded.data + PAGE - 8, &header, 8);
                atomic_store(&guarded.control->tail, PAGE - 8 + shown);
                allow_one_cpu_second();
                CHECK_EQUAL(drive_consumer(&consumer, &end),
                            need <= shown && (uint32_t)header <= NR_MAX_MESSAGE &&
                                (flags & 0x00ffffe0u) == 0 && flags >> 24 <= NR_MAX_FDS);
                allow_everything();
            }
    guarded_free(&guarded);
}

/* ---- FAULTS 38: rewritten between the check and the use ---- */

#ifndef __SANITIZE_THREAD__ /* these races are the test */

static _Atomic bool flipping;
static struct guarded_ring battlefield;
static struct nr_ring victims[2]; /* consumer and producer; the liar stays close to their truth */

/* Every word, one after the other, to something silly and back. */
static void flip_nonsense(uint64_t dice)
{
    struct nr_ring_control *control = battlefield.control;
    unsigned kind = dice >> 8 & 255, other = dice >> 16 & 255;
    uint64_t read = nr_ring_position(&victims[0]), written = nr_ring_position(&victims[1]);

    atomic_store(&control->tail, hostile_position(kind, read, battlefield.capacity));
    atomic_store(&control->head, hostile_position(other, written, battlefield.capacity));
    atomic_store(&control->consumer_sleeps, (uint32_t)dice);
    atomic_store(&control->producer_wants, dice);
}

/* Words that make sense, so that the victim gets as far as the records, and then the headers that
 * it is about to read, back and forth. */
static void flip_headers(uint64_t dice)
{
    for (unsigned i = 0; i < 64; i++) {
        uint64_t own = nr_ring_position(&victims[0]);
        uint64_t place = (own + (dice >> i & 3) * 16) % battlefield.capacity;
        uint64_t good = 8, evil = hostile_length(dice >> 8, battlefield.capacity);

        if (i % 8 == 0) {
            atomic_store(&battlefield.control->tail, own + battlefield.capacity / 2);
            atomic_store(&battlefield.control->head,
                         nr_ring_position(&victims[1]) - battlefield.capacity / 2);
        }
        if (dice & 1 << 30)
            evil |= (dice >> 32 & 0xff) << (32 + (dice & 24));
        atomic_store((_Atomic uint64_t *)(battlefield.data + place), good);
        atomic_store((_Atomic uint64_t *)(battlefield.data + place), evil);
        atomic_store((_Atomic uint64_t *)(battlefield.data + place), good);
    }
}

static void *flip_words(void *unused)
{
    uint64_t random = 77;

    (void)unused;
    while (atomic_load_explicit(&flipping, memory_order_relaxed)) {
        uint64_t dice = ledger_random(&random);

        if (dice % 8 == 0)
            flip_nonsense(dice);
        else
            flip_headers(dice);
    }
    return NULL;
}

/* On -EBADMSG an end detaches; the next victim attaches where that one had come to. */
static void detach(struct nr_ring *ring)
{
    *ring = guarded_open(&battlefield, nr_ring_position(ring) + 8);
}

static void words_change_between_check_and_use(void)
{
    const uint64_t half_ns = (uint64_t)(flip_s * 5e8), begun = nr_os_now_ns();
    uint64_t taken = 0, written = 0, corrupt[2] = {0, 0}, round = 0;
    pthread_t flipper;
    int end;

    check_watch((unsigned)flip_s + 60);
    battlefield = guarded_ring(2 * PAGE);
    victims[0] = victims[1] = guarded_open(&battlefield, 0);
    flipping = true;
    nr_crashpoint_arm("0:jitter"); /* more time between check and use */
    REQUIRE(pthread_create(&flipper, NULL, flip_words, NULL) == 0);
    for (; nr_os_now_ns() < begun + half_ns; round++) {
        taken += drive_consumer(&victims[0], &end);
        if (end == -EBADMSG) {
            corrupt[0]++;
            detach(&victims[0]);
        }
        if (round % 64 == 0)
            (void)nr_ring_consumer_falls_asleep(&victims[0]);
    }
    for (; nr_os_now_ns() < begun + 2 * half_ns; round++) {
        written += drive_producer(&victims[1], round * 8 % 300, &end);
        if (end == -EBADMSG) {
            corrupt[1]++;
            detach(&victims[1]);
        }
        if (round % 64 == 0)
            (void)nr_ring_producer_falls_asleep(&victims[1], 64);
    }
    atomic_store(&flipping, false);
    pthread_join(flipper, NULL);
    nr_crashpoint_arm(NULL);
    printf("%llu taken, %llu written, %llu and %llu times corrupt\n", (unsigned long long)taken,
           (unsigned long long)written, (unsigned long long)corrupt[0],
           (unsigned long long)corrupt[1]);
    CHECK(taken > 0 && written > 0 && corrupt[0] > 0 && corrupt[1] > 0); /* it was a fight */
    guarded_free(&battlefield);
}

#endif

int main(int argc, char **argv)
{
    if (argc > 1)
        flip_s = strtod(argv[1], NULL);
    REQUIRE(nr_os_barrier_register() == 0);
    RUN(lies_about_the_tail);
    RUN(lies_about_the_tail_while_records_are_held);
    RUN(lies_about_the_head);
    RUN(lies_about_records);
#ifndef __SANITIZE_THREAD__
    RUN(words_change_between_check_and_use);
#endif
    return check_finish();
}
