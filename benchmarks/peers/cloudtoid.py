"""cloudtoid-interprocess: a byte queue in shared memory, polled."""

from __future__ import annotations

import os
from typing import Any

import loops
from peers.contract import Job, Peer, PolledEnd
from two_processes import SENDER, Meeting

CAPACITY_BYTES = 1 << 20


class _End(PolledEnd):
    def __init__(self, incoming: Any, outgoing: Any) -> None:
        self.try_send = outgoing.try_send
        self.try_receive = incoming.try_receive
        self._incoming, self._outgoing = incoming, outgoing

    def send_batch(self, block: list[bytes]) -> None:
        sent = self._outgoing.try_send_batch(block)
        while sent < len(block):
            sent += self._outgoing.try_send_batch(block[sent:])

    def receive_batch(self) -> list[bytes]:
        """It has no batch to receive: what is there, one call each."""
        batch: list[bytes] = []
        while len(batch) < loops.BLOCK and (message := self.try_receive()) is not None:
            batch.append(message)
        return batch

    def close(self) -> None:
        self._incoming.close()
        self._outgoing.close()


class Cloudtoid(Peer):
    name = "cloudtoid"
    distribution = "cloudtoid-interprocess"
    transport = "shm"
    shapes = frozenset({"per-message", "batch", "trip"})

    def prepare(self, job: Job) -> Any:
        return [f"naru-peer-{os.getpid()}-{way}" for way in ("there", "back")]

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> PolledEnd:
        from cloudtoid_interprocess import Publisher, Subscriber

        there, back = place
        outgoing, incoming = (there, back) if side == SENDER else (back, there)
        return _End(Subscriber(incoming, CAPACITY_BYTES), Publisher(outgoing, CAPACITY_BYTES))


PEERS = (Cloudtoid(),)
