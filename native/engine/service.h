/* engine/service.h: what connections, listeners and queues share; private to this folder. */
#ifndef NARU_ENGINE_SERVICE_H
#define NARU_ENGINE_SERVICE_H

#include "naru/protocol.h"
#include "parts.h"

#define NR_GATHER_BYTES 65536u

/* What is kept of the input until the protocol can use it. */
struct nr_input {
    size_t size, room;
    uint8_t bytes[];
};

/* What waits to go out: bytes[first, last). */
struct nr_output {
    size_t first, last, room;
    uint8_t bytes[];
};

/* An outgoing connection that does not stand yet. */
struct nr_attempt {
    nr_timer timer;
    uint64_t deadline_ns, pause_ns;
    socklen_t address_bytes;
    struct sockaddr_storage address;
};

struct listener {
    struct nr_service *service;
    struct listener *next;
    nr_source source;
    int fd;
};

/* Connections in the order of their last activity; one timer for the first of them. */
enum { NR_WAITS_NOT, NR_WAITS_IDLE, NR_WAITS_STALLED, NR_WAITS_LINGERING, NR_WAITS };

struct waiting_list {
    uint32_t head, tail; /* place + 1 */
    uint32_t timeout_ms; /* 0: never */
    nr_timer timer;      /* 0: none is running */
};

struct nr_service {
    struct nr_engine *engine;
    const struct nr_protocol_ops *ops;
    struct nr_service_settings settings;
    struct nr_slab slab;
    struct listener *listeners;
    struct waiting_list waiting[NR_WAITS];
    uint32_t graveyard; /* closed, and perhaps still in use by the running callback: place + 1 */
    unsigned depth;     /* of callbacks */
    int spare;          /* -1: given up */
    bool accept_paused, draining;
    nr_timer retry;
    struct nr_connection *gathering; /* its small sends are collected in `gathered` */
    size_t gathered_bytes;
    uint8_t *gathered, *read_buffer;
    void (*on_empty)(struct nr_service *, void *);
    void *on_empty_data;
    struct nr_service_statistics statistics; /* written by nr_count() only */
};

/* ---- service.c ---- */
/* Around everything that may run a callback of the protocol. */
void nr_service_enter(struct nr_service *);
void nr_service_leave(struct nr_service *);
uint32_t nr_service_clock_ms(const struct nr_service *);

/* ---- timeouts.c ---- */
void nr_timeouts_init(struct nr_service *);
void nr_timeouts_stop(struct nr_service *);
/* Puts it at the end of the list that its phase and queue ask for: it was active now. */
void nr_timeouts_touch(struct nr_connection *);
void nr_timeouts_forget(struct nr_connection *);

/* ---- listening.c ---- */
void nr_listening_resume(struct nr_service *);
void nr_listening_close(struct nr_service *);

/* ---- connection.c ---- */
int nr_connection_start(struct nr_service *, int fd, bool outgoing, const void *state,
                        struct nr_connection **);
int nr_connection_update(struct nr_connection *); /* its events, after whatever they depend on */
void nr_connection_shut_down(struct nr_connection *); /* all is out: the end is told to the peer */
int nr_connection_on_events(struct nr_engine *, nr_source, uint32_t events, void *data);

/* ---- output.c ---- */
void nr_output_begin_gathering(struct nr_connection *);
int nr_output_end_gathering(struct nr_connection *);
/* Sends of the queue what the kernel takes: 0, or -errno of a dead connection. */
int nr_output_flush(struct nr_connection *);

#endif
