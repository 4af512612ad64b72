/* naru/endpoint.h: the contract of every transport, in one struct of functions.
 *
 * An endpoint is one end of a conversation (or of a one-way queue) and belongs to one process.
 *
 * Order      Messages of one sender arrive in the order in which they were sent (udp: counted when
 *            not).
 * Loss       None without an error. A message whose send returned 0 has been *accepted*: it is in
 *            the kernel, the ring, or this endpoint's outbox, and arrives unless one of the two
 *            processes dies. A send that fails with -EAGAIN or a timeout has left no byte behind.
 * Tearing    Never. A message is delivered whole, or the receiver gets -EBADMSG / -EPIPE.
 * Blocking   Operations never block: they return -EAGAIN. Only nr_endpoint_wait() waits.
 * Threads    Operations of one endpoint are called under one lock (Python: the GIL).
 *            nr_endpoint_wait() is called without it, and reads only immutable fields, atomics and
 *            shared memory.
 * Errors     0 or more, or -errno:
 *              -EAGAIN      nothing there / no room                -ECANCELED  closed on this side
 *              -EPIPE       the peer is gone (also -ECONNRESET, -ECONNREFUSED, -ENOTCONN)
 *              -ESHUTDOWN   the peer closed in good order           -EBADMSG    data are corrupt
 *              -EPROTO      the peer broke the protocol             -EMSGSIZE   too big
 *              -ECHILD      this end belongs to another process     -EOPNOTSUPP this transport cannot
 *              -EBUSY       another thread is half-way through a large message
 *              -EHOSTDOWN   the peer is silent (heartbeat)          -EMFILE     no descriptor free
 */
#ifndef NARU_ENDPOINT_H
#define NARU_ENDPOINT_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "naru/claims.h"
#include "naru/os.h"
#include "naru/record.h"
#include "naru/waiting.h"

enum nr_direction { NR_SEND = 0, NR_RECEIVE = 1 };

/* UNCLAIMED -> OPEN -> CLOSED; a copy in a forked child goes to FORKED instead. */
enum nr_state { NR_OPEN = 0, NR_UNCLAIMED, NR_CLOSED, NR_FORKED };

/* The thread that waits until there is something to receive. What another thread has read from the
 * kernel and left in this endpoint wakes nobody by itself, so that one kicks: NOBODY -> WAITING ->
 * KICKED (an interrupt has begun) -> NOBODY (it has ended). */
enum nr_waiter { NR_NOBODY_WAITS = 0, NR_WAITING, NR_KICKED };

/* Up to here the rest of a half-taken message is copied into the outbox; above, its sender holds the
 * direction until it is through. */
#define NR_SMALL_MESSAGE 32768u

/* Where the bytes of a message that cannot be delivered in place are assembled. The binding makes
 * its own object (Python: bytes), so that nothing is copied twice. */
struct nr_allocator {
    void *(*allocate)(size_t size, uint8_t **data); /* NULL: no memory */
    void (*discard)(void *owner);
};

extern const struct nr_allocator nr_malloc_allocator;

/* A message that came. With an owner it is an object of the allocator and the caller's; without,
 * it lies in the transport until nr_endpoint_release(). */
struct nr_message {
    const uint8_t *data;
    size_t size;
    void *owner;
    uint32_t priority; /* mq */
    uint32_t fd_count; /* taken from the endpoint by nr_endpoint_take_fds() */
};

/* A message on its way out, and how far it got. */
struct nr_outgoing {
    const struct iovec *parts;
    int part_count;
    uint32_t priority;
    uint32_t flags;  /* of a record that is no message (goodbye) */
    size_t size;     /* sum of the parts */
    size_t progress; /* private to the transport; > 0: begun, must be completed */
    const int *fds;
    unsigned fd_count;
};

#define NR_SLEEP_FDS 4
#define NR_FD_QUEUE 512
/* Heartbeats: a limit is looked at so many times while it passes, and kept within 5 %. */
#define NR_CHECKS_OF_SILENCE 20

/* Descriptors that came and wait for their message; the oldest first. */
struct nr_fd_queue {
    unsigned count;
    int fds[NR_FD_QUEUE];
};

