# Messages in place: see views.pyx.
from libc.stdint cimport uint8_t
from naru._native.core cimport iovec, nr_segment
from naru._native.endpoint cimport Endpoint

cdef class Holder:
    cdef Endpoint end
    cdef object timeout_s
    cdef object owner          # a bytes object, when the message is not in place
    cdef object view           # the memoryview that was handed out
    cdef nr_segment *segment   # kept mapped while anything points into it
    cdef Py_ssize_t exports    # buffers of it that are alive
    cdef int state             # 0 new, 1 entered, 2 left, 3 given back

    cdef int keep_memory(self) except -1
    cdef int leave(self, bint failing) except -1
    cdef void give_back(self) noexcept
    cdef void count_down(self) noexcept


cdef class Lease(Holder):
    cdef bint writable
    cdef const uint8_t *data
    cdef Py_ssize_t size
    cdef Py_ssize_t shape[1]


cdef class Batch(Holder):
    cdef Py_ssize_t limit
    cdef iovec *messages
    cdef Py_ssize_t count
    cdef Py_ssize_t shape[1]


cdef class Owned:
    cdef bytes message
    cdef Py_ssize_t shape[1]


cdef class View:
    cdef Batch batch
    cdef const uint8_t *data
    cdef Py_ssize_t size
    cdef Py_ssize_t shape[1]


cdef class BatchIterator:
    cdef Batch batch
    cdef Py_ssize_t next


cdef class Reservation(Holder):
    cdef Py_ssize_t size
    cdef Py_ssize_t sent       # of these, what is the message: see _cut()
    cdef uint8_t *data
    cdef bint in_place
    cdef object private
    cdef Py_ssize_t shape[1]


cdef Reservation place_of(Endpoint end, uint8_t *data, Py_ssize_t size)
