# The slow half of the verbs: see waiting.pyx.
from naru._native.core cimport iovec, nr_message, nr_outgoing, uint8_t, uint32_t
from naru._native.endpoint cimport Endpoint

cdef int finish_send(Endpoint end, nr_outgoing *out, object timeout_s, int result) except -1
cdef int finish_rest(Endpoint end, object timeout_s) except -1
cdef int push_later(Endpoint end) except -1
cdef bint push_rest(Endpoint end, double slice_s) except -1
cdef int raise_send_error(Endpoint end, int error, size_t size) except -1
cdef int send_parts_of(Endpoint end, const iovec *parts, int count, size_t size, object timeout_s,
                       uint32_t priority) except -1
cdef int send_batch(Endpoint end, const iovec *messages, int count, object timeout_s,
                    Py_ssize_t *sent) except -1
cdef int reserve_place(Endpoint end, size_t size, object timeout_s, uint8_t **data) except -1
cdef int take_place(Endpoint end, size_t size, object timeout_s, uint8_t **data) except -1
cdef int fill_place(Endpoint end, size_t size) except -1
cdef int step_door(Endpoint end) except -1
cdef int finish_receive(Endpoint end, nr_message *message, object timeout_s, int result,
                        bint quiet) except -1
cdef int next_message(Endpoint end, nr_message *message, object timeout_s) except -1
