# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Publishers and subscribers from what the kernel gave, and what a publisher knows of the others.

Must not know: names, handshakes, policies by their names (transports/publishing.py).
"""
from cpython.mem cimport PyMem_Free, PyMem_Malloc

from naru._native.core cimport *
from naru._native.endpoint cimport Endpoint
from naru._native.opening cimport adopt, check, fill_settings


def open_publisher(type cls, settings, *, address, place=None):
    """A publisher over a new ring of `settings.capacity_bytes`."""
    cdef nr_settings common
    cdef nr_segment *segment
    cdef nr_endpoint *core
    cdef int fd, result
    cdef uint64_t capacity = settings.capacity_bytes
    fill_settings(&common, settings)
    with nogil:
        result = nr_broadcast_create(capacity, 0, &segment, &fd)
    check(result, "create", address)
    result = nr_publisher_open(&common, segment, fd, &core)
    if result < 0:
        nr_segment_release(segment)
        nr_os_close(fd)
        check(result, "open", address)
    return adopt(cls, core, address, None, place)


def add_subscriber(Endpoint publisher, unsigned int policy, peer, bint fences, int lifeline):
    """Lets a subscriber in over shared memory. Takes the lifeline over.

    Returns: [data, slot, data bell, space bell]: to be sent to it; the second is then the caller's
    to close, the others are the publisher's.
    """
    cdef nr_subscription facts
    cdef int[4] fds
    facts.policy = policy
    facts.lost = 0
    facts.pid, facts.uid, facts.gid = peer
    check(nr_endpoint_admit(publisher.core), "add a subscriber", publisher.address)
    check(nr_publisher_add(publisher.core, &facts, fences, lifeline, fds), "add a subscriber",
          publisher.address)
    return [fds[0], fds[1], fds[2], fds[3]]


def open_subscriber(type cls, settings, int data, int slot_fd, bint fences, int lifeline,
                    int data_bell, int space_bell, *, address, peer=None, place=None):
    """A subscriber; takes the lifeline and the bells over, the first two stay the caller's.

    Raises ProtocolError, CorruptedError for memory that does not check out.
    """
    cdef nr_settings common
    cdef nr_segment *segment
    cdef nr_broadcast_slot *slot
    cdef nr_endpoint *core
    cdef int result
    fill_settings(&common, settings)
    check(nr_broadcast_map(data, &segment), "map", address)
    result = nr_broadcast_slot_map(slot_fd, &slot)
    if result < 0:
        nr_segment_release(segment)
        check(result, "map", address)
    result = nr_subscriber_open(&common, segment, slot, fences, lifeline, data_bell, space_bell,
                                &core)
    if result < 0:
        nr_broadcast_slot_unmap(slot)
        nr_segment_release(segment)
        check(result, "open", address)
    return adopt(cls, core, address, peer, place)


def open_fan_out(type cls, settings, *, address, place=None):
    """A publisher over connections, each with a queue of `settings.queue_bytes`."""
    cdef nr_settings common
    cdef nr_endpoint *core
    fill_settings(&common, settings)
    check(nr_fan_out_open(&common, settings.queue_bytes, &core), "open", address)
    return adopt(cls, core, address, None, place)


def add_connection(Endpoint publisher, unsigned int policy, peer, Endpoint connection,
                   bytes greeting):
    """Moves a subscriber's connection into a fan-out; the object is empty afterwards.

    The greeting, at most a few bytes on a fresh connection, goes out in the same breath: whatever is
    published after the subscriber has read it reaches the subscriber.
    """
    cdef nr_subscription facts
    cdef Py_ssize_t sent
    facts.policy = policy
    facts.lost = 0
    facts.pid, facts.uid, facts.gid = peer or (0, 0, 0)
    check(nr_endpoint_admit(publisher.core), "add a subscriber", publisher.address)
    sent = nr_os_send(connection.core.ops.fileno(connection.core), <const char *>greeting,
                      len(greeting), 0)
    check(<int>min(sent, 0), "add a subscriber", publisher.address)
    check(nr_fan_out_add(publisher.core, &facts, connection.core), "add a subscriber",
          publisher.address)
    connection.core = &nr_endpoint_nobody


def want_newest(Endpoint subscriber):
    """From now on, what is received is the newest message that is there."""
    subscriber.core.newest_only = True


def step(Endpoint publisher):
    """Drops the subscribers that have gone and pushes out what waits for slow ones."""
    nr_publisher_step(publisher.core)


def lives(Endpoint publisher):
    """A descriptor that is readable when step() has something to do."""
    check(nr_endpoint_admit(publisher.core), "publisher", publisher.address)
    return nr_publisher_lives(publisher.core)


def subscriptions(Endpoint publisher):
    """(policy, pid, uid, gid, lag in bytes, lost) of each subscriber."""
    cdef unsigned room, count, i
    cdef nr_subscription *found
    check(nr_endpoint_admit(publisher.core), "subscribers", publisher.address)
    room = nr_publisher_list(publisher.core, NULL, 0)
    found = <nr_subscription *>PyMem_Malloc((room + 1) * sizeof(nr_subscription))
    if found == NULL:
        raise MemoryError
    try:
        count = min(nr_publisher_list(publisher.core, found, room), room)
        return [(found[i].policy, found[i].pid, found[i].uid, found[i].gid, found[i].lag_bytes,
                 found[i].lost) for i in range(count)]
    finally:
        PyMem_Free(found)


def lost(Endpoint subscriber):
    """Messages that were published since it joined and will never be received here."""
    return subscriber.core.statistics.lost
