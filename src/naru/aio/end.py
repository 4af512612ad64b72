"""What the ends for asyncio share: the slow half of every verb, and closing.

A verb takes its turn (turns.py), tries, waits (waiting.py) and tries again, until it is done, or the time
is up, or the end is closed.

Holds: End. Must not know: any transport, and what a verb does.
Joins: naru.aio.ends has the verbs.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import naru._native.ends as native
from naru._native.watching import (
    RECEIVE,
    SEND,
    close_now,
    flush,
    has_rest,
    is_lingering,
    linger_s,
    take_leave,
    take_over,
)
from naru.aio.turns import Turn, deadline_of, has_passed
from naru.aio.waiting import Waiting
from naru.errors import NaruError, TimedOutError, from_errno

if TYPE_CHECKING:
    from naru.address import Address
    from naru.statistics import Statistics
    from naru.transports.contract import Peer

__all__ = ["End"]

Result = TypeVar("Result")

_TOO_LATE = {
    SEND: "no room came free in time; nothing was sent",
    RECEIVE: "no message came in time",
}


class End:
    """What all ends for asyncio have; see Sender and Receiver for the verbs."""

    __slots__ = ("__weakref__", "_closing", "_end", "_turns", "_waiting")
    _kind: ClassVar[type[native.Endpoint]] = native.Endpoint

    def __init__(self, end: native.Endpoint) -> None:
        """Takes a synchronous end over: from now on nobody else uses it, or closes it.

        Raises: TypeError: it is not an end of this kind.
        """
        if not isinstance(end, self._kind):
            raise TypeError(f"naru.aio.{type(self).__name__} takes a naru.{self._kind.__name__}, "
                            f"not {end!r}")  # fmt: skip
        take_over(end)
        self._end: Any = end
        self._turns = (Turn(), Turn())
        self._waiting = Waiting(end)
        self._closing = False

    # ---- facts ----

    @property
    def address(self) -> Address:
        """As of the synchronous end."""
        made: Address = self._end.address
        return made

    @property
    def peer(self) -> Peer | None:
        """Who is at the other end, as the kernel saw it; None where it cannot tell."""
        made: Peer | None = self._end.peer
        return made

    @property
    def heartbeat_s(self) -> float:
        """Silence after which the peer is given up, in seconds; 0 = never."""
        return float(self._end.heartbeat_s)

    @property
    def closed(self) -> bool:
        """True as soon as close() or aclose() has begun."""
        return self._closing or bool(self._end.closed)

    def statistics(self) -> Statistics:
        """What this end has counted since it was opened, as a frozen `naru.Statistics`."""
        made: Statistics = self._end.statistics()
        return made

    def fileno(self) -> int:
        """As of the synchronous end; no verb here needs it, and on shm it makes them slower."""
        number: int = self._end.fileno()
        return number

    def __repr__(self) -> str:
        return f"<aio.{repr(self._end).lstrip('<')}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), *self._end.__reduce__())

    # ---- the end ----

    def close(self) -> None:
        """Closes this end; tasks that wait in a verb of it get ClosedError. Idempotent.

        As the synchronous close(): where the peer does not take the rest of an accepted message, it
        blocks, the loop too, for `linger_s` at most. `await aclose()` does not.

        Raises:
            TimedOutError: the rest of an accepted message was not taken; it is lost.
        """
        self._begin_close()
        try:
            self._end.close()
        finally:
            self._waiting.wake_all()

    async def aclose(self) -> None:
        """close() without blocking the loop; what `async with` does at its end.

        Cancelled, it closes at once; what the peer has not taken by then is lost.

        Raises: as close().
        """
        if self._closing:
            return
        waiting = self._waiting
        self._closing = True
        self._send_all_away()
        deadline_s = deadline_of(linger_s(self._end))
        try:
            await asyncio.sleep(0)  # who was sent away in the middle of a message leaves its rest
            while not take_leave(self._end) and await waiting.ready(SEND, deadline_s):
                continue
            pause_s = 0.0005
            while is_lingering(self._end) and not has_passed(deadline_s):
                await asyncio.sleep(pause_s)  # no event says "all was sent"
                pause_s = min(2 * pause_s, 0.016)
        except NaruError:
            pass  # the peer is gone: nobody waits for a goodbye
        finally:
            self._begin_close()
            close_now(self._end)

    def _begin_close(self) -> None:
        self._closing = True
        self._send_all_away()
        self._waiting.release()

    def _send_all_away(self) -> None:
        for turn in self._turns:
            turn.taken = True  # for ever: every verb comes to where `_closing` is looked at
            turn.send_away()
        self._waiting.wake_all()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        waiting = getattr(self, "_waiting", None)
        if waiting is not None:
            waiting.release()  # the end itself warns, and closes

    # ---- shared by the verbs ----

    async def _take(self, direction: int, deadline_s: float | None, operation: str) -> bool:
        """The turn; False when this very task has it, inside an `async with` of this end."""
        turn = self._turns[direction]
        if turn.block is not None and turn.block is asyncio.current_task():
            return False  # the synchronous verb says what may be done in a block
        if not self._closing and await turn.take(deadline_s):
            return True
        self._demand_open(operation)
        raise self._too_late(direction, operation)

    def _demand_open(self, operation: str) -> None:
        if self._closing:
            raise from_errno(-errno.ECANCELED, operation, self._end.address)

    def _too_late(self, direction: int, operation: str) -> NaruError:
        return from_errno(
            -errno.ETIMEDOUT, operation, self._end.address, detail=_TOO_LATE[direction]
        )

    async def _run(
        self,
        direction: int,
        attempt: Callable[[], Result | None],
        timeout_s: float | None,
        operation: str,
        tried: bool = False,
    ) -> Result:
        """The slow half of every verb: attempt() gives None for "not now", as it just did when `tried`."""
        deadline_s = deadline_of(timeout_s)
        mine = await self._take(direction, deadline_s, operation)
        try:
            result = await self._try_until(direction, attempt, deadline_s, operation, tried)
            if direction == SEND and has_rest(self._end):
                await self._push_out(deadline_s)
            return result
        finally:
            if mine:
                self._give(direction)

    def _give(self, direction: int) -> None:
        if self._closing:
            return
        if direction == SEND and has_rest(self._end):
            self._waiting.push()
        self._turns[direction].give()

    async def _try_until(
        self,
        direction: int,
        attempt: Callable[[], Result | None],
        deadline_s: float | None,
        operation: str,
        tried: bool = False,
    ) -> Result:
        waiting = self._waiting
        if not tried:
            await waiting.breathe_if_due()
        while True:
            self._demand_open(operation)
            result = None if tried else attempt()
            if result is not None:
                return result
            tried = False
            if not await waiting.ready(direction, deadline_s):
                raise self._too_late(direction, operation)

    async def _push_out(self, deadline_s: float | None) -> None:
        """Waits until an accepted message is out; when the time is up, the loop goes on with it."""
        while not flush(self._end) and not self._closing:
            if not await self._waiting.ready(SEND, deadline_s):
                return

    async def _call(
        self,
        direction: int,
        verb: Callable[..., Result],
        timeout_s: float | None,
        *args: Any,
        **named: Any,
    ) -> Result:
        """A synchronous verb, awaited."""

        def attempt() -> tuple[Result] | None:
            try:
                return (verb(*args, timeout_s=0, **named),)
            except TimedOutError:
                return None

        return (await self._run(direction, attempt, timeout_s, verb.__name__))[0]


def _remake(kind: type[End], function: Callable[..., Any], args: tuple[Any, ...]) -> End:
    return kind(function(*args))
