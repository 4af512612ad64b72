# The C core as Cython sees it: declarations only. Their meaning stands in native/include/naru/.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "<stdbool.h>" nogil:
    ctypedef int bint_c "bool"

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "naru/os.h" nogil:
    const uint64_t NR_FOREVER
    uint64_t nr_os_now_ns()
    cdef struct pollfd:
        pass
    int nr_os_sleep(pollfd *fds, unsigned long count, uint64_t timeout_ns)
    int nr_os_close(int fd)
    Py_ssize_t nr_os_send(int fd, const void *data, size_t size, int flags)
    int nr_os_eventfd()
    int nr_os_mq_open(const char *name, int flags, unsigned mode, long depth, long message_bytes)
    int nr_os_mq_unlink(const char *name)
    int nr_os_mq_attributes(int queue, long *depth, long *message_bytes, long *current)
    int nr_os_barrier_register()
    int nr_os_die_with_parent(int signal_number)

cdef extern from "naru/claims.h" nogil:
    cdef struct nr_claims:
        int fd
    int nr_claims_create(nr_claims **claims)
    int nr_claims_map(int fd, nr_claims **claims)
    void nr_claims_release(nr_claims *claims)
    uint32_t nr_claims_owner(const nr_claims *claims, int index)

cdef extern from "naru/segment.h" nogil:
    cdef struct nr_segment:
        uint64_t capacity[2]
    int nr_segment_create(const uint64_t *capacity, uint64_t first_position)
    int nr_segment_map(int fd, nr_segment **segment)
    void nr_segment_retain(nr_segment *segment)
    void nr_segment_release(nr_segment *segment)

cdef extern from "naru/broadcast.h" nogil:
    cdef struct nr_broadcast_slot:
        pass
    int nr_broadcast_create(uint64_t capacity, uint64_t first_position, nr_segment **segment,
                            int *fd)
    int nr_broadcast_map(int fd, nr_segment **segment)
    int nr_broadcast_slot_map(int fd, nr_broadcast_slot **slot)
    void nr_broadcast_slot_unmap(nr_broadcast_slot *slot)

cdef extern from "naru/waiting.h" nogil:
    cdef enum nr_wait_mode:
        NR_WAIT_ADAPTIVE
        NR_WAIT_SPIN
        NR_WAIT_SLEEP
    cdef struct nr_waiting:
        uint32_t mode
    void nr_waiting_start(nr_waiting *, nr_wait_mode)
    uint64_t nr_waiting_budget_ns(const nr_waiting *, int cpu_count)
    void nr_waiting_learn(nr_waiting *, uint64_t waited_ns, bint by_spinning)

cdef extern from "naru/endpoint.h" nogil:
    const size_t NR_SMALL_MESSAGE
    const unsigned NR_MAX_FDS

    cdef enum nr_direction:
        NR_SEND
        NR_RECEIVE

    cdef enum nr_state:
        NR_OPEN
        NR_UNCLAIMED
        NR_CLOSED
        NR_FORKED

    cdef struct nr_allocator:
        void *(*allocate)(size_t size, uint8_t **data) noexcept
        void (*discard)(void *owner) noexcept

    cdef struct nr_message:
        const uint8_t *data
        size_t size
        void *owner
        uint32_t priority
        uint32_t fd_count

    cdef struct nr_outgoing:
        const iovec *parts
        int part_count
        uint32_t priority
        uint32_t flags
        size_t size
        size_t progress
        const int *fds
        unsigned fd_count

    cdef struct nr_statistics:
        uint64_t messages_sent, bytes_sent, messages_received, bytes_received
        uint64_t waits[2]
        uint64_t spins[2]
        uint64_t sleeps[2]
        uint64_t wakeups, lost, duplicates, reordered, torn, strangers
        uint64_t peers_lost, peers_closed, fds_dropped

    cdef struct nr_transport_ops:
        const char *name
        int (*reserve)(nr_endpoint *, size_t, uint8_t **)
        int (*beat)(nr_endpoint *)
        int (*linger)(nr_endpoint *)
        uint64_t (*depth_bytes)(nr_endpoint *)
        int (*fileno)(nr_endpoint *)
        nr_segment *(*memory)(nr_endpoint *)

    cdef struct nr_endpoint:
        const nr_transport_ops *ops
        bint_c ready_is_cheap
        uint32_t max_message_bytes
        bint_c send_begun
        bint_c newest_only
        nr_statistics statistics
        nr_waiting waiting[2]

    nr_endpoint nr_endpoint_nobody
    void nr_endpoint_join_pair(nr_endpoint *, nr_claims *, int index, nr_endpoint *sibling)
    int nr_endpoint_admit(nr_endpoint *)
    uint32_t nr_endpoint_state(const nr_endpoint *)
    int nr_endpoint_send(nr_endpoint *, nr_outgoing *)
    int nr_endpoint_send_many(nr_endpoint *, const iovec *, int count)
    int nr_endpoint_accept_begun(nr_endpoint *, const nr_outgoing *)
    int nr_endpoint_flush(nr_endpoint *)
    bint nr_endpoint_has_rest(const nr_endpoint *)
    int nr_endpoint_take_leave(nr_endpoint *)
    int nr_endpoint_receive(nr_endpoint *, nr_message *)
    void nr_endpoint_release(nr_endpoint *)
    void nr_endpoint_read_statistics(nr_endpoint *, nr_statistics *)
    unsigned nr_endpoint_take_fds(nr_endpoint *, unsigned came, int *fds, unsigned limit)
    int nr_endpoint_glance(nr_endpoint *, nr_direction)
    int nr_endpoint_reserve(nr_endpoint *, size_t, uint8_t **)
    int nr_endpoint_commit(nr_endpoint *, size_t)
    int nr_endpoint_hold(nr_endpoint *, nr_direction, uint64_t deadline_ns)
    bint nr_endpoint_try_hold(nr_endpoint *, nr_direction)
    void nr_endpoint_let_go(nr_endpoint *, nr_direction)
    void nr_endpoint_announce_wait(nr_endpoint *)
    int nr_endpoint_wait(nr_endpoint *, nr_direction, uint64_t deadline_ns)
    int NR_LOOK_AT_SIGNALS
    int nr_endpoint_begin_wait(nr_endpoint *, nr_direction, uint64_t deadline_ns)
    int nr_endpoint_go_on_waiting(nr_endpoint *, nr_direction, uint64_t deadline_ns)
    void nr_endpoint_give_up_waiting(nr_endpoint *, nr_direction)
    int nr_endpoint_begin_close(nr_endpoint *)
    void nr_endpoint_finish_close(nr_endpoint *)
    void nr_endpoint_free(nr_endpoint *)
    int nr_process_start()
    int nr_process_cpu_count()
    int nr_process_has_barrier()

