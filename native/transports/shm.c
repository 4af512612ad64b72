/* Shared memory: two rings in one sealed segment, four doorbells, a lifeline.
 *
 * A message is one record in the ring. One that is larger than the ring streams through in
 * fragments. Descriptors travel on the lifeline, sent before the record that announces them. A dead
 * peer is a hang-up on the lifeline, whatever killed it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "naru/transports.h"

/* A sender that never has to wait looks at the lifeline so often. */
#define LOOK_NS 20000000u
#define FRAGMENT_TOTAL 8u

struct nr_shm {
    struct nr_endpoint base;
    struct nr_segment *segment;
    struct nr_ring out, in;
    struct nr_shm_descriptors fds;
    int end;                   /* this side writes ring `end` and reads the other */
    uint64_t next_look_ns;     /* coarse clock */
    _Atomic bool suspicious;   /* slept since the last look at the lifeline */
    bool lifeline_full;        /* a send waits to pass descriptors */
    int epoll;                 /* what fileno() gives: the doorbell and the lifeline; -1 not asked */
    unsigned unreleased;       /* in-place messages that are out */
    struct {                   /* a message that comes in fragments */
        void *owner;
        uint8_t *data;
        uint64_t size, filled;
        uint32_t fds;
        bool fds_lost;         /* there was no number free for them: the message is lost, too */
    } assembly;
};

static struct nr_shm *shm_of(struct nr_endpoint *e) { return (struct nr_shm *)e; }

static int data_bell_in(const struct nr_shm *shm) { return shm->fds.data_bell[!shm->end]; }
static int space_bell_in(const struct nr_shm *shm) { return shm->fds.space_bell[!shm->end]; }
static int data_bell_out(const struct nr_shm *shm) { return shm->fds.data_bell[shm->end]; }
static int space_bell_out(const struct nr_shm *shm) { return shm->fds.space_bell[shm->end]; }

/* 0 or -EPIPE. */
static int look_at_lifeline(struct nr_shm *shm)
{
    int events = nr_os_poll_now(shm->fds.lifeline, POLLRDHUP);

    shm->suspicious = events != 0; /* the dead stay dead: no later send may slip by */
    shm->next_look_ns = nr_os_coarse_now_ns() + LOOK_NS;
    return events ? -EPIPE : 0;
}

static bool time_to_look(const struct nr_shm *shm)
{
    return shm->suspicious || nr_os_coarse_now_ns() >= shm->next_look_ns;
}

/* ---- sending ---- */

static void publish(struct nr_shm *shm)
{
    nr_ring_publish(&shm->out);
    if (__builtin_expect(nr_ring_consumer_must_be_woken(&shm->out), 0)) {
        (void)nr_os_eventfd_ring(data_bell_out(shm));
        shm->base.statistics.wakeups++;
        shm->suspicious = true; /* the bell was the expensive part: afford a look next time */
    }
}

static int find_room(struct nr_shm *shm, uint64_t size, uint8_t **place)
{
    int result = nr_ring_reserve(&shm->out, size, place);

    if (__builtin_expect(result == -EAGAIN, 0)) {
        shm->base.wanted_bytes = NR_RECORD_HEADER + NR_RING_PAD(size);
        if (time_to_look(shm) && look_at_lifeline(shm) < 0)
            return -EPIPE;
    }
    return result;
}

/* Before the record that announces them. */
static int pass_fds(struct nr_shm *shm, const struct nr_outgoing *out)
{
    _Alignas(struct cmsghdr) uint8_t control[NR_FD_CONTROL_BYTES];
    uint8_t count = (uint8_t)out->fd_count;
    struct iovec part = {&count, sizeof count};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t sent;

    nr_fds_attach(&message, control, out->fds, out->fd_count);
    sent = nr_os_send_message(shm->fds.lifeline, &message, MSG_DONTWAIT);
    shm->lifeline_full = sent == -EAGAIN;
    return sent < 0 ? (int)sent : 0;
}

