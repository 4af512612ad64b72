/* Who is told of changes: notes in each shard, and those who read them (naru/table_watch.h). */
#include <stdlib.h>

#include "table_watching.h"

#define HEAL_AFTER_LOOKS 32u /* so often the same change was in the making: is its maker dead? */
#define EVERYTHING (UINT64_C(1) << 63)
#define FORGOTTEN (UINT64_C(1) << 62)
#define WATCHER_SHIFT 48
#define PLACE (NR_SLOT_MAIN | NR_SLOT_OFFSET)

struct cursor {
    uint64_t next, seen_noted;
    uint32_t looks; /* at seen_noted while it was in the making */
};

struct nr_table_watch {
    struct nr_table *table;
    uint64_t evicted_tags;
    uint8_t *key; /* of NR_TABLE_KEY_MOST bytes */
    struct cursor cursors[];
};

static uint64_t bit_of(uint32_t watcher) { return watcher ? UINT64_C(1) << (watcher - 1) : 0; }

/* ---- noting: under the shard's mutex ---- */

static uint64_t note(struct nr_view *view, uint64_t hash, uint64_t what)
{
    struct nr_shard *shard = view->shard;
    uint64_t noted = nr_get(shard->watch_noted);
    struct nr_note *at = &shard->notes[noted & (NR_NOTES - 1)];

    /* Who sees a byte of this note sees that the one it overwrites is out of reach. */
    NR_FENCE(memory_order_release);
    nr_put(at->hash, hash);
    nr_put(at->what, what);
    atomic_store_explicit(&shard->watch_noted, noted + 1, memory_order_release);
    NR_CRASHPOINT(NR_AT_TABLE_NOTED);
    return noted + 1;
}

static bool others_watch(const struct nr_table *table)
{
    return (nr_get(table->header->watched) & ~bit_of(table->watcher)) != 0;
}

/* The same record in another place: nobody has to know. */
static bool is_move(const struct nr_view *view, uint64_t old, uint64_t value)
{
    struct nr_record_facts from, to;

    return old && value && nr_slot_facts(view, old, &from) && nr_slot_facts(view, value, &to) &&
           from.version == to.version;
}

uint64_t nr_note_slot(struct nr_view *view, uint64_t old, uint64_t value)
{
    const struct nr_table *table = view->table;
    uint64_t slot = value ? value : old, what = slot & PLACE;
    struct nr_record_facts facts;

    if (value == 0 && !view->removing)
        what |= FORGOTTEN;
    else if (!others_watch(table) || is_move(view, old, value))
        return 0;
    else
        what |= (uint64_t)table->watcher << WATCHER_SHIFT;
    if (!nr_slot_facts(view, slot, &facts))
        return note(view, 0, EVERYTHING);
    return note(view,
                nr_table_hash(table->hash_keys,
                              nr_slot_record(view, slot) + nr_record_key_at(&facts), facts.key_bytes),
                what);
}

uint64_t nr_note_all(struct nr_view *view)
{
    const struct nr_table *table = view->table;

    if (!nr_is_watched(table) || (view->removing && !others_watch(table)))
        return 0;
    return note(view, 0,
                EVERYTHING | (view->removing ? (uint64_t)table->watcher << WATCHER_SHIFT : 0));
}

void nr_note_tag(struct nr_table *table)
{
    /* Either this sees the watcher, or the watcher's clients see the tag's counter. */
    atomic_thread_fence(memory_order_seq_cst);
    if (nr_is_watched(table))
        atomic_fetch_add_explicit(&table->header->evicted_tags, 1, memory_order_release);
}

/* ---- watchers ---- */

bool nr_table_is_watched(const struct nr_table *table) { return nr_is_watched(table); }

static int lock_watchers(struct nr_table *table, uint64_t deadline_ns)
{
    struct timespec until = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
    pthread_mutex_t *mutex = &table->header->rebuilding;
    int error = pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &until);

    if (error == EOWNERDEAD)
        return -pthread_mutex_consistent(mutex);
    return -error;
}

