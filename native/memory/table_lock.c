#include <sched.h>

#include "table_parts.h"

/* Recursive, so that between nr_table_lock_shards() and unlock the same thread passes. */
int nr_mutex_make(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attributes;
    int error = pthread_mutexattr_init(&attributes);

    if (error)
        return -error;
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    memset(mutex, 0, sizeof *mutex);
    error = pthread_mutex_init(mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return -error;
}

#ifdef NR_TABLE_TSAN
/* TSan does not know pthread_mutex_clocklock(): all that it orders would be a race. */
static int try_until(pthread_mutex_t *mutex, uint64_t deadline_ns)
{
    int error;

    while ((error = pthread_mutex_trylock(mutex)) == EBUSY && nr_os_now_ns() < deadline_ns)
        sched_yield();
    return error == EBUSY ? ETIMEDOUT : error;
}
#endif

/* An error number, as pthread's. */
static int wait_for(pthread_mutex_t *mutex, uint64_t deadline_ns)
{
    struct timespec until = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};

    if (deadline_ns == NR_FOREVER)
        return pthread_mutex_lock(mutex);
#ifdef NR_TABLE_TSAN
    return try_until(mutex, deadline_ns);
#endif
    return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &until);
}

/* Not pthread_mutex_trylock(): in glibc 2.36 it keeps a mutex that cannot be recovered, and says so only the
 * first time. */
static int try_now(pthread_mutex_t *mutex)
{
    int error = wait_for(mutex, 0);

    return error == ETIMEDOUT ? EBUSY : error;
}

static bool is_sane(const struct nr_view *view)
{
    for (int log = 0; log < NR_LOGS; log++) {
        uint64_t head = nr_get(view->shard->head[log]), tail = nr_get(view->shard->tail[log]);

        if (head - tail > view->layout->log_bytes[log] || (head | tail) & 7u)
            return false;
    }
    return true;
}

/* The control page contradicts itself: nothing that it says of the logs can be used. */
static void rebuild(struct nr_view *view)
{
    nr_shard_empty(view);
    nr_count(view->shard, NR_REBUILT);
}

/* What the dead holder of the mutex left half-done. Dying in here leaves it to the next one. */
static void recover(struct nr_view *view)
{
    uint64_t begun_ns = nr_os_now_ns();

    NR_CRASHPOINT(NR_AT_TABLE_OWNER_DIED);
    nr_index_repair(view);
    nr_count(view->shard, NR_OWNERS_DIED);
    nr_put(view->shard->counters[NR_LAST_RECOVERY_NS], nr_os_now_ns() - begun_ns);
    NR_CRASHPOINT(NR_AT_TABLE_RECOVERED);
    pthread_mutex_consistent(&view->shard->lock);
}

/* The mutex is lost (its repair was given up by a program that is not ours): a new one, by one of all
 * who see it. */
static int make_anew(struct nr_view *view, uint64_t deadline_ns)
{
    pthread_mutex_t *guard = &view->table->header->rebuilding, fresh;
    int error = wait_for(guard, deadline_ns), result = 0;

    if (error == EOWNERDEAD)
        pthread_mutex_consistent(guard);
    else if (error)
        return -error;
    error = try_now(&view->shard->lock);
    if (error == ENOTRECOVERABLE) {
        rebuild(view); /* writers have no mutex to take, so nobody is in our way */
        result = nr_mutex_make(&fresh);
        if (result == 0) /* at once: somebody may be trying the lock, and what kind it is must never change */
            memcpy(&view->shard->lock, &fresh, sizeof fresh);
    } else if (error == EOWNERDEAD) {
        recover(view);
        pthread_mutex_unlock(&view->shard->lock);
    } else if (error == 0) {
        pthread_mutex_unlock(&view->shard->lock);
    }
    pthread_mutex_unlock(guard);
    return result;
}

int nr_shard_lock(struct nr_table *table, uint32_t number, uint64_t deadline_ns)
{
    struct nr_view view = nr_view_of(table, number);
    int error = try_now(&view.shard->lock);
    uint64_t begun_ns = 0;

    if (error == EBUSY && deadline_ns == 0)
        return -ETIMEDOUT; /* a try, which is no wait */
    if (error == EBUSY) {
        nr_count_shared(view.shard, NR_LOCK_WAITS, 1);
        begun_ns = nr_os_now_ns();
        error = wait_for(&view.shard->lock, deadline_ns);
    }
    for (int i = 0; error == ENOTRECOVERABLE && i < 3; i++) {
        int result = make_anew(&view, deadline_ns);

        if (result < 0)
            return result;
        error = wait_for(&view.shard->lock, deadline_ns);
    }
    if (error == ETIMEDOUT &&
        (table->short_wait_ns == 0 || deadline_ns >= begun_ns + table->short_wait_ns))
        nr_count_shared(view.shard, NR_LOCK_TIMEOUTS, 1);
    if (error && error != EOWNERDEAD)
        return -error;
    if (error == EOWNERDEAD)
        recover(&view); /* first: who died while it emptied left positions that only this explains */
    if (!is_sane(&view))
        rebuild(&view);
    NR_CRASHPOINT(NR_AT_TABLE_LOCKED);
    return 0;
}

int nr_shard_lock_to_write(struct nr_table *table, uint32_t number, uint64_t deadline_ns)
{
    int result = nr_shard_lock(table, number, deadline_ns);

    /* Under the mutex: pairs with the round over all of them in nr_table_retire */
    if (result == 0 && nr_table_successor(table) != 0) {
        nr_shard_unlock(table, number);
        return -ESTALE;
    }
    return result;
}

void nr_shard_unlock(struct nr_table *table, uint32_t number)
{
    NR_CRASHPOINT(NR_AT_TABLE_UNLOCK);
    pthread_mutex_unlock(&nr_shard_at(table, number)->lock);
}

static void unlock_below(struct nr_table *table, const uint64_t *mask, uint32_t end)
{
    for (uint32_t i = end; i-- > 0;)
        if (mask[i / 64] >> i % 64 & 1)
            nr_shard_unlock(table, i);
}

/* Always from the first to the last: two who want several cannot wait for each other. */
int nr_table_lock_shards(struct nr_table *table, const uint64_t *mask, uint64_t deadline_ns)
{
    for (uint32_t i = 0; i < table->layout.shards; i++) {
        int result;

        if (!(mask[i / 64] >> i % 64 & 1))
            continue;
        result = nr_shard_lock_to_write(table, i, deadline_ns);
        if (result < 0) {
            unlock_below(table, mask, i);
            return result;
        }
    }
    return 0;
}

void nr_table_unlock_shards(struct nr_table *table, const uint64_t *mask)
{
    unlock_below(table, mask, table->layout.shards);
}
