/* Bytes between two descriptors. SIGPIPE: sendfile and splice have no flag against it, and kill a
 * process that leaves it at its default (Python does not, a program that embeds this core may). */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/sendfile.h>
#include <time.h>
#include <unistd.h>

#include "naru/os.h"

struct held_sigpipe {
    sigset_t before;
    bool held, was_pending;
};

static void hold_sigpipe(struct held_sigpipe *h)
{
    struct sigaction action;
    sigset_t sigpipe, pending;

    h->held = sigaction(SIGPIPE, NULL, &action) < 0 || action.sa_handler != SIG_IGN;
    if (!h->held)
        return; /* ignored, as in every Python process: one system call instead of three */
    sigpending(&pending);
    h->was_pending = sigismember(&pending, SIGPIPE);
    sigemptyset(&sigpipe);
    sigaddset(&sigpipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &sigpipe, &h->before);
}

static void let_sigpipe_go(struct held_sigpipe *h, ssize_t result)
{
    const struct timespec at_once = {0, 0};
    sigset_t sigpipe;

    if (!h->held)
        return;
    if (result == -EPIPE && !h->was_pending) {
        sigemptyset(&sigpipe);
        sigaddset(&sigpipe, SIGPIPE);
        while (sigtimedwait(&sigpipe, NULL, &at_once) < 0 && errno == EINTR)
            continue;
    }
    pthread_sigmask(SIG_SETMASK, &h->before, NULL);
}

ssize_t nr_os_sendfile(int target, int source, int64_t *offset, size_t size)
{
    struct held_sigpipe held;
    off_t at = offset ? (off_t)*offset : 0;
    ssize_t moved;

    hold_sigpipe(&held);
    moved = sendfile(target, source, offset ? &at : NULL, size);
    if (moved < 0)
        moved = -errno;
    let_sigpipe_go(&held, moved);
    if (moved > 0 && offset)
        *offset += moved;
    return moved;
}

ssize_t nr_os_copy_range(int source, int64_t *offset, int target, size_t size)
{
    off_t at = offset ? (off_t)*offset : 0;
    ssize_t moved = copy_file_range(source, offset ? &at : NULL, target, NULL, size, 0);

    if (moved < 0)
        return -errno;
    if (offset)
        *offset += moved;
    return moved;
}

ssize_t nr_os_splice_at(int source, int64_t *offset, int target, size_t size)
{
    struct held_sigpipe held;
    off_t at = offset ? (off_t)*offset : 0;
    ssize_t moved;

    hold_sigpipe(&held);
    moved = splice(source, offset ? &at : NULL, target, NULL, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (moved < 0)
        moved = -errno;
    let_sigpipe_go(&held, moved);
    if (moved > 0 && offset)
        *offset += moved;
    return moved;
}

ssize_t nr_os_read_at(int fd, void *buffer, size_t size, int64_t offset)
{
    ssize_t got = offset < 0 ? read(fd, buffer, size) : pread(fd, buffer, size, (off_t)offset);

    return got < 0 ? -errno : got;
}

ssize_t nr_os_write(int fd, const void *data, size_t size)
{
    struct held_sigpipe held;
    ssize_t written;

    hold_sigpipe(&held);
    written = write(fd, data, size);
    if (written < 0)
        written = -errno;
    let_sigpipe_go(&held, written);
    return written;
}
