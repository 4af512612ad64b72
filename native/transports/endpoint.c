/* The half of an endpoint that is equal for every transport: who may use it, the outbox, the one
 * place that waits, closing. */
#include "naru/endpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A waiter looks up this often: for signals while it spins or queues, for a sibling's owner. */
#define SLICE_NS 50000000u
/* Giving up and taking back the lock costs a twentieth of it. */
#define GLANCE_NS 2000u
/* A search for the newest message ends here, however fast they come. */
#define NEWEST_MOST 65536u
/* So many messages between two waits are a stream. */
#define STREAM_ROW 3u
#ifndef GATHER_PAUSES
#define GATHER_PAUSES 48 /* about 1 us */
#endif

static void *malloc_allocate(size_t size, uint8_t **data)
{
    *data = malloc(size ? size : 1);
    return *data;
}

const struct nr_allocator nr_malloc_allocator = {malloc_allocate, free};

static const struct nr_transport_ops nothing_ops = {.name = "nothing"};

struct nr_endpoint nr_endpoint_nobody = {.ops = &nothing_ops, .state = NR_CLOSED};

static void init_hold(struct nr_endpoint *e)
{
    pthread_mutexattr_t attributes;

    /* Recursive: a signal handler that runs inside a waiting send may close the endpoint. */
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    for (int i = 0; i < 2; i++)
        pthread_mutex_init(&e->hold[i], &attributes);
    pthread_mutexattr_destroy(&attributes);
}

void nr_endpoint_init(struct nr_endpoint *e, const struct nr_transport_ops *ops,
                      enum nr_wait_mode mode, uint32_t max_message_bytes,
                      const struct nr_allocator *allocator)
{
    e->ops = ops;
    e->ready_is_cheap = ops->ready_is_cheap;
    e->max_message_bytes = max_message_bytes;
    e->allocator = allocator;
    nr_waiting_start(&e->waiting[NR_SEND], mode);
    nr_waiting_start(&e->waiting[NR_RECEIVE], mode);
    init_hold(e);
    nr_process_register(e);
}

void nr_endpoint_join_pair(struct nr_endpoint *e, struct nr_claims *claims, int index,
                           struct nr_endpoint *sibling)
{
    nr_claims_retain(claims);
    e->pair.claims = claims;
    e->pair.index = index;
    e->pair.sibling = sibling;
    atomic_store(&e->state, NR_UNCLAIMED);
}

static void forget_sibling(struct nr_endpoint *e)
{
    if (e->pair.sibling)
        e->pair.sibling->pair.sibling = NULL;
    e->pair.sibling = NULL;
}

/* The copy of the other end that this process still has keeps the peer's death invisible: drop it
 * as soon as the other end has an owner elsewhere. */
static void settle_sibling(struct nr_endpoint *e)
{
    uint32_t owner = nr_claims_owner(e->pair.claims, !e->pair.index);

    if (owner == 0)
        return;
    if (owner != nr_process_token() && nr_endpoint_state(e->pair.sibling) == NR_UNCLAIMED)
        nr_endpoint_abandon(e->pair.sibling);
    forget_sibling(e);
}

static int claim(struct nr_endpoint *e)
{
    if (!nr_claims_take(e->pair.claims, e->pair.index, nr_process_token())) {
        nr_endpoint_abandon(e);
        return -ECHILD;
    }
    atomic_store(&e->state, NR_OPEN);
    if (e->pair.sibling)
        settle_sibling(e);
    return 0;
}

int nr_endpoint_admit(struct nr_endpoint *e)
{
    switch (nr_endpoint_state(e)) {
    case NR_OPEN:
        return 0;
    case NR_UNCLAIMED:
        return claim(e);
    case NR_FORKED:
        return -ECHILD;
    default:
        return -ECANCELED;
    }
}

/* ---- sending ---- */

static void drop_outbox(struct nr_endpoint *e)
{
    free(e->outbox.data);
    e->outbox.data = NULL;
    e->outbox.active = false;
}

void nr_endpoint_break_off(struct nr_endpoint *e, int error)
{
    drop_outbox(e);
    e->send_begun = true;
    e->send_error = error;
}

/* The kernel's buffers: they come free again, and a begun message has to be completed. */
static bool is_short_of_memory(int error) { return error == -ENOBUFS || error == -ENOMEM; }

