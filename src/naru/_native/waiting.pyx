# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The slow half of every verb: what the first try could not do takes its turn, waits without the GIL,
looks at signals, and tries again. Must not know: Python's verbs and their arguments.
"""
from cpython.exc cimport PyErr_CheckSignals

from naru._native.core cimport *
from naru._native.endpoint cimport Endpoint, deadline_of

from naru import errors

cdef extern from "<errno.h>":
    const int EAGAIN, EBUSY, EINTR, EMSGSIZE, EOPNOTSUPP, ESHUTDOWN, ETIMEDOUT

# ---- sending ----

cdef int finish_send(Endpoint end, nr_outgoing *out, object timeout_s, int result) except -1:
    """The slow half: everything that was not accepted at the first try."""
    cdef uint64_t deadline
    cdef int waited
    if result != -EAGAIN and result != -EBUSY:
        raise_send_error(end, result, out.size)
    deadline = deadline_of(timeout_s)
    end.hold(NR_SEND, deadline, "send")
    try:
        while True:
            result = nr_endpoint_send(end.core, out)
            if result == 0:
                push_out(end, deadline)
                return 0
            if result != -EAGAIN:
                raise_send_error(end, result, out.size)
            try:
                waited = end.wait(NR_SEND, deadline, "send")
            except errors.NaruError:
                if not out.progress:
                    raise
                waited = 0  # the next verb meets it again
            if waited == 0:
                if out.progress:
                    return 0  # begun, hence accepted: `finally` keeps the rest
                end.fail(-ETIMEDOUT, "send", "no room came free in time; nothing was sent")
    finally:
        if result == -EAGAIN and out.progress:
            nr_endpoint_accept_begun(end.core, out)  # or broken off: the next verb says so
        nr_endpoint_let_go(end.core, NR_SEND)
        if nr_endpoint_has_rest(end.core):
            push_later(end)


cdef int push_out(Endpoint end, uint64_t deadline) except -1:
    """Waits, as the holder, until the rest of an accepted message is out, or the time is up."""
    cdef int result
    while nr_endpoint_has_rest(end.core):
        result = nr_endpoint_admit(end.core)
        if result == 0:
            result = nr_endpoint_flush(end.core)
        if result == 0:
            return 0
        if result != -EAGAIN:
            raise_send_error(end, result, 0)
        if end.wait(NR_SEND, deadline, "send") == 0:
            return 0
    return 0


cdef int finish_rest(Endpoint end, object timeout_s) except -1:
    """The same for who does not hold the direction yet."""
    cdef uint64_t deadline = deadline_of(timeout_s)
    cdef int result = nr_endpoint_flush(end.core)
    if result != -EAGAIN:
        if result < 0:
            raise_send_error(end, result, 0)
        return 0
    while True:
        with nogil:
            result = nr_endpoint_hold(end.core, NR_SEND, deadline)
        if result == 0:
            break
        if result != -EINTR:
            return 0  # the time is up while others wait: they push it out
        PyErr_CheckSignals()
    try:
        push_out(end, deadline)
    finally:
        nr_endpoint_let_go(end.core, NR_SEND)
        if nr_endpoint_has_rest(end.core):
            push_later(end)
    return 0


cdef int push_later(Endpoint end) except -1:
    """An end that does nothing more would keep the rest for ever: naru.outbox pushes it out. Not for
    an event loop's end: only one may sleep on a doorbell, and the loop pushes, too."""
    if end.looped:
        return 0
    from naru.outbox import push_later as later
    later(end)
    return 0


cdef bint push_rest(Endpoint end, double slice_s) except -1:
    """One turn of naru.outbox: True while there is a rest, and somebody who may take it."""
    cdef uint64_t deadline = deadline_of(slice_s)
    cdef int result
    if not nr_endpoint_has_rest(end.core):
        return False
    with nogil:
        result = nr_endpoint_hold(end.core, NR_SEND, deadline)
    if result < 0:
        return True  # another thread waits in a sending verb, and pushes meanwhile
    try:
        push_out(end, deadline)
    except errors.NaruError:
        return False  # the next verb meets it again
    finally:
        nr_endpoint_let_go(end.core, NR_SEND)
    return nr_endpoint_has_rest(end.core)


