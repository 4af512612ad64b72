"""posix_ipc: a POSIX message queue of depth 10, what any user may have."""

from __future__ import annotations

import os
from typing import Any

from peers.contract import End, Job, Peer
from two_processes import SENDER, Meeting

DEPTH = 10


class _End(End):
    wraps = True  # receive gives (message, priority)

    def __init__(self, incoming: Any, outgoing: Any) -> None:
        self.send = outgoing.send
        self.receive = incoming.receive
        self._queues = (incoming, outgoing)

    def unwrap(self, received: Any) -> Any:
        return received[0]

    def close(self) -> None:
        for queue in self._queues:
            queue.close()


class PosixMq(Peer):
    name = "posix_ipc"
    distribution = "posix-ipc"
    transport = "mq"

    def prepare(self, job: Job) -> Any:
        return [f"/naru-peer-{os.getpid()}-{way}" for way in ("there", "back")]

    def bind(self, place: Any, job: Job, meeting: Meeting) -> Any:
        import posix_ipc

        for name in place:
            posix_ipc.MessageQueue(
                name, posix_ipc.O_CREX, max_messages=DEPTH, max_message_size=job.size_bytes
            ).close()

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> End:
        import posix_ipc

        there, back = (posix_ipc.MessageQueue(name) for name in place)
        meeting.meet()
        if side == SENDER:  # both have them open: the names can go
            for name in place:
                posix_ipc.unlink_message_queue(name)
            return _End(back, there)
        return _End(there, back)


PEERS = (PosixMq(),)
