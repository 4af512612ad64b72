/* naru/protocol.h: connections on the engine, and the contract of a wire protocol.
 *
 * A service is one protocol with its listeners, its connections and its limits, on one engine. A
 * protocol is one struct of functions (nr_protocol_ops); it is told of bytes and sends bytes, and
 * never sees a descriptor unless it asks for the events themselves (on_events: splice does).
 *
 *   nr_service_create -> nr_service_listen (any number of times) -> the engine runs
 *                     -> nr_service_drain, the engine runs until nothing is open -> nr_service_destroy
 *
 * States     of a connection:
 *              CONNECTING  an outgoing one, until on_open; nothing is read
 *              OPEN        on_open .. close
 *              FLUSHING    nr_connection_close(): nothing is read any more, the queue goes out
 *              LINGERING   all is out and the direction shut; what the peer still sends is thrown
 *                          away until it closes too (or linger_timeout_ns): closing a socket with
 *                          unread bytes would reset it and take the answer along
 *              CLOSED      on_close has run; the memory stays until the outermost callback returns
 * Order      on_open first, on_close last and exactly once if on_open was called (also when that
 *            failed); between them, in the order of the stream, on_bytes, then at most one on_end.
 * Bytes      lie in a buffer that all connections share and are gone when on_bytes returns. What it
 *            did not consume is kept and shown again, in one piece with what follows. A connection
 *            without such a rest and without a queue owns no buffer.
 * Sending    never blocks. What the kernel does not take at once is queued; what on_bytes sends in
 *            small pieces goes out in one call when it returns. Above high_water_bytes nothing is
 *            read from this peer until the queue is below low_water_bytes (then on_writable): a peer
 *            that asks and does not read cannot fill the memory. It is cut off when it has taken
 *            nothing for stall_timeout_ns, or when the queue grows above output_limit_bytes.
 * Budget     one read (at most NR_READ_BYTES) a connection and turn.
 * Limits     At connection_limit, or when the process has no descriptor free, nothing is accepted
 *            and the waiting clients stay in the kernel's queue; it goes on when a connection closes,
 *            and is tried again every 100 ms. A spare descriptor is given up meanwhile, so that the
 *            rest of the process can open something, and taken back first (FAULTS 14, 79).
 * Ownership  A descriptor given to nr_service_listen() or nr_service_adopt() is the service's when
 *            that succeeded. A connection's memory and state are the service's. What the protocol
 *            put into the state is released in on_close.
 * Threads    As the engine: everything under the lock of its caller, except
 *            nr_service_read_statistics().
 * Errors     of a callback: negative cuts the connection with this reason. of a function: 0 or more,
 *            or -errno; -EPIPE on a connection that is not OPEN.
 * Reasons    given to on_close: 0 closed in good order, -ETIMEDOUT idle, -ETIME a slow peer,
 *            -ENOBUFS above output_limit_bytes, -EMSGSIZE above input_limit_bytes, -ECONNRESET and
 *            the kernel's others, -ECANCELED the service was destroyed, or what the protocol said.
 * Memory     of an idle connection: sizeof(struct nr_connection) + state_bytes, its source (40 B)
 *            and its place in the engine's table of descriptors (4 B).
 */
#ifndef NARU_PROTOCOL_H
#define NARU_PROTOCOL_H

#include "naru/engine.h"
#include "naru/record.h"

#define NR_READ_BYTES 65536u

struct nr_service;
struct nr_output;
struct nr_input;
struct nr_attempt;

enum nr_phase { NR_CONNECTING, NR_CONNECTED, NR_FLUSHING, NR_LINGERING, NR_ENDED };

/* Read only for protocols; the state (state_bytes of the ops) begins behind it. */
struct nr_connection {
    uint32_t generation; /* with the place: its number */
    uint32_t place;      /* the slab's while free */
    struct nr_service *service;
    nr_source source;
    struct nr_output *output; /* NULL: nothing waits to go out */
    struct nr_input *input;   /* NULL: everything that came was consumed */
    int fd;
    uint32_t next, previous; /* in the list of its timeout: place + 1 */
    uint32_t active_ms;      /* of the service's clock, which goes round */
    struct nr_attempt *attempt; /* CONNECTING */
    uint8_t phase;           /* enum nr_phase */
    uint8_t waits_in;        /* which list of timeouts: 0 none */
    bool outgoing : 1;       /* not accepted here */
    bool input_ended : 1;    /* the peer sends no more */
    bool reading_paused : 1; /* by the protocol */
    bool choked : 1;         /* above high water */
};

_Static_assert(sizeof(struct nr_connection) == 72, "a connection is 72 bytes and its state");

static inline void *nr_connection_state(struct nr_connection *connection)
{
    return connection + 1;
}

