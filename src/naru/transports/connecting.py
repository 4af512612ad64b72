"""Reaching a server that may not be there yet: try, and try again until the deadline.

The kernel has no event for "somebody will bind this name", so the tries are spaced by a growing
pause (1 ms to 50 ms). Must not know: what a try does. Joins: naru.channel makes the deadline; each wait
of a connecting side is one of its own.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Callable
from typing import TypeVar

from naru.errors import NaruError, NoSuchNameError, TimedOutError, from_os_error

__all__ = ["Deadline", "GivenUpError", "persist"]

Result = TypeVar("Result")

FIRST_PAUSE_S = 0.001
LAST_PAUSE_S = 0.05

_NOT_YET = {
    errno.ENOENT, errno.ECONNREFUSED, errno.ENXIO, errno.EAGAIN, errno.ECONNRESET, errno.EPIPE
}  # fmt: skip


class GivenUpError(Exception):
    """Nobody waits for this connection any more."""


class Deadline:
    """A moment on the monotonic clock, or never; and what may end a wait before it."""

    def __init__(self, timeout_s: float | None, given_up: int = -1) -> None:
        """
        Args:
            given_up: a descriptor that becomes readable when nobody wants the connection any more;
                -1: there is none. It stays the caller's.
        """
        if timeout_s is not None and not timeout_s >= 0:
            raise ValueError(f"timeout_s must be None or at least 0, not {timeout_s!r}")
        self.at_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._given_up = given_up

    @property
    def left_s(self) -> float | None:
        """Seconds left, at least 0; None = for ever."""
        return None if self.at_s is None else max(0.0, self.at_s - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.at_s is not None and time.monotonic() >= self.at_s

    def turn(self, seconds: float) -> Deadline:
        """Another one, so many seconds from now, that is given up with this one."""
        return Deadline(seconds, self._given_up)

    def wait(self, fd: int = -1, events: int = 0) -> bool:
        """Until a descriptor is ready (True), or the time is up (False; one look at the least).

        Without a descriptor it is a pause. Raises: GivenUpError.
        """
        poll = select.poll()
        for one, what in ((fd, events), (self._given_up, select.POLLIN)):
            if one >= 0:
                poll.register(one, what)
        left_s = self.left_s
        ready = [one for one, _ in poll.poll(None if left_s is None else left_s * 1000)]
        if self._given_up in ready:
            raise GivenUpError
        return bool(ready)


def persist(
    attempt: Callable[[], Result], deadline: Deadline, operation: str, address: object
) -> Result:
    """Calls `attempt` until it succeeds, or the deadline passes, or it fails for good.

    Raises:
        GivenUpError.
        NoSuchNameError: nobody was there until the deadline.
        TimedOutError: somebody is there and did not take the connection in time.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return attempt()
        except NaruError as error:
            if error.errno not in _NOT_YET:
                raise
            last: OSError | NaruError = error
        except TimeoutError as error:
            raise _timed_out(operation, address) from error
        except OSError as error:
            if error.errno not in _NOT_YET:
                raise from_os_error(error, operation, address) from error
            last = error
        if deadline.passed:
            if last.errno == errno.EAGAIN:  # a full backlog
                raise _timed_out(operation, address) from last
            if isinstance(last, NaruError):
                raise last
            raise _nobody(last, operation, address) from last
        left_s = deadline.left_s
        deadline.turn(pause_s if left_s is None else min(pause_s, left_s)).wait()
        pause_s = min(pause_s * 2, LAST_PAUSE_S)


def _timed_out(operation: str, address: object) -> TimedOutError:
    return TimedOutError(
        f'{operation} "{address}": timed out (ETIMEDOUT); a server is there but does not accept: '
        "it is busy, stopped, or its backlog is full (?backlog=)",
        errno=errno.ETIMEDOUT, operation=operation, address=address,
    )  # fmt: skip


def _nobody(error: OSError, operation: str, address: object) -> NoSuchNameError:
    name = errno.errorcode.get(error.errno or 0, "?")
    return NoSuchNameError(
        f'{operation} "{address}": nobody is there ({name}); start the other side first, or give '
        "it more time with timeout_s",
        errno=error.errno, operation=operation, address=address,
    )  # fmt: skip
