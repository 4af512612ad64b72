"""Raw stream sockets: what unix_socket.py and tcp_socket.py have in common.

One message is one `sendall`, and one `recv` that waits for all its bytes. A
batch is one `sendmsg` of 64 messages, and one `recv` of as many bytes, cut
into messages.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import loops
from peers.contract import End, Job, Peer
from two_processes import SENDER, Meeting


class SocketEnd(End):
    def __init__(self, sock: socket.socket, size_bytes: int) -> None:
        self.send = sock.sendall
        self.receive = partial(sock.recv, size_bytes, socket.MSG_WAITALL)
        self._socket, self._size_bytes = sock, size_bytes

    def send_batch(self, block: list[bytes]) -> None:
        sent = self._socket.sendmsg(block)
        if sent < self._size_bytes * len(block):
            self._socket.sendall(memoryview(b"".join(block))[sent:])

    def receive_batch(self) -> list[bytes]:
        size = self._size_bytes
        data = self._socket.recv(size * loops.BLOCK, socket.MSG_WAITALL)
        return [data[at : at + size] for at in range(0, len(data), size)]


class SocketPeer(Peer):
    """A connected pair of sockets, made before the fork."""

    shapes = frozenset({"per-message", "batch", "trip", "idle"})

    def connected(self) -> tuple[socket.socket, socket.socket]:
        raise NotImplementedError

    def prepare(self, job: Job) -> Any:
        return self.connected()

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> End:
        place[1 - side].close()
        return SocketEnd(place[0 if side == SENDER else 1], job.size_bytes)

    def clean_up(self, place: Any) -> None:
        for sock in place:
            sock.close()