/* One a protocol. NULL = nothing to do there. */
struct nr_protocol_ops {
    const char *name;
    uint32_t state_bytes; /* zeroed before on_open */
    /* Whoever is cut for a reason gets a reset (TCP), so that a part is not taken for the whole: for
     * streams that have no end of their own. */
    bool breaks_off;
    /* The service stands, the engine may be given sources; negative: it is not made, and on_destroy does
     * not run. */
    int (*on_create)(struct nr_service *);
    /* Before a connection is accepted: 0, or -EMFILE and the like to let it wait. For protocols that
     * need another descriptor for each. */
    int (*on_admit)(struct nr_service *);
    int (*on_open)(struct nr_connection *);
    /* How many of the bytes were consumed, or -errno. */
    ssize_t (*on_bytes)(struct nr_connection *, const uint8_t *bytes, size_t size);
    /* The queue has fallen below the low water after it was above the high one. */
    int (*on_writable)(struct nr_connection *);
    /* The peer sends no more; `rest` bytes were never consumed. NULL: nr_connection_close(). */
    int (*on_end)(struct nr_connection *, size_t rest);
    void (*on_close)(struct nr_connection *, int reason);
    /* nr_service_drain(): NULL: nr_connection_close(). */
    int (*on_drain)(struct nr_connection *);
    /* A protocol that reads and writes its descriptor itself, instead of on_bytes, on_writable and
     * on_end. Edge-triggered: it is told once that the descriptor has become readable or writable, and
     * goes on until -EAGAIN, or answers NR_MORE to go on in the next turn; -errno cuts. Queue, high
     * water and kept input are not for it. */
    int (*on_events)(struct nr_connection *, uint32_t events);
    /* The service is drained or destroyed: its context may be freed. */
    void (*on_destroy)(struct nr_service *);
};

struct nr_service_settings {
    const struct nr_protocol_ops *protocol;
    void *context;               /* nr_service_context() */
    uint32_t connection_limit;   /* accepted at once; 0: as many as there are descriptors */
    uint32_t accept_batch;       /* a turn; 0: 64 */
    uint32_t input_limit_bytes;  /* kept, unconsumed; 0: 1 MiB */
    uint32_t high_water_bytes;   /* 0: 256 KiB */
    uint32_t low_water_bytes;    /* 0: a quarter of it */
    uint32_t output_limit_bytes; /* 0: 16 MiB */
    uint64_t idle_timeout_ns;    /* nothing came or went; 0: never */
    uint64_t stall_timeout_ns;   /* with a queue, nothing went; 0: 30 s, NR_FOREVER: never */
    uint64_t linger_timeout_ns;  /* 0: 2 s */
};

/* Counted since the service was created. */
struct nr_service_statistics {
    uint64_t accepted, connected; /* incoming, outgoing */
    uint64_t open, open_outgoing; /* now */
    uint64_t most_open;
    uint64_t closed_orderly, closed_reset, closed_idle, closed_slow, closed_protocol;
    uint64_t connects_failed;
    uint64_t bytes_received, bytes_sent;
    uint64_t pauses_descriptors, pauses_limit; /* times that accepting had to stop */
    uint64_t accept_errors;                    /* of connections that died in the queue, and others */
    uint64_t chokes;                           /* times that a queue rose above the high water */
};

/* ---- services ---- */

int nr_service_create(struct nr_engine *, const struct nr_service_settings *, struct nr_service **);
/* Cuts every connection (-ECANCELED), closes the listeners. Before nr_engine_destroy(); not in a
 * callback. In a forked child: its copies of descriptors and memory, and nobody is told. */
void nr_service_destroy(struct nr_service *);
/* Accepts from this listening socket (Unix or TCP; made nonblocking). TCP_NODELAY and SO_KEEPALIVE are
 * set on it and inherited. */
int nr_service_listen(struct nr_service *, int fd);
void nr_service_stop_listening(struct nr_service *);
/* Stops listening and lets each connection end what it does (on_drain). `open` of the statistics tells
 * when all have. */
void nr_service_drain(struct nr_service *);
bool nr_service_is_draining(const struct nr_service *);
/* Cuts all connections, with -ECANCELED: the end of a drain's patience. */
void nr_service_cut_all(struct nr_service *);
/* Called in the engine's thread when the last connection has closed while draining. */
void nr_service_on_empty(struct nr_service *, void (*callback)(struct nr_service *, void *), void *data);

