# cython: language_level=3, binding=False, auto_pickle=False
# cython: embedsignature=True, embedsignature.format=clinic
"""The engine for Python: native protocols in the calling thread, the GIL released.

Engine      one epoll and its services; run() is the loop
Service     one protocol with its listeners, connections and limits
FramesConnection    what the callback of `frames` answers to

While run() is under way, another thread's calls that change something are handed to the running one
(`_soon`): it leaves C for a moment and makes them. Reading counters needs no such thing.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_GetPointer
from libc.string cimport memcpy, memset

from naru._native.core cimport *
from naru._native.loops cimport *
from naru._native.protocols cimport *

import collections
import os
import signal
import socket
import threading
import warnings

from naru import errors

cdef extern from "<errno.h>" nogil:
    const int EAGAIN, EINTR, ECANCELED

cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr:
        pass
    int getpeername(int fd, sockaddr *address, socklen_t *size)

cdef extern from "<unistd.h>" nogil:
    Py_ssize_t read(int fd, void *buffer, size_t size)

# Called without the GIL: protocols in C take it where they call Python.
cdef extern from "naru/engine.h" nogil:
    ctypedef int (*nr_source_callback)(nr_engine *, nr_source, uint32_t, void *) noexcept nogil
    ctypedef int (*nr_wake_callback)(nr_engine *, void *) noexcept nogil
    int nr_engine_dispatch(nr_engine *)
    void nr_engine_on_wake(nr_engine *, nr_wake_callback, void *data)
    int nr_source_add(nr_engine *, int fd, uint32_t events, unsigned priority, uint32_t flags,
                      nr_source_callback, void *data, nr_source *source)

cdef extern from "naru/os.h" nogil:
    int64_t nr_os_raise_descriptor_limit()


cdef int check(int result, str operation, object address=None) except -1:
    if result < 0:
        raise errors.from_errno(result, operation, address)
    return result


cdef uint64_t to_ns(object seconds) except? 0:
    """None: 0, which the C contract reads as its default or as never."""
    if seconds is None:
        return 0
    if not 0 < seconds <= 1e9:
        raise ValueError(f"{seconds!r} is no number of seconds above 0")
    return <uint64_t>max(1, int(seconds * 1e9))


def raise_descriptor_limit():
    """RLIMIT_NOFILE, raised to its hard limit. Returns: what it is now."""
    return check(nr_os_raise_descriptor_limit(), "raise the descriptor limit")


# Called without the GIL: both end the run, so that Python looks at its signals and calls.

cdef int leave_for_signal(nr_engine *engine, nr_source source, uint32_t events,
                          void *data) noexcept nogil:
    cdef char[256] thrown_away
    while read(<int><Py_ssize_t>data, thrown_away, sizeof(thrown_away)) > 0:
        pass
    return -EINTR


cdef int leave_for_calls(nr_engine *engine, void *data) noexcept nogil:
    return -EINTR


cdef void stop_when_empty(nr_service *service, void *data) noexcept nogil:
    nr_engine_stop(<nr_engine *>data)


cdef class Engine:
    """One epoll loop that runs native protocols. See naru.engine for how it is used.

    Args:
        turn_s: After so long, ready connections that have not been served yet wait until the kernel
            was asked again for more urgent ones.
        reuse_port: Its TCP listeners share their ports with those of other processes that say so, too;
            the kernel deals the connections out (SO_REUSEPORT, socket(7)).
    """
    cdef nr_engine *core
    cdef object calls, services, running
    cdef object __weakref__

    cdef readonly bint reuse_port

    def __cinit__(self, *, double turn_s=0.002, bint reuse_port=False):
        cdef nr_engine_settings settings
        memset(&settings, 0, sizeof(settings))
        settings.turn_ns = to_ns(turn_s)
        check(nr_engine_create(&settings, &self.core), "create an engine")
        nr_engine_on_wake(self.core, leave_for_calls, NULL)
        self.calls = collections.deque()
        self.services = []
        self.running = None
        self.reuse_port = reuse_port

    def __del__(self):
        # Here and not in __dealloc__: it is part of a cycle, and by then its services are cleared.
        if self.core != NULL:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self._destroy()

    cdef _destroy(self):
        cdef Service service
        for service in self.services or ():
            service._destroy()
        nr_engine_destroy(self.core)
        self.core = NULL

    cdef int admit(self) except -1:
        if self.core == NULL:
            raise errors.ClosedError("the engine is closed", operation="engine")
        return 0

    cdef int admit_change(self) except -1:
        """What changes the engine is for the thread that runs it."""
        self.admit()
        if self.running is not None and self.running != threading.get_ident():
            raise RuntimeError("the engine runs in another thread: use engine.call_soon()")
        return 0

    def __repr__(self):
        state = "closed" if self.core == NULL else f"{len(self.services)} services"
        return f"<Engine {state}>"

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        """Cuts every connection and gives the descriptors up. Idempotent; not while it runs."""
        if self.core == NULL:
            return
        if self.running is not None:
            raise RuntimeError("the engine runs: stop() it, then close it")
        self._destroy()

    # ---- services ----

    cdef Service _add(self, nr_service_settings *settings, dict limits, str name):
        cdef Service service = Service.__new__(Service)
        fill_limits(settings, limits)
        check(nr_service_create(self.core, settings, &service.core), f"serve {name}")
        nr_service_on_empty(service.core, stop_when_empty, self.core)
        service.engine = self
        service.name = name
        service.addresses = []
        service.closers = []
        self.services.append(service)
        return service

    def make_echo(self, **limits):
        """A service that sends every byte back. Returns: the Service, without a listener yet."""
        cdef nr_service_settings settings
        self.admit_change()
        memset(&settings, 0, sizeof(settings))
        settings.protocol = &nr_protocol_echo
        return self._add(&settings, limits, "echo")

    def make_proxy(self, target, *, connect_timeout_s=None, **limits):
        """A service that joins each connection with one to `target`.

        Args:
            target: (family, address) as the socket module has them; a host in numbers.
        """
        cdef nr_service_settings settings
        cdef nr_splice_target to
        cdef nr_splice *splice
        cdef Service service
        self.admit_change()
        memset(&settings, 0, sizeof(settings))
        memset(&to, 0, sizeof(to))
        packed = pack_address(*target)
        memcpy(&to.address, <const char *>packed, len(packed))
        to.address_bytes = <socklen_t>len(packed)
        to.connect_timeout_ns = to_ns(connect_timeout_s)
        check(nr_splice_create(&to, &splice), "serve a proxy")
        settings.protocol = &nr_protocol_splice
        settings.context = splice
        service = self._add(&settings, limits, "proxy")
        service.splice = splice
        return service

    def make_frames(self, on_message, *, on_open=None, on_close=None, max_message_bytes=None, **limits):
        """A service that speaks naru's messages to naru.connect() and naru.sender().

        Args:
            on_message: Called with (connection, bytes), the GIL held.
            on_open: Called with the connection; on_close: with (connection, error or None).
            max_message_bytes: Default 16 MiB.
        """
        cdef nr_service_settings settings
        cdef nr_frames_settings frames
        cdef nr_frames *made
        cdef Service service
        self.admit_change()
        memset(&settings, 0, sizeof(settings))
        memset(&frames, 0, sizeof(frames))
        frames.max_message_bytes = max_message_bytes or 16 << 20
        frames.on_frame = frame_came
        frames.on_open = frames_opened
        frames.on_close = frames_closed
        calls = _FramesCalls(on_message, on_open, on_close)
        frames.data = <void *>calls
        check(nr_frames_create(&frames, &made), "serve frames")
        settings.protocol = &nr_protocol_frames
        settings.context = made
        limits.setdefault("input_limit_bytes", min(frames.max_message_bytes + 65536, _MOST))
        limits.setdefault("output_limit_bytes", min(2 * frames.max_message_bytes + (1 << 20), _MOST))
        service = self._add(&settings, limits, "frames")
        service.frames_core = made
        service.calls = calls
        (<_FramesCalls>calls).service = service
        return service

    def make_protocol(self, protocol, str name, **limits):
        """A service of a protocol that another native module brings.

        Args:
            protocol: a capsule "naru.protocol": the nr_protocol_ops, and as its context the service's,
                which is the service's own from success on.
        """
        cdef nr_service_settings settings
        self.admit_change()
        memset(&settings, 0, sizeof(settings))
        settings.protocol = <const nr_protocol_ops *>PyCapsule_GetPointer(protocol, "naru.protocol")
        settings.context = PyCapsule_GetContext(protocol)
        return self._add(&settings, limits, name)

    # ---- the loop ----

    def run(self, timeout_s=None):
        """Serves until stop(), or for so long. Ctrl-C and other signal handlers run as usual.

        Returns: True after a stop(), False when the time is up. Blocks; the GIL is released.
        Raises: what a callback of `frames` raised, KeyboardInterrupt; the engine can run again.
        """
        cdef uint64_t deadline = NR_FOREVER
        self.admit()
        if self.running is not None:
            raise RuntimeError("the engine runs already")
        if timeout_s is not None:
            deadline = nr_os_now_ns() + <uint64_t>(max(0.0, timeout_s) * 1e9)
        self.running = threading.get_ident()
        try:
            with _SignalBell(self):
                return self._run(deadline)
        finally:
            self.running = None

    cdef object _run(self, uint64_t deadline):
        cdef int result
        while True:
            with nogil:
                result = nr_engine_run(self.core, deadline)
            PyErr_CheckSignals()
            self._make_calls()
            self._raise_pending()
            if result != -EINTR:
                return bool(check(result, "run the engine"))
            if deadline != NR_FOREVER and nr_os_now_ns() >= deadline:
                return False

    def stop(self):
        """Ends run(), or the next one. From any thread, or a signal handler."""
        self.admit()
        nr_engine_stop(self.core)

    def call_soon(self, call):
        """Has the running thread call this; at once when nothing runs, or in that thread itself."""
        self.admit()
        if self.running is None or self.running == threading.get_ident():
            call()
            return
        self.calls.append(call)
        nr_engine_wake(self.core)

    cdef _make_calls(self):
        while self.calls:
            self.calls.popleft()()

    cdef _raise_pending(self):
        cdef Service service
        for service in self.services:
            if service.calls is not None and service.calls.error is not None:
                error, service.calls.error = service.calls.error, None
                raise error

    def read_statistics(self):
        """A dict of plain numbers: EngineStatistics of naru.engine has their meaning."""
        cdef nr_engine_statistics found
        self.admit()
        nr_engine_read_statistics(self.core, &found)
        numbers = dict(found)
        numbers["turns_by_ns"] = tuple(numbers.pop("turn_ns_log2"))
        return numbers


cdef class _SignalBell:
    """In the main thread, a signal ends the run at once, also one that came just before the sleep."""
    cdef Engine engine
    cdef object ends, previous
    cdef nr_source source

    def __cinit__(self, Engine engine):
        self.engine = engine

    def __enter__(self):
        self.ends = None
        if threading.current_thread() is not threading.main_thread():
            return self
        self.ends = socket.socketpair()
        for end in self.ends:
            end.setblocking(False)
        check(nr_source_add(self.engine.core, self.ends[0].fileno(), NR_READABLE, NR_PRIORITY_FIRST,
                            0, leave_for_signal, <void *><Py_ssize_t>self.ends[0].fileno(),
                            &self.source), "watch for signals")
        self.previous = signal.set_wakeup_fd(self.ends[1].fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *exc_info):
        if self.ends is None:
            return
        signal.set_wakeup_fd(self.previous)
        nr_source_remove(self.engine.core, self.source)
        for end in self.ends:
            end.close()


cdef class Service:
    """One protocol of an engine: its listeners and its connections."""
    cdef nr_service *core
    cdef nr_splice *splice
    cdef nr_frames *frames_core
    cdef Engine engine
    cdef _FramesCalls calls
    cdef list closers
    cdef readonly str name
    cdef readonly list addresses

    def __init__(self):
        raise TypeError("a service is made by its engine: engine.echo(), .proxy(), .frames()")

    def __repr__(self):
        if self.core == NULL:
            return f"<Service {self.name} closed>"
        return f"<Service {self.name} {self.statistics()['open']} open>"

    cdef int admit(self) except -1:
        if self.core == NULL:
            raise errors.ClosedError("the service's engine is closed", operation="engine")
        return 0

    cdef _destroy(self):
        nr_service_destroy(self.core)
        self._give_names_up()
        self.core = NULL
        self.splice = NULL
        self.frames_core = NULL

    cdef _give_names_up(self):
        closers, self.closers = self.closers, []
        for close in closers or ():
            close()

    def listen(self, sock, address=None, close_name=None):
        """Accepts from this listening socket, which it takes over (detaches). Not while it runs.

        Args:
            address: What `addresses` shows; close_name: called when it listens no more.
        """
        self.admit()
        self.engine.admit_change()
        check(nr_service_listen(self.core, sock.fileno()), "listen", address)
        sock.detach()
        self.addresses.append(address)
        if close_name is not None:
            self.closers.append(close_name)

    def stop_listening(self):
        """Closes the listeners; connections go on. From any thread."""
        self.admit()
        self.engine.call_soon(self._stop_listening)

    def _stop_listening(self):
        nr_service_stop_listening(self.core)
        self._give_names_up()

    def drain(self):
        """Stops listening and lets each connection end what it does. From any thread.

        When the last one has ended, run() returns as after a stop().
        """
        self.admit()
        self.engine.call_soon(self._drain)

    def _drain(self):
        nr_service_drain(self.core)
        self._give_names_up()

    def cut_all(self):
        """Cuts all connections at once. From any thread."""
        self.admit()
        self.engine.call_soon(self._cut_all)

    def _cut_all(self):
        nr_service_cut_all(self.core)

    def statistics(self):
        """A dict of plain numbers: those of every service, then the protocol's own."""
        cdef nr_service_statistics found
        cdef nr_splice_statistics spliced
        cdef nr_frames_statistics framed
        self.admit()
        nr_service_read_statistics(self.core, &found)
        numbers = dict(found)
        if self.splice != NULL:
            nr_splice_read_statistics(self.splice, &spliced)
            numbers.update(spliced)
        if self.frames_core != NULL:
            nr_frames_read_statistics(self.frames_core, &framed)
            numbers.update(framed)
        return numbers


