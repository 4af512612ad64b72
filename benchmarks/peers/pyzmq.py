"""pyzmq: PAIR sockets over ipc and tcp; over asyncio for round trips too."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import Any

import loops
from peers.contract import End, Job, Peer
from two_processes import SENDER, Meeting


class _End(End):
    def __init__(self, context: Any, socket: Any) -> None:
        self.send = socket.send
        self.receive = socket.recv
        self._context, self._socket = context, socket

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()


class _ZmqPeer(Peer):
    distribution = "pyzmq"

    def endpoint(self, place: Any) -> str:
        raise NotImplementedError

    def new_socket(self) -> tuple[Any, Any]:
        import zmq

        context: Any = zmq.Context()
        return context, context.socket(zmq.PAIR)

    def bind(self, place: Any, job: Job, meeting: Meeting) -> Any:
        import zmq

        context, socket = self.new_socket()
        socket.bind(self.endpoint(place))
        meeting.announce(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        return context, socket

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> End:
        if side != SENDER:
            return self.new_end(*bound)
        context, socket = self.new_socket()
        socket.connect(meeting.announced())
        return self.new_end(context, socket)

    def new_end(self, context: Any, socket: Any) -> End:
        return _End(context, socket)


class ZmqIpc(_ZmqPeer):
    name = "pyzmq.ipc"
    transport = "unix"

    def prepare(self, job: Job) -> Any:
        return os.path.join(tempfile.gettempdir(), f"naru-peer-zmq-{os.getpid()}")

    def endpoint(self, place: Any) -> str:
        return f"ipc://{place}"

    def clean_up(self, place: Any) -> None:
        if os.path.exists(place):
            os.unlink(place)


class ZmqTcp(_ZmqPeer):
    name = "pyzmq.tcp"
    transport = "tcp"

    def endpoint(self, place: Any) -> str:
        return "tcp://127.0.0.1:*"


class _AsyncEnd(_End):
    """Round trips by coroutines, in an event loop that lives for one pass."""

    checkable = False

    def run_trips(self, blocks: int, size_bytes: int, stamps_ns: list[int]) -> None:
        asyncio.run(loops.trips_awaited(self, blocks, size_bytes, stamps_ns))

    def run_echo(self, blocks: int) -> None:
        asyncio.run(loops.echo_awaited(self, blocks))


class ZmqAsyncio(ZmqIpc):
    name = "zmq.asyncio"
    shapes = frozenset({"trip"})

    def new_socket(self) -> tuple[Any, Any]:
        import zmq
        import zmq.asyncio

        context: Any = zmq.asyncio.Context()
        return context, context.socket(zmq.PAIR)

    def new_end(self, context: Any, socket: Any) -> End:
        return _AsyncEnd(context, socket)


PEERS = (ZmqIpc(), ZmqTcp(), ZmqAsyncio())
