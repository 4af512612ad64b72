/* A connection: from its first event to its end. Its queue is in output.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service.h"

#define FIRST_PAUSE_NS 1000000u
#define LONGEST_PAUSE_NS 50000000u

/* ---- the end ---- */

static void count_end(const struct nr_connection *c, int reason)
{
    struct nr_service_statistics *statistics = &c->service->statistics;
    uint64_t *counter = reason == 0            ? &statistics->closed_orderly
                        : reason == -ETIMEDOUT ? &statistics->closed_idle
                        : reason == -ETIME || reason == -ENOBUFS ? &statistics->closed_slow
                        : reason == -ECONNRESET || reason == -EPIPE || reason == -ECANCELED
                            ? &statistics->closed_reset
                            : &statistics->closed_protocol;

    nr_count(c->phase == NR_CONNECTING ? &statistics->connects_failed : counter, 1);
    nr_count(c->outgoing ? &statistics->open_outgoing : &statistics->open, (uint64_t)-1);
}

static void drop_attempt(struct nr_connection *c)
{
    if (!c->attempt)
        return;
    (void)nr_timer_cancel(c->service->engine, c->attempt->timer);
    free(c->attempt);
    c->attempt = NULL;
}

static void drop_buffers(struct nr_connection *c)
{
    struct nr_service *service = c->service;

    free(c->input);
    free(c->output);
    c->input = NULL;
    c->output = NULL;
    if (service->gathering == c)
        service->gathering = NULL;
}

/* A Unix socket knows no reset, and does not mind. */
static void make_close_a_reset(int fd)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

void nr_connection_cut(struct nr_connection *c, int reason)
{
    struct nr_service *service = c->service;

    if (c->phase == NR_ENDED)
        return;
    nr_service_enter(service);
    if (reason < 0 && service->ops->breaks_off && !nr_engine_is_foreign(service->engine))
        make_close_a_reset(c->fd);
    count_end(c, reason);
    c->phase = NR_ENDED;
    nr_timeouts_forget(c);
    drop_attempt(c);
    drop_buffers(c);
    if (c->source)
        (void)nr_source_remove(service->engine, c->source);
    nr_os_close(c->fd);
    c->fd = -1;
    if (service->ops->on_close)
        service->ops->on_close(c, reason);
    c->next = service->graveyard;
    service->graveyard = c->place + 1;
    nr_service_leave(service);
}

void nr_connection_reset(struct nr_connection *c, int reason)
{
    if (c->phase != NR_ENDED)
        make_close_a_reset(c->fd);
    nr_connection_cut(c, reason);
}

void nr_connection_shut_down(struct nr_connection *c)
{
    if (c->input_ended || nr_os_shutdown(c->fd, SHUT_WR) < 0) {
        nr_connection_cut(c, 0);
        return;
    }
    c->phase = NR_LINGERING;
    nr_timeouts_touch(c);
    (void)nr_connection_update(c);
}

void nr_connection_close(struct nr_connection *c)
{
    if (c->phase == NR_CONNECTING) {
        nr_connection_cut(c, -ECANCELED);
        return;
    }
    if (c->phase != NR_CONNECTED)
        return;
    nr_service_enter(c->service);
    if (nr_output_end_gathering(c) >= 0 && c->phase == NR_CONNECTED) {
        c->phase = NR_FLUSHING;
        free(c->input);
        c->input = NULL;
        if (c->output)
            (void)nr_connection_update(c);
        else
            nr_connection_shut_down(c);
    }
    nr_service_leave(c->service);
}

/* ---- events wanted ---- */

static bool wants_to_read(const struct nr_connection *c)
{
    if (c->input_ended)
        return false;
    return c->phase == NR_LINGERING ||
           (c->phase == NR_CONNECTED && !c->reading_paused && !c->choked);
}

int nr_connection_update(struct nr_connection *c)
{
    uint32_t events = (wants_to_read(c) ? NR_READABLE : 0u) | (c->output ? NR_WRITABLE : 0u);

    if (c->phase == NR_ENDED || c->service->ops->on_events)
        return 0;
    return nr_source_change(c->service->engine, c->source, events);
}

void nr_connection_pause_reading(struct nr_connection *c)
{
    c->reading_paused = true;
    (void)nr_connection_update(c);
}

