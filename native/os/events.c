#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "naru/os.h"

int nr_os_epoll(void)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int nr_os_epoll_change(int epoll, int operation, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};

    return epoll_ctl(epoll, operation, fd, &event) < 0 ? -errno : 0;
}

static struct timespec to_timespec(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
}

/* Before Linux 5.11: whole milliseconds, rounded up, so that no deadline is early. */
static int wait_in_milliseconds(int epoll, struct epoll_event *events, int room, uint64_t timeout_ns)
{
    const uint64_t most = 1000000000u;
    uint64_t timeout_ms = timeout_ns / 1000000u + (timeout_ns % 1000000u != 0);

    return epoll_wait(epoll, events, room, (int)(timeout_ms < most ? timeout_ms : most));
}

int nr_os_epoll_wait(int epoll, struct epoll_event *events, int room, uint64_t timeout_ns)
{
    /* What the kernel can is found out once; the answer is the same for every thread. */
    static atomic_bool kernel_lacks_pwait2;
    int ready;

    if (timeout_ns == 0 || timeout_ns == NR_FOREVER) {
        ready = epoll_wait(epoll, events, room, timeout_ns == 0 ? 0 : -1);
    } else if (atomic_load_explicit(&kernel_lacks_pwait2, memory_order_relaxed)) {
        ready = wait_in_milliseconds(epoll, events, room, timeout_ns);
    } else {
        struct timespec timeout = to_timespec(timeout_ns);

        ready = epoll_pwait2(epoll, events, room, &timeout, NULL);
        if (ready < 0 && (errno == ENOSYS || errno == EPERM)) { /* EPERM: an old seccomp filter */
            atomic_store_explicit(&kernel_lacks_pwait2, true, memory_order_relaxed);
            ready = wait_in_milliseconds(epoll, events, room, timeout_ns);
        }
    }
    return ready < 0 ? -errno : ready;
}

int nr_os_timer(void)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int nr_os_timer_set(int timer, uint64_t due_ns)
{
    struct itimerspec when = {.it_interval = {0, 0}};

    if (due_ns != NR_FOREVER)
        when.it_value = to_timespec(due_ns > 0 ? due_ns : 1); /* 0 would switch it off */
    return timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL) < 0 ? -errno : 0;
}

int nr_os_map_private(size_t size, void **mapped)
{
    void *place = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (place == MAP_FAILED)
        return -errno;
    if (madvise(place, size, MADV_WIPEONFORK) < 0) {
        int error = errno;

        munmap(place, size);
        return -error;
    }
    *mapped = place;
    return 0;
}

int nr_os_duplicate_onto(int fd, int number)
{
    int result;

    while ((result = dup3(fd, number, O_CLOEXEC)) < 0)
        if (errno != EINTR && errno != EBUSY)
            return -errno;
    return result;
}

int nr_os_accept(int fd)
{
    int accepted;

    while ((accepted = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) < 0)
        if (errno != EINTR)
            return -errno;
    return accepted;
}

int nr_os_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    return fd < 0 ? -errno : fd;
}

int nr_os_connect(int fd, const struct sockaddr *address, socklen_t size)
{
    while (connect(fd, address, size) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

bool nr_os_is_own_peer(int fd)
{
    struct sockaddr_storage own = {.ss_family = AF_UNSPEC}, peer = {.ss_family = AF_UNSPEC};
    socklen_t own_size = sizeof own, peer_size = sizeof peer;

    if (getsockname(fd, (struct sockaddr *)&own, &own_size) < 0 ||
        getpeername(fd, (struct sockaddr *)&peer, &peer_size) < 0)
        return false;
    return own.ss_family != AF_UNIX && own_size == peer_size && memcmp(&own, &peer, own_size) == 0;
}

int nr_os_shutdown(int fd, int how) { return shutdown(fd, how) < 0 ? -errno : 0; }

int nr_os_pipe(int *ends, size_t size_bytes)
{
    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0)
        return -errno;
    (void)fcntl(ends[1], F_SETPIPE_SZ, (int)size_bytes); /* else the usual size: as good, slower */
    return 0;
}

ssize_t nr_os_splice(int from, int to, size_t size)
{
    ssize_t moved;

    while ((moved = splice(from, NULL, to, NULL, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)) < 0)
        if (errno != EINTR)
            return -errno;
    return moved;
}

int nr_os_spare(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int64_t nr_os_raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return -errno;
    if (limit.rlim_cur < limit.rlim_max) {
        rlim_t before = limit.rlim_cur;

        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0) /* above fs.nr_open */
            limit.rlim_cur = before;
    }
    return limit.rlim_cur > INT64_MAX ? INT64_MAX : (int64_t)limit.rlim_cur;
}
