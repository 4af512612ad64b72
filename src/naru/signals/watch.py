"""Receiving signals: in a call that waits, or through a descriptor that becomes readable.

Must not know: any loop; a loop polls `fileno()` and then calls `dispatch()`.
Joins: masks.py blocks what is waited for; naru.reactor has a watch for each of its signals.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from naru._native.signals import open_signalfd, read_signalfd
from naru._native.signals import wait as wait_natively
from naru.errors import ClosedError, ForkedHandleError, TimedOutError
from naru.signals.masks import Hold, blocked
from naru.signals.record import Signal, name_of, set_of, word_of

__all__ = ["SignalWatch", "on_signal", "wait"]


def wait(signals: Iterable[int] | int, timeout_s: float | None = None) -> Signal:
    """Waits for one of these signals and takes it; nothing else happens with it.

    The signals are blocked for the time of the call. One that comes just before or after it meets
    its usual fate, so block them earlier where that matters:

        with naru.signals.blocked({SIGUSR1}):
            start_what_answers_by_a_signal()
            came = naru.signals.wait({SIGUSR1})

    Standard signals coalesce, real-time ones queue: see notify(). Of several pending ones the
    lowest number comes first.

    Args:
        signals: numbers, 1..64.
        timeout_s: seconds; None = for ever, 0 = one look.

    Raises:
        TimedOutError: none came in time.
        UnsupportedError: SIGKILL, SIGSTOP, faults. ValueError: no signal.

    Releases the GIL; Ctrl-C ends it, unless SIGINT is one of them.
    Source: sigtimedwait(2).
    """
    numbers = set_of(signals)
    with blocked(numbers):
        plain = wait_natively(word_of(numbers), timeout_s)
    if plain is None:
        names = " ".join(name_of(number) for number in sorted(numbers))
        raise TimedOutError(
            f"signals.wait {names}: timed out (ETIMEDOUT); none came in time",
            operation="signals.wait",
            address=names,
        )
    return Signal.of(plain)


class SignalWatch:
    """Signals as something to read: blocked in all threads, pending until read().

    Make and close it in the main thread, best before others start (blocked() says why). Each signal
    belongs to one watch: two would share it by chance.
    """

    def __init__(
        self, signals: Iterable[int] | int, callback: Callable[[Signal], object] | None = None
    ) -> None:
        """Blocks the signals at once.

        Args:
            signals: numbers, 1..64. callback: for dispatch().

        Raises: UnsupportedError, ValueError as wait(); LimitError: no descriptor is free.
        """
        self._fd = -1
        self.signals = set_of(signals)
        """The numbers that it waits for."""
        self._callback = callback
        self._hold = Hold(self.signals)
        self._owner = os.getpid()
        try:
            self._fd = open_signalfd(word_of(self.signals))
        except BaseException:
            self._hold.release()
            raise
        _watches.add(self)

    def fileno(self) -> int:
        """Polls readable while a signal is pending. Raises ClosedError, ForkedHandleError."""
        self._check("fileno")
        return self._fd

    def read(self) -> list[Signal]:
        """Takes what is pending, at most 32 at once; empty when nothing is. Never waits.

        Read until it is empty, or poll again. A signal says "look again": several of a standard
        kind are one, so after a SIGCHLD look at all children.
        """
        self._check("read")
        return [Signal.of(plain) for plain in read_signalfd(self._fd)]

    def dispatch(self) -> int:
        """Calls the callback for each signal that is pending; returns how many. Never waits.

        An exception of the callback passes on; signals that were read with it are lost then, but
        those still queued are not.
        """
        if self._callback is None:
            raise TypeError("this watch was made without a callback")
        came = self.read()
        for signal in came:
            self._callback(signal)
        return len(came)

    def _check(self, operation: str) -> None:
        if os.getpid() != self._owner:
            raise ForkedHandleError(
                f"signals.{operation}: this watch belongs to process {self._owner}; make one here",
                operation=operation,
            )
        if self._fd < 0:
            raise ClosedError(f"signals.{operation}: the watch is closed", operation=operation)

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._fd < 0

    def close(self) -> None:
        """Gives the signals back: what is still pending meets its usual fate. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            self._hold.release()

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
        names = " ".join(name_of(number) for number in sorted(self.signals))
        return f"<SignalWatch {names}{' (closed)' if self._fd < 0 else ''}>"

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)
            self.close()


def on_signal(signals: Iterable[int] | int, callback: Callable[[Signal], object]) -> SignalWatch:
    """A watch for any loop: poll its fileno(), then call its dispatch().

        with naru.signals.on_signal({SIGTERM}, stop) as watch:
            loop.add_reader(watch, watch.dispatch)      # asyncio; selectors in the same way

    Unlike a handler of the `signal` module the callback runs where the loop calls it, between two
    other callbacks and never within one. naru.Reactor has its own on_signal().

    Raises: as SignalWatch.
    """
    return SignalWatch(signals, callback)


_watches: weakref.WeakSet[SignalWatch] = weakref.WeakSet()


def _give_back() -> None:
    """In a forked child: its parent's watches are not its own, and it shall hear SIGTERM."""
    for watch in list(_watches):
        watch.close()


os.register_at_fork(after_in_child=_give_back)
