/* Idle, stalled and lingering connections: three lists in the order of activity, a timer each.
 *
 * All connections of a list have the same timeout, so the list is sorted by itself; being active is
 * moving to the end. A heap of timers would cost every message a logarithm, and every idle connection
 * 64 bytes. */
#include <errno.h>

#include "service.h"

#define MOST_MS 0x7fffffffu

static uint32_t to_ms(uint64_t ns)
{
    uint64_t ms = ns / 1000000u + (ns % 1000000u != 0);

    return ns == NR_FOREVER ? 0 : ms < MOST_MS ? (uint32_t)ms : MOST_MS;
}

void nr_timeouts_init(struct nr_service *service)
{
    service->waiting[NR_WAITS_IDLE].timeout_ms = to_ms(service->settings.idle_timeout_ns);
    service->waiting[NR_WAITS_STALLED].timeout_ms = to_ms(service->settings.stall_timeout_ns);
    service->waiting[NR_WAITS_LINGERING].timeout_ms = to_ms(service->settings.linger_timeout_ns);
}

void nr_timeouts_stop(struct nr_service *service)
{
    for (int i = NR_WAITS_IDLE; i < NR_WAITS; i++)
        if (service->waiting[i].timer)
            (void)nr_timer_cancel(service->engine, service->waiting[i].timer);
}

static struct nr_connection *connection_at(struct nr_service *service, uint32_t place)
{
    return nr_slab_at(&service->slab, place);
}

static uint8_t list_for(const struct nr_connection *c)
{
    uint8_t index = c->phase == NR_LINGERING ? NR_WAITS_LINGERING
                    : c->output              ? NR_WAITS_STALLED
                    : c->outgoing            ? NR_WAITS_NOT /* its protocol's care */
                                             : NR_WAITS_IDLE;

    return c->phase != NR_ENDED && c->service->waiting[index].timeout_ms ? index : NR_WAITS_NOT;
}

void nr_timeouts_forget(struct nr_connection *c)
{
    struct nr_service *service = c->service;
    struct waiting_list *list = &service->waiting[c->waits_in];

    if (c->waits_in == NR_WAITS_NOT)
        return;
    if (c->previous)
        connection_at(service, c->previous - 1)->next = c->next;
    else
        list->head = c->next;
    if (c->next)
        connection_at(service, c->next - 1)->previous = c->previous;
    else
        list->tail = c->previous;
    c->waits_in = NR_WAITS_NOT;
    c->next = c->previous = 0;
}

static void append(struct nr_connection *c, uint8_t index)
{
    struct nr_service *service = c->service;
    struct waiting_list *list = &service->waiting[index];

    c->waits_in = index;
    c->next = 0;
    c->previous = list->tail;
    if (list->tail)
        connection_at(service, list->tail - 1)->next = c->place + 1;
    else
        list->head = c->place + 1;
    list->tail = c->place + 1;
}

static void close_expired(struct nr_connection *c)
{
    switch (c->waits_in) {
    case NR_WAITS_IDLE:
        nr_connection_cut(c, -ETIMEDOUT);
        break;
    case NR_WAITS_STALLED:
        nr_connection_reset(c, -ETIME);
        break;
    default:
        nr_connection_cut(c, 0);
    }
}

static int on_timer(struct nr_engine *engine, nr_timer timer, uint64_t missed, void *data);

static void start_timer(struct nr_service *service, struct waiting_list *list)
{
    uint32_t waited_ms, now_ms = nr_service_clock_ms(service);
    uint64_t left_ms;

    if (!list->head || list->timer)
        return;
    waited_ms = now_ms - connection_at(service, list->head - 1)->active_ms;
    left_ms = waited_ms < list->timeout_ms ? list->timeout_ms - waited_ms : 0;
    /* Without memory for a timer, the next connection that is touched tries again. */
    if (nr_timer_start(service->engine, nr_os_now_ns() + (left_ms + 1) * 1000000u, 0, on_timer, service,
                       &list->timer) < 0)
        list->timer = 0;
}

static int on_timer(struct nr_engine *engine, nr_timer timer, uint64_t missed, void *data)
{
    struct nr_service *service = data;
    uint32_t now_ms = nr_service_clock_ms(service);

    (void)engine;
    (void)missed;
    nr_service_enter(service);
    for (int i = NR_WAITS_IDLE; i < NR_WAITS; i++) {
        struct waiting_list *list = &service->waiting[i];

        if (list->timer != timer)
            continue;
        list->timer = 0;
        while (list->head) {
            struct nr_connection *c = connection_at(service, list->head - 1);

            if (now_ms - c->active_ms < list->timeout_ms)
                break;
            close_expired(c);
        }
        start_timer(service, list);
    }
    nr_service_leave(service);
    return 0;
}

void nr_timeouts_touch(struct nr_connection *c)
{
    uint32_t now_ms = nr_service_clock_ms(c->service);
    uint8_t index = list_for(c);

    if (c->active_ms == now_ms && c->waits_in == index)
        return;
    c->active_ms = now_ms;
    nr_timeouts_forget(c);
    if (index == NR_WAITS_NOT)
        return;
    append(c, index);
    start_timer(c->service, &c->service->waiting[index]);
}
