/* naru/files.h: bytes from one descriptor to another, and looking through a block of them.
 *
 * Transfer. A struct nr_transfer is one direction between two descriptors; nr_transfer_step() moves
 * what can be moved now, by one system call or two, and never waits for a nonblocking descriptor.
 * Who waits, for how long, and what a missing byte means, is the caller's: here are no clocks and no
 * policies. A method that the kernel refuses (not "later" but "not these two") changes to the next
 * one, and nothing is lost by it: what had been taken from the source is kept in the pipe or in the
 * buffer until the target took it.
 *
 * A blocking descriptor may block inside a step: -EINTR is passed on, so that a signal reaches the
 * caller. SIGPIPE never does.
 *
 * Scan. Pure functions over a block; no allocation, no state. */
#ifndef NARU_FILES_H
#define NARU_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* From the one that copies least to the one that always works. */
enum nr_method {
    NR_BY_COPY_RANGE,  /* copy_file_range(2): file to file, in the kernel or by reference */
    NR_BY_SENDFILE,    /* sendfile(2): a file to anything */
    NR_BY_SPLICE,      /* splice(2): one of the two is a pipe */
    NR_BY_PIPE,        /* splice(2) twice, through a pipe of our own: neither is one */
    NR_BY_READ_WRITE,  /* a buffer of our own */
    NR_METHODS
};

/* What a step that gave -EAGAIN wants to be polled. */
enum nr_side { NR_SOURCE, NR_TARGET };

#define NR_TRANSFER_BYTES ((size_t)1 << 20) /* of the buffer, and of the pipe where it is allowed */
#define NR_TO_THE_END UINT64_MAX

struct nr_transfer {
    int source, target;      /* borrowed */
    bool positioned;         /* read at `offset`; the file's own position stays where it is */
    bool target_is_socket;
    uint64_t offset;         /* of the next byte to take, when positioned */
    uint64_t left;           /* bytes still to take from the source; NR_TO_THE_END: all there are */
    uint64_t moved;          /* bytes the target has taken */
    size_t held;             /* taken from the source, not yet by the target */
    size_t chunk;            /* NR_BY_READ_WRITE: at most so many bytes a call */
    unsigned methods;        /* bits (1 << method) that may be tried, from the first to the last */
    enum nr_method method;   /* the one in use */
    enum nr_side waits_for;  /* after -EAGAIN */
    bool ended;              /* the source said that there is no more */
    int pipe[2];             /* of NR_BY_PIPE, else -1 */
    uint8_t *buffer;         /* of NR_BY_READ_WRITE, else NULL */
    size_t begin;            /* of what is held in the buffer */
};

/* Fills the struct in; `methods` without bits means NR_BY_READ_WRITE. Takes no resources yet. */
void nr_transfer_init(struct nr_transfer *t, int source, int target, unsigned methods);

/* Moves up to `limit` bytes. Returns what the target took (> 0); 0: the source has ended, or nothing
 * was left to take; -EAGAIN: poll `waits_for`; -EINTR; else what the kernel said of the last method. */
ssize_t nr_transfer_step(struct nr_transfer *t, size_t limit);

/* The halves of a step of NR_BY_READ_WRITE, for who wants to see the bytes between: fill gives the
 * number of bytes that were read now (they end at buffer + begin + held), 0 at the end. */
ssize_t nr_transfer_fill(struct nr_transfer *t, size_t limit);
ssize_t nr_transfer_drain(struct nr_transfer *t);

/* Gives pipe and buffer back; what is held is lost. Idempotent. */
void nr_transfer_release(struct nr_transfer *t);

/* ---- scan ---- */

uint64_t nr_scan_count(const uint8_t *data, size_t size, uint8_t byte);

/* Offset of the first match of `pattern` (1 byte or more) at or after `from`; -1 when there is none. */
ssize_t nr_scan_find(const uint8_t *data, size_t size, size_t from, const uint8_t *pattern, size_t length);

/* Offset behind the last match; -1 when there is none. */
ssize_t nr_scan_behind_last(const uint8_t *data, size_t size, const uint8_t *pattern, size_t length);

/* The same where matches may overlap ("\n\n"): they are counted from the left, as bytes.split does. */
ssize_t nr_scan_behind_last_from_left(const uint8_t *data, size_t size, const uint8_t *pattern,
                                      size_t length);

/* Fills up to `limit` offsets of matches that do not overlap, from `*from` on, and moves `*from` behind
 * the last one. Returns how many; fewer than `limit`: there are no more. */
size_t nr_scan_all(const uint8_t *data, size_t size, size_t *from, const uint8_t *pattern, size_t length,
                   uint64_t *offsets, size_t limit);

/* Reads [offset, end) of a file in blocks of `size` and counts a byte in them. `*done` is how far it
 * came, and is true when it returns: 0 at `end`, 1 when `limit` bytes were done, -ENODATA when the file
 * ended before `end`, -EINTR, else -errno. */
int nr_count_file(int fd, uint64_t *done, uint64_t end, uint64_t limit, uint8_t byte, uint8_t *block,
                  size_t size, uint64_t *count);

#endif