void nr_connection_resume_reading(struct nr_connection *c)
{
    c->reading_paused = false;
    (void)nr_connection_update(c);
}

void nr_connection_touch(struct nr_connection *c)
{
    if (c->phase == NR_CONNECTED)
        nr_timeouts_touch(c);
}

void nr_connection_count(struct nr_connection *c, size_t received_bytes, size_t sent_bytes)
{
    nr_count(&c->service->statistics.bytes_received, received_bytes);
    nr_count(&c->service->statistics.bytes_sent, sent_bytes);
}

/* ---- reading ---- */

/* Keeps what the protocol did not consume; `bytes` is either the read buffer or the kept input. */
static int keep(struct nr_connection *c, const uint8_t *bytes, size_t size)
{
    struct nr_input *input = c->input;

    if (size > c->service->settings.input_limit_bytes)
        return -EMSGSIZE;
    if (size == 0) {
        free(input);
        c->input = NULL;
        return 0;
    }
    if (input) {
        if (bytes != input->bytes) /* of a large message, all would be moved to where it is */
            memmove(input->bytes, bytes, size);
        input->size = size;
        return 0;
    }
    input = malloc(sizeof *input + size);
    if (!input)
        return -ENOMEM;
    input->room = input->size = size;
    memcpy(input->bytes, bytes, size);
    c->input = input;
    return 0;
}

static int append_input(struct nr_connection *c, const uint8_t *bytes, size_t size)
{
    struct nr_input *input = c->input;

    if (input->size + size > input->room) {
        size_t room = (input->size + size) * 2;

        input = realloc(input, sizeof *input + room);
        if (!input)
            return -ENOMEM;
        input->room = room;
        c->input = input;
    }
    if (size)
        memcpy(input->bytes + input->size, bytes, size);
    input->size += size;
    return 0;
}

/* Shows the protocol what there is: 0, or the reason to cut. */
static int show(struct nr_connection *c, const uint8_t *bytes, size_t size)
{
    ssize_t consumed;
    int result;

    if (c->input) {
        result = append_input(c, bytes, size);
        if (result < 0)
            return result;
        bytes = c->input->bytes;
        size = c->input->size;
    }
    nr_output_begin_gathering(c);
    consumed = c->service->ops->on_bytes(c, bytes, size);
    if (c->phase == NR_ENDED)
        return 0;
    result = nr_output_end_gathering(c);
    if (c->phase != NR_CONNECTED)
        return 0;
    if (consumed < 0 || (size_t)consumed > size)
        return consumed < 0 ? (int)consumed : -EINVAL;
    return result < 0 ? result : keep(c, bytes + consumed, size - (size_t)consumed);
}

int nr_connection_show_again(struct nr_connection *c)
{
    return c->input && c->phase == NR_CONNECTED ? show(c, NULL, 0) : 0;
}

static int end_of_input(struct nr_connection *c)
{
    size_t rest = c->input ? c->input->size : 0;

    c->input_ended = true;
    if (c->phase == NR_LINGERING) {
        nr_connection_cut(c, 0);
        return 0;
    }
    if (c->phase == NR_CONNECTED) {
        if (c->service->ops->on_end) {
            int result = c->service->ops->on_end(c, rest);

            if (result < 0)
                return result;
        } else
            nr_connection_close(c);
    }
    return c->phase == NR_ENDED ? 0 : nr_connection_update(c);
}

static int read_some(struct nr_connection *c)
{
    struct nr_service *service = c->service;
    ssize_t got = nr_os_receive(c->fd, service->read_buffer, NR_READ_BYTES, 0);

    if (got == -EAGAIN)
        return 0;
    if (got < 0)
        return (int)got;
    if (got == 0)
        return end_of_input(c);
    if (c->phase == NR_LINGERING)
        return 0; /* thrown away */
    nr_count(&service->statistics.bytes_received, (uint64_t)got);
    if (!c->output)
        nr_timeouts_touch(c);
    return show(c, service->read_buffer, (size_t)got);
}

