"""subetha-ipc: its adaptive ring, with frames for what exceeds a 64-byte slot.

`send_many` takes items of one slot only, so at 1 KB there is no batch.
"""

from __future__ import annotations

import glob
import os
from functools import partial
from typing import Any

from peers.contract import Job, Peer, PolledEnd
from two_processes import SENDER, Meeting

SLOTS = 1024
PATH = "/dev/shm/naru-peer-subetha"


class _End(PolledEnd):
    def __init__(self, incoming: Any, outgoing: Any) -> None:
        self.try_send = partial(outgoing.send_frame, outgoing.register_producer())
        self.try_receive = partial(incoming.recv_frame, incoming.register_consumer())
        self._rings = (incoming, outgoing)


class Subetha(Peer):
    name = "subetha"
    distribution = "subetha-ipc"
    transport = "shm"

    def prepare(self, job: Job) -> Any:
        return [f"{PATH}-{os.getpid()}-{way}" for way in ("there", "back")]

    def bind(self, place: Any, job: Job, meeting: Meeting) -> Any:
        import subetha

        return [subetha.Ring(path, SLOTS) for path in place]

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> PolledEnd:
        import subetha

        there, back = bound or [subetha.Ring.open(path, SLOTS) for path in place]
        return _End(back, there) if side == SENDER else _End(there, back)

    def clean_up(self, place: Any) -> None:
        for path in place:
            for file in glob.glob(glob.escape(path) + "*"):
                os.unlink(file)


PEERS = (Subetha(),)