/* Counted since the endpoint was opened. */
struct nr_statistics {
    uint64_t messages_sent, bytes_sent;
    uint64_t messages_received, bytes_received;
    uint64_t waits[2];   /* by direction: operations that found nothing and had to wait */
    uint64_t spins[2];   /* of those: ended while spinning */
    uint64_t sleeps[2];  /* times that a thread slept in the kernel */
    uint64_t wakeups;    /* doorbells rung for a sleeping peer */
    uint64_t lost;       /* udp: sequence numbers that never came */
    uint64_t duplicates; /* udp: came twice, delivered once */
    uint64_t reordered;  /* udp: came after a later one */
    uint64_t torn;       /* begun messages whose sender died: never delivered */
    uint64_t strangers;  /* what was not naru, or not allowed: refused */
    uint64_t peers_lost; /* senders of a receiver that died without closing */
    uint64_t peers_closed; /* senders of a receiver that closed in good order */
    uint64_t fds_dropped;  /* descriptors whose message was taken without asking for them */
};

struct nr_endpoint;
struct nr_segment;
struct nr_watch;

/* One per transport. NULL = this transport cannot. */
struct nr_transport_ops {
    const char *name;
    /* 0: accepted; -EAGAIN: not now (with out->progress > 0: begun, call again with the same). */
    int (*send)(struct nr_endpoint *, struct nr_outgoing *out);
    /* How many of the messages were taken (>= 1), or -EAGAIN. The last one taken may continue in
     * the outbox. */
    int (*send_many)(struct nr_endpoint *, const struct iovec *messages, int count);
    /* 1 and a message, or -EAGAIN. May be called again before release: the earlier ones stay valid;
     * -ENOBUFS when that is not possible without moving them. */
    int (*receive)(struct nr_endpoint *, struct nr_message *message);
    /* All messages taken so far without an owner are done with. */
    void (*release)(struct nr_endpoint *);
    /* Room for a message of exactly `size` bytes, in place, then its end. */
    int (*reserve)(struct nr_endpoint *, size_t size, uint8_t **place);
    int (*commit)(struct nr_endpoint *, size_t size);
    /* For a spinning thread without the lock: would the operation make progress? */
    bool (*is_ready)(struct nr_endpoint *, enum nr_direction);
    bool ready_is_cheap; /* is_ready makes no system call; copied to each endpoint */
    /* Prepares to sleep: fills fds and returns their number, or 0 when there is no need to. */
    int (*fall_asleep)(struct nr_endpoint *, enum nr_direction, struct pollfd *fds);
    void (*wake)(struct nr_endpoint *, enum nr_direction);
    /* Every check_interval_ns of a sleep (0 = never): is the peer still there? 0 or -errno. */
    int (*check)(struct nr_endpoint *, enum nr_direction);
    /* A sign of life, when nothing else is under way; called by a timer, under the lock. */
    int (*beat)(struct nr_endpoint *);
    /* Sends what says "closed in good order": 0; -EAGAIN, there is no room for it now. */
    int (*say_goodbye)(struct nr_endpoint *);
    /* After the goodbye: -EAGAIN while closing would destroy accepted messages that only the kernel
     * has (nothing can be received from now on); ask again a little later. NULL = it never would. */
    int (*linger)(struct nr_endpoint *);
    void (*close)(struct nr_endpoint *);   /* descriptors and mappings; also in a forked child */
    /* The shared memory that holds the unreleased messages; NULL: they are in private memory. */
    struct nr_segment *(*memory)(struct nr_endpoint *);
    void (*free)(struct nr_endpoint *);    /* private memory, when no view is left; NULL = none */
    uint64_t (*depth_bytes)(struct nr_endpoint *); /* waiting to be received */
    /* Adds what the endpoints inside this one (a fan-in's) have counted; NULL = none are. */
    void (*add_statistics)(struct nr_endpoint *, struct nr_statistics *sum);
    int (*fileno)(struct nr_endpoint *);   /* readable when receive may succeed or fail; -errno */
};

/* First member of every transport's endpoint. */
struct nr_endpoint {
    const struct nr_transport_ops *ops;
    _Atomic uint32_t state;        /* enum nr_state */
    bool send_begun;               /* a large message is half sent; its sender holds NR_SEND */
    int send_error;                /* with send_begun: it was broken off, nothing can follow it */
    bool newest_only;              /* a receive passes over all messages but the newest; they count
                                    * as lost (a subscriber's "latest") */
    bool lent;                     /* newest_only: one is out, in place */
    bool leaving, goodbye_said;    /* close() has begun: no new messages, the rest goes out */
    uint32_t max_message_bytes;
    _Atomic uint64_t check_interval_ns; /* read by who waits */
    _Atomic bool ready_is_cheap;   /* as its ops say; a mover's changes with its connection */
    struct nr_endpoint *inner;     /* what carries the messages that this one sends; mostly NULL */
    size_t wanted_bytes;           /* room that the waiting send needs (ring) */
    const struct nr_allocator *allocator;
    struct nr_waiting waiting[2];
    uint64_t done_before_wait[2];  /* messages sent, received, at the last glance */
    pthread_mutex_t hold[2];       /* one waiter a direction; the others queue here */
    _Atomic uint32_t waiter;       /* enum nr_waiter: of the direction NR_RECEIVE */
    int end_error;                 /* once the incoming side has ended: how */
    struct nr_statistics statistics;
    struct nr_fd_queue incoming_fds;
    struct { /* the remainder of an accepted message */
        uint8_t *data;
        struct nr_outgoing out;
        struct iovec part;
        bool active;
    } outbox;
    struct { /* pair(): which process holds which end (claims.h) */
        struct nr_claims *claims;
        int index;
        struct nr_endpoint *sibling; /* the other end, while this process has a copy of it */
    } pair;
    struct nr_endpoint *next, **previous; /* registry of this process: fork.c */
    struct nr_watch *watch;               /* of an event loop (watch.h), or NULL */
    struct nr_endpoint *link;             /* for its owner's use (a fan-in's graveyard) */
};

