/* Timers: a binary heap of due times, and one timerfd for the first of them. */
#include <errno.h>
#include <stdlib.h>

#include "parts.h"

struct timer {
    uint32_t generation, next_free; /* slab */
    uint32_t position;              /* in the heap */
    nr_timer_callback callback;
    void *data;
    uint64_t period_ns;
};

void nr_timers_init(struct nr_timers *timers)
{
    *timers = (struct nr_timers){.armed_ns = NR_FOREVER};
    nr_slab_init(&timers->slab, sizeof(struct timer));
}

void nr_timers_destroy(struct nr_timers *timers)
{
    nr_slab_destroy(&timers->slab);
    free(timers->heap);
}

static struct timer *timer_at(struct nr_timers *timers, uint32_t place)
{
    return nr_slab_at(&timers->slab, place);
}

/* ---- the heap ---- */

static bool is_before(const struct heap_entry *one, const struct heap_entry *other)
{
    return one->due_ns != other->due_ns ? one->due_ns < other->due_ns
                                        : one->sequence < other->sequence;
}

static void put(struct nr_timers *timers, uint32_t position, struct heap_entry entry)
{
    timers->heap[position] = entry;
    timer_at(timers, entry.place)->position = position;
}

static void rise(struct nr_timers *timers, uint32_t position)
{
    struct heap_entry entry = timers->heap[position];

    while (position > 0 && is_before(&entry, &timers->heap[(position - 1) / 2])) {
        put(timers, position, timers->heap[(position - 1) / 2]);
        position = (position - 1) / 2;
    }
    put(timers, position, entry);
}

static void sink(struct nr_timers *timers, uint32_t position)
{
    struct heap_entry entry = timers->heap[position];

    for (;;) {
        uint32_t child = position * 2 + 1;

        if (child >= timers->count)
            break;
        if (child + 1 < timers->count && is_before(&timers->heap[child + 1], &timers->heap[child]))
            child++;
        if (!is_before(&timers->heap[child], &entry))
            break;
        put(timers, position, timers->heap[child]);
        position = child;
    }
    put(timers, position, entry);
}

static void take_out(struct nr_timers *timers, uint32_t position)
{
    struct heap_entry last = timers->heap[--timers->count];

    if (position == timers->count)
        return;
    put(timers, position, last);
    rise(timers, position);
    sink(timers, timer_at(timers, last.place)->position);
}

static int make_room(struct nr_timers *timers)
{
    uint32_t room = timers->room ? timers->room * 2 : 16;
    struct heap_entry *heap;

    if (timers->count < timers->room)
        return 0;
    heap = realloc(timers->heap, room * sizeof *heap);
    if (!heap)
        return -ENOMEM;
    timers->heap = heap;
    timers->room = room;
    return 0;
}

/* ---- the timerfd ---- */

void nr_timers_rearm(struct nr_engine *engine)
{
    struct nr_timers *timers = &engine->timers;

    timers->armed_ns = timers->count ? timers->heap[0].due_ns : NR_FOREVER;
    (void)nr_os_timer_set(engine->timer, timers->armed_ns); /* fails for no value that comes here */
}

/* A later first timer is not worth a system call: the early wake-up sets it right. In a turn it is
 * done once, at the end. */
static void arm_earlier(struct nr_engine *engine)
{
    if (!engine->dispatching && engine->timers.heap[0].due_ns < engine->timers.armed_ns)
        nr_timers_rearm(engine);
}

/* ---- the contract ---- */

/* In a turn nothing is due before the turn began: a callback that always starts another timer in the
 * past would else keep the others from firing. */
static uint64_t not_before_turn(const struct nr_engine *engine, uint64_t due_ns)
{
    return engine->dispatching && due_ns < engine->turn_start_ns ? engine->turn_start_ns : due_ns;
}

