# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""What a loop over many channels needs besides the verbs: messages taken apart into head and body,
trying to send two parts, waiting for room by poll, dropping a peer without waiting for it.

Must not know: what the head says. Joins: naru.requests, whose loop sleeps in one epoll over the
`fileno()` of its channels. Only one thread may use the functions about room, and not while another
one is inside a sending verb of the same end.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

from naru._native.core cimport *
from naru._native.endpoint cimport Endpoint
from naru._native.waiting cimport finish_receive, finish_rest, raise_send_error, send_parts_of

cdef extern from "<errno.h>":
    const int EAGAIN, EBUSY

cdef extern from "<poll.h>" nogil:
    struct native_pollfd "pollfd":
        int fd
        short events

cdef extern from "naru/waiting.h" nogil:
    struct nr_waiting:
        pass
    void nr_waiting_start(nr_waiting *, nr_wait_mode mode)
    uint64_t nr_waiting_budget_ns(const nr_waiting *, int cpu_count)
    void nr_waiting_learn(nr_waiting *, uint64_t waited_ns, bint by_spinning)

cdef extern from "naru/endpoint.h" nogil:
    int nr_process_cpu_count()

cdef extern from "multiplexing.h" nogil:
    int nr_check(nr_endpoint *)
    bint nr_may_have_message(nr_endpoint *)
    int nr_look_at_ends(nr_endpoint **ends, int count, uint64_t until_ns)
    int nr_watch_room(nr_endpoint *, native_pollfd *)
    void nr_stop_watching_room(nr_endpoint *)


cdef tuple parted(Endpoint end, nr_message *message, Py_ssize_t head_bytes, unsigned fd_limit):
    """(head, body, descriptors); gives the message's place back."""
    cdef int numbers[253]
    cdef unsigned count = 0
    cdef unsigned i
    cdef Py_ssize_t size = <Py_ssize_t>message.size
    cdef const char *data = <const char *>message.data
    cdef object owner = None
    cdef object fds = ()
    if message.fd_count:
        count = nr_endpoint_take_fds(end.core, message.fd_count, numbers,
                                     min(fd_limit, <unsigned>253))
        fds = [numbers[i] for i in range(count)]
    if message.owner != NULL:
        owner = <object><PyObject *>message.owner
        Py_DECREF(owner)  # the reference that C held
    if head_bytes > size:
        head_bytes = size
    head = PyBytes_FromStringAndSize(data, head_bytes)
    body = PyBytes_FromStringAndSize(data + head_bytes, size - head_bytes)
    if owner is None:
        nr_endpoint_release(end.core)
    return head, body, fds


def take(Endpoint end, Py_ssize_t head_bytes, unsigned fd_limit=253):
    """The next message as (head, body, descriptors), or None when there is none now. Never waits.

    A message shorter than `head_bytes` is all head. Raises as Receiver.receive().
    """
    cdef nr_message message
    cdef int result
    if end.borrowed:
        end.check_receivable()
    result = nr_endpoint_receive(end.core, &message)
    if result == 1:
        return parted(end, &message, head_bytes, fd_limit)
    if result == -EAGAIN:
        return None
    end.fail(result, "receive")


def may_have_message(Endpoint end):
    """False when it is certain, without a system call, that take() gives None."""
    return nr_may_have_message(end.core)


def take_waiting(Endpoint end, Py_ssize_t head_bytes, timeout_s=None, unsigned fd_limit=253):
    """The same, waiting for a message as Receiver.receive() does. Raises as it."""
    cdef nr_message message
    cdef int result
    if end.borrowed:
        end.check_receivable()
    result = nr_endpoint_receive(end.core, &message)
    if result != 1:
        finish_receive(end, &message, timeout_s, result, False)
    return parted(end, &message, head_bytes, fd_limit)


def try_send_parts(Endpoint end, bytes head, body):
    """Sends head and body as one message if that needs no waiting: True, or False without room.

    What was begun counts as sent; flush() pushes out its rest. Raises as Sender.try_send().
    """
    cdef Py_buffer view
    cdef iovec parts[2]
    cdef nr_outgoing out
    cdef int result
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        parts[0].iov_base = PyBytes_AS_STRING(head)
        parts[0].iov_len = PyBytes_GET_SIZE(head)
        parts[1].iov_base = view.buf
        parts[1].iov_len = view.len
        out.parts = parts
        out.part_count = 2
        out.priority = 0
        out.flags = 0
        out.size = parts[0].iov_len + parts[1].iov_len
        out.progress = 0
        out.fds = NULL
        out.fd_count = 0
        result = nr_endpoint_send(end.core, &out)
        if result == -EAGAIN and out.progress:
            result = nr_endpoint_accept_begun(end.core, &out)
    finally:
        PyBuffer_Release(&view)
    if result == 0:
        return True
    if result == -EAGAIN or result == -EBUSY:
        return False
    raise_send_error(end, result, out.size)