_MOST = 2**32 - 1
_LIMITS = frozenset({
    "connection_limit", "accept_batch", "input_limit_bytes", "high_water_bytes", "low_water_bytes",
    "output_limit_bytes", "idle_timeout_s", "stall_timeout_s", "linger_timeout_s",
})

cdef int fill_limits(nr_service_settings *settings, dict limits) except -1:
    unknown = set(limits) - _LIMITS
    if unknown:
        raise TypeError(f"no such limit: {', '.join(sorted(unknown))}")
    settings.connection_limit = limits.get("connection_limit") or 0
    settings.accept_batch = limits.get("accept_batch") or 0
    settings.input_limit_bytes = limits.get("input_limit_bytes") or 0
    settings.high_water_bytes = limits.get("high_water_bytes") or 0
    settings.low_water_bytes = limits.get("low_water_bytes") or 0
    settings.output_limit_bytes = limits.get("output_limit_bytes") or 0
    settings.idle_timeout_ns = to_ns(limits.get("idle_timeout_s"))
    settings.stall_timeout_ns = to_ns(limits.get("stall_timeout_s"))
    settings.linger_timeout_ns = to_ns(limits.get("linger_timeout_s"))
    return 0


def pack_address(family, address):
    """The bytes of a sockaddr: as the kernel itself writes it, unix(7), ip(7), ipv6(7)."""
    import struct
    if family == socket.AF_UNIX:
        path = os.fsencode(address) if isinstance(address, str) else bytes(address)
        ending = b"" if path.startswith(b"\0") else b"\0"
        return struct.pack("=H", family) + path + ending
    if family == socket.AF_INET:
        host, port = address
        return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
    host, port, flow, scope = address
    return (struct.pack("=H", family) + struct.pack("!HI", port, flow)
            + socket.inet_pton(family, host.partition("%")[0]) + struct.pack("=I", scope))


