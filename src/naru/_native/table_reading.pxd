from naru._native.table_file cimport *


cdef class Readable:
    cdef Mapping mapping
    cdef readonly object address
    cdef object unpacker

    cdef Mapping current(self)
    cdef int step_on(self) except -1
    cdef object loaded(self, object value, const nr_entry *entry)
    cdef object key_error(self, object key)
    cdef int failed(self, int result, str operation, str detail=*) except -1
