/* naru/transports.h: how each mechanism's endpoint is made from what the kernel gave.
 *
 * Names, rendezvous, credentials and options are the binding's business; here come connected
 * descriptors. On success the endpoint owns them; on failure they are still the caller's. All
 * functions return 0 or -errno. */
#ifndef NARU_TRANSPORTS_H
#define NARU_TRANSPORTS_H

#include "naru/endpoint.h"
#include "naru/broadcast.h"
#include "naru/segment.h"

/* What every kind needs to know. */
struct nr_settings {
    enum nr_wait_mode wait;
    uint32_t max_message_bytes;
    const struct nr_allocator *allocator;
};

/* ---- stream.c: pipe, unix stream, tcp ---- */
enum nr_stream_kind { NR_STREAM_PIPE, NR_STREAM_UNIX, NR_STREAM_TCP };
enum nr_framing { NR_FRAMING_NARU, NR_FRAMING_RAW, NR_FRAMING_LINES };

struct nr_stream_settings {
    enum nr_stream_kind kind;
    enum nr_framing framing;
    bool coalesce;         /* tcp: small messages under load share segments */
    uint32_t heartbeat_ms; /* tcp: the peer is given up after so long without a sign; 0 = never */
};

/* in and out may be one socket; -1 where the direction does not exist. */
int nr_stream_open(const struct nr_settings *, const struct nr_stream_settings *, int in, int out,
                   struct nr_endpoint **);

/* ---- shm.c ---- */
struct nr_shm_descriptors {
    int lifeline;      /* connected seqpacket socket: its hang-up is the peer's death */
    int data_bell[2];  /* of ring i: the consumer sleeps on it */
    int space_bell[2]; /* of ring i: the producer sleeps on it; -1 where there is no ring */
};

/* end 0 made the segment (writes ring 0), end 1 attached (writes ring 1). -EPROTO when the segment
 * has not exactly the rings that have bells. */
int nr_shm_open(const struct nr_settings *, struct nr_segment *, int end, bool fences,
                const struct nr_shm_descriptors *, struct nr_endpoint **);
int nr_shm_lifeline(struct nr_endpoint *);

/* ---- fifo.c ---- */
/* keep_open: a write end, so that the last writer's leaving is no end. */
int nr_fifo_open_receiver(const struct nr_settings *, int fd, int keep_open, struct nr_endpoint **);
/* `sender` is the random byte of the FIFO on which `fd` holds an OFD write lock. */
int nr_fifo_open_sender(const struct nr_settings *, int fd, uint64_t sender, struct nr_endpoint **);

/* ---- mq.c ---- */
/* A receiver of naru's holds an OFD write lock on byte 0 of its queue. */
int nr_mq_open(const struct nr_settings *, int queue, bool receiver, struct nr_endpoint **);

/* ---- datagram.c: udp, and unix datagram sockets ---- */
/* A connected socket. connection: the number both ends put on their datagrams (naru framing). */
int nr_datagram_open(const struct nr_settings *, int fd, bool raw, uint64_t connection,
                     uint32_t heartbeat_ms, struct nr_endpoint **);

/* ---- fan_in.c: one receiver over many connections ---- */
/* door: becomes readable when the binding should accept (a listening socket or an epoll); bell: the
 * data bell that all shm children share, or -1. Both stay the caller's. */
int nr_fan_in_open(const struct nr_settings *, int door, int bell, struct nr_endpoint **);
/* Takes the endpoint over (closes and frees it when its peer has gone). */
int nr_fan_in_add(struct nr_endpoint *fan_in, struct nr_endpoint *child);
unsigned nr_fan_in_count(const struct nr_endpoint *fan_in);
/* True once after the door became readable. */
bool nr_fan_in_door_rang(struct nr_endpoint *fan_in);


/* ---- moving.c: one channel over changing connections ---- */
/* Takes `first` over. Every endpoint given to a mover has the same limits and framing, sends and
 * receives, and is open. */
int nr_mover_open(const struct nr_settings *, struct nr_endpoint *first, struct nr_endpoint **);
/* Under the lock. Takes `next` over: receiving turns to it once the old connection has said goodbye.
 * -EBUSY: a move is under way. */
int nr_mover_prepare(struct nr_endpoint *mover, struct nr_endpoint *next);
/* The peer has prepared: sending turns to the next connection. 0: it has; -EAGAIN: the goodbye has
 * no room yet, or a message is half out; the next send tries again, and so should the caller. */
int nr_mover_turn(struct nr_endpoint *mover);
/* The peer could not prepare. -EBUSY: too late. */
int nr_mover_give_up(struct nr_endpoint *mover);
bool nr_mover_is_moving(const struct nr_endpoint *mover);
/* ---- publisher.c, subscriber.c: publish/subscribe in shared memory (broadcast.h) ---- */
/* What a publisher knows of one of its subscribers. */
struct nr_subscription {
    uint64_t id;          /* never used again */
    uint32_t policy;      /* enum nr_policy */
    int pid;
    uint32_t uid, gid;
    uint64_t lag_bytes;   /* published and not yet read by it */
    uint64_t lost;        /* messages it missed; shm: as it says itself */
};

/* Takes the segment and its descriptor over. */
int nr_publisher_open(const struct nr_settings *, struct nr_segment *, int data_fd,
                      struct nr_endpoint **);
/* Lets a subscriber in, which begins at the newest message. Fills fds with what it has to be sent:
 * data, slot, data bell, space bell; the second is the caller's to close, the others stay the
 * publisher's. The lifeline is taken over on success. `fences`: one of the two has no membarrier. */
int nr_publisher_add(struct nr_endpoint *, const struct nr_subscription *, bool fences, int lifeline,
                     int fds[4]);

/* An end over what a publisher sent; everything is taken over on success. */
int nr_subscriber_open(const struct nr_settings *, struct nr_segment *, struct nr_broadcast_slot *,
                       bool fences, int lifeline, int data_bell, int space_bell,
                       struct nr_endpoint **);

/* ---- fan_out.c: publish/subscribe over streams ---- */
/* queue_bytes: what may wait for one slow subscriber; a single message always may. */
int nr_fan_out_open(const struct nr_settings *, uint64_t queue_bytes, struct nr_endpoint **);
/* Takes the connection over, and sends it the newest message. */
int nr_fan_out_add(struct nr_endpoint *fan_out, const struct nr_subscription *,
                   struct nr_endpoint *connection);

/* ---- either kind of publisher: publisher.c, fan_out.c ---- */
/* Drops the subscribers that have gone, and pushes out what waits for slow ones. */
void nr_publisher_step(struct nr_endpoint *);
int nr_publisher_lives(const struct nr_endpoint *); /* readable when there is something to step for */
/* Fills up to `limit` places and returns how many subscribers there are. */
unsigned nr_publisher_list(struct nr_endpoint *, struct nr_subscription *, unsigned limit);

#endif
