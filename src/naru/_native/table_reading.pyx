# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Reading a shared cache: no Python frame between `cache.get` and the table in native/memory.

Holds: Readable. Must not know: how values are unpacked (a callable does that), where names live.
Joins: table.pyx's Table inherits from it and adds the verbs that write.

The GIL is kept for what is short: a value is copied without it above LARGE.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_Clear
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8

from naru import errors
from naru._native.table_file import error_of

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *)
    object PyLong_FromString(const char *, char **, int)

cdef enum:
    BATCH = 32             # keys whose buckets are fetched together
    CHECK_EVERY = 1024     # keys in one call between two looks at signals


cdef struct Fetch:
    PyObject *made         # bytes
    PyThreadState *given   # the GIL, while a large value is copied


cdef uint8_t *place(void *context, uint64_t size) noexcept:
    """Called by the table with the GIL, unless the last call of this same fetch gave it up."""
    cdef Fetch *fetch = <Fetch *>context
    if fetch.given != NULL:
        PyEval_RestoreThread(fetch.given)
        fetch.given = NULL
    Py_XDECREF(fetch.made)
    fetch.made = _new_bytes(NULL, size)
    if fetch.made == NULL:
        PyErr_Clear()
        return NULL
    if size > LARGE:
        fetch.given = PyEval_SaveThread()
    return _bytes_at(fetch.made)

cdef extern from *:
    """
    #define naru_new_bytes(text, size) PyBytes_FromStringAndSize((text), (Py_ssize_t)(size))
    #define naru_bytes_at(object) ((uint8_t *)PyBytes_AS_STRING(object))
    """
    PyObject *_new_bytes "naru_new_bytes"(const char *, uint64_t)
    uint8_t *_bytes_at "naru_bytes_at"(PyObject *)
    object _taken "(PyObject *)"(PyObject *)  # with the reference
    dict _presized_dict "__Pyx_PyDict_NewPresized"(Py_ssize_t)  # Cython's, of every CPython


cdef inline int fetch_value(nr_table *table, const nr_key *key, Fetch *fetch, nr_entry *entry):
    cdef int result
    fetch.made = NULL
    fetch.given = NULL
    result = nr_table_get_with(table, key, place, fetch, entry)
    if fetch.given != NULL:
        PyEval_RestoreThread(fetch.given)
    if result < 0:
        Py_XDECREF(fetch.made)
    return result