int nr_endpoint_flush(struct nr_endpoint *e)
{
    int result;

    if (!e->outbox.active)
        return e->inner ? nr_endpoint_flush(e->inner) : 0;
    result = e->ops->send(e, &e->outbox.out);
    if (result == -EAGAIN || is_short_of_memory(result))
        return -EAGAIN;
    if (result < 0)
        nr_endpoint_break_off(e, result);
    else
        drop_outbox(e);
    return result;
}

int nr_endpoint_keep_rest(struct nr_endpoint *e, const struct nr_outgoing *out)
{
    /* The whole message, not only its rest: what `progress` means is the transport's business, and
     * large messages come here only at a timeout. */
    uint8_t *copy = malloc(out->size ? out->size : 1);

    if (!copy)
        return -ENOMEM;
    nr_parts_copy(out->parts, out->part_count, 0, out->size, copy);
    e->outbox.data = copy;
    e->outbox.part = (struct iovec){copy, out->size};
    e->outbox.out = *out;
    e->outbox.out.parts = &e->outbox.part;
    e->outbox.out.part_count = 1;
    e->outbox.out.fds = NULL; /* they went with the first byte */
    e->outbox.out.fd_count = out->fd_count;
    e->outbox.active = true;
    e->send_begun = false;
    return 0;
}

static int ready_to_send(struct nr_endpoint *e, bool begun)
{
    int result;

    if (__builtin_expect(nr_endpoint_state(e) != NR_OPEN, 0)) {
        result = nr_endpoint_admit(e);
        if (result < 0)
            return result;
    }
    if (__builtin_expect(e->pair.sibling != NULL, 0))
        settle_sibling(e); /* a sender that never waits must hear of its peer's death, too */
    if (__builtin_expect((e->send_begun || e->leaving) && !begun, 0))
        return e->leaving ? -ECANCELED : e->send_error ? e->send_error : -EBUSY;
    if (__builtin_expect(e->outbox.active, 0))
        return nr_endpoint_flush(e);
    return 0;
}

static void count_sent(struct nr_endpoint *e, size_t size)
{
    e->statistics.messages_sent++;
    e->statistics.bytes_sent += size;
}

static void prepare_to_wait(struct nr_endpoint *e)
{
    if (__builtin_expect(e->pair.sibling != NULL, 0))
        settle_sibling(e);
}

static int cut_short(struct nr_endpoint *e, const struct nr_outgoing *out, int error)
{
    if (is_short_of_memory(error) && nr_endpoint_accept_begun(e, out) == 0)
        return 0;
    nr_endpoint_break_off(e, error);
    return error;
}

int nr_endpoint_send(struct nr_endpoint *e, struct nr_outgoing *out)
{
    int result = ready_to_send(e, out->progress > 0);

    if (__builtin_expect(result == 0, 1)) {
        if (__builtin_expect(out->size > e->max_message_bytes, 0))
            return -EMSGSIZE;
        result = e->ops->send(e, out);
    }
    if (__builtin_expect(result == 0, 1)) {
        e->send_begun = false;
        count_sent(e, out->size);
        return 0;
    }
    if (result != -EAGAIN)
        return out->progress ? cut_short(e, out, result) : result;
    prepare_to_wait(e);
    if (out->progress == 0)
        return -EAGAIN;
    if (out->size <= NR_SMALL_MESSAGE && nr_endpoint_accept_begun(e, out) == 0)
        return 0;
    e->send_begun = true;
    return -EAGAIN;
}

int nr_endpoint_accept_begun(struct nr_endpoint *e, const struct nr_outgoing *out)
{
    int result = nr_endpoint_keep_rest(e, out);

    if (result == 0)
        count_sent(e, out->size);
    else
        nr_endpoint_break_off(e, result);
    return result;
}

int nr_endpoint_send_many(struct nr_endpoint *e, const struct iovec *messages, int count)
{
    int result = ready_to_send(e, false);
    int fitting = 0;

    if (result < 0) {
        if (result == -EAGAIN)
            prepare_to_wait(e);
        return result;
    }
    while (fitting < count && messages[fitting].iov_len <= e->max_message_bytes)
        fitting++;
    if (fitting == 0)
        return -EMSGSIZE;
    if (e->ops->send_many)
        result = e->ops->send_many(e, messages, fitting);
    else {
        struct nr_outgoing out = {.parts = messages, .part_count = 1, .size = messages[0].iov_len};

        result = nr_endpoint_send(e, &out);
        return result == 0 ? 1 : result; /* counted there; the caller goes on with the rest */
    }
    if (result == -EAGAIN)
        prepare_to_wait(e);
    for (int i = 0; i < result; i++)
        count_sent(e, messages[i].iov_len);
    return result;
}

