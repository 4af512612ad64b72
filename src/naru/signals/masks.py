"""Blocking signals, in every thread.

The kernel keeps a mask for each thread and gives a signal of the process to any thread that does
not block it. A new thread inherits its maker's mask, so what is blocked before the first thread
starts is blocked everywhere. Threads that exist already (numpy's are started by its import) are
met when a signal reaches one: it is blocked there then, for good, and sent to the process again
(native/include/naru/signals.h).

Must not know: who waits for what is blocked.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator

from naru._native.signals import Caught
from naru.signals.record import set_of

__all__ = ["Hold", "blocked", "unblocked"]

_caught = Caught()  # a mirror of the process's dispositions, of which there is one, too


class Hold:
    """Signals that are blocked until release(), which is called in the same thread."""

    def __init__(self, numbers: frozenset[int]) -> None:
        held: list[int] = []
        try:
            for number in numbers:
                _caught.hold(number)
                held.append(number)
        except BaseException:
            for number in held:
                _caught.release(number)
            raise
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        self._mine = frozenset(numbers - {int(number) for number in before})
        self._numbers = numbers

    def release(self) -> None:
        """What is pending meets what would have happened with it before. Idempotent."""
        numbers, self._numbers = self._numbers, frozenset()
        for number in numbers:
            _caught.release(number)
        if self._mine:
            mine, self._mine = self._mine, frozenset()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, mine)


@contextlib.contextmanager
def blocked(signals: Iterable[int] | int) -> Iterator[None]:
    """Holds signals back in all threads of this process, for the time of a `with` block.

    What comes meanwhile stays pending: for wait(), for a SignalWatch, or, when the block is left,
    for whatever would have happened without it. Enter it in the main thread and before others
    start; a thread that existed already joins when the first such signal reaches it, and then
    keeps it blocked.

    Programs that are started inside inherit the mask: see unblocked().

    Args:
        signals: numbers, 1..64.

    Raises:
        UnsupportedError: SIGKILL, SIGSTOP; the faults of a thread (SIGSEGV, SIGBUS, SIGFPE, SIGILL).
        ValueError: not a signal.

    Source: signal(7), pthread_sigmask(3).
    """
    hold = Hold(set_of(signals))
    try:
        yield
    finally:
        hold.release()


@contextlib.contextmanager
def unblocked() -> Iterator[None]:
    """Start other programs in here: a mask outlives exec, and they would never hear SIGTERM.

    Nothing is blocked in this thread for the time of the `with` block. What a SignalWatch, a
    Reactor or blocked() waits for is still theirs. For `subprocess.Popen` and the like; a forked
    child of Python gives back by itself what its parent's watches hold.
    """
    before = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