static int send_fragments(struct nr_shm *shm, struct nr_outgoing *out)
{
    const uint64_t most = shm->out.capacity / 4 - NR_RECORD_HEADER - FRAGMENT_TOTAL;

    while (out->progress < out->size) {
        uint64_t rest = out->size - out->progress;
        uint64_t size = rest < most ? rest : most;
        uint32_t flags = rest > most ? NR_RECORD_MORE : 0;
        uint64_t total = out->size;
        bool first = out->progress == 0;
        uint8_t *place;
        int result = find_room(shm, size + (first ? FRAGMENT_TOTAL : 0), &place);

        if (result < 0)
            return result;
        if (first) {
            if (out->fd_count) {
                result = pass_fds(shm, out);
                if (result < 0)
                    return result;
            }
            memcpy(place, &total, sizeof total);
            place += FRAGMENT_TOTAL;
            flags |= NR_RECORD_FIRST | out->fd_count << NR_RECORD_FDS_SHIFT;
        }
        nr_parts_copy(out->parts, out->part_count, out->progress, size, place);
        nr_ring_commit(&shm->out, (uint32_t)(size + (first ? FRAGMENT_TOTAL : 0)), flags);
        out->progress += size;
        publish(shm);
    }
    return 0;
}

static int shm_send(struct nr_endpoint *e, struct nr_outgoing *out)
{
    struct nr_shm *shm = shm_of(e);
    uint8_t *place;
    int result;

    if (__builtin_expect(time_to_look(shm), 0) && look_at_lifeline(shm) < 0)
        return -EPIPE;
    if (__builtin_expect(out->size > nr_ring_max_record(&shm->out), 0))
        return send_fragments(shm, out);
    result = find_room(shm, out->size, &place);
    if (__builtin_expect(result < 0, 0))
        return result;
    if (__builtin_expect(out->fd_count != 0, 0)) {
        result = pass_fds(shm, out);
        if (result < 0)
            return result;
    }
    if (__builtin_expect(out->part_count == 1, 1))
        memcpy(place, out->parts->iov_base, out->size);
    else
        nr_parts_copy(out->parts, out->part_count, 0, out->size, place);
    nr_ring_commit(&shm->out, (uint32_t)out->size, out->fd_count << NR_RECORD_FDS_SHIFT);
    publish(shm);
    return 0;
}

static int shm_send_many(struct nr_endpoint *e, const struct iovec *messages, int count)
{
    struct nr_shm *shm = shm_of(e);
    int taken = 0, result = 0;

    if (time_to_look(shm) && look_at_lifeline(shm) < 0)
        return -EPIPE;
    while (taken < count) {
        uint8_t *place;

        if (messages[taken].iov_len > nr_ring_max_record(&shm->out)) {
            struct nr_outgoing out = {
                .parts = &messages[taken], .part_count = 1, .size = messages[taken].iov_len};

            if (taken > 0)
                break; /* alone, in the next call */
            result = send_fragments(shm, &out);
            if (result == -EAGAIN && out.progress > 0)
                result = nr_endpoint_keep_rest(e, &out);
            if (result < 0 && out.progress > 0)
                nr_endpoint_break_off(e, result);
            return result < 0 ? result : 1;
        }
        result = find_room(shm, messages[taken].iov_len, &place);
        if (result < 0)
            break;
        memcpy(place, messages[taken].iov_base, messages[taken].iov_len);
        nr_ring_commit(&shm->out, (uint32_t)messages[taken].iov_len, 0);
        taken++;
        if (taken % 16 == 0)
            publish(shm); /* the consumer works on these while the next are copied */
    }
    if (taken % 16 != 0)
        publish(shm);
    return taken > 0 ? taken : result;
}

static int shm_reserve(struct nr_endpoint *e, size_t size, uint8_t **place)
{
    struct nr_shm *shm = shm_of(e);

    if (time_to_look(shm) && look_at_lifeline(shm) < 0)
        return -EPIPE;
    return find_room(shm, size, place);
}

static int shm_commit(struct nr_endpoint *e, size_t size)
{
    nr_ring_commit(&shm_of(e)->out, (uint32_t)size, 0);
    publish(shm_of(e));
    return 0;
}

/* ---- receiving ---- */

static void shm_release(struct nr_endpoint *e)
{
    struct nr_shm *shm = shm_of(e);

    shm->unreleased = 0;
    nr_ring_release(&shm->in);
    if (__builtin_expect(nr_ring_producer_must_be_woken(&shm->in), 0)) {
        (void)nr_os_eventfd_ring(space_bell_in(shm));
        e->statistics.wakeups++;
    }
}