int nr_endpoint_reserve(struct nr_endpoint *e, size_t size, uint8_t **place)
{
    int result = ready_to_send(e, false);

    if (result < 0)
        return result;
    if (size > e->max_message_bytes)
        return -EMSGSIZE;
    if (!e->ops->reserve)
        return -EOPNOTSUPP;
    result = e->ops->reserve(e, size, place);
    if (result == -EAGAIN)
        prepare_to_wait(e);
    return result;
}

int nr_endpoint_commit(struct nr_endpoint *e, size_t size)
{
    int result = nr_endpoint_admit(e);

    if (result == 0)
        result = e->ops->commit(e, size);
    if (result == 0)
        count_sent(e, size);
    return result;
}

/* ---- receiving ---- */

void nr_endpoint_kick(struct nr_endpoint *e)
{
    uint32_t waiting = NR_WAITING;

    if (atomic_compare_exchange_strong(&e->waiter, &waiting, NR_KICKED))
        nr_process_begin_interrupt(); /* pairs with: nr_endpoint_wait */
}

/* So that its place can be given back: 0 or -ENOMEM. */
static int move_out(struct nr_endpoint *e, struct nr_message *message)
{
    uint8_t *data;
    void *owner;

    if (message->owner)
        return 0;
    owner = e->allocator->allocate(message->size, &data);
    if (!owner)
        return -ENOMEM;
    memcpy(data, message->data, message->size);
    message->data = data;
    message->owner = owner;
    e->ops->release(e);
    return 0;
}

/* The last message that is there. Whatever stops the search comes again with the next call. */
static int receive_newest(struct nr_endpoint *e, struct nr_message *message)
{
    struct nr_message next;
    int result;

    if (e->lent)
        return -ENOBUFS; /* one message is a whole batch */
    result = e->ops->receive(e, message);
    if (result != 1)
        return result;
    for (unsigned passed = 0; passed < NEWEST_MOST; passed++) {
        result = e->ops->receive(e, &next);
        if (result == -ENOBUFS && move_out(e, message) == 0)
            continue;
        if (result != 1)
            break;
        if (message->owner)
            e->allocator->discard(message->owner);
        *message = next;
        e->statistics.lost++;
    }
    e->lent = !message->owner;
    if (e->ops->beat)
        (void)e->ops->beat(e); /* the publisher sends the next one when it hears that this was taken */
    return 1;
}

int nr_endpoint_receive(struct nr_endpoint *e, struct nr_message *message)
{
    int result;

    if (__builtin_expect(nr_endpoint_state(e) != NR_OPEN, 0)) {
        result = nr_endpoint_admit(e);
        if (result < 0)
            return result;
    }
    result = __builtin_expect(e->newest_only, 0) ? receive_newest(e, message)
                                                 : e->ops->receive(e, message);
    if (__builtin_expect(result == 1, 1)) {
        e->statistics.messages_received++;
        e->statistics.bytes_received += message->size;
        if (__builtin_expect(atomic_load_explicit(&e->waiter, memory_order_relaxed), 0) &&
            e->ops->depth_bytes && e->ops->depth_bytes(e) > 0)
            nr_endpoint_kick(e);
    } else if (result == -EAGAIN) {
        prepare_to_wait(e);
        if (e->outbox.active || e->inner) /* a peer that answers only after the rest must not wait for ever */
            (void)nr_endpoint_flush(e);
    }
    return result;
}

void nr_endpoint_release(struct nr_endpoint *e)
{
    e->lent = false;
    if (nr_endpoint_state(e) == NR_OPEN)
        e->ops->release(e);
}

void nr_endpoint_read_statistics(struct nr_endpoint *e, struct nr_statistics *sum)
{
    *sum = e->statistics;
    if (e->ops->add_statistics && nr_endpoint_state(e) == NR_OPEN)
        e->ops->add_statistics(e, sum);
}

void nr_statistics_add_signs(struct nr_statistics *sum, const struct nr_statistics *inner)
{
    sum->torn += inner->torn;
    sum->lost += inner->lost;
    sum->duplicates += inner->duplicates;
    sum->reordered += inner->reordered;
    sum->strangers += inner->strangers;
    sum->wakeups += inner->wakeups;
    sum->fds_dropped += inner->fds_dropped;
}