cdef int raise_send_error(Endpoint end, int error, size_t size) except -1:
    if error == -EMSGSIZE:
        end.fail(error, "send", f"the message has {size} bytes, the limit here is "
                                f"{end.core.max_message_bytes}; nothing was sent")
    end.fail(error, "send")


cdef int send_parts_of(Endpoint end, const iovec *parts, int count, size_t size, object timeout_s,
                       uint32_t priority) except -1:
    cdef nr_outgoing out
    cdef int result = -EAGAIN
    if end.reserved:
        end.fail(-EOPNOTSUPP, "send", "a reservation is open on this end: leave its `with` block")
    out.parts = parts
    out.part_count = count
    out.priority = priority
    out.flags = 0
    out.size = size
    out.progress = 0
    out.fds = NULL
    out.fd_count = 0
    if size <= NR_SMALL_MESSAGE:
        result = nr_endpoint_send(end.core, &out)
        if result == -EAGAIN and nr_endpoint_glance(end.core, NR_SEND):
            result = nr_endpoint_send(end.core, &out)
        if result == 0:
            if nr_endpoint_has_rest(end.core):
                finish_rest(end, timeout_s)
            return 0
    finish_send(end, &out, timeout_s, result)
    return 0


cdef int send_batch(Endpoint end, const iovec *messages, int count, object timeout_s,
                    Py_ssize_t *sent) except -1:
    """Sends all, adding to `sent` as it goes."""
    cdef int done = 0
    cdef int result
    cdef uint64_t deadline = 0
    cdef nr_outgoing out
    while done < count:
        if messages[done].iov_len > NR_SMALL_MESSAGE:
            send_parts_of(end, &messages[done], 1, messages[done].iov_len, timeout_s, 0)
            result = 1
        else:
            result = nr_endpoint_send_many(end.core, &messages[done], count - done)
            if result == -EAGAIN and nr_endpoint_glance(end.core, NR_SEND):
                continue
            if result == -EAGAIN or result == -EBUSY:
                if deadline == 0:
                    deadline = deadline_of(timeout_s)
                end.hold(NR_SEND, deadline, "send_many")
                try:
                    result = nr_endpoint_send_many(end.core, &messages[done], count - done)
                    if result == -EAGAIN and end.wait(NR_SEND, deadline, "send_many") == 0:
                        end.fail(-ETIMEDOUT, "send_many",
                                 f"{sent[0]} messages were sent, the others not")
                finally:
                    nr_endpoint_let_go(end.core, NR_SEND)
                    if result == -EAGAIN and nr_endpoint_has_rest(end.core):
                        push_later(end)
                if result == -EAGAIN:
                    continue
            if result < 0:
                raise_send_error(end, result, messages[done].iov_len)
        done += result
        sent[0] += result
    if nr_endpoint_has_rest(end.core):
        finish_rest(end, timeout_s)
    return 0


cdef int reserve_place(Endpoint end, size_t size, object timeout_s, uint8_t **data) except -1:
    """1: room in place; 0: this transport or size has none."""
    cdef int result
    cdef uint64_t deadline
    if end.reserved:
        end.fail(-EOPNOTSUPP, "reserve", "another reservation is open on this end")
    result = nr_endpoint_reserve(end.core, size, data)
    if result == -EAGAIN or result == -EBUSY:
        deadline = deadline_of(timeout_s)
        end.hold(NR_SEND, deadline, "reserve")
        try:
            while True:
                result = nr_endpoint_reserve(end.core, size, data)
                if result != -EAGAIN:
                    break
                if end.wait(NR_SEND, deadline, "reserve") == 0:
                    end.fail(-ETIMEDOUT, "reserve", "no room came free in time")
        finally:
            nr_endpoint_let_go(end.core, NR_SEND)
    if result == -EOPNOTSUPP or (result == -EMSGSIZE and size <= end.core.max_message_bytes):
        return 0
    if result < 0:
        raise_send_error(end, result, size)
    return 1


