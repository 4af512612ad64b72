# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False
"""Windows of a file in memory of our own, and looking through them without copies.

Holds: Window, Lines, Fields, the reading of one window, the counting of a whole file. Must not know:
how a file is opened, or what its end means; naru.files.windows decides.

A file is read, never mapped: the page that a truncated file takes away from a map is a SIGBUS at the
next look, while a read of it is a short read (and reading 1 MiB again and again into the same memory,
which stays in the processor's cache, is also the quicker way: docs/files.md).
"""
import array
import os

from cpython.buffer cimport PyBuffer_FillInfo, PyObject_GetBuffer, PyBuffer_Release, PyBUF_SIMPLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport free
from posix.stdlib cimport posix_memalign
from cpython.memoryview cimport PyMemoryView_FromObject

from naru import errors
from naru._native.files cimport *

cdef size_t FOUND_AT_ONCE = 1024
cdef size_t PAGE_BYTES = 4096


cdef class Memory:
    """A block that windows take turns in."""
    cdef uint8_t *data
    cdef readonly size_t size_bytes

    def __cinit__(self, size_t size_bytes):
        # By pages: the kernel copies into memory that malloc gives (16 bytes behind a page's begin) at
        # a quarter of the rate.
        if posix_memalign(<void **>&self.data, PAGE_BYTES, size_bytes or 1) != 0:
            raise MemoryError
        self.size_bytes = size_bytes

    def __dealloc__(self):
        free(self.data)

    def read_at(self, int fd, uint64_t offset, size_t begin, size_t size):
        """Fills [begin, begin + size) from the file's [offset, ...). Returns bytes; fewer at its end.

        Raises OSError, KeyboardInterrupt.
        """
        cdef size_t got = 0
        cdef Py_ssize_t now
        if begin + size > self.size_bytes:
            raise ValueError("more than this memory holds")
        while got < size:
            with nogil:
                now = nr_os_read_at(fd, self.data + begin + got, size - got, <int64_t>(offset + got))
            if now == 0:
                break
            if now > 0:
                got += now
            elif now == -EINTR:
                PyErr_CheckSignals()
            else:
                raise OSError(<int>-now, os.strerror(<int>-now))
        return got

    def behind_last(self, size_t size, bytes boundary, bint from_left):
        """Where the last record in the first `size` bytes ends; None without a boundary in them."""
        cdef const uint8_t *pattern = <const uint8_t *>PyBytes_AS_STRING(boundary)
        cdef size_t length = PyBytes_GET_SIZE(boundary)
        cdef Py_ssize_t found
        size = min(size, self.size_bytes)
        with nogil:
            if from_left:
                found = nr_scan_behind_last_from_left(self.data, size, pattern, length)
            else:
                found = nr_scan_behind_last(self.data, size, pattern, length)
        return None if found < 0 else found


