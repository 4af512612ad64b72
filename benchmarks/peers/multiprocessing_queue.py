"""multiprocessing.Queue and SimpleQueue: pickles over a pipe under locks."""

from __future__ import annotations

import multiprocessing
from typing import Any

from peers.contract import End, Job, Peer
from two_processes import SENDER, Meeting


class _End(End):
    def __init__(self, incoming: Any, outgoing: Any) -> None:
        self.send = outgoing.put
        self.receive = incoming.get
        self._outgoing = outgoing

    def close(self) -> None:
        self._outgoing.close()
        if hasattr(self._outgoing, "join_thread"):
            self._outgoing.join_thread()


class _QueuePeer(Peer):
    transport = "pipe"

    def new_queue(self) -> Any:
        raise NotImplementedError

    def prepare(self, job: Job) -> Any:
        return self.new_queue(), self.new_queue()

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> End:
        there, back = place
        return _End(back, there) if side == SENDER else _End(there, back)

    def clean_up(self, place: Any) -> None:
        for queue in place:
            queue.close()


class MultiprocessingQueue(_QueuePeer):
    name = "mp.Queue"

    def new_queue(self) -> Any:
        return multiprocessing.get_context("fork").Queue()


class MultiprocessingSimpleQueue(_QueuePeer):
    name = "mp.SimpleQueue"

    def new_queue(self) -> Any:
        return multiprocessing.get_context("fork").SimpleQueue()


PEERS = (MultiprocessingQueue(), MultiprocessingSimpleQueue())
