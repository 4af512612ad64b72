# naru/files.h and what it needs of naru/os.h; apart from core.pxd, because no end knows files.
from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    const short POLLIN, POLLOUT, POLLERR, POLLHUP

cdef extern from "<errno.h>" nogil:
    const int EAGAIN, EINTR, ENODATA, EPIPE

cdef extern from "naru/os.h" nogil:
    const uint64_t NR_FOREVER
    uint64_t nr_os_now_ns()
    int nr_os_sleep(pollfd *fds, unsigned long count, uint64_t timeout_ns)
    Py_ssize_t nr_os_read_at(int fd, void *buffer, size_t size, int64_t offset)

cdef extern from "naru/files.h" nogil:
    const size_t NR_TRANSFER_BYTES
    const uint64_t NR_TO_THE_END
    cdef enum nr_method:
        NR_BY_COPY_RANGE
        NR_BY_SENDFILE
        NR_BY_SPLICE
        NR_BY_PIPE
        NR_BY_READ_WRITE
    cdef enum nr_side:
        NR_SOURCE
        NR_TARGET
    cdef struct nr_transfer:
        int source, target
        bint positioned "positioned"
        bint target_is_socket
        uint64_t offset, left, moved
        size_t held, chunk, begin
        nr_method method
        nr_side waits_for
        bint ended
        uint8_t *buffer
    void nr_transfer_init(nr_transfer *, int source, int target, unsigned methods)
    Py_ssize_t nr_transfer_step(nr_transfer *, size_t limit)
    Py_ssize_t nr_transfer_fill(nr_transfer *, size_t limit)
    Py_ssize_t nr_transfer_drain(nr_transfer *)
    void nr_transfer_release(nr_transfer *)

    uint64_t nr_scan_count(const uint8_t *, size_t, uint8_t)
    Py_ssize_t nr_scan_find(const uint8_t *, size_t, size_t start, const uint8_t *, size_t)
    Py_ssize_t nr_scan_behind_last(const uint8_t *, size_t, const uint8_t *, size_t)
    Py_ssize_t nr_scan_behind_last_from_left(const uint8_t *, size_t, const uint8_t *, size_t)
    size_t nr_scan_all(const uint8_t *, size_t, size_t *start, const uint8_t *, size_t,
                       uint64_t *offsets, size_t limit)
    int nr_count_file(int fd, uint64_t *done, uint64_t end, uint64_t limit, uint8_t byte,
                      uint8_t *block, size_t size, uint64_t *count)
