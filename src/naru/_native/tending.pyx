# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""What works on a whole shared cache, and the claims: scanning, statistics, checking, copying into the
next generation, locks by name.

Holds: Scan, Claims, and functions over a Mapping or a Table. Must not know: files and their names
(naru.cache), what a value means.
Joins: naru.cache's slow verbs.
"""
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.string cimport memcmp, memset
from posix.unistd cimport getpid

from naru._native.table_file cimport *
from naru._native.table_file import error_of
from naru._native.table cimport Table

cdef extern from "<sys/vfs.h>" nogil:
    cdef struct statfs_t "statfs":
        long f_type
    int statfs(const char *path, statfs_t *)

cdef enum:
    CHECK_EVERY = 1024
    MOST_SHARDS = 1024
    FIRST_SLICE_NS = 250_000_000
    LAST_SLICE_NS = 2_000_000_000

cdef long TMPFS_MAGIC = 0x01021994, RAMFS_MAGIC = 0x858458F6


def is_in_memory(path):
    """Is it in a tmpfs or ramfs? Raises OSError."""
    cdef bytes encoded = os.fsencode(path)
    cdef statfs_t found
    if statfs(encoded, &found) != 0:
        os.stat(path)  # says what is wrong
        raise OSError(f"{path}: statfs failed")
    return found.f_type == TMPFS_MAGIC or found.f_type == RAMFS_MAGIC


def settings_of(Mapping mapping not None):
    """What it was made with: size_bytes, shards, entry_bytes, small_percent, seed, codec, value_most_bytes."""
    cdef nr_table_settings found
    nr_table_read_settings(mapping.table, &found)
    codec = (<bytes>found.codec[:16]).split(b"\0")[0].decode("ascii", "replace")
    return {
        "size_bytes": found.size_bytes, "shards": found.shards, "entry_bytes": found.entry_bytes,
        "small_percent": found.small_percent, "seed": <bytes>(<char *>found.seed)[:16], "codec": codec,
        "value_most_bytes": nr_table_value_most(mapping.table),
    }


def statistics_of(Mapping mapping not None, int shard=-1):
    """Counters by their names; -1: of all shards."""
    cdef nr_table_statistics found
    cdef int result = nr_table_read_statistics(mapping.table, shard, &found)
    if result < 0:
        raise error_of(result, "cache.statistics", None)
    return found


def check_shard(Mapping mapping not None, uint32_t shard, bint repair, double timeout_s, address):
    """Every slot and record of a shard against each other. Raises TimedOutError."""
    cdef nr_table_report found
    cdef int result
    cdef uint64_t deadline_ns = nr_os_now_ns() + <uint64_t>(timeout_s * 1e9)
    memset(&found, 0, sizeof(found))
    with nogil:
        result = nr_table_check(mapping.table, shard, repair, deadline_ns, &found)
    if result < 0:
        raise error_of(result, "cache.check", address)
    return found


def retire(Mapping mapping not None, uint64_t number):
    """From now on writers and readers look for a successor."""
    return nr_table_retire(mapping.table, number)


def successor_of(Mapping mapping not None):
    """The number that retire() was given; 0: it is in use."""
    return nr_table_successor(mapping.table)


# ---- going through all entries ----


cdef class Scan:
    """Iterator over the keys of one generation that begin with `prefix`; each is bytes.

    What stays there all the time is given exactly once; what comes or goes meanwhile may be given.
    """
    cdef Mapping mapping
    cdef bytes prefix
    cdef uint8_t *key
    cdef uint32_t key_bytes, shard, shards, since
    cdef uint64_t cursor
    cdef nr_entry entry

    def __cinit__(self, Mapping mapping not None, bytes prefix=b""):
        cdef nr_table_settings settings
        self.mapping, self.prefix = mapping, prefix
        self.key = <uint8_t *>PyMem_Malloc(NR_TABLE_KEY_MOST)
        if self.key == NULL:
            raise MemoryError
        nr_table_read_settings(mapping.table, &settings)
        self.shards = settings.shards

    def __dealloc__(self):
        PyMem_Free(self.key)

    def __iter__(self):
        return self

    cdef bint step(self) except -1:
        cdef int result
        cdef size_t wanted = PyBytes_GET_SIZE(self.prefix)
        while self.shard < self.shards:
            self.since += 1
            if self.since % CHECK_EVERY == 0:
                PyErr_CheckSignals()
            result = nr_table_scan(self.mapping.table, self.shard, &self.cursor, self.key,
                                   &self.key_bytes, &self.entry)
            if result == -ENOENT:
                self.shard += 1
                self.cursor = 0
            elif result < 0:
                raise error_of(result, "cache.scan", None)
            elif (self.key_bytes >= wanted
                  and memcmp(self.key, PyBytes_AS_STRING(self.prefix), wanted) == 0):
                return True
        return False

    def __next__(self):
        if not self.step():
            raise StopIteration
        return PyBytes_FromStringAndSize(<char *>self.key, self.key_bytes)


cdef class Records:
    """Iterator over all entries of a generation, each with all that a snapshot has to know: (key, value, kind, milliseconds left, tags).

    The value is bytes as they stand; -1 left: it does not expire; tags are numbers, the same in every
    table of the same seed.
    """
    cdef Scan scan

    def __cinit__(self, Mapping mapping not None):
        self.scan = Scan(mapping)

    def __iter__(self):
        return self

    def __next__(self):
        cdef Scan scan = self.scan
        cdef nr_table *table = scan.mapping.table
        cdef nr_key key
        cdef nr_entry entry
        cdef uint64_t[16] tags
        cdef int result, count
        cdef int64_t left
        while scan.step():
            key = nr_table_key(table, scan.key, scan.key_bytes)
            size = scan.entry.size_bytes
            while True:
                value = PyBytes_FromStringAndSize(NULL, size)
                result = nr_table_peek(table, &key, PyBytes_AS_STRING(value), size, &entry)
                if result != -ENOBUFS and (result < 0 or entry.size_bytes == size):
                    break
                size = entry.size_bytes
            count = nr_table_read_tags(table, &key, tags)
            if result < 0 or count < 0:
                continue  # gone meanwhile
            left = -1
            if entry.expires_ms:
                left = max(0, entry.expires_ms - <int64_t>nr_table_now_ms(table))
            marks = tuple([tags[i] for i in range(count)])
            return (PyBytes_FromStringAndSize(<char *>scan.key, scan.key_bytes), value, entry.kind, left,
                    marks)
        raise StopIteration


def write_record(Mapping mapping not None, bytes key not None, bytes value not None, uint8_t kind,
                 int64_t left_ms, tuple tags):
    """As Records gave it. Returns False: this table is too small for it. Raises TimedOutError."""
    cdef nr_key found = nr_table_key(mapping.table, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
    cdef iovec part
    cdef uint64_t[16] marks
    cdef nr_change change
    cdef int result
    part.iov_base = PyBytes_AS_STRING(value)
    part.iov_len = PyBytes_GET_SIZE(value)
    for i in range(min(16, len(tags))):
        marks[i] = tags[i]
    change.parts, change.count, change.kind, change.condition = &part, 1, kind, NR_ALWAYS
    change.version = 0
    change.expires_ms = 0 if left_ms < 0 else <int64_t>nr_table_now_ms(mapping.table) + max(1, left_ms)
    change.tags, change.tag_count = marks, min(16, len(tags))
    with nogil:
        result = nr_table_set(mapping.table, &found, &change, NR_FOREVER, NULL)
    if result < 0 and result != -7:  # E2BIG
        raise error_of(result, "cache.restore", None)
    return result >= 0


cdef class AllShards:
    """`with AllShards(mapping, timeout_s, address):` no other writer comes in."""
    cdef Mapping mapping
    cdef uint64_t[16] mask
    cdef bint held
    cdef double timeout_s
    cdef object address

    def __cinit__(self, Mapping mapping not None, double timeout_s, address):
        cdef nr_table_settings settings
        self.mapping, self.timeout_s, self.address = mapping, timeout_s, address
        nr_table_read_settings(mapping.table, &settings)
        memset(self.mask, 0, sizeof(self.mask))
        for shard in range(min(settings.shards, <uint32_t>MOST_SHARDS)):
            self.mask[shard // 64] |= <uint64_t>1 << (shard % 64)

    def __enter__(self):
        cdef int result = self.collect()
        if result == 0:
            self.held = True
            nr_table_say_copied(self.mapping.table, getpid())
            return nr_table_successor(self.mapping.table) == 0
        nr_table_say_over(self.mapping.table, getpid())
        if result == -ESTALE:
            return False
        raise error_of(result, "cache.lock_shards", self.address)

    cdef int collect(self) except 1:
        """0 or -errno. Each try begins anew, so that signals are seen: the next one takes longer."""
        cdef int result
        cdef uint64_t now_ns = nr_os_now_ns(), slice_ns = FIRST_SLICE_NS
        cdef uint64_t deadline_ns = now_ns + <uint64_t>(self.timeout_s * 1e9)
        while True:
            nr_table_say_copied(self.mapping.table, getpid())  # a server's clients wait, and get no errors
            with nogil:
                result = nr_table_lock_shards(self.mapping.table, self.mask,
                                              min(deadline_ns, now_ns + slice_ns))
            now_ns = nr_os_now_ns()
            if result != -ETIMEDOUT or now_ns >= deadline_ns:
                return result
            try:
                PyErr_CheckSignals()
            except BaseException:
                nr_table_say_over(self.mapping.table, getpid())
                raise
            slice_ns = min(2 * slice_ns, <uint64_t>LAST_SLICE_NS)

    def __exit__(self, *error):
        if self.held:
            self.held = False
            nr_table_say_over(self.mapping.table, getpid())
            nr_table_unlock_shards(self.mapping.table, self.mask)


# ---- claims ----


cdef uint32_t own_pid = 0
cdef uint64_t own_started = 0

cdef int be(nr_claim_owner *owner, uint64_t number) except -1:
    """This process; its start is read once (and again in a forked child)."""
    global own_pid, own_started
    cdef uint32_t pid = getpid()
    if pid != own_pid:
        with open("/proc/self/stat", "rb") as file:
            # The name, in parentheses, may hold anything.
            own_started = int(file.read().rpartition(b")")[2].split()[19])
        own_pid = pid
    owner.pid, owner.started, owner.number = pid, own_started, number
    return 0


def claim(Table table not None, key, uint64_t number, object ttl_s=None):
    """True: it is ours now (or was before). False: another owner has it."""
    cdef Mapping mapping
    cdef nr_key found
    cdef nr_claim_owner owner, holder
    cdef int64_t expires_ms
    cdef int result
    cdef uint64_t deadline_ns = 0
    be(&owner, number)
    while True:
        mapping = table.current()
        key_of(mapping.table, key, &found)
        expires_ms = expiry_of(mapping.table, ttl_s)
        with nogil:
            result = nr_table_claim(mapping.table, &found, &owner, expires_ms, slice_end(deadline_ns),
                                    &holder)
        if table.settled(result, &deadline_ns):
            break
    if result < 0:
        table.failed(result, "cache.claim", "4,096 claims are the most" if result == -ENOSPC else None)
    return result == 1


def give_back(Table table not None, key, uint64_t number):
    """True; False: it was not ours any more."""
    cdef Mapping mapping
    cdef nr_key found
    cdef nr_claim_owner owner
    cdef int result
    cdef uint64_t deadline_ns = 0
    be(&owner, number)
    while True:
        mapping = table.current()
        key_of(mapping.table, key, &found)
        with nogil:
            result = nr_table_give_back(mapping.table, &found, &owner, slice_end(deadline_ns))
        if table.settled(result, &deadline_ns):
            break
    if result == -EPERM or result == -ENOENT:
        return False
    if result < 0:
        table.failed(result, "cache.give_back")
    return True


def await_claim(Table table not None, key, double most_s):
    """Sleeps until something happened to the claim or the value, or most_s went by. Ctrl-C comes through."""
    cdef Mapping mapping = table.current()
    cdef nr_key found
    cdef int result
    cdef uint64_t most_ns = <uint64_t>(max(0.0, most_s) * 1e9)
    key_of(mapping.table, key, &found)
    with nogil:
        result = nr_table_await_claim(mapping.table, &found, most_ns)
    PyErr_CheckSignals()
    if result < 0 and result != -EINTR and result != -ETIMEDOUT and result != -ENOENT and result != -EAGAIN:
        table.failed(result, "cache.await")