/* What a binding's object holds before and after it has an endpoint: always closed, never changed. */
extern struct nr_endpoint nr_endpoint_nobody;

void nr_endpoint_init(struct nr_endpoint *, const struct nr_transport_ops *, enum nr_wait_mode,
                      uint32_t max_message_bytes, const struct nr_allocator *);
/* Makes this end one of a pair; takes a reference to the claims. `sibling` is the other end when it
 * was made here too, NULL when this one came from another process by pickle. */
void nr_endpoint_join_pair(struct nr_endpoint *, struct nr_claims *claims, int index,
                           struct nr_endpoint *sibling);
/* 0 when this process may use the endpoint; the first use claims an end of a pair. */
int nr_endpoint_admit(struct nr_endpoint *);

static inline uint32_t nr_endpoint_state(const struct nr_endpoint *e)
{
    return atomic_load_explicit(&e->state, memory_order_relaxed);
}

/* ---- under the lock, never blocking ---- */

/* 0: accepted. -EAGAIN, and with out->progress > 0 it has begun: hold the direction and go on. */
int nr_endpoint_send(struct nr_endpoint *, struct nr_outgoing *out);
/* How many were accepted, or -EAGAIN, -EMSGSIZE (the first one is too big). */
int nr_endpoint_send_many(struct nr_endpoint *, const struct iovec *messages, int count);
/* A begun send that may not wait any longer: keeps a copy of the rest, so that it is accepted. */
int nr_endpoint_keep_rest(struct nr_endpoint *, const struct nr_outgoing *out);
/* A message is half out and cannot be completed. Whatever followed would be taken for its rest, so
 * every later send fails with `error`; the peer learns of it at the end of the stream. */
void nr_endpoint_break_off(struct nr_endpoint *, int error);
/* Keeps the rest for a sender whose time is up: the message now counts as sent. 0; -ENOMEM, and it is
 * broken off. */
int nr_endpoint_accept_begun(struct nr_endpoint *, const struct nr_outgoing *out);
int nr_endpoint_flush(struct nr_endpoint *); /* pushes the outbox: 0 when it is empty */
/* The rest of an accepted message is still in the outbox. A verb that may wait pushes it out before
 * it returns: an end that does nothing more would keep it for ever. */
static inline bool nr_endpoint_has_rest(const struct nr_endpoint *e)
{
    return (e->outbox.active && e->outbox.out.flags == 0) ||
           (e->inner && nr_endpoint_has_rest(e->inner));
}
int nr_endpoint_receive(struct nr_endpoint *, struct nr_message *message);
void nr_endpoint_release(struct nr_endpoint *);
void nr_endpoint_read_statistics(struct nr_endpoint *, struct nr_statistics *);
/* Moves the descriptors of the last message to `fds`; those above `limit` are closed and counted. */
unsigned nr_endpoint_take_fds(struct nr_endpoint *, unsigned came, int *fds, unsigned limit);
/* A very short spin before the lock is given up: true when the operation is worth another try.
 * Only where looking costs no system call and the last waits were short. */
bool nr_endpoint_glance(struct nr_endpoint *, enum nr_direction);
/* A waiting thread looks again: there is more in this endpoint than what it sleeps on tells of. */
void nr_endpoint_kick(struct nr_endpoint *);
int nr_endpoint_reserve(struct nr_endpoint *, size_t size, uint8_t **place);
int nr_endpoint_commit(struct nr_endpoint *, size_t size);

/* The holder of NR_RECEIVE, between a try that found nothing and nr_endpoint_wait(), without giving
 * the lock up between: from here on another thread's receive knows that somebody waits. */
static inline void nr_endpoint_announce_wait(struct nr_endpoint *e)
{
    atomic_store_explicit(&e->waiter, NR_WAITING, memory_order_relaxed);
}