int nr_timer_start(struct nr_engine *engine, uint64_t due_ns, uint64_t period_ns,
                   nr_timer_callback callback, void *data, nr_timer *number)
{
    struct nr_timers *timers = &engine->timers;
    struct timer *timer;
    uint32_t place;

    if (nr_engine_is_foreign(engine))
        return -ECHILD;
    if (!callback || due_ns == NR_FOREVER)
        return -EINVAL;
    if (make_room(timers) < 0)
        return -ENOMEM;
    timer = nr_slab_take(&timers->slab, &place);
    if (!timer)
        return -ENOMEM;
    timer->callback = callback;
    timer->data = data;
    timer->period_ns = period_ns;
    due_ns = not_before_turn(engine, due_ns);
    timers->heap[timers->count] = (struct heap_entry){due_ns, timers->next_sequence++, place};
    rise(timers, timers->count++);
    *number = nr_slab_number(&timers->slab, place);
    nr_count(&engine->statistics.timer_count, 1);
    arm_earlier(engine);
    return 0;
}

static void move(struct nr_timers *timers, struct timer *timer, uint64_t due_ns)
{
    struct heap_entry *entry = &timers->heap[timer->position];

    entry->due_ns = due_ns;
    entry->sequence = timers->next_sequence++;
    rise(timers, timer->position);
    sink(timers, timer->position);
}

int nr_timer_move(struct nr_engine *engine, nr_timer number, uint64_t due_ns)
{
    struct timer *timer = nr_slab_find(&engine->timers.slab, number);

    if (nr_engine_is_foreign(engine))
        return -ECHILD;
    if (!timer)
        return -ENOENT;
    if (due_ns == NR_FOREVER)
        return -EINVAL;
    move(&engine->timers, timer, not_before_turn(engine, due_ns));
    arm_earlier(engine);
    return 0;
}

static void end_timer(struct nr_engine *engine, nr_timer number, struct timer *timer)
{
    take_out(&engine->timers, timer->position);
    nr_slab_give(&engine->timers.slab, (uint32_t)number);
    nr_count(&engine->statistics.timer_count, (uint64_t)-1);
}

int nr_timer_cancel(struct nr_engine *engine, nr_timer number)
{
    struct timer *timer = nr_slab_find(&engine->timers.slab, number);

    if (nr_engine_is_foreign(engine))
        return -ECHILD;
    if (!timer)
        return -ENOENT;
    end_timer(engine, number, timer);
    return 0;
}

uint64_t nr_timer_due_ns(const struct nr_engine *engine, nr_timer number)
{
    const struct timer *timer = nr_slab_find(&engine->timers.slab, number);

    return timer ? engine->timers.heap[timer->position].due_ns : 0;
}

/* ---- a turn ---- */

static int fire(struct nr_engine *engine, uint32_t place, uint64_t now_ns)
{
    struct timer *timer = timer_at(&engine->timers, place);
    nr_timer number = nr_slab_number(&engine->timers.slab, place);
    nr_timer_callback callback = timer->callback;
    void *data = timer->data;
    uint64_t due_ns = engine->timers.heap[timer->position].due_ns;
    uint64_t missed = 0;
    int result;

    if (timer->period_ns) {
        missed = (now_ns - due_ns) / timer->period_ns;
        move(&engine->timers, timer, due_ns + (missed + 1) * timer->period_ns);
    } else
        end_timer(engine, number, timer);
    nr_count(&engine->statistics.timers_fired, 1);
    nr_count(&engine->statistics.timers_missed, missed);
    result = callback(engine, number, missed, data);
    return result < 0 ? result : 0;
}

int nr_timers_run(struct nr_engine *engine, uint64_t now_ns)
{
    struct nr_timers *timers = &engine->timers;
    const uint64_t first_new = timers->next_sequence;
    int ran = 0;

    /* What a callback starts has a sequence of this turn and waits for the next one; it is behind
     * everything that was due. */
    while (timers->count && timers->heap[0].due_ns <= now_ns && timers->heap[0].sequence < first_new) {
        int result = fire(engine, timers->heap[0].place, now_ns);

        if (result < 0)
            return result;
        ran++;
    }
    return ran;
}
