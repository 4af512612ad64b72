"""naru's own runs, in the shape of a peer, so that both are measured alike.

Holds: one runner per naru transport; the way each verb is used is the way a
user would: `send`/`receive`, `send_many`/`receive_many(64)`, and
`lease_many(512)` for looking at messages where they lie.
Must not know: rows and targets (rows.py).
Joins: peers/contract.py runs them; messages.py looks them up by name.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import loops
from peers.contract import End, Job, Peer
from two_processes import SENDER, Meeting

RECEIVE_LIMIT = 64
LEASE_LIMIT = 512
CONNECT_TIMEOUT_S = 10.0
# Large payloads: four of them fit, so that both sides can be at work.
LARGE_PAYLOADS_IN_RING = 4


class _End(End):
    """`outgoing` sends, `incoming` receives; a Channel is both."""

    def __init__(self, incoming: Any, outgoing: Any, job: Job, held: tuple[Any, ...] = ()) -> None:
        if outgoing is not None:
            self.send = outgoing.send
            self.send_batch = getattr(outgoing, "send_many", outgoing.send)
        if incoming is not None:
            self.receive = incoming.receive
            self.receive_batch = partial(incoming.receive_many, RECEIVE_LIMIT)
        self._incoming, self._outgoing = incoming, outgoing
        self._held = held
        self._source = bytearray(job.size_bytes)
        self._reserves = job.shape == "reserve"

    def receive_in_place(self, shape: str, blocks: int, size_bytes: int) -> None:
        if shape == "views":
            self._receive_views(blocks, size_bytes)
        else:
            self._receive_arrays(blocks)

    def _receive_views(self, blocks: int, size_bytes: int) -> None:
        lease_many = self._incoming.lease_many
        received, wanted = 0, blocks * loops.BLOCK
        while received < wanted:
            with lease_many(LEASE_LIMIT) as batch:
                for view in batch:
                    view[0]
                loops.check_batch(batch, received, size_bytes)
                received += len(batch)

    def _receive_arrays(self, blocks: int) -> None:
        """Adds up the first 8 bytes of all messages, so each of them counts."""
        lease_many = self._incoming.lease_many
        received, wanted, total = 0, blocks * loops.BLOCK, 0
        while received < wanted:
            with lease_many(LEASE_LIMIT) as batch:
                total += int(batch.array("u8")[:, 0].sum())
                received += len(batch)
        if received != wanted or total != loops.sum_of_numbers(blocks):
            raise loops.WrongMessageError(f"{received} messages came, their numbers make {total}")

    def send_large(self, number: int) -> None:
        if self._reserves:
            with self._outgoing.reserve(len(self._source)) as view:
                view[:8] = number.to_bytes(8, "little")
            return
        self._source[:8] = number.to_bytes(8, "little")
        self._outgoing.send(self._source)

    def receive_large(self, touch: Callable[[Any], int]) -> int:
        with self._incoming.lease() as view:
            return touch(view)

    def close(self) -> None:
        for thing in (self._outgoing, self._incoming, *self._held):
            if thing is not None:
                thing.close()


class _NaruPeer(Peer):
    distribution = "naru-ipc"
    shapes = frozenset({"per-message", "batch", "trip", "idle"})


class _ListeningPeer(_NaruPeer):
    """The receiver listens and accepts, the sender connects."""

    def address(self) -> str:
        raise NotImplementedError

    def options(self, job: Job) -> dict[str, object]:
        return _wait_option(job)

    def bind(self, place: Any, job: Job, meeting: Meeting) -> Any:
        import naru

        listener = naru.listen(_with_options(self.address(), self.options(job)))
        # The place of the listener, where a port is now known, and this job's options.
        bound_at = str(listener.address).partition("?")[0]
        meeting.announce(_with_options(bound_at, self.options(job)))
        return listener

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> End:
        import naru

        if side == SENDER:
            channel = naru.connect(meeting.announced(), timeout_s=CONNECT_TIMEOUT_S)
            return _End(channel, channel, job)
        channel = bound.accept(timeout_s=CONNECT_TIMEOUT_S)
        return _End(channel, channel, job, held=(bound,))


def _with_options(address: str, options: dict[str, object]) -> str:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"{address}?{query}" if query else address


def _wait_option(job: Job) -> dict[str, object]:
    return {} if job.wait == "default" else {"wait": job.wait}


class NaruShm(_ListeningPeer):
    name = "naru.shm"
    transport = "shm"
    shapes = frozenset(
        {"per-message", "batch", "views", "array", "trip", "idle", "copy", "reserve"}
    )

    def address(self) -> str:
        return f"shm://naru-bench-{os.getpid()}"

    def options(self, job: Job) -> dict[str, object]:
        options = super().options(job)
        if job.shape in ("copy", "reserve"):
            options["capacity_bytes"] = LARGE_PAYLOADS_IN_RING * job.size_bytes
        return options


class _AwaitedEnd(_End):
    """Round trips by coroutines, in an event loop that lives for one pass."""

    checkable = False

    def __init__(self, channel: Any, job: Job, held: tuple[Any, ...] = ()) -> None:
        from naru import aio

        super().__init__(channel, channel, job, held)
        awaited = aio.Channel(channel)
        self.send, self.receive = awaited.send, awaited.receive

    def run_trips(self, blocks: int, size_bytes: int, stamps_ns: list[int]) -> None:
        asyncio.run(loops.trips_awaited(self, blocks, size_bytes, stamps_ns))

    def run_echo(self, blocks: int) -> None:
        asyncio.run(loops.echo_awaited(self, blocks))


class NaruAsyncio(NaruShm):
    name = "naru.aio"
    shapes = frozenset({"trip"})

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> End:
        import naru

        if side == SENDER:
            return _AwaitedEnd(naru.connect(meeting.announced(), CONNECT_TIMEOUT_S), job)
        return _AwaitedEnd(bound.accept(timeout_s=CONNECT_TIMEOUT_S), job, held=(bound,))


class NaruUnix(_ListeningPeer):
    name = "naru.unix"
    transport = "unix"

    def address(self) -> str:
        return f"unix:@naru-bench-{os.getpid()}"


class NaruTcp(_ListeningPeer):
    name = "naru.tcp"
    transport = "tcp"

    def address(self) -> str:
        return "tcp://127.0.0.1:0"


class NaruPipe(_NaruPeer):
    """A pair made before the fork; each process uses one end of it."""

    name = "naru.pipe"
    transport = "pipe"

    def prepare(self, job: Job) -> Any:
        import naru

        return naru.pair(_with_options("pipe:", _wait_option(job)))

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> End:
        channel = place[0 if side == SENDER else 1]
        return _End(channel, channel, job)

    def clean_up(self, place: Any) -> None:
        for channel in place:
            channel.close()


class NaruMq(_NaruPeer):
    name = "naru.mq"
    transport = "mq"
    shapes = frozenset({"per-message", "trip"})

    def prepare(self, job: Job) -> Any:
        return [
            _with_options(f"mq:///naru-bench-{os.getpid()}-{way}", _wait_option(job))
            for way in ("there", "back")
        ]

    def bind(self, place: Any, job: Job, meeting: Meeting) -> Any:
        import naru

        return naru.receiver(place[0])

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> End:
        import naru

        there, back = place
        if side == SENDER:
            incoming = naru.receiver(back) if job.two_way else None
            meeting.meet()
            return _End(incoming, naru.sender(there, timeout_s=CONNECT_TIMEOUT_S), job)
        meeting.meet()
        outgoing = naru.sender(back, timeout_s=CONNECT_TIMEOUT_S) if job.two_way else None
        return _End(bound, outgoing, job)


RUNS: dict[str, Peer] = {
    run.name: run for run in (NaruShm(), NaruAsyncio(), NaruPipe(), NaruUnix(), NaruTcp(), NaruMq())
}
