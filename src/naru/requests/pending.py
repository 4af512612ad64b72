"""One open request: what its caller holds, and what a thread sleeps on that waits for it.

Holds: PendingReply, Bell, and the small things about time and descriptors that both sides of a link use.
Must not know: how replies come (link.py), connections.
Joins: the link settles a PendingReply under its lock; result() asks the link to wait.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from naru.errors import NaruError, TimedOutError

if TYPE_CHECKING:
    from naru.requests.link import Link

__all__ = ["Bell", "PendingReply", "UnsentError", "close_fds", "deadline_of", "left_s"]


class UnsentError(Exception):
    """A request was certainly not received: it may be sent again. Never leaves this package."""

    def __init__(self, error: NaruError) -> None:
        super().__init__(str(error))
        self.error = error


def close_fds(fds: Sequence[int]) -> None:
    """Descriptors that came and that nobody wants."""
    for fd in fds:
        os.close(fd)


def deadline_of(timeout_s: float | None) -> float | None:
    """On time.monotonic(). Raises: ValueError."""
    if timeout_s is None:
        return None
    if not timeout_s >= 0:
        raise ValueError(f"timeout_s must be None or at least 0, not {timeout_s!r}")
    return time.monotonic() + timeout_s


def left_s(deadline: float | None) -> float | None:
    """Seconds until a deadline, at least 0; None = for ever."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


class Bell:
    """One thread sleeps on it; rung at most once, under the link's lock."""

    __slots__ = ("_lock", "rung")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.rung = False

    def ring(self) -> None:
        """Wakes it. The second time nothing happens."""
        if not self.rung:
            self.rung = True
            self._lock.release()

    def wait(self, timeout_s: float | None) -> None:
        """Until it is rung, or the time is up."""
        self._lock.acquire(timeout=-1 if timeout_s is None else min(timeout_s, 1e6))


class PendingReply:
    """A request that is under way: `naru.Client.submit()` gives it.

    The reply is read from the connection by whoever waits for one: without result() or done()
    nobody looks.
    """

    __slots__ = ("__weakref__", "_bell", "_error", "_fds", "_link", "_number", "_reply", "refused")

    def __init__(self, link: Link) -> None:
        """Made by Client.submit()."""
        self._link = link
        self._number = 0
        self._reply: bytes | None = None
        self._fds: Sequence[int] = ()  # of the reply; closed when they are not taken
        self._error: NaruError | None = None
        self._bell: Bell | None = None
        self.refused = False
        """The server was closing and has not begun it: sending it again is safe."""

    def result(self, timeout_s: float | None = None) -> bytes:
        """Waits for the reply. May be asked again, also after a TimedOutError.

        Args:
            timeout_s: seconds; None = for ever, 0 = one look.

        Raises:
            TimedOutError: it has not come in time; the request stays open (cancel() gives it up).
            RemoteError: the handler raised. PeerGoneError: the server is gone.
            ClosedError: the client was closed, or this request given up. ProtocolError.
        """
        reply = self._wait(timeout_s)
        close_fds(self._take_fds())
        return reply

    def result_fds(self, timeout_s: float | None = None) -> tuple[bytes, list[int]]:
        """As result(), with the descriptors that came with the reply: yours to close, given once."""
        return self._wait(timeout_s), list(self._take_fds())

    def _wait(self, timeout_s: float | None) -> bytes:
        if not self.is_settled() and not self._link.wait(self, deadline_of(timeout_s)):
            raise TimedOutError(
                f'request "{self._link.address}": timed out (ETIMEDOUT); no reply within '
                f"{timeout_s:g} s",
                operation="request",
                address=self._link.address,
            )
        if self._error is not None:
            raise copy.copy(self._error)  # each thread its own traceback
        assert self._reply is not None
        return self._reply

    def _take_fds(self) -> Sequence[int]:
        fds, self._fds = self._fds, ()
        return fds

    def done(self) -> bool:
        """True when result() would not wait. Looks at the connection, never waits."""
        if not self.is_settled():
            self._link.look()
        return self.is_settled()

    def cancel(self) -> None:
        """Gives the request up: the server drops it when it has not begun it.

        Nothing happens when the reply is here.
        """
        self._link.give_up(self)

    def is_settled(self) -> bool:
        """A reply or an error is here, without looking at the connection."""
        return self._reply is not None or self._error is not None

    def __repr__(self) -> str:
        if self._error is not None:
            state = type(self._error).__name__
        else:
            state = "open" if self._reply is None else f"{len(self._reply)} bytes"
        return f"<PendingReply {self._number} of {self._link.address} ({state})>"

    def __del__(self) -> None:
        if self._fds:
            close_fds(self._fds)
