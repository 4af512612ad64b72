"""The Reactor: everything that can happen to a process, in one loop and one thread.

Holds: what each verb makes of the native loop (naru._native.reactor): how long a callback may go on
before the others' turn, and what has to be looked at by the clock.
Must not know: the engine behind it. Joins: accepting.py, changes.py, naru.signals.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from naru._native.ends import Endpoint, Receiver
from naru._native.reactor import Loop, Registration, door_of
from naru.errors import ClosedError, ForkedHandleError, UnsupportedError
from naru.reactor.accepting import door_pause_s, open_acceptor
from naru.reactor.changes import Change, Changes
from naru.reactor.statistics import ReactorStatistics, SlowCallback, quantile_s
from naru.signals import ProcessHandle, Signal, SignalWatch, open_process

__all__ = ["ErrorHandler", "HasFileno", "Reactor"]

CONNECTIONS_A_TURN = 16


class HasFileno(Protocol):
    """What has a descriptor: a socket, a pipe, a file of `subprocess`."""

    def fileno(self) -> int: ...


Thing = TypeVar("Thing", bound="int | HasFileno")
End = TypeVar("End", bound=Receiver)
Process = TypeVar("Process")
ErrorHandler = Callable[[Registration | None, Exception], object]


class Reactor(Loop):
    """One thread that waits for any number of things and calls a function for each.

        with naru.Reactor() as reactor:
            reactor.on_message(channel, lambda channel, message: ...)
            reactor.on_signal(signal.SIGTERM, lambda signal: reactor.stop())
            reactor.run()

    Callbacks run one after the other in the thread of run(), so they need no locks; one that takes
    long holds up the others, and statistics() tells its name. One that raises is reported once and
    goes on being called. KeyboardInterrupt and SystemExit leave run().

    Belongs to the process that made it: in a forked child everything raises ForkedHandleError.
    All methods but run() may be called by other threads, as long as they hold the GIL, which they do.
    """

    def __init__(
        self,
        *,
        on_error: ErrorHandler | None = None,
        slow_callback_s: float = 0.1,
        turn_s: float = 0.002,
    ) -> None:
        """Makes the loop; it takes three descriptors.

        Args:
            on_error: called with (registration, exception) when a callback raises; the registration
                is None for call_soon_threadsafe(). Each place that raises is told once a
                registration, and counted in statistics(). None: sys.unraisablehook.
            slow_callback_s: a callback that takes longer is named by statistics().
            turn_s: how long ready callbacks are called before the loop looks for new events,
                0..10; every priority gets at least one call a turn.

        Raises: LimitError: no descriptor is free.
        """
        super().__init__(turn_s, slow_callback_s)
        self.on_error = on_error
        self._owner = os.getpid()
        self._changes: Changes | None = None
        self._changes_source: Registration | None = None
        self._signals: set[int] = set()
        self._watches: set[SignalWatch] = set()
        self._draining = False
        self._limit: Registration | None = None

    # ---- descriptors ----

    def on_readable(
        self, thing: Thing, callback: Callable[[Thing], object], *, once: bool = False,
        priority: int = 0,
    ) -> Registration:  # fmt: skip
        """Calls `callback(thing)` while there is something to read, or the other side has ended.

        Level-triggered: what you leave is told again. Read a bounded amount, so that others get
        their turn. Cancel before you close the descriptor; if that is forgotten nothing wrong is
        called, also when its number is used again.

        Args:
            thing: a descriptor, or what has fileno(): sockets, pipes, subprocess's stdout. naru's
                own ends are better off with on_message().
            once: silent after one call, until Registration.rearm().
            priority: 2 (first), 1, 0, -1 (last): among what is ready at the same time.

        Raises:
            UnsupportedError: a regular file or a directory, which are always ready.
            ValueError: it has a callback for reading already; ClosedError; LimitError;
            ForkedHandleError.

        Source: epoll(7).
        """
        return self._on_descriptor("on_readable", True, thing, callback, once, priority)

    def on_writable(
        self, thing: Thing, callback: Callable[[Thing], object], *, once: bool = False,
        priority: int = 0,
    ) -> Registration:  # fmt: skip
        """Calls `callback(thing)` while there is room to write, or the other side is gone.

        Nearly always there is: register when a write said "not now", with once=True, or cancel when
        everything is out.

        Args, Raises: as on_readable(). UnsupportedError also for naru's ends: use send() or
            try_send(); their descriptor tells of messages only.
        """
        if isinstance(thing, Endpoint):
            raise UnsupportedError(
                f"reactor.on_writable {thing!r}: this end's descriptor tells of messages, not of "
                "room; use send() or try_send()",
                operation="reactor.on_writable",
            )
        return self._on_descriptor("on_writable", False, thing, callback, once, priority)

    def _on_descriptor(
        self, kind: str, readable: bool, thing: Any, callback: Any, once: bool, priority: int
    ) -> Registration:
        fd = thing if isinstance(thing, int) else thing.fileno()
        return self._watch(kind, fd, readable, thing, callback, once=once, priority=priority)

    # ---- messages ----

    def on_message(
        self,
        end: End,
        callback: Callable[[End, Any], object],
        *,
        on_end: Callable[[End, Exception], object] | None = None,
        priority: int = 0,
    ) -> Registration:
        """Calls `callback(end, message)` for each message; at most 16, then it is others' turn.

        Every transport. Only the callbacks of this reactor should receive from this end.

        Args:
            end: a Channel or a Receiver.
            callback: also gets the end of the conversation, as message None, unless there is on_end.
            on_end: called with (end, error) instead: PeerGoneError (`error.orderly`: it closed),
                ClosedError (this side did), CorruptedError, ProtocolError. The registration is over
                then; closing the end is yours.
            priority: as on_readable().

        Raises: ClosedError, ForkedHandleError, LimitError, UnsupportedError (a Sender), ValueError.
        """
        door = door_of(end)
        pause: list[Registration] = []

        def look_later(one: Registration) -> None:
            wait_s = door_pause_s(door)
            if wait_s is not None and not any(timer.active for timer in pause):
                pause[:] = [self._look_again(one, wait_s)]

        registration = self._watch(
            "on_message", end.fileno(), True, end, callback, priority=priority,
            receive=end.try_receive, on_end=on_end, handler=look_later if door else None,
            on_cancel=lambda: _cancel_all(pause),
        )  # fmt: skip
        self._make_ready(registration)  # what has been read already is no event any more
        return registration

    def _look_again(self, one: Registration, wait_s: float) -> Registration:
        return self._start_timer(
            "look_again", wait_s, 0, one.callback, handler=lambda _: self._make_ready(one),
            holds=False,
        )  # fmt: skip

    def on_connection(
        self, listener: Any, callback: Callable[[Any], object], *, priority: int = 0
    ) -> Registration:
        """Calls `callback(connection)` for everyone who connects; the connection is yours.

        Without a free descriptor it pauses, a tenth of a second at a time, and goes on when there
        is one: who knocked meanwhile waits in the kernel's backlog.

        Args:
            listener: a naru.Listener, which gives channels, or a listening socket.socket, which
                gives nonblocking sockets.
            priority: as on_readable().

        Raises: as on_readable().
        """
        acceptor = open_acceptor(listener)
        pause: list[Registration] = []

        def accept(one: Registration) -> bool:
            for _ in range(CONNECTIONS_A_TURN):
                try:
                    connection = acceptor.accept()
                except (ClosedError, ForkedHandleError):
                    one.cancel()
                    return False
                if connection is None:
                    break
                self._call(one, connection)
                if not one.active:
                    return False
            else:
                return True
            wait_s = acceptor.pause_s
            if wait_s is not None and not any(timer.active for timer in pause):
                if acceptor.is_full:  # readable all the time: silent until then
                    self._silence(one)
                pause[:] = [self._look_again(one, wait_s)]
            return False

        registration = self._watch(
            "on_connection", listener.fileno(), True, listener, callback, priority=priority,
            handler=accept, holds=False, on_cancel=lambda: _cancel_all(pause),
        )  # fmt: skip
        self._make_ready(registration)
        return registration

    # ---- time ----

    def after(self, seconds: float, callback: Callable[[], object]) -> Registration:
        """Calls `callback()` once, never early; 0 or less: in the next turn.

        The clock is CLOCK_MONOTONIC: setting the time does nothing to it, and it stands still while
        the machine is suspended. Timers of one instant fire in the order in which they were made.

        Raises: ValueError: not a number, or above 1e9 seconds. ClosedError, ForkedHandleError.
        """
        return self._start_timer("after", seconds, 0.0, callback)

    def every(self, seconds: float, callback: Callable[[], object]) -> Registration:
        """Calls `callback()` every so many seconds, the first time after one period.

        Periods that could not be served (this process was stopped, a callback took long) are left
        out and counted in Registration.missed; they are not made up for by a burst.

        Raises: ValueError: not above 0. ClosedError, ForkedHandleError.
        """
        if not seconds > 0:
            raise ValueError(f"every: the period must be above 0 seconds, not {seconds!r}")
        return self._start_timer("every", seconds, seconds, callback, holds=False)

    # ---- signals, processes, files ----

    def on_signal(
        self, signals: Iterable[int] | int, callback: Callable[[Signal], object]
    ) -> Registration:
        """Calls `callback(signal)` for each signal that comes: between callbacks, never within one.

        The signals are blocked in all threads, from now until it is cancelled: make and cancel it
        in the main thread. Real-time signals queue; a standard one says "look",
        however often it was sent: after SIGCHLD look at all children (on_exit() does by itself;
        naru.signals.reap_children()). Start other programs within naru.signals.unblocked(). What is
        pending when it is cancelled, or the reactor closed, meets its usual fate.

        Raises:
            UnsupportedError: SIGKILL, SIGSTOP, a thread's own faults; or this is not the main
                thread, and that one does not block them.
            ValueError: no signal, or it has a callback in this reactor already.
        """
        with _closing_on_error(SignalWatch(signals)) as watch:
            twice = watch.signals & self._signals
            if twice:
                raise ValueError(
                    f"on_signal: {sorted(twice)} have a callback in this reactor already"
                )

            def deliver(one: Registration) -> None:
                for signal in watch.read():
                    self._call(one, signal)

            def leave() -> None:
                self._signals -= watch.signals
                self._watches.discard(watch)
                watch.close()

            registration = self._watch(
                "on_signal", watch.fileno(), True, watch, callback, priority=1, holds=False,
                handler=deliver, on_cancel=leave,
            )  # fmt: skip
            self._signals |= watch.signals
            self._watches.add(watch)
        return registration

    def on_exit(
        self, process: Process, callback: Callable[[Process, int | None], object]
    ) -> Registration:
        """Calls `callback(process, returncode)` once, when the process has exited.

        By pidfd: of any number of children none is missed, and another process that gets the same
        number is not mistaken for it.

        Args:
            process: a pid, subprocess.Popen, multiprocessing.Process, naru.signals.ProcessHandle.
            callback: the code is as Popen's (minus the signal that ended it), and the process is
                reaped; None for a process that is not a child of this one.

        Raises: PeerGoneError: it was reaped already. LimitError, ClosedError, ForkedHandleError.
        """
        known: Any = process
        if isinstance(known, ProcessHandle):  # a descriptor of its own: theirs may be closed
            handle = ProcessHandle(os.dup(known.fileno()), known.pid)
        else:
            handle = open_process(known)
        with _closing_on_error(handle):

            def tell(one: Registration) -> None:
                returncode = _reap(known, handle)
                self._call(one, process, returncode)
                one.cancel()

            return self._watch(
                "on_exit", handle.fileno(), True, process, callback, handler=tell,
                on_cancel=handle.close,
            )  # fmt: skip

    def on_change(
        self, path: str | os.PathLike[str], callback: Callable[[Change], object]
    ) -> Registration:
        """Calls `callback(change)` when a file, or something in a directory, has changed.

        A file is watched by its name: it may be missing, rotated, replaced; its directory must be
        there. Symbolic links are not followed to the changes of what they point to. Changes that
        come faster than they are read end in one of kind "overflow": look at everything again then.

        Args:
            path: of a file, or of a directory for all its entries (not those below them).

        Raises: NoSuchNameError: no such directory. NotPermittedError; LimitError:
            fs.inotify.max_user_watches or max_user_instances; ClosedError.

        Source: inotify(7).
        """
        changes = self._open_changes()
        where = os.fspath(path)
        keys: list[object] = []
        one = self._add_passive(
            "on_change", where, callback, on_cancel=lambda: changes.remove_all(keys)
        )
        try:
            keys.append(changes.add(where, lambda change: self._call(one, change)))
        except BaseException:
            one.cancel()
            raise
        return one

    def _open_changes(self) -> Changes:
        if self._changes is None:
            changes = Changes()
            with _closing_on_error(changes):
                self._changes_source = self._watch(
                    "changes", changes.fileno(), True, changes, changes.dispatch, holds=False,
                    handler=self._tell_changes,
                )  # fmt: skip
            self._changes = changes
        return self._changes

    def _tell_changes(self, one: Registration) -> None:
        if self._changes is not None:
            for callback, change in self._changes.dispatch():
                callback(change)

    # ---- running ----

    def run(self, timeout_s: float | None = None) -> bool:
        """Waits and calls, until stop(), the end of drain(), or the time is up.

        Args:
            timeout_s: seconds; None = for ever, 0 = one turn.

        Returns: True: it was stopped, or everything was drained; False: the time was up.

        Raises: KeyboardInterrupt, SystemExit of a callback or Ctrl-C; RuntimeError: it runs already;
            ClosedError; ForkedHandleError.

        Releases the GIL while it waits. Without anything to do it sleeps and does not wake up.
        """
        stopped = self._run(timeout_s)
        limit, draining = self._limit, self._draining
        if not (stopped and draining):
            return stopped
        self._draining, self._limit = False, None
        self._set_draining(False)
        if limit is not None:
            limit.cancel()
        return limit is not None

    def drain(self, timeout_s: float) -> bool:
        """Ends in good order: nothing new is begun, what is under way may finish.

        No more connections are taken (on_connection is cancelled, so that others may have them) and
        no periods begin (every). run() goes on until nothing is left but on_signal and on_change,
        that is, until all conversations and descriptors were cancelled or have ended, processes
        have exited and after() has fired; at most `timeout_s`.

        Called by a callback it returns at once, and run() returns when it is over. Outside of run()
        it runs the loop itself.

        Args:
            timeout_s: seconds, at least 0.

        Returns: True: everything ended (in a callback: it has begun); False: the time was up.
        """
        if not timeout_s >= 0:
            raise ValueError(f"drain: timeout_s must be at least 0, not {timeout_s!r}")
        for one in list(self.registrations):
            if one.kind in ("on_connection", "every"):
                one.cancel()
        self._limit = self._start_timer(
            "drain", timeout_s, 0.0, self.drain, handler=self._give_up, holds=False
        )
        self._draining = True
        self._set_draining(True)
        return True if self.is_running else self.run()

    def _give_up(self, _: Registration) -> None:
        self._limit = None
        self.stop()

    # ---- facts and the end ----

    def statistics(self) -> ReactorStatistics:
        """What was counted since it was made. Raises ClosedError."""
        counts = self._counts()
        slow = [SlowCallback(name, n, ns / 1e9) for name, (n, ns) in self.slow.items()]
        return ReactorStatistics(
            turns=counts["turns"],
            callbacks=counts["callbacks"],
            errors=self.errors_seen,
            sleeps=counts["sleeps"],
            wakeups=counts["wakeups"],
            timers_fired=counts["timers_fired"],
            timers_missed=counts["timers_missed"],
            stale_events=counts["stale_events"],
            registrations=len(self.registrations),
            busy_s=counts["busy_ns"] / 1e9,
            turn_median_s=quantile_s(counts["turns_by_ns"], 0.5),
            turn_p99_s=quantile_s(counts["turns_by_ns"], 0.99),
            turn_longest_s=counts["turn_longest_ns"] / 1e9,
            slow=tuple(sorted(slow, key=lambda one: -one.longest_s)),
        )

    def close(self) -> None:
        """Cancels everything; descriptors and ends stay open, they are yours. Idempotent.

        Raises: RuntimeError: in a callback of its own; stop() first.
        """
        super().close()
        changes, self._changes = self._changes, None
        if changes is not None:
            changes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        note = "closed" if self.closed else f"{len(self.registrations)} registrations"
        return f"<Reactor ({note})>"


@contextlib.contextmanager
def _closing_on_error(holder: Any) -> Iterator[Any]:
    try:
        yield holder
    except BaseException:
        holder.close()
        raise


def _cancel_all(registrations: list[Registration]) -> None:
    for one in registrations:
        one.cancel()


def _reap(process: Any, handle: ProcessHandle) -> int | None:
    """The exit code; an object that reaps its process itself is asked, so that it knows."""
    if hasattr(process, "poll"):
        code: int | None = process.poll()
        return code
    if not isinstance(process, int | ProcessHandle):
        known = getattr(process, "exitcode", getattr(process, "returncode", None))
        return known if isinstance(known, int) else None
    try:
        ended = os.waitid(os.P_PIDFD, handle.fileno(), os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
