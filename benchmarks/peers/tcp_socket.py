"""A raw TCP socket over the loopback, TCP_NODELAY on both ends."""

from __future__ import annotations

import socket

from peers.sockets import SocketPeer


class TcpSocket(SocketPeer):
    name = "socket.tcp"
    transport = "tcp"

    def connected(self) -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client, server


PEERS = (TcpSocket(),)
