"""Blocking signals, in every thread.

The kernel keeps a mask for each thread and gives a signal of the process to any thread that does
not block it. A new thread inherits its maker's mask, so what is blocked before the first thread
starts is blocked everywhere. Threads that exist already (numpy's are started by its import) are
asked to block it, too, and keep it blocked (native/include/naru/signals.h). Should one start later
that unblocks it, it is blocked there when a signal reaches it, which is then sent to the process
once more.

Must not know: who waits for what is blocked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator

from naru._native.signals import Caught, block_in_thread
from naru.errors import UnsupportedError
from naru.signals.record import name_of, set_of, word_of

__all__ = ["Hold", "blocked", "unblocked"]

PATIENCE_S = 1.0  # for a thread deep in the kernel
ALL = 2**64 - 1

# glibc keeps 32 and 33 for itself and blocks them only for a moment: in a thread that is just being
# made, whose mask is not its own yet.
STARTING = word_of([33])

_caught = Caught()  # a mirror of the process's dispositions, of which there is one, too


class Hold:
    """Signals that are blocked until release(), which is called in the same thread."""

    def __init__(self, numbers: frozenset[int]) -> None:
        _demand_main_thread(numbers)
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
        self._ask_others()

    def _ask_others(self) -> None:
        asked: set[tuple[int, int]] = set()
        deadline_s = time.monotonic() + PATIENCE_S
        while lacking := self._look_at_others():
            for thread, number in lacking - asked:
                if number:
                    block_in_thread(thread, number)
                    asked.add((thread, number))
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.0001)
        for thread, number in asked:
            # It has not answered, and might after release(): that must not end the process.
            if _words_of(thread).get("SigPnd", 0) & word_of([number]):
                _caught.hold(number)

    def _look_at_others(self) -> set[tuple[int, int]]:
        """Which threads lack which signals; 0 for a thread that is not ready to be asked."""
        lacking: set[tuple[int, int]] = set()
        own = threading.get_native_id()
        for thread in _threads():
            mask = _words_of(thread).get("SigBlk", ALL)
            if thread == own or mask == ALL:
                continue
            if mask & STARTING:
                lacking.add((thread, 0))
            lacking.update((thread, n) for n in self._numbers if not mask & word_of([n]))
        return lacking

    def release(self) -> None:
        """What is pending meets what would have happened with it before. Idempotent."""
        numbers, self._numbers = self._numbers, frozenset()
        for number in numbers:
            _caught.release(number)
        if self._mine:
            mine, self._mine = self._mine, frozenset()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, mine)


def _demand_main_thread(numbers: frozenset[int]) -> None:
    """Its mask could not be given back by another thread, and Ctrl-C would be lost for good."""
    main = os.getpid()
    wanted = word_of(numbers)
    if threading.get_native_id() == main or not wanted & ~_words_of(main).get("SigBlk", wanted):
        return
    names = " ".join(name_of(number) for number in sorted(numbers))
    raise UnsupportedError(
        f"signals.blocked {names}: the main thread does not block them, and no other thread can "
        "see to that; do this in the main thread, or enter naru.signals.blocked() there first",
        operation="signals.blocked",
        address=names,
    )


def _threads() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return []  # a sandbox without /proc: those threads are met when a signal reaches them


def _words_of(thread: int) -> dict[str, int]:
    """The sets of signals in its status; empty when it has ended."""
    try:
        with open(f"/proc/self/task/{thread}/status", encoding="ascii", errors="replace") as file:
            lines = [line.split(":") for line in file if line.startswith("Sig")]
    except OSError:
        return {}
    return {name: int(word, 16) for name, word in lines if name != "SigQ"}


@contextlib.contextmanager
def blocked(signals: Iterable[int] | int) -> Iterator[None]:
    """Holds signals back in all threads of this process, for the time of a `with` block.

    What comes meanwhile stays pending: for wait(), for a SignalWatch, or, when the block is left,
    for whatever would have happened without it. Enter and leave it in the main thread, best before
    others start: a thread that exists already is made to block them, too, and goes on doing so
    after the end of the block. Another thread may enter it for what the main thread blocks already.

    Programs that are started inside inherit the mask: see unblocked().

    Args:
        signals: numbers, 1..64.

    Raises:
        UnsupportedError: SIGKILL, SIGSTOP; the faults of a thread (SIGSEGV, SIGBUS, SIGFPE,
            SIGILL); not called in the main thread, which does not block them.
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
