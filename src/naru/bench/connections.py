"""How many idle connections this machine holds, what each takes, and what an active one costs then.

Holds: server processes (naru's echo), each with as many connections as its descriptors allow, and as
many processes that hold the other ends; what they take, from /proc.
Must not know: how it is shown.
Joins: the command prints `measure(...)`. Source: proc(5): smaps_rollup, meminfo.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naru.engine import Engine, raise_descriptor_limit

__all__ = ["Held", "measure"]

SPARE = 200
TRIPS = 2_000
LOOK_S = 0.05
PORTS = 10_000
"""From one address to one listener: the kernel prefers half of the 28,232 ports, and looks long for
the last ones of them."""
IP_BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
PATIENCE_S = 60.0
"""Without a single connection more."""


@dataclass(frozen=True)
class Held:
    """What was measured with all of them open."""

    transport: str
    connections: int
    servers: int
    user_bytes: float
    """A connection, in its server process."""
    kernel_bytes: float
    """A connection, both ends: what the kernel's slabs grew by, of the whole machine."""
    accept_s: float
    """From the first connect to the last accepted."""
    alone_us: float
    """A round trip of an active connection before the others came, p50."""
    among_us: float
    """And among them."""


def measure(connections: int, transport: str, progress: Callable[[float, str], object]) -> Held:
    """Opens them, measures, and closes them.

    Args:
        transport: "tcp" or "unix".
        progress: called with the share that is open, 0..1, and the same in words.

    Raises: LimitError, OSError when the machine cannot hold them; what was opened is closed.
    """
    room = raise_descriptor_limit() - SPARE
    servers = -(-connections // room)
    share = -(-connections // servers)
    with ExitStack() as stack:
        doors = [stack.enter_context(_server(transport, number)) for number in range(servers)]
        with _visit(doors[0][1]) as active:
            alone_us = _trip_us(active)
            slab_before = _slab_bytes()
            user_before = sum(_own_bytes(pid) for pid, _, _ in doors)
            began_s = time.perf_counter()
            left = connections
            holders = []
            for _, place, _ in doors:
                count = min(share, left)
                left -= count
                holders.append(stack.enter_context(_holder(place, count)))
            _await_all([control for _, _, control in doors], holders, connections, progress)
            accept_s = time.perf_counter() - began_s
            among_us = _trip_us(active)
            user = sum(_own_bytes(pid) for pid, _, _ in doors) - user_before
            slab = _slab_bytes() - slab_before
    return Held(
        transport=transport,
        connections=connections,
        servers=servers,
        user_bytes=user / connections,
        kernel_bytes=slab / connections,
        accept_s=accept_s,
        alone_us=alone_us,
        among_us=among_us,
    )


def _await_all(
    doors: list[_Child],
    holders: list[_Child],
    connections: int,
    progress: Callable[[float, str], object],
) -> None:
    """Until all are open on both sides."""
    opening = {holder.line: holder for holder in holders}
    accepted, changed_s = -1, time.perf_counter()
    while opening or accepted < connections:
        for line in select.select(list(opening), [], [], LOOK_S)[0]:
            _await_line(opening.pop(line), "the connections to open")
        before, accepted = accepted, sum(_ask_open(door) for door in doors) - 1  # the active one
        now_s = time.perf_counter()
        if accepted != before:
            changed_s = now_s
            progress(accepted / connections, f"{accepted:,} of {connections:,}")
        elif now_s - changed_s > PATIENCE_S:
            raise TimeoutError(f"only {accepted:,} of {connections:,} were accepted")


# ---- processes ----


@dataclass(frozen=True)
class _Child:
    pid: int
    line: socket.socket


@contextmanager
def _forked(work: Callable[[socket.socket], None]) -> Iterator[_Child]:
    """A child that works until the parent closes its line."""
    own, other = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            own.close()
            work(other)
        except BaseException as error:
            other.sendall(f"{error}".encode()[:200])
        finally:
            os._exit(0)
    other.close()
    own.settimeout(PATIENCE_S)
    try:
        yield _Child(pid, own)
    finally:
        own.close()
        os.waitpid(pid, 0)


def _await_line(child: _Child, what: str) -> bytes:
    said = child.line.recv(200)
    if not said.startswith(b"+"):
        raise OSError(f"waited for {what}: {said.decode() or 'its process died'}")
    return said[1:]


@contextmanager
def _server(transport: str, number: int) -> Iterator[tuple[int, Any, _Child]]:
    """(pid, where it listens, its line)"""
    address = (
        "tcp://127.0.0.1:0?backlog=65535"
        if transport == "tcp"
        else f"unix:@naru-bench-{os.getpid()}-{number}?backlog=65535"
    )

    def work(line: socket.socket) -> None:
        import threading

        with Engine() as engine:
            service = engine.echo(address)
            place = service.addresses[0]
            line.sendall(b"+%d" % (place.port or 0))
            thread = threading.Thread(target=engine.run)
            thread.start()
            while line.recv(1):
                line.sendall(b"+%d" % service.statistics()["open"])
            engine.stop()
            thread.join()
            os._exit(0)  # the kernel closes faster than a loop does

    with _forked(work) as child:
        port = int(_await_line(child, "a server"))
        name = f"\0naru-bench-{os.getpid()}-{number}"
        yield child.pid, ("127.0.0.1", port) if transport == "tcp" else name, child


def _ask_open(child: _Child) -> int:
    child.line.sendall(b"?")
    return int(_await_line(child, "a count"))


@contextmanager
def _holder(place: Any, count: int) -> Iterator[_Child]:
    """Holds so many connections open, without an object each."""

    def work(line: socket.socket) -> None:
        raise_descriptor_limit()
        for number in range(count):
            _visit(place, f"127.0.0.{1 + number // PORTS}").detach()
        line.sendall(b"+")
        line.recv(1)
        os._exit(0)

    with _forked(work) as child:
        yield child


def _visit(place: Any, source: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET if isinstance(place, tuple) else socket.AF_UNIX)
    if isinstance(place, tuple):
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((source, 0))
    sock.connect(place)
    return sock


# ---- figures ----


def _trip_us(sock: socket.socket) -> float:
    found = []
    for _ in range(TRIPS):
        began = time.perf_counter_ns()
        sock.sendall(b"x")
        sock.recv(1)
        found.append(time.perf_counter_ns() - began)
    return statistics.median(found) / 1000


def _own_bytes(pid: int) -> int:
    """Memory that this process alone has written to."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    return 0


def _slab_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            return int(line.split()[1]) * 1024
    return 0
