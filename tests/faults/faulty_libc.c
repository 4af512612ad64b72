/* A libc whose calls fail, or move fewer bytes, when a test says so: LD_PRELOADed by faulty_libc.py.
 *
 * Faster and finer than strace: the same process can run a story a thousand times, with another call
 * failing each time. What it cannot reach is what libc does inside itself.
 *
 * fault_arm(name, error, nth, forever): the nth call of that name from now on fails with that errno,
 * without being made; forever: all after it too. fault_calls() says how many there were, fault_fired()
 * how many failed. fault_shorten(most): reads, and writes to sockets, move 1..most bytes at a time. */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64 /* the names that naru and Python use: mmap64, open64... */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char armed[32];
static int armed_error;
static long armed_nth;
static int armed_forever;
static atomic_long calls, fired;
static atomic_uint shorten_to, shorten_seed = 1;

void fault_arm(const char *name, int error, long nth, int forever)
{
    armed[0] = 0;
    atomic_store(&calls, 0);
    atomic_store(&fired, 0);
    armed_error = error;
    armed_nth = nth;
    armed_forever = forever;
    strncpy(armed, name, sizeof armed - 1);
}

long fault_calls(void) { return atomic_load(&calls); }
long fault_fired(void) { return atomic_load(&fired); }
void fault_shorten(unsigned most) { atomic_store(&shorten_to, most); }