static bool is_alive(const struct nr_watcher *watcher)
{
    uint64_t started;
    int result = nr_os_process_started((uint32_t)nr_get(watcher->pid), &started);

    return result != -ESRCH && (result < 0 || started == nr_get(watcher->started));
}

void nr_watchers_sweep(struct nr_table *table)
{
    struct nr_table_header *header = table->header;

    if (lock_watchers(table, nr_os_now_ns() + 100000000u) < 0)
        return; /* somebody else does it, or will */
    for (uint32_t i = 0; i < NR_WATCHERS; i++)
        if (nr_get(header->watchers[i].pid) != 0 && !is_alive(&header->watchers[i])) {
            atomic_fetch_and(&header->watched, ~bit_of(i + 1));
            nr_put(header->watchers[i].pid, 0);
        }
    pthread_mutex_unlock(&header->rebuilding);
}

int nr_table_watch_join(struct nr_table *table, uint32_t owner_pid, uint64_t number,
                        uint64_t deadline_ns)
{
    struct nr_watcher *watchers = table->header->watchers;
    uint32_t found = NR_WATCHERS;
    uint64_t started;
    int result = nr_os_process_started(owner_pid, &started);

    if (result == 0) {
        nr_watchers_sweep(table);
        result = lock_watchers(table, deadline_ns);
    }
    if (result < 0)
        return result;
    for (uint32_t i = NR_WATCHERS; i-- > 0;)
        if (nr_get(watchers[i].pid) == 0)
            found = i;
    for (uint32_t i = 0; i < NR_WATCHERS; i++)
        if (nr_get(watchers[i].pid) == owner_pid && nr_get(watchers[i].started) == started &&
            nr_get(watchers[i].number) == number)
            found = i;
    if (found < NR_WATCHERS) {
        nr_put(watchers[found].started, started);
        nr_put(watchers[found].number, number);
        nr_put(watchers[found].pid, owner_pid);
        table->watcher = found + 1;
    }
    pthread_mutex_unlock(&table->header->rebuilding);
    return found < NR_WATCHERS ? 0 : -ENOSPC;
}

int nr_table_watch_begin(struct nr_table *table, uint64_t deadline_ns, struct nr_table_watch **out)
{
    uint32_t shards = table->layout.shards;
    struct nr_table_watch *watch;
    int result = 0;

    if (table->watcher == 0)
        return -EINVAL;
    watch = calloc(1, sizeof *watch + shards * sizeof *watch->cursors);
    if (!watch || !(watch->key = malloc(NR_TABLE_KEY_MOST))) {
        free(watch);
        return -ENOMEM;
    }
    watch->table = table;
    atomic_fetch_or(&table->header->watched, bit_of(table->watcher));
    watch->evicted_tags = nr_get(table->header->evicted_tags);
    /* Who did not see the bit has made his change when his mutex is free. */
    for (uint32_t i = 0; i < shards && result == 0; i++) {
        result = nr_shard_lock(table, i, deadline_ns);
        if (result < 0)
            break;
        watch->cursors[i].next = nr_get(nr_shard_at(table, i)->watch_noted);
        nr_shard_unlock(table, i);
    }
    if (result < 0) {
        nr_table_watch_end(watch, false);
        return result;
    }
    *out = watch;
    return 0;
}

void nr_table_watch_end(struct nr_table_watch *watch, bool last)
{
    if (!watch)
        return;
    if (last)
        atomic_fetch_and(&watch->table->header->watched, ~bit_of(watch->table->watcher));
    free(watch->key);
    free(watch);
}

/* ---- looking ---- */

struct looking {
    struct nr_table_watch *watch;
    struct nr_view view;
    void (*tell)(void *, const struct nr_table_news *);
    void *context;
    uint32_t told;
};

static void tell_everything(struct looking *looking)
{
    const struct nr_table_news news = {.everything = true};

    looking->tell(looking->context, &news);
    looking->told++;
}

