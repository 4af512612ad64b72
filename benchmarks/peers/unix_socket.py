"""socket.socketpair: a raw AF_UNIX stream socket."""

from __future__ import annotations

import socket

from peers.sockets import SocketPeer


class UnixSocket(SocketPeer):
    name = "socket.unix"
    transport = "unix"

    def connected(self) -> tuple[socket.socket, socket.socket]:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


PEERS = (UnixSocket(),)
