"""The servers that engine.py measures, each a process that prints its place and goes on.

    python engine_peers.py KIND ADDRESS     naru, uvloop, asyncio: echo    source: sends without end
    python engine_peers.py splice ADDRESS TARGET     joins one client after the other to a Unix socket

ADDRESS is a port of 127.0.0.1, or the path of a Unix socket. Must not know: what is measured.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
from typing import Any


class Echo(asyncio.Protocol):
    transport: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def serve_echo(address: str) -> None:
    loop = asyncio.get_running_loop()
    server: asyncio.Server
    if address.isdecimal():
        server = await loop.create_server(Echo, "127.0.0.1", int(address))
    else:
        server = await loop.create_unix_server(Echo, address)
    print("ready", flush=True)
    await server.serve_forever()


def serve_naru(address: str) -> None:
    from naru.engine import Engine

    with Engine() as engine:
        engine.echo(f"tcp://127.0.0.1:{address}" if address.isdecimal() else f"unix://{address}")
        print("ready", flush=True)
        engine.run()


def serve_source(address: str) -> None:
    """One connection after the other; each tells how many MiB it wants in 8 digits."""
    block = bytes(1 << 20)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(128)
        print("ready", flush=True)
        while True:
            sock = listener.accept()[0]
            with sock:
                wanted = sock.recv(8, socket.MSG_WAITALL)
                for _ in range(int(wanted or b"0")):
                    sock.sendall(block)


def serve_splice(address: str, target: str) -> None:
    """The floor of a proxy: two system calls for what lies in the socket, and nothing else."""
    with socket.create_server(("127.0.0.1", int(address))) as listener:
        print("ready", flush=True)
        while True:
            client, server = listener.accept()[0], socket.socket(socket.AF_UNIX)
            with client, server:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                wanted = client.recv(8, socket.MSG_WAITALL)
                if not wanted:
                    continue  # somebody looked whether it is there
                server.connect(target)
                server.sendall(wanted)
                splice_all(server, client)


def splice_all(source: socket.socket, target: socket.socket, size: int = 1 << 20) -> None:
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, size)
    while left := os.splice(source.fileno(), into, size):
        while left:
            left -= os.splice(out, target.fileno(), left)
    os.close(out)
    os.close(into)


def main(kind: str, address: str, target: str = "") -> None:
    if kind == "naru":
        serve_naru(address)
    elif kind == "source":
        serve_source(address)
    elif kind == "splice":
        serve_splice(address, target)
    elif kind == "uvloop":
        import uvloop

        uvloop.run(serve_echo(address))
    else:
        asyncio.run(serve_echo(address))


if __name__ == "__main__":
    main(*sys.argv[1:])
