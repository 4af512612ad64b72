/* publisher.h: what the two kinds of publishers (publisher.c in memory, fan_out.c over streams) show
 * to the binding in the same way. */
#ifndef NARU_TRANSPORTS_PUBLISHER_H
#define NARU_TRANSPORTS_PUBLISHER_H

#include "naru/transports.h"

#define NR_SUBSCRIBER_BROKEN 255u /* a policy: its cursor was nonsense, it is to be dropped */

struct nr_publisher_ops {
    void (*step)(struct nr_endpoint *);
    int (*lives)(const struct nr_endpoint *);
    unsigned (*list)(struct nr_endpoint *, struct nr_subscription *, unsigned limit);
};

/* First member of both. */
struct nr_publisher {
    struct nr_endpoint base;
    const struct nr_publisher_ops *ops;
};

int nr_publisher_watch(int epoll, int fd, uint32_t events, uint64_t tag);

#endif
