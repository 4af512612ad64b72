"""Where the two sides of a run wait for each other, and the clocks of one side.

Holds: a page of memory that both have (forked), and what one side measured.
Must not know: what the sides do.
Joins: `host` makes a Meeting before it forks; `sides` and `loops` use it.
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass

__all__ = ["RECEIVER", "SENDER", "Meeting", "Span", "Stopwatch", "read_waited_ns"]

SENDER, RECEIVER = 0, 1
_LINE = 64
_DONE_AT = 2 * _LINE


class Meeting:
    """A line to meet at, at most 255 times, and a flag. One writer a byte, so no lock."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self._phase = 0

    def meet(self, side: int) -> None:
        """Waits until the other side is here too.

        A dead side never comes: the host sees it end, and ends this one.
        """
        self._phase += 1
        self._page[side * _LINE] = self._phase
        other = (1 - side) * _LINE
        while self._page[other] < self._phase:
            os.sched_yield()  # spins: both start within a microsecond, and one core suffices, too

    def finish(self, done: bool) -> None:
        """The sender of a way that may lose messages: nothing more comes (or: it begins)."""
        self._page[_DONE_AT] = done

    def finished(self) -> bool:
        return self._page[_DONE_AT] == 1

    def close(self) -> None:
        self._page.close()


@dataclass(frozen=True)
class Span:
    """What one side took for a pass. Monotonic times compare between processes."""

    start_ns: int
    end_ns: int
    cpu_ns: int
    waited_ns: int
    """Ready to run, while the CPU belonged to others."""


class Stopwatch:
    """CLOCK_MONOTONIC, and the CPU time of all threads of this process, in the kernel too."""

    def __init__(self) -> None:
        self._waited_ns = read_waited_ns()
        self._cpu_ns = time.process_time_ns()
        self._start_ns = time.monotonic_ns()

    def stop(self) -> Span:
        end_ns = time.monotonic_ns()
        cpu_ns = time.process_time_ns() - self._cpu_ns
        return Span(self._start_ns, end_ns, cpu_ns, read_waited_ns() - self._waited_ns)


def read_waited_ns() -> int:
    """How long this thread has been in a run queue so far; 0 where the kernel does not tell.

    Source: Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat.
    """
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            words = file.read().split()
    except OSError:
        return 0
    return int(words[1]) if len(words) == 3 else 0