/* ---- waiting ---- */

static bool is_worth_a_try(struct nr_endpoint *e, enum nr_direction direction)
{
    return nr_endpoint_state(e) != NR_OPEN || e->ops->is_ready(e, direction);
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

bool nr_endpoint_spin(struct nr_endpoint *e, enum nr_direction direction, uint64_t budget_ns)
{
    uint64_t until;

    if (is_worth_a_try(e, direction))
        return true;
    until = nr_os_now_ns() + budget_ns;
    do {
        for (int i = 0; i < 16; i++) {
            if (is_worth_a_try(e, direction))
                return true;
            relax();
        }
    } while (nr_os_now_ns() < until);
    return false;
}

/* Two processes in a stream that run at the same pace chase each other: one message, one look, one
 * cache line back and forth. After several messages in a row, stay away from the shared lines for a
 * moment, so that the next look finds several again. A conversation (one message a wait) never
 * comes here, so its latency does not change. */
static void let_some_gather(struct nr_endpoint *e, enum nr_direction direction)
{
    uint64_t done = direction == NR_SEND ? e->statistics.messages_sent
                                         : e->statistics.messages_received;
    uint64_t in_row = done - e->done_before_wait[direction];

    e->done_before_wait[direction] = done;
    if (in_row >= STREAM_ROW)
        for (int i = 0; i < GATHER_PAUSES; i++)
            relax();
}

bool nr_endpoint_glance(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_waiting *waiting = &e->waiting[direction];
    uint64_t started;

    if (!e->ready_is_cheap || e->end_error ||
        nr_waiting_budget_ns(waiting, nr_process_cpu_count()) < GLANCE_NS)
        return false;
    let_some_gather(e, direction);
    started = nr_os_now_ns();
    if (!nr_endpoint_spin(e, direction, GLANCE_NS))
        return false;
    e->statistics.waits[direction]++;
    e->statistics.spins[direction]++;
    nr_waiting_learn(waiting, nr_os_now_ns() - started, true);
    return true;
}

static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Sleeps once, at most until `until`: 1 when something happened, 0 at the time, -errno. */
static int sleep_until(struct nr_endpoint *e, enum nr_direction direction, struct pollfd *fds,
                       int count, uint64_t until)
{
    uint64_t now = nr_os_now_ns();
    int result;

    if (until != NR_FOREVER && now >= until)
        return 0;
    result = nr_os_sleep(fds, (nfds_t)count, until == NR_FOREVER ? NR_FOREVER : until - now);
    e->statistics.sleeps[direction]++;
    return result > 0 ? 1 : result;
}

/* While this process has an unclaimed copy of the other end, its owner is looked for. */
uint64_t nr_endpoint_look_up_interval(const struct nr_endpoint *e)
{
    uint64_t interval = e->check_interval_ns ? e->check_interval_ns : NR_FOREVER;

    return e->pair.sibling ? earlier(interval, SLICE_NS) : interval;
}

int nr_endpoint_look_up(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_endpoint *sibling = e->pair.sibling;

    if (sibling && nr_claims_owner(e->pair.claims, !e->pair.index) != 0)
        return 1; /* the next try, under the lock, drops the copy */
    return e->ops->check ? e->ops->check(e, direction) : 0;
}

static int sleep_in_kernel(struct nr_endpoint *e, enum nr_direction direction, uint64_t deadline_ns)
{
    struct pollfd fds[NR_SLEEP_FDS + 1];
    int count = e->ops->fall_asleep(e, direction, fds);
    int result = 1;

    if (count == 0)
        return 1;
    fds[count++] = (struct pollfd){.fd = nr_process_interrupt_fd(), .events = POLLIN};
    for (;;) {
        uint64_t interval = nr_endpoint_look_up_interval(e);
        uint64_t look = interval == NR_FOREVER ? NR_FOREVER : nr_os_now_ns() + interval;

        result = sleep_until(e, direction, fds, count, earlier(deadline_ns, look));
        if (result != 0 || (deadline_ns <= look))
            break;
        result = nr_endpoint_look_up(e, direction);
        if (result != 0)
            break;
    }
    e->ops->wake(e, direction);
    return result;
}

/* Spinning without the lock, in slices, so that the binding sees signals and deaths. */
static int spin_slice(struct nr_endpoint *e, enum nr_direction direction, uint64_t budget_ns)
{
    struct pollfd fds[NR_SLEEP_FDS + 1];
    int count;

    if (nr_endpoint_spin(e, direction, earlier(budget_ns, SLICE_NS)))
        return 1;
    if (budget_ns < SLICE_NS)
        return 0;
    count = e->ops->fall_asleep(e, direction, fds); /* a look at the descriptors: is the peer alive? */
    if (count == 0)
        return 1;
    count = nr_os_sleep(fds, (nfds_t)count, 0);
    e->ops->wake(e, direction);
    if (count > 0)
        return 1;
    count = nr_endpoint_look_up(e, direction);
    return count != 0 ? count : -EINTR;
}

static int wait_in_turn(struct nr_endpoint *e, enum nr_direction direction, uint64_t deadline_ns)
{
    struct nr_waiting *waiting = &e->waiting[direction];
    uint64_t started = nr_os_now_ns();
    uint64_t budget = nr_waiting_budget_ns(waiting, nr_process_cpu_count());
    int result;

    e->statistics.waits[direction]++;
    if (deadline_ns <= started)
        return is_worth_a_try(e, direction);
    if (budget > 0) {
        result = spin_slice(e, direction, earlier(budget, deadline_ns - started));
        if (result == 1) {
            e->statistics.spins[direction]++;
            nr_waiting_learn(waiting, nr_os_now_ns() - started, true);
        }
        if (result != 0)
            return result;
        if (deadline_ns <= started + budget)
            return is_worth_a_try(e, direction);
    }
    /* Where looking is a system call, the sleep is the look: it ends at once. */
    if (e->ready_is_cheap ? is_worth_a_try(e, direction) : nr_endpoint_state(e) != NR_OPEN)
        return 1;
    result = sleep_in_kernel(e, direction, deadline_ns);
    if (result == 1)
        nr_waiting_learn(waiting, nr_os_now_ns() - started, false);
    return result;
}

int nr_endpoint_wait(struct nr_endpoint *e, enum nr_direction direction, uint64_t deadline_ns)
{
    int result = wait_in_turn(e, direction, deadline_ns);

    if (direction == NR_RECEIVE && atomic_exchange(&e->waiter, NR_NOBODY_WAITS) == NR_KICKED) {
        nr_process_end_interrupt();
        return 1;
    }
    return result;
}

int nr_endpoint_hold(struct nr_endpoint *e, enum nr_direction direction, uint64_t deadline_ns)
{
    uint64_t until = nr_os_now_ns() + SLICE_NS;
    struct timespec limit;
    int error;

    until = earlier(until, deadline_ns);
    limit = (struct timespec){(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    error = pthread_mutex_clocklock(&e->hold[direction], CLOCK_MONOTONIC, &limit);
    if (error == 0)
        return 0;
    return error == ETIMEDOUT && until < deadline_ns ? -EINTR : -error;
}

bool nr_endpoint_try_hold(struct nr_endpoint *e, enum nr_direction direction)
{
    return pthread_mutex_trylock(&e->hold[direction]) == 0;
}

void nr_endpoint_let_go(struct nr_endpoint *e, enum nr_direction direction)
{
    pthread_mutex_unlock(&e->hold[direction]);
}

/* ---- descriptors that travel ---- */

int nr_fds_collect(struct nr_fd_queue *queue, struct msghdr *message)
{
    unsigned before = queue->count;
    bool too_many = false;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        size_t count;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (queue->count < NR_FD_QUEUE)
                queue->fds[queue->count++] = fd;
            else {
                nr_os_close(fd);
                too_many = true;
            }
        }
    }
    if (message->msg_flags & MSG_CTRUNC) { /* this process has no free number for the rest */
        while (queue->count > before)
            nr_os_close(queue->fds[--queue->count]);
        return -EMFILE;
    }
    return too_many ? -EPROTO : 0;
}

void nr_fds_close(struct nr_fd_queue *queue, unsigned count)
{
    if (count > queue->count)
        count = queue->count;
    for (unsigned i = 0; i < count; i++)
        nr_os_close(queue->fds[i]);
    queue->count -= count;
    memmove(queue->fds, queue->fds + count, queue->count * sizeof *queue->fds);
}

unsigned nr_endpoint_take_fds(struct nr_endpoint *e, unsigned came, int *fds, unsigned limit)
{
    unsigned taken = came < limit ? came : limit;

    memcpy(fds, e->incoming_fds.fds, taken * sizeof *fds);
    e->incoming_fds.count -= taken;
    memmove(e->incoming_fds.fds, e->incoming_fds.fds + taken,
            e->incoming_fds.count * sizeof *fds);
    if (came > taken) {
        nr_fds_close(&e->incoming_fds, came - taken);
        e->statistics.fds_dropped += came - taken;
    }
    return taken;
}

void nr_fds_move(struct nr_endpoint *to, struct nr_endpoint *from, struct nr_message *message)
{
    unsigned room = NR_FD_QUEUE - to->incoming_fds.count;

    if (message->fd_count == 0)
        return;
    message->fd_count = nr_endpoint_take_fds(
        from, message->fd_count, to->incoming_fds.fds + to->incoming_fds.count, room);
    to->incoming_fds.count += message->fd_count;
}

size_t nr_fds_attach(struct msghdr *message, void *control, const int *fds, unsigned count)
{
    struct cmsghdr *c = control;
    size_t bytes = count * sizeof *fds;

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(c), fds, bytes);
    message->msg_control = control;
    message->msg_controllen = CMSG_SPACE(bytes);
    return message->msg_controllen;
}

