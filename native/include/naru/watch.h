/* naru/watch.h: one descriptor that an event loop polls for both directions of an endpoint.
 *
 * nr_endpoint_wait() sleeps; whoever has a loop of its own cannot. A watch is the same wait in steps:
 *
 *   nr_watch_begin   the wait begins, with a short spin
 *   nr_watch_glance  a look, in a turn of the loop: as long as that is worth more than sleeping
 *   nr_watch_arm     then: the peer is told to ring
 *   (the loop polls nr_watch_fileno() for reading)
 *   nr_watch_look    which directions are worth another try
 *
 * The descriptor is an epoll, registered with the loop once. What the transport sleeps on is watched
 * in it by edges, so a channel that nobody waits for does not keep the loop awake, and waiting again
 * for the same thing needs no epoll_ctl(2).
 *
 * Under the lock, never blocking. Every function returns 0 or more, or -errno. */
#ifndef NARU_WATCH_H
#define NARU_WATCH_H

#include "naru/endpoint.h"

struct nr_watch;

/* The endpoint must outlive its watch. */
int nr_watch_open(struct nr_endpoint *, struct nr_watch **);
int nr_watch_fileno(const struct nr_watch *);
/* 1: worth a try; 0: nothing yet. Spins for what the last waits taught, at most `most_ns`. */
int nr_watch_begin(struct nr_watch *, enum nr_direction, uint64_t most_ns);
int nr_watch_glance(struct nr_watch *, enum nr_direction);
/* 1: worth a try now, and not armed; 0: armed, the descriptor will tell. */
int nr_watch_arm(struct nr_watch *, enum nr_direction);
/* A mask of 1 << direction: what was armed, is worth a try, and is not armed any more. */
int nr_watch_look(struct nr_watch *);
/* The endpoint turns to other descriptors: those that it used are forgotten, and whoever has armed
 * looks again. Before they are closed. */
void nr_watch_kick(struct nr_watch *);
/* For who has armed: no descriptor tells of some things (a peer that is silent), so every
 * nr_watch_interval_ns (NR_FOREVER: never) ask: 1: worth a try; 0; -errno: how it has ended. */
uint64_t nr_watch_interval_ns(const struct nr_watch *);
int nr_watch_check(struct nr_watch *, enum nr_direction);
/* Before the endpoint closes its descriptors: a copy of them in a forked child would keep them
 * in the epoll. */
void nr_watch_close(struct nr_watch *);

#endif