/* The record may have been overwritten since: the key is believed when it has the hash. */
static bool read_key(const struct looking *looking, uint64_t place, struct nr_table_news *news)
{
    const struct nr_view *view = &looking->view;
    uint64_t offset = nr_slot_offset(place), bytes = view->layout->log_bytes[nr_slot_log(place)];
    const uint8_t *record = nr_slot_record(view, place);
    struct nr_record_facts facts;

    if (offset >= bytes || !nr_record_read(record, bytes - offset, &facts) || facts.version == 0)
        return false;
    nr_racy_read(looking->watch->key, record + nr_record_key_at(&facts), facts.key_bytes);
    if (nr_table_hash(view->table->hash_keys, looking->watch->key, facts.key_bytes) != news->hash)
        return false;
    news->key = looking->watch->key;
    news->size = facts.key_bytes;
    return true;
}

static void see_note(struct looking *looking, uint64_t hash, uint64_t what)
{
    uint32_t watcher = what >> WATCHER_SHIFT & 0xff;
    struct nr_table_news news = {.hash = hash, .forgotten = (what & FORGOTTEN) != 0};

    if (watcher && watcher == looking->watch->table->watcher)
        return;
    if (what & EVERYTHING) {
        tell_everything(looking);
        return;
    }
    (void)read_key(looking, what & PLACE, &news);
    looking->tell(looking->context, &news);
    looking->told++;
}

/* False: the note was overwritten, and it is not known what it said. */
static bool see_notes(struct looking *looking, uint64_t first, uint64_t end)
{
    struct nr_shard *shard = looking->view.shard;

    for (; first != end; first++) {
        struct nr_note *at = &shard->notes[first & (NR_NOTES - 1)];
        uint64_t hash = nr_get(at->hash), what = nr_get(at->what);

        NR_FENCE(memory_order_acquire);
        if (nr_get(shard->watch_noted) - first >= NR_NOTES)
            return false;
        see_note(looking, hash, what);
    }
    return true;
}

/* It is the same one as ever: if its maker is dead, whoever takes the mutex repairs the shard. */
static void heal(struct looking *looking, struct cursor *cursor, uint64_t noted)
{
    if (cursor->seen_noted != noted) {
        cursor->seen_noted = noted;
        cursor->looks = 0;
    }
    if (++cursor->looks % HEAL_AFTER_LOOKS == 0 &&
        nr_shard_lock(looking->view.table, looking->view.number, 0) == 0)
        nr_shard_unlock(looking->view.table, looking->view.number);
}

static void look_at_shard(struct looking *looking, uint32_t number)
{
    struct cursor *cursor = &looking->watch->cursors[number];
    struct nr_shard *shard = nr_shard_at(looking->watch->table, number);
    uint64_t changed = atomic_load_explicit(&shard->watch_changed, memory_order_acquire);
    uint64_t noted = atomic_load_explicit(&shard->watch_noted, memory_order_acquire);

    if (noted == cursor->next)
        return;
    looking->view = nr_view_of(looking->watch->table, number);
    if (noted - cursor->next >= NR_NOTES || !see_notes(looking, cursor->next, noted)) {
        tell_everything(looking);
        cursor->next = changed - cursor->next > noted - cursor->next ? noted : changed;
        return;
    }
    /* What is in the making is told again when it is made: it may be read once more before. */
    if (changed - cursor->next <= noted - cursor->next)
        cursor->next = changed;
    if (cursor->next != noted)
        heal(looking, cursor, noted);
}

uint32_t nr_table_watch_look(struct nr_table_watch *watch, void (*tell)(void *, const struct nr_table_news *),
                       void *context)
{
    struct looking looking = {.watch = watch, .tell = tell, .context = context};
    uint64_t tags = atomic_load_explicit(&watch->table->header->evicted_tags, memory_order_acquire);

    if (tags != watch->evicted_tags) {
        watch->evicted_tags = tags;
        tell_everything(&looking);
    }
    for (uint32_t i = 0; i < watch->table->layout.shards; i++)
        look_at_shard(&looking, i);
    return looking.told;
}
