# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The end that users hold: its life, its facts, and how it waits.

Must not know: how a message is sent or received (waiting.pyx, sending.pyx, receiving.pyx) or how an
end is made (opening.pyx, and the transports in Python that use it).
"""
from cpython.exc cimport PyErr_CheckSignals

from naru._native.core cimport *

import warnings

from naru import errors

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030D0000
    #define nr_python_is_ending() Py_IsFinalizing()
    #else
    #define nr_python_is_ending() _Py_IsFinalizing()
    #endif
    """
    bint nr_python_is_ending()

cdef extern from "<errno.h>":
    const int EAGAIN, EINTR, EOPNOTSUPP, EMFILE

cdef enum:
    LINGER_SLICE_NS = 20_000_000

if nr_process_start() < 0:
    raise ImportError("naru: cannot make an eventfd: no descriptor is free")


cdef uint64_t deadline_of(object timeout_s) except? 0:
    """None -> NR_FOREVER; seconds from now -> CLOCK_MONOTONIC ns."""
    cdef double seconds
    if timeout_s is None:
        return NR_FOREVER
    seconds = timeout_s
    if not seconds >= 0:  # NaN too
        raise ValueError(f"timeout_s must be None or at least 0, not {timeout_s!r}")
    if seconds > 1e9:
        return NR_FOREVER
    return nr_os_now_ns() + <uint64_t>(seconds * 1e9)


cdef bint is_frozen(nr_endpoint *core) noexcept:
    """At the end of the interpreter: a daemon thread waits in here, and will never run again, so
    that closing would wait for it for ever."""
    if not nr_python_is_ending():
        return False
    for direction in (NR_SEND, NR_RECEIVE):
        if not nr_endpoint_try_hold(core, direction):
            return True
        nr_endpoint_let_go(core, direction)
    return False


