/* A service: its life, its counters, the memory of its connections. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service.h"

static void set_defaults(struct nr_service_settings *settings)
{
    if (!settings->accept_batch)
        settings->accept_batch = 64;
    if (!settings->input_limit_bytes)
        settings->input_limit_bytes = 1u << 20;
    if (!settings->high_water_bytes)
        settings->high_water_bytes = 256u << 10;
    if (!settings->low_water_bytes)
        settings->low_water_bytes = settings->high_water_bytes / 4;
    if (!settings->output_limit_bytes)
        settings->output_limit_bytes = 16u << 20;
    if (!settings->stall_timeout_ns)
        settings->stall_timeout_ns = 30000000000u;
    if (!settings->linger_timeout_ns)
        settings->linger_timeout_ns = 2000000000u;
}

static bool is_usable(const struct nr_service_settings *settings)
{
    const struct nr_protocol_ops *ops = settings->protocol;

    return ops && (ops->on_bytes || ops->on_events) &&
           settings->low_water_bytes <= settings->high_water_bytes &&
           settings->high_water_bytes <= settings->output_limit_bytes;
}

static void dismantle(struct nr_service *service)
{
    if (service->spare >= 0)
        nr_os_close(service->spare);
    nr_slab_destroy(&service->slab);
    free(service->read_buffer);
    free(service->gathered);
    free(service);
}

int nr_service_create(struct nr_engine *engine, const struct nr_service_settings *settings,
                      struct nr_service **created)
{
    struct nr_service *service;

    if (nr_engine_is_foreign(engine))
        return -ECHILD;
    service = calloc(1, sizeof *service);
    if (!service)
        return -ENOMEM;
    service->settings = *settings;
    set_defaults(&service->settings);
    service->read_buffer = malloc(NR_READ_BYTES);
    service->gathered = malloc(NR_GATHER_BYTES);
    if (!service->read_buffer || !service->gathered || !is_usable(&service->settings)) {
        int result = service->read_buffer && service->gathered ? -EINVAL : -ENOMEM;

        free(service->read_buffer);
        free(service->gathered);
        free(service);
        return result;
    }
    service->engine = engine;
    service->ops = settings->protocol;
    service->spare = nr_os_spare(); /* without one, pauses are as good: the next try takes one */
    nr_slab_init(&service->slab, sizeof(struct nr_connection) +
                                     (service->ops->state_bytes + 7u) / 8u * 8u);
    nr_timeouts_init(service);
    if (service->ops->on_create) {
        int result = service->ops->on_create(service);

        if (result < 0) {
            dismantle(service);
            return result;
        }
    }
    *created = service;
    return 0;
}

void nr_service_destroy(struct nr_service *service)
{
    if (!service)
        return;
    nr_service_stop_listening(service);
    nr_service_cut_all(service);
    nr_timeouts_stop(service);
    if (service->ops->on_destroy)
        service->ops->on_destroy(service);
    dismantle(service);
}

struct nr_engine *nr_service_engine(const struct nr_service *service) { return service->engine; }

void *nr_service_context(const struct nr_service *service) { return service->settings.context; }

bool nr_service_is_draining(const struct nr_service *service) { return service->draining; }

void nr_service_read_statistics(const struct nr_service *service,
                                struct nr_service_statistics *copy)
{
    const uint64_t *from = (const uint64_t *)&service->statistics;
    uint64_t *to = (uint64_t *)copy;

    for (size_t i = 0; i < sizeof *copy / sizeof *to; i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

uint32_t nr_service_clock_ms(const struct nr_service *service)
{
    const struct nr_engine *engine = service->engine;

    return (uint32_t)((engine->dispatching ? engine->turn_start_ns : nr_os_now_ns()) / 1000000u);
}

/* ---- the memory of what has closed ---- */

static void bury(struct nr_service *service)
{
    while (service->graveyard) {
        uint32_t place = service->graveyard - 1;
        struct nr_connection *c = nr_slab_at(&service->slab, place);

        service->graveyard = c->next;
        nr_slab_give(&service->slab, place);
    }
}

void nr_service_enter(struct nr_service *service) { service->depth++; }

void nr_service_leave(struct nr_service *service)
{
    if (--service->depth > 0 || !service->graveyard)
        return;
    bury(service);
    if (service->accept_paused)
        nr_listening_resume(service);
    if (service->draining && service->slab.used == 0 && service->on_empty)
        service->on_empty(service, service->on_empty_data);
}

/* ---- all connections ---- */

static void for_each(struct nr_service *service, void (*visit)(struct nr_connection *))
{
    nr_service_enter(service);
    for (uint32_t place = 0; place < service->slab.place_count; place++) {
        struct nr_connection *c = nr_slab_at(&service->slab, place);

        if (c->generation & 1u && c->phase != NR_ENDED)
            visit(c);
    }
    nr_service_leave(service);
}

static void drain_one(struct nr_connection *c)
{
    if (c->phase == NR_CONNECTING)
        return; /* it opens or fails within its own deadline */
    if (c->phase == NR_CONNECTED && c->service->ops->on_drain) {
        int result = c->service->ops->on_drain(c);

        if (result < 0)
            nr_connection_cut(c, result);
    } else
        nr_connection_close(c);
}

void nr_service_drain(struct nr_service *service)
{
    nr_service_stop_listening(service);
    service->draining = true;
    for_each(service, drain_one);
}

static void cut_one(struct nr_connection *c) { nr_connection_cut(c, -ECANCELED); }

void nr_service_cut_all(struct nr_service *service) { for_each(service, cut_one); }

void nr_service_on_empty(struct nr_service *service, void (*callback)(struct nr_service *, void *),
                         void *data)
{
    service->on_empty = callback;
    service->on_empty_data = data;
}

uint64_t nr_connection_number(const struct nr_connection *c)
{
    return (uint64_t)c->generation << 32 | c->place;
}

struct nr_connection *nr_service_find(struct nr_service *service, uint64_t number)
{
    struct nr_connection *c = nr_slab_find(&service->slab, number);

    return c && c->phase != NR_ENDED ? c : NULL;
}