# ---- frames ----

cdef class _FramesCalls:
    """The functions of a frames service, and the first error that one of them raised."""
    cdef object on_message, on_open, on_close
    cdef object error
    cdef Service service

    def __cinit__(self, on_message, on_open, on_close):
        self.on_message, self.on_open, self.on_close = on_message, on_open, on_close


cdef class FramesConnection:
    """One connection of a frames service, for its callbacks. Outlives the connection safely."""
    cdef Service service
    cdef readonly uint64_t number

    def __init__(self):
        raise TypeError("connections are made by a frames service")

    def __eq__(self, other):
        return (isinstance(other, FramesConnection)
                and self.number == (<FramesConnection>other).number
                and self.service is (<FramesConnection>other).service)

    def __hash__(self):
        return hash(self.number)

    def __repr__(self):
        return f"<FramesConnection {self.number:#x}>"

    cdef nr_connection *find(self) except NULL:
        cdef nr_connection *found
        self.service.admit()
        self.service.engine.admit_change()
        found = nr_service_find(self.service.core, self.number)
        if found == NULL:
            raise errors.PeerGoneError("the connection has ended", operation="send")
        return found

    def send(self, bytes data):
        """Sends or queues a message; never waits. In a callback, or while the engine does not run.

        Raises: PeerGoneError, TooBigError; LimitError when the queue is above its limit, and the
        connection was cut.
        """
        check(nr_frames_send(self.find(), <const char *>data, len(data)), "send")

    def close(self):
        """Ends it in good order; what is queued goes out first."""
        nr_connection_close(self.find())


