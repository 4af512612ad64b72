# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""How transports make ends from what the kernel gave them: connected descriptors, a segment, a queue."""
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject

from naru._native.core cimport *
from naru._native.endpoint cimport Endpoint

import os

from naru import errors
from naru._native.receiving import Receiver

cdef extern from "<errno.h>":
    const int EAGAIN

cdef extern from "Python.h":
    PyObject *RawBytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size)
    void PyErr_Clear()
    void Py_XDECREF(PyObject *)

# ---- bytes objects that C fills ----

cdef void *allocate_bytes(size_t size, uint8_t **data) noexcept with gil:
    cdef PyObject *made = RawBytes(NULL, <Py_ssize_t>size)
    if made == NULL:
        PyErr_Clear()  # C reports -ENOMEM, which becomes NoSpaceError
        return NULL
    data[0] = <uint8_t *>PyBytes_AS_STRING(<object>made)
    return made

cdef void discard_bytes(void *owner) noexcept with gil:
    Py_XDECREF(<PyObject *>owner)

cdef nr_allocator bytes_allocator
bytes_allocator.allocate = allocate_bytes
bytes_allocator.discard = discard_bytes


cdef int fill_settings(nr_settings *out, object settings) except -1:
    modes = {"adaptive": NR_WAIT_ADAPTIVE, "spin": NR_WAIT_SPIN, "sleep": NR_WAIT_SLEEP}
    out.wait = modes[settings.wait]
    out.max_message_bytes = settings.max_message_bytes
    out.allocator = &bytes_allocator
    return 0


cdef object adopt(type cls, nr_endpoint *core, object address, object peer, object place,
                  unsigned int heartbeat_ms=0):
    cdef Endpoint end = cls.__new__(cls)
    end.heartbeat_s = heartbeat_ms / 1000.0
    end.core = core
    end.receives = issubclass(cls, Receiver)
    end.address = address
    end.peer = peer
    end.place = place
    return end


cdef int check(int result, str operation, object address) except -1:
    if result < 0:
        raise errors.from_errno(result, operation, address)
    return result


def open_stream(type cls, settings, str kind, int incoming, int outgoing, *, address, peer=None,
                place=None, bint coalesce=False, unsigned int heartbeat_ms=0):
    """An end over connected descriptors, which it takes over: kind is "pipe", "unix" or "tcp"."""
    cdef nr_settings common
    cdef nr_stream_settings stream
    cdef nr_endpoint *core
    fill_settings(&common, settings)
    stream.kind = {"pipe": NR_STREAM_PIPE, "unix": NR_STREAM_UNIX, "tcp": NR_STREAM_TCP}[kind]
    stream.framing = {"naru": NR_FRAMING_NARU, "raw": NR_FRAMING_RAW,
                      "lines": NR_FRAMING_LINES}[settings.framing]
    stream.coalesce = coalesce
    stream.heartbeat_ms = heartbeat_ms
    check(nr_stream_open(&common, &stream, incoming, outgoing, &core), "open", address)
    return adopt(cls, core, address, peer, place, heartbeat_ms)


def open_shm(type cls, settings, int segment_fd, int end, bint fences, int lifeline, data_bells,
             space_bells, *, address, peer=None, place=None):
    """An end over a segment (mapped here, its descriptor stays the caller's), bells and a lifeline
    (taken over). Raises ProtocolError, CorruptedError for a segment that does not check out."""
    cdef nr_settings common
    cdef nr_shm_descriptors fds
    cdef nr_segment *segment
    cdef nr_endpoint *core
    cdef int i, result
    fill_settings(&common, settings)
    fds.lifeline = lifeline
    for i in range(2):
        fds.data_bell[i] = data_bells[i]
        fds.space_bell[i] = space_bells[i]
    check(nr_segment_map(segment_fd, &segment), "map", address)
    result = nr_shm_open(&common, segment, end, fences, &fds, &core)
    if result < 0:
        nr_segment_release(segment)
        check(result, "open", address)
    return adopt(cls, core, address, peer, place)


def open_fifo_receiver(type cls, settings, int fd, int keep_open, *, address, place=None):
    cdef nr_settings common
    cdef nr_endpoint *core
    fill_settings(&common, settings)
    check(nr_fifo_open_receiver(&common, fd, keep_open, &core), "open", address)
    return adopt(cls, core, address, None, place)


def open_fifo_sender(type cls, settings, int fd, uint64_t sender, *, address, place=None):
    cdef nr_settings common
    cdef nr_endpoint *core
    fill_settings(&common, settings)
    check(nr_fifo_open_sender(&common, fd, sender, &core), "open", address)
    return adopt(cls, core, address, None, place)


