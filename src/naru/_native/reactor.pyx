# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
"""The engine's loop (naru/engine.h) with Python callables: what naru.reactor.Reactor stands on.

A descriptor is one source of the engine with up to two registrations, a reader and a writer. The
engine has plain pointers to sources and timers; `Loop._sources` and `_timers` keep those alive.
Must not know: signals, processes, files, or how a connection is accepted (naru.reactor does).
"""
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetObject, PyErr_WriteUnraisable
from libc.stdint cimport uint32_t, uint64_t

from naru._native.core cimport NR_FOREVER, nr_os_now_ns
from naru._native.endpoint cimport Endpoint, deadline_of
from naru._native.loops cimport *

import os
import warnings
from collections import deque

from naru import errors

cdef extern from "<errno.h>":
    const int EBADF, ECHILD, EEXIST, EINTR, ELOOP, ENOENT, ENOSPC, EPERM

# Called with the GIL held, and in turn calling Python.
cdef extern from "naru/engine.h":
    ctypedef int (*nr_source_callback)(nr_engine *, nr_source, uint32_t, void *) noexcept
    ctypedef int (*nr_timer_callback)(nr_engine *, nr_timer, uint64_t, void *) noexcept
    ctypedef int (*nr_wake_callback)(nr_engine *, void *) noexcept
    int nr_source_add(nr_engine *, int fd, uint32_t events, unsigned priority, uint32_t flags,
                      nr_source_callback, void *data, nr_source *)
    int nr_timer_start(nr_engine *, uint64_t due_ns, uint64_t period_ns, nr_timer_callback,
                       void *data, nr_timer *)
    int nr_engine_dispatch(nr_engine *)
    void nr_engine_on_wake(nr_engine *, nr_wake_callback, void *data)

cdef enum:
    BROKEN = -1000          # ends a dispatch: the exception is in Loop.broken
    MESSAGES_A_TURN = 16
    CALLS_A_TURN = 256
    PRIORITY_FIRST = 2      # of Python; the engine counts the other way round
    PRIORITY_LAST = -1

# What a channel ends with. Another error (no descriptor free) may pass.
_ENDS = (errors.PeerGoneError, errors.ClosedError, errors.CorruptedError, errors.ProtocolError,
         errors.ForkedHandleError)


def door_of(Endpoint end):
    """What lets senders in to a receiver; None when nobody has to be let in."""
    return end.door


def name_of(callback):
    """What statistics and reports call it: module.function, or what repr() says."""
    inner = callback
    while hasattr(inner, "func"):  # functools.partial
        inner = inner.func
    name = getattr(inner, "__qualname__", None)
    if name is None:
        return f"{type(inner).__module__}.{type(inner).__qualname__}"
    module = getattr(inner, "__module__", None)
    return f"{module}.{name}" if module else name


cdef void give_to_hook(error, callback) noexcept:
    PyErr_SetObject(type(error), error)  # with its traceback
    PyErr_WriteUnraisable(callback)


cdef class Registration:
    """A callback and what it waits for. Made by a Reactor; `cancel()` ends it."""

    cdef readonly object callback
    """What is called."""
    cdef readonly object thing
    """What it is registered with: the descriptor's holder, a signal, a path; None for a timer."""
    cdef readonly str kind
    """The verb that made it, such as "on_readable"."""
    cdef readonly uint64_t missed
    """every(): periods that could not be served in time and were left out."""
    cdef readonly unsigned long errors
    """How often the callback raised."""
    cdef Loop loop
    cdef Source source
    cdef nr_timer timer
    cdef object handler         # what is called instead and calls the callback; None: directly
    cdef object receive         # on_message: the bound try_receive
    cdef object on_end
    cdef object on_cancel
    cdef set reported
    cdef uint32_t bit
    cdef int priority
    cdef bint once, armed, active_, holds
    cdef object __weakref__

    def __init__(self):
        raise TypeError("registrations are made by a Reactor")

    @property
    def active(self):
        """False once it was cancelled, has ended, or its one time is over."""
        return self.active_

    @property
    def name(self):
        """The callback's, as reports and statistics show it."""
        return name_of(self.callback)

    def cancel(self):
        """The callback is not called any more, not even for what is ready already. Idempotent."""
        if not self.active_:
            return
        self.active_ = False
        if self.source is not None:
            self.loop.drop(self)
        elif self.timer:
            nr_timer_cancel(self.loop.engine, self.timer)
            self.loop.timers.pop(self.timer, None)
            self.timer = 0
        self.loop.forget(self)
        if self.on_cancel is not None:
            on_cancel, self.on_cancel = self.on_cancel, None
            on_cancel()

    def rearm(self):
        """After a callback with `once=True`: the next event calls it again.

        What happened meanwhile is not lost: the state is looked at now. Does nothing while it is
        armed.

        Raises: ClosedError: it was cancelled, or its descriptor is closed.
        """
        if not self.active_ or self.source is None:
            raise errors.ClosedError(f"{self!r}: rearm() of what was cancelled", operation="rearm")
        if self.armed:
            return
        self.armed = True
        result = self.loop.apply(self.source)
        if result < 0:
            self.armed = False
            raise errors.from_errno(result, f"reactor.{self.kind}", self.thing)

    def __repr__(self):
        about = "" if self.thing is None else f" {self.thing!r}"
        note = "" if self.active_ else " (over)" if not self.once else " (fired)"
        return f"<Registration {self.kind}{about} calling {self.name}{note}>"


