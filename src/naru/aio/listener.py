"""What aio.listen returns: a name that gives channels.

Handshakes are steps that never wait (naru.transports.door), taken whenever the listener's descriptor
is readable or a silent stranger's time is up. Must not know: any mechanism.
"""

from __future__ import annotations

import asyncio
import errno
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

from naru.aio.ends import Channel
from naru.aio.turns import Turn, deadline_of, has_passed
from naru.errors import ClosedError, TimedOutError, from_errno

if TYPE_CHECKING:
    import naru
    from naru.address import Address

__all__ = ["Listener"]


class Listener:
    """Accepts conversations at an address until it is closed. Several tasks may accept."""

    def __init__(self, listener: naru.Listener) -> None:
        """Takes a synchronous listener over."""
        self._listener = listener
        self._turn = Turn()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def address(self) -> Address:
        """Where it listens; the real port where 0 was asked."""
        return self._listener.address

    @property
    def strangers(self) -> int:
        """Connections refused so far: not naru, not allowed, silent."""
        return self._listener.strangers

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._closed or self._listener.closed

    def fileno(self) -> int:
        """Polls readable when accept(timeout_s=0) is worth a try."""
        return self._listener.fileno()

    async def accept(self, timeout_s: float | None = None) -> Channel:
        """Waits for the next conversation. Cancelled, it has taken none.

        Args and Raises: as naru.Listener.accept().
        """
        deadline_s = deadline_of(timeout_s)
        if self._closed or not await self._turn.take(deadline_s):
            raise from_errno(
                -errno.ECANCELED if self._closed else -errno.ETIMEDOUT, "accept", self.address
            )
        try:
            while True:
                try:
                    return Channel(self._listener.accept(timeout_s=0))
                except TimedOutError:
                    if has_passed(deadline_s):
                        raise
                await self._wait(deadline_s)
        finally:
            if not self._closed:
                self._turn.give()

    async def _wait(self, deadline_s: float | None) -> None:
        """Until somebody knocks, or there is something to do, or the time is up."""
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        fd = self._listener.fileno()
        loop.add_reader(fd, _wake, waiter)
        pauses = [] if deadline_s is None else [deadline_s - monotonic()]
        busy_s = self._listener._step_due_s()
        if busy_s is not None:
            pauses.append(busy_s)
        timer = loop.call_later(max(0.0, min(pauses)), _wake, waiter) if pauses else None
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
            if not self._closed:  # close() has done it: the number may be another's by now
                loop.remove_reader(fd)

    def close(self) -> None:
        """Gives the address up; conversations that were accepted go on. Idempotent. Never waits.

        Tasks that wait in accept() get ClosedError, `async for` ends.
        """
        if self._closed:
            return
        self._closed = True
        waiter = self._waiter
        if waiter is not None:
            waiter.get_loop().remove_reader(self._listener.fileno())
            _wake(waiter)
        self._turn.taken = True
        self._turn.send_away()
        self._listener.close()

    async def aclose(self) -> None:
        """close()."""
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Channel:
        try:
            return await self.accept()
        except ClosedError:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<aio.{repr(self._listener).lstrip('<')}"


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
