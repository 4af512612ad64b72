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
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from naru import channel as synchronous
from naru.aio.ends import Channel, Receiver, Sender
from naru.aio.listener import Listener
from naru.aio.turns import deadline_of
from naru.errors import NoSuchNameError, TimedOutError

if TYPE_CHECKING:
    from naru.address import Address

__all__ = ["connect", "listen", "pair", "receiver", "sender"]

# A thread that was given up lives so long at most: where nobody is there, and where somebody is busy.
SLICE_S = 0.05
LAST_SLICE_S = 5.0
PAUSE_S = 0.05


def listen(address: str | Address) -> Listener:
    """Takes a name and listens for conversations: unix, shm, tcp, udp. Never waits.

    Args and Raises: as naru.listen().
    """
    return Listener(synchronous.listen(address))


async def connect(address: str | Address, timeout_s: float | None = 5.0) -> Channel:
    """Connects to a listener; waits while there is none yet. Cancelled, it leaves nothing open.

    Args and Raises: as naru.connect().
    """
    return Channel(await _reach(synchronous.connect, address, timeout_s))


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
    return Sender(await _reach(synchronous.sender, address, timeout_s))


class _Reaching:
    """A thread that connects, and a task that may give it up."""

    def __init__(
        self, open_end: Callable[..., Any], address: str | Address, timeout_s: float | None
    ) -> None:
        self._open_end, self._address = open_end, address
        self._deadline_s = deadline_of(timeout_s)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._abandoned = threading.Event()
        self.result: asyncio.Future[Any] = self._loop.create_future()

    def run(self) -> None:
        """In the thread."""
        try:
            end, error = self._persist(), None
        except BaseException as caught:
            end, error = None, caught
        with self._lock:
            if not self._abandoned.is_set():
                try:
                    self._loop.call_soon_threadsafe(self._deliver, end, error)
                    return
                except RuntimeError:  # the loop was closed meanwhile
                    pass
        if end is not None:
            end.close()

    def _persist(self) -> Any:
        """Tries for short times, so that a thread that was given up does not live for long."""
        slice_s = SLICE_S
        while True:
            left_s = None if self._deadline_s is None else self._deadline_s - time.monotonic()
            is_last = left_s is not None and left_s <= slice_s
            try:
                return self._open_end(self._address, slice_s if left_s is None else
                                      max(0.0, min(slice_s, left_s)))  # fmt: skip
            except NoSuchNameError:
                if is_last or self._abandoned.wait(PAUSE_S):
                    raise
            except TimedOutError:
                if is_last or self._abandoned.is_set():
                    raise
                slice_s = min(4 * slice_s, LAST_SLICE_S)

    def _deliver(self, end: Any, error: BaseException | None) -> None:
        if self.result.done():  # cancelled when the thread had finished
            if end is not None:
                end.close()
        elif error is not None:
            self.result.set_exception(error)
        else:
            self.result.set_result(end)

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._abandoned.set()
        if self.result.done() and not self.result.cancelled() and not self.result.exception():
            self.result.result().close()


async def _reach(
    open_end: Callable[..., Any], address: str | Address, timeout_s: float | None
) -> Any:
    reaching = _Reaching(open_end, address, timeout_s)
    thread = threading.Thread(target=reaching.run, name=f"naru connects to {address}", daemon=True)
    thread.start()
    try:
        return await reaching.result
    except asyncio.CancelledError:
        reaching.abandon()
        raise
