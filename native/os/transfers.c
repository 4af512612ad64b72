/* Bytes between two descriptors. sendfile, splice and write have no flag against SIGPIPE: sigpipe.c. */
#include <errno.h>
#include <fcntl.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "naru/os.h"

/* Ignored, as in every Python process: one system call instead of four. */
static bool hold(struct nr_held_sigpipe *held)
{
    if (nr_os_sigpipe_is_ignored())
        return false;
    nr_os_hold_sigpipe(held);
    return true;
}

ssize_t nr_os_sendfile(int target, int source, int64_t *offset, size_t size)
{
    struct nr_held_sigpipe sigpipe;
    off_t at = offset ? (off_t)*offset : 0;
    ssize_t moved;
    bool held = hold(&sigpipe);

    moved = sendfile(target, source, offset ? &at : NULL, size);
    if (moved < 0)
        moved = -errno;
    if (held)
        nr_os_release_sigpipe(&sigpipe, moved == -EPIPE);
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
    struct nr_held_sigpipe sigpipe;
    off_t at = offset ? (off_t)*offset : 0;
    ssize_t moved;
    bool held = hold(&sigpipe);

    moved = splice(source, offset ? &at : NULL, target, NULL, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (moved < 0)
        moved = -errno;
    if (held)
        nr_os_release_sigpipe(&sigpipe, moved == -EPIPE);
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
    struct nr_held_sigpipe sigpipe;
    ssize_t written;
    bool held = hold(&sigpipe);

    written = write(fd, data, size);
    if (written < 0)
        written = -errno;
    if (held)
        nr_os_release_sigpipe(&sigpipe, written == -EPIPE);
    return written;
}
