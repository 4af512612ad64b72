#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>

#include "naru/os.h"

ssize_t nr_os_mq_send(int queue, const void *data, size_t size, unsigned priority)
{
    while (mq_send((mqd_t)queue, data, size, priority) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

ssize_t nr_os_mq_receive(int queue, void *buffer, size_t size, unsigned *priority)
{
    ssize_t got;

    while ((got = mq_receive((mqd_t)queue, buffer, size, priority)) < 0)
        if (errno != EINTR)
            return -errno;
    return got;
}

int nr_os_mq_attributes(int queue, long *depth, long *message_bytes, long *current)
{
    struct mq_attr attributes;

    if (mq_getattr((mqd_t)queue, &attributes) < 0)
        return -errno;
    *depth = attributes.mq_maxmsg;
    *message_bytes = attributes.mq_msgsize;
    *current = attributes.mq_curmsgs;
    return 0;
}

int nr_os_mq_open(const char *name, int flags, unsigned mode, long depth, long message_bytes)
{
    struct mq_attr attributes = {.mq_maxmsg = depth, .mq_msgsize = message_bytes};
    mqd_t queue;

    do
        queue = mq_open(name, flags | O_NONBLOCK | O_CLOEXEC, (mode_t)mode,
                        flags & O_CREAT ? &attributes : NULL);
    while (queue == (mqd_t)-1 && errno == EINTR);
    return queue == (mqd_t)-1 ? -errno : (int)queue;
}

int nr_os_mq_unlink(const char *name) { return mq_unlink(name) < 0 ? -errno : 0; }
