# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Changing a shared cache, one key after the other: no Python frame between `cache.set` and the table in
native/memory.

Holds: Table. Must not know: how values are packed (a callable does that), where names live, who makes a
value.
Joins: naru.cache's classes inherit from Table, so that their quick verbs are these very methods;
tending.pyx has what works on whole tables, and the claims.

The GIL is kept for what is short: a value above LARGE is copied without it, and a shard's lock that is not
free at once is waited for without it.
"""
import errno as errnos

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_CheckExact
from cpython.unicode cimport PyUnicode_CheckExact

cdef extern from "Python.h":
    int PyMemoryView_Check(object)
    int PyByteArray_CheckExact(object)

cdef enum:
    CHECK_EVERY = 1024     # keys in one call between two looks at signals


cdef class Table(Readable):
    """A table and how its values are packed; naru.Cache is one.

    Args:
        mapping, address, unpacker: as Readable.
        lock_timeout_s: how long a writer waits for a shard's lock at most; None: for ever.
        packer: called with a value that is no bytes, str or int; gives (kind, head, body): bytes that
            stand before a buffer.
    """
    def __init__(self, Mapping mapping not None, *, object address, object lock_timeout_s, object packer,
                 object unpacker):
        Readable.__init__(self, mapping, address=address, unpacker=unpacker)
        self.lock_timeout_ns = NR_FOREVER
        if lock_timeout_s is not None:
            if not 0 <= lock_timeout_s <= 1e9:
                raise ValueError(f"lock_timeout_s must be 0 to 1e9 seconds or None, not {lock_timeout_s!r}")
            self.lock_timeout_ns = <uint64_t>(lock_timeout_s * 1e9)
        self.packer = packer

    def set(self, object key, object value, ttl_s=None, tags=None):
        """Stores a value, whatever was there.

        Args:
            key: str (as UTF-8) or bytes, up to 65,535 bytes.
            value: bytes, bytearray, memoryview, str and int are stored as they are; anything else is
                packed by the cache's codec.
            ttl_s: seconds until it expires, above 0; None, or later than 17 years after the cache was
                made: never (it may be evicted when room is wanted).
            tags: up to 16 names, str or bytes; evict_tag() forgets all that bear one.

        Raises:
            TooBigError: larger than a shard can hold, or the key is.
            TimedOutError: another process kept the shard's lock for lock_timeout_s.
            TypeError: the codec cannot pack it.
            ClosedError, ValueError.

        Keeps the GIL unless it has to wait, or the value is above 64 KiB.
        """
        if ttl_s is not None or tags is not None or not self.put_bytes(key, value):
            self.put(key, value, ttl_s, tags, NR_ALWAYS, 0, NULL)

    def __setitem__(self, object key, object value):
        if not self.put_bytes(key, value):
            self.put(key, value, None, None, NR_ALWAYS, 0, NULL)

    def add(self, object key, object value, ttl_s=None, tags=None):
        """As set(), only if it is not there. Returns whether it was stored."""
        return self.put(key, value, ttl_s, tags, NR_IF_ABSENT, 0, NULL) == 0

    def replace(self, object key, object value, ttl_s=None, tags=None):
        """As set(), only if it is there. Returns whether it was stored."""
        return self.put(key, value, ttl_s, tags, NR_IF_PRESENT, 0, NULL) == 0

    def cas(self, object key, object value, uint64_t version, ttl_s=None, tags=None):
        """As set(), only if the key still has the version that get_versioned() gave.

        Returns: whether it was stored; False: it was changed, or is gone.
        """
        return self.put(key, value, ttl_s, tags, NR_IF_VERSION, version, NULL) == 0

    def set_many(self, object items, ttl_s=None, tags=None):
        """Stores many values, each by itself.

        Args:
            items: a mapping, or pairs of key and value.
            ttl_s, tags: of each, as set().

        Raises: as set(); those before the one that failed are stored.
        """
        cdef Py_ssize_t done = 0
        pairs = items.items() if hasattr(items, "items") else items
        for key, value in pairs:
            self.put(key, value, ttl_s, tags, NR_ALWAYS, 0, NULL)
            done += 1
            if done % CHECK_EVERY == 0:
                PyErr_CheckSignals()

    cdef bint put_bytes(self, object key, object value) except -1:
        """What most calls are, straight to the table; False: put() has to do it, or to say what is wrong."""
        cdef iovec part
        cdef nr_change change
        cdef nr_key found
        cdef Mapping mapping
        if not PyBytes_CheckExact(value) or PyBytes_GET_SIZE(value) > LARGE:
            return False
        mapping = self.current()
        key_of(mapping.table, key, &found)
        part.iov_base = PyBytes_AS_STRING(value)
        part.iov_len = PyBytes_GET_SIZE(value)
        change.parts = &part
        change.count = 1
        change.kind = NR_KIND_BYTES
        change.condition = NR_ALWAYS
        change.expires_ms = 0
        change.tags = NULL
        change.tag_count = 0
        return nr_table_set(mapping.table, &found, &change, 0, NULL) == 0

    cdef int put(self, object key, object value, object ttl_s, object tags, nr_condition condition,
                 uint64_t version, nr_entry *written) except 1:
        """0, or what a condition said: -EEXIST, -ENOENT, -EAGAIN."""
        cdef iovec[2] parts
        cdef nr_change change
        cdef nr_key found
        cdef Py_buffer view
        cdef Py_ssize_t size
        cdef int result = -ESTALE
        cdef Mapping mapping = self.current()
        cdef object head = None, body = None, kept = value
        cdef Tags marks
        change.parts = parts
        change.count = 1
        change.condition = condition
        change.version = version
        change.tags = NULL
        change.tag_count = 0
        if PyBytes_CheckExact(value):
            change.kind = NR_KIND_BYTES
            parts[0].iov_base = PyBytes_AS_STRING(value)
            parts[0].iov_len = PyBytes_GET_SIZE(value)
        elif PyUnicode_CheckExact(value):
            change.kind = NR_KIND_TEXT
            parts[0].iov_base = <void *>PyUnicode_AsUTF8AndSize(value, &size)
            parts[0].iov_len = size
        elif PyLong_CheckExact(value):
            change.kind = NR_KIND_INTEGER
            kept = str(value).encode("ascii")
            parts[0].iov_base = PyBytes_AS_STRING(kept)
            parts[0].iov_len = PyBytes_GET_SIZE(kept)
        elif PyByteArray_CheckExact(value) or PyMemoryView_Check(value):
            change.kind = NR_KIND_BYTES
            body = value
        else:
            kind, head, body = self.packer(value)
            change.kind = kind
            parts[0].iov_base = PyBytes_AS_STRING(head)
            parts[0].iov_len = PyBytes_GET_SIZE(head)
        if body is not None:
            PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
            if head is not None:
                change.count = 2
            parts[change.count - 1].iov_base = view.buf
            parts[change.count - 1].iov_len = view.len
        try:
            size = parts[0].iov_len + (parts[1].iov_len if change.count == 2 else 0)
            while result == -ESTALE:
                mapping = self.current()
                key_of(mapping.table, key, &found)
                change.expires_ms = 0 if ttl_s is None else expiry_of(mapping.table, ttl_s)
                if tags is not None:
                    marks = Tags()
                    marks.take(mapping.table, tags)
                    change.tags = marks.marks
                    change.tag_count = marks.count
                result = self.store(mapping, &found, &change, size, written)
        finally:
            if body is not None:
                PyBuffer_Release(&view)
        if result >= 0:
            return 0
        if condition != NR_ALWAYS and (result == -EEXIST or result == -ENOENT or result == -EAGAIN):
            return result
        self.failed(result, "cache.set", f"{size} bytes, the most is {nr_table_value_most(mapping.table)}"
                    if result == -errnos.E2BIG else None)
        return result

    cdef int store(self, Mapping mapping, const nr_key *key, const nr_change *change, size_t size,
                   nr_entry *written) except 1:
        cdef nr_table *table = mapping.table
        cdef uint64_t deadline_ns
        cdef int result
        if size <= LARGE:
            result = nr_table_set(table, key, change, 0, written)
            if result != -ETIMEDOUT:
                return result
        deadline_ns = self.deadline()
        while True:
            with nogil:
                result = nr_table_set(table, key, change, slice_end(deadline_ns), written)
            if result != -ETIMEDOUT or nr_os_now_ns() >= deadline_ns:
                return result
            PyErr_CheckSignals()

    cdef uint64_t deadline(self) noexcept:
        if self.lock_timeout_ns == NR_FOREVER:
            return NR_FOREVER
        return nr_os_now_ns() + self.lock_timeout_ns

    def delete(self, object key):
        """Forgets a key. Returns whether it was there. Raises TimedOutError, ClosedError."""
        return self.remove(key, 0)

    def __delitem__(self, object key):
        if not self.remove(key, 0):
            raise self.key_error(key)

    def delete_many(self, object keys):
        """Forgets many keys. Returns how many of them were there."""
        cdef uint64_t count = 0
        for key in tuple(keys):
            count += self.remove(key, 0)
        return count

    def _remove_version(self, object key, uint64_t version):
        """As delete(), only if it still has this version."""
        return self.remove(key, version)

    cdef bint remove(self, object key, uint64_t version) except -1:
        """`version`: only if it still is of this version; 0: whatever it is."""
        cdef nr_key found
        cdef int result = -ESTALE
        cdef uint64_t deadline_ns = 0
        cdef Mapping mapping
        while True:
            mapping = self.current()
            key_of(mapping.table, key, &found)
            with nogil:
                if version:
                    result = nr_table_delete_version(mapping.table, &found, version,
                                                     slice_end(deadline_ns))
                else:
                    result = nr_table_delete(mapping.table, &found, slice_end(deadline_ns))
            if self.settled(result, &deadline_ns):
                break
        if result == -ENOENT or result == -EAGAIN:
            return False
        if result < 0:
            self.failed(result, "cache.delete")
        return True

    cdef bint settled(self, int result, uint64_t *deadline_ns) except -1:
        """False: try again, until *deadline_ns (0: the first try, without waiting)."""
        if result == -ESTALE:
            return False
        if result != -ETIMEDOUT:
            return True
        PyErr_CheckSignals()
        if deadline_ns[0] == 0:
            deadline_ns[0] = self.deadline()
            return False
        return nr_os_now_ns() >= deadline_ns[0]

    def touch(self, object key, ttl_s=None):
        """Lets a key expire ttl_s seconds from now (None: never). Returns whether it is there."""
        cdef nr_key found
        cdef int64_t expires_ms
        cdef int result
        cdef uint64_t deadline_ns = 0
        cdef Mapping mapping
        while True:
            mapping = self.current()
            key_of(mapping.table, key, &found)
            expires_ms = expiry_of(mapping.table, ttl_s)
            with nogil:
                result = nr_table_touch(mapping.table, &found, expires_ms, slice_end(deadline_ns))
            if self.settled(result, &deadline_ns):
                break
        if result < 0 and result != -ENOENT:
            self.failed(result, "cache.touch")
        return result >= 0

    def incr(self, object key, int64_t delta=1, initial=0, ttl_s=None):
        """Adds to an integer, whoever else does so at the same time.

        Args:
            delta: what is added; may be negative. 64 bits.
            initial: what a key that is not there counts as; None: KeyError.
            ttl_s: of a key that is made by this; one that is there keeps its own.

        Returns: the sum. Digits in bytes or str (so a client of Redis writes a number) count, and what stands
        there stays bytes or str.

        Raises:
            KeyError: not there, and initial is None.
            NaruError: the value is no integer, or the sum does not fit into 64 bits (.errno EDOM, ERANGE).
            TimedOutError, ClosedError.
        """
        cdef nr_key found
        cdef int64_t total = 0
        cdef int result
        cdef uint64_t deadline_ns = 0
        cdef Mapping mapping
        if initial is not None and not -2**63 <= initial + delta < 2**63:
            self.failed(-errnos.ERANGE, "cache.incr")
        while True:
            mapping = self.current()
            key_of(mapping.table, key, &found)
            with nogil:
                result = nr_table_add_to(mapping.table, &found, delta, NULL, NR_KEEP_EXPIRY,
                                         slice_end(deadline_ns), &total)
            if result == -ENOENT:
                if initial is None:
                    raise self.key_error(key)
                if self.put(key, initial + delta, ttl_s, None, NR_IF_ABSENT, 0, NULL) == 0:
                    return initial + delta
                continue
            if self.settled(result, &deadline_ns):
                break
        if result < 0:
            self.failed(result, "cache.incr")
        return total

    def decr(self, object key, int64_t delta=1, initial=0, ttl_s=None):
        """As incr(), with the sign turned."""
        return self.incr(key, -delta, initial, ttl_s)

    def pop(self, object key, *default):
        """Forgets a key and gives its value; nobody else gets it, too.

        Args:
            default: given when it is not there; without one that is a KeyError.
        """
        if len(default) > 1:
            raise TypeError(f"pop() takes a key and a default, not {1 + len(default)} arguments")
        while True:
            value, version, _ = self._read(key, None)
            if version == 0:
                if default:
                    return default[0]
                raise self.key_error(key)
            if self.remove(key, version):
                return value

    def evict_tag(self, object tag):
        """Forgets every entry that bears a tag, in constant time."""
        cdef Mapping mapping = self.current()
        cdef Tags marks = Tags()
        marks.take(mapping.table, (tag,))
        nr_table_evict_tag(mapping.table, marks.marks[0])

    def clear(self):
        """Forgets everything. Raises TimedOutError: a shard's lock could not be had; the shards before
        it are empty."""
        cdef int result
        cdef uint64_t deadline_ns = 0
        cdef Mapping mapping
        while True:
            mapping = self.current()
            with nogil:
                result = nr_table_clear(mapping.table, slice_end(deadline_ns))
            if self.settled(result, &deadline_ns):
                break
        if result < 0:
            self.failed(result, "cache.clear")