cdef extern from "naru/watch.h" nogil:
    cdef struct nr_watch:
        pass
    int nr_watch_open(nr_endpoint *, nr_watch **)
    int nr_watch_fileno(const nr_watch *)
    int nr_watch_begin(nr_watch *, nr_direction, uint64_t most_ns)
    int nr_watch_glance(nr_watch *, nr_direction)
    int nr_watch_arm(nr_watch *, nr_direction)
    int nr_watch_look(nr_watch *)
    uint64_t nr_watch_interval_ns(const nr_watch *)
    int nr_watch_check(nr_watch *, nr_direction)
    void nr_watch_close(nr_watch *)

cdef extern from "naru/transports.h" nogil:
    cdef struct nr_settings:
        nr_wait_mode wait
        uint32_t max_message_bytes
        const nr_allocator *allocator

    cdef enum nr_stream_kind:
        NR_STREAM_PIPE
        NR_STREAM_UNIX
        NR_STREAM_TCP

    cdef enum nr_framing:
        NR_FRAMING_NARU
        NR_FRAMING_RAW
        NR_FRAMING_LINES

    cdef struct nr_stream_settings:
        nr_stream_kind kind
        nr_framing framing
        bint_c coalesce
        uint32_t heartbeat_ms

    int nr_stream_open(const nr_settings *, const nr_stream_settings *, int, int, nr_endpoint **)

    cdef struct nr_shm_descriptors:
        int lifeline
        int data_bell[2]
        int space_bell[2]

    int nr_shm_open(const nr_settings *, nr_segment *, int end, bint_c fences,
                    const nr_shm_descriptors *, nr_endpoint **)
    int nr_fifo_open_receiver(const nr_settings *, int fd, int keep_open, nr_endpoint **)
    int nr_fifo_open_sender(const nr_settings *, int fd, uint64_t sender, nr_endpoint **)
    int nr_mq_open(const nr_settings *, int queue, bint_c receiver, nr_endpoint **)
    int nr_datagram_open(const nr_settings *, int fd, bint_c raw, uint64_t connection,
                         uint32_t heartbeat_ms, nr_endpoint **)
    int nr_fan_in_open(const nr_settings *, int door, int bell, nr_endpoint **)
    int nr_fan_in_add(nr_endpoint *fan_in, nr_endpoint *child)
    int nr_mover_open(const nr_settings *, nr_endpoint *first, nr_endpoint **)
    int nr_mover_prepare(nr_endpoint *mover, nr_endpoint *next)
    int nr_mover_turn(nr_endpoint *mover)
    int nr_mover_give_up(nr_endpoint *mover)
    bint nr_mover_is_moving(const nr_endpoint *mover)
    unsigned nr_fan_in_count(const nr_endpoint *)
    bint_c nr_fan_in_door_rang(nr_endpoint *)

    cdef struct nr_subscription:
        uint64_t id
        uint32_t policy
        int pid
        uint32_t uid, gid
        uint64_t lag_bytes, lost

    int nr_publisher_open(const nr_settings *, nr_segment *, int data_fd, nr_endpoint **)
    int nr_publisher_add(nr_endpoint *, const nr_subscription *, bint_c fences, int lifeline,
                         int *fds)
    int nr_subscriber_open(const nr_settings *, nr_segment *, nr_broadcast_slot *, bint_c fences,
                           int lifeline, int data_bell, int space_bell, nr_endpoint **)
    int nr_fan_out_open(const nr_settings *, uint64_t queue_bytes, nr_endpoint **)
    int nr_fan_out_add(nr_endpoint *fan_out, const nr_subscription *, nr_endpoint *connection)
    void nr_publisher_step(nr_endpoint *)
    int nr_publisher_lives(const nr_endpoint *)
    unsigned nr_publisher_list(nr_endpoint *, nr_subscription *, unsigned limit)
