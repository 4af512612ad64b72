# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
"""One direction between two descriptors: nr_transfer of naru/files.h, with its waits.

Holds: Mover. Must not know: what the descriptors are, and what a missing byte means; naru.files
decides both. Errors are plain OSError and TimeoutError, which naru.files puts into words.
"""
import os

from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_READ

from naru._native.files cimport *

METHODS = ("copy_file_range", "sendfile", "splice", "splice_pipe", "read_write")


cdef int fail(Py_ssize_t error) except -1:
    raise OSError(<int>-error, os.strerror(<int>-error))


cdef class Mover:
    """Bytes from one descriptor to another; both are borrowed.

    Args:
        source, target: descriptors.
        methods: names of METHODS that may be tried; "read_write" always is, last.
        offset: where to read, without moving the file's position; None: at its position.
        count: bytes; None: to the end.
        target_is_socket: a stream socket.
        chunk_bytes: the most that one write() takes, for a target that blocks when it is full.
    """
    cdef nr_transfer core

    def __cinit__(self, int source, int target, methods, offset=None, count=None, *,
                  bint target_is_socket=False, chunk_bytes=None):
        cdef unsigned bits = 0
        for name in methods:
            bits |= 1 << METHODS.index(name)
        nr_transfer_init(&self.core, source, target, bits)
        self.core.target_is_socket = target_is_socket
        if offset is not None:
            self.core.positioned = True
            self.core.offset = offset
        if count is not None:
            self.core.left = count
        if chunk_bytes is not None:
            self.core.chunk = min(<size_t>chunk_bytes, NR_TRANSFER_BYTES)

    def __dealloc__(self):
        nr_transfer_release(&self.core)

    @property
    def moved_bytes(self):
        """What the target has taken."""
        return self.core.moved

    @property
    def held_bytes(self):
        """Taken from the source, not yet by the target."""
        return self.core.held

    @property
    def method(self):
        """The one in use now."""
        return METHODS[self.core.method]

    @property
    def waits_for_target(self):
        """After step() gave None: whether the target, or the source, holds it up."""
        return self.core.waits_for == NR_TARGET

    def release(self):
        """Gives its pipe and its buffer back."""
        nr_transfer_release(&self.core)

    def step(self, size_t limit_bytes):
        """Moves what can be moved now. Returns bytes; 0 at the end; None: poll, then again.

        Raises OSError, InterruptedError included when a signal came.
        """
        cdef Py_ssize_t moved
        with nogil:
            moved = nr_transfer_step(&self.core, limit_bytes)
        if moved == -EAGAIN:
            return None
        if moved < 0:
            fail(moved)
        return moved

    def run(self, size_t step_bytes, timeout_s, progress, digest, bint ask_source, bint ask_target):
        """Steps until the source has ended or `count` is done. Returns nothing.

        Args:
            timeout_s: seconds that may go by without a byte moving; None: for ever.
            progress: called with moved_bytes after each step, or None.
            digest: its update() sees every byte, by which the method is read_write; or None.
            ask_source, ask_target: poll before each step, because the descriptor would block in it.

        Raises OSError, TimeoutError, what progress raises, KeyboardInterrupt.
        """
        cdef Py_ssize_t moved
        cdef uint64_t patience_ns = NR_FOREVER if timeout_s is None else <uint64_t>(timeout_s * 1e9)
        while True:
            if ask_source and not self.core.held and not self.core.ended and self.core.left:
                self.wait(NR_SOURCE, patience_ns)
            if ask_target:
                self.wait(NR_TARGET, patience_ns)
            if digest is not None:
                moved = self.step_with(digest, step_bytes)
            else:
                with nogil:
                    moved = nr_transfer_step(&self.core, step_bytes)
            if moved == 0:
                return
            PyErr_CheckSignals()  # before the wait: one that came just before the step is seen now
            if moved == -EAGAIN:
                self.wait(self.core.waits_for, patience_ns)
            elif moved > 0:
                if progress is not None:
                    progress(self.core.moved)
            elif moved != -EINTR:
                fail(moved)

    cdef Py_ssize_t step_with(self, digest, size_t step_bytes) except? -1:
        cdef Py_ssize_t got
        if not self.core.held:
            if self.core.ended or not self.core.left:
                return 0
            with nogil:
                got = nr_transfer_fill(&self.core, step_bytes)
            if got <= 0:
                return got
            view = PyMemoryView_FromMemory(<char *>self.core.buffer + self.core.begin, got, PyBUF_READ)
            digest.update(view)
            view.release()
        with nogil:
            got = nr_transfer_drain(&self.core)
        return got

    cdef int wait(self, nr_side side, uint64_t patience_ns) except -1:
        """The target is looked at, too, while the source is waited for: who has hung up takes nothing."""
        cdef pollfd[2] both
        cdef uint64_t now = nr_os_now_ns()
        cdef uint64_t deadline = NR_FOREVER if patience_ns == NR_FOREVER else now + patience_ns
        cdef int ready
        both[0].fd = self.core.source if side == NR_SOURCE else self.core.target
        both[0].events = POLLIN if side == NR_SOURCE else POLLOUT
        both[1].fd = self.core.target if side == NR_SOURCE else -1
        both[1].events = 0
        PyErr_CheckSignals()  # one that came while the step was under way interrupts no sleep
        while True:
            with nogil:
                ready = nr_os_sleep(both, 2, NR_FOREVER if deadline == NR_FOREVER else deadline - now)
            if ready == -EINTR:
                PyErr_CheckSignals()
            elif ready < 0:
                fail(ready)
            elif ready == 0:
                raise TimeoutError
            elif both[0].revents:
                return 0
            elif both[1].revents & (POLLERR | POLLHUP):
                fail(-EPIPE)
            else:
                return 0  # POLLNVAL: the step says what it is
            now = nr_os_now_ns()
            if now > deadline:
                now = deadline