cdef class Source:
    """One descriptor in the engine."""

    cdef nr_source number
    cdef int fd
    cdef Registration reader, writer
    cdef object __weakref__

    cdef uint32_t wanted(self):
        cdef uint32_t events = 0
        if self.reader is not None and self.reader.armed:
            events |= NR_READABLE
        if self.writer is not None and self.writer.armed:
            events |= NR_WRITABLE
        return events


cdef int fire_source(nr_engine *engine, nr_source number, uint32_t events, void *data) noexcept:
    cdef Source source = <Source>data
    cdef Registration one = source.reader
    cdef Loop loop
    cdef int result = NR_DONE
    if one is not None and one.armed and events & ~NR_WRITABLE:
        loop = one.loop
        result = loop.fire(one)
        if result < 0:
            return result
    one = source.writer
    if one is not None and one.armed and events & (NR_WRITABLE | NR_HANGUP | NR_FAILED):
        loop = one.loop
        if loop.fire(one) < 0:
            return BROKEN
    return result


cdef int fire_timer(nr_engine *engine, nr_timer number, uint64_t missed, void *data) noexcept:
    cdef Registration one = <Registration>data
    cdef Loop loop = one.loop
    cdef int result
    one.missed += missed
    if one.once:
        one.active_ = False
        one.timer = 0
        loop.timers.pop(number, None)
        loop.forget(one)
    result = loop.call(one)
    return BROKEN if result < 0 else NR_DONE


cdef int fire_wake(nr_engine *engine, void *data) noexcept:
    cdef Loop loop = <Loop>data
    return BROKEN if loop.run_soon() < 0 else NR_DONE


