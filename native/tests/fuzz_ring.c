/* Fuzz target: a program of steps on one ring, honest ones and lies.
 *
 * As long as nobody has lied, a model beside the ring knows what must come out. After the first lie
 * only safety is left: inside the mapping (guard pages), a known result, no endless loop. */
#include "fuzz_main.h"
#include "hostile.h"

#define CAPACITY 4096u
#define MODEL_RECORDS (CAPACITY / NR_RECORD_HEADER)

enum step {
    STEP_PUT,
    STEP_PUBLISH,
    STEP_TAKE,
    STEP_RELEASE,
    STEP_CONSUMER_SLEEPS,
    STEP_PRODUCER_SLEEPS,
    STEP_LIE_TAIL,
    STEP_LIE_HEAD,
    STEP_LIE_HEADER,
    STEP_LIE_SLEEP_WORDS,
    STEP_DRIVE_CONSUMER,
    STEP_DRIVE_PRODUCER,
    STEP_REOPEN,
    STEPS
};

struct game {
    struct guarded_ring *guarded;
    struct nr_ring producer, consumer;
    bool lied;
    struct { /* committed and not yet taken */
        uint32_t size, flags;
        uint8_t seed;
    } model[MODEL_RECORDS];
    uint64_t committed, published, taken;
};

static void put(struct game *game, uint32_t size, uint32_t flags)
{
    uint64_t used = nr_ring_position(&game->producer) - game->consumer.published;
    bool fits = NR_RECORD_HEADER + NR_RING_PAD(size) <= CAPACITY - used;
    uint8_t *place = NULL, seed = (uint8_t)(game->committed * 37 + 1);
    int result = nr_ring_reserve(&game->producer, size, &place);

    if (!game->lied)
        FUZZ_REQUIRE(result ==
                     (fits ? 0 : size > CAPACITY - NR_RECORD_HEADER ? -EMSGSIZE : -EAGAIN));
    FUZZ_REQUIRE(result == 0 || result == -EAGAIN || result == -EMSGSIZE || result == -EBADMSG);
    if (result < 0)
        return;
    memset(place, seed, size);
    nr_ring_commit(&game->producer, size, flags);
    game->model[game->committed % MODEL_RECORDS].size = size;
    game->model[game->committed % MODEL_RECORDS].flags = flags;
    game->model[game->committed++ % MODEL_RECORDS].seed = seed;
}

static void take(struct game *game)
{
    struct nr_record record;
    const uint8_t *payload;
    int result = nr_ring_next(&game->consumer, &record, &payload);

    FUZZ_REQUIRE(result == 1 || result == -EAGAIN || result == -EBADMSG);
    if (!game->lied)
        FUZZ_REQUIRE(result == (game->taken < game->published ? 1 : -EAGAIN));
    if (result != 1)
        return;
    FUZZ_REQUIRE(payload + record.length <= game->guarded->data + 2 * CAPACITY);
    for (uint32_t i = 0; i < record.length; i++)
        FUZZ_REQUIRE(payload[i] == game->model[game->taken % MODEL_RECORDS].seed || game->lied);
    if (game->lied)
        return;
    FUZZ_REQUIRE(record.length == game->model[game->taken % MODEL_RECORDS].size);
    FUZZ_REQUIRE(record.flags == game->model[game->taken % MODEL_RECORDS].flags);
    game->taken++;
}

static void publish(struct game *game)
{
    bool slept = atomic_load(&game->guarded->control->consumer_sleeps) != 0;

    nr_ring_publish(&game->producer);
    game->published = game->committed;
    FUZZ_REQUIRE(nr_ring_consumer_must_be_woken(&game->producer) == slept);
    FUZZ_REQUIRE(!nr_ring_consumer_must_be_woken(&game->producer));
}

static void release(struct game *game)
{
    nr_ring_release(&game->consumer);
    (void)nr_ring_producer_must_be_woken(&game->consumer);
    if (!game->lied && game->taken == game->published) /* all there is to have: he is awake */
        FUZZ_REQUIRE(atomic_load(&game->guarded->control->producer_wants) == 0);
}

