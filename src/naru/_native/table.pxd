from naru._native.table_file cimport *
from naru._native.table_reading cimport Readable


cdef class Table(Readable):
    cdef uint64_t lock_timeout_ns
    cdef object packer

    cdef bint put_bytes(self, object key, object value) except -1
    cdef int put(self, object key, object value, object ttl_s, object tags, nr_condition condition,
                 uint64_t version, nr_entry *written) except 1
    cdef int store(self, Mapping mapping, const nr_key *key, const nr_change *change, size_t size,
                   nr_entry *written) except 1
    cdef uint64_t deadline(self) noexcept
    cdef bint remove(self, object key, uint64_t version) except -1
    cdef bint settled(self, int result, uint64_t *deadline_ns) except -1
