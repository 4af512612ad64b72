# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""A shared cache's file, mapped; and what every verb needs of it: keys, expiry, tags, errors.

Holds: Mapping, create, attach, Tags, error_of. Must not know: values, names of files.
Joins: table_reading.pyx, table.pyx and tending.pyx have the verbs. A Mapping outlives its handle's close() for
as long as a verb of another thread is inside.
"""
import errno as errnos
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_Check
from libc.string cimport memcpy, memset

from naru import errors

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


cdef class Tags:
    """Names of tags as the table knows them, for one call."""
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
