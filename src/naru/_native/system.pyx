# cython: language_level=3, binding=False
# cython: embedsignature=True, embedsignature.format=clinic
"""System calls that Python's standard library lacks: sealed segments, eventfds, message queues.

Used by the transports' rendezvous; nothing here knows an endpoint.
"""
import os

from naru import errors
from naru._native.core cimport *

cdef extern from "naru/changes.h" nogil:
    int nr_os_inotify_open()
    int nr_os_inotify_add(int fd, const char *path, uint32_t events)
    int nr_os_inotify_remove(int fd, int watch)

cdef int check(int result, str operation, object address) except -1:
    if result < 0:
        raise errors.from_errno(result, operation, address)
    return result


def create_segment(uint64_t capacity_out, uint64_t capacity_in, *, address=None,
                   uint64_t first_position=0):
    """A sealed memfd with two rings (sizes in bytes; 0: no ring); returns its descriptor.

    Raises NoSpaceError when the memory cannot be had now, LimitError without a free descriptor.
    """
    cdef uint64_t[2] capacity
    cdef int fd
    capacity[0] = capacity_out
    capacity[1] = capacity_in
    with nogil:
        fd = nr_segment_create(capacity, first_position)
    return check(fd, "create", address)


def eventfd(*, address=None):
    """A nonblocking eventfd, close-on-exec."""
    return check(nr_os_eventfd(), "create", address)


def mq_open(str name, int flags, unsigned int mode, long depth, long message_bytes):
    """mq_open(3), nonblocking, close-on-exec. Raises OSError as the kernel says."""
    cdef bytes encoded = os.fsencode(name)
    cdef int queue = nr_os_mq_open(encoded, flags, mode, depth, message_bytes)
    if queue < 0:
        raise OSError(-queue, os.strerror(-queue), name)
    return queue


def mq_unlink(str name):
    """mq_unlink(3). Raises OSError."""
    cdef bytes encoded = os.fsencode(name)
    cdef int result = nr_os_mq_unlink(encoded)
    if result < 0:
        raise OSError(-result, os.strerror(-result), name)


def mq_attributes(int queue):
    """(depth, message_bytes, messages waiting) of an open queue. Raises OSError."""
    cdef long depth = 0, message_bytes = 0, current = 0
    cdef int result = nr_os_mq_attributes(queue, &depth, &message_bytes, &current)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return depth, message_bytes, current


def inotify_open():
    """An inotify descriptor, nonblocking, close-on-exec. Raises LimitError."""
    return check(nr_os_inotify_open(), "inotify", None)


def inotify_add(int fd, path, uint32_t events):
    """inotify_add_watch(2): the number of the watch. Raises OSError as the kernel says."""
    cdef bytes encoded = os.fsencode(path)
    cdef int result = nr_os_inotify_add(fd, encoded, events)
    if result < 0:
        raise OSError(-result, os.strerror(-result), path)
    return result


def inotify_remove(int fd, int watch):
    """inotify_rm_watch(2). A watch that has ended by itself is no error."""
    nr_os_inotify_remove(fd, watch)


def die_with_parent(int signal_number):
    """This process gets a signal when the thread that started it ends. Raises OSError.

    A parent that is gone already is not noticed: look at os.getppid() afterwards.
    """
    cdef int result = nr_os_die_with_parent(signal_number)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