/* Nothing was asked for, and yet: an error, or both directions are over. */
static int see_end(struct nr_connection *c, uint32_t events)
{
    int error = events & NR_FAILED ? nr_os_socket_error(c->fd) : 0;

    if (error < 0)
        return error;
    /* Nobody takes the queue any more; what came before is still to be read. */
    if (c->phase != NR_CONNECTED)
        return -EPIPE;
    free(c->output);
    c->output = NULL;
    c->choked = false;
    return nr_connection_update(c);
}

/* ---- connecting ---- */

static int on_open(struct nr_connection *c)
{
    int result;

    c->phase = NR_CONNECTED;
    nr_timeouts_touch(c);
    result = c->service->ops->on_open ? c->service->ops->on_open(c) : 0;
    return result < 0 ? result : 0;
}

static int finish_connecting(struct nr_connection *c)
{
    int result = nr_os_socket_error(c->fd);

    if (result == 0 && nr_os_is_own_peer(c->fd))
        result = -ECONNREFUSED; /* nobody there: the kernel gave it the very port that it asked for */
    if (result < 0)
        return result;
    drop_attempt(c);
    nr_count(&c->service->statistics.connected, 1);
    result = on_open(c);
    return result < 0 || c->phase == NR_ENDED ? result : nr_connection_update(c);
}

static int add_source(struct nr_connection *c)
{
    bool raw = c->service->ops->on_events;
    uint32_t events = raw ? NR_READABLE | NR_WRITABLE
                          : c->phase == NR_CONNECTING ? NR_WRITABLE : NR_READABLE;

    return nr_source_add(c->service->engine, c->fd, events, NR_PRIORITY_USUAL, raw ? NR_EDGE : 0,
                         nr_connection_on_events, c, &c->source);
}

static int on_attempt_timer(struct nr_engine *, nr_timer, uint64_t missed, void *data);

static int set_attempt_timer(struct nr_connection *c, uint64_t due_ns)
{
    struct nr_engine *engine = c->service->engine;

    if (c->attempt->timer)
        return nr_timer_move(engine, c->attempt->timer, due_ns);
    return nr_timer_start(engine, due_ns, 0, on_attempt_timer, c, &c->attempt->timer);
}

static int try_connect(struct nr_connection *c)
{
    struct nr_attempt *attempt = c->attempt;
    int result = nr_os_connect(c->fd, (struct sockaddr *)&attempt->address, attempt->address_bytes);

    if (result < 0 && result != -EINPROGRESS && result != -EAGAIN)
        return result;
    if (result != -EAGAIN)
        return add_source(c); /* connected or not, the first event tells */
    /* The queue of a Unix listener is full, and nothing tells when it is not. */
    attempt->pause_ns *= 2;
    if (attempt->pause_ns > LONGEST_PAUSE_NS)
        attempt->pause_ns = LONGEST_PAUSE_NS;
    return set_attempt_timer(c, nr_os_now_ns() + attempt->pause_ns);
}

static int on_attempt_timer(struct nr_engine *engine, nr_timer timer, uint64_t missed, void *data)
{
    struct nr_connection *c = data;
    struct nr_service *service = c->service;
    int result = -ETIMEDOUT;

    (void)engine;
    (void)timer;
    (void)missed;
    nr_service_enter(service);
    c->attempt->timer = 0; /* it has fired */
    if (!c->source && nr_os_now_ns() < c->attempt->deadline_ns)
        result = try_connect(c);
    if (result == 0 && c->source)
        result = set_attempt_timer(c, c->attempt->deadline_ns);
    if (result < 0)
        nr_connection_cut(c, result);
    nr_service_leave(service);
    return 0;
}

/* ---- the beginning ---- */

static struct nr_connection *take(struct nr_service *service, int fd, bool outgoing,
                                  const void *state)
{
    struct nr_service_statistics *statistics = &service->statistics;
    uint32_t place;
    struct nr_connection *c = nr_slab_take(&service->slab, &place);

    if (!c)
        return NULL;
    c->place = place;
    c->service = service;
    c->fd = fd;
    c->outgoing = outgoing;
    if (state)
        memcpy(nr_connection_state(c), state, service->ops->state_bytes);
    nr_count(outgoing ? &statistics->open_outgoing : &statistics->open, 1);
    if (statistics->open > statistics->most_open)
        nr_count(&statistics->most_open, 1);
    return c;
}

