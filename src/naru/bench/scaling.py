"""What one wait costs with so many descriptors registered and one of them active.

Holds: the contenders (select, poll, epoll of Python's `select`, naru's engine), and the way to register
more descriptors than a process may have: they stay registered as long as somebody has them open, so a
child inherits each batch and the measuring process closes its own copy.
Must not know: how it is shown.
Joins: the command prints `measure(...)`. Source: epoll(7), "a file descriptor is removed ... only after
all the file descriptors referring to the underlying open file description have been closed".
"""

from __future__ import annotations

import os
import select
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from naru._native.stopwatch import Stopwatch
from naru.engine import raise_descriptor_limit

__all__ = ["CONTENDERS", "SEED_MS", "Cell", "measure", "most_registered"]

CONTENDERS = ("select", "poll", "epoll", "naru")
SEED_MS = {("select", 1_000): 10.0, ("poll", 10_000): 100.0, ("epoll", 1_000_000): 10.0}
"""The figures that naru grew from, another machine's."""

FD_SETSIZE = 1024
SPARE = 64
BATCH = 8_192
LEAST_ROUNDS, MOST_ROUNDS, ROUND_S = 20, 2_000, 0.2
BYTES_A_WATCH = 160  # epoll(7): of kernel memory, on 64-bit; limits max_user_watches


@dataclass(frozen=True)
class Cell:
    """One contender with so many registered."""

    contender: str
    registered: int
    median_us: float | None
    """None: it cannot hold so many."""
    why: str = ""


class Waiter(Protocol):
    """Registers, and waits once."""

    def add(self, fd: int) -> None: ...
    def wait_ns(self) -> int: ...


class _Select:
    def __init__(self) -> None:
        self.fds: list[int] = []

    def add(self, fd: int) -> None:
        self.fds.append(fd)

    def wait_ns(self) -> int:
        began = time.perf_counter_ns()
        select.select(self.fds, (), ())
        return time.perf_counter_ns() - began


class _Poll:
    def __init__(self) -> None:
        self.poll = select.poll()

    def add(self, fd: int) -> None:
        self.poll.register(fd, select.POLLIN)

    def wait_ns(self) -> int:
        began = time.perf_counter_ns()
        self.poll.poll()
        return time.perf_counter_ns() - began


class _Epoll:
    def __init__(self) -> None:
        self.epoll = select.epoll()

    def add(self, fd: int) -> None:
        self.epoll.register(fd, select.EPOLLIN)

    def wait_ns(self) -> int:
        began = time.perf_counter_ns()
        self.epoll.poll()
        return time.perf_counter_ns() - began

    def close(self) -> None:
        self.epoll.close()


_MAKERS: dict[str, Callable[[], Waiter]] = {
    "select": _Select,
    "poll": _Poll,
    "epoll": _Epoll,
    "naru": Stopwatch,
}


def most_registered() -> int:
    """What epoll may hold of this user's; other processes' share is not known."""
    text = Path("/proc/sys/fs/epoll/max_user_watches").read_text()
    return int(text)


def measure(
    contenders: Sequence[str], counts: Sequence[int], progress: Callable[[float, str], object]
) -> Iterator[Cell]:
    """A cell for each contender and count. Raises descriptors' limit to the hard one.

    Args:
        progress: called with the share of the descriptors that was measured, 0..1, and what is next.
    """
    done, whole = 0, len(contenders) * sum(counts)
    limit = raise_descriptor_limit()
    for contender in contenders:
        for count in counts:
            progress(done / whole, f"{contender} {count:,}")
            done += count
            why = _obstacle(contender, count, limit)
            yield (
                Cell(contender, count, None, why)
                if why
                else Cell(contender, count, _measure_one(contender, count, limit))
            )


def _obstacle(contender: str, count: int, limit: int) -> str:
    if contender == "select" and count > FD_SETSIZE - SPARE:
        return f"select knows no descriptor above {FD_SETSIZE - 1}"
    if contender == "poll" and count > limit - SPARE:
        return f"poll needs them in this process, whose limit is {limit:,}"
    if count > most_registered():
        return "above fs.epoll.max_user_watches"
    return ""


def _measure_one(contender: str, count: int, limit: int) -> float:
    waiter = _MAKERS[contender]()
    with ExitStack() as stack:
        if hasattr(waiter, "close"):
            stack.callback(waiter.close)
        active = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        stack.callback(os.close, active)
        waiter.add(active)
        kept_here = count - 1 if contender in ("select", "poll") else min(count - 1, limit // 2)
        fds = [os.eventfd(0) for _ in range(kept_here)]
        stack.callback(_close_all, fds)
        for fd in fds:
            waiter.add(fd)
        for _ in range((count - 1 - kept_here) // BATCH + 1):
            batch = min(BATCH, count - 1 - kept_here)
            kept_here += batch
            stack.enter_context(_held_elsewhere(waiter, batch))
        return _median_us(waiter, active)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


@contextmanager
def _held_elsewhere(waiter: Waiter, count: int) -> Iterator[None]:
    """Registers so many descriptors that only a child keeps open."""
    if count <= 0:
        yield
        return
    fds = [os.eventfd(0) for _ in range(count)]
    for fd in fds:
        waiter.add(fd)
    end, own = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(own)
        os.read(end, 1)  # until its parent is done, or dead
        os._exit(0)
    os.close(end)
    _close_all(fds)
    try:
        yield
    finally:
        os.close(own)
        os.waitpid(child, 0)


def _median_us(waiter: Waiter, active: int) -> float:
    found: list[int] = []
    until = time.perf_counter() + ROUND_S
    while len(found) < LEAST_ROUNDS or (len(found) < MOST_ROUNDS and time.perf_counter() < until):
        os.eventfd_write(active, 1)
        found.append(waiter.wait_ns())
        os.eventfd_read(active)
    return statistics.median(found) / 1000
