"""Two streams joined in both directions, without the bytes coming to user space.

Holds: Pump. Must not know: who waits. run() waits in the calling thread; step(), wants() and fileno()
are for a loop that has other things to do.
Source: splice(2), shutdown(2); RFC 9293 3.6 (a half-closed connection goes on in the other direction).
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

from naru._native.moving import Mover
from naru.errors import ClosedError, LimitError, NaruError, PeerGoneError, UnsupportedError
from naru.files.failures import failed, timed_out
from naru.files.kinds import Kind, is_stream, kind_of, methods_between
from naru.files.places import HasFileno

__all__ = ["Pump", "PumpStatistics"]

OPERATION = "files.pump"
# What one direction may move before the other one has its turn.
BUDGET_BYTES = 4 << 20
STEP_BYTES = 1 << 20

End: TypeAlias = HasFileno | tuple[HasFileno | int, HasFileno | int]
"""A stream socket, or a pair (to read from, to write to) of pipe ends."""


@dataclass(frozen=True)
class PumpStatistics:
    """What a Pump has moved since it was made."""

    bytes_forward: int
    """From a to b, taken by b."""
    bytes_backward: int
    """From b to a, taken by a."""
    steps: int
    """Moves that found something; each is one or two system calls."""
    forward_ended: bool
    """a has ended its direction, and b has been told."""
    backward_ended: bool
    seconds: float
    """Since it was made."""


class _Way:
    """One direction."""

    def __init__(self, source: int, target: int, target_end: Any, name: str) -> None:
        self.name = name
        self.source, self.target, self.target_end = source, target, target_end
        self.target_kind: Kind = kind_of(target)
        methods = methods_between(kind_of(source), self.target_kind)
        is_socket = is_stream(self.target_kind)
        self.mover = Mover(source, target, methods, target_is_socket=is_socket)
        self.ended = False
        self.broken: NaruError | None = None

    @property
    def is_over(self) -> bool:
        return self.ended or self.broken is not None

    def interest(self) -> tuple[int, int]:
        # Held bytes may be left by a step that had spent its budget, without having asked to wait.
        if self.mover.held_bytes or self.mover.waits_for_target:
            return self.target, select.POLLOUT
        return self.source, select.POLLIN


class Pump:
    """Joins two streams: what comes from one goes to the other, both ways, until both have ended.

    An end that closes its direction closes it for the other side, too (shutdown(2); a pipe is
    closed), while the other direction goes on. The descriptors stay the caller's to close; they
    are made nonblocking meanwhile.

    Args:
        a, b: stream sockets, or pairs (to read from, to write to) of pipe ends. Of a pair's second
            half, close() is called when its direction has ended: nothing else tells a pipe's reader.
        limit_bytes: the most that may go in one direction; None: no limit.
        idle_timeout_s: run() gives up when no byte moves for so long; None: never.

    Raises: UnsupportedError for what is no stream, NaruError for what is not open.
    """

    def __init__(
        self,
        a: End,
        b: End,
        *,
        limit_bytes: int | None = None,
        idle_timeout_s: float | None = None,
    ) -> None:
        self._limit, self._idle_s = limit_bytes, idle_timeout_s
        self._began_s = time.monotonic()
        self._steps = 0
        self._closed = False
        self._epoll: select.epoll | None = None
        self._registered: dict[int, int] = {}
        (read_a, write_a), (read_b, write_b) = _halves(a), _halves(b)
        try:
            self._ways = (
                _Way(_fd_of(read_a), _fd_of(write_b), write_b, "a to b"),
                _Way(_fd_of(read_b), _fd_of(write_a), write_a, "b to a"),
            )
            fds = {fd for way in self._ways for fd in (way.source, way.target)}
            for fd in fds:
                if kind_of(fd) not in ("pipe", "unix", "tcp"):
                    raise UnsupportedError(f"{OPERATION}: descriptor {fd} is no stream")
            self._blocking = [fd for fd in fds if os.get_blocking(fd)]
            for fd in self._blocking:
                os.set_blocking(fd, False)
        except OSError as error:
            raise failed(error, OPERATION, "a and b") from error

    # ---- for a loop of somebody else ----

    @property
    def is_over(self) -> bool:
        """Both directions have ended, or are broken."""
        return all(way.is_over for way in self._ways)

    def step(self) -> bool:
        """Moves what can be moved now, at most 4 MiB a direction. Never waits.

        Returns: False when it is over. Raises: PeerGoneError once it is over and a side was reset
        or took no more; LimitError above limit_bytes.
        """
        self._check_open()
        for way in self._ways:
            if not way.is_over:
                self._move(way)
        if self._epoll is not None:
            self._follow()
        if not self.is_over:
            return True
        for way in self._ways:
            if way.broken is not None:
                self._pass_reset_on(way)
                raise way.broken
        return False

    def wants(self) -> list[tuple[int, int]]:
        """(descriptor, select.POLLIN or POLLOUT) to wait for before the next step(); empty: over."""
        return [way.interest() for way in self._ways if not way.is_over]

    def fileno(self) -> int:
        """A descriptor that polls readable when step() has something to do. Never read it."""
        self._check_open()
        if self._epoll is None:
            self._epoll = select.epoll()
            self._follow()
        return self._epoll.fileno()

    # ---- for a thread of its own ----

    def run(self) -> PumpStatistics:
        """Blocks until both directions have ended. Releases the GIL while it waits.

        Raises: as step(); TimedOutError after idle_timeout_s. Ctrl-C leaves both ends open.
        """
        moved_s = time.monotonic()
        steps = self._steps
        while self.step():
            now_s = time.monotonic()
            if self._steps != steps:
                steps, moved_s = self._steps, now_s
            wait_s = None if self._idle_s is None else self._idle_s - (now_s - moved_s)
            if wait_s is not None and wait_s <= 0:
                raise timed_out(OPERATION, "a and b", self._idle_s, self._moved())
            self._wait(wait_s)
        return self.statistics()

    def statistics(self) -> PumpStatistics:
        """What it has moved until now."""
        forward, backward = self._ways
        return PumpStatistics(
            forward.mover.moved_bytes,
            backward.mover.moved_bytes,
            self._steps,
            forward.ended,
            backward.ended,
            time.monotonic() - self._began_s,
        )

    def close(self) -> None:
        """Gives its pipes back, and blocking descriptors what they were; idempotent.

        What was taken from one side and not yet by the other is lost. The ends stay open.
        """
        if self._closed:
            return
        self._closed = True
        for way in self._ways:
            way.mover.release()
        if self._epoll is not None:
            self._epoll.close()
        for fd in self._blocking:
            try:
                os.set_blocking(fd, True)
            except OSError:
                pass  # its owner closed it first

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
        forward, backward = (way.mover.moved_bytes for way in self._ways)
        return f"<Pump {forward} bytes forward, {backward} backward>"

    # ---- inside ----

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{OPERATION}: closed on this side", operation=OPERATION)

    def _moved(self) -> int:
        return sum(way.mover.moved_bytes for way in self._ways)

    def _move(self, way: _Way) -> None:
        budget = BUDGET_BYTES
        while budget > 0:
            try:
                moved = way.mover.step(STEP_BYTES)
            except InterruptedError:
                continue
            except OSError as error:
                way.broken = failed(error, OPERATION, way.name, way.mover.moved_bytes)
                if not isinstance(way.broken, PeerGoneError):
                    raise way.broken from error
                if _has_hung_up(way.source):  # it takes nothing, either: why wait for the other?
                    for each in self._ways:
                        each.broken = each.broken or way.broken
                return
            if moved is None:
                return
            if moved == 0:
                if _tell_end(way) and way.target in self._blocking:
                    self._blocking.remove(way.target)  # the number may be another file's soon
                return
            self._steps += 1
            budget -= moved
            if self._limit is not None and way.mover.moved_bytes > self._limit:
                raise LimitError(
                    f"{OPERATION}: more than {self._limit} bytes went from {way.name} "
                    "(limit_bytes)",
                    operation=OPERATION,
                )

    def _pass_reset_on(self, way: _Way) -> None:
        """A stream that broke must not look like one that ended: closing will reset it, too."""
        if way.target_kind == "tcp":
            try:
                with socket.socket(fileno=os.dup(way.target)) as ours:
                    abort = struct.pack("ii", 1, 0)
                    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
            except OSError:
                pass  # it is gone already

    def _wait(self, wait_s: float | None) -> None:
        poll = select.poll()
        for fd, events in _joined(self.wants()):
            poll.register(fd, events)
        poll.poll(None if wait_s is None else wait_s * 1000)

    def _follow(self) -> None:
        """The epoll descriptor watches what wants() says."""
        assert self._epoll is not None
        wanted = dict(_joined(self.wants()))
        for fd in self._registered.keys() - wanted.keys():
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # closed, by which it went
        for fd, events in wanted.items():
            if self._registered.get(fd) is None:
                self._epoll.register(fd, events)
            elif self._registered[fd] != events:
                self._epoll.modify(fd, events)
        self._registered = wanted


def _halves(end: Any) -> tuple[Any, Any]:
    return end if isinstance(end, tuple) else (end, end)


def _fd_of(half: Any) -> int:
    return half if isinstance(half, int) else int(half.fileno())


def _has_hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def _joined(wants: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """One entry a descriptor: a socket may be waited for in both directions."""
    events: dict[int, int] = {}
    for fd, event in wants:
        events[fd] = events.get(fd, 0) | event
    yield from events.items()


def _tell_end(way: _Way) -> bool:
    """Returns: whether the target's descriptor was closed, which is all that ends a pipe."""
    way.ended = True
    way.mover.release()
    if not is_stream(way.target_kind):
        if isinstance(way.target_end, int):
            os.close(way.target_end)
        else:
            way.target_end.close()
        return True
    try:
        with socket.socket(fileno=os.dup(way.target)) as ours:
            ours.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it is gone already: the other direction says so
    return False