cdef FramesConnection face_of(_FramesCalls calls, nr_connection *connection):
    cdef FramesConnection face = FramesConnection.__new__(FramesConnection)
    face.service = calls.service
    face.number = nr_connection_number(connection)
    return face


cdef int note_error(_FramesCalls calls, object error) noexcept:
    """The connection is cut; run() raises it, and wakes to do so at once."""
    if calls.error is None:
        calls.error = error
    nr_engine_wake(calls.service.engine.core)
    return -ECANCELED


cdef int frame_came(nr_connection *connection, const uint8_t *data, size_t size,
                    void *context) noexcept with gil:
    cdef _FramesCalls calls = <_FramesCalls>context
    try:
        calls.on_message(face_of(calls, connection),
                         PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>size))
    except BaseException as error:
        return note_error(calls, error)
    return 0


cdef int frames_opened(nr_connection *connection, void *context) noexcept with gil:
    cdef _FramesCalls calls = <_FramesCalls>context
    try:
        if calls.on_open is not None:
            calls.on_open(face_of(calls, connection))
    except BaseException as error:
        return note_error(calls, error)
    return 0


cdef void frames_closed(nr_connection *connection, int reason, void *context) noexcept with gil:
    cdef _FramesCalls calls = <_FramesCalls>context
    try:
        if calls.on_close is not None:
            calls.on_close(face_of(calls, connection),
                           None if reason == 0 else errors.from_errno(reason, "serve frames", None))
    except BaseException as error:
        note_error(calls, error)