/* ---- without the lock, blocking ---- */

/* One thread at a time waits in a direction. 0, -ETIMEDOUT, -EINTR (look at signals, call again). */
int nr_endpoint_hold(struct nr_endpoint *, enum nr_direction, uint64_t deadline_ns);
bool nr_endpoint_try_hold(struct nr_endpoint *, enum nr_direction);
void nr_endpoint_let_go(struct nr_endpoint *, enum nr_direction);
/* The holder waits until the operation is worth another try: 1; 0 at the deadline (CLOCK_MONOTONIC
 * ns or NR_FOREVER); -EINTR when the binding should look at signals; -errno. */
int nr_endpoint_wait(struct nr_endpoint *, enum nr_direction, uint64_t deadline_ns);
/* The same for a binding whose signal handlers only leave a note: a signal that came while the operation
 * was tried interrupts no sleep. So the sleep that begins here ends once after 50 ms, with
 * NR_LOOK_AT_SIGNALS; then either of the other two follows. */
#define NR_LOOK_AT_SIGNALS 2
int nr_endpoint_begin_wait(struct nr_endpoint *, enum nr_direction, uint64_t deadline_ns);
int nr_endpoint_go_on_waiting(struct nr_endpoint *, enum nr_direction, uint64_t deadline_ns);
void nr_endpoint_give_up_waiting(struct nr_endpoint *, enum nr_direction);
/* Its parts, for those who wait in steps (watch.h). Looks for so long whether the operation is worth
 * another try. */
bool nr_endpoint_spin(struct nr_endpoint *, enum nr_direction, uint64_t budget_ns);
/* So often a sleeper asks for what no descriptor tells (NR_FOREVER: never), and the answer: 1: worth
 * a try; 0; -errno. */
uint64_t nr_endpoint_look_up_interval(const struct nr_endpoint *);
int nr_endpoint_look_up(struct nr_endpoint *, enum nr_direction);

/* ---- the end ---- */

/* In two steps, because the waiters (they get -ECANCELED) need the caller's lock to leave. */
/* Pushes out the outbox and the goodbye: 0; -EAGAIN: wait for room and call again; -errno: the peer
 * is gone. Without it a close at a full transport would look like a death. */
int nr_endpoint_take_leave(struct nr_endpoint *);
bool nr_endpoint_begin_close(struct nr_endpoint *);  /* with the lock; false: was closed already */
void nr_endpoint_finish_close(struct nr_endpoint *); /* without */
void nr_endpoint_free(struct nr_endpoint *);         /* the memory; closed before, no view left */
/* Drops this process's copy (descriptors, mappings) of an end that another process owns. */
void nr_endpoint_abandon(struct nr_endpoint *);
void nr_endpoint_after_fork(struct nr_endpoint *); /* in the child */

/* fork.c: the registry that lets a forked child give up what is not its own. */
int nr_process_start(void);
int nr_process_interrupt_fd(void);
void nr_process_begin_interrupt(void); /* every sleeper of this process looks at its state */
void nr_process_end_interrupt(void);
uint32_t nr_process_token(void); /* random, never 0, another one in each process */
int nr_process_cpu_count(void);
bool nr_process_has_barrier(void);
void nr_process_register(struct nr_endpoint *);
void nr_process_unregister(struct nr_endpoint *);

/* ---- shared by the transports: descriptors.c, endpoint.c ---- */

/* Copies descriptors out of a control message into the queue. -EMFILE when the kernel had to cut
 * (MSG_CTRUNC): those that came are closed. -EPROTO when there are more than can wait. */
int nr_fds_collect(struct nr_fd_queue *, struct msghdr *message);
void nr_fds_close(struct nr_fd_queue *, unsigned count);
/* The descriptors of a message that came through another endpoint become this one's. */
void nr_fds_move(struct nr_endpoint *to, struct nr_endpoint *from, struct nr_message *message);
/* Adds what only an inner endpoint sees; messages are counted by the outer one as well. */
void nr_statistics_add_signs(struct nr_statistics *sum, const struct nr_statistics *inner);
/* Fills a control buffer for descriptors; returns its length. */
#define NR_FD_CONTROL_BYTES 1040
size_t nr_fds_attach(struct msghdr *message, void *control, const int *fds, unsigned count);

static inline size_t nr_parts_size(const struct iovec *parts, int count)
{
    size_t size = 0;

    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    return size;
}

/* Copies `size` bytes of the parts, from byte `offset` of the message. */
void nr_parts_copy(const struct iovec *parts, int count, size_t offset, size_t size, uint8_t *to);

#endif
