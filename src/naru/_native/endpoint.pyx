# cython: language_level=3, binding=False, embedsignature=False, auto_pickle=False
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The ends that users hold: `Endpoint`, `Sender`, `Receiver`, with every verb as a native method.

Between `channel.send(b"...")` and the ring or the system call there is no Python frame. Each verb
tries first, with the GIL kept; only what finds nothing goes to the slow half (`finish_*`), which
takes its turn, waits without the GIL, and looks at signals. Must not know how ends are made: the
transports (Python) do that, through the functions at the end.
"""
cimport cython
from cpython.buffer cimport (PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer,
                             PyObject_GetBuffer)
from cpython.bytes cimport (PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize,
                            PyBytes_GET_SIZE)
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_Append
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memcpy

from naru._native.core cimport *
from naru._native.views cimport Batch, Lease, Reservation

import math
import warnings

from naru import errors
from naru.statistics import Statistics

cdef extern from "<errno.h>":
    const int EAGAIN, EBUSY, EINTR, EMSGSIZE, EOPNOTSUPP, ESHUTDOWN, ETIMEDOUT

cdef extern from "Python.h":
    PyObject *RawBytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size)
    void PyErr_Clear()
    void Py_XDECREF(PyObject *)

cdef enum:
    BATCH = 256   # messages that go to C in one call

# ---- bytes objects that C fills ----

cdef void *allocate_bytes(size_t size, uint8_t **data) noexcept with gil:
    cdef PyObject *made = RawBytes(NULL, <Py_ssize_t>size)
    if made == NULL:
        PyErr_Clear()  # C reports -ENOMEM, which becomes NoSpaceError
        return NULL
    data[0] = <uint8_t *>PyBytes_AS_STRING(<object>made)
    return made

cdef void discard_bytes(void *owner) noexcept with gil:
    Py_XDECREF(<PyObject *>owner)

cdef nr_allocator bytes_allocator
bytes_allocator.allocate = allocate_bytes
bytes_allocator.discard = discard_bytes

if nr_process_start() < 0:
    raise ImportError("naru: cannot make an eventfd: no descriptor is free")


cdef uint64_t deadline_of(object timeout_s) except? 0:
    """None -> NR_FOREVER; seconds from now -> CLOCK_MONOTONIC ns."""
    cdef double seconds
    if timeout_s is None:
        return NR_FOREVER
    seconds = timeout_s
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"timeout_s must be None or at least 0, not {timeout_s!r}")
    if seconds > 1e9:
        return NR_FOREVER
    return nr_os_now_ns() + <uint64_t>(seconds * 1e9)


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
        kernel has not yet taken everything is pushed out for at most `linger_s`.

        Raises:
            TimedOutError: the peer did not take the rest of an accepted message; it is lost.
        """
        cdef bint unsent = False
        if nr_endpoint_state(self.core) == NR_OPEN and nr_endpoint_flush(self.core) == -EAGAIN:
            unsent = not self._linger()
        if nr_endpoint_begin_close(self.core):
            with nogil:
                nr_endpoint_finish_close(self.core)
        self.pending = None
        if self.place is not None:
            place, self.place = self.place, None
            place.close()
        if unsent:
            raise errors.TimedOutError(
                f'close "{self.address}": the peer did not take the rest of the last message in '
                "time; it is lost", operation="close", address=self.address)

    def _linger(self):
        cdef uint64_t deadline = deadline_of(getattr(self.place, "linger_s", 1.0))
        cdef int result
        while True:
            result = nr_endpoint_flush(self.core)
            if result != -EAGAIN:
                return result == 0
            with nogil:
                result = nr_endpoint_wait(self.core, NR_SEND, deadline)
            if result == -EINTR:
                PyErr_CheckSignals()
            elif result <= 0:
                return False

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __del__(self):
        if nr_endpoint_state(self.core) == NR_OPEN:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            try:
                self.close()
            except errors.TimedOutError as error:
                warnings.warn(str(error), ResourceWarning, source=self)

    def __dealloc__(self):
        if self.core != &nr_endpoint_nobody:
            if nr_endpoint_begin_close(self.core):
                nr_endpoint_finish_close(self.core)
            nr_endpoint_free(self.core)
            self.core = &nr_endpoint_nobody

    # ---- facts ----

    @property
    def closed(self):
        """True after close(), and for a copy that belongs to another process."""
        cdef uint32_t state = nr_endpoint_state(self.core)
        return state == NR_CLOSED or state == NR_FORKED

    def fileno(self):
        """A descriptor that polls readable when receive() may succeed.

        Take messages until try_receive() gives None, then poll. Belongs to this end: never read
        it, never close it. Raises ClosedError, UnsupportedError (a sender).
        """
        cdef int error = nr_endpoint_admit(self.core)
        if error < 0:
            self.fail(error, "fileno")
        if not isinstance(self, Receiver) or self.core.ops.fileno == NULL:
            self.fail(-EOPNOTSUPP, "fileno", "a sender has nothing to read")
        return self.core.ops.fileno(self.core)

    def statistics(self):
        """What this end has counted since it was opened, as a frozen `naru.Statistics`."""
        cdef nr_statistics *s = &self.core.statistics
        cdef uint64_t depth = 0
        cdef uint32_t state = nr_endpoint_state(self.core)
        if state == NR_OPEN and self.core.ops.depth_bytes != NULL and isinstance(self, Receiver):
            depth = self.core.ops.depth_bytes(self.core)
        return Statistics(
            s.messages_sent, s.bytes_sent, s.messages_received, s.bytes_received,
            s.waits[0] + s.waits[1], s.spins[0] + s.spins[1], s.sleeps[0] + s.sleeps[1], s.wakeups,
            depth, s.lost, s.duplicates, s.reordered, s.torn, s.strangers, s.peers_lost,
            s.peers_closed, s.fds_dropped)

    def __repr__(self):
        cdef uint32_t state
        state = nr_endpoint_state(self.core)
        if state == NR_CLOSED:
            note = "closed"
        elif state == NR_FORKED:
            note = "another process's"
        else:
            s = self.statistics()
            note = f"{s.messages_sent} sent, {s.messages_received} received"
            if state == NR_UNCLAIMED:
                note = "not used yet"
            elif s.depth_bytes:
                note += f", {s.depth_bytes} bytes waiting"
        return f"<{type(self).__name__} {self.address} ({note})>"

    def __reduce__(self):
        if nr_endpoint_state(self.core) == NR_UNCLAIMED and self.recipe is not None:
            return self.recipe.reduce(type(self))
        if type(self) is Sender and nr_endpoint_state(self.core) == NR_OPEN:
            import naru
            return naru.sender, (str(self.address),)
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
        raise errors.from_errno(error, operation, self.address, detail=detail)

    cdef int check_receivable(self) except -1:
        if self.borrowed == 1:
            self.fail(-EOPNOTSUPP, "receive",
                      "a lease is open on this end: leave its `with` block first, and drop every "
                      "view and array of it")
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
        with nogil:
            result = nr_endpoint_wait(self.core, direction, deadline_ns)
        if result == -EINTR:
            PyErr_CheckSignals()
            return 1
        if result < 0:
            self.fail(result, operation)
        return result

    # ---- for views.pyx ----

    cdef void end_lease(self) noexcept:
        self.borrowed = 2 if self.pending is not None else 0
        nr_endpoint_release(self.core)

    cdef int next_for_views(self, nr_message *message, object timeout_s) except -1:
        return next_message(self, message, timeout_s)

    cdef int reserve_for_views(self, size_t size, object timeout_s, uint8_t **data) except -1:
        """1: room in place; 0: this transport or size has none."""
        cdef int result
        cdef uint64_t deadline
        if self.reserved:
            self.fail(-EOPNOTSUPP, "reserve", "another reservation is open on this end")
        result = nr_endpoint_reserve(self.core, size, data)
        if result == -EOPNOTSUPP or (result == -EMSGSIZE and size <= self.core.max_message_bytes):
            return 0
        if result == -EAGAIN or result == -EBUSY:
            deadline = deadline_of(timeout_s)
            self.hold(NR_SEND, deadline, "reserve")
            try:
                while True:
                    result = nr_endpoint_reserve(self.core, size, data)
                    if result != -EAGAIN:
                        break
                    if self.wait(NR_SEND, deadline, "reserve") == 0:
                        self.fail(-ETIMEDOUT, "reserve", "no room came free in time")
            finally:
                nr_endpoint_let_go(self.core, NR_SEND)
        if result < 0:
            raise_send_error(self, result, size)
        return 1

    cdef object take_pending(self):
        pending, self.pending = self.pending, None
        self.borrowed = 0
        return pending

    cdef int keep_pending(self, object message) except -1:
        self.pending = message
        return 0