cdef class Loop:
    """The loop itself; see naru.reactor.Reactor for its words."""

    cdef nr_engine *engine
    cdef dict sources           # fd -> Source
    cdef set orphans            # sources whose descriptor was closed and reused: cancelled later
    cdef dict timers            # number -> Registration
    cdef object soon            # deque of (callback, arguments)
    cdef object broken          # what stops the loop: KeyboardInterrupt, SystemExit
    cdef readonly set registrations
    """What is registered and not over."""
    cdef public object on_error
    """Called with (registration or None, exception) for each new error of a callback; None: it goes
    to sys.unraisablehook."""
    cdef readonly dict slow
    """name -> [count, longest in ns] of callbacks that took longer than slow_callback_s."""
    cdef readonly unsigned long errors_seen
    cdef uint64_t slow_ns, now_ns, calls
    cdef long holding           # registrations that drain() waits for
    cdef bint running, draining
    cdef object __weakref__

    def __cinit__(self):
        self.engine = NULL
        self.sources = {}
        self.orphans = set()
        self.timers = {}
        self.soon = deque()
        self.registrations = set()
        self.slow = {}

    def __init__(self, double turn_s=0.002, double slow_callback_s=0.1):
        cdef nr_engine_settings settings
        cdef int result
        if self.engine != NULL:
            raise TypeError("made already")
        if not 0 < turn_s <= 10 or not slow_callback_s > 0:
            raise ValueError("turn_s must be above 0 and at most 10, slow_callback_s above 0")
        settings.turn_ns = <uint64_t>(turn_s * 1e9)
        settings.events_a_wait = 0
        self.slow_ns = <uint64_t>(min(slow_callback_s, 1e6) * 1e9)
        result = nr_engine_create(&settings, &self.engine)
        if result < 0:
            self.engine = NULL
            raise errors.from_errno(result, "reactor.create")
        nr_engine_on_wake(self.engine, fire_wake, <void *>self)

    # ---- life ----

    cdef int check(self) except -1:
        if self.engine == NULL:
            raise errors.ClosedError("reactor: it is closed", operation="reactor")
        return 0

    @property
    def closed(self):
        """True after close()."""
        return self.engine == NULL

    @property
    def is_running(self):
        """True inside run()."""
        return self.running

    def close(self):
        """Cancels everything. Idempotent. Raises RuntimeError in a callback of its own."""
        cdef nr_engine *engine = self.engine
        if engine == NULL:
            return
        if self.running:
            raise RuntimeError("a reactor is not closed by its own callback: stop() it first")
        for one in list(self.registrations):
            (<Registration>one).cancel()
        self.engine = NULL
        nr_engine_destroy(engine)
        self.sources.clear()
        self.orphans.clear()
        self.timers.clear()
        self.soon.clear()

    def __del__(self):
        if self.engine != NULL:
            if nr_engine_fileno(self.engine) != -ECHILD:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self.close()

    def __dealloc__(self):
        if self.engine != NULL:
            nr_engine_destroy(self.engine)
            self.engine = NULL

    # ---- registrations ----

    cdef Registration make(self, str kind, object thing, object callback):
        cdef Registration one = Registration.__new__(Registration)
        if not callable(callback):
            raise TypeError(f"{kind}: the callback {callback!r} cannot be called")
        one.loop = self
        one.kind = kind
        one.thing = thing
        one.callback = callback
        one.armed = one.active_ = True
        return one

    cdef int apply(self, Source source):
        cdef int priority = PRIORITY_LAST
        cdef int result = nr_source_change(self.engine, source.number, source.wanted())
        if result < 0:
            return result
        if source.reader is not None:
            priority = source.reader.priority
        if source.writer is not None:
            priority = max(priority, source.writer.priority)
        return nr_source_set_priority(self.engine, source.number, PRIORITY_FIRST - priority)

    cdef int fail(self, int error, str kind, object thing) except -1:
        operation = f"reactor.{kind}"
        if error == -EPERM:
            raise errors.UnsupportedError(
                f"{operation} {thing!r}: cannot be waited for (EPERM): a regular file or a "
                "directory is always ready; read it, or use on_change()",
                errno=EPERM, operation=operation, address=repr(thing))
        if error == -ENOSPC:
            raise errors.LimitError(
                f"{operation} {thing!r}: too many descriptors are waited for (ENOSPC); raise "
                "fs.epoll.max_user_watches",
                errno=ENOSPC, operation=operation, address=repr(thing))
        if error == -ELOOP:
            raise errors.LimitError(
                f"{operation} {thing!r}: loops within loops (ELOOP): this one would wait for "
                "itself, or they are nested too deeply",
                errno=ELOOP, operation=operation, address=repr(thing))
        raise errors.from_errno(error, operation, repr(thing))

    def _watch(self, str kind, int fd, bint readable, thing, callback, *, bint once=False,
               int priority=0, bint holds=True, handler=None, receive=None, on_end=None,
               on_cancel=None):
        """A registration with a descriptor."""
        cdef Registration one
        cdef Source source, other
        cdef int result
        self.check()
        if not PRIORITY_LAST <= priority <= PRIORITY_FIRST:
            raise ValueError(f"priority is -1 (last), 0, 1 or 2 (first), not {priority}")
        one = self.make(kind, thing, callback)
        one.bit = NR_READABLE if readable else NR_WRITABLE
        one.once, one.priority, one.holds = once, priority, holds
        one.handler, one.receive, one.on_end, one.on_cancel = handler, receive, on_end, on_cancel
        source = Source.__new__(Source)
        source.fd = fd
        if readable:
            source.reader = one
        else:
            source.writer = one
        # Always asked anew: only the kernel knows whether this number is still the same file.
        result = nr_source_add(self.engine, fd, one.bit, PRIORITY_FIRST - priority, 0, fire_source,
                               <void *>source, &source.number)
        other = self.sources.get(fd)
        if result == -EEXIST and other is not None:
            if (other.reader if readable else other.writer) is not None:
                raise ValueError(f"{kind} {thing!r}: descriptor {fd} has such a callback already")
            if readable:
                other.reader = one
            else:
                other.writer = one
            source = other
            result = self.apply(source)
            if result < 0:
                if readable:
                    other.reader = None
                else:
                    other.writer = None
        elif result >= 0:
            if other is not None:
                self.orphans.add(other)
            self.sources[fd] = source
        if result < 0:
            self.fail(result, kind, thing)
        one.source = source
        self.remember(one)
        return one

    cdef void drop(self, Registration one):
        """Takes a registration out of its source, and the source out of the engine."""
        cdef Source source = one.source
        one.armed = False
        if one.bit == NR_READABLE:
            source.reader = None
        else:
            source.writer = None
        if source.reader is not None or source.writer is not None:
            self.apply(source)  # fails when the descriptor is closed: then nothing comes anyway
            return
        nr_source_remove(self.engine, source.number)
        self.orphans.discard(source)
        if self.sources.get(source.fd) is source:
            del self.sources[source.fd]

    cdef void remember(self, Registration one):
        self.registrations.add(one)
        self.holding += one.holds

    cdef void forget(self, Registration one):
        self.registrations.discard(one)
        self.holding -= one.holds
        if self.draining and self.holding == 0 and self.engine != NULL:
            nr_engine_stop(self.engine)

    def _make_ready(self, Registration one):
        """Calls it in the next turn, whatever the kernel says of its descriptor."""
        if one.active_ and one.source is not None:
            if not one.armed:
                one.armed = True
                self.apply(one.source)
            nr_source_make_ready(self.engine, one.source.number, one.bit)

    def _silence(self, Registration one):
        """Not called until _make_ready()."""
        if one.active_ and one.source is not None:
            one.armed = False
            self.apply(one.source)

    def _add_passive(self, str kind, thing, callback, *, bint holds=False, on_cancel=None):
        """A registration that another one calls, by _call()."""
        cdef Registration one
        self.check()
        one = self.make(kind, thing, callback)
        one.holds, one.on_cancel = holds, on_cancel
        self.remember(one)
        return one

    def _call(self, Registration one, *args):
        """Calls its callback, unless it is over; reports what that raises."""
        if not one.active_:
            return
        self.calls += 1
        try:
            one.callback(*args)
        except Exception as error:
            self.errors_seen += 1
            if self.report(one, one.callback, error) < 0:
                stop, self.broken = self.broken, None
                raise stop
        self.look_at_clock(one.callback)

    def _start_timer(self, str kind, double seconds, double period_s, callback, *, handler=None,
                     bint holds=True):
        """A registration with the clock; period 0: once."""
        cdef Registration one
        cdef uint64_t period_ns, due = nr_os_now_ns()
        cdef int result
        self.check()
        if seconds != seconds or seconds > 1e9 or period_s > 1e9:
            raise ValueError(f"{kind}: seconds must be a number up to 1e9, not {seconds}")
        if seconds > 0:
            due += <uint64_t>(seconds * 1e9)
        one = self.make(kind, None, callback)
        one.once = period_s == 0
        one.handler, one.holds = handler, holds
        period_ns = 0 if one.once else max(<uint64_t>(period_s * 1e9), <uint64_t>1)
        result = nr_timer_start(self.engine, due, period_ns, fire_timer, <void *>one, &one.timer)
        if result < 0:
            self.fail(result, kind, callback)
        self.timers[one.timer] = one
        self.remember(one)
        return one

    def call_soon_threadsafe(self, callback, *args):
        """Calls `callback(*args)` in the loop, in its next turn; from any thread.

        Calls keep their order. Wakes the loop. Raises ClosedError.
        """
        self.check()
        if not callable(callback):
            raise TypeError(f"the callback {callback!r} cannot be called")
        self.soon.append((callback, args))
        nr_engine_wake(self.engine)

    # ---- running ----

    cdef int run_soon(self) noexcept:
        cdef int left = min(<int>len(self.soon), CALLS_A_TURN)
        while left > 0 and self.soon:
            left -= 1
            callback, args = self.soon.popleft()
            self.calls += 1
            try:
                callback(*args)
            except Exception as error:
                self.errors_seen += 1
                if self.report(None, callback, error) < 0:
                    return -1
            except BaseException as error:
                self.broken = error
                return -1
            self.look_at_clock(callback)
        if self.soon:
            nr_engine_wake(self.engine)
        return 0

    cdef void look_at_clock(self, callback):
        cdef uint64_t now = nr_os_now_ns()
        cdef uint64_t took = now - self.now_ns
        self.now_ns = now
        if took >= self.slow_ns:
            entry = self.slow.setdefault(name_of(callback), [0, 0])
            entry[0] += 1
            entry[1] = max(entry[1], took)

    cdef int report(self, Registration one, callback, error) noexcept:
        """0; -1: the handler itself said to stop."""
        if one is not None:
            one.errors += 1
            line = error.__traceback__
            while line is not None and line.tb_next is not None:
                line = line.tb_next
            key = (type(error), None if line is None else line.tb_lineno)
            if one.reported is None:
                one.reported = set()
            if key in one.reported:
                return 0
            one.reported.add(key)
        if self.on_error is None:
            give_to_hook(error, callback)
            return 0
        try:
            self.on_error(one, error)
        except Exception as another:
            give_to_hook(another, self.on_error)
        except BaseException as stop:
            self.broken = stop
            return -1
        return 0

    cdef int fire(self, Registration one) noexcept:
        """NR_DONE, NR_MORE or BROKEN."""
        if one.once:
            one.armed = False
            self.apply(one.source)  # fails when it is closed: silent all the same
        if one.receive is not None:
            return self.deliver(one)
        return self.call(one)

    cdef int call(self, Registration one) noexcept:
        cdef int result = NR_DONE
        try:
            if one.handler is not None:  # it counts what it calls: _call()
                if one.handler(one) is True:
                    result = NR_MORE
            elif one.thing is None:
                self.calls += 1
                one.callback()
            else:
                self.calls += 1
                one.callback(one.thing)
        except Exception as error:
            self.errors_seen += 1
            if self.report(one, one.callback, error) < 0:
                return BROKEN
        except BaseException as error:
            self.broken = error
            return BROKEN
        self.look_at_clock(one.callback)
        return result

    cdef int deliver(self, Registration one) noexcept:
        """on_message: some of what is there, then the others' turn."""
        cdef int left = MESSAGES_A_TURN
        try:
            while left > 0 and one.active_ and one.armed:
                left -= 1
                try:
                    message = one.receive()
                except _ENDS as error:
                    self.end(one, error)
                    break
                if message is None:
                    if one.handler is not None:
                        one.handler(one)  # its door may have to be looked at by the clock
                    return NR_DONE
                self.calls += 1
                one.callback(one.thing, message)
                self.look_at_clock(one.callback)
        except Exception as error:
            self.errors_seen += 1
            if self.report(one, one.callback, error) < 0:
                return BROKEN
        except BaseException as error:
            self.broken = error
            return BROKEN
        return NR_MORE if one.active_ else NR_DONE

    cdef int end(self, Registration one, error) except -1:
        one.cancel()
        self.calls += 1
        if one.on_end is not None:
            one.on_end(one.thing, error)
        else:
            one.callback(one.thing, None)
        self.look_at_clock(one.on_end or one.callback)
        return 0

    def _run(self, timeout_s):
        """True: stopped; False: the time is up."""
        cdef uint64_t deadline = deadline_of(timeout_s)
        cdef int result
        self.check()
        if self.running:
            raise RuntimeError("this reactor runs already")
        self.running = True
        try:
            while True:
                if nr_engine_take_stop(self.engine):
                    return True
                PyErr_CheckSignals()  # one that came since the last look interrupts no sleep
                with nogil:
                    result = nr_engine_wait(self.engine, deadline)
                if result < 0 and result != -EINTR:
                    raise errors.from_errno(result, "reactor.run")
                PyErr_CheckSignals()
                self.now_ns = nr_os_now_ns()
                result = nr_engine_dispatch(self.engine)
                if self.broken is not None:
                    broken, self.broken = self.broken, None
                    raise broken
                if result < 0:
                    raise errors.from_errno(result, "reactor.run")
                if deadline != NR_FOREVER and nr_os_now_ns() >= deadline:
                    return bool(nr_engine_take_stop(self.engine))
        finally:
            self.running = False

    def stop(self):
        """run() returns after the turn that is under way; from any thread, and from a callback.

        A stop before run() is not lost. Raises ClosedError.
        """
        self.check()
        nr_engine_stop(self.engine)

    def fileno(self):
        """Readable when run(0) has something to do: for a reactor inside another loop.

        Raises: ClosedError, ForkedHandleError.
        """
        self.check()
        cdef int fd = nr_engine_fileno(self.engine)
        if fd < 0:
            raise errors.from_errno(fd, "reactor.fileno")
        return fd

    def _set_draining(self, bint draining):
        """From now on run() stops when nothing is left that holds it."""
        self.check()
        self.draining = draining
        if draining and self.holding == 0:
            nr_engine_stop(self.engine)

    def _counts(self):
        """What the engine has counted, as a dict of its own words."""
        cdef nr_engine_statistics s
        self.check()
        nr_engine_read_statistics(self.engine, &s)
        return {
            "waits": s.waits, "sleeps": s.sleeps, "wakeups": s.wakeups, "turns": s.turns,
            "events": s.events, "stale_events": s.stale_events, "callbacks": self.calls,
            "timers_fired": s.timers_fired, "timers_missed": s.timers_missed,
            "rebuilds": s.rebuilds, "descriptors": s.source_count, "timers": s.timer_count,
            "busy_ns": s.busy_ns, "turn_longest_ns": s.turn_longest_ns,
            "turns_by_ns": [s.turn_ns_log2[i] for i in range(40)],
        }