void nr_parts_copy(const struct iovec *parts, int count, size_t offset, size_t size, uint8_t *to)
{
    for (int i = 0; i < count && size > 0; i++) {
        size_t part = parts[i].iov_len;

        if (offset >= part) {
            offset -= part;
            continue;
        }
        part -= offset;
        if (part > size)
            part = size;
        memcpy(to, (const uint8_t *)parts[i].iov_base + offset, part);
        to += part;
        size -= part;
        offset = 0;
    }
}

/* ---- the end ---- */

static void free_everything(struct nr_endpoint *e)
{
    e->ops->close(e);
    nr_fds_close(&e->incoming_fds, e->incoming_fds.count);
    drop_outbox(e);
    forget_sibling(e);
    if (e->pair.claims)
        nr_claims_release(e->pair.claims);
    e->pair.claims = NULL;
}

int nr_endpoint_take_leave(struct nr_endpoint *e)
{
    int result = nr_endpoint_flush(e);

    e->leaving = true;
    if (result < 0 || e->goodbye_said || e->send_begun || !e->ops->say_goodbye)
        return result;
    result = e->ops->say_goodbye(e);
    e->goodbye_said = result != -EAGAIN;
    return e->outbox.active ? -EAGAIN : result; /* half a goodbye: the rest is in the outbox */
}