def open_mq(type cls, settings, int queue, bint receiver, *, address, place=None):
    cdef nr_settings common
    cdef nr_endpoint *core
    fill_settings(&common, settings)
    check(nr_mq_open(&common, queue, receiver, &core), "open", address)
    return adopt(cls, core, address, None, place)


def open_datagrams(type cls, settings, int fd, bint raw, uint64_t connection,
                   unsigned int heartbeat_ms, *, address, peer=None, place=None):
    cdef nr_settings common
    cdef nr_endpoint *core
    fill_settings(&common, settings)
    check(nr_datagram_open(&common, fd, raw, connection, heartbeat_ms, &core), "open", address)
    return adopt(cls, core, address, peer, place, heartbeat_ms)


def open_fan_in(type cls, settings, door, int bell, *, address, place=None):
    """A receiver over many connections. `door` has fileno(), step(), pending, deadline_ns; its
    step() calls add_sender(). bell: the shared data bell (shm) or -1; both stay the caller's."""
    cdef nr_settings common
    cdef nr_endpoint *core
    cdef Endpoint end
    fill_settings(&common, settings)
    check(nr_fan_in_open(&common, door.fileno(), bell, &core), "open", address)
    end = adopt(cls, core, address, None, place)
    end.door = door
    return end


def add_sender(Endpoint fan_in, Endpoint child):
    """Moves `child`'s connection into the fan-in; the child object is empty afterwards."""
    check(nr_fan_in_add(fan_in.core, child.core), "add a sender", fan_in.address)
    child.core = &nr_endpoint_nobody


def sender_count(Endpoint fan_in):
    """How many senders are connected to a fan-in receiver."""
    return nr_fan_in_count(fan_in.core)


def open_mover(type cls, settings, Endpoint first, *, address, peer=None, place=None):
    """A channel that can move to other connections; `first` is empty afterwards."""
    cdef nr_settings common
    cdef nr_endpoint *core
    fill_settings(&common, settings)
    check(nr_mover_open(&common, first.core, &core), "open", address)
    first.core = &nr_endpoint_nobody
    return adopt(cls, core, address, peer, place)


def prepare_move(Endpoint mover, Endpoint following):
    """From now on receiving turns to `following` (empty afterwards) when what is in use has said
    goodbye. Raises LimitError; ClosedError, ForkedHandleError."""
    check(nr_mover_prepare(mover.core, following.core), "move", mover.address)
    following.core = &nr_endpoint_nobody


def turn_sending(Endpoint mover):
    """The other side has prepared: True when sending has turned; False: ask again soon."""
    cdef int result
    if mover.reserved:
        return False  # what was written in place belongs to the old connection
    result = nr_mover_turn(mover.core)
    if result == -EAGAIN:
        return False
    check(result, "move", mover.address)
    return True


def give_up_move(Endpoint mover):
    """The other side could not prepare. False: it has turned already."""
    return nr_mover_give_up(mover.core) == 0


def is_moving(Endpoint mover):
    """False once both directions use the newest connection; and after close()."""
    return nr_endpoint_state(mover.core) == NR_OPEN and nr_mover_is_moving(mover.core)


def join_pair(Endpoint a, Endpoint b, int claims_fd, recipes):
    """Makes two fresh ends one pair; recipes: how each is pickled. Takes claims_fd over."""
    cdef nr_claims *claims
    check(nr_claims_map(claims_fd, &claims), "pair", a.address)
    nr_endpoint_join_pair(a.core, claims, 0, b.core)
    nr_endpoint_join_pair(b.core, claims, 1, a.core)
    nr_claims_release(claims)
    a.recipe, b.recipe = recipes


def rejoin_pair(Endpoint end, int claims_fd, int index, recipe):
    """The end of a pair that came by pickle. Takes claims_fd over."""
    cdef nr_claims *claims
    check(nr_claims_map(claims_fd, &claims), "pair", end.address)
    nr_endpoint_join_pair(end.core, claims, index, NULL)
    nr_claims_release(claims)
    end.recipe = recipe


def create_claims():
    """A descriptor of the page in which the two ends of a pair are claimed."""
    cdef nr_claims *claims
    check(nr_claims_create(&claims), "pair", None)
    try:
        return os.dup(claims.fd)
    except OSError as error:
        raise errors.from_os_error(error, "pair") from error
    finally:
        nr_claims_release(claims)


def has_barrier():
    """True when this process's rings need no fences (membarrier(2), GLOBAL_EXPEDITED)."""
    return bool(nr_process_has_barrier())
