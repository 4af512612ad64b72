"""Making ends for asyncio: connect, listen, pair, sender, receiver.

Taking a name never waits and is done at once. Reaching somebody waits: for the other side to appear,
for which the kernel has no event, and for its part of the handshake, which each transport writes as
straight code. That is done in a thread of its own, for as long as it takes to connect; no message
ever passes through a thread. (Not in the loop's pool: that is the program's, and a few connections to
servers that are not there yet would fill it.)

Must not know: any mechanism.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import TYPE_CHECKING, Any

from naru import channel as synchronous
from naru._native.system import eventfd
from naru.aio.ends import Channel, Receiver, Sender
from naru.aio.listener import Listener
from naru.channel import reach
from naru.errors import LimitError

if TYPE_CHECKING:
    from naru.address import Address

__all__ = ["connect", "listen", "pair", "receiver", "sender"]


def listen(address: str | Address) -> Listener:
    """Takes a name and listens for conversations: unix, shm, tcp, udp. Never waits.

    Args and Raises: as naru.listen().
    """
    return Listener(synchronous.listen(address))


async def connect(address: str | Address, timeout_s: float | None = 5.0) -> Channel:
    """Connects to a listener; waits while there is none yet. Cancelled, it leaves nothing open.

    Args and Raises: as naru.connect().
    """
    return Channel(await _reach("connect", address, timeout_s))


def pair(address: str | Address) -> tuple[Channel, Channel]:
    """Two ends joined to each other: shm, pipe, unix, tcp, udp. As naru.pair()."""
    one, other = synchronous.pair(address)
    return Channel(one), Channel(other)


def receiver(address: str | Address) -> Receiver:
    """Takes a name and receives from many senders: unix, shm, tcp, udp, fifo, mq. Never waits.

    Args and Raises: as naru.receiver().
    """
    return Receiver(synchronous.receiver(address))


async def sender(address: str | Address, timeout_s: float | None = 5.0) -> Sender:
    """One of the senders to a receiver; waits while there is none yet.

    Args and Raises: as naru.sender().
    """
    return Sender(await _reach("sender", address, timeout_s))


class _Reaching:
    """A thread that connects, and a task that may give it up. Once it is delivered the end is the task's
    alone: a thread that is slow to end must not keep it open."""

    def __init__(
        self, verb: str, address: str | Address, timeout_s: float | None,
        result: asyncio.Future[Any],
    ) -> None:  # fmt: skip
        self._what = (verb, address, timeout_s)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._given_up = eventfd(address=address)
        self._result: asyncio.Future[Any] | None = result
        self._outcome: tuple[Any, BaseException | None] = (None, None)

    def run(self) -> None:
        """In the thread."""
        try:
            self._outcome = reach(*self._what, given_up=self._given_up), None
        except BaseException as error:
            self._outcome = None, error
        self.close_bell()
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop was closed meanwhile
            end, _ = self._outcome
            if end is not None:
                end.close()

    def close_bell(self) -> None:
        with self._lock:
            fd, self._given_up = self._given_up, -1
        os.close(fd)

    def _deliver(self) -> None:
        result, self._result = self._result, None
        (end, error), self._outcome = self._outcome, (None, None)
        assert result is not None
        if result.done():  # cancelled when the thread had finished
            if end is not None:
                end.close()
        elif error is not None:
            result.set_exception(error)
        else:
            result.set_result(end)

    def give_up(self) -> None:
        """Nobody waits for it any more: the thread ends, and what it may have reached is closed."""
        with self._lock:
            if self._given_up >= 0:
                os.eventfd_write(self._given_up, 1)


async def _reach(verb: str, address: str | Address, timeout_s: float | None) -> Any:
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    reaching = _Reaching(verb, address, timeout_s, result)
    thread = threading.Thread(target=reaching.run, name=f"naru connects to {address}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        reaching.close_bell()
        raise LimitError(
            f'{verb} "{address}": no thread can be started (EAGAIN): raise RLIMIT_NPROC, or end some',
            errno=errno.EAGAIN, operation=verb, address=address,
        ) from error  # fmt: skip
    try:
        return await result
    except asyncio.CancelledError:
        reaching.give_up()
        if result.done() and not result.cancelled() and not result.exception():
            result.result().close()
        raise
