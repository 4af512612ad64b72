# naru/engine.h as Cython sees it: declarations only, their meaning stands there. What takes or calls
# callbacks is declared where it is used: with the GIL (reactor.pyx) or without (engine.pyx).
from libc.stdint cimport uint32_t, uint64_t

from naru._native.core cimport bint_c

cdef extern from "naru/engine.h" nogil:
    cdef struct nr_engine:
        pass
    ctypedef uint64_t nr_source
    ctypedef uint64_t nr_timer
    const uint32_t NR_READABLE, NR_WRITABLE, NR_PEER_ENDED, NR_HANGUP, NR_FAILED
    const int NR_DONE, NR_MORE
    const unsigned NR_PRIORITY_FIRST
    cdef struct nr_engine_settings:
        uint64_t turn_ns
        uint32_t events_a_wait
    cdef struct nr_engine_statistics:
        uint64_t waits, sleeps, wakeups, turns, events, stale_events, callbacks
        uint64_t timers_fired, timers_missed, wakes, rebuilds, source_count, timer_count
        uint64_t busy_ns, turn_longest_ns
        uint64_t turn_ns_log2[40]
    int nr_engine_create(const nr_engine_settings *, nr_engine **)
    void nr_engine_destroy(nr_engine *)
    int nr_engine_fileno(const nr_engine *)
    int nr_engine_run(nr_engine *, uint64_t deadline_ns)
    int nr_engine_wait(nr_engine *, uint64_t deadline_ns)
    void nr_engine_stop(nr_engine *)
    bint_c nr_engine_take_stop(nr_engine *)
    void nr_engine_wake(nr_engine *)
    void nr_engine_read_statistics(const nr_engine *, nr_engine_statistics *)
    int nr_source_change(nr_engine *, nr_source, uint32_t events)
    int nr_source_set_priority(nr_engine *, nr_source, unsigned priority)
    int nr_source_remove(nr_engine *, nr_source)
    int nr_source_make_ready(nr_engine *, nr_source, uint32_t events)
    int nr_timer_cancel(nr_engine *, nr_timer)
    uint64_t nr_timer_due_ns(const nr_engine *, nr_timer)