# ---- sending ----

cdef int finish_send(Endpoint end, nr_outgoing *out, object timeout_s, int result) except -1:
    """The slow half: everything that was not accepted at the first try."""
    cdef uint64_t deadline
    if result != -EAGAIN and result != -EBUSY:
        raise_send_error(end, result, out.size)
    deadline = deadline_of(timeout_s)
    end.hold(NR_SEND, deadline, "send")
    try:
        while True:
            result = nr_endpoint_send(end.core, out)
            if result == 0:
                return 0
            if result != -EAGAIN:
                raise_send_error(end, result, out.size)
            if end.wait(NR_SEND, deadline, "send") == 0:
                if out.progress:
                    return 0  # begun, hence accepted: `finally` keeps the rest
                end.fail(-ETIMEDOUT, "send", "no room came free in time; nothing was sent")
    finally:
        if result == -EAGAIN and out.progress:
            result = nr_endpoint_accept_begun(end.core, out)
            if result < 0:
                nr_endpoint_begin_close(end.core)  # half a message is out and cannot be completed
        nr_endpoint_let_go(end.core, NR_SEND)


cdef int raise_send_error(Endpoint end, int error, size_t size) except -1:
    if error == -EMSGSIZE:
        end.fail(error, "send", f"the message has {size} bytes, the limit here is "
                                f"{end.core.max_message_bytes}; nothing was sent")
    end.fail(error, "send")


cdef int send_parts_of(Endpoint end, const iovec *parts, int count, size_t size, object timeout_s,
                       uint32_t priority) except -1:
    cdef nr_outgoing out
    cdef int result = -EAGAIN
    if end.reserved:
        end.fail(-EOPNOTSUPP, "send", "a reservation is open on this end: leave its `with` block")
    out.parts = parts
    out.part_count = count
    out.priority = priority
    out.flags = 0
    out.size = size
    out.progress = 0
    out.fds = NULL
    out.fd_count = 0
    if size <= NR_SMALL_MESSAGE:
        result = nr_endpoint_send(end.core, &out)
        if result == 0:
            return 0
        if result == -EAGAIN and nr_endpoint_glance(end.core, NR_SEND):
            result = nr_endpoint_send(end.core, &out)
            if result == 0:
                return 0
    finish_send(end, &out, timeout_s, result)
    return 0


cdef class Parts:
    """Buffers of a list, held for one call."""
    cdef iovec *parts
    cdef Py_buffer *views
    cdef int count
    cdef size_t size

    def __cinit__(self):
        self.parts = NULL
        self.views = NULL
        self.count = 0
        self.size = 0

    cdef int take(self, object buffers) except -1:
        cdef Py_ssize_t length = len(buffers)
        if length > 0x7fffffff // <Py_ssize_t>sizeof(Py_buffer):
            raise ValueError("too many buffers")
        self.parts = <iovec *>PyMem_Malloc((length + 1) * sizeof(iovec))
        self.views = <Py_buffer *>PyMem_Malloc((length + 1) * sizeof(Py_buffer))
        if self.parts == NULL or self.views == NULL:
            raise MemoryError
        for buffer in buffers:
            PyObject_GetBuffer(buffer, &self.views[self.count], PyBUF_SIMPLE)
            self.parts[self.count].iov_base = self.views[self.count].buf
            self.parts[self.count].iov_len = self.views[self.count].len
            self.size += self.views[self.count].len
            self.count += 1
        if self.count == 0:
            self.parts[0].iov_base = NULL
            self.parts[0].iov_len = 0
            return 1
        return self.count

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])
        PyMem_Free(self.parts)
        PyMem_Free(self.views)


cdef int send_batch(Endpoint end, const iovec *messages, int count, object timeout_s,
                    Py_ssize_t *sent) except -1:
    """Sends all, adding to `sent` as it goes."""
    cdef int done = 0
    cdef int result
    cdef uint64_t deadline = 0
    cdef nr_outgoing out
    while done < count:
        if messages[done].iov_len > NR_SMALL_MESSAGE:
            send_parts_of(end, &messages[done], 1, messages[done].iov_len, timeout_s, 0)
            result = 1
        else:
            result = nr_endpoint_send_many(end.core, &messages[done], count - done)
            if result == -EAGAIN and nr_endpoint_glance(end.core, NR_SEND):
                continue
            if result == -EAGAIN or result == -EBUSY:
                if deadline == 0:
                    deadline = deadline_of(timeout_s)
                end.hold(NR_SEND, deadline, "send_many")
                try:
                    result = nr_endpoint_send_many(end.core, &messages[done], count - done)
                    if result == -EAGAIN and end.wait(NR_SEND, deadline, "send_many") == 0:
                        end.fail(-ETIMEDOUT, "send_many",
                                 f"{sent[0]} messages were sent, the others not")
                finally:
                    nr_endpoint_let_go(end.core, NR_SEND)
                if result == -EAGAIN:
                    continue
            if result < 0:
                raise_send_error(end, result, messages[done].iov_len)
        done += result
        sent[0] += result
    return 0


cdef class Sender(Endpoint):
    """The sending verbs. All are safe from several threads; each message stays whole.

    A message is *accepted* when the verb returns: it is in the kernel, in the ring, or (its rest) in
    this end's outbox, and arrives unless one of the two processes dies. A verb that raises
    TimedOutError has sent nothing. Order is kept.
    """

    def send(self, data, timeout_s=None, *, unsigned int priority=0):
        """Sends one message; waits while there is no room (back-pressure).

        Args:
            data: bytes, bytearray, memoryview or any contiguous buffer, 0 bytes to the limit of the
                transport (`naru transports`).
            timeout_s: seconds to wait for room; None = for ever, 0 = one try.
            priority: 0..32767, higher first; mq only, ignored elsewhere.

        Raises:
            TimedOutError: no room came free in time; nothing was sent.
            PeerGoneError: the receiver died or closed.
            ClosedError, ForkedHandleError, TooBigError.

        Keeps the GIL while it does not have to wait. Source: mq_send(3), unix(7), pipe(7).
        """
        cdef Py_buffer view
        cdef iovec part
        if PyBytes_CheckExact(data):
            part.iov_base = PyBytes_AS_STRING(data)
            part.iov_len = PyBytes_GET_SIZE(data)
            send_parts_of(self, &part, 1, part.iov_len, timeout_s, priority)
            return
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            part.iov_base = view.buf
            part.iov_len = view.len
            send_parts_of(self, &part, 1, part.iov_len, timeout_s, priority)
        finally:
            PyBuffer_Release(&view)

    def try_send(self, data, *, unsigned int priority=0):
        """Sends one message if that needs no waiting: True, or False when there is no room.

        Args and Raises as send(). A message larger than what the transport holds at once is begun
        when there is any room and completed by the following verbs.
        """
        cdef Parts parts
        cdef iovec part
        cdef nr_outgoing out
        cdef int result
        if self.reserved:
            return False
        out.part_count = 1
        out.priority = priority
        out.flags = 0
        out.progress = 0
        out.fds = NULL
        out.fd_count = 0
        if PyBytes_CheckExact(data):
            part.iov_base = PyBytes_AS_STRING(data)
            part.iov_len = PyBytes_GET_SIZE(data)
            out.parts = &part
        else:
            parts = Parts()
            parts.take((data,))
            out.parts = parts.parts
        out.size = out.parts[0].iov_len
        result = nr_endpoint_send(self.core, &out)
        if result == 0:
            return True
        if result == -EAGAIN and out.progress:
            result = nr_endpoint_accept_begun(self.core, &out)
            if result == 0:
                return True
            nr_endpoint_begin_close(self.core)
        if result == -EAGAIN or result == -EBUSY:
            return False
        raise_send_error(self, result, out.size)

    def send_parts(self, buffers, timeout_s=None, *, unsigned int priority=0):
        """Sends the concatenation of several buffers as one message, without joining them first.

        Args and Raises as send().
        """
        cdef Parts parts = Parts()
        cdef int count = parts.take(buffers)
        send_parts_of(self, parts.parts, count, parts.size, timeout_s, priority)

    def send_many(self, messages, timeout_s=None):
        """Sends every message of a sequence, with one native call (often one system call) for many.

        Args:
            messages: a list or tuple of buffers. Batches of 8-64 are the fastest.
            timeout_s: for the whole call.

        Raises:
            TimedOutError: its text says how many were sent before the time was up.
            PeerGoneError, ClosedError, ForkedHandleError, TooBigError.
        """
        cdef iovec batch[BATCH]
        cdef Py_ssize_t length, i = 0, sent = 0
        cdef int count
        cdef Parts parts
        cdef object message
        if self.reserved:
            self.fail(-EOPNOTSUPP, "send_many", "a reservation is open on this end")
        if type(messages) is not list and type(messages) is not tuple:
            messages = list(messages)
        length = len(messages)
        while i < length:
            count = 0
            while count < BATCH and i < length:
                message = messages[i]
                if not PyBytes_CheckExact(message):
                    break
                batch[count].iov_base = PyBytes_AS_STRING(message)
                batch[count].iov_len = PyBytes_GET_SIZE(message)
                count += 1
                i += 1
            if count:
                send_batch(self, batch, count, timeout_s, &sent)
            if count < BATCH and i < length:  # other buffers than bytes
                parts = Parts()
                parts.take(messages[i:i + BATCH])
                send_batch(self, parts.parts, parts.count, timeout_s, &sent)
                i += parts.count

    def reserve(self, Py_ssize_t size_bytes, timeout_s=None):
        """Room for one message of `size_bytes`, to be written in place.

        `with sender.reserve(n) as view:` gives a writable memoryview of n bytes (uint8); leaving the
        block sends it, an exception drops it. In the ring itself on shm when it fits there,
        elsewhere in private memory.

        Raises: as send(), when the block is entered. BufferError when a view or array of it is still
        alive at the end of the block: then nothing is sent.
        """
        if size_bytes < 0:
            raise ValueError(f"size_bytes must be at least 0, not {size_bytes}")
        return Reservation(self, size_bytes, timeout_s)

    def send_fds(self, data, fds, timeout_s=None):
        """Sends a message with open descriptors (unix, shm).

        Args:
            data: as send(); at least 1 byte.
            fds: 1..253 descriptors or objects with fileno(). They stay yours; the receiver gets
                duplicates, close-on-exec. Source: unix(7) SCM_RIGHTS.

        Raises: as send(). LimitError: more than 253, or too many in flight (ETOOMANYREFS).
        UnsupportedError: this transport passes no descriptors.
        """
        cdef int numbers[253]
        cdef nr_outgoing out
        cdef Parts parts = Parts()
        cdef int result = -EAGAIN
        if len(fds) == 0 or len(fds) > <Py_ssize_t>NR_MAX_FDS:
            raise errors.LimitError(
                f'send_fds "{self.address}": {len(fds)} descriptors in one message; 1 to '
                f"{NR_MAX_FDS} are possible (SCM_MAX_FD)", operation="send_fds",
                address=self.address)
        if not getattr(self.place, "passes_fds", False):
            self.fail(-EOPNOTSUPP, "send_fds", "only unix and shm pass descriptors")
        if self.reserved:
            self.fail(-EOPNOTSUPP, "send_fds", "a reservation is open on this end")
        for i, fd in enumerate(fds):
            numbers[i] = fd if isinstance(fd, int) else fd.fileno()
        parts.take((data,))
        if parts.size == 0:
            raise ValueError("send_fds: the message needs at least 1 byte to go with")
        out.parts = parts.parts
        out.part_count = 1
        out.priority = 0
        out.flags = 0
        out.size = parts.size
        out.progress = 0
        out.fds = numbers
        out.fd_count = <unsigned>len(fds)
        if out.size <= NR_SMALL_MESSAGE:
            result = nr_endpoint_send(self.core, &out)
        if result != 0:
            finish_send(self, &out, timeout_s, result)


