# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""How an event loop waits for an end: the steps of native/include/naru/watch.h, and what a verb that
never waits has to know besides. Must not know: any loop (naru.aio does).
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE

from naru._native.core cimport *
from naru._native.endpoint cimport Endpoint
from naru._native.views cimport Reservation
from naru._native.waiting cimport raise_send_error

cdef extern from "<errno.h>":
    const int EAGAIN, EBUSY, EOPNOTSUPP

cdef enum:
    BATCH = 256   # messages that go to C in one call

SEND = NR_SEND
RECEIVE = NR_RECEIVE


cdef class Watch:
    """Both directions of one end as one descriptor that polls readable; belongs to one thread."""

    cdef nr_watch *core
    cdef Endpoint end

    def __init__(self, Endpoint end not None):
        cdef int result
        if self.core != NULL:
            raise TypeError("a watch is made once")
        result = nr_watch_open(end.core, &self.core)
        self.end = end
        self.check(result)

    def __dealloc__(self):
        if self.core != NULL:
            nr_watch_close(self.core)
            self.core = NULL

    def close(self):
        """Before the end is closed. Idempotent."""
        if self.core != NULL:
            nr_watch_close(self.core)
            self.core = NULL

    cdef int check(self, int result) except? -1:
        if result < 0:
            self.end.fail(result, "wait")
        return result

    def fileno(self):
        """Polls readable when look() has something to say. The same all the time."""
        return nr_watch_fileno(self.core)

    @property
    def looks(self):
        """While the loop has something to do: True: glance() costs less than arm(); False: arm at
        once, because the loop's own poll sees it as well."""
        return bool(self.end.core.ready_is_cheap) or self.never_sleeps

    @property
    def never_sleeps(self):
        """?wait=spin."""
        return self.end.core.waiting[0].mode == NR_WAIT_SPIN

    @property
    def never_spins(self):
        """?wait=sleep."""
        return self.end.core.waiting[0].mode == NR_WAIT_SLEEP

    def begin(self, nr_direction direction, uint64_t most_ns):
        """A wait begins, with a spin of at most so long: True: worth a try; False: not yet."""
        return self.core == NULL or self.check(
            nr_watch_begin(self.core, direction, most_ns)) == 1

    def glance(self, nr_direction direction):
        """True: worth a try; False: not yet."""
        return self.core == NULL or self.check(nr_watch_glance(self.core, direction)) == 1

    def arm(self, nr_direction direction):
        """True: worth a try; False: the descriptor will tell."""
        return self.core == NULL or self.check(nr_watch_arm(self.core, direction)) == 1

    def look(self):
        """A mask of 1 << direction: what is worth a try now, and is not armed any more."""
        return 3 if self.core == NULL else self.check(nr_watch_look(self.core))

    @property
    def interval_s(self):
        """Who has armed calls ask() so often, because no descriptor tells of everything; None:
        needs not."""
        cdef uint64_t interval = NR_FOREVER if self.core == NULL else \
            nr_watch_interval_ns(self.core)
        cdef uint64_t now, until
        if self.end.door is not None and self.end.door.pending:
            now = nr_os_now_ns()
            until = <uint64_t>self.end.door.deadline_ns
            interval = min(interval, until - now if until > now else <uint64_t>0)
        return None if interval == NR_FOREVER else interval / 1e9

    def ask(self, nr_direction direction):
        """True: worth a try. Raises: how the end has ended, as a wait does."""
        cdef int result
        if self.core == NULL:
            return True
        if self.end.door is not None and self.end.door.pending:
            return True  # the try sends silent strangers away
        result = nr_watch_check(self.core, direction)
        if result < 0:
            self.end.fail(result, "send" if direction == NR_SEND else "receive")
        return result == 1


cdef class Patience:
    """How long a loop keeps looking before it sleeps: learned as waiting.h says, from the pauses in
    which none of its ends had anything to do."""

    cdef nr_waiting waiting
    cdef uint64_t since_ns
    cdef bint idle

    def __cinit__(self):
        nr_waiting_start(&self.waiting, NR_WAIT_ADAPTIVE)
        self.since_ns = 0
        self.idle = False

    def is_over(self):
        """Nothing was to be done: True: sleep; False: look once more."""
        cdef uint64_t now = nr_os_now_ns()
        if not self.idle:
            self.idle = True
            self.since_ns = now
        return now - self.since_ns >= nr_waiting_budget_ns(&self.waiting, nr_process_cpu_count())

    def renew(self, bint by_looking):
        """Something is to be done; was it found by looking, or did it wake the loop?"""
        if self.idle:
            self.idle = False
            nr_waiting_learn(&self.waiting, nr_os_now_ns() - self.since_ns, by_looking)


