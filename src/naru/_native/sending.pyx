# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The sending verbs. Between `channel.send(b"...")` and the ring or the system call there is no Python
frame: each verb tries first, with the GIL kept; what finds no room goes to waiting.pyx.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc

from naru._native.core cimport *
from naru._native.endpoint cimport Endpoint
from naru._native.formats cimport arrays, objects
from naru._native.views cimport Reservation, place_of
from naru._native.waiting cimport (fill_place, finish_rest, finish_send, push_later, push_rest,
                                   raise_send_error, send_batch, send_parts_of, take_place)

from naru import errors

cdef extern from "<errno.h>":
    const int EAGAIN, EBADF, EBUSY, EOPNOTSUPP

cdef enum:
    BATCH = 256   # messages that go to C in one call


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


cdef class Sender(Endpoint):
    """The sending verbs. All are safe from several threads; each message stays whole.

    A message is *accepted* when the verb returns: it is in the kernel or in the ring, and arrives
    unless one of the two processes dies. (The rest of one that was begun when its time was up, or by
    try_send(), is in this end's outbox: a thread pushes it out, and so do the following verbs.) A verb that raises
    TimedOutError has sent nothing. Order is kept.
    """

    def __reduce__(self):
        if type(self) is Sender and not self.closed:
            import naru
            return naru.sender, (str(self.address),)  # many senders: the other process opens its own
        return Endpoint.__reduce__(self)

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

    def _push_rest(self, double slice_s):
        """For naru.outbox: waits at most `slice_s` for room; True while something is left to push."""
        return push_rest(self, slice_s)

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
                push_later(self)
                return True
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
        if result == 0:
            if nr_endpoint_has_rest(self.core):
                finish_rest(self, timeout_s)
            return
        try:
            finish_send(self, &out, timeout_s, result)
        except errors.ClosedError as error:
            if error.errno != EBADF or self.closed:
                raise
            raise ValueError(f"send_fds: not every one of {fds!r} is an open descriptor") from None

    # ---- values: the formats are naru.codec's, which is loaded by their first use ----

    def send_object(self, value, codec=None, timeout_s=None):
        """Sends one value: what msgpack knows, structures, dates, sets, enums, UUIDs, decimals.

        Args:
            value: None, bool, int, float, str, bytes, list, tuple, dict, set, a msgspec.Struct, a
                dataclass, a TypedDict, ...; numpy arrays go by send_array().
            codec: None or "msgpack"; "pickle" sends any Python object, to a receiver that asks for
                pickle, too. **Unpickling runs what the sender wants**: only between processes that
                trust each other as themselves.
            timeout_s: as send().

        Raises: TypeError when the codec cannot write the value; else as send().
        Source: https://github.com/msgpack/msgpack/blob/master/spec.md
        """
        self.send_parts(objects().parts_of(value, codec), timeout_s)

    def try_send_object(self, value, codec=None):
        """As send_object(), if that needs no waiting: True, or False when there is no room."""
        return self.try_send(b"".join(objects().parts_of(value, codec)))

    def send_array(self, array, timeout_s=None):
        """Sends one numpy array with its dtype, shape and order; it arrives as it is.

        Args:
            array: a numpy array of any shape (0-d and empty, too) and any dtype without Python
                objects (structured, datetime64, str_, big-endian, ...), or what numpy.asarray() or
                DLPack makes one of. C and Fortran order are kept; any other layout is gathered into
                the order that is nearest.
            timeout_s: as send().

        On shm, an array that fits into the ring is copied once, to its place there, 64-byte aligned.
        Other threads of this end wait while it is copied; the GIL is released by numpy's copying.

        Raises: TypeError for objects, masks and dtypes that numpy cannot name. ImportError without
        numpy (`naru-ipc[arrays]`). Else as send().
        """
        arrays().send_array(self, array, timeout_s)

    def try_send_array(self, array):
        """As send_array(), if that needs no waiting: True, or False when there is no room."""
        return not self.reserved and arrays().try_send_array(self, array)

    def reserve_array(self, shape, dtype="f8", order="C", timeout_s=None):
        """A numpy array to be computed in place: `with sender.reserve_array(shape, dtype) as array:`.

        `array` is writable and 64-byte aligned, in the ring itself on shm when it fits there, in
        private memory elsewhere. Leaving the block sends it, an exception drops it. What is in it
        before you write is undefined.

        Args:
            shape: an int or a sequence of ints, at most 64 (32 before numpy 2).
            dtype: of the items, without Python objects.
            order: "C" or "F".
            timeout_s: for entering the block, as reserve().

        Raises: as reserve() and send_array(). BufferError when a slice or another name of the array
        is still alive at the end of the block: then nothing is sent. The name after `as` may be: the
        array behind it is emptied, and using it raises.
        """
        return arrays().ArrayReservation(self, shape, dtype, order, timeout_s)

    def _send_in_place(self, Py_ssize_t most_bytes, fill, timeout_s=None):
        """True: a message was sent that `fill(view, address)` wrote into at most `most_bytes` in the
        ring, and whose size it returned. False: there is no such place here, nothing was done."""
        cdef uint8_t *data
        cdef Reservation place
        cdef Py_ssize_t written = 0
        cdef Py_ssize_t size = 0
        if not take_place(self, most_bytes, timeout_s, &data):
            return False
        try:
            place = place_of(self, data, most_bytes)
            with memoryview(place) as view:
                written = fill(view, <size_t>data)
            if written < 0 or written > most_bytes:
                raise ValueError(f"{written} bytes in a place of {most_bytes}")
            size = written
        finally:
            fill_place(self, size)
        return True
