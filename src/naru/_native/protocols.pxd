# naru/protocol.h as Cython sees it: declarations only, their meaning stands there.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from naru._native.loops cimport nr_engine

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr_storage:
        unsigned short ss_family

cdef extern from "naru/protocol.h" nogil:
    cdef struct nr_service:
        pass
    cdef struct nr_connection:
        pass
    cdef struct nr_protocol_ops:
        const char *name
    cdef struct nr_service_settings:
        const nr_protocol_ops *protocol
        void *context
        uint32_t connection_limit, accept_batch, input_limit_bytes
        uint32_t high_water_bytes, low_water_bytes, output_limit_bytes
        uint64_t idle_timeout_ns, stall_timeout_ns, linger_timeout_ns
    cdef struct nr_service_statistics:
        uint64_t accepted, connected, open, open_outgoing, most_open
        uint64_t closed_orderly, closed_reset, closed_idle, closed_slow, closed_protocol
        uint64_t connects_failed, bytes_received, bytes_sent
        uint64_t pauses_descriptors, pauses_limit, accept_errors, chokes
    int nr_service_create(nr_engine *, const nr_service_settings *, nr_service **)
    void nr_service_destroy(nr_service *)
    int nr_service_listen(nr_service *, int fd)
    void nr_service_stop_listening(nr_service *)
    void nr_service_drain(nr_service *)
    void nr_service_cut_all(nr_service *)
    void nr_service_on_empty(nr_service *, void (*)(nr_service *, void *) noexcept nogil, void *)
    void nr_service_read_statistics(const nr_service *, nr_service_statistics *)
    uint64_t nr_connection_number(const nr_connection *)
    nr_connection *nr_service_find(nr_service *, uint64_t)
    void nr_connection_close(nr_connection *)
    const nr_protocol_ops nr_protocol_echo, nr_protocol_frames, nr_protocol_splice

    cdef struct nr_frames:
        pass
    cdef struct nr_frames_settings:
        uint32_t max_message_bytes
        int (*on_frame)(nr_connection *, const uint8_t *, size_t, void *) noexcept nogil
        int (*on_open)(nr_connection *, void *) noexcept nogil
        void (*on_close)(nr_connection *, int, void *) noexcept nogil
        void *data
    cdef struct nr_frames_statistics:
        uint64_t messages_received, messages_sent, strangers
    int nr_frames_create(const nr_frames_settings *, nr_frames **)
    int nr_frames_send(nr_connection *, const void *, size_t)
    void nr_frames_read_statistics(const nr_frames *, nr_frames_statistics *)

    cdef struct nr_splice_target:
        sockaddr_storage address
        socklen_t address_bytes
        uint64_t connect_timeout_ns
    cdef struct nr_splice_statistics:
        uint64_t spliced_bytes, copied_bytes, pairs, pairs_failed
        uint64_t pipes, pipes_in_use, half_closes, aborts
    cdef struct nr_splice:
        pass
    int nr_splice_create(const nr_splice_target *, nr_splice **)
    void nr_splice_read_statistics(const nr_splice *, nr_splice_statistics *)
