"""Blocks: messages in place for asyncio, `async with` around the leases and reservations of the ends.

Who is in a block keeps the turn of its direction, so other tasks wait for its end instead of being
refused. The same task would wait for itself: it is told what the synchronous end says.

Holds: Block, Reserving, and both for arrays. Must not know: how long things wait (end.py).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from naru._native.watching import SEND, has_rest, private_of
from naru.aio.turns import deadline_of
from naru.errors import TimedOutError

if TYPE_CHECKING:
    from naru.aio.end import End

__all__ = ["ArrayBlock", "ArrayReserving", "Block", "Reserving"]

Entered = TypeVar("Entered")


class Block(Generic[Entered]):
    """For one `async with`; made by lease(), lease_many() and reserve()."""

    __slots__ = (
        "_direction",
        "_end",
        "_held",
        "_make",
        "_mine",
        "_operation",
        "_timeout_s",
        "_used",
    )

    def __init__(
        self,
        end: End,
        direction: int,
        make: Callable[[], Any],
        timeout_s: float | None,
        operation: str,
    ) -> None:
        make()  # refuses what is wrong now, and takes nothing
        self._end, self._direction, self._make = end, direction, make
        self._timeout_s, self._operation = timeout_s, operation
        self._held: Any = None
        self._mine = False
        self._used = False

    async def __aenter__(self) -> Entered:
        """Waits as the verb does. Raises: as the verb; ValueError: it was used before."""
        if self._used:
            raise ValueError("a lease or reservation is for one `async with` block")
        deadline_s = deadline_of(self._timeout_s)
        end, direction = self._end, self._direction
        self._mine = await end._take(direction, deadline_s, self._operation)
        try:
            entered: tuple[Entered] = await end._try_until(
                direction, self._enter, deadline_s, self._operation
            )
        except BaseException:
            self._leave()
            raise
        if self._mine:
            end._turns[direction].block = asyncio.current_task()
        return entered[0]

    def _enter(self) -> tuple[Entered] | None:
        held = self._make()
        try:
            entered = held.__enter__()
        except TimedOutError:
            return None
        self._held, self._used = held, True
        return (entered,)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raises BufferError: a view of the message is still alive."""
        try:
            await self._exit(kind, error, traceback)
        finally:
            self._leave()

    async def _exit(self, *exc_info: Any) -> None:
        self._held.__exit__(*exc_info)

    def _leave(self) -> None:
        self._held = None
        if self._mine:
            self._mine = False
            self._end._turns[self._direction].block = None
            self._end._give(self._direction)


class Reserving(Block[Entered]):
    """Room for one message; made by reserve()."""

    __slots__ = ()

    def _room(self) -> Any:
        return self._held

    def _finish(self, *exc_info: Any) -> None:
        self._held.__exit__(*exc_info)

    async def _exit(self, *exc_info: Any) -> None:
        private = private_of(self._room()) if exc_info[0] is None else None
        try:
            self._finish(*exc_info)
        except TimedOutError:
            if private is None:
                raise
            await self._send(private)  # nothing of it has gone, and no view of it is left
        if has_rest(self._end._end):
            await self._end._push_out(deadline_of(self._timeout_s))

    async def _send(self, message: bytearray) -> None:
        """There was no place in the ring, and there is no room now."""
        end: Any = self._end._end
        await self._end._try_until(
            SEND,
            lambda: end.try_send(message) or None,
            deadline_of(self._timeout_s),
            self._operation,
        )


# ---- arrays: what is left of one is looked for in the function that has the block (retiring.py) ----


class ArrayBlock(Block[Entered]):
    """One array in place; made by lease_array()."""

    __slots__ = ("_frame",)

    async def __aexit__(self, *exc_info: Any) -> None:
        """Raises BufferError: a slice, or another name, of the array is still alive."""
        self._frame = sys._getframe(1)
        await super().__aexit__(*exc_info)

    async def _exit(self, *exc_info: Any) -> None:
        self._held._leave(self._frame, *exc_info)
        del self._frame


class ArrayReserving(Reserving[Entered]):
    """Room for one array; made by reserve_array()."""

    __slots__ = ("_frame",)

    async def __aexit__(self, *exc_info: Any) -> None:
        """Raises BufferError: a slice, or another name, of the array is still alive."""
        self._frame = sys._getframe(1)
        await super().__aexit__(*exc_info)

    def _room(self) -> Any:
        return self._held._held

    def _finish(self, *exc_info: Any) -> None:
        self._held._leave(self._frame, *exc_info)
        del self._frame
