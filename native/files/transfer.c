/* One direction between two descriptors. See naru/files.h for what holds. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "naru/files.h"
#include "naru/os.h"

#define PAGE_BYTES ((size_t)4096)
#define AT_ONCE ((size_t)1 << 30) /* one call of the kernel moves at most 2 GiB less a page */

void nr_transfer_init(struct nr_transfer *t, int source, int target, unsigned methods)
{
    *t = (struct nr_transfer){
        .source = source,
        .target = target,
        .left = NR_TO_THE_END,
        .chunk = NR_TRANSFER_BYTES,
        .methods = methods | 1u << NR_BY_READ_WRITE,
        .pipe = {-1, -1},
    };
    t->method = (enum nr_method)__builtin_ctz(t->methods);
}

void nr_transfer_release(struct nr_transfer *t)
{
    for (int i = 0; i < 2; i++)
        if (t->pipe[i] >= 0) {
            nr_os_close(t->pipe[i]);
            t->pipe[i] = -1;
        }
    free(t->buffer);
    t->buffer = NULL;
    t->held = 0;
}

static size_t at_most(const struct nr_transfer *t, size_t limit)
{
    if (limit > AT_ONCE)
        limit = AT_ONCE;
    return t->left < limit ? (size_t)t->left : limit;
}

static ssize_t took(struct nr_transfer *t, ssize_t count)
{
    if (count == 0)
        t->ended = true;
    if (count <= 0)
        return count;
    if (t->left != NR_TO_THE_END)
        t->left -= (uint64_t)count;
    return count;
}

static ssize_t wait_for(struct nr_transfer *t, enum nr_side side)
{
    t->waits_for = side;
    return -EAGAIN;
}

/* ---- one call from the source to the target ---- */

/* EAGAIN of one call over two descriptors does not say whose it is. */
static ssize_t ask_who(struct nr_transfer *t)
{
    int ready;

    if (t->positioned)
        return wait_for(t, NR_TARGET);
    ready = nr_os_poll_now(t->source, POLLIN);
    return wait_for(t, ready == 0 ? NR_SOURCE : NR_TARGET);
}

static ssize_t move_directly(struct nr_transfer *t, size_t limit)
{
    int64_t at = (int64_t)t->offset;
    int64_t *offset = t->positioned ? &at : NULL;
    size_t size = at_most(t, limit);
    ssize_t moved;

    if (t->method == NR_BY_COPY_RANGE)
        moved = nr_os_copy_range(t->source, offset, t->target, size);
    else if (t->method == NR_BY_SENDFILE)
        moved = nr_os_sendfile(t->target, t->source, offset, size);
    else
        moved = nr_os_splice_at(t->source, offset, t->target, size);
    if (moved == -EAGAIN)
        return ask_who(t);
    if (moved > 0) {
        t->offset += (uint64_t)moved;
        t->moved += (uint64_t)moved;
    }
    return took(t, moved);
}

/* ---- through a pipe of our own ---- */

static ssize_t fill_pipe(struct nr_transfer *t, size_t limit)
{
    int64_t at = (int64_t)t->offset;
    ssize_t got;
    int result;

    if (t->pipe[0] < 0) {
        result = nr_os_pipe(t->pipe, NR_TRANSFER_BYTES);
        if (result < 0)
            return result;
    }
    got = nr_os_splice_at(t->source, t->positioned ? &at : NULL, t->pipe[1], at_most(t, limit));
    if (got > 0) {
        t->offset += (uint64_t)got;
        t->held += (size_t)got;
    }
    return got == -EAGAIN ? wait_for(t, NR_SOURCE) : took(t, got);
}

static ssize_t drain_pipe(struct nr_transfer *t)
{
    ssize_t given = nr_os_splice_at(t->pipe[0], NULL, t->target, t->held);

    if (given > 0) {
        t->held -= (size_t)given;
        t->moved += (uint64_t)given;
    }
    return given == -EAGAIN ? wait_for(t, NR_TARGET) : given;
}

/* ---- through a buffer of our own ---- */

