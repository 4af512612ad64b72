# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
"""One process of a cache server: native/cache for naru.cache.serving.

CacheServer     the protocol over an open table; attach() makes it a service of an engine
"""
import os

from cpython.pycapsule cimport PyCapsule_New, PyCapsule_SetContext
from libc.stdint cimport uint16_t
from libc.string cimport memset

from naru._native.core cimport *

from naru import errors

cdef extern from "naru/table.h" nogil:
    cdef struct nr_table:
        pass
    int nr_table_open(int fd, nr_table **)
    void nr_table_close(nr_table *)

cdef extern from "naru/protocol.h" nogil:
    cdef struct nr_protocol_ops:
        const char *name

cdef extern from "naru/cache_server.h" nogil:
    const uint32_t NR_SERVERS_MOST
    const size_t NR_SERVER_PAGE_BYTES
    cdef struct nr_cache_server:
        pass
    cdef struct nr_cache_server_settings:
        nr_table *table
        uint32_t process, processes
        int page, inbox
        const int *outboxes
        const char *password
        const char *name
        const char *path
        const char *next_path
        uint32_t clients_most
        uint64_t value_bytes_most, lock_wait_ns
        const char *cluster_host
        const uint16_t *cluster_ports
        uint16_t port
        uint64_t output_limit_bytes
    cdef struct nr_cache_server_statistics:
        uint64_t commands, errors, hits, misses
        uint64_t refused_clients, protocol_errors, strangers, wrong_passwords
        uint64_t published, invalidations, mesh_sent, mesh_received, mesh_dropped
        uint64_t lock_timeouts
    int nr_cache_server_create(const nr_cache_server_settings *, nr_cache_server **)
    void nr_cache_server_destroy(nr_cache_server *)
    int nr_cache_server_change_table(nr_cache_server *, nr_table *)
    uint64_t nr_cache_server_successor(const nr_cache_server *)
    void nr_cache_server_read_statistics(const nr_cache_server *, nr_cache_server_statistics *)
    const nr_protocol_ops nr_protocol_cache

PROCESSES_MOST = NR_SERVERS_MOST
PAGE_BYTES = NR_SERVER_PAGE_BYTES


cdef int check(int result, str operation, object address) except -1:
    if result < 0:
        raise errors.from_errno(result, operation, address)
    return result


cdef class CacheServer:
    """One process of a server over the table in an open file.

    Args:
        fd: of the cache's file; it may be closed afterwards.
        page: a descriptor of PAGE_BYTES zeroes in memory that all processes share; may be closed, too.
        process: this one's number, from 0 on; processes: how many there are.
        inbox: its end of its socket pair, outboxes: the other ends of all processes' pairs; taken over.
            None for a process alone.
        cluster_host, cluster_ports: where clients find the processes; None: no cluster.
        clients_most: of all processes. output_limit_bytes: what CONFIG GET says.
        path: of the file, to follow it when it is resized; next_path: what comes before the number of a
            successor that has not got the name yet. None: it is not followed.
        lock_wait_s: how long a client waits for the lock of a shard whose holder is stopped.

    Raises: CorruptedError, ProtocolError: it is no cache, or of another version.
    """
    cdef nr_cache_server *core
    cdef object service
    cdef str name

    def __cinit__(self, int fd, int page, *, str name="", uint32_t process=0, uint32_t processes=1,
                  inbox=None, outboxes=(), password=None, uint32_t clients_most=0,
                  uint64_t value_bytes_most=0, double lock_wait_s=0, path=None,
                  next_path=None, cluster_host=None,
                  cluster_ports=(), uint16_t port=0, uint64_t output_limit_bytes=0):
        cdef nr_cache_server_settings settings
        cdef nr_table *table
        cdef int[64] pairs
        cdef uint16_t[64] ports
        cdef bytes encoded_name = name.encode(), host, secret, file, next_file
        if not 0 < processes <= NR_SERVERS_MOST or process >= processes:
            raise ValueError(f"process {process} of {processes}: at most {NR_SERVERS_MOST} of them")
        memset(&settings, 0, sizeof(settings))
        settings.process = process
        settings.processes = processes
        settings.page = page
        settings.inbox = -1 if inbox is None else inbox
        if inbox is not None:
            for i in range(processes):
                pairs[i] = outboxes[i]
        settings.outboxes = pairs
        settings.name = encoded_name
        if path is not None:
            file, next_file = os.fsencode(path), os.fsencode(next_path)
            settings.path, settings.next_path = file, next_file
        settings.clients_most = clients_most
        settings.value_bytes_most = value_bytes_most
        settings.lock_wait_ns = <uint64_t>(lock_wait_s * 1e9)
        settings.port = port
        settings.output_limit_bytes = output_limit_bytes
        if password is not None:
            secret = password.encode() if isinstance(password, str) else password
            settings.password = secret
        if cluster_host is not None:
            host = cluster_host.encode()
            settings.cluster_host = host
            for i in range(processes):
                ports[i] = cluster_ports[i]
            settings.cluster_ports = ports
        self.name = name
        check(nr_table_open(fd, &table), "cache.open", name)
        settings.table = table
        result = nr_cache_server_create(&settings, &self.core)
        if result < 0:
            nr_table_close(table)
        check(result, "cache.serve", name)

    def __dealloc__(self):
        if self.service is None:
            nr_cache_server_destroy(self.core)

    def attach(self, engine, **limits):
        """Makes it a service of an engine, whose own it is from then on. Returns: the Service."""
        if self.service is not None:
            raise RuntimeError("it is an engine's already")
        capsule = PyCapsule_New(<void *>&nr_protocol_cache, "naru.protocol", NULL)
        PyCapsule_SetContext(capsule, self.core)
        self.service = engine.make_protocol(capsule, "cache", **limits)
        return self.service

    cdef int admit(self) except -1:
        if self.service is not None:
            self.service.statistics()  # raises ClosedError when the engine is closed
        return 0

    def has_successor(self):
        """Was the cache resized? Then change_table() to the file that has its name now."""
        self.admit()
        return nr_cache_server_successor(self.core) != 0

    def change_table(self, int fd):
        """Goes on with another table, while the engine does not run."""
        cdef nr_table *table
        self.admit()
        check(nr_table_open(fd, &table), "cache.open", self.name)
        result = nr_cache_server_change_table(self.core, table)
        if result < 0:
            nr_table_close(table)
        check(result, "cache.serve", self.name)

    def statistics(self):
        """A dict of plain numbers, of this process."""
        cdef nr_cache_server_statistics found
        self.admit()
        nr_cache_server_read_statistics(self.core, &found)
        return dict(found)