# ---- receiving ----

cdef int step_door(Endpoint end) except -1:
    """Lets waiting senders in: 1 when there was something to do."""
    if end.door is None or not nr_fan_in_door_rang(end.core):
        return 0
    end.door.step()
    return 1


cdef int finish_receive(Endpoint end, nr_message *message, object timeout_s, int result,
                        bint quiet) except -1:
    """The slow half: 1 a message; 0 a good end, only when `quiet`."""
    cdef uint64_t deadline, until
    if result == -EAGAIN and nr_endpoint_glance(end.core, NR_RECEIVE):
        result = nr_endpoint_receive(end.core, message)
        if result == 1:
            return 1
    if result == -EAGAIN:
        deadline = deadline_of(timeout_s)
        end.hold(NR_RECEIVE, deadline, "receive")
        try:
            while True:
                result = nr_endpoint_receive(end.core, message)
                if result != -EAGAIN:
                    break
                if step_door(end):
                    continue
                until = deadline
                if end.door is not None and end.door.pending:
                    until = min(deadline, <uint64_t>end.door.deadline_ns)
                if end.wait(NR_RECEIVE, until, "receive") == 0:
                    if until < deadline:
                        end.door.step()  # a silent stranger's time is up
                        continue
                    end.fail(-ETIMEDOUT, "receive", "no message came in time")
        finally:
            nr_endpoint_let_go(end.core, NR_RECEIVE)
    if result == 1:
        return 1
    if result == -ESHUTDOWN and quiet:
        return 0
    end.fail(result, "receive")


cdef inline int next_message(Endpoint end, nr_message *message, object timeout_s) except -1:
    cdef int result
    if end.borrowed == 1:
        end.check_receivable()
    result = nr_endpoint_receive(end.core, message)
    if result != 1:
        finish_receive(end, message, timeout_s, result, False)
    return 0