static int fails(const char *name)
{
    long number;

    if (armed[0] == 0 || strcmp(name, armed) != 0)
        return 0;
    number = atomic_fetch_add(&calls, 1) + 1;
    if (number < armed_nth || (number > armed_nth && !armed_forever))
        return 0;
    atomic_fetch_add(&fired, 1);
    errno = armed_error;
    return 1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define WRAP(type, bad, name, parameters, arguments)                                               \
    type name parameters                                                                           \
    {                                                                                              \
        REAL(name);                                                                                \
        if (fails(#name))                                                                          \
            return bad;                                                                            \
        return real arguments;                                                                     \
    }

WRAP(int, -1, poll, (struct pollfd * fds, nfds_t count, int limit), (fds, count, limit))
WRAP(int, -1, ppoll,
     (struct pollfd * fds, nfds_t count, const struct timespec *limit, const sigset_t *mask),
     (fds, count, limit, mask))
WRAP(int, -1, epoll_create1, (int flags), (flags))
WRAP(int, -1, epoll_wait, (int epoll, struct epoll_event *events, int most, int limit),
     (epoll, events, most, limit))
WRAP(int, -1, eventfd, (unsigned value, int flags), (value, flags))
WRAP(int, -1, socket, (int family, int kind, int protocol), (family, kind, protocol))
WRAP(int, -1, socketpair, (int family, int kind, int protocol, int fds[2]),
     (family, kind, protocol, fds))
WRAP(int, -1, bind, (int fd, const struct sockaddr *address, socklen_t size), (fd, address, size))
WRAP(int, -1, listen, (int fd, int backlog), (fd, backlog))
WRAP(int, -1, connect, (int fd, const struct sockaddr *address, socklen_t size),
     (fd, address, size))
WRAP(int, -1, accept4, (int fd, struct sockaddr *address, socklen_t *size, int flags),
     (fd, address, size, flags))
WRAP(int, -1, getsockopt, (int fd, int level, int option, void *value, socklen_t *size),
     (fd, level, option, value, size))
WRAP(int, -1, setsockopt, (int fd, int level, int option, const void *value, socklen_t size),
     (fd, level, option, value, size))
WRAP(int, -1, pipe2, (int fds[2], int flags), (fds, flags))
WRAP(int, -1, dup, (int fd), (fd))
WRAP(int, -1, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP(int, -1, ftruncate, (int fd, off_t size), (fd, size))
WRAP(int, -1, mkfifo, (const char *path, mode_t mode), (path, mode))
WRAP(int, -1, unlink, (const char *path), (path))
WRAP(int, -1, mq_send, (mqd_t queue, const char *data, size_t size, unsigned priority),
     (queue, data, size, priority))
WRAP(ssize_t, -1, mq_receive, (mqd_t queue, char *data, size_t size, unsigned *priority),
     (queue, data, size, priority))
WRAP(int, -1, mq_getattr, (mqd_t queue, struct mq_attr *attributes), (queue, attributes))
WRAP(ssize_t, -1, write, (int fd, const void *data, size_t size), (fd, data, size))

int epoll_ctl(int epoll, int what, int fd, struct epoll_event *event)
{
    REAL(epoll_ctl);
    /* taking something out needs nothing that could be lacking */
    return what == EPOLL_CTL_ADD && fails("epoll_ctl") ? -1 : real(epoll, what, fd, event);
}

int posix_fallocate(int fd, off_t offset, off_t size)
{
    REAL(posix_fallocate);
    return fails("posix_fallocate") ? errno : real(fd, offset, size);
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    REAL(mmap);

    if ((fd >= 0 || protection == PROT_NONE) && fails("mmap")) /* not the interpreter's own memory */
        return MAP_FAILED;
    return real(address, size, protection, flags, fd, offset);
}

int fcntl(int fd, int command, ...)
{
    int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl");
    va_list list;
    void *argument;

    va_start(list, command);
    argument = va_arg(list, void *);
    va_end(list);
    return fails("fcntl") ? -1 : real(fd, command, argument);
}

int open(const char *path, int flags, ...)
{
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    va_list list;
    mode_t mode;

    va_start(list, flags);
    mode = va_arg(list, mode_t);
    va_end(list);
    return fails("open") ? -1 : real(path, flags, mode);
}

mqd_t mq_open(const char *name, int flags, ...)
{
    mqd_t (*real)(const char *, int, ...) =
        (mqd_t(*)(const char *, int, ...))dlsym(RTLD_NEXT, "mq_open");
    va_list list;
    mode_t mode;
    struct mq_attr *attributes;

    va_start(list, flags);
    mode = va_arg(list, mode_t);
    attributes = va_arg(list, struct mq_attr *);
    va_end(list);
    return fails("mq_open") ? (mqd_t)-1 : real(name, flags, mode, attributes);
}

/* ---- transfers ---- */

/* How much of `size` bytes may move: pipes and stream sockets only, where a short count is legal. */
static size_t less_of(int fd, size_t size, int is_write)
{
    unsigned most = atomic_load(&shorten_to);
    struct stat status;
    int kind = 0;
    socklen_t room = sizeof kind;

    if (most == 0 || size == 0 || fstat(fd, &status) < 0)
        return size;
    if (S_ISSOCK(status.st_mode)) {
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &room) < 0 || kind != SOCK_STREAM)
            return size;
    } else if (!S_ISFIFO(status.st_mode) || is_write) /* pipe(7): a small write is all or nothing */
        return size;
    most = 1 + atomic_fetch_add(&shorten_seed, 5) % most;
    return size < most ? size : most;
}

/* The first `size` bytes of some parts; returns how many parts. */
static int cut_parts(struct iovec *to, const struct iovec *from, int count, size_t size)
{
    int used = 0;

    for (int i = 0; i < count && size > 0; i++) {
        to[used] = from[i];
        if (to[used].iov_len > size)
            to[used].iov_len = size;
        size -= to[used++].iov_len;
    }
    return used;
}

static size_t size_of(const struct iovec *parts, int count)
{
    size_t size = 0;

    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    return size;
}

ssize_t read(int fd, void *data, size_t size)
{
    REAL(read);
    if (armed_error == EAGAIN && !(fcntl(fd, F_GETFL) & O_NONBLOCK))
        return real(fd, data, size); /* it never says so of a file that may block */
    return fails("read") ? -1 : real(fd, data, less_of(fd, size, 0));
}

ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    REAL(preadv2);
    struct iovec less[1024];
    int used;

    if (fails("preadv2"))
        return -1;
    used = cut_parts(less, parts, count, less_of(fd, size_of(parts, count), 0));
    return real(fd, less, used, offset, flags);
}

ssize_t recv(int fd, void *data, size_t size, int flags)
{
    REAL(recv);
    return fails("recv") ? -1 : real(fd, data, less_of(fd, size, 0), flags);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    REAL(send);
    return fails("send") ? -1 : real(fd, data, less_of(fd, size, 1), flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    REAL(recvmsg);
    struct iovec parts[1024];
    struct msghdr less = *message;
    ssize_t got;

    if (fails("recvmsg"))
        return -1;
    less.msg_iovlen = (size_t)cut_parts(
        parts, message->msg_iov, (int)message->msg_iovlen,
        less_of(fd, size_of(message->msg_iov, (int)message->msg_iovlen), 0));
    less.msg_iov = parts;
    got = real(fd, &less, flags);
    message->msg_namelen = less.msg_namelen;
    message->msg_controllen = less.msg_controllen;
    message->msg_flags = less.msg_flags;
    return got;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(sendmsg);
    struct iovec parts[1024];
    struct msghdr less = *message;

    if (fails("sendmsg"))
        return -1;
    less.msg_iovlen = (size_t)cut_parts(
        parts, message->msg_iov, (int)message->msg_iovlen,
        less_of(fd, size_of(message->msg_iov, (int)message->msg_iovlen), 1));
    less.msg_iov = parts;
    return real(fd, &less, flags);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(writev);
    return fails("writev") ? -1 : real(fd, parts, count);
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    REAL(pwritev2);
    return fails("pwritev2") ? -1 : real(fd, parts, count, offset, flags);
}
