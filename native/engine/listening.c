/* Listeners: accepting in batches, pausing when there is no room, going on when there is. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>

#include "service.h"

#define RETRY_NS 100000000u

static bool is_at_limit(const struct nr_service *service)
{
    uint32_t limit = service->settings.connection_limit;

    return limit && service->statistics.open >= limit;
}

static void set_events(struct nr_service *service, uint32_t events)
{
    for (struct listener *one = service->listeners; one; one = one->next)
        (void)nr_source_change(service->engine, one->source, events);
}

static int on_retry(struct nr_engine *engine, nr_timer timer, uint64_t missed, void *data)
{
    (void)engine;
    (void)timer;
    (void)missed;
    nr_listening_resume(data);
    return 0;
}

/* Descriptors may also become free elsewhere in the process, and nobody tells. */
static void stop_retrying(struct nr_service *service)
{
    if (service->retry)
        (void)nr_timer_cancel(service->engine, service->retry);
    service->retry = 0;
}

static void pause_for_descriptors(struct nr_service *service)
{
    nr_count(&service->statistics.pauses_descriptors, 1);
    service->accept_paused = true;
    set_events(service, 0);
    if (service->spare >= 0)
        nr_os_close(service->spare);
    service->spare = -1;
    if (!service->retry)
        (void)nr_timer_start(service->engine, nr_os_now_ns() + RETRY_NS, RETRY_NS, on_retry, service,
                             &service->retry);
}

static void pause_at_limit(struct nr_service *service)
{
    nr_count(&service->statistics.pauses_limit, 1);
    service->accept_paused = true;
    set_events(service, 0);
}

void nr_listening_resume(struct nr_service *service)
{
    if (!service->accept_paused || is_at_limit(service))
        return;
    if (service->spare < 0)
        service->spare = nr_os_spare();
    if (service->spare < 0)
        return;
    stop_retrying(service);
    service->accept_paused = false;
    set_events(service, NR_READABLE);
}

static bool is_shortage(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM;
}

/* 1: one more may be waiting; 0: none, or no room. */
static int accept_one(struct nr_service *service, int listener)
{
    struct nr_connection *connection;
    int fd, result;

    if (is_at_limit(service)) {
        pause_at_limit(service);
        return 0;
    }
    result = service->ops->on_admit ? service->ops->on_admit(service) : 0;
    fd = result < 0 ? result : nr_os_accept(listener);
    if (fd == -EAGAIN)
        return 0;
    if (fd >= 0) {
        fd = nr_connection_start(service, fd, false, NULL, &connection);
        if (!is_shortage(fd))
            return 1;
    }
    if (is_shortage(fd)) {
        pause_for_descriptors(service);
        return 0;
    }
    nr_count(&service->statistics.accept_errors, 1);
    if (fd == -ECONNABORTED || fd == -EPROTO || fd == -EPERM) /* that one's; accept(2) */
        return 1;
    pause_for_descriptors(service); /* unknown: tried again, but never in a busy loop */
    return 0;
}

static int on_listener(struct nr_engine *engine, nr_source source, uint32_t events, void *data)
{
    struct listener *listener = data;
    struct nr_service *service = listener->service;
    int fd = listener->fd;

    (void)engine;
    (void)source;
    (void)events;
    nr_service_enter(service);
    for (uint32_t i = 0; i < service->settings.accept_batch; i++)
        if (service->accept_paused || !service->listeners || !accept_one(service, fd))
            break;
    nr_service_leave(service);
    return NR_DONE;
}

int nr_service_listen(struct nr_service *service, int fd)
{
    struct listener *listener;
    int result;

    if (service->draining)
        return -EPIPE;
    result = nr_os_set_nonblocking(fd);
    if (result < 0)
        return result;
    (void)nr_os_set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1); /* a Unix socket has none */
    (void)nr_os_set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    listener = calloc(1, sizeof *listener);
    if (!listener)
        return -ENOMEM;
    listener->service = service;
    listener->fd = fd;
    result = nr_source_add(service->engine, fd, service->accept_paused ? 0 : NR_READABLE,
                           NR_PRIORITY_USUAL, 0, on_listener, listener, &listener->source);
    if (result < 0) {
        free(listener);
        return result;
    }
    listener->next = service->listeners;
    service->listeners = listener;
    return 0;
}

void nr_service_stop_listening(struct nr_service *service)
{
    stop_retrying(service);
    while (service->listeners) {
        struct listener *listener = service->listeners;

        service->listeners = listener->next;
        (void)nr_source_remove(service->engine, listener->source);
        nr_os_close(listener->fd);
        free(listener);
    }
}
