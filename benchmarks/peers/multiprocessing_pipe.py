"""multiprocessing.Pipe: framed bytes over a pipe, or over a socket both ways."""

from __future__ import annotations

import multiprocessing
from typing import Any

from peers.contract import End, Job, Peer
from two_processes import SENDER, Meeting


class _End(End):
    def __init__(self, connection: Any) -> None:
        self.send = connection.send_bytes
        self.receive = connection.recv_bytes


class MultiprocessingPipe(Peer):
    name = "mp.Pipe"
    transport = "pipe"

    def prepare(self, job: Job) -> Any:
        # Gives (receiver, sender); with duplex both ends do both.
        return multiprocessing.Pipe(duplex=job.two_way)

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> End:
        return _End(place[1 if side == SENDER else 0])

    def clean_up(self, place: Any) -> None:
        for connection in place:
            connection.close()


PEERS = (MultiprocessingPipe(),)