cdef inline object as_bytes(Endpoint end, nr_message *message):
    """The message as bytes; gives its place back."""
    cdef object made
    if message.fd_count:
        nr_endpoint_take_fds(end.core, message.fd_count, NULL, 0)
    if message.owner != NULL:
        made = <object><PyObject *>message.owner
        Py_DECREF(made)  # the reference that C held
        return made
    made = PyBytes_FromStringAndSize(<const char *>message.data, <Py_ssize_t>message.size)
    nr_endpoint_release(end.core)
    return made


cdef class Receiver(Endpoint):
    """The receiving verbs. All are safe from several threads; each message goes to one of them.

    A receiver with many senders takes them in turn, and goes on when one of them leaves or dies.
    `for message in receiver` ends when the peer closed in good order and raises PeerGoneError when
    it died.
    """

    def receive(self, timeout_s=None):
        """Waits for a message and returns it as bytes (b"" is a message of 0 bytes).

        Args:
            timeout_s: seconds; None = for ever, 0 = one look.

        Raises:
            TimedOutError: none came in time.
            PeerGoneError: the peer is gone and nothing is left; `.orderly` tells whether it closed.
            CorruptedError: what came is damaged, or its sender died in the middle of it.
            ClosedError: this end was closed, also by another thread meanwhile.
            ForkedHandleError, ProtocolError, LimitError.

        Keeps the GIL while a message is there; waits without it.
        """
        cdef nr_message message
        if self.borrowed == 2:
            return self.take_pending()
        next_message(self, &message, timeout_s)
        return as_bytes(self, &message)

    def try_receive(self):
        """A message as bytes, or None when there is none now. Never waits. Raises as receive()."""
        cdef nr_message message
        cdef int result
        if self.borrowed:
            if self.borrowed == 2:
                return self.take_pending()
            self.check_receivable()
        while True:
            result = nr_endpoint_receive(self.core, &message)
            if result == 1:
                return as_bytes(self, &message)
            if result != -EAGAIN:
                self.fail(result, "try_receive")
            if not step_door(self):
                return None

    def __iter__(self):
        return self

    def __next__(self):
        cdef nr_message message
        cdef int result
        if self.borrowed == 2:
            return self.take_pending()
        if self.borrowed == 1:
            self.check_receivable()
        result = nr_endpoint_receive(self.core, &message)
        if result != 1 and finish_receive(self, &message, None, result, True) == 0:
            raise StopIteration
        return as_bytes(self, &message)

    def receive_many(self, Py_ssize_t limit=64, timeout_s=None):
        """Waits for a message and takes those that are there, too.

        Args:
            limit: the most to take, at least 1; 8-64 is best.

        Returns: a list of 1..limit bytes. Raises: as receive().
        """
        cdef nr_message message
        cdef Py_ssize_t taken = 1
        cdef int result
        cdef list messages
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        if self.borrowed == 2:
            return [self.take_pending()]
        next_message(self, &message, timeout_s)
        messages = [as_bytes(self, &message)]
        while taken < limit:
            result = nr_endpoint_receive(self.core, &message)
            if result != 1:
                break  # nothing, or an end that the next call reports
            if message.fd_count:
                nr_endpoint_take_fds(self.core, message.fd_count, NULL, 0)
            if message.owner != NULL:
                made = <object><PyObject *>message.owner
                Py_DECREF(made)
            else:
                made = PyBytes_FromStringAndSize(<const char *>message.data,
                                                 <Py_ssize_t>message.size)
            PyList_Append(messages, made)
            taken += 1
            if taken % 16 == 0:
                nr_endpoint_release(self.core)  # the sender works on while the rest is taken
        nr_endpoint_release(self.core)
        return messages

    def receive_into(self, buffer, timeout_s=None):
        """Waits for a message and copies it into a writable buffer.

        Returns: its size in bytes. Raises: as receive(); TooBigError when the buffer is smaller: the
        message is kept for the next receiving verb.
        """
        cdef Py_buffer view
        cdef nr_message message
        cdef size_t size
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            if self.borrowed == 2:
                size = PyBytes_GET_SIZE(self.pending)
                if size <= <size_t>view.len:
                    memcpy(view.buf, PyBytes_AS_STRING(self.pending), size)
                    self.take_pending()
                    return size
            else:
                next_message(self, &message, timeout_s)
                size = message.size
                if size <= <size_t>view.len and message.owner == NULL:
                    memcpy(view.buf, message.data, size)
                    if message.fd_count:
                        nr_endpoint_take_fds(self.core, message.fd_count, NULL, 0)
                    nr_endpoint_release(self.core)
                    return size
                self.pending = as_bytes(self, &message)
                self.borrowed = 2
                if size <= <size_t>view.len:
                    memcpy(view.buf, PyBytes_AS_STRING(self.pending), size)
                    self.take_pending()
                    return size
            raise errors.TooBigError(
                f'receive_into "{self.address}": the message has {size} bytes, the buffer '
                f"{view.len}; it is kept for the next receive", operation="receive_into",
                address=self.address)
        finally:
            PyBuffer_Release(&view)

    def receive_with_priority(self, timeout_s=None):
        """As receive(), returns (message, priority); the priority is 0 except on mq."""
        cdef nr_message message
        if self.borrowed == 2:
            return self.take_pending(), 0
        next_message(self, &message, timeout_s)
        return as_bytes(self, &message), message.priority

    def receive_fds(self, unsigned int limit=253, timeout_s=None):
        """Waits for a message and takes the descriptors that came with it (unix, shm).

        Args:
            limit: the most to take; those above are closed and counted (`fds_dropped`).

        Returns: (bytes, list of descriptors, close-on-exec, yours to close). The list is empty for a
        message without any.
        Raises: as receive(); LimitError when this process has no descriptor free: the message is
        lost with its descriptors, the following ones are not. Source: unix(7) SCM_RIGHTS.
        """
        cdef nr_message message
        cdef int numbers[253]
        cdef unsigned count = 0
        cdef unsigned i
        if self.borrowed == 2:
            return self.take_pending(), []
        next_message(self, &message, timeout_s)
        if message.fd_count:
            count = nr_endpoint_take_fds(self.core, message.fd_count, numbers,
                                         min(limit, <unsigned>253))
            message.fd_count = 0
        fds = [numbers[i] for i in range(count)]
        return as_bytes(self, &message), fds

    def lease(self, timeout_s=None):
        """The next message in place: `with receiver.lease() as view:`.

        `view` is a read-only memoryview (uint8) of the message where it lies: in the ring on shm, in
        the receive buffer elsewhere. Its place is given back at the end of the block, so the sender
        may meet back-pressure until then. Other receiving verbs raise UnsupportedError meanwhile.

        Raises: as receive(), when the block is entered. BufferError at the end of the block when a
        view or array made from it is still alive; the memory stays valid until that is gone.
        """
        return Lease(self, timeout_s)

    def lease_many(self, Py_ssize_t limit=64, timeout_s=None):
        """A batch in place: `with receiver.lease_many(512) as batch:`.

        `batch` is a sequence of 1..limit cheap read-only views (buffer protocol, `view[i]`, `len`,
        `bytes(view)`); `batch.array(dtype)` is equal-sized messages as one 2-D numpy array of shape
        (messages, size_bytes / itemsize), strided, without a copy. Raises and rules: as lease().
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        return Batch(self, limit, timeout_s)


# ---- how transports make ends ----

cdef int fill_settings(nr_settings *out, object settings) except -1:
    modes = {"adaptive": NR_WAIT_ADAPTIVE, "spin": NR_WAIT_SPIN, "sleep": NR_WAIT_SLEEP}
    out.wait = modes[settings.wait]
    out.max_message_bytes = settings.max_message_bytes
    out.allocator = &bytes_allocator
    return 0


cdef object adopt(type cls, nr_endpoint *core, object address, object peer, object place,
                  unsigned int heartbeat_ms=0):
    cdef Endpoint end = cls.__new__(cls)
    end.heartbeat_s = heartbeat_ms / 1000.0
    end.core = core
    end.address = address
    end.peer = peer
    end.place = place
    return end


cdef int check(int result, str operation, object address) except -1:
    if result < 0:
        raise errors.from_errno(result, operation, address)
    return result


def open_stream(type cls, settings, str kind, int incoming, int outgoing, *, address, peer=None,
                place=None, bint coalesce=False, unsigned int heartbeat_ms=0):
    """An end over connected descriptors, which it takes over: kind is "pipe", "unix" or "tcp"."""
    cdef nr_settings common
    cdef nr_stream_settings stream
    cdef nr_endpoint *core
    fill_settings(&common, settings)
    stream.kind = {"pipe": NR_STREAM_PIPE, "unix": NR_STREAM_UNIX, "tcp": NR_STREAM_TCP}[kind]
    stream.framing = {"naru": NR_FRAMING_NARU, "raw": NR_FRAMING_RAW,
                      "lines": NR_FRAMING_LINES}[settings.framing]
    stream.coalesce = coalesce
    stream.heartbeat_ms = heartbeat_ms
    check(nr_stream_open(&common, &stream, incoming, outgoing, &core), "open", address)
    return adopt(cls, core, address, peer, place, heartbeat_ms)


def open_shm(type cls, settings, int segment_fd, int end, bint fences, int lifeline, data_bells,
             space_bells, *, address, peer=None, place=None):
    """An end over a segment (mapped here, its descriptor stays the caller's), bells and a lifeline
    (taken over). Raises ProtocolError, CorruptedError for a segment that does not check out."""
    cdef nr_settings common
    cdef nr_shm_descriptors fds
    cdef nr_segment *segment
    cdef nr_endpoint *core
    cdef int i, result
    fill_settings(&common, settings)
    fds.lifeline = lifeline
    for i in range(2):
        fds.data_bell[i] = data_bells[i]
        fds.space_bell[i] = space_bells[i]
    check(nr_segment_map(segment_fd, &segment), "map", address)
    result = nr_shm_open(&common, segment, end, fences, &fds, &core)
    if result < 0:
        nr_segment_release(segment)
        check(result, "open", address)
    return adopt(cls, core, address, peer, place)


def open_fifo_receiver(type cls, settings, int fd, int keep_open, *, address, place=None):
    cdef nr_settings common
    cdef nr_endpoint *core
    fill_settings(&common, settings)
    check(nr_fifo_open_receiver(&common, fd, keep_open, &core), "open", address)
    return adopt(cls, core, address, None, place)


def open_fifo_sender(type cls, settings, int fd, uint64_t sender, *, address, place=None):
    cdef nr_settings common
    cdef nr_endpoint *core
    fill_settings(&common, settings)
    check(nr_fifo_open_sender(&common, fd, sender, &core), "open", address)
    return adopt(cls, core, address, None, place)


def open_mq(type cls, settings, int queue, bint receiver, *, address, place=None):
    cdef nr_settings common
    cdef nr_endpoint *core
    fill_settings(&common, settings)
    check(nr_mq_open(&common, queue, receiver, &core), "open", address)
    return adopt(cls, core, address, None, place)


def open_datagrams(type cls, settings, int fd, bint raw, uint64_t connection,
                   unsigned int heartbeat_ms, *, address, peer=None, place=None):
    cdef nr_settings common
    cdef nr_endpoint *core
    fill_settings(&common, settings)
    check(nr_datagram_open(&common, fd, raw, connection, heartbeat_ms, &core), "open", address)
    return adopt(cls, core, address, peer, place, heartbeat_ms)


def open_fan_in(type cls, settings, door, int bell, *, address, place=None):
    """A receiver over many connections. `door` has fileno(), step(), pending, deadline_ns; its
    step() calls add_sender(). bell: the shared data bell (shm) or -1; both stay the caller's."""
    cdef nr_settings common
    cdef nr_endpoint *core
    cdef Endpoint end
    fill_settings(&common, settings)
    check(nr_fan_in_open(&common, door.fileno(), bell, &core), "open", address)
    end = adopt(cls, core, address, None, place)
    end.door = door
    return end


def add_sender(Endpoint fan_in, Endpoint child):
    """Moves `child`'s connection into the fan-in; the child object is empty afterwards."""
    check(nr_fan_in_add(fan_in.core, child.core), "add a sender", fan_in.address)
    child.core = &nr_endpoint_nobody


def sender_count(Endpoint fan_in):
    """How many senders are connected to a fan-in receiver."""
    return nr_fan_in_count(fan_in.core)


def join_pair(Endpoint a, Endpoint b, int claims_fd, recipes):
    """Makes two fresh ends one pair; recipes: how each is pickled. Takes claims_fd over."""
    cdef nr_claims *claims
    check(nr_claims_map(claims_fd, &claims), "pair", a.address)
    nr_endpoint_join_pair(a.core, claims, 0, b.core)
    nr_endpoint_join_pair(b.core, claims, 1, a.core)
    nr_claims_release(claims)
    a.recipe, b.recipe = recipes


def rejoin_pair(Endpoint end, int claims_fd, int index, recipe):
    """The end of a pair that came by pickle. Takes claims_fd over."""
    cdef nr_claims *claims
    check(nr_claims_map(claims_fd, &claims), "pair", end.address)
    nr_endpoint_join_pair(end.core, claims, index, NULL)
    nr_claims_release(claims)
    end.recipe = recipe


def create_claims():
    """A descriptor of the page in which the two ends of a pair are claimed."""
    cdef nr_claims *claims
    cdef int fd
    check(nr_claims_create(&claims), "pair", None)
    import os
    fd = os.dup(claims.fd)
    nr_claims_release(claims)
    return fd


def has_barrier():
    """True when this process's rings need no fences (membarrier(2), GLOBAL_EXPEDITED)."""
    return bool(nr_process_has_barrier())
