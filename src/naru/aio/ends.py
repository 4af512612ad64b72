"""The ends for asyncio: each verb of the synchronous ends, awaited.

A verb tries what it has to do; only when that is not possible now it takes its turn, waits (waiting.py)
and tries again. What it tries is the synchronous verb itself with timeout_s=0, so a verb that is new
there needs three lines here: `_sending` or `_receiving` do the rest.

Cancelling     A message is taken or accepted in one step, with no await behind it that could lose it.
               A receive that is cancelled has taken nothing. A send that is cancelled has sent
               nothing, or its message was accepted already (a large one that was begun): then it
               arrives whole, and the loop pushes the rest out.
Several tasks  Each direction has its turn (turns.py): first come, first served, and one that could go
               on at once does not overtake those who wait.
Fairness       A task that never has to wait gives the loop a turn every 0.5 ms.

Must not know: any transport. Joins: naru.aio.opening makes them.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import naru._native.ends as native
from naru._native.views import Batch
from naru._native.watching import (
    RECEIVE,
    SEND,
    Sending,
    close_now,
    flush,
    has_rest,
    is_lingering,
    linger_s,
    send_now,
    send_some,
    take_leave,
)
from naru.aio.blocks import Block, Reserving
from naru.aio.turns import Turn, deadline_of, has_passed
from naru.aio.waiting import Waiting
from naru.errors import NaruError, PeerGoneError, TimedOutError, from_errno

if TYPE_CHECKING:
    from _typeshed import HasFileno

    from naru.address import Address
    from naru.buffers import ReadableBuffer, WriteableBuffer
    from naru.statistics import Statistics
    from naru.transports.contract import Peer

__all__ = ["Channel", "End", "Receiver", "Sender"]

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


class Sender(End):
    """The sending verbs of naru.Sender for asyncio; each message stays whole, order is kept.

    Belongs to one event loop. Several tasks may use it.
    """

    __slots__ = ()
    _kind = native.Sender

    async def _sending(
        self, verb: Callable[..., Result], timeout_s: float | None, *args: Any, **named: Any
    ) -> Result:
        return await self._call(SEND, verb, timeout_s, *args, **named)

    async def send(
        self, data: ReadableBuffer, timeout_s: float | None = None, *, priority: int = 0
    ) -> None:
        """Sends one message; waits while there is no room (back-pressure).

        Args and Raises: as naru.Sender.send().
        """
        sending = None
        if not self._turns[SEND].taken and monotonic() < self._waiting.due_s:
            sending = send_now(self._end, data, priority)
            if sending is None:
                return
        await self._finish(sending, data, priority, deadline_of(timeout_s))

    async def _finish(
        self,
        sending: Sending | None,
        data: ReadableBuffer,
        priority: int,
        deadline_s: float | None,
    ) -> None:
        """The slow half of send(); `sending`: what has been tried."""
        mine = await self._take(SEND, deadline_s, "send")
        try:
            if sending is None:
                await self._waiting.breathe_if_due()
                self._demand_open("send")
                sending = send_now(self._end, data, priority)
            while sending is not None and not sending.done:
                if not await self._waiting.ready(SEND, deadline_s):
                    if sending.begun:
                        return  # hence accepted, as in naru.Sender.send()
                    raise self._too_late(SEND, "send")
                self._demand_open("send")
                sending.step()
            await self._push_out(deadline_s)
        finally:
            if sending is not None:
                sending.keep()
            if mine:
                self._give(SEND)

    def try_send(self, data: ReadableBuffer, *, priority: int = 0) -> bool:
        """Sends one message if that needs no waiting: True, or False when there is no room, or
        others wait for it. The rest of a large message that was begun is pushed out by the loop.

        Args and Raises: as naru.Sender.try_send().
        """
        if self._turns[SEND].taken and not self._closing:
            return False
        sent: bool = self._end.try_send(data, priority=priority)
        if sent and has_rest(self._end):
            self._waiting.push()
        return sent

    async def send_parts(
        self,
        buffers: Collection[ReadableBuffer],
        timeout_s: float | None = None,
        *,
        priority: int = 0,
    ) -> None:
        """Sends the concatenation of several buffers as one message. As naru.Sender.send_parts()."""
        await self._sending(self._end.send_parts, timeout_s, buffers, priority=priority)

    async def send_many(
        self, messages: Iterable[ReadableBuffer], timeout_s: float | None = None
    ) -> None:
        """Sends every message of a sequence. As naru.Sender.send_many().

        Cancelled, it has sent the first so many of them: `statistics().messages_sent` tells.
        """
        batch = messages if type(messages) is list else list(messages)
        sent = 0

        def attempt() -> bool | None:
            nonlocal sent
            sent += send_some(self._end, batch, sent)
            return True if sent == len(batch) else None

        try:
            await self._run(SEND, attempt, timeout_s, "send_many")
        except TimedOutError:
            raise from_errno(
                -errno.ETIMEDOUT, "send_many", self._end.address,
                detail=f"{sent} messages were sent, the others not",
            ) from None  # fmt: skip

    def reserve(self, size_bytes: int, timeout_s: float | None = None) -> Reserving:
        """Room for one message, to be written in place: `async with sender.reserve(n) as view:`.

        Other tasks that send wait for the end of the block; a cancelled block sends nothing. As
        naru.Sender.reserve().
        """
        return Reserving(self, SEND, lambda: self._end.reserve(size_bytes, 0), timeout_s, "reserve")

    async def send_fds(
        self,
        data: ReadableBuffer,
        fds: Sequence[int | HasFileno],
        timeout_s: float | None = None,
    ) -> None:
        """Sends a message with open descriptors (unix, shm). As naru.Sender.send_fds()."""
        await self._sending(self._end.send_fds, timeout_s, data, fds)


class Receiver(End):
    """The receiving verbs of naru.Receiver for asyncio; each message goes to one task.

    `async for message in receiver` ends when the peer closed in good order and raises PeerGoneError
    when it died. Belongs to one event loop. Several tasks may use it: first come, first served.
    """

    __slots__ = ()
    _kind = native.Receiver

    async def _receiving(
        self, verb: Callable[..., Result], timeout_s: float | None, *args: Any, **named: Any
    ) -> Result:
        return await self._call(RECEIVE, verb, timeout_s, *args, **named)

    async def receive(self, timeout_s: float | None = None) -> bytes:
        """Waits for a message and returns it as bytes (b"" is a message of 0 bytes).

        Args and Raises: as naru.Receiver.receive().
        """
        tried = not self._turns[RECEIVE].taken and monotonic() < self._waiting.due_s
        if tried:
            message: bytes | None = self._end.try_receive()
            if message is not None:
                return message
        return await self._run(RECEIVE, self._end.try_receive, timeout_s, "receive", tried)

    def try_receive(self) -> bytes | None:
        """A message as bytes, or None when there is none now, or others wait for the next one.

        Raises: as naru.Receiver.try_receive().
        """
        turn = self._turns[RECEIVE]
        if turn.taken and turn.block is None and not self._closing:
            return None
        message: bytes | None = self._end.try_receive()
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.receive()
        except PeerGoneError as error:
            if not error.orderly:
                raise
        raise StopAsyncIteration

    async def receive_many(self, limit: int = 64, timeout_s: float | None = None) -> list[bytes]:
        """Waits for a message and takes those that are there, too: a list of 1..limit bytes.

        Args and Raises: as naru.Receiver.receive_many().
        """
        return await self._receiving(self._end.receive_many, timeout_s, limit)

    async def receive_into(self, buffer: WriteableBuffer, timeout_s: float | None = None) -> int:
        """Waits for a message and copies it into a writable buffer; gives its size in bytes.

        Raises: as naru.Receiver.receive_into(). Cancelled, it has not touched the buffer.
        """
        return await self._receiving(self._end.receive_into, timeout_s, buffer)

    async def receive_with_priority(self, timeout_s: float | None = None) -> tuple[bytes, int]:
        """As receive(), returns (message, priority); the priority is 0 except on mq."""
        return await self._receiving(self._end.receive_with_priority, timeout_s)

    async def receive_fds(
        self, limit: int = 253, timeout_s: float | None = None
    ) -> tuple[bytes, list[int]]:
        """Waits for a message and the descriptors that came with it (unix, shm): (bytes, fds).

        Args, Returns and Raises: as naru.Receiver.receive_fds(). Cancelled, it has taken none.
        """
        return await self._receiving(self._end.receive_fds, timeout_s, limit)

    def lease(self, timeout_s: float | None = None) -> Block[memoryview]:
        """The next message in place: `async with receiver.lease() as view:`.

        Other tasks that receive wait for the end of the block. Rules and Raises: as
        naru.Receiver.lease().
        """
        return Block(self, RECEIVE, lambda: self._end.lease(0), timeout_s, "lease")

    def lease_many(self, limit: int = 64, timeout_s: float | None = None) -> Block[Batch]:
        """A batch in place: `async with receiver.lease_many(512) as batch:`.

        Rules and Raises: as naru.Receiver.lease_many().
        """
        return Block(self, RECEIVE, lambda: self._end.lease_many(limit, 0), timeout_s, "lease_many")


class Channel(Sender, Receiver):
    """One end of a conversation: all verbs of Sender and of Receiver.

    Made by `await aio.connect()`, `await listener.accept()` and `aio.pair()`, or from a naru.Channel.
    """

    __slots__ = ()
    _kind = native.Channel