static void sleep_both(struct game *game, enum step step, uint64_t bytes)
{
    if (step == STEP_CONSUMER_SLEEPS) {
        bool found = nr_ring_consumer_falls_asleep(&game->consumer);

        if (!game->lied)
            FUZZ_REQUIRE(found == (game->taken < game->published));
    } else {
        bool found;

        publish(game);
        found = nr_ring_producer_falls_asleep(&game->producer, bytes);
        if (!game->lied)
            FUZZ_REQUIRE(found == (CAPACITY - nr_ring_depth_bytes(&game->producer) >= bytes));
    }
}

static void lie(struct game *game, enum step step, struct fuzz_input *input)
{
    struct nr_ring_control *control = game->guarded->control;
    unsigned kind = (unsigned)fuzz_take(input, 1);
    uint64_t own = nr_ring_position(step == STEP_LIE_TAIL ? &game->consumer : &game->producer);
    uint64_t value = kind < 128 ? hostile_position(kind, own, CAPACITY) : fuzz_take(input, 8);

    game->lied = true;
    if (step == STEP_LIE_TAIL)
        atomic_store(&control->tail, value);
    else if (step == STEP_LIE_HEAD)
        atomic_store(&control->head, value);
    else if (step == STEP_LIE_SLEEP_WORDS) {
        atomic_store(&control->consumer_sleeps, (uint32_t)value);
        atomic_store(&control->producer_wants, value);
    } else {
        struct nr_record record = {hostile_length(kind, CAPACITY), 0};
        uint64_t place = nr_ring_position(&game->consumer) + fuzz_take(input, 1) * 8;

        if (kind >= 128)
            record = (struct nr_record){(uint32_t)value, (uint32_t)(value >> 32)};
        memcpy(game->guarded->data + place % CAPACITY, &record, sizeof record);
    }
}

static void play(struct game *game, enum step step, struct fuzz_input *input)
{
    uint32_t size;
    int end;

    switch (step) {
    case STEP_PUT:
        size = (uint32_t)fuzz_take(input, 2) % 4200;
        put(game, size, (uint32_t)fuzz_take(input, 1) & 0x1f);
        break;
    case STEP_PUBLISH:
        publish(game);
        break;
    case STEP_TAKE:
        take(game);
        break;
    case STEP_RELEASE:
        release(game);
        break;
    case STEP_CONSUMER_SLEEPS:
    case STEP_PRODUCER_SLEEPS:
        sleep_both(game, step, 1 + fuzz_take(input, 2) % CAPACITY);
        break;
    case STEP_DRIVE_CONSUMER:
        game->lied = true; /* the model does not follow */
        drive_consumer(&game->consumer, &end);
        FUZZ_REQUIRE(end == -EAGAIN || end == -EBADMSG);
        break;
    case STEP_DRIVE_PRODUCER:
        game->lied = true;
        drive_producer(&game->producer, fuzz_take(input, 2), &end);
        break;
    case STEP_REOPEN:
        game->lied = true;
        if (fuzz_take(input, 1) & 1)
            game->producer = guarded_open(game->guarded, fuzz_take(input, 8) & ~7ull);
        else
            game->consumer = guarded_open(game->guarded, fuzz_take(input, 8) & ~7ull);
        break;
    default:
        lie(game, step, input);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guarded_ring guarded; /* made once: mapping it costs more than a game */
    struct fuzz_input input = {data, size};
    struct game game = {0};
    uint64_t start = fuzz_take(&input, 8) & ~7ull;

    if (!guarded.place)
        guarded = guarded_ring(CAPACITY);
    memset(guarded.control, 0, sizeof *guarded.control);
    memset(guarded.data, 0, CAPACITY);
    atomic_store(&guarded.control->tail, start);
    atomic_store(&guarded.control->head, start);
    game.guarded = &guarded;
    game.producer = game.consumer = guarded_open(&guarded, start);
    while (input.size > 0)
        play(&game, (enum step)(fuzz_take(&input, 1) % STEPS), &input);
    return 0;
}
