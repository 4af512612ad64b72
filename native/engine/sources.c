/* Descriptors with a callback: registration, the ready lists, what may run in a turn. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "parts.h"

#define CALLBACKS_A_CLOCK 8u /* the clock is read once for so many */

void nr_sources_init(struct nr_sources *sources)
{
    *sources = (struct nr_sources){.owners = NULL};
    nr_slab_init(&sources->slab, sizeof(struct source));
}

void nr_sources_destroy(struct nr_sources *sources)
{
    nr_slab_destroy(&sources->slab);
    free(sources->owners);
}

static struct source *source_at(struct nr_engine *engine, uint32_t place)
{
    return nr_slab_at(&engine->sources.slab, place);
}

static struct source *find(const struct nr_engine *engine, nr_source number)
{
    return nr_slab_find(&engine->sources.slab, number);
}

/* ---- the ready lists ---- */

static void count_ready(struct nr_engine *engine, uint32_t more)
{
    uint32_t count = atomic_load_explicit(&engine->sources.ready_count, memory_order_relaxed);

    /* One writer: the holder of the lock. pairs with: engine.c:nr_engine_wait */
    atomic_store_explicit(&engine->sources.ready_count, count + more, memory_order_relaxed);
}

static void list(struct nr_engine *engine, struct source *source, uint32_t place)
{
    struct ready_list *ready = &engine->sources.ready[source->priority];

    if (source->listed)
        return;
    source->listed = true;
    source->turn = engine->turn;
    source->next = 0;
    source->previous = ready->tail;
    if (ready->tail)
        source_at(engine, ready->tail - 1)->next = place + 1;
    else
        ready->head = place + 1;
    ready->tail = place + 1;
    count_ready(engine, 1);
}

static void unlist(struct nr_engine *engine, struct source *source)
{
    struct ready_list *ready = &engine->sources.ready[source->priority];

    if (!source->listed)
        return;
    source->listed = false;
    if (source->previous)
        source_at(engine, source->previous - 1)->next = source->next;
    else
        ready->head = source->next;
    if (source->next)
        source_at(engine, source->next - 1)->previous = source->previous;
    else
        ready->tail = source->previous;
    count_ready(engine, (uint32_t)-1);
}

static uint32_t deliverable(const struct source *source)
{
    uint32_t events = source->wanted | NR_HANGUP | NR_FAILED;

    return source->wanted & NR_READABLE ? events | NR_PEER_ENDED : events;
}

/* ---- between the engine's events and epoll's ---- */

static uint32_t to_epoll(const struct source *source)
{
    uint32_t events = 0;

    /* Hang-ups and errors are reported unasked and for ever: with EPOLLET, once. */
    if (source->wanted == 0 || source->disarmed)
        return EPOLLET;
    if (source->wanted & NR_READABLE)
        events |= EPOLLIN | EPOLLRDHUP;
    if (source->wanted & NR_WRITABLE)
        events |= EPOLLOUT;
    if (source->wanted & NR_PEER_ENDED)
        events |= EPOLLRDHUP;
    if (source->wanted & NR_URGENT_DATA)
        events |= EPOLLPRI;
    return events | (source->one_shot ? EPOLLONESHOT : 0u) | (source->edge ? EPOLLET : 0u);
}

static uint32_t from_epoll(uint32_t events)
{
    return (events & EPOLLIN ? NR_READABLE : 0u) | (events & EPOLLOUT ? NR_WRITABLE : 0u) |
           (events & EPOLLRDHUP ? NR_PEER_ENDED : 0u) | (events & EPOLLHUP ? NR_HANGUP : 0u) |
           (events & EPOLLERR ? NR_FAILED : 0u) | (events & EPOLLPRI ? NR_URGENT_DATA : 0u);
}

/* ---- registration ---- */

static int make_owner_room(struct nr_sources *sources, int fd)
{
    uint32_t room = sources->owner_room ? sources->owner_room : 64;
    uint32_t *owners;

    if ((uint32_t)fd < sources->owner_room)
        return 0;
    while (room <= (uint32_t)fd)
        room *= 2;
    owners = realloc(sources->owners, room * sizeof *owners);
    if (!owners)
        return -ENOMEM;
    memset(owners + sources->owner_room, 0, (room - sources->owner_room) * sizeof *owners);
    sources->owners = owners;
    sources->owner_room = room;
    return 0;
}

