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

import errno
from collections.abc import Callable, Collection, Iterable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import naru._native.ends as native
from naru._native.views import Batch
from naru._native.watching import RECEIVE, SEND, Sending, has_rest, send_now, send_some
from naru.aio.blocks import ArrayBlock, ArrayReserving, Block, Reserving
from naru.aio.end import End
from naru.aio.turns import deadline_of
from naru.codec.objects import parts_of, value_of
from naru.errors import PeerGoneError, TimedOutError, from_errno

if TYPE_CHECKING:
    from _typeshed import HasFileno
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from naru.buffers import ReadableBuffer, WriteableBuffer

__all__ = ["Channel", "Receiver", "Sender"]

Result = TypeVar("Result")


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

    async def send_object(
        self,
        value: object,
        codec: Literal["msgpack", "pickle"] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Sends one value. As naru.Sender.send_object()."""
        await self.send_parts(parts_of(value, codec), timeout_s)

    def try_send_object(
        self, value: object, codec: Literal["msgpack", "pickle"] | None = None
    ) -> bool:
        """As send_object(), if that needs no waiting. As naru.Sender.try_send_object()."""
        return self.try_send(b"".join(parts_of(value, codec)))

    async def send_array(self, array: ArrayLike, timeout_s: float | None = None) -> None:
        """Sends one numpy array. As naru.Sender.send_array()."""
        await self._sending(self._end.send_array, timeout_s, array)

    def try_send_array(self, array: ArrayLike) -> bool:
        """As send_array(), if that needs no waiting. As naru.Sender.try_send_array()."""
        if self._turns[SEND].taken and not self._closing:
            return False
        sent: bool = self._end.try_send_array(array)
        if sent and has_rest(self._end):
            self._waiting.push()
        return sent

    def reserve_array(
        self,
        shape: int | Sequence[int],
        dtype: DTypeLike = "f8",
        order: Literal["C", "F"] = "C",
        timeout_s: float | None = None,
    ) -> ArrayReserving[NDArray[Any]]:
        """Room for one array: `async with sender.reserve_array(shape, dtype) as array:`. As
        naru.Sender.reserve_array()."""
        return ArrayReserving(
            self, SEND, lambda: self._end.reserve_array(shape, dtype, order, 0), timeout_s,
            "reserve_array",
        )  # fmt: skip

    def reserve(self, size_bytes: int, timeout_s: float | None = None) -> Reserving[memoryview]:
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

    async def receive_object(
        self,
        type: Any = None,
        codec: Literal["msgpack", "pickle"] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Waits for a value that send_object() sent. As naru.Receiver.receive_object()."""
        return await self._receiving(self._end.receive_object, timeout_s, type, codec)

    def try_receive_object(
        self,
        type: Any = None,
        codec: Literal["msgpack", "pickle"] | None = None,
        default: Any = None,
    ) -> Any:
        """As receive_object(), or `default`. As naru.Receiver.try_receive_object()."""
        message = self.try_receive()
        return default if message is None else value_of(message, type, codec, self._end.address)

    async def receive_array(self, timeout_s: float | None = None) -> NDArray[Any]:
        """Waits for an array; it is yours. As naru.Receiver.receive_array()."""
        array: NDArray[Any] = await self._receiving(self._end.receive_array, timeout_s)
        return array

    def try_receive_array(self) -> NDArray[Any] | None:
        """As receive_array(), or None. As naru.Receiver.try_receive_array()."""
        turn = self._turns[RECEIVE]
        if turn.taken and turn.block is None and not self._closing:
            return None
        array: NDArray[Any] | None = self._end.try_receive_array()
        return array

    def lease_array(
        self, timeout_s: float | None = None, *, writable: bool = False
    ) -> ArrayBlock[NDArray[Any]]:
        """The next array in place: `async with receiver.lease_array() as array:`. As
        naru.Receiver.lease_array()."""
        return ArrayBlock(
            self, RECEIVE, lambda: self._end.lease_array(0, writable=writable), timeout_s,
            "lease_array",
        )  # fmt: skip

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