bool nr_endpoint_begin_close(struct nr_endpoint *e)
{
    uint32_t before = nr_endpoint_state(e);

    if (before == NR_FORKED) {
        atomic_store(&e->state, NR_CLOSED);
        return false; /* nothing is left to free */
    }
    if (before == NR_CLOSED)
        return false;
    if (before == NR_OPEN)
        (void)nr_endpoint_take_leave(e);
    /* else: an end that was never used here; another process may own it, so say nothing */
    atomic_store(&e->state, NR_CLOSED);
    nr_process_begin_interrupt();
    return true;
}

void nr_endpoint_finish_close(struct nr_endpoint *e)
{
    pthread_mutex_lock(&e->hold[NR_SEND]);
    pthread_mutex_lock(&e->hold[NR_RECEIVE]);
    nr_process_end_interrupt();
    nr_process_unregister(e);
    free_everything(e);
    pthread_mutex_unlock(&e->hold[NR_RECEIVE]);
    pthread_mutex_unlock(&e->hold[NR_SEND]);
}

void nr_endpoint_free(struct nr_endpoint *e)
{
    nr_process_unregister(e);
    pthread_mutex_destroy(&e->hold[0]);
    pthread_mutex_destroy(&e->hold[1]);
    if (e->ops->free)
        e->ops->free(e);
    free(e);
}

void nr_endpoint_abandon(struct nr_endpoint *e)
{
    if (nr_endpoint_state(e) == NR_FORKED || nr_endpoint_state(e) == NR_CLOSED)
        return;
    atomic_store(&e->state, NR_FORKED);
    free_everything(e);
}

void nr_endpoint_after_fork(struct nr_endpoint *e)
{
    init_hold(e); /* a thread that the child does not have may have held them */
    atomic_store(&e->waiter, NR_NOBODY_WAITS);
    if (nr_endpoint_state(e) == NR_OPEN)
        nr_endpoint_abandon(e); /* the parent's; an unclaimed end of a pair may become ours */
}
