"""The ends of naru's transports, as a benchmark uses them.

Holds: how two forked processes come to an end each. A pair has no name, so nothing can be left
behind; fifo and mq are queues with a name, one for each direction.
Must not know: modes, clocks.
Joins: `host` prepares a place before the fork, each side opens its end there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import naru
from naru.address import PAIR_TRANSPORTS
from naru.bench.meeting import RECEIVER, SENDER
from naru.errors import NaruError
from naru.sizes import BATCH

__all__ = ["End", "Place", "make_place"]

LEASE = 512
OPEN_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 5.0


class End(ABC):
    """What a side holds: verbs, bound once."""

    lossy = False
    send: Callable[[Any], object]
    receive: Callable[..., Any]
    try_receive: Callable[[], Any]
    send_many: Callable[[list[Any]], object]
    receive_many: Callable[[], list[Any]]
    lease_many: Callable[[], Any]

    @abstractmethod
    def close(self) -> None:
        """Closes what is behind the verbs."""


class Place(Protocol):
    """What exists before the fork; `open` is called in a side, `clear` by the host at the end."""

    def open(self, side: int, two_way: bool) -> End: ...

    def clear(self) -> None: ...


class _NaruEnd(End):
    def __init__(self, incoming: Any, outgoing: Any, *, lossy: bool, two_way: bool) -> None:
        self.lossy = lossy
        self._held = {id(thing): thing for thing in (outgoing, incoming) if thing is not None}
        if outgoing is not None:
            self.send = outgoing.send
            self.send_many = outgoing.send_many
        if incoming is not None:
            self.receive = incoming.receive
            if lossy and two_way:  # an answer that is lost must not be waited for
                self.receive = partial(incoming.receive, ANSWER_TIMEOUT_S)
            self.try_receive = incoming.try_receive
            self.receive_many = partial(incoming.receive_many, BATCH)
            self.lease_many = partial(incoming.lease_many, LEASE)

    def close(self) -> None:
        for thing in self._held.values():
            thing.close()


class _Pair:
    """Both ends of naru.pair(); a side takes one by using it."""

    def __init__(self, transport: str, options: str) -> None:
        self._ends = naru.pair(f"{transport}:?{options}" if options else transport)
        self._lossy = transport == "udp"

    def open(self, side: int, two_way: bool) -> End:
        end = self._ends[side]
        return _NaruEnd(end, end, lossy=self._lossy, two_way=two_way)

    def clear(self) -> None:
        for end in self._ends:
            end.close()


class _Queues:
    """One name a direction, made by the side that receives there."""

    def __init__(self, there: str, back: str) -> None:
        self._there, self._back = there, back

    def open(self, side: int, two_way: bool) -> End:
        own, other = (self._back, self._there) if side == SENDER else (self._there, self._back)
        incoming = outgoing = None
        if side == RECEIVER or two_way:
            incoming = naru.receiver(own)
        try:
            if side == SENDER or two_way:
                outgoing = naru.sender(other, timeout_s=OPEN_TIMEOUT_S)
        except BaseException:
            if incoming is not None:
                incoming.close()
            raise
        return _NaruEnd(incoming, outgoing, lossy=False, two_way=two_way)

    def clear(self) -> None:
        """A receiver gives its name up. That of one that was killed is taken over for it."""
        for address in (self._there, self._back):
            with contextlib.suppress(NaruError):
                naru.receiver(address).close()


class _Fifos(_Queues):
    def __init__(self, query: str) -> None:
        self._directory = tempfile.mkdtemp(prefix="naru-bench-")
        there, back = (f"fifo://{self._directory}/{name}{query}" for name in ("there", "back"))
        super().__init__(there, back)

    def clear(self) -> None:
        super().clear()
        shutil.rmtree(self._directory)


class _MessageQueues(_Queues):
    def __init__(self, query: str) -> None:
        there, back = (f"mq:///naru-bench-{os.getpid()}-{way}{query}" for way in ("there", "back"))
        super().__init__(there, back)


def make_place(transport: str, options: str) -> Place:
    """Raises: what naru.pair raises, for a transport that is not to be had here."""
    if transport in PAIR_TRANSPORTS:
        return _Pair(transport, options)
    query = f"?{options}" if options else ""
    return _Fifos(query) if transport == "fifo" else _MessageQueues(query)
