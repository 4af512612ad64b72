"""kickmsg: publish and subscribe in shared memory; a slow subscriber loses.

A publisher never waits for a subscriber: it takes the oldest message from it.
So a stream has losses, which the subscriber counts; a run that lost messages
is marked, and its figure is for those that came. Round trips lose nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from peers.contract import Job, Peer, PolledEnd
from two_processes import SENDER, Meeting

SMALL_RING = 1024
LARGE_RING = 4


class _End(PolledEnd):
    def __init__(self, regions: list[Any], incoming: Any, outgoing: Any, job: Job) -> None:
        self._regions, self._incoming, self._outgoing = regions, incoming, outgoing
        self.lossy = not job.two_way
        self.try_receive = incoming.try_receive
        self._copies = job.shape == "copy"
        self._source = bytearray(job.size_bytes)

    def try_send(self, message: bytes) -> bool:
        try:
            self._outgoing.send(message)
        except BlockingIOError:  # no free slot: the subscriber holds them
            return False
        return True

    def send_large(self, number: int) -> None:
        while (slot := self._outgoing.allocate()) is None:
            pass
        with memoryview(slot) as view:
            if self._copies:
                view[:] = self._source
            view[:8] = number.to_bytes(8, "little")
        slot.publish(len(self._source))

    def try_receive_large(self, touch: Callable[[Any], int]) -> int | None:
        sample = self._incoming.try_receive_view()
        if sample is None:
            return None
        with sample, memoryview(sample) as view:
            return touch(view)

    def losses(self) -> int:
        return int(self._incoming.lost)

    def close(self) -> None:
        del self._incoming, self._outgoing, self.try_receive
        self._regions.clear()


class Kickmsg(Peer):
    name = "kickmsg"
    distribution = "kickmsg"
    transport = "shm"
    shapes = frozenset({"per-message", "trip", "copy", "reserve"})
    note = "drops messages for a slow subscriber"

    def prepare(self, job: Job) -> Any:
        return [f"/naru-peer-{os.getpid()}-{way}" for way in ("there", "back")]

    def bind(self, place: Any, job: Job, meeting: Meeting) -> Any:
        import kickmsg

        slots = LARGE_RING if job.shape in ("copy", "reserve") else SMALL_RING
        settings = kickmsg.Config()
        settings.max_subscribers = 1
        settings.sub_ring_capacity = slots
        settings.pool_size = 2 * slots
        settings.max_payload_size = job.size_bytes
        return [
            kickmsg.SharedRegion.create(name, kickmsg.ChannelType.PubSub, settings, "naru-peer")
            for name in place
        ]

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> PolledEnd:
        import kickmsg

        regions = bound or [kickmsg.SharedRegion.open(name) for name in place]
        there, back = regions
        incoming, outgoing = (back, there) if side == SENDER else (there, back)
        end = _End(regions, kickmsg.Subscriber(incoming), kickmsg.Publisher(outgoing), job)
        meeting.meet()  # what is published before the other subscribes is not kept
        return end

    def clean_up(self, place: Any) -> None:
        for name in place:
            path = f"/dev/shm{name}"
            if os.path.exists(path):
                os.unlink(path)


PEERS = (Kickmsg(),)
