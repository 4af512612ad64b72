"""A loop's lookout: the waits that look for what they wait for, before they sleep.

To fall asleep on shared memory takes a barrier across the cores (membarrier(2)), to be woken tens of us
more; a look is a read of memory. So as long as any end of a loop has something to do, all that wait are
looked at once in each turn of the loop. When nothing was to be done for as long as the last pauses have
taught (50 us at most, naru._native.watching.Patience), all of them fall asleep, and the loop with them.
Rejected: a budget for each end, as the synchronous verbs have it. With fifty conversations in a loop
each one's wait is long, and each would pay for falling asleep although the loop never does.

Holds: Lookout. Must not know: verbs, and how an end is looked at (waiting.py).
"""

from __future__ import annotations

import asyncio
import weakref
from typing import NamedTuple, Protocol

from naru._native.watching import Patience
from naru.errors import NaruError

__all__ = ["Lookout", "lookout_of"]

Future = asyncio.Future[bool]


class Looking(Protocol):
    """One end, as far as the lookout needs it."""

    def glance(self, direction: int) -> bool: ...
    def sleep(self, direction: int, future: Future) -> None: ...


class _Wait(NamedTuple):
    end: Looking
    direction: int
    asleep: bool
    """The loop's own poll tells of it; only the loop's sleep is put off for it."""
    never_sleeps: bool


class Lookout:
    """The waits of one loop that are not over yet."""

    __slots__ = ("__weakref__", "_loop", "_patience", "_scheduled", "_waits")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # A loop that is forgotten must not be kept by what is kept for it.
        self._loop = weakref.ref(loop)
        self._waits: dict[Future, _Wait] = {}
        self._patience = Patience()
        self._scheduled = False

    @property
    def is_busy(self) -> bool:
        """Something is looked for in each turn of the loop."""
        return bool(self._waits)

    def add(
        self, end: Looking, direction: int, future: Future, *, looks: bool, never_sleeps: bool
    ) -> None:
        """Sets the future's result to True when `end` is worth a try."""
        if not looks:
            end.sleep(direction, future)
        if not future.done():
            self._waits[future] = _Wait(end, direction, not looks, never_sleeps)
            self._schedule()

    def woke(self) -> None:
        """The loop's poll has found something."""
        self._patience.renew(self._scheduled)

    def _schedule(self) -> None:
        loop = self._loop()
        if not self._scheduled and loop is not None:
            self._scheduled = True
            loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._look():
            self._patience.renew(True)
        elif self._waits and self._patience.is_over():
            self._fall_asleep()
        if self._waits:
            self._schedule()

    def _look(self) -> bool:
        """True when somebody has something to do."""
        found = False
        for future, wait in list(self._waits.items()):
            if not future.done():
                if wait.asleep:
                    continue
                try:
                    if not wait.end.glance(wait.direction):
                        continue
                    future.set_result(True)
                except NaruError as error:
                    future.set_exception(error)
            found = True
            del self._waits[future]
        return found

    def _fall_asleep(self) -> None:
        for future, wait in list(self._waits.items()):
            if wait.never_sleeps:
                continue
            del self._waits[future]
            if not wait.asleep:
                wait.end.sleep(wait.direction, future)


# One for each loop: an end must see whether others of its loop have something to do, and only the loop
# is known to all of them.
_lookouts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Lookout] = (
    weakref.WeakKeyDictionary()
)


def lookout_of(loop: asyncio.AbstractEventLoop) -> Lookout:
    """The loop's own; made when it is asked for first."""
    found = _lookouts.get(loop)
    if found is None:
        found = _lookouts[loop] = Lookout(loop)
    return found
