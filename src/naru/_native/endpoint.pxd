# What the sibling extension modules may use of an endpoint.
from naru._native.core cimport nr_direction, nr_endpoint, uint64_t

cdef extern from "recycling.h":
    cdef struct nr_recycled:
        pass
    object nr_recycle_bytes(nr_recycled *, const void *data, Py_ssize_t size)
    void nr_recycle_clear(nr_recycled *)

cdef uint64_t deadline_of(object timeout_s) except? 0

cdef class Endpoint:
    cdef nr_endpoint *core
    cdef readonly object address
    cdef readonly object peer
    cdef readonly double heartbeat_s   # agreed with the peer; 0 = none
    cdef object place          # what else must be closed with the endpoint: a name, a door
    cdef object door           # a receiver's: accepts senders
    cdef object recipe         # of an end of a pair: how it is pickled
    cdef object pending        # bytes that came but did not fit the caller's buffer
    cdef unsigned pending_fds  # descriptors of theirs, the oldest that wait in the core
    cdef int borrowed          # a lease is open (1), bytes are pending (2), a loss is (3)
    cdef int reserved          # a reservation is open
    cdef bint receives
    cdef bint looped           # an event loop waits for it, and pushes out its rests
    cdef bint hurried          # close() waits for nothing any more: naru.aio has done that
    cdef nr_recycled recycled
    cdef object __weakref__

    cdef int check_receivable(self) except -1
    cdef int fail(self, int error, str operation, str detail=*) except -1
    cdef int wait(self, nr_direction direction, uint64_t deadline_ns, str operation) except -1
    cdef int hold(self, nr_direction direction, uint64_t deadline_ns, str operation) except -1
    cdef void end_lease(self) noexcept
    cdef object take_pending(self)
    cdef int keep_pending(self, object message, unsigned fds) except -1