static int fail(struct nr_shm *shm, int error)
{
    shm->base.end_error = error;
    return error;
}

static void drop_assembly(struct nr_shm *shm)
{
    if (shm->assembly.owner)
        shm->base.allocator->discard(shm->assembly.owner);
    shm->assembly.owner = NULL;
}

static int fetch_fds(struct nr_shm *shm, unsigned announced)
{
    _Alignas(struct cmsghdr) uint8_t control[NR_FD_CONTROL_BYTES];
    unsigned before = shm->base.incoming_fds.count;
    uint8_t count = 0;
    struct iovec part = {&count, sizeof count};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t got = nr_os_receive_message(shm->fds.lifeline, &message, MSG_DONTWAIT);
    int result;

    if (got < 0)
        return got == -EAGAIN ? -EPROTO : (int)got;
    result = nr_fds_collect(&shm->base.incoming_fds, &message);
    if (got != 1 || message.msg_flags & MSG_TRUNC || count != announced ||
        (result == 0 && shm->base.incoming_fds.count - before != announced))
        return -EPROTO;
    return result;
}

/* One record of a message in fragments: 1 when it is whole, 0 when more is to come. Each brings
 * something: a peer that sends nothing for ever would hold this process for ever. */
static int assemble(struct nr_shm *shm, struct nr_record record, const uint8_t *payload)
{
    uint64_t size = record.length;

    if (record.flags & NR_RECORD_FIRST) {
        uint64_t total;

        if (shm->assembly.owner || size < FRAGMENT_TOTAL)
            return -EBADMSG;
        memcpy(&total, payload, sizeof total);
        if (total > shm->base.max_message_bytes)
            return -EMSGSIZE;
        shm->assembly.owner = shm->base.allocator->allocate(total, &shm->assembly.data);
        if (!shm->assembly.owner)
            return -ENOMEM;
        shm->assembly.size = total;
        shm->assembly.filled = 0;
        shm->assembly.fds = nr_record_fds(record);
        payload += FRAGMENT_TOTAL;
        size -= FRAGMENT_TOTAL;
    }
    if (!shm->assembly.owner || size == 0 || size > shm->assembly.size - shm->assembly.filled)
        return -EBADMSG;
    memcpy(shm->assembly.data + shm->assembly.filled, payload, size);
    shm->assembly.filled += size;
    if (record.flags & NR_RECORD_MORE)
        return 0;
    return shm->assembly.filled == shm->assembly.size ? 1 : -EBADMSG;
}

static int deliver_assembly(struct nr_shm *shm, struct nr_message *message)
{
    if (shm->assembly.fds_lost) {
        drop_assembly(shm);
        return -EMFILE;
    }
    *message = (struct nr_message){.data = shm->assembly.data,
                                   .size = shm->assembly.size,
                                   .owner = shm->assembly.owner,
                                   .fd_count = shm->assembly.fds};
    shm->assembly.owner = NULL;
    return 1;
}

/* The ring is empty: because the peer has ended? */
static int nothing_there(struct nr_shm *shm)
{
    struct nr_endpoint *e = &shm->base;

    if (shm->epoll >= 0) { /* whoever polls fileno() must hear of the next message */
        (void)nr_os_eventfd_drain(data_bell_in(shm));
        if (nr_ring_consumer_falls_asleep(&shm->in))
            return 0;
    }
    if ((!time_to_look(shm) && shm->epoll < 0) || look_at_lifeline(shm) == 0) {
        if (!atomic_load_explicit(&shm->in.control->producer_closed, memory_order_acquire)) {
            /* A batch that is still out keeps the ring from becoming empty: the producer may have
             * room for what it has, and this side would wait for it for ever. */
            if (shm->unreleased && nr_ring_producer_must_be_woken(&shm->in))
                (void)nr_os_eventfd_ring(space_bell_in(shm));
            return -EAGAIN;
        }
    }
    if (nr_ring_has_record(&shm->in))
        return 0; /* published before the end: look again */
    if (shm->assembly.owner) {
        drop_assembly(shm);
        e->statistics.torn++;
        return fail(shm, -EPIPE);
    }
    return fail(shm, atomic_load(&shm->in.control->producer_closed) == 1 ? -ESHUTDOWN : -EPIPE);
}