static void give_back(struct nr_connection *c)
{
    struct nr_service_statistics *statistics = &c->service->statistics;

    nr_count(c->outgoing ? &statistics->open_outgoing : &statistics->open, (uint64_t)-1);
    drop_attempt(c);
    nr_slab_give(&c->service->slab, c->place);
}

int nr_connection_start(struct nr_service *service, int fd, bool outgoing, const void *state,
                        struct nr_connection **started)
{
    struct nr_connection *c = take(service, fd, outgoing, state);
    int result;

    if (!c) {
        nr_os_close(fd);
        return -ENOMEM;
    }
    c->phase = NR_CONNECTED;
    result = add_source(c);
    if (result < 0) {
        give_back(c);
        nr_os_close(fd);
        return result == -ENOSPC ? -ENOMEM : result; /* max_user_watches is a shortage, too */
    }
    nr_count(outgoing ? &service->statistics.connected : &service->statistics.accepted, 1);
    *started = c;
    nr_service_enter(service);
    result = on_open(c);
    if (result < 0)
        nr_connection_cut(c, result);
    nr_service_leave(service);
    return 0;
}

int nr_service_adopt(struct nr_service *service, int fd, const void *state,
                     struct nr_connection **adopted)
{
    int result = nr_os_set_nonblocking(fd);

    if (service->draining)
        result = -EPIPE;
    return result < 0 ? result : nr_connection_start(service, fd, false, state, adopted);
}

static int begin_attempt(struct nr_connection *c, const struct sockaddr *address, socklen_t size,
                         uint64_t deadline_ns)
{
    struct nr_attempt *attempt = calloc(1, sizeof *attempt);
    int result;

    if (!attempt)
        return -ENOMEM;
    memcpy(&attempt->address, address, size);
    attempt->address_bytes = size;
    attempt->deadline_ns = deadline_ns;
    attempt->pause_ns = FIRST_PAUSE_NS / 2;
    c->attempt = attempt;
    result = set_attempt_timer(c, deadline_ns);
    return result < 0 ? result : try_connect(c);
}

int nr_service_connect(struct nr_service *service, int fd, const struct sockaddr *address,
                       socklen_t size, uint64_t deadline_ns, const void *state,
                       struct nr_connection **begun)
{
    struct nr_connection *c;
    int result = -EINVAL;

    if (size > sizeof(struct sockaddr_storage) || deadline_ns == NR_FOREVER) {
        nr_os_close(fd);
        return result;
    }
    c = take(service, fd, true, state);
    result = c ? begin_attempt(c, address, size, deadline_ns) : -ENOMEM;
    if (result < 0) {
        if (c)
            give_back(c);
        nr_os_close(fd);
        nr_count(&service->statistics.connects_failed, 1);
        return result;
    }
    *begun = c;
    return 0;
}

/* ---- events ---- */

static int write_some(struct nr_connection *c)
{
    int result = nr_output_flush(c);

    if (result < 0 || c->phase == NR_ENDED)
        return result;
    if (c->phase == NR_FLUSHING && !c->output)
        nr_connection_shut_down(c);
    return 0;
}

static int see_buffered(struct nr_connection *c, uint32_t events)
{
    int result = 0;

    if (events & NR_WRITABLE && c->output)
        result = write_some(c);
    if (result < 0 || c->phase == NR_ENDED)
        return result;
    if (wants_to_read(c))
        return events & ~(uint32_t)NR_WRITABLE ? read_some(c) : 0;
    return events & (NR_HANGUP | NR_FAILED) ? see_end(c, events) : 0;
}

int nr_connection_on_events(struct nr_engine *engine, nr_source source, uint32_t events, void *data)
{
    struct nr_connection *c = data;
    struct nr_service *service = c->service;
    int result = 0;

    (void)engine;
    (void)source;
    nr_service_enter(service);
    if (c->phase == NR_CONNECTING)
        result = finish_connecting(c);
    if (result >= 0 && c->phase != NR_ENDED && c->phase != NR_CONNECTING)
        result = service->ops->on_events ? service->ops->on_events(c, events)
                                         : see_buffered(c, events);
    if (result < 0)
        nr_connection_cut(c, result);
    nr_service_leave(service);
    return result == NR_MORE ? NR_MORE : NR_DONE;
}
