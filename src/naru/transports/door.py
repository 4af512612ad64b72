"""A door: lets connections in without ever waiting for a silent one.

Holds: the listening socket and the handshakes under way, each a generator that yields while its
connection has nothing to say; a handshake that takes longer than `handshake_timeout_s` is dropped.
One epoll over all of them is what `naru.Listener` sleeps on, and what a fan-in receiver nests in
its own.
Must not know: which transport it serves; `welcome(sock)` starts a handshake and returns what it
makes.
Joins: `step()` is called when the door's descriptor is readable or `deadline_ns` has come.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
import weakref
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from naru.errors import NaruError, from_os_error
from naru.transports.connecting import Deadline

__all__ = ["Door", "Welcome", "finish"]

FOREVER_NS = 2**64 - 1
ACCEPTS_A_STEP = 64
EMFILE_PAUSE_NS = 100_000_000

Outcome = TypeVar("Outcome")
Welcome = Callable[[socket.socket], Generator[None, None, Any]]
"""Starts a handshake, which returns what it made of the connection; None turns it away."""


class _Guest:
    __slots__ = ("deadline_ns", "handshake", "sock")

    def __init__(
        self, sock: socket.socket, handshake: Generator[None, None, Any], deadline_ns: int
    ) -> None:
        self.sock = sock
        self.handshake = handshake
        self.deadline_ns = deadline_ns


class Door:
    """Accepts and greets; what comes out of a finished handshake goes to `let_in`."""

    def __init__(
        self,
        listening: socket.socket,
        welcome: Welcome,
        let_in: Callable[[Any], None],
        handshake_timeout_s: float,
    ) -> None:
        """Takes the listening socket over."""
        listening.setblocking(False)
        self._listening = listening
        self._welcome = welcome
        self._let_in = let_in
        self._timeout_ns = int(handshake_timeout_s * 1e9)
        self._guests: dict[int, _Guest] = {}
        self._paused_until_ns = 0
        self.strangers = 0
        """Connections that were refused: not naru, not allowed, silent."""
        try:
            self._epoll = select.epoll()
        except OSError as error:
            listening.close()
            raise from_os_error(error, "listen", None) from error
        try:
            self._epoll.register(listening.fileno(), select.EPOLLIN)
        except OSError as error:
            self._epoll.close()
            listening.close()
            raise from_os_error(error, "listen", None) from error
        _doors.add(self)

    def fileno(self) -> int:
        """Readable when step() has something to do."""
        return self._epoll.fileno()

    @property
    def pending(self) -> bool:
        """Something happens at deadline_ns even when nothing becomes readable."""
        return bool(self._guests) or self._paused_until_ns > 0

    @property
    def deadline_ns(self) -> int:
        """CLOCK_MONOTONIC time at which step() must be called in any case."""
        earliest = min((guest.deadline_ns for guest in self._guests.values()), default=FOREVER_NS)
        return min(earliest, self._paused_until_ns or FOREVER_NS)

    def step(self) -> None:
        """Accepts whoever knocks and goes on with the handshakes. Never waits."""
        for fd, _ in self._epoll.poll(0):
            guest = self._guests.get(fd)
            if guest is not None:
                self._advance(guest)
            elif fd == self._listening.fileno():
                self._accept()
        now = time.monotonic_ns()
        for guest in [g for g in self._guests.values() if g.deadline_ns <= now]:
            self._turn_away(guest)
        if self._paused_until_ns and self._paused_until_ns <= now:
            self._paused_until_ns = 0
            self._epoll.register(self._listening.fileno(), select.EPOLLIN)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_STEP):
            try:
                sock, _ = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    # Without this the listening socket stays readable and the door spins
                    # (FAULTS 79): ask again a little later, when a descriptor may be free.
                    self._epoll.unregister(self._listening.fileno())
                    self._paused_until_ns = time.monotonic_ns() + EMFILE_PAUSE_NS
                    return
                if error.errno in (errno.ECONNABORTED, errno.EPROTO, errno.EPERM):
                    continue  # that client has gone again
                raise from_os_error(error, "accept", None) from error
            sock.setblocking(False)
            guest = _Guest(sock, self._welcome(sock), time.monotonic_ns() + self._timeout_ns)
            self._guests[sock.fileno()] = guest
            try:
                self._epoll.register(sock.fileno(), select.EPOLLIN)
            except OSError:
                self._turn_away(guest)
                continue
            self._advance(guest)

    def _advance(self, guest: _Guest) -> None:
        fd = guest.sock.fileno()
        try:
            next(guest.handshake)
        except StopIteration as finished:
            self._forget(fd)
            if finished.value is None:
                self.strangers += 1
                guest.sock.close()
            else:
                self._let_in(finished.value)
        except (NaruError, OSError):
            self._turn_away(guest)

    def _forget(self, fd: int) -> None:
        del self._guests[fd]
        try:
            self._epoll.unregister(fd)
        except OSError as error:
            # The handshake handed the descriptor on (detach) and it may be closed by now.
            if error.errno not in (errno.EBADF, errno.ENOENT):
                raise

    def _turn_away(self, guest: _Guest) -> None:
        self.strangers += 1
        self._forget(guest.sock.fileno())
        guest.handshake.close()
        guest.sock.close()

    def close(self) -> None:
        """Closes the listening socket and drops the handshakes under way."""
        self._epoll.close()
        self._listening.close()
        for guest in list(self._guests.values()):
            guest.sock.close()
            try:
                guest.handshake.close()
            except ValueError:
                continue  # it runs: in a thread that a forked child, which closes here, has not
        self._guests.clear()


# A forked child must not keep a name alive whose owner is its parent: connections would wait in the
# child's copy of the socket for ever.
_doors: weakref.WeakSet[Door] = weakref.WeakSet()


def _close_all() -> None:
    for door in list(_doors):
        door.close()


os.register_at_fork(after_in_child=_close_all)


def finish(
    handshake: Generator[None, None, Outcome], sock: socket.socket, deadline: Deadline
) -> Outcome:
    """Runs a client's handshake to its end, waiting on its socket.

    Raises: TimeoutError at the deadline, GivenUpError, what the handshake raises.
    """
    try:
        while True:
            next(handshake)
            if not deadline.wait(sock.fileno(), select.POLLIN):
                raise TimeoutError
    except StopIteration as finished:
        made: Outcome = finished.value
        return made
    finally:
        handshake.close()