/* Steps back: this record cannot be taken together with those that are still out. */
static int leave_for_later(struct nr_shm *shm, struct nr_record record)
{
    atomic_store_explicit(
        &shm->in.position,
        nr_ring_position(&shm->in) - NR_RECORD_HEADER - NR_RING_PAD(record.length),
        memory_order_relaxed);
    return -ENOBUFS;
}

static int special_record(struct nr_shm *shm, struct nr_record record, const uint8_t *payload,
                          struct nr_message *message)
{
    unsigned fds = nr_record_fds(record);
    bool fragment = record.flags & (NR_RECORD_FIRST | NR_RECORD_MORE) || shm->assembly.owner;
    int result = 0;

    if (record.flags & (NR_RECORD_BYE | NR_RECORD_HEARTBEAT) || /* a stream's */
        (fds && (record.flags & NR_RECORD_SKIP || (fragment && !(record.flags & NR_RECORD_FIRST)))))
        return fail(shm, -EPROTO);
    if (!fragment && !(record.flags & NR_RECORD_SKIP) &&
        record.length > shm->base.max_message_bytes)
        return fail(shm, -EMSGSIZE);
    /* Releasing a fragment, or what is lost with its descriptors, would release those before it. */
    if ((fragment || fds) && shm->unreleased)
        return leave_for_later(shm, record);
    if (fds)
        result = fetch_fds(shm, fds);
    if (result < 0 && (result != -EMFILE || !fragment)) {
        shm_release(&shm->base);
        /* Out of descriptors: this message is lost with its descriptors, the stream goes on. */
        return result == -EMFILE ? result : fail(shm, result);
    }
    if (fragment) {
        if (record.flags & NR_RECORD_FIRST)
            shm->assembly.fds_lost = result == -EMFILE;
        result = assemble(shm, record, payload);
        shm_release(&shm->base);
        if (result < 0)
            return fail(shm, result);
        return result == 1 ? deliver_assembly(shm, message) : 0;
    }
    if (record.flags & NR_RECORD_SKIP)
        return 0;
    *message = (struct nr_message){.data = payload, .size = record.length, .fd_count = fds};
    shm->unreleased++;
    return 1;
}

static int shm_receive(struct nr_endpoint *e, struct nr_message *message)
{
    struct nr_shm *shm = shm_of(e);
    int result;

    do {
        struct nr_record record;
        const uint8_t *payload;

        if (__builtin_expect(e->end_error, 0))
            return e->end_error;
        result = nr_ring_next(&shm->in, &record, &payload);
        if (__builtin_expect(result == 1 && record.flags == 0 && !shm->assembly.owner &&
                                 record.length <= e->max_message_bytes,
                             1)) {
            *message = (struct nr_message){.data = payload, .size = record.length};
            shm->unreleased++;
            return 1;
        }
        if (result == 1)
            result = special_record(shm, record, payload, message);
        else if (result == -EAGAIN)
            result = nothing_there(shm);
        else
            result = fail(shm, result);
    } while (result == 0);
    return result;
}

/* ---- waiting ---- */

static bool shm_is_ready(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_shm *shm = shm_of(e);

    if (direction == NR_SEND)
        return nr_ring_has_room(&shm->out, e->wanted_bytes);
    return nr_ring_has_record(&shm->in) ||
           atomic_load_explicit(&shm->in.control->producer_closed, memory_order_relaxed);
}

static int shm_fall_asleep(struct nr_endpoint *e, enum nr_direction direction, struct pollfd *fds)
{
    struct nr_shm *shm = shm_of(e);
    bool ready;

    fds[1] = (struct pollfd){.fd = shm->fds.lifeline, .events = POLLRDHUP};
    if (direction == NR_SEND) {
        fds[0] = (struct pollfd){.fd = space_bell_out(shm), .events = POLLIN};
        if (shm->lifeline_full) {
            fds[1].events |= POLLOUT;
            return 2;
        }
        ready = nr_ring_producer_falls_asleep(&shm->out, e->wanted_bytes);
    } else {
        fds[0] = (struct pollfd){.fd = data_bell_in(shm), .events = POLLIN};
        ready = nr_ring_consumer_falls_asleep(&shm->in) ||
                atomic_load_explicit(&shm->in.control->producer_closed, memory_order_acquire);
    }
    return ready ? 0 : 2;
}