static int take_buffer(struct nr_transfer *t)
{
    /* By pages: the kernel copies into what malloc gives (16 bytes behind a page's begin) at a quarter
     * of the rate. */
    if (t->buffer == NULL)
        t->buffer = aligned_alloc(PAGE_BYTES, NR_TRANSFER_BYTES);
    return t->buffer == NULL ? -ENOMEM : 0;
}

ssize_t nr_transfer_fill(struct nr_transfer *t, size_t limit)
{
    size_t size = at_most(t, limit), room = NR_TRANSFER_BYTES;
    ssize_t got = take_buffer(t);

    if (got < 0)
        return got;
    if (t->held == 0)
        t->begin = 0;
    room -= t->begin + t->held;
    if (size > room)
        size = room;
    if (size == 0)
        return 0;
    got = nr_os_read_at(t->source, t->buffer + t->begin + t->held, size,
                        t->positioned ? (int64_t)t->offset : -1);
    if (got > 0) {
        t->offset += (uint64_t)got;
        t->held += (size_t)got;
    }
    return got == -EAGAIN ? wait_for(t, NR_SOURCE) : took(t, got);
}

ssize_t nr_transfer_drain(struct nr_transfer *t)
{
    size_t size = t->held < t->chunk ? t->held : t->chunk;
    const uint8_t *data = t->buffer + t->begin;
    ssize_t given;

    /* MSG_DONTWAIT: a blocking socket with less room than this would hold us up. */
    given = t->target_is_socket ? nr_os_send(t->target, data, size, MSG_DONTWAIT)
                                : nr_os_write(t->target, data, size);
    if (given > 0) {
        t->begin += (size_t)given;
        t->held -= (size_t)given;
        t->moved += (uint64_t)given;
    }
    return given == -EAGAIN ? wait_for(t, NR_TARGET) : given;
}

/* ---- the step ---- */

/* The answers that mean "not by this call, or not between these two". EBADF: a target opened with
 * O_APPEND (copy_file_range(2)); EPERM: a sandbox. Reading and writing asks again, and then it counts. */
static bool is_refusal(ssize_t result)
{
    return result == -EINVAL || result == -EXDEV || result == -ENOSYS || result == -EOPNOTSUPP
           || result == -EBADF || result == -EPERM || result == -ESPIPE;
}

/* The bytes in the pipe come along. Returns -errno, or 0 with another method in use. */
static int fall_back(struct nr_transfer *t, ssize_t refusal)
{
    unsigned later = t->methods & ~((2u << t->method) - 1);
    ssize_t got;

    if (t->method == NR_BY_READ_WRITE)
        return (int)refusal;
    if (t->held > 0) {
        later = 1u << NR_BY_READ_WRITE;
        got = take_buffer(t);
        for (t->begin = 0; got >= 0 && t->begin < t->held; t->begin += (size_t)got)
            got = nr_os_read(t->pipe[0], t->buffer + t->begin, t->held - t->begin);
        t->begin = 0;
        if (got < 0)
            return (int)got;
    }
    t->ended = false;
    t->method = (enum nr_method)__builtin_ctz(later);
    return 0;
}

static ssize_t pass_through(struct nr_transfer *t, size_t limit, ssize_t (*fill)(struct nr_transfer *, size_t),
                            ssize_t (*drain)(struct nr_transfer *))
{
    ssize_t got;

    if (t->held == 0) {
        if (t->ended || t->left == 0)
            return 0;
        got = fill(t, limit);
        if (got <= 0)
            return got;
    }
    return drain(t);
}

ssize_t nr_transfer_step(struct nr_transfer *t, size_t limit)
{
    ssize_t moved;
    int result;

    for (;;) {
        if (t->method == NR_BY_READ_WRITE)
            return pass_through(t, limit, nr_transfer_fill, nr_transfer_drain);
        if (t->method == NR_BY_PIPE)
            moved = pass_through(t, limit, fill_pipe, drain_pipe);
        else
            moved = t->ended || t->left == 0 ? 0 : move_directly(t, limit);
        if (!is_refusal(moved))
            return moved;
        result = fall_back(t, moved);
        if (result < 0)
            return result;
    }
}
