"""Who is next: the tasks that want to do the same with one end, first come, first served.

Holds: Turn. Must not know: ends, and what is done in a turn.
Joins: naru.aio.ends takes a turn for each verb that has to wait, so messages of several tasks do not
mix and nobody is overtaken.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

__all__ = ["Turn", "deadline_of", "has_passed"]


def deadline_of(timeout_s: float | None) -> float | None:
    """Seconds from now -> time.monotonic(), None = for ever. Raises ValueError as the verbs do."""
    if timeout_s is None:
        return None
    if not timeout_s >= 0:  # NaN too
        raise ValueError(f"timeout_s must be None or at least 0, not {timeout_s!r}")
    return time.monotonic() + timeout_s


def has_passed(deadline_s: float | None) -> bool:
    """True when there is no time left."""
    return deadline_s is not None and time.monotonic() >= deadline_s


class Turn:
    """A lock that is handed on in order. Who has it lets go in a `finally`."""

    __slots__ = ("_queue", "block", "taken")

    def __init__(self) -> None:
        self._queue: deque[asyncio.Future[bool]] = deque()
        self.taken = False
        """Somebody has it. While tasks wait for it, it is never free in between."""
        self.block: asyncio.Task[object] | None = None
        """The task that is inside an `async with` block of lease() or reserve()."""

    async def take(self, deadline_s: float | None) -> bool:
        """True: it is this task's; False: the time is up, or send_away() was called."""
        if not self.taken:
            self.taken = True
            return True
        if has_passed(deadline_s):
            return False
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[bool] = loop.create_future()
        self._queue.append(mine)
        timer = None
        if deadline_s is not None:
            timer = loop.call_later(deadline_s - time.monotonic(), _give_up, mine)
        try:
            return await mine
        except asyncio.CancelledError:
            # It may have become ours in the very moment in which we were cancelled.
            if mine.done() and not mine.cancelled() and mine.result():
                self.give()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def give(self) -> None:
        """Hands it to the next who still waits."""
        while self._queue:
            following = self._queue.popleft()
            if not following.done():
                following.set_result(True)
                return
        self.taken = False

    def send_away(self) -> None:
        """Everybody who waits for it hears that it will never come."""
        while self._queue:
            _give_up(self._queue.popleft())


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)