static void shm_wake(struct nr_endpoint *e, enum nr_direction direction)
{
    struct nr_shm *shm = shm_of(e);

    shm->suspicious = true;
    if (direction == NR_SEND) {
        nr_ring_producer_wakes(&shm->out);
        (void)nr_os_eventfd_drain(space_bell_out(shm));
    } else {
        nr_ring_consumer_wakes(&shm->in);
        (void)nr_os_eventfd_drain(data_bell_in(shm));
    }
}

static int watch(int epoll, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events};

    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* The doorbell alone would never tell of a peer that died. */
static int shm_fileno(struct nr_endpoint *e)
{
    struct nr_shm *shm = shm_of(e);

    if (shm->epoll < 0) {
        int epoll = epoll_create1(EPOLL_CLOEXEC);
        int result = epoll < 0 ? -errno : watch(epoll, data_bell_in(shm), EPOLLIN);

        if (result == 0)
            result = watch(epoll, shm->fds.lifeline, EPOLLRDHUP);
        if (result < 0) {
            if (epoll >= 0)
                nr_os_close(epoll);
            return result;
        }
        shm->epoll = epoll;
    }
    if (nr_ring_consumer_falls_asleep(&shm->in)) /* something is there: let poll see it */
        (void)nr_os_eventfd_ring(data_bell_in(shm));
    return shm->epoll;
}

/* ---- the end ---- */

static int shm_say_goodbye(struct nr_endpoint *e)
{
    struct nr_shm *shm = shm_of(e);

    if (!shm->out.control)
        return 0;
    atomic_store_explicit(&shm->out.control->producer_closed, 1, memory_order_seq_cst);
    if (nr_ring_consumer_must_be_woken(&shm->out))
        (void)nr_os_eventfd_ring(data_bell_out(shm));
    return 0;
}

static void close_if_open(int fd)
{
    if (fd >= 0)
        nr_os_close(fd);
}

static void shm_close(struct nr_endpoint *e)
{
    struct nr_shm *shm = shm_of(e);

    for (int i = 0; i < 2; i++) {
        close_if_open(shm->fds.data_bell[i]);
        close_if_open(shm->fds.space_bell[i]);
    }
    nr_os_close(shm->fds.lifeline);
    close_if_open(shm->epoll);
    drop_assembly(shm);
    nr_segment_release(shm->segment);
    shm->segment = NULL;
}

static uint64_t shm_depth_bytes(struct nr_endpoint *e)
{
    return shm_of(e)->in.control ? nr_ring_depth_bytes(&shm_of(e)->in) : 0;
}

static struct nr_segment *shm_memory(struct nr_endpoint *e) { return shm_of(e)->segment; }

static const struct nr_transport_ops shm_ops = {
    .name = "shm",
    .send = shm_send,
    .send_many = shm_send_many,
    .receive = shm_receive,
    .release = shm_release,
    .reserve = shm_reserve,
    .commit = shm_commit,
    .is_ready = shm_is_ready,
    .ready_is_cheap = true,
    .fall_asleep = shm_fall_asleep,
    .wake = shm_wake,
    .say_goodbye = shm_say_goodbye,
    .close = shm_close,
    .memory = shm_memory,
    .depth_bytes = shm_depth_bytes,
    .fileno = shm_fileno,
};

int nr_shm_open(const struct nr_settings *settings, struct nr_segment *segment, int end,
                bool fences, const struct nr_shm_descriptors *fds, struct nr_endpoint **out)
{
    struct nr_shm *shm;

    for (int i = 0; i < 2; i++) /* a peer's segment may lack a ring that this side would use */
        if ((segment->capacity[i] > 0) != (fds->data_bell[i] >= 0 && fds->space_bell[i] >= 0))
            return -EPROTO;
    shm = calloc(1, sizeof *shm);
    if (!shm)
        return -ENOMEM;
    shm->segment = segment;
    shm->fds = *fds;
    shm->end = end;
    shm->epoll = -1;
    nr_segment_open_ring(segment, end, fences, &shm->out);
    nr_segment_open_ring(segment, !end, fences, &shm->in);
    nr_endpoint_init(&shm->base, &shm_ops, settings->wait, settings->max_message_bytes,
                     settings->allocator);
    *out = &shm->base;
    return 0;
}

int nr_shm_lifeline(struct nr_endpoint *e) { return shm_of(e)->fds.lifeline; }