def send_two_parts(Endpoint end, bytes head, body, timeout_s=None):
    """The same, waiting for room as Sender.send() does. Raises as it."""
    cdef Py_buffer view
    cdef iovec parts[2]
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        parts[0].iov_base = PyBytes_AS_STRING(head)
        parts[0].iov_len = PyBytes_GET_SIZE(head)
        parts[1].iov_base = view.buf
        parts[1].iov_len = view.len
        send_parts_of(end, parts, 2, parts[0].iov_len + parts[1].iov_len, timeout_s, 0)
    finally:
        PyBuffer_Release(&view)


def has_rest(Endpoint end):
    """True while a part of an accepted message is still in this end: flush() pushes it out."""
    return bool(nr_endpoint_has_rest(end.core))


def flush(Endpoint end):
    """Pushes the rest of an accepted message: True when all is out. Never waits. Raises as send()."""
    cdef int result = nr_endpoint_admit(end.core)
    if result == 0:
        result = nr_endpoint_flush(end.core)
    if result == 0:
        return True
    if result == -EAGAIN:
        return False
    raise_send_error(end, result, 0)


def flush_waiting(Endpoint end, timeout_s=None):
    """The same, waiting for room; what is left when the time is up stays in the end."""
    finish_rest(end, timeout_s)


def check(Endpoint end):
    """Raises PeerGoneError when nothing has been heard from the peer within its heartbeat (tcp)."""
    cdef int result = nr_check(end.core)
    if result < 0:
        end.fail(result, "receive")


def watch_room(Endpoint end):
    """What to poll after a send found no room: a list of (descriptor, events); empty = there is room.

    When one of them is ready, or nobody looks at them any more, stop_watching_room() comes first.
    The descriptors belong to the end. Raises ClosedError, ForkedHandleError.
    """
    cdef native_pollfd fds[4]  # NR_SLEEP_FDS
    cdef int count = nr_endpoint_admit(end.core)
    cdef int i
    if count < 0:
        end.fail(count, "send")
    count = nr_watch_room(end.core, fds)
    return [(fds[i].fd, <int>fds[i].events) for i in range(count)]


def stop_watching_room(Endpoint end):
    """Ends what watch_room() began; nothing happens when the end is closed."""
    if nr_endpoint_state(end.core) == NR_OPEN:
        nr_stop_watching_room(end.core)


def drop(Endpoint end):
    """Closes at once, without a goodbye: the peer sees a death, and what it did not take is lost.

    For a peer that broke the rules or takes nothing; Endpoint.close() would wait for it. Idempotent.
    """
    if nr_endpoint_begin_close(end.core):
        with nogil:
            nr_endpoint_finish_close(end.core)
    if end.place is not None:
        place, end.place = end.place, None
        place.close()


cdef enum:
    # A peer that sleeps is woken in 25 us and works for another 20 in Python before it sends: with
    # the 50 us that one end spins at most, two that have begun to sleep would never stop it.
    SPIN_SCALE = 3


cdef class Spin:
    """Looks at several ends for as long as it has paid lately, before a loop sleeps: 150 us at most."""
    cdef nr_waiting waiting
    cdef uint64_t began_ns

    def __cinit__(self, bint sleeps_only=False):
        """Args: sleeps_only: never spins (`?wait=sleep`)."""
        nr_waiting_start(&self.waiting, NR_WAIT_SLEEP if sleeps_only else NR_WAIT_ADAPTIVE)

    def look(self, list ends):
        """Looks at the ends, at most the first 16, without the GIL: True when one has something.

        The ends must not be closed by another thread meanwhile.
        """
        cdef nr_endpoint *cores[16]
        cdef uint64_t budget_ns = nr_waiting_budget_ns(&self.waiting,
                                                       nr_process_cpu_count()) * SPIN_SCALE
        cdef int count = min(<int>len(ends), <int>16)  # NR_LOOK_AT_MOST
        cdef int i, found = -1
        self.began_ns = nr_os_now_ns()
        if budget_ns == 0 or count == 0:
            return False
        for i in range(count):
            cores[i] = (<Endpoint?>ends[i]).core
        with nogil:
            found = nr_look_at_ends(cores, count, self.began_ns + budget_ns)
        if found >= 0:
            self.learn(True)
        return found >= 0

    def slept(self):
        """Something came after look() had found nothing: the next budget follows from how long."""
        self.learn(False)

    cdef void learn(self, bint by_spinning) noexcept:
        nr_waiting_learn(&self.waiting, (nr_os_now_ns() - self.began_ns) // SPIN_SCALE, by_spinning)
