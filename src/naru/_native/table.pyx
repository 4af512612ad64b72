# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The verbs of a shared cache on one key, or on a list of them: no Python frame between `cache.get` and
the table in native/memory.

Holds: Mapping, Table, the opening of files. Must not know: how values are packed (two callables do
that), where names live, who makes a value.
Joins: naru.cache's classes inherit from Table, so that their quick verbs are these very methods;
tending.pyx has what works on whole tables, and the claims.

The GIL is kept for what is short: a value is copied without it above LARGE, and a shard's lock that
is not free at once is waited for without it. A Mapping outlives its close() for as long as a verb
of another thread is inside.
"""
import errno as errnos
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_Clear
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from cpython.unicode cimport PyUnicode_Check, PyUnicode_CheckExact, PyUnicode_DecodeUTF8
from libc.string cimport memcpy, memset

from naru import errors

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *)
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL
    int PyMemoryView_Check(object)
    int PyByteArray_CheckExact(object)
    object PyLong_FromString(const char *, char **, int)

cdef enum:
    LARGE = 65536          # bytes, above which copying without the GIL is worth giving it up
    BATCH = 32             # keys whose buckets are fetched together
    CHECK_EVERY = 1024     # verbs in one call between two looks at signals

cdef uint64_t SLICE_NS = 250_000_000  # Ctrl-C comes through a wait for a lock at least so often

_SAID = {
    errnos.E2BIG: (errors.TooBigError, "the value is too big", "make the cache larger, or with fewer shards"),
    errnos.EINVAL: (errors.TooBigError, "the key is too long", "65,535 bytes are the most"),
    errnos.ENOBUFS: (errors.TooBigError, "the value is larger than the buffer", "give a larger one"),
    errnos.ETIMEDOUT: (errors.TimedOutError, "timed out", "another process holds the lock of this shard: "
                       "is it stopped? raise lock_timeout_s, or continue or kill it"),
    errnos.ENOSPC: (errors.NoSpaceError, "no space", "ask for less (size_bytes), or free some"),
    errnos.ENOMEM: (errors.NoSpaceError, "no memory", "ask for less (size_bytes), or free some"),
    errnos.EBADMSG: (errors.CorruptedError, "this is no cache of naru, or a damaged one",
                     "remove it, and create it anew"),
    errnos.EPROTONOSUPPORT: (errors.ProtocolError, "another version of naru made this cache",
                             "use the same version everywhere, or remove it and create it anew"),
    errnos.EXDEV: (errors.UnsupportedError, "it is used by processes of another pid namespace",
                   "containers that share a cache have to share their processes' numbers, too"),
    errnos.ENOENT: (errors.NoSuchNameError, "no such cache", "create it, or use open_or_create"),
    errnos.EEXIST: (errors.NameTakenError, "there is one already", "open it, or drop it first"),
    errnos.EDOM: (errors.NaruError, "the value is no integer", "only whole numbers are added to"),
    errnos.ERANGE: (errors.NaruError, "the sum does not fit into 64 bits", ""),
    errnos.EPERM: (errors.NotPermittedError, "it is not held by this owner",
                   "its time was up, or somebody else holds it now"),
}


def error_of(int result, str operation, object address, str detail=None):
    """The error for a negative errno of the table; returned, not raised."""
    number = abs(result)
    if number not in _SAID:
        return errors.from_errno(result, operation, address, detail=detail)
    leaf, said, remedy = _SAID[number]
    name = errnos.errorcode.get(number, number)
    advice = ": ".join(part for part in (detail, remedy) if part)
    text = f'{operation} "{address}": {said} ({name})' + (f"; {advice}" if advice else "")
    return leaf(text, errno=number, operation=operation, address=address)


cdef class Mapping:
    def __dealloc__(self):
        if self.table != NULL:
            nr_table_close(self.table)


def create(int fd, *, uint64_t size_bytes, uint32_t shards=0, uint32_t entry_bytes=0,
           uint32_t small_percent=0, bytes seed=b"", bytes codec=b"", object address=None):
    """Makes a table of an empty file, and maps it. `seed`: 16 bytes; b"": random.

    Raises NoSpaceError, UnsupportedError, ValueError: the settings cannot be.
    """
    cdef nr_table_settings settings
    cdef Mapping made = Mapping.__new__(Mapping)
    cdef int result
    memset(&settings, 0, sizeof(settings))
    settings.size_bytes, settings.shards = size_bytes, shards
    settings.entry_bytes, settings.small_percent = entry_bytes, small_percent
    seed = seed or os.urandom(16)
    if len(seed) != 16 or len(codec) > 15:
        raise ValueError("a seed has 16 bytes, a codec's name at most 15")
    memcpy(settings.seed, PyBytes_AS_STRING(seed), 16)
    memcpy(settings.codec, PyBytes_AS_STRING(codec), len(codec))
    with nogil:
        result = nr_table_create(fd, &settings, &made.table)
    if result == -EINVAL:
        raise ValueError(f"a cache of {size_bytes} bytes in {shards} shards cannot be: at least 1 MiB a "
                         "shard, and a power of two of them, 1 to 1024")
    if result < 0:
        raise error_of(result, "cache.create", address)
    return made


def attach(int fd, *, object address=None):
    """Maps the table in a file. Raises CorruptedError, ProtocolError: it is none, or of another layout."""
    cdef Mapping made = Mapping.__new__(Mapping)
    cdef int result
    with nogil:
        result = nr_table_open(fd, &made.table)
    if result < 0:
        raise error_of(result, "cache.open", address)
    return made


cdef int key_of(const nr_table *table, object key, nr_key *found) except -1:
    cdef const char *text
    cdef Py_ssize_t size
    if PyUnicode_Check(key):
        text = PyUnicode_AsUTF8AndSize(key, &size)
    elif PyBytes_Check(key):
        text = PyBytes_AS_STRING(key)
        size = PyBytes_GET_SIZE(key)
    else:
        raise TypeError(f"a key is str or bytes, not {type(key).__name__}")
    if <size_t>size > NR_TABLE_KEY_MOST:
        raise errors.TooBigError(f"a key of {size} bytes: 65,535 are the most")
    found[0] = nr_table_key(table, text, size)
    return 0


cdef int64_t expiry_of(const nr_table *table, object ttl_s) except? -1:
    """On the table's clock; never before the next millisecond, so that it is at least there."""
    cdef double seconds
    if ttl_s is None:
        return 0
    seconds = ttl_s
    if not 0 < seconds:
        raise ValueError(f"ttl_s must be above 0 seconds, not {ttl_s!r}; delete() forgets at once")
    if seconds > 1e9:
        return 0
    return <int64_t>nr_table_now_ms(table) + max(1, <int64_t>(seconds * 1000))