cdef class Endpoint:
    """One end of a conversation; see Sender and Receiver for its verbs."""

    def __cinit__(self):
        self.core = &nr_endpoint_nobody

    def __init__(self):
        raise TypeError("ends are made by naru.listen, connect, pair, sender and receiver")

    # ---- life ----

    def close(self):
        """Closes this end; the peer sees a good end after the last message. Idempotent.

        Threads that wait in a verb of this end get ClosedError. An accepted message of which the
        kernel has not yet taken everything is pushed out for at most `linger_s`, and the goodbye by
        which the peer tells this from a death.

        Raises:
            TimedOutError: the peer did not take the rest of an accepted message; it is lost.
        """
        cdef bint unsent = False
        if nr_endpoint_state(self.core) == NR_OPEN and nr_endpoint_take_leave(self.core) == -EAGAIN:
            if not self.hurried:
                self._linger()
            unsent = nr_endpoint_has_rest(self.core)
        if not self.hurried:
            self._outlast()
        if nr_endpoint_begin_close(self.core):
            if is_frozen(self.core):
                self.core = &nr_endpoint_nobody  # left to the end of the process
            else:
                with nogil:
                    nr_endpoint_finish_close(self.core)
        self.pending = None
        nr_recycle_clear(&self.recycled)
        if self.place is not None:
            place, self.place = self.place, None
            place.close()
        if unsent:
            raise errors.TimedOutError(
                f'close "{self.address}": the peer did not take the rest of the last message in '
                "time; it is lost", operation="close", address=self.address)

    def _linger(self):
        cdef uint64_t deadline = deadline_of(getattr(self.place, "linger_s", 1.0))
        cdef uint64_t until
        cdef int result
        while True:
            result = nr_endpoint_take_leave(self.core)
            if result != -EAGAIN:
                return
            # Without holding the direction, which a thread that waits in send() may have: either of
            # the two could take the other's wake-up, so this one looks again soon.
            until = min(deadline, nr_os_now_ns() + LINGER_SLICE_NS)
            with nogil:
                result = nr_endpoint_wait(self.core, NR_SEND, until)
            if result == -EINTR:
                PyErr_CheckSignals()
            elif result < 0 or nr_os_now_ns() >= deadline:
                return

    def _outlast(self):
        """Waits, at most `linger_s`, for the kernel to send what closing would destroy (tcp)."""
        cdef uint64_t deadline = 0
        cdef uint64_t pause_ns = 500_000
        while (nr_endpoint_state(self.core) == NR_OPEN and self.core.ops.linger != NULL
               and self.core.ops.linger(self.core) == -EAGAIN):
            if deadline == 0:
                deadline = deadline_of(getattr(self.place, "linger_s", 1.0))
            if nr_os_now_ns() >= deadline:
                return  # the kernel goes on alone; only a peer that sends now could stop it
            with nogil:
                nr_os_sleep(NULL, 0, pause_ns)  # no event says "all was sent"
            pause_ns = min(2 * pause_ns, <uint64_t>16_000_000)
            PyErr_CheckSignals()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            self.close()
        except errors.TimedOutError as late:
            if error is None:
                raise
            error.add_note(str(late))  # what ended the block is told first: Ctrl-C is Ctrl-C

    def __del__(self):
        if nr_endpoint_state(self.core) == NR_OPEN:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            try:
                self.close()
            except errors.TimedOutError as error:
                warnings.warn(str(error), ResourceWarning, source=self)

    def __dealloc__(self):
        nr_recycle_clear(&self.recycled)
        if self.core != &nr_endpoint_nobody:
            if nr_endpoint_begin_close(self.core):
                nr_endpoint_finish_close(self.core)
            nr_endpoint_free(self.core)
            self.core = &nr_endpoint_nobody

    # ---- facts ----

    @property
    def _place(self):
        """What belongs to this end besides its connection; None after close()."""
        return self.place

    @property
    def closed(self):
        """True after close(), and for a copy that belongs to another process."""
        cdef uint32_t state = nr_endpoint_state(self.core)
        return state == NR_CLOSED or state == NR_FORKED

    def fileno(self):
        """A descriptor that polls readable when receive() may succeed.

        Take messages until try_receive() gives None, then poll. Belongs to this end: never read
        it, never close it. Raises ClosedError, UnsupportedError (a sender), LimitError.
        """
        cdef int error = nr_endpoint_admit(self.core)
        if error < 0:
            self.fail(error, "fileno")
        if not self.receives or self.core.ops.fileno == NULL:
            self.fail(-EOPNOTSUPP, "fileno", "a sender has nothing to read")
        error = self.core.ops.fileno(self.core)
        if error < 0:
            self.fail(error, "fileno")
        return error

    def statistics(self):
        """What this end has counted since it was opened, as a frozen `naru.Statistics`."""
        cdef nr_statistics s
        cdef uint64_t depth = 0
        cdef uint32_t state = nr_endpoint_state(self.core)
        if state == NR_OPEN and self.core.ops.depth_bytes != NULL and self.receives:
            depth = self.core.ops.depth_bytes(self.core)
        nr_endpoint_read_statistics(self.core, &s)
        if self.door is not None:
            s.strangers += self.door.strangers
        from naru.statistics import Statistics  # late: it brings dataclasses
        return Statistics(
            s.messages_sent, s.bytes_sent, s.messages_received, s.bytes_received,
            s.waits[0] + s.waits[1], s.spins[0] + s.spins[1], s.sleeps[0] + s.sleeps[1], s.wakeups,
            depth, s.lost, s.duplicates, s.reordered, s.torn, s.strangers, s.peers_lost,
            s.peers_closed, s.fds_dropped)

    def __repr__(self):
        cdef uint32_t state
        cdef uint64_t depth
        cdef nr_statistics *s
        state = nr_endpoint_state(self.core)
        if state == NR_CLOSED:
            note = "closed"
        elif state == NR_FORKED:
            note = "another process's"
        else:
            s = &self.core.statistics
            note = f"{s.messages_sent} sent, {s.messages_received} received"
            if state == NR_UNCLAIMED:
                note = "not used yet"
            elif self.receives and self.core.ops.depth_bytes != NULL:
                depth = self.core.ops.depth_bytes(self.core)
                if depth:
                    note += f", {depth} bytes waiting"
        return f"<{type(self).__name__} {self.address} ({note})>"

    def __reduce__(self):
        if nr_endpoint_state(self.core) == NR_UNCLAIMED and self.recipe is not None:
            return self.recipe.reduce(type(self))
        self.fail(-EOPNOTSUPP, "pickle",
                  "only an unused end of naru.pair() and a Sender travel to another process; "
                  "connect from there, or make a pair")

    def _beat(self):
        """Heartbeat timer: 0 or -errno."""
        if self.core.ops.beat == NULL or nr_endpoint_state(self.core) != NR_OPEN:
            return 0
        return self.core.ops.beat(self.core)

    # ---- shared by the verbs ----

    cdef int fail(self, int error, str operation, str detail=None) except -1:
        explain = getattr(self.place, "explain", None)
        if explain is not None:  # an end whose verbs have other names, or that knows who is to blame
            operation, detail = explain(error, operation, detail)
        raise errors.from_errno(error, operation, self.address, detail=detail)

    cdef int check_receivable(self) except -1:
        if self.borrowed == 1:
            self.fail(-EOPNOTSUPP, "receive",
                      "a lease is open on this end: leave its `with` block first, and drop every "
                      "view and array of it")
        if self.borrowed == 3:  # what receive_many() met behind messages that it had to give
            self.borrowed = 0
            self.fail(-EMFILE, "receive")
        return 0

    cdef int hold(self, nr_direction direction, uint64_t deadline_ns, str operation) except -1:
        cdef int result
        while True:
            with nogil:
                result = nr_endpoint_hold(self.core, direction, deadline_ns)
            if result == 0:
                return 0
            if result != -EINTR:
                self.fail(result, operation)
            PyErr_CheckSignals()

    cdef int wait(self, nr_direction direction, uint64_t deadline_ns, str operation) except -1:
        """1: try again; 0: the time is up."""
        cdef int result
        if direction == NR_RECEIVE:
            nr_endpoint_announce_wait(self.core)
        with nogil:
            result = nr_endpoint_begin_wait(self.core, direction, deadline_ns)
        if result == NR_LOOK_AT_SIGNALS:
            try:
                PyErr_CheckSignals()
            except BaseException:
                nr_endpoint_give_up_waiting(self.core, direction)
                raise
            with nogil:
                result = nr_endpoint_go_on_waiting(self.core, direction, deadline_ns)
        if result == -EINTR:
            PyErr_CheckSignals()
            return 1
        if result < 0:
            self.fail(result, operation)
        return result

    # ---- messages that are lent, or kept for later ----

    cdef void end_lease(self) noexcept:
        self.borrowed = 2 if self.pending is not None else 0
        nr_endpoint_release(self.core)

    cdef object take_pending(self):
        pending, self.pending = self.pending, None
        self.borrowed = 0
        if self.pending_fds:  # nobody asked for them
            nr_endpoint_take_fds(self.core, self.pending_fds, NULL, 0)
            self.pending_fds = 0
        return pending

    cdef int keep_pending(self, object message, unsigned fds) except -1:
        self.pending = message
        self.pending_fds = fds
        return 0
