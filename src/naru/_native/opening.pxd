# What the sibling modules use of opening.pyx.
from naru._native.core cimport nr_endpoint, nr_settings

cdef int fill_settings(nr_settings *out, object settings) except -1
cdef object adopt(type cls, nr_endpoint *core, object address, object peer, object place,
                  unsigned int heartbeat_ms=*)
cdef int check(int result, str operation, object address) except -1
