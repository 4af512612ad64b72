"""The servers that engine.py measures, each a process that prints its place and goes on.

    python engine_peers.py KIND ADDRESS     naru, uvloop, asyncio: echo    source: sends without end

ADDRESS is a port of 127.0.0.1, or the path of a Unix socket. Must not know: what is measured.
"""

from __future__ import annotations

import asyncio
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


def main(kind: str, address: str) -> None:
    if kind == "naru":
        serve_naru(address)
    elif kind == "source":
        serve_source(address)
    elif kind == "uvloop":
        import uvloop

        uvloop.run(serve_echo(address))
    else:
        asyncio.run(serve_echo(address))


if __name__ == "__main__":
    main(*sys.argv[1:])