cdef uint64_t slice_end(uint64_t deadline_ns) noexcept nogil:
    return min(deadline_ns, nr_os_now_ns() + SLICE_NS)


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


cdef class Tags:
    """Names of tags as the table knows them, for one call."""
    cdef uint64_t[16] marks
    cdef uint32_t count

    cdef int take(self, const nr_table *table, object names) except -1:
        cdef Py_ssize_t size
        cdef const char *text
        if isinstance(names, (str, bytes)):
            names = (names,)
        for name in names:
            if self.count == NR_TABLE_TAGS_OF_ONE:
                raise ValueError("an entry has at most 16 tags")
            if isinstance(name, bytes):
                text = PyBytes_AS_STRING(name)
                size = PyBytes_GET_SIZE(name)
            elif isinstance(name, str):
                text = PyUnicode_AsUTF8AndSize(name, &size)
            else:
                raise TypeError(f"a tag is str or bytes, not {type(name).__name__}")
            self.marks[self.count] = nr_table_tag(table, text, size)
            self.count += 1
        return 0


cdef class Table:
    """A table and how its values are packed; naru.Cache is one.

    Args:
        mapping: as create() or attach() gave it.
        address: what errors call it.
        lock_timeout_s: how long a writer waits for a shard's lock at most; None: for ever.
        packer: called with a value that is no bytes, str or int; gives (kind, head, body): bytes that
            stand before a buffer.
        unpacker: called with a kind and bytes; gives the value.
    """
    def __init__(self, Mapping mapping not None, *, object address, object lock_timeout_s, object packer,
                 object unpacker):
        self.mapping = mapping
        self.address = address
        self.lock_timeout_ns = NR_FOREVER
        if lock_timeout_s is not None:
            if not 0 <= lock_timeout_s <= 1e9:
                raise ValueError(f"lock_timeout_s must be 0 to 1e9 seconds or None, not {lock_timeout_s!r}")
            self.lock_timeout_ns = <uint64_t>(lock_timeout_s * 1e9)
        self.packer, self.unpacker = packer, unpacker

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
        """The values of many keys; quicker than one by one, because their places are fetched together.

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

    # ---- writing ----

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

        Returns: the sum.

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

    cdef int failed(self, int result, str operation, str detail=None) except -1:
        raise error_of(result, operation, self.address, detail)
