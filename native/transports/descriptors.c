/* Descriptors that travel next to messages: unix(7), SCM_RIGHTS. */
#include "naru/endpoint.h"

#include <errno.h>
#include <string.h>

int nr_fds_collect(struct nr_fd_queue *queue, struct msghdr *message)
{
    unsigned before = queue->count;
    bool too_many = false;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        size_t count;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (queue->count < NR_FD_QUEUE)
                queue->fds[queue->count++] = fd;
            else {
                nr_os_close(fd);
                too_many = true;
            }
        }
    }
    if (message->msg_flags & MSG_CTRUNC) { /* this process has no free number for the rest */
        while (queue->count > before)
            nr_os_close(queue->fds[--queue->count]);
        return -EMFILE;
    }
    return too_many ? -EPROTO : 0;
}

void nr_fds_close(struct nr_fd_queue *queue, unsigned count)
{
    if (count > queue->count)
        count = queue->count;
    for (unsigned i = 0; i < count; i++)
        nr_os_close(queue->fds[i]);
    queue->count -= count;
    memmove(queue->fds, queue->fds + count, queue->count * sizeof *queue->fds);
}

unsigned nr_endpoint_take_fds(struct nr_endpoint *e, unsigned came, int *fds, unsigned limit)
{
    unsigned taken = came < limit ? came : limit;

    memcpy(fds, e->incoming_fds.fds, taken * sizeof *fds);
    e->incoming_fds.count -= taken;
    memmove(e->incoming_fds.fds, e->incoming_fds.fds + taken,
            e->incoming_fds.count * sizeof *fds);
    if (came > taken) {
        nr_fds_close(&e->incoming_fds, came - taken);
        e->statistics.fds_dropped += came - taken;
    }
    return taken;
}

void nr_fds_move(struct nr_endpoint *to, struct nr_endpoint *from, struct nr_message *message)
{
    unsigned room = NR_FD_QUEUE - to->incoming_fds.count;

    if (message->fd_count == 0)
        return;
    message->fd_count = nr_endpoint_take_fds(
        from, message->fd_count, to->incoming_fds.fds + to->incoming_fds.count, room);
    to->incoming_fds.count += message->fd_count;
}

size_t nr_fds_attach(struct msghdr *message, void *control, const int *fds, unsigned count)
{
    struct cmsghdr *c = control;
    size_t bytes = count * sizeof *fds;

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(c), fds, bytes);
    message->msg_control = control;
    message->msg_controllen = CMSG_SPACE(bytes);
    return message->msg_controllen;
}