cdef class Sending:
    """One message on its way out, in steps; the message is not copied while it is."""

    cdef Endpoint end
    cdef Py_buffer view
    cdef bint held
    cdef iovec part
    cdef nr_outgoing out
    cdef readonly bint done
    """Accepted, or failed."""

    def __init__(self, *unused):
        raise TypeError("made by send_now()")

    cdef int take(self, Endpoint end, object data, uint32_t priority) except -1:
        self.end = end
        PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)
        self.held = True
        self.part.iov_base = self.view.buf
        self.part.iov_len = self.view.len
        fill_outgoing(&self.out, &self.part, priority)
        return 0

    @property
    def begun(self):
        """Some of it has gone: it must be completed, by step() or by keep()."""
        return self.out.progress > 0

    def step(self):
        """Sends what there is room for."""
        cdef int result
        if self.done:
            return
        result = nr_endpoint_send(self.end.core, &self.out)
        self.done = result != -EAGAIN and result != -EBUSY
        if self.done and result < 0:
            raise_send_error(self.end, result, self.out.size)

    def keep(self):
        """No step will follow: what was begun is copied, and counts as accepted."""
        if not self.done and self.out.progress:
            nr_endpoint_accept_begun(self.end.core, &self.out)  # or broken off: the next verb says so
        self.done = True

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)


cdef void fill_outgoing(nr_outgoing *out, iovec *part, uint32_t priority) noexcept:
    out.parts = part
    out.part_count = 1
    out.priority = priority
    out.flags = 0
    out.size = part.iov_len
    out.progress = 0
    out.fds = NULL
    out.fd_count = 0


def send_now(Endpoint end not None, data, unsigned int priority=0):
    """Sends a message, or begins to: None when all of it has gone, else what is left to be done."""
    cdef iovec part
    cdef nr_outgoing out
    cdef Sending sending
    cdef int result = -EAGAIN
    cdef bint is_small
    if end.reserved:
        end.fail(-EOPNOTSUPP, "send", "a reservation is open on this end: leave its `with` block")
    is_small = PyBytes_CheckExact(data) and PyBytes_GET_SIZE(data) <= <Py_ssize_t>NR_SMALL_MESSAGE
    if is_small:
        part.iov_base = PyBytes_AS_STRING(data)
        part.iov_len = PyBytes_GET_SIZE(data)
        fill_outgoing(&out, &part, priority)
        result = nr_endpoint_send(end.core, &out)  # whole, or not at all, or its rest is kept
        if result == 0 and not nr_endpoint_has_rest(end.core):
            return None
        if result < 0 and result != -EAGAIN and result != -EBUSY:
            raise_send_error(end, result, out.size)
    sending = Sending.__new__(Sending)
    sending.take(end, data, priority)
    sending.done = result == 0
    if not is_small:
        sending.step()
    return None if sending.done and not nr_endpoint_has_rest(end.core) else sending


def has_rest(Endpoint end not None):
    """An accepted message has not gone out completely: call flush() when there is room."""
    return bool(nr_endpoint_has_rest(end.core))


def flush(Endpoint end not None):
    """Pushes the rest of an accepted message out: True when nothing of it is left."""
    cdef int result = nr_endpoint_admit(end.core)
    if result == 0:
        result = nr_endpoint_flush(end.core)
    if result == -EAGAIN:
        return False
    if result < 0:
        raise_send_error(end, result, 0)
    return True


def send_some(Endpoint end not None, list messages, Py_ssize_t start):
    """Sends messages[start:] as far as that needs no waiting; gives how many were accepted."""
    cdef iovec batch[BATCH]
    cdef Py_ssize_t length = len(messages), i = start
    cdef int count, result
    if end.reserved:
        end.fail(-EOPNOTSUPP, "send_many", "a reservation is open on this end")
    while i < length:
        count = 0
        while count < BATCH and i + count < length:
            message = messages[i + count]
            if not PyBytes_CheckExact(message) or \
                    PyBytes_GET_SIZE(message) > <Py_ssize_t>NR_SMALL_MESSAGE:
                break
            batch[count].iov_base = PyBytes_AS_STRING(message)
            batch[count].iov_len = PyBytes_GET_SIZE(message)
            count += 1
        if count == 0:
            if not end.try_send(messages[i]):
                break
            i += 1
            continue
        result = nr_endpoint_send_many(end.core, batch, count)
        if result == -EAGAIN or result == -EBUSY:
            break
        if result < 0:
            if i > start:
                break  # what was sent is told first; the next call meets it again
            raise_send_error(end, result, batch[0].iov_len)
        i += result
    return i - start


def private_of(Reservation reservation not None):
    """What leaving its block sends, when that is not in the ring already; else None."""
    return reservation.private if reservation.state == 1 and not reservation.in_place else None


def take_over(Endpoint end not None):
    """From now on an event loop waits for this end, and nobody else."""
    end.looped = True


def take_leave(Endpoint end not None):
    """The goodbye before close(), as far as that needs no waiting: False when there is no room."""
    return (nr_endpoint_state(end.core) != NR_OPEN
            or nr_endpoint_take_leave(end.core) != -EAGAIN)


def is_lingering(Endpoint end not None):
    """After it: closing now would destroy what only the kernel has (tcp)."""
    return (nr_endpoint_state(end.core) == NR_OPEN and end.core.ops.linger != NULL
            and end.core.ops.linger(end.core) == -EAGAIN)


def linger_s(Endpoint end not None):
    """So long close() waits for both at most."""
    return getattr(end.place, "linger_s", 1.0)


def close_now(Endpoint end not None):
    """close() without any waiting."""
    end.hurried = True
    end.close()
