# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The receiving verbs: each looks first, with the GIL kept; what finds nothing goes to waiting.pyx."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_Append
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.string cimport memcpy

from naru._native.core cimport *
from naru._native.endpoint cimport Endpoint, nr_recycle_bytes
from naru._native.formats cimport arrays, objects
from naru._native.views cimport Batch, Lease, Owned
from naru._native.waiting cimport finish_receive, next_message, step_door

from naru import errors

cdef extern from "<errno.h>":
    const int EAGAIN, EMFILE

cdef inline object as_bytes(Endpoint end, nr_message *message):
    """The message as bytes; gives its place back."""
    cdef object made
    if message.fd_count:
        nr_endpoint_take_fds(end.core, message.fd_count, NULL, 0)
    if message.owner != NULL:
        made = <object><PyObject *>message.owner
        Py_DECREF(made)  # the reference that C held
        return made
    made = nr_recycle_bytes(&end.recycled, message.data, <Py_ssize_t>message.size)
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
        if self.borrowed:
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
            if result == -EMFILE:
                self.borrowed = 3  # a message is lost with its descriptors: the next call says so
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
        cdef unsigned fds
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
                fds = message.fd_count
                message.fd_count = 0  # they wait with it
                self.keep_pending(as_bytes(self, &message), fds)
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
            message.fd_count, self.pending_fds = self.pending_fds, 0
        else:
            next_message(self, &message, timeout_s)
        if message.fd_count:
            count = nr_endpoint_take_fds(self.core, message.fd_count, numbers,
                                         min(limit, <unsigned>253))
            message.fd_count = 0
        fds = [numbers[i] for i in range(count)]
        if self.borrowed == 2:
            return self.take_pending(), fds
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

    # ---- values: the formats are naru.codec's, which is loaded by their first use ----

    def receive_object(self, type=None, codec=None, timeout_s=None):
        """Waits for a value that send_object() sent, and returns it.

        Args:
            type: what it has to be, such as a msgspec.Struct, a dataclass, a TypedDict,
                `list[int]`, `A | B`; it is checked and made one. None = any plain value.
            codec: None or "msgpack"; "pickle" when the sender uses it. **Unpickling runs what the
                sender wants**: only from processes that you trust as yourself.
            timeout_s: as receive().

        Raises: as receive(). ProtocolError: the message is no such value; it is gone, the end goes
        on. Source: https://github.com/msgpack/msgpack/blob/master/spec.md
        """
        return objects().value_of(self.receive(timeout_s), type, codec, self.address)

    def try_receive_object(self, type=None, codec=None, default=None):
        """As receive_object(), or `default` when there is no message now. Never waits."""
        message = self.try_receive()
        return default if message is None else objects().value_of(
            message, type, codec, self.address)

    def receive_array(self, timeout_s=None):
        """Waits for an array that send_array() or reserve_array() sent; returns it as a numpy array.

        It is writable and yours: its memory belongs to nobody else. dtype, shape and order are those
        of what was sent.

        Raises: as receive(). ProtocolError: the message is no array, or not a sound one; it is gone,
        the end goes on. ImportError without numpy (`naru-ipc[arrays]`).
        """
        return arrays().array_of(Owned(self.receive(timeout_s)), self.address)

    def try_receive_array(self):
        """As receive_array(), or None when there is no message now. Never waits."""
        message = self.try_receive()
        return None if message is None else arrays().array_of(Owned(message), self.address)

    def lease_array(self, timeout_s=None, *, bint writable=False):
        """The next array in place: `with receiver.lease_array() as array:`.

        On shm an array that fits into the ring is the ring's own memory, 64-byte aligned; elsewhere
        it lies in the receive buffer or is a copy, aligned for its items. Its place is given back at
        the end of the block, so the sender may meet back-pressure until then. Other receiving verbs
        raise UnsupportedError meanwhile.

        Args:
            timeout_s: as receive().
            writable: True makes an array that can be written to; the sender does not see it. For
                work in place, and for consumers of DLPack that know no read-only memory.

        Raises: as receive_array(), when the block is entered. BufferError at the end of the block
        when a slice, another name, a tensor, ... of the array is still alive; its memory stays valid
        until that is gone. The name after `as` may be: the array behind it is emptied, and using it
        raises.
        """
        return arrays().ArrayLease(Lease(self, timeout_s, writable), self.address, writable)