cdef class Readable:
    """A table, the generations that follow it, and how its values are unpacked.

    Args:
        mapping: as create() or attach() gave it.
        address: what errors call it.
        unpacker: called with a kind and bytes; gives the value.
    """
    def __init__(self, Mapping mapping not None, *, object address, object unpacker):
        self.mapping = mapping
        self.address = address
        self.unpacker = unpacker

    # ---- generations ----

    cdef Mapping current(self):
        if self.mapping is None:
            raise errors.ClosedError(f'cache "{self.address}": closed on this side', operation="cache",
                                     address=self.address)
        if nr_table_successor(self.mapping.table) != 0:
            self.step_on()
        return self.mapping

    cdef int step_on(self) except -1:
        """To the generation that took this one's place."""
        cdef Mapping old = self.mapping
        cdef Mapping new = self._open_successor()
        if self.mapping is old:
            self.mapping = new
        return 0

    def _open_successor(self):
        """A Mapping of what stands under the name now. Raises NoSuchNameError: it was dropped."""
        raise error_of(-ESTALE, "cache", self.address)

    def _close(self):
        self.mapping = None

    @property
    def closed(self):
        """True after close()."""
        return self.mapping is None

    @property
    def _mapping(self):
        return self.current()

    def _shift_clock(self, int64_t ms):
        """For tests: time goes on by so much, for this handle, until the cache is resized."""
        nr_table_shift_clock(self.current().table, ms)

    # ---- reading ----

    def get(self, object key, object default=None):
        """The value of a key.

        Args:
            key: str (as UTF-8) or bytes, up to 65,535 bytes.
            default: What is given when it is not there.

        Returns:
            bytes, str or int as they were set, or what the cache's codec made of anything else.

        Raises:
            ProtocolError: the value was packed by a codec that this cache was not opened with.
            ClosedError, TypeError, TooBigError.

        Takes no lock, and releases the GIL above 64 KiB.
        """
        cdef Mapping mapping = self.current()
        cdef nr_key found
        cdef nr_entry entry
        cdef Fetch fetch
        key_of(mapping.table, key, &found)
        cdef int result = fetch_value(mapping.table, &found, &fetch, &entry)
        if result < 0:
            if result == -ENOENT:
                return default
            self.failed(result, "cache.get")
        value = _taken(fetch.made)
        if entry.kind == NR_KIND_BYTES:
            return value
        return self.loaded(value, &entry)

    cdef object loaded(self, object value, const nr_entry *entry):
        if entry.kind == NR_KIND_TEXT:
            return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), NULL)
        if entry.kind == NR_KIND_INTEGER:
            return PyLong_FromString(PyBytes_AS_STRING(value), NULL, 10)
        return self.unpacker(entry.kind, value)

    cdef object key_error(self, object key):
        return KeyError(key)

    def __getitem__(self, object key):
        cdef Mapping mapping = self.current()
        cdef nr_key found
        cdef nr_entry entry
        cdef Fetch fetch
        key_of(mapping.table, key, &found)
        cdef int result = fetch_value(mapping.table, &found, &fetch, &entry)
        if result == -ENOENT:
            raise self.key_error(key)
        if result < 0:
            self.failed(result, "cache.get")
        value = _taken(fetch.made)
        return value if entry.kind == NR_KIND_BYTES else self.loaded(value, &entry)

    def __contains__(self, object key):
        cdef Mapping mapping = self.current()
        cdef nr_key found
        cdef nr_entry entry
        key_of(mapping.table, key, &found)
        cdef int result = nr_table_look(mapping.table, &found, &entry)
        if result < 0 and result != -ENOENT:
            self.failed(result, "cache.get")
        return result >= 0

    def get_many(self, object keys):
        """The values of many keys. In a large cache quicker than one by one: they are fetched together.

        Args:
            keys: any iterable of keys.

        Returns:
            dict: those that are there, under the keys as they were given. Empty: none was.

        Raises: as get().
        """
        cdef tuple asked = tuple(keys)
        cdef Py_ssize_t begin = 0, count = len(asked), at, length
        cdef nr_key[BATCH] batch
        cdef nr_entry entry
        cdef Fetch fetch
        cdef int result
        cdef dict found = _presized_dict(count)
        cdef Mapping mapping = self.current()
        while begin < count:
            length = min(<Py_ssize_t>BATCH, count - begin)
            for at in range(length):
                key_of(mapping.table, asked[begin + at], &batch[at])
            nr_table_prefetch(mapping.table, batch, length)
            for at in range(length):
                result = fetch_value(mapping.table, &batch[at], &fetch, &entry)
                if result == -ENOENT:
                    continue
                if result < 0:
                    self.failed(result, "cache.get_many")
                value = _taken(fetch.made)
                if entry.kind != NR_KIND_BYTES:
                    value = self.loaded(value, &entry)
                found[asked[begin + at]] = value
            begin += length
            if begin % CHECK_EVERY == 0:
                PyErr_CheckSignals()
        return found

    def get_versioned(self, object key):
        """(value, version), for cas(); None when it is not there. Raises as get()."""
        cdef tuple found = self._read(key, None)
        return found[:2] if found[1] else None

    def _read(self, object key, object absent):
        """(value, version, milliseconds left); version 0: not there; -1 left: it does not expire."""
        cdef Mapping mapping = self.current()
        cdef nr_key found
        cdef nr_entry entry
        cdef Fetch fetch
        cdef int64_t left = -1
        key_of(mapping.table, key, &found)
        cdef int result = fetch_value(mapping.table, &found, &fetch, &entry)
        if result == -ENOENT:
            return absent, 0, -1
        if result < 0:
            self.failed(result, "cache.get")
        value = _taken(fetch.made)
        if entry.kind != NR_KIND_BYTES:
            value = self.loaded(value, &entry)
        if entry.expires_ms != 0:
            left = max(0, entry.expires_ms - <int64_t>nr_table_now_ms(mapping.table))
        return value, entry.version, left

    def get_into(self, object key, object buffer):
        """Copies a value into memory of yours: the bytes as they stand, without unpacking.

        Args:
            buffer: writable, contiguous: a bytearray, memoryview, array.

        Returns:
            The size of the value in bytes; None when it is not there.

        Raises:
            TooBigError: the buffer is smaller than the value; nothing is to be believed of it.
        """
        cdef Mapping mapping = self.current()
        cdef nr_key found
        cdef nr_entry entry
        cdef Py_buffer view
        cdef int result
        key_of(mapping.table, key, &found)
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            if view.len > LARGE:
                with nogil:
                    result = nr_table_get(mapping.table, &found, view.buf, view.len, &entry)
            else:
                result = nr_table_get(mapping.table, &found, view.buf, view.len, &entry)
        finally:
            PyBuffer_Release(&view)
        if result == -ENOENT:
            return None
        if result == -ENOBUFS:
            self.failed(result, "cache.get_into", f"{entry.size_bytes} bytes")
        if result < 0:
            self.failed(result, "cache.get_into")
        return entry.size_bytes

    def ttl_s(self, object key):
        """Seconds until a key expires; None when it never does. Raises KeyError: it is not there."""
        cdef Mapping mapping = self.current()
        cdef nr_key found
        cdef nr_entry entry
        key_of(mapping.table, key, &found)
        cdef int result = nr_table_look(mapping.table, &found, &entry)
        if result == -ENOENT:
            raise self.key_error(key)
        if result < 0:
            self.failed(result, "cache.ttl_s")
        if entry.expires_ms == 0:
            return None
        return max(0, entry.expires_ms - <int64_t>nr_table_now_ms(mapping.table)) / 1000

    cdef int failed(self, int result, str operation, str detail=None) except -1:
        raise error_of(result, operation, self.address, detail)