cdef int take_place(Endpoint end, size_t size, object timeout_s, uint8_t **data) except -1:
    """As reserve_place(), but at 1 this thread holds the direction, with a message begun: others wait
    their turn while it is written, also without the GIL. fill_place() ends that."""
    cdef int result
    cdef uint64_t deadline
    if end.reserved:
        end.fail(-EOPNOTSUPP, "send", "a reservation is open on this end: leave its `with` block")
    if end.core.ops == NULL or end.core.ops.reserve == NULL:
        return 0
    deadline = deadline_of(timeout_s)
    end.hold(NR_SEND, deadline, "send")
    result = -EAGAIN
    try:
        while True:
            result = nr_endpoint_reserve(end.core, size, data)
            if result != -EAGAIN:
                break
            if end.wait(NR_SEND, deadline, "send") == 0:
                end.fail(-ETIMEDOUT, "send", "no room came free in time; nothing was sent")
    finally:
        if result == 0:
            end.core.send_begun = True
        else:
            nr_endpoint_let_go(end.core, NR_SEND)
    if result == -EOPNOTSUPP or result == -EMSGSIZE:
        return 0
    if result < 0:
        raise_send_error(end, result, size)
    return 1


cdef int fill_place(Endpoint end, size_t size) except -1:
    """Sends the first `size` bytes of what take_place() gave; 0 drops it."""
    cdef int result = 0
    end.core.send_begun = False
    if size:
        result = nr_endpoint_commit(end.core, size)
    nr_endpoint_let_go(end.core, NR_SEND)
    if result < 0:
        raise_send_error(end, result, size)
    return 0


# ---- receiving ----

cdef int step_door(Endpoint end) except -1:
    """Lets waiting senders in: 1 when there was something to do."""
    if end.door is None or not nr_fan_in_door_rang(end.core):
        return 0
    end.door.step()
    return 1


cdef int finish_receive(Endpoint end, nr_message *message, object timeout_s, int result,
                        bint quiet) except -1:
    """The slow half: 1 a message; 0 a good end, only when `quiet`."""
    cdef uint64_t deadline, until
    cdef bint tried
    if result == -EAGAIN and nr_endpoint_glance(end.core, NR_RECEIVE):
        result = nr_endpoint_receive(end.core, message)
        if result == 1:
            return 1
    if result == -EAGAIN:
        deadline = deadline_of(timeout_s)
        # Uncontended: nothing can have come between, unless while the GIL was away.
        tried = nr_endpoint_try_hold(end.core, NR_RECEIVE)
        if not tried:
            end.hold(NR_RECEIVE, deadline, "receive")
        try:
            while True:
                if not tried:
                    result = nr_endpoint_receive(end.core, message)
                    if result != -EAGAIN:
                        break
                tried = False
                if step_door(end):
                    continue
                until = deadline
                if end.door is not None and end.door.pending:
                    until = min(deadline, <uint64_t>end.door.deadline_ns)
                if end.wait(NR_RECEIVE, until, "receive") == 0:
                    if until < deadline:
                        end.door.step()  # a silent stranger's time is up
                        continue
                    end.fail(-ETIMEDOUT, "receive", "no message came in time")
        finally:
            nr_endpoint_let_go(end.core, NR_RECEIVE)
    if result == 1:
        return 1
    if result == -ESHUTDOWN and quiet:
        return 0
    end.fail(result, "receive")


cdef int next_message(Endpoint end, nr_message *message, object timeout_s) except -1:
    cdef int result
    if end.borrowed:
        end.check_receivable()
    result = nr_endpoint_receive(end.core, message)
    if result != 1:
        finish_receive(end, message, timeout_s, result, False)
    return 0
