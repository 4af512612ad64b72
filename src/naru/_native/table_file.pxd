# naru/table.h, and what table_file.pyx has for the verbs.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "<stdbool.h>" nogil:
    ctypedef int bint_c "bool"

cdef extern from "<errno.h>" nogil:
    const int EAGAIN, EEXIST, EINTR, EINVAL, ENOBUFS, ENOENT, ENOMEM, ENOSPC, EPERM, ESTALE, ETIMEDOUT

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "naru/os.h" nogil:
    const uint64_t NR_FOREVER
    uint64_t nr_os_now_ns()

cdef extern from "naru/table.h" nogil:
    const uint32_t NR_TABLE_KEY_MOST, NR_TABLE_TAGS_OF_ONE
    const uint32_t NR_KIND_BYTES, NR_KIND_INTEGER, NR_KIND_TEXT
    const int64_t NR_KEEP_EXPIRY

    cdef struct nr_table:
        pass
    cdef struct nr_table_settings:
        uint64_t size_bytes
        uint32_t shards, entry_bytes, small_percent
        uint64_t[2] seed
        char[16] codec
    cdef struct nr_key:
        const uint8_t *bytes
        uint32_t size
        uint64_t hash
    cdef struct nr_entry:
        uint64_t size_bytes, version
        int64_t expires_ms
        uint8_t kind
        uint32_t tags

    int nr_table_create(int fd, const nr_table_settings *, nr_table **)
    int nr_table_open(int fd, nr_table **)
    void nr_table_close(nr_table *)
    int nr_table_retire(nr_table *, uint64_t successor_number)
    uint64_t nr_table_successor(const nr_table *)
    void nr_table_say_copied(nr_table *, uint32_t pid)
    void nr_table_say_over(nr_table *, uint32_t pid)
    uint64_t nr_table_value_most(const nr_table *)
    uint64_t nr_table_now_ms(const nr_table *)
    void nr_table_shift_clock(nr_table *, int64_t ms)
    void nr_table_read_settings(const nr_table *, nr_table_settings *)
    nr_key nr_table_key(const nr_table *, const void *bytes, size_t size)

    int nr_table_get(nr_table *, const nr_key *, void *into, size_t room, nr_entry *)
    int nr_table_look(nr_table *, const nr_key *, nr_entry *)
    int nr_table_peek(nr_table *, const nr_key *, void *into, size_t room, nr_entry *)
    int nr_table_read_tags(nr_table *, const nr_key *, uint64_t *tags)
    void nr_table_prefetch(const nr_table *, const nr_key *, size_t count)

    cdef enum nr_condition:
        NR_ALWAYS
        NR_IF_ABSENT
        NR_IF_PRESENT
        NR_IF_VERSION
    cdef struct nr_change:
        const iovec *parts
        int count
        uint8_t kind
        nr_condition condition
        uint64_t version
        int64_t expires_ms
        const uint64_t *tags
        uint32_t tag_count

    int nr_table_set(nr_table *, const nr_key *, const nr_change *, uint64_t deadline_ns, nr_entry *)
    int nr_table_delete(nr_table *, const nr_key *, uint64_t deadline_ns)
    int nr_table_delete_version(nr_table *, const nr_key *, uint64_t version, uint64_t deadline_ns)
    int nr_table_touch(nr_table *, const nr_key *, int64_t expires_ms, uint64_t deadline_ns)
    int nr_table_add_to(nr_table *, const nr_key *, int64_t delta, const int64_t *initial,
                        int64_t expires_ms, uint64_t deadline_ns, int64_t *result)
    int nr_table_lock_shards(nr_table *, const uint64_t *mask, uint64_t deadline_ns)
    void nr_table_unlock_shards(nr_table *, const uint64_t *mask)
    uint64_t nr_table_tag(const nr_table *, const void *name, size_t size)
    void nr_table_evict_tag(nr_table *, uint64_t tag)
    int nr_table_clear(nr_table *, uint64_t deadline_ns)
    int nr_table_scan(nr_table *, uint32_t shard, uint64_t *cursor, uint8_t *key, uint32_t *key_bytes,
                      nr_entry *)

    cdef struct nr_table_statistics:
        uint64_t entries, live_bytes, log_bytes, index_slots
        uint64_t hits, misses, sets, deletes
        uint64_t evicted, expired, ghosts_returned, moved_to_main, index_evicted
        uint64_t retries, lock_waits, lock_timeouts, owners_died, rebuilt
        uint64_t last_recovery_ns
    int nr_table_read_statistics(nr_table *, int shard, nr_table_statistics *)
    cdef struct nr_table_report:
        uint64_t entries, records, dead_records, damaged_slots, wrong_sums
    int nr_table_check(nr_table *, uint32_t shard, bint_c repair, uint64_t deadline_ns,
                       nr_table_report *)

    cdef struct nr_claim_owner:
        uint32_t pid
        uint64_t started, number
    int nr_table_claim(nr_table *, const nr_key *, const nr_claim_owner *, int64_t expires_ms,
                       uint64_t deadline_ns, nr_claim_owner *holder)
    int nr_table_give_back(nr_table *, const nr_key *, const nr_claim_owner *, uint64_t deadline_ns)
    int nr_table_await_claim(nr_table *, const nr_key *, uint64_t most_ns)

cdef extern from "naru/table.h":  # with the GIL: the callback needs it
    int nr_table_get_with(nr_table *, const nr_key *, uint8_t *(*place)(void *, uint64_t) noexcept,
                          void *context, nr_entry *)


cdef class Mapping:
    """One generation of the file, mapped until nobody holds this object."""
    cdef nr_table *table


cdef class Tags:
    """Names of tags as the table knows them, for one call."""
    cdef uint64_t[16] marks
    cdef uint32_t count

    cdef int take(self, const nr_table *table, object names) except -1


cdef enum:
    LARGE = 65536  # bytes, above which copying without the GIL is worth giving it up


cdef int key_of(const nr_table *table, object key, nr_key *found) except -1
cdef int64_t expiry_of(const nr_table *table, object ttl_s) except? -1
cdef uint64_t slice_end(uint64_t deadline_ns) noexcept nogil

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL
