/* Fuzz target: a writer, a reader of each policy, and lies told to the readers by the writer.
 *
 * As long as nobody has lied, each message is whole and in order, and the counts add up. After the
 * first lie only safety is left: inside the mapping or the private copy, a known result, no endless
 * loop. */
#include "casts.h"
#include "fuzz_main.h"

#define CAPACITY 4096u
#define READERS 3

enum step { STEP_PUT, STEP_PUBLISH, STEP_TAKE, STEP_RELEASE, STEP_SLEEP, STEP_LIE, STEPS };

struct game {
    struct cast cast;
    struct nr_broadcast_reader readers[READERS];
    struct nr_broadcast_slot *own[READERS];
    uint64_t received[READERS], written;
    bool lied, broken[READERS];
};

static void put(struct game *game, uint64_t size)
{
    uint64_t cursor;

    size %= nr_broadcast_max_message(CAPACITY) + 1;
    if (nr_broadcast_cursor(&game->cast.writer, game->own[0], 0, &cursor) < 0 ||
        !nr_broadcast_fits(&game->cast.writer, cursor, nr_broadcast_need(size)))
        return;
    cast_put(&game->cast, game->written++, size);
}

static void take(struct game *game, unsigned i)
{
    struct nr_broadcast_reader *reader = &game->readers[i];
    const uint8_t *payload;
    uint64_t size;
    int result;

    if (game->broken[i])
        return; /* its end is closed */
    result = nr_broadcast_next(reader, &payload, &size);
    FUZZ_REQUIRE(result == 1 || result == -EAGAIN || result == -EBADMSG || result == -ENOBUFS);
    FUZZ_REQUIRE(result != -EBADMSG || game->lied);
    game->broken[i] = result == -EBADMSG;
    if (result != 1)
        return;
    game->received[i]++;
    FUZZ_REQUIRE(size <= nr_broadcast_max_message(CAPACITY));
    if (reader->policy == NR_POLICY_BLOCK)
        FUZZ_REQUIRE(payload >= reader->data && payload + size <= reader->data + 2 * CAPACITY);
    else
        FUZZ_REQUIRE(payload >= reader->arena.bytes &&
                     payload + size <= reader->arena.bytes + reader->arena.size);
    FUZZ_REQUIRE(cast_matches(payload, size, reader->sequence - 1) || game->lied);
    FUZZ_REQUIRE(game->received[i] + reader->lost == reader->sequence || game->lied);
}

/* Into the control words, the record at the tail, or anywhere. */
static void lie(struct game *game, struct fuzz_input *input)
{
    struct nr_broadcast_control *control = nr_broadcast_control_of(game->cast.segment);
    uint64_t where = fuzz_take(input, 1), offset = fuzz_take(input, 2) % (2 * CAPACITY - 8);
    uint64_t value = fuzz_take(input, 1 + where % 8);

    game->lied = true;
    value += where & 0x80 ? nr_broadcast_position(&game->cast.writer) : 0;
    switch (where / 8 % 5) {
    case 0:
        atomic_store(&control->tail, value);
        break;
    case 1:
        atomic_store(&control->newest, value);
        break;
    case 2:
        atomic_store(&control->floor, value);
        break;
    case 3:
        atomic_store(&control->closed, (uint32_t)value);
        break;
    default:
        memcpy(game->cast.segment->data[0] + offset, &value, sizeof value);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct game game = {.written = 0};

    (void)nr_os_barrier_register();
    cast_open(&game.cast, CAPACITY, fuzz_take(&input, 8) & ~7ull);
    for (unsigned i = 0; i < READERS; i++)
        game.own[i] = cast_join(&game.cast, (enum nr_policy)i, &game.readers[i]);
    while (input.size > 0) {
        unsigned step = (unsigned)fuzz_take(&input, 1), who = step / STEPS % READERS;

        if (step % STEPS == STEP_LIE)
            lie(&game, &input);
        else if (step % STEPS == STEP_PUT && !game.lied)
            put(&game, fuzz_take(&input, 2)); /* a liar's writer trusts its own ring: it is done */
        else if (step % STEPS == STEP_PUBLISH && !game.lied)
            nr_broadcast_publish(&game.cast.writer);
        else if (step % STEPS == STEP_TAKE)
            take(&game, who);
        else if (step % STEPS == STEP_RELEASE)
            (void)nr_broadcast_release(&game.readers[who]);
        else if (step % STEPS == STEP_SLEEP)
            (void)nr_broadcast_reader_falls_asleep(&game.readers[who]);
    }
    for (unsigned i = 0; i < READERS; i++)
        cast_leave(&game.readers[i], game.own[i]);
    cast_close(&game.cast);
    return 0;
}
