# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Messages in place: a lease of one, a batch of many, a reservation of one to be written.

Lifetime. A holder gives its memory back when its `with` block was left *and* no buffer of it is
alive. A view or array that outlives the block makes the block raise BufferError; the memory stays
mapped and unused by the ring until that view is gone, so it never shows another message and never
faults. What is asked of a holder or view after the block raises ValueError.
"""
cimport cython
from cpython.long cimport PyLong_AsSsize_t
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_WRITABLE
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.string cimport memcmp

from naru._native.core cimport *
from naru._native.endpoint cimport Endpoint
from naru._native.waiting cimport next_message, reserve_place

cdef extern from "Python.h":
    bint PyLong_CheckExact(object)

cdef extern from *:
    """
    static char nr_byte_format[] = "B";
    """
    char nr_byte_format[]

cdef int fill_buffer(Py_buffer *buffer, int flags, object exporter, const void *data,
                     Py_ssize_t size, Py_ssize_t *shape, bint writable) except -1:
    if flags & PyBUF_WRITABLE and not writable:
        raise BufferError("a received message is read-only")
    shape[0] = size
    buffer.buf = <void *>data
    buffer.obj = exporter
    buffer.len = size
    buffer.itemsize = 1
    buffer.readonly = not writable
    buffer.ndim = 1
    buffer.format = nr_byte_format if flags & PyBUF_FORMAT else NULL
    buffer.shape = shape
    buffer.strides = &buffer.itemsize
    buffer.suboffsets = NULL
    buffer.internal = NULL
    return 0


cdef class Holder:
    """Shared by the three: entering once, leaving once, giving back when nothing points here."""

    cdef int keep_memory(self) except -1:
        if self.end.core.ops.memory != NULL:
            self.segment = self.end.core.ops.memory(self.end.core)
            if self.segment != NULL:
                nr_segment_retain(self.segment)
        return 0

    cdef int leave(self, bint failing) except -1:
        """The end of the block; True when something of it is still alive."""
        cdef bint alive = False
        if self.state != 1:
            return 0
        self.state = 2
        if self.view is not None:
            try:
                self.view.release()
            except BufferError:
                alive = True
            self.view = None
        if self.exports == 0:
            self.give_back()
        elif not failing:
            alive = True
        if alive and not failing:
            raise BufferError(
                "a view or array of the message is still alive at the end of its `with` block; drop "
                "it (del) before, or copy it: bytes(view), array.copy()")
        return 0

    cdef void give_back(self) noexcept:
        pass

    cdef void count_down(self) noexcept:
        self.exports -= 1
        if self.exports == 0 and self.state == 2:
            self.give_back()

    def __dealloc__(self):
        # exports == 0 here: each exported buffer holds a reference
        if self.segment != NULL:
            nr_segment_release(self.segment)
            self.segment = NULL


cdef void end_borrowing(Holder holder) noexcept:
    holder.state = 3
    if holder.segment != NULL:
        nr_segment_release(holder.segment)
        holder.segment = NULL
    holder.owner = None
    holder.end.end_lease()


cdef int enter_once(Holder holder) except -1:
    if holder.state != 0:
        raise ValueError("a lease or reservation is for one `with` block")
    if holder.end is None:
        raise TypeError("made by lease(), lease_many() and reserve() only")
    return 0


@cython.final
cdef class Lease(Holder):
    """One message in place; made by Receiver.lease()."""

    def __init__(self, Endpoint end, timeout_s, bint writable=False):
        self.end = end
        self.timeout_s = timeout_s
        self.writable = writable

    def __enter__(self):
        cdef nr_message message
        enter_once(self)
        if self.end.borrowed == 2:
            self.owner = self.end.take_pending()
        else:
            next_message(self.end, &message, self.timeout_s)
            if message.fd_count:
                nr_endpoint_take_fds(self.end.core, message.fd_count, NULL, 0)
            if message.owner != NULL:
                self.owner = <object><PyObject *>message.owner
                Py_DECREF(self.owner)
        if self.owner is not None:
            self.data = <const uint8_t *>PyBytes_AS_STRING(self.owner)
            self.size = PyBytes_GET_SIZE(self.owner)
        else:
            self.data = message.data
            self.size = message.size
            self.keep_memory()
        self.end.borrowed = 1
        self.state = 1
        self.view = memoryview(self)
        return self.view

    def __exit__(self, kind, value, traceback):
        self.leave(kind is not None)

    cdef void give_back(self) noexcept:
        end_borrowing(self)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if self.state != 1:
            raise ValueError("the lease is over")
        # Never an object of 0 or 1 bytes: those are shared by the whole interpreter.
        fill_buffer(buffer, flags, self, self.data, self.size, self.shape,
                    self.writable and self.size > 1)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.count_down()


@cython.final
cdef class Owned:
    """A message that was received, as memory that can be written to: for arrays that are given away.

    Whoever makes one has the only reference to the bytes object and forgets it. (The one that may be
    kept for recycling is not filled again while this one exists.)
    """

    def __init__(self, bytes message not None):
        self.message = message

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        fill_buffer(buffer, flags, self, PyBytes_AS_STRING(self.message),
                    PyBytes_GET_SIZE(self.message), self.shape,
                    PyBytes_GET_SIZE(self.message) > 1)


@cython.final
@cython.no_gc  # points to its batch, which never points back
@cython.freelist(64)
cdef class View:
    """One message of a batch: read-only, valid until the batch's block ends.

    `view[i]` is a byte as int, `view[a:b]` bytes, `bytes(view)` a copy, `memoryview(view)` and
    `numpy.frombuffer(view, dtype)` look at it in place.
    """

    def __init__(self):
        raise TypeError("views come from the batch of receiver.lease_many()")

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        cdef Py_ssize_t i, start, stop, step
        if self.batch.state != 1:
            raise ValueError("the batch is over")
        if PyLong_CheckExact(index):
            i = PyLong_AsSsize_t(index)
            if 0 <= i < self.size:
                return self.data[i]
        if isinstance(index, slice):
            start, stop, step = index.indices(self.size)
            if step == 1:
                return PyBytes_FromStringAndSize(<const char *>self.data + start,
                                                 max(stop - start, 0))
            return PyBytes_FromStringAndSize(<const char *>self.data, self.size)[index]
        i = index
        if i < 0:
            i += self.size
        if i < 0 or i >= self.size:
            raise IndexError("view index out of range")
        return self.data[i]

    def __bytes__(self):
        if self.batch.state != 1:
            raise ValueError("the batch is over")
        return PyBytes_FromStringAndSize(<const char *>self.data, self.size)

    def __eq__(self, other):
        if self.batch.state != 1:
            raise ValueError("the batch is over")
        if isinstance(other, View):
            return (self.size == (<View>other).size and
                    memcmp(self.data, (<View>other).data, self.size) == 0)
        return memoryview(self) == other

    __hash__ = None

    def __repr__(self):
        return f"<View of {self.size} bytes{' (over)' if self.batch.state != 1 else ''}>"

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if self.batch.state != 1:
            raise ValueError("the batch is over")
        fill_buffer(buffer, flags, self, self.data, self.size, self.shape, False)
        self.batch.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.batch.count_down()


cdef inline View view_of(Batch batch, Py_ssize_t index):
    cdef View view = View.__new__(View)
    view.batch = batch
    view.data = <const uint8_t *>batch.messages[index].iov_base
    view.size = batch.messages[index].iov_len
    return view


@cython.final
@cython.no_gc
cdef class BatchIterator:
    """Without it, Python would index, with a number object for each view."""

    def __iter__(self):
        return self

    def __next__(self):
        if self.batch.state != 1:
            raise ValueError("the batch is over")
        if self.next >= self.batch.count:
            raise StopIteration
        self.next += 1
        return view_of(self.batch, self.next - 1)


@cython.final
cdef class Batch(Holder):
    """Messages in place; made by Receiver.lease_many(). A sequence of View."""

    def __init__(self, Endpoint end, Py_ssize_t limit, timeout_s):
        self.end = end
        self.limit = limit
        self.timeout_s = timeout_s

    def __enter__(self):
        cdef nr_message message
        cdef int result
        enter_once(self)
        self.messages = <iovec *>PyMem_Malloc(self.limit * sizeof(iovec))
        if self.messages == NULL:
            raise MemoryError
        if self.end.borrowed == 2:
            self.owner = self.end.take_pending()
        else:
            next_message(self.end, &message, self.timeout_s)
            if message.owner != NULL:
                if message.fd_count:
                    nr_endpoint_take_fds(self.end.core, message.fd_count, NULL, 0)
                self.owner = <object><PyObject *>message.owner
                Py_DECREF(self.owner)
        if self.owner is not None:
            self.messages[0].iov_base = PyBytes_AS_STRING(self.owner)
            self.messages[0].iov_len = PyBytes_GET_SIZE(self.owner)
            self.count = 1
        else:
            self.keep_memory()
            while True:
                if message.fd_count:
                    nr_endpoint_take_fds(self.end.core, message.fd_count, NULL, 0)
                self.messages[self.count].iov_base = <void *>message.data
                self.messages[self.count].iov_len = message.size
                self.count += 1
                if self.count == self.limit:
                    break
                result = nr_endpoint_receive(self.end.core, &message)
                if result != 1:
                    break  # nothing more, or an end that the next call reports
                if message.owner != NULL:  # too large to lie in place: keep it for the next call
                    self.end.keep_pending(<object><PyObject *>message.owner, message.fd_count)
                    Py_DECREF(<object><PyObject *>message.owner)
                    break
        self.end.borrowed = 1
        self.state = 1
        return self

    def __exit__(self, kind, value, traceback):
        self.leave(kind is not None)

    cdef void give_back(self) noexcept:
        end_borrowing(self)

    def __dealloc__(self):
        PyMem_Free(self.messages)
        self.messages = NULL

    def __len__(self):
        return self.count

    def __getitem__(self, Py_ssize_t index):
        if self.state != 1:
            raise ValueError("the batch is over")
        if index < 0:
            index += self.count
        if index < 0 or index >= self.count:
            raise IndexError("batch index out of range")
        return view_of(self, index)

    def __iter__(self):
        cdef BatchIterator iterator = BatchIterator.__new__(BatchIterator)
        iterator.batch = self
        return iterator

    def array(self, dtype="u1"):
        """All messages as one read-only numpy array, without a copy.

        Args:
            dtype: of the items; its itemsize divides the size of the messages.

        Returns: shape (messages, size_bytes / itemsize), strided over the ring.
        Raises: ValueError when the messages differ in size; ImportError without numpy
        (`naru-ipc[arrays]`).
        """
        cdef Py_ssize_t size, stride, i
        cdef const uint8_t *first
        if self.state != 1:
            raise ValueError("the batch is over")
        try:
            import numpy
        except ImportError as error:
            raise ImportError(
                "batch.array() needs numpy: pip install 'naru-ipc[arrays]'") from error
        first = <const uint8_t *>self.messages[0].iov_base
        size = self.messages[0].iov_len
        stride = size
        if self.count > 1:
            stride = <const uint8_t *>self.messages[1].iov_base - first
        for i in range(1, self.count):
            if <Py_ssize_t>self.messages[i].iov_len != size or \
                    <const uint8_t *>self.messages[i].iov_base != first + i * stride:
                raise ValueError("batch.array() needs messages of one size")
        dtype = numpy.dtype(dtype)
        if dtype.hasobject:
            raise ValueError("batch.array(): a dtype with objects cannot be shared")
        if size == 0 or size % dtype.itemsize:
            raise ValueError(f"batch.array(): {size} bytes are not a whole number of {dtype}")
        # frombuffer() keeps the buffer for as long as an array is alive; ndarray(buffer=) gives it
        # back at once, and the batch would not know of the array.
        return numpy.ndarray((self.count, size // dtype.itemsize), dtype,
                             numpy.frombuffer(self, "u1"), 0, (stride, dtype.itemsize))

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        cdef iovec *last
        cdef const uint8_t *first
        if self.state != 1:
            raise ValueError("the batch is over")
        first = <const uint8_t *>self.messages[0].iov_base
        last = &self.messages[self.count - 1]
        fill_buffer(buffer, flags, self, first,
                    <const uint8_t *>last.iov_base + last.iov_len - first, self.shape, False)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.count_down()


@cython.final
cdef class Reservation(Holder):
    """Room for one message; made by Sender.reserve()."""

    def __init__(self, Endpoint end, Py_ssize_t size, timeout_s):
        self.end = end
        self.size = size
        self.sent = size
        self.timeout_s = timeout_s

    @property
    def _address(self):
        """Of the place, for who aligns something in it. Only between entering and leaving."""
        return <size_t>self.data

    def _cut(self, Py_ssize_t size_bytes):
        """The message is only so long; what the place has behind it is not sent."""
        if not 0 <= size_bytes <= self.size:
            raise ValueError(f"the place has {self.size} bytes, not {size_bytes}")
        self.sent = size_bytes

    def __enter__(self):
        enter_once(self)
        self.in_place = reserve_place(self.end, self.size, self.timeout_s, &self.data)
        if self.in_place:
            self.keep_memory()
            self.end.reserved = 1
        else:
            self.private = bytearray(self.size)
            self.data = <uint8_t *>PyByteArray_AS_STRING(self.private)
        self.state = 1
        self.view = memoryview(self)
        return self.view

    def __exit__(self, kind, value, traceback):
        cdef int result
        if self.state != 1:
            return
        if kind is None:
            try:
                self.view.release()
            except BufferError:
                pass  # an array looks through it: `exports` counts that
        if kind is not None or self.exports:
            self.leave(kind is not None)
            return
        self.view = None
        if self.in_place:  # nobody can write to it any more: the message is final
            self.state = 2
            result = nr_endpoint_commit(self.end.core, self.sent)
            self.give_back()
            if result < 0:
                self.end.fail(result, "reserve")
        else:
            self.state = 3
            self.end.send(memoryview(self.private)[:self.sent], self.timeout_s)

    cdef void give_back(self) noexcept:
        if self.state == 3:
            return
        self.state = 3
        if self.segment != NULL:
            nr_segment_release(self.segment)
            self.segment = NULL
        if self.in_place:
            self.end.reserved = 0

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if self.state != 1:
            raise ValueError("the reservation is over")
        fill_buffer(buffer, flags, self, self.data, self.size, self.shape, True)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.count_down()


cdef Reservation place_of(Endpoint end, uint8_t *data, Py_ssize_t size):
    """A view of what take_place() gave; the one who called that ends it, too."""
    cdef Reservation place = Reservation(end, size, None)
    place.data = data
    place.keep_memory()
    place.state = 1
    return place
