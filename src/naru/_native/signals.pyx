# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
"""Signals as messages: what Python's `signal` lacks, values above all, and signalfd.

A signal comes as the tuple (number, pid, uid, value, code). Must not know: which signals may be
waited for, or what a process object is (naru.signals does).
"""
from cpython.exc cimport PyErr_CheckSignals

from naru._native.core cimport NR_FOREVER, nr_os_close, nr_os_now_ns
from naru._native.endpoint cimport deadline_of
from libc.stdint cimport int32_t, uint64_t

from naru import errors

cdef extern from "<errno.h>":
    const int EAGAIN, EINTR, ESRCH

cdef extern from "<signal.h>" nogil:
    cdef struct sigaction_t "sigaction":
        pass

cdef extern from "naru/signals.h" nogil:
    cdef struct nr_signal:
        int32_t number, code, pid, uid, value
    int nr_os_pidfd_open(int pid)
    int nr_os_pidfd_kill(int pidfd, int number)
    int nr_os_pidfd_queue(int pidfd, int number, int32_t value)
    int nr_os_signal_wait(uint64_t set, uint64_t timeout_ns, nr_signal *signal)
    int nr_os_signalfd(uint64_t set)
    int nr_os_signalfd_read(int fd, nr_signal *signals, int limit)
    int nr_signal_catch(int number, sigaction_t *before)
    int nr_signal_block_in_thread(int thread, int number)
    int nr_signal_release(int number, const sigaction_t *before)

cdef enum:
    READ_AT_ONCE = 32


cdef tuple plain(const nr_signal *s):
    return s.number, s.pid, s.uid, s.value, s.code


def pidfd_open(int pid):
    """A descriptor of the process `pid`, close-on-exec. Raises OSError as the kernel says."""
    cdef int fd = nr_os_pidfd_open(pid)
    if fd < 0:
        raise OSError(-fd, "pidfd_open")
    return fd


def pidfd_send(int pidfd, int number, value=None):
    """Sends a signal, with a value when there is one; returns 0 or -errno."""
    if value is None:
        return nr_os_pidfd_kill(pidfd, number)
    return nr_os_pidfd_queue(pidfd, number, value)


def wait(uint64_t signals, timeout_s=None):
    """The next pending signal of the set, which this thread must have blocked; None: time is up."""
    cdef uint64_t deadline = deadline_of(timeout_s)
    cdef uint64_t left, now
    cdef nr_signal came
    cdef int result
    while True:
        left = NR_FOREVER
        if deadline != NR_FOREVER:
            now = nr_os_now_ns()
            left = deadline - now if deadline > now else 0
        with nogil:
            result = nr_os_signal_wait(signals, left, &came)
        if result > 0:
            return plain(&came)
        if result == -EAGAIN:
            return None
        if result != -EINTR:
            raise errors.from_errno(result, "signals.wait")
        PyErr_CheckSignals()


def open_signalfd(uint64_t signals):
    """A nonblocking signalfd, close-on-exec. Raises LimitError."""
    cdef int fd = nr_os_signalfd(signals)
    if fd < 0:
        raise errors.from_errno(fd, "signals.watch")
    return fd


def read_signalfd(int fd):
    """Up to 32 pending signals; an empty list when there is none. Never waits."""
    cdef nr_signal came[READ_AT_ONCE]
    cdef int count = nr_os_signalfd_read(fd, came, READ_AT_ONCE)
    if count < 0:
        raise errors.from_errno(count, "signals.watch")
    return [plain(&came[i]) for i in range(count)]


def block_in_thread(int thread, int number):
    """Asks another thread of this process to block a caught signal. A thread that is gone is no
    error."""
    cdef int result = nr_signal_block_in_thread(thread, number)
    if result < 0 and result != -ESRCH:
        raise errors.from_errno(result, "signals.blocked", number)


cdef class Caught:
    """Which signals are caught (naru/signals.h) for how many holders; one for the process."""

    cdef sigaction_t before[65]
    cdef int holders[65]

    def hold(self, int number):
        """Catches the signal until as many calls of release() have come."""
        cdef int result
        if not 1 <= number <= 64:
            raise ValueError(number)
        if self.holders[number] == 0:
            result = nr_signal_catch(number, &self.before[number])
            if result < 0:
                raise errors.from_errno(result, "signals.blocked", number)
        self.holders[number] += 1

    def release(self, int number):
        """Gives it up; the last holder brings back what happened with the signal before."""
        if not 1 <= number <= 64 or self.holders[number] == 0:
            raise ValueError(number)
        self.holders[number] -= 1
        if self.holders[number] == 0:
            nr_signal_release(number, &self.before[number])