cdef class Window:
    """A part of a file: whole records, in memory; a buffer (bytes(window), numpy.frombuffer(window)).

    It is released when the next one is taken. A memoryview of it, or an array over it, keeps its
    memory as long as it lives; the object itself then has no bytes any more.
    """
    cdef Memory memory
    cdef size_t size
    cdef Py_ssize_t exports
    cdef readonly uint64_t offset      # of its first byte in the file
    cdef readonly uint64_t number      # 0 is the first one
    cdef object boundary
    cdef bint released

    def __cinit__(self, Memory memory not None, size_t size, uint64_t offset, uint64_t number,
                  bytes boundary):
        self.memory = memory
        self.size = min(size, memory.size_bytes)
        self.offset = offset
        self.number = number
        self.boundary = boundary

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.check()
        PyBuffer_FillInfo(buffer, self, self.memory.data, self.size, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1

    def __len__(self):
        return self.size

    def __bytes__(self):
        self.check()
        return self.memory.data[:self.size]

    def __repr__(self):
        state = "released" if self.released else f"{self.size} bytes"
        return f"<Window {self.number} at {self.offset}: {state}>"

    @property
    def size_bytes(self):
        """How many bytes are in it; 0 once it is released."""
        return self.size

    def release(self):
        """Gives the memory up. Returns True when nobody else looks at it; idempotent."""
        cdef bint alone = self.exports == 0
        if alone:
            self.memory = None  # a view that is left keeps it, through this object
        self.size = 0
        self.released = True
        return alone

    cdef int check(self) except -1:
        if self.released:
            raise errors.ClosedError(
                f"window {self.number} at byte {self.offset} was released when the next one was "
                "taken: copy what you need of it (bytes), or keep a memoryview")
        return 0

    def count(self, bytes pattern=b"\n"):
        """How often `pattern` occurs, without overlaps. Releases the GIL."""
        cdef uint64_t found = 0
        cdef size_t at = 0, length = PyBytes_GET_SIZE(pattern)
        cdef const uint8_t *what = <const uint8_t *>PyBytes_AS_STRING(pattern)
        cdef Py_ssize_t place
        self.check()
        check_pattern(pattern)
        self.exports += 1
        try:
            with nogil:
                if length == 1:
                    found = nr_scan_count(self.memory.data, self.size, what[0])
                else:
                    while True:
                        place = nr_scan_find(self.memory.data, self.size, at, what, length)
                        if place < 0:
                            break
                        found += 1
                        at = place + length
        finally:
            self.exports -= 1
        return found

    def count_lines(self):
        """Newlines in it, as `wc -l` counts; a last line without one is not counted."""
        return self.count(b"\n")

    def find_all(self, bytes pattern):
        """Where `pattern` is, as array('Q') of offsets in the file; no overlaps; empty: nowhere.

        A match must lie inside one window: one that contains the boundary may be cut.
        """
        cdef uint64_t[1024] found
        cdef size_t at = 0, count, length = PyBytes_GET_SIZE(pattern)
        cdef const uint8_t *what = <const uint8_t *>PyBytes_AS_STRING(pattern)
        self.check()
        check_pattern(pattern)
        offsets = array.array("Q")
        self.exports += 1
        try:
            while True:
                with nogil:
                    count = nr_scan_all(self.memory.data, self.size, &at, what, length, found,
                                        FOUND_AT_ONCE)
                    for index in range(count):
                        found[index] += self.offset
                offsets.frombytes((<const char *>found)[:8 * count])
                if count < FOUND_AT_ONCE:
                    return offsets
        finally:
            self.exports -= 1

    def lines(self, *, bint keep_ends=False):
        """Its records as memoryviews, without copies, and without their boundary unless asked for."""
        self.check()
        return Lines(self, self.boundary or b"\n", keep_ends)

    def fields(self, bytes separator=b","):
        """Its records, each a list of memoryviews. No quoting: for csv's quotes use a csv reader."""
        check_pattern(separator)
        self.check()
        return Fields(self, separator)


cdef int check_pattern(bytes pattern) except -1:
    if not pattern:
        raise ValueError("an empty pattern is everywhere: give at least 1 byte")
    return 0


cdef class Lines:
    """Iterator over the records of a window."""
    cdef object view          # keeps the memory
    cdef const uint8_t *data
    cdef size_t size, at
    cdef bytes boundary
    cdef bint keep_ends

    def __cinit__(self, Window window not None, bytes boundary, bint keep_ends):
        self.view = PyMemoryView_FromObject(window)
        self.data = window.memory.data
        self.size = window.size
        self.boundary = boundary
        self.keep_ends = keep_ends

    def __iter__(self):
        return self

    cdef bint step(self, size_t *begin, size_t *end) noexcept:
        cdef size_t length = PyBytes_GET_SIZE(self.boundary)
        cdef Py_ssize_t found
        if self.at >= self.size:
            return False
        found = nr_scan_find(self.data, self.size, self.at,
                             <const uint8_t *>PyBytes_AS_STRING(self.boundary), length)
        begin[0] = self.at
        if found < 0:
            end[0] = self.at = self.size
        else:
            self.at = found + length
            end[0] = self.at if self.keep_ends else <size_t>found
        return True

    def __next__(self):
        cdef size_t begin = 0, end = 0
        if not self.step(&begin, &end):
            raise StopIteration
        return self.view[begin:end]


cdef class Fields:
    """Iterator over the records of a window, each cut at a separator."""
    cdef Lines rows
    cdef bytes separator

    def __cinit__(self, Window window not None, bytes separator):
        self.rows = Lines(window, window.boundary or b"\n", False)
        self.separator = separator

    def __iter__(self):
        return self

    def __next__(self):
        cdef size_t begin = 0, end = 0, length = PyBytes_GET_SIZE(self.separator)
        cdef const uint8_t *what = <const uint8_t *>PyBytes_AS_STRING(self.separator)
        cdef Py_ssize_t found
        cdef list row = []
        if not self.rows.step(&begin, &end):
            raise StopIteration
        while True:
            found = nr_scan_find(self.rows.data, end, begin, what, length)
            if found < 0:
                row.append(self.rows.view[begin:end])
                return row
            row.append(self.rows.view[begin:found])
            begin = found + length


def count_in_file(int fd, uint64_t begin, uint64_t end, int byte, size_t block_bytes, progress=None,
                  size_t step_bytes=1 << 28):
    """Occurrences of a byte in [begin, end) of a file. Returns (count, offset it came to).

    The offset is less than `end` when the file ended before. Releases the GIL; looks at signals and
    calls progress(offset) about every `step_bytes`. Raises OSError.
    """
    cdef uint64_t done = begin, count = 0
    cdef int result
    cdef Memory memory = Memory(block_bytes)
    while True:
        with nogil:
            result = nr_count_file(fd, &done, end, step_bytes, <uint8_t>byte, memory.data, block_bytes,
                                   &count)
        PyErr_CheckSignals()
        if progress is not None:
            progress(done)
        if result == 0 or result == -ENODATA:
            return count, done
        if result < 0 and result != -EINTR:
            raise OSError(-result, os.strerror(-result))
