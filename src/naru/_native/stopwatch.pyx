# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
"""The engine's wait, timed in C: for `naru bench scaling`. Must not know: services, callables."""
from naru._native.core cimport NR_FOREVER, nr_os_now_ns
from naru._native.loops cimport *
from libc.stdint cimport uint32_t, uint64_t

from naru import errors

cdef extern from "naru/engine.h" nogil:
    ctypedef int (*nr_source_callback)(nr_engine *, nr_source, uint32_t, void *) noexcept nogil
    int nr_engine_dispatch(nr_engine *)
    int nr_source_add(nr_engine *, int fd, uint32_t events, unsigned priority, uint32_t flags,
                      nr_source_callback, void *data, nr_source *source)


cdef int check(int result, str operation) except -1:
    if result < 0:
        raise errors.from_errno(result, operation)
    return result


cdef int do_nothing(nr_engine *engine, nr_source source, uint32_t events, void *data) noexcept nogil:
    return 0


cdef class Stopwatch:
    """One turn of the loop, timed in C: for `naru bench scaling`."""
    cdef nr_engine *core

    def __cinit__(self):
        check(nr_engine_create(NULL, &self.core), "create an engine")

    def __dealloc__(self):
        nr_engine_destroy(self.core)

    def close(self):
        """Gives its descriptors up."""
        nr_engine_destroy(self.core)
        self.core = NULL

    def add(self, int fd):
        """Watches a descriptor, which may be closed here while another process has it open."""
        cdef nr_source source
        check(nr_source_add(self.core, fd, NR_READABLE, NR_PRIORITY_FIRST, 0, do_nothing, NULL,
                            &source), "watch a descriptor")

    def wait_ns(self):
        """Waits until something is ready, runs a callback in C. Returns: how long both took."""
        cdef uint64_t began, ended
        cdef int result
        with nogil:
            began = nr_os_now_ns()
            result = nr_engine_wait(self.core, NR_FOREVER)
            if result > 0:
                result = nr_engine_dispatch(self.core)
            ended = nr_os_now_ns()
        check(result, "wait")
        return ended - began
