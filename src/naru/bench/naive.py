"""The same mechanisms as most people use them from plain Python, for `naru bench --compare`.

Each is the code that a tutorial has: a length before each message, `sendall`, read until it is
there; `multiprocessing`'s Pipe and Queue with their own verbs. Nothing is tuned.
Must not know: naru's transports.
Joins: `host` prepares a place before the fork, as with `ends`.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

from naru.bench.ends import End, Place
from naru.bench.meeting import RECEIVER, SENDER

__all__ = ["make_naive_place"]

_LENGTH = struct.Struct("<I")


class _PipeEnd(End):
    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self.send, self.receive = self._send, self._receive

    def _send(self, message: bytes) -> None:
        data = _LENGTH.pack(len(message)) + message
        while data:
            data = data[os.write(self._write_fd, data) :]

    def _receive(self) -> bytes:
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        return self._read(length)

    def _read(self, size_bytes: int) -> bytes:
        data = b""
        while len(data) < size_bytes:
            chunk = os.read(self._read_fd, size_bytes - len(data))
            if not chunk:
                raise EOFError("the other side closed the pipe")
            data += chunk
        return data

    def close(self) -> None:
        os.close(self._read_fd)
        os.close(self._write_fd)


class _SocketEnd(End):
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.send, self.receive = self._send, self._receive

    def _send(self, message: bytes) -> None:
        self._sock.sendall(_LENGTH.pack(len(message)) + message)

    def _receive(self) -> bytes:
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        return self._read(length)

    def _read(self, size_bytes: int) -> bytes:
        data = b""
        while len(data) < size_bytes:
            chunk = self._sock.recv(size_bytes - len(data))
            if not chunk:
                raise EOFError("the other side closed the socket")
            data += chunk
        return data

    def close(self) -> None:
        self._sock.close()


class _ConnectionEnd(End):
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.send, self.receive = connection.send, connection.recv

    def close(self) -> None:
        self._connection.close()


class _QueueEnd(End):
    def __init__(self, incoming: Any, outgoing: Any) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self.send, self.receive = self._put, incoming.get

    def _put(self, message: bytes | bytearray) -> None:
        # put() pickles later, in a thread: a buffer that is used again would change meanwhile.
        self._outgoing.put(bytes(message))

    def close(self) -> None:
        # The feeder thread has to bring out what put() left to it.
        self._outgoing.close()
        self._outgoing.join_thread()


class _Pipes:
    def __init__(self) -> None:
        self._there, self._back = os.pipe(), os.pipe()

    def open(self, side: int, two_way: bool) -> End:
        there, back = self._there, self._back
        incoming, outgoing = (back, there) if side == SENDER else (there, back)
        os.close(incoming[1])
        os.close(outgoing[0])
        return _PipeEnd(incoming[0], outgoing[1])

    def clear(self) -> None:
        for fd in (*self._there, *self._back):
            os.close(fd)


class _Sockets:
    def __init__(self, pair: tuple[socket.socket, socket.socket]) -> None:
        self._pair = pair

    def open(self, side: int, two_way: bool) -> End:
        self._pair[1 - side].close()
        return _SocketEnd(self._pair[side])

    def clear(self) -> None:
        for sock in self._pair:
            sock.close()


class _Connections:
    def __init__(self) -> None:
        import multiprocessing

        self._pair = multiprocessing.Pipe()

    def open(self, side: int, two_way: bool) -> End:
        self._pair[1 - side].close()
        return _ConnectionEnd(self._pair[side])

    def clear(self) -> None:
        for connection in self._pair:
            connection.close()


class _Queues:
    def __init__(self) -> None:
        import multiprocessing

        context = multiprocessing.get_context("fork")  # its sides are forked by the host
        self._there: Any = context.Queue()
        self._back: Any = context.Queue()

    def open(self, side: int, two_way: bool) -> End:
        there, back = self._there, self._back
        return _QueueEnd(there, back) if side == RECEIVER else _QueueEnd(back, there)

    def clear(self) -> None:
        for queue in (self._there, self._back):
            queue.close()
            queue.join_thread()


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
    return client, server


def make_naive_place(name: str) -> Place:
    """One of `plan.NAIVE`."""
    if name == "os.pipe":
        return _Pipes()
    if name == "socket unix":
        return _Sockets(socket.socketpair())
    if name == "socket tcp":
        return _Sockets(_tcp_pair())
    return _Connections() if name == "mp.Pipe" else _Queues()