static int register_with(int epoll, const struct source *source, nr_source number)
{
    return nr_os_epoll_change(epoll, EPOLL_CTL_ADD, source->fd, to_epoll(source), number);
}

/* Its owner closed the descriptor without removing it, and the number is in use again. */
static void forget(struct nr_engine *engine, uint32_t place)
{
    struct source *source = source_at(engine, place);

    unlist(engine, source);
    source->pending = 0;
    source->fd = -1;
}

static int register_new(struct nr_engine *engine, struct source *source, uint32_t place)
{
    uint32_t *owner = &engine->sources.owners[source->fd];
    nr_source number = nr_slab_number(&engine->sources.slab, place);
    int result = register_with(engine->epoll, source, number);

    if (result == -EEXIST && *owner == 0) /* left behind: its removal came when the number was shut */
        result = nr_os_epoll_change(engine->epoll, EPOLL_CTL_MOD, source->fd, to_epoll(source),
                                    number);
    if (result < 0)
        return result;
    if (*owner)
        forget(engine, *owner - 1);
    *owner = place + 1;
    return 0;
}

int nr_source_add(struct nr_engine *engine, int fd, uint32_t events, unsigned priority,
                  uint32_t flags, nr_source_callback callback, void *data, nr_source *number)
{
    struct nr_sources *sources = &engine->sources;
    struct source *source;
    uint32_t place;
    int result;

    if (nr_engine_is_foreign(engine))
        return -ECHILD;
    if (fd < 0)
        return -EBADF;
    if (events & ~NR_EVENTS_WANTED || flags & ~(uint32_t)(NR_ONE_SHOT | NR_EDGE) || priority >= NR_PRIORITIES ||
        !callback)
        return -EINVAL;
    result = make_owner_room(sources, fd);
    if (result < 0)
        return result;
    source = nr_slab_take(&sources->slab, &place);
    if (!source)
        return -ENOMEM;
    source->fd = fd;
    source->callback = callback;
    source->data = data;
    source->wanted = (uint8_t)events;
    source->priority = (uint8_t)priority;
    source->one_shot = flags & NR_ONE_SHOT;
    source->edge = flags & NR_EDGE;
    result = register_new(engine, source, place);
    if (result < 0) {
        nr_slab_give(&sources->slab, place);
        return result;
    }
    *number = nr_slab_number(&sources->slab, place);
    nr_count(&engine->statistics.source_count, 1);
    return 0;
}

int nr_source_change(struct nr_engine *engine, nr_source number, uint32_t events)
{
    struct source *source = find(engine, number);
    struct source before;
    int result;

    if (nr_engine_is_foreign(engine))
        return -ECHILD;
    if (!source)
        return -ENOENT;
    if (events & ~NR_EVENTS_WANTED)
        return -EINVAL;
    if (source->fd < 0)
        return -EBADF;
    if (source->wanted == events && !source->one_shot)
        return 0;
    before = *source;
    source->wanted = (uint8_t)events;
    source->disarmed = false;
    result = nr_os_epoll_change(engine->epoll, EPOLL_CTL_MOD, source->fd, to_epoll(source), number);
    if (result < 0) {
        *source = before;
        return result == -ENOENT ? -EBADF : result; /* closed, and perhaps reused, unnoticed */
    }
    return 0;
}

int nr_source_set_priority(struct nr_engine *engine, nr_source number, unsigned priority)
{
    struct source *source = find(engine, number);
    bool listed;

    if (nr_engine_is_foreign(engine))
        return -ECHILD;
    if (!source)
        return -ENOENT;
    if (priority >= NR_PRIORITIES)
        return -EINVAL;
    listed = source->listed;
    unlist(engine, source);
    source->priority = (uint8_t)priority;
    if (listed)
        list(engine, source, (uint32_t)number);
    return 0;
}