/* A connected socket, nonblocking; on_open runs in it. `state` (NULL: zeroes) is copied before. */
int nr_service_adopt(struct nr_service *, int fd, const void *state, struct nr_connection **);
/* An outgoing connection on this unconnected nonblocking socket, which is closed at an error. 0: on_open
 * when it stands; else on_close, without it, with the kernel's reason, -ETIMEDOUT after `deadline_ns`.
 * A Unix listener with a full queue (EAGAIN) is tried again until then. */
int nr_service_connect(struct nr_service *, int fd, const struct sockaddr *, socklen_t size,
                       uint64_t deadline_ns, const void *state, struct nr_connection **);

struct nr_engine *nr_service_engine(const struct nr_service *);
void *nr_service_context(const struct nr_service *);
void nr_service_read_statistics(const struct nr_service *, struct nr_service_statistics *);
/* A connection's number outlives it safely; NULL when it is gone. */
uint64_t nr_connection_number(const struct nr_connection *);
struct nr_connection *nr_service_find(struct nr_service *, uint64_t number);

/* ---- connections, for protocols ---- */

/* 0: sent or queued. -EPIPE: not open (any more). Another error: it has been cut, on_close has run. */
int nr_connection_send(struct nr_connection *, const void *bytes, size_t size);
int nr_connection_send_parts(struct nr_connection *, const struct iovec *parts, int count);
size_t nr_connection_queued_bytes(const struct nr_connection *);
/* In good order: what is queued goes out first. */
void nr_connection_close(struct nr_connection *);
/* At once; on_close runs before this returns. */
void nr_connection_cut(struct nr_connection *, int reason);
/* At once, and over TCP with a reset. */
void nr_connection_reset(struct nr_connection *, int reason);
/* Shows on_bytes what it has left unconsumed, without more: for on_writable of a protocol that stops at
 * whole messages while its peer does not take the answers. 0, or the reason to cut. */
int nr_connection_show_again(struct nr_connection *);
void nr_connection_pause_reading(struct nr_connection *);
void nr_connection_resume_reading(struct nr_connection *);
/* It is not idle; for protocols with on_events, which also count their own bytes. */
void nr_connection_touch(struct nr_connection *);
void nr_connection_count(struct nr_connection *, size_t received_bytes, size_t sent_bytes);
/* ---- the protocols that naru brings ---- */

/* Every byte goes back. No context. */
extern const struct nr_protocol_ops nr_protocol_echo;

/* naru's own messages (record.h), as naru.connect() and naru.sender() speak them over Unix and TCP
 * sockets: a hello each, then records. No descriptors, no heartbeats: who asks for them is refused. */
struct nr_frames_settings {
    uint32_t max_message_bytes; /* 0: 16 MiB. The service's input_limit_bytes must be 24 more. */
    /* A message, in place: gone when it returns. Negative cuts. */
    int (*on_frame)(struct nr_connection *, const uint8_t *bytes, size_t size, void *data);
    int (*on_open)(struct nr_connection *, void *data); /* greeted; NULL: nothing to do */
    void (*on_close)(struct nr_connection *, int reason, void *data); /* after on_open only */
    void *data;
};

struct nr_frames_statistics {
    uint64_t messages_received, messages_sent;
    uint64_t strangers; /* not naru, another version, not allowed here */
};

/* The settings' context of a service with nr_protocol_frames; freed by it (on_destroy). */
struct nr_frames;
int nr_frames_create(const struct nr_frames_settings *, struct nr_frames **);
int nr_frames_send(struct nr_connection *, const void *bytes, size_t size);
void nr_frames_read_statistics(const struct nr_frames *, struct nr_frames_statistics *);
extern const struct nr_protocol_ops nr_protocol_frames;

/* The parser, pure: of `size` bytes, how many the first record takes (>= 8) and what it is; 0: it is
 * not whole yet; -EPROTO, -EMSGSIZE. (native/tests/fuzz_frames.c) */
ssize_t nr_frames_parse(const uint8_t *bytes, size_t size, uint32_t max_message_bytes,
                        struct nr_record *record);

/* A proxy: what comes on either side goes out on the other, byte by byte, with half-close. */
struct nr_splice_target {
    struct sockaddr_storage address;
    socklen_t address_bytes;
    uint64_t connect_timeout_ns; /* 0: 5 s */
};

struct nr_splice_statistics {
    uint64_t spliced_bytes, copied_bytes;
    uint64_t pairs, pairs_failed; /* joined; target down */
    uint64_t pipes, pipes_in_use; /* now */
    uint64_t half_closes, aborts;
};

/* The settings' context of a service with nr_protocol_splice; freed by it (on_destroy). */
struct nr_splice;
int nr_splice_create(const struct nr_splice_target *, struct nr_splice **);
void nr_splice_read_statistics(const struct nr_splice *, struct nr_splice_statistics *);
extern const struct nr_protocol_ops nr_protocol_splice;

#endif
