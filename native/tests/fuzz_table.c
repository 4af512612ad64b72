/* Fuzz target: a table into which somebody writes anything, anywhere but into the mutexes (whose words are
 * the C library's business).
 *
 * As long as nobody has, what was set is there or was evicted, and is whole. After that, only safety is
 * left: a known result, inside the mapping, no endless loop. */
#include "../memory/table_parts.h"
#include "fuzz_main.h"
#include "tables.h"

#define SIZE (UINT64_C(1) << 20)
#define KEYS 64u

enum step { STEP_SET, STEP_GET, STEP_DELETE, STEP_SCAN, STEP_LIE, STEP_CHECK, STEP_UPDATE, STEP_CLAIM, STEPS };

struct game {
    struct nr_table *table;
    struct fuzz_input *input;
    bool lied;
};

static uint8_t pristine[SIZE];

/* Mutexes work where they were made: all tables of this program are one, filled anew. */
static struct nr_table *one_table(void)
{
    static struct nr_table *table;

    if (!table) {
        table = tables_make(SIZE, 1, 100);
        memcpy(pristine, table->map, SIZE);
    }
    memcpy(table->map, pristine, SIZE);
    return table;
}

static struct nr_key pick_key(struct game *game, uint32_t *number)
{
    *number = (uint32_t)fuzz_take(game->input, 1) % KEYS;
    return nr_table_key(game->table, number, sizeof *number);
}

static void set(struct game *game)
{
    static uint8_t value[1 << 16];
    uint32_t number;
    struct nr_key key = pick_key(game, &number);
    uint64_t size = 16 + fuzz_take(game->input, 2) % (sizeof value - 16);
    int result;

    tables_fill(value, size, number, size);
    result = tables_set(game->table, &key, value, size);
    FUZZ_REQUIRE(result == 0 || game->lied);
}

static void get(struct game *game)
{
    uint32_t number;
    struct nr_key key = pick_key(game, &number);
    size_t room = fuzz_take(game->input, 2);
    uint8_t *value = malloc(room ? room : 1); /* of the exact size, for ASan */
    struct nr_entry entry = {0};
    uint64_t writing;
    int result = nr_table_get(game->table, &key, value, room, &entry);

    FUZZ_REQUIRE(result == 0 || result == -ENOENT || result == -ENOBUFS);
    FUZZ_REQUIRE(result != 0 || entry.size_bytes <= room);
    if (result == 0 && !game->lied)
        FUZZ_REQUIRE(tables_is_whole(value, entry.size_bytes, number, &writing));
    free(value);
}

static void scan(struct game *game)
{
    uint8_t *key = malloc(NR_TABLE_KEY_MOST);
    uint64_t cursor = 0;
    uint32_t size, count = 0;

    while (nr_table_scan(game->table, 0, &cursor, key, &size, NULL) == 0)
        count++;
    FUZZ_REQUIRE(count <= KEYS || game->lied);
    free(key);
}

/* A word of the control page, of the index, of a record, or anywhere. */
static void lie(struct game *game)
{
    struct nr_view view = nr_view_of(game->table, 0);
    uint64_t where = fuzz_take(game->input, 1), at = fuzz_take(game->input, 2);
    uint64_t value = fuzz_take(game->input, 1 + where % 8);
    uint8_t *shard = (uint8_t *)view.shard, *word;
    uint64_t slots = (uint64_t)view.layout->buckets * NR_BUCKET_SLOTS, slot;

    game->lied = true;
    switch (where / 8 % 5) {
    case 0:
        word = shard + at % 640 / 8 * 8;
        break;
    case 1:
        word = shard + NR_TABLE_PAGE + at % slots * 8;
        break;
    case 2: /* a slot of somebody else's */
        word = shard + NR_TABLE_PAGE + at % slots * 8;
        slot = nr_get(view.slots[value % slots]);
        value = slot + value / slots % 3;
        break;
    case 3: /* the record at a slot */
        slot = nr_get(view.slots[at % slots]);
        word = (uint8_t *)nr_slot_record(&view, slot & ~NR_SLOT_OFFSET) +
               nr_slot_offset(slot) % view.layout->log_bytes[nr_slot_log(slot)] + value % 2 * 8;
        break;
    default:
        word = shard + (at * 8 + value) % (game->table->layout.shard_bytes - 8) / 8 * 8;
    }
    if (word + 8 <= (uint8_t *)&view.shard->lock || word >= (uint8_t *)(&view.shard->lock + 1))
        memcpy(word, &value, sizeof value);
}

static int append(void *context, const uint8_t *bytes, const struct nr_entry *entry,
                  struct nr_change *change)
{
    struct iovec *part = context;

    if (!entry)
        return NR_LEAVE;
    *part = (struct iovec){(void *)bytes, entry->size_bytes};
    change->parts = part;
    change->count = 1;
    return 0;
}

static void turn(struct game *game)
{
    struct nr_claim_owner owner = {.pid = 1, .started = 1};
    struct nr_table_report report;
    struct iovec part;
    uint32_t number;
    uint64_t step = fuzz_take(game->input, 1);
    struct nr_key key;
    int result;

    switch (step % STEPS) {
    case STEP_SET:
        set(game);
        break;
    case STEP_GET:
        get(game);
        break;
    case STEP_DELETE:
        key = pick_key(game, &number);
        result = nr_table_delete(game->table, &key, NR_FOREVER);
        FUZZ_REQUIRE(result == 0 || result == -ENOENT || game->lied);
        break;
    case STEP_SCAN:
        scan(game);
        break;
    case STEP_LIE:
        lie(game);
        break;
    case STEP_CHECK:
        FUZZ_REQUIRE(nr_table_check(game->table, 0, step / STEPS % 2, NR_FOREVER, &report) == 0);
        FUZZ_REQUIRE(report.damaged_slots + report.wrong_sums == 0 || game->lied);
        break;
    case STEP_UPDATE:
        key = pick_key(game, &number);
        (void)nr_table_update(game->table, &key, NR_FOREVER, append, &part, NULL);
        break;
    case STEP_CLAIM:
        key = pick_key(game, &number);
        (void)nr_table_claim(game->table, &key, &owner, 0, NR_FOREVER, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct game game = {.table = one_table(), .input = &input};

    while (input.size > 0)
        turn(&game);
    return 0;
}
