"""CPU time a message of an echo server in Python: naru's Reactor, asyncio, uvloop.

Holds: the servers, one process each; a client that keeps 64 connections busy; the medians.
Must not know: naru's messages; both sides speak plain bytes, so that every server does the same.
Joins: machine.py describes the machine.

    python benchmarks/reactor.py [--transport tcp,unix] [--repeat 5] [--rounds 3000] [--output FILE]

How it is measured. The server has a core of its own, the client another. In a round the client
sends 64 bytes on each of 64 connections, then reads all the answers. What counts is the CPU time of
the server's process (user and system, CLOCK_PROCESS_CPUTIME_ID seen from outside) between two
rounds, by messages: it does not depend on how quick the client is, and rounds of the servers
alternate, so that a busy machine disturbs all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import machine

CONNECTIONS = 64
SIZE_BYTES = 64
WARM_UP_ROUNDS = 200
READ_BYTES = 4096

# asyncio reads into a fresh object of 256 KiB, for which glibc asks the kernel each time unless told
# otherwise: five times the whole message. All servers get this.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "16777216", "MALLOC_TRIM_THRESHOLD_": "33554432"}


# ---- the servers ----


def serve_naru(listening: socket.socket) -> None:
    """Plain sockets in on_readable: what a Python callback costs."""
    import naru

    reactor = naru.Reactor()

    def welcome(connection: socket.socket) -> None:
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def echo(sock: socket.socket) -> None:
            data = sock.recv(READ_BYTES)
            if data:
                sock.send(data)
            else:
                registration.cancel()
                sock.close()

        registration = reactor.on_readable(connection, echo)

    reactor.on_connection(listening, welcome)
    reactor.run()


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def _serve_protocol(listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    if listening.family == socket.AF_UNIX:
        server = await loop.create_unix_server(Echo, sock=listening)
    else:
        server = await loop.create_server(Echo, sock=listening)
    await server.serve_forever()


def serve_asyncio(listening: socket.socket) -> None:
    asyncio.run(_serve_protocol(listening))


def serve_uvloop(listening: socket.socket) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_protocol(listening))


SERVERS: dict[str, Callable[[socket.socket], None]] = {
    "naru": serve_naru,
    "asyncio": serve_asyncio,
    "uvloop": serve_uvloop,
}


def serve(name: str, fd: int) -> int:
    pin(0)
    SERVERS[name](socket.socket(fileno=fd))
    return 0


def pin(place: int) -> None:
    """To one core of those allowed, when there is more than one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[place % len(cores)]})


# ---- the client ----


class Server:
    """One server's process and the 64 connections to it."""

    def __init__(self, name: str, transport: str, folder: str) -> None:
        self.name = name
        if transport == "unix":
            path = f"{folder}/{name}"
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(path)
        else:
            listening = socket.create_server(("127.0.0.1", 0))
        listening.listen(CONNECTIONS)
        place = listening.getsockname()
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, str(listening.fileno())],
            pass_fds=[listening.fileno()],
            env={**os.environ, **ALLOCATOR},
        )
        listening.close()
        family = socket.AF_UNIX if transport == "unix" else socket.AF_INET
        self.sockets = [socket.socket(family) for _ in range(CONNECTIONS)]
        for sock in self.sockets:
            sock.connect(place)
            if transport == "tcp":
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.us_a_message: list[float] = []

    def cpu_s(self) -> float:
        """CPU time of the server until now."""
        # clock_getcpuclockid(3): the process's number, inverted, and "scheduled time".
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def play(self, rounds: int) -> None:
        message = b"m" * SIZE_BYTES
        for _ in range(rounds):
            for sock in self.sockets:
                sock.sendall(message)
            for sock in self.sockets:
                left = SIZE_BYTES
                while left:
                    got = len(sock.recv(left))
                    if got == 0:
                        raise RuntimeError(f"{self.name} has closed a connection")
                    left -= got

    def measure(self, rounds: int) -> None:
        before = self.cpu_s()
        self.play(rounds)
        self.us_a_message.append((self.cpu_s() - before) * 1e6 / (rounds * CONNECTIONS))

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.process.terminate()
        self.process.wait()


def available() -> list[str]:
    names = ["naru", "asyncio"]
    try:
        metadata.version("uvloop")
    except metadata.PackageNotFoundError:
        print("uvloop is not installed: left out", file=sys.stderr)
        return names
    return [*names, "uvloop"]


def measure(transport: str, repeat: int, rounds: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="nb-") as folder:
        servers: list[Server] = []
        try:
            for name in available():
                servers.append(Server(name, transport, folder))
            for server in servers:
                server.play(WARM_UP_ROUNDS)
            for _ in range(repeat):
                for server in servers:
                    server.measure(rounds)
        finally:
            for server in servers:
                server.close()
    return [
        {
            "transport": transport,
            "server": server.name,
            "us_a_message": server.us_a_message,
            "median": statistics.median(server.us_a_message),
        }
        for server in servers
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--transport", default="tcp,unix")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "FD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve[0], int(options.serve[1]))
    pin(1)
    load = machine.load()
    if load.warning:
        print(f"warning: {load.warning}", file=sys.stderr)
    rows = []
    for transport in options.transport.split(","):
        for row in measure(transport, options.repeat, options.rounds):
            low, high = min(row["us_a_message"]), max(row["us_a_message"])
            print(
                f"{transport:5} {row['server']:8} {row['median']:6.2f} us a message "
                f"({low:.2f}..{high:.2f})",
                flush=True,
            )
            rows.append(row)
    if options.output:
        record = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": machine.command_line(),
            "machine": machine.description(),
            "versions": machine.versions(["naru-ipc", "uvloop"]),
            "busy_share": load.busy_share,
            "connections": CONNECTIONS,
            "size_bytes": SIZE_BYTES,
            "rounds": options.rounds,
            "rows": rows,
        }
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
