#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "naru/os.h"

#ifndef RWF_NOSIGNAL
#define RWF_NOSIGNAL 0x00000100 /* Linux 6.18 */
#endif

int nr_os_close(int fd) { return close(fd) < 0 ? -errno : 0; }

int nr_os_set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0)
        return -errno;
    if (flags & O_NONBLOCK)
        return 0;
    return fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int nr_os_eventfd(void)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

/* The peer shares the open file, and may have taken its O_NONBLOCK away (and filled the counter). */
static int keep_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (__builtin_expect(flags >= 0 && flags & O_NONBLOCK, 1))
        return 0;
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int nr_os_eventfd_ring(int fd)
{
    uint64_t one = 1;
    int result = keep_nonblocking(fd);

    if (result < 0)
        return result;
    while (write(fd, &one, sizeof one) < 0) {
        if (errno == EAGAIN)
            return 0; /* a hostile peer filled the counter: it is rung all the same */
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

int nr_os_eventfd_drain(int fd)
{
    uint64_t rung;
    struct iovec part = {&rung, sizeof rung};
    int result;

    /* RWF_NOWAIT (eventfd has it since Linux 5.8) does not care for the file's flags. */
    while (preadv2(fd, &part, 1, -1, RWF_NOWAIT) < 0) {
        if (errno == EAGAIN)
            return 0;
        if (errno == EINTR)
            continue;
        if (errno != EOPNOTSUPP && errno != ENOSYS)
            return -errno;
        result = keep_nonblocking(fd);
        if (result < 0)
            return result;
        while (read(fd, &rung, sizeof rung) < 0) {
            if (errno == EAGAIN)
                return 0;
            if (errno != EINTR)
                return -errno;
        }
        return 1;
    }
    return 1;
}

int nr_os_sleep(struct pollfd *fds, nfds_t count, uint64_t timeout_ns)
{
    struct timespec limit = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};
    int ready = ppoll(fds, count, timeout_ns == NR_FOREVER ? NULL : &limit, NULL);

    return ready < 0 ? -errno : ready;
}

int nr_os_poll_now(int fd, short events)
{
    struct pollfd one = {.fd = fd, .events = events};

    while (poll(&one, 1, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return one.revents;
}

ssize_t nr_os_read(int fd, void *buffer, size_t size)
{
    ssize_t got;

    while ((got = read(fd, buffer, size)) < 0)
        if (errno != EINTR)
            return -errno;
    return got;
}

/* Before 6.18: hold SIGPIPE back in this thread, and eat the one that the write made. */
static ssize_t write_holding_sigpipe(int fd, const struct iovec *parts, int count)
{
    const struct timespec at_once = {0, 0};
    sigset_t sigpipe, before, pending;
    bool was_pending;
    ssize_t written;
    int error;

    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    sigpending(&pending);
    was_pending = sigismember(&pending, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &sigpipe, &before);
    do {
        written = writev(fd, parts, count);
        error = errno;
    } while (written < 0 && error == EINTR);
    if (written < 0 && error == EPIPE && !was_pending)
        while (sigtimedwait(&sigpipe, NULL, &at_once) < 0 && errno == EINTR)
            continue;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return written < 0 ? -error : written;
}

ssize_t nr_os_write_parts(int fd, const struct iovec *parts, int count)
{
    /* What the kernel can is found out once; the answer is the same for every thread. */
    static atomic_bool kernel_lacks_nosignal;
    ssize_t written;

    if (!atomic_load_explicit(&kernel_lacks_nosignal, memory_order_relaxed)) {
        while ((written = pwritev2(fd, parts, count, -1, RWF_NOSIGNAL)) < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EOPNOTSUPP && errno != EINVAL && errno != ENOSYS)
                return -errno;
            atomic_store_explicit(&kernel_lacks_nosignal, true, memory_order_relaxed);
            return write_holding_sigpipe(fd, parts, count);
        }
        return written;
    }
    return write_holding_sigpipe(fd, parts, count);
}

int nr_os_lock_byte_is_held(int fd, uint64_t offset)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = 1};

    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        return -errno;
    return lock.l_type != F_UNLCK;
}

static int change_byte_lock(int fd, uint64_t offset, short type)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = 1};
    int result;

    do
        result = fcntl(fd, F_OFD_SETLKW, &lock);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

int nr_os_lock_byte(int fd, uint64_t offset) { return change_byte_lock(fd, offset, F_WRLCK); }

int nr_os_unlock_byte(int fd, uint64_t offset) { return change_byte_lock(fd, offset, F_UNLCK); }