int nr_source_remove(struct nr_engine *engine, nr_source number)
{
    struct source *source = find(engine, number);

    if (nr_engine_is_foreign(engine))
        return -ECHILD;
    if (!source)
        return -ENOENT;
    unlist(engine, source);
    if (source->fd >= 0) {
        /* Closed before it was removed: the kernel has forgotten it, or goes on for a copy of it,
         * which nr_sources_collect() notices. */
        (void)nr_os_epoll_change(engine->epoll, EPOLL_CTL_DEL, source->fd, 0, 0);
        engine->sources.owners[source->fd] = 0;
    }
    nr_slab_give(&engine->sources.slab, (uint32_t)number);
    nr_count(&engine->statistics.source_count, (uint64_t)-1);
    return 0;
}

int nr_source_make_ready(struct nr_engine *engine, nr_source number, uint32_t events)
{
    struct source *source = find(engine, number);

    if (nr_engine_is_foreign(engine))
        return -ECHILD;
    if (!source)
        return -ENOENT;
    if (events == 0 || events > 0xff)
        return -EINVAL;
    source->pending |= (uint8_t)events;
    list(engine, source, (uint32_t)number);
    /* A full barrier between the count and the look. pairs with: engine.c:nr_engine_wait */
    (void)atomic_fetch_add(&engine->sources.ready_count, 0);
    if (atomic_load(&engine->asleep))
        nr_engine_wake(engine);
    return 0;
}

int nr_source_fileno(const struct nr_engine *engine, nr_source number)
{
    const struct source *source = find(engine, number);

    if (!source)
        return -ENOENT;
    return source->fd < 0 ? -EBADF : source->fd;
}

int nr_sources_register_all(struct nr_engine *engine, int epoll)
{
    struct nr_slab *slab = &engine->sources.slab;

    for (uint32_t place = 0; place < slab->place_count; place++) {
        struct source *source = source_at(engine, place);
        int result;

        if (!(source->generation & 1u) || source->fd < 0)
            continue;
        result = register_with(epoll, source, nr_slab_number(slab, place));
        if (result == -EBADF || result == -EPERM) {
            engine->sources.owners[source->fd] = 0;
            forget(engine, place);
        } else if (result < 0 && result != -EEXIST)
            return result;
    }
    return 0;
}

/* ---- a turn ---- */

void nr_sources_collect(struct nr_engine *engine, const struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        struct source *source = find(engine, events[i].data.u64);

        if (!source || source->fd < 0) {
            nr_count(&engine->statistics.stale_events, 1);
            continue;
        }
        if (source->one_shot)
            source->disarmed = true; /* the kernel has disarmed it */
        source->pending |= (uint8_t)from_epoll(events[i].events);
        list(engine, source, (uint32_t)events[i].data.u64);
    }
}

static int run_one(struct nr_engine *engine, struct source *source, uint32_t place)
{
    nr_source number = nr_slab_number(&engine->sources.slab, place);
    uint32_t events = source->pending & deliverable(source);
    int result;

    unlist(engine, source);
    source->pending = 0;
    if (events == 0)
        return NR_DONE;
    result = source->callback(engine, number, events, source->data);
    nr_count(&engine->statistics.callbacks, 1);
    if (result == NR_MORE) {
        source = find(engine, number); /* it may have removed itself */
        if (source && source->fd >= 0) {
            source->pending |= (uint8_t)events;
            list(engine, source, place);
        }
    }
    return result < 0 ? result : NR_DONE;
}

static int run_priority(struct nr_engine *engine, struct ready_list *ready, uint64_t until_ns)
{
    int ran = 0;

    while (ready->head) {
        uint32_t place = ready->head - 1;
        struct source *source = source_at(engine, place);
        int result;

        if (source->turn == engine->turn) /* put there in this turn: for the next one */
            break;
        result = run_one(engine, source, place);
        if (result < 0)
            return result;
        if ((unsigned)++ran % CALLBACKS_A_CLOCK == 0 && nr_os_now_ns() > until_ns)
            break;
    }
    return ran;
}

int nr_sources_run(struct nr_engine *engine, uint64_t until_ns)
{
    int ran = 0;

    for (unsigned priority = 0; priority < NR_PRIORITIES; priority++) {
        int result = run_priority(engine, &engine->sources.ready[priority], until_ns);

        if (result < 0)
            return result;
        ran += result;
    }
    return ran;
}
