"""naru's engine beside its peers, in CPU time of the server: echo, and the byte proxy.

    python benchmarks/engine.py [--rounds N] [--repeat N] [--mib N] [--json FILE]

Echo: 64 connections x 64 B; each round sends on all of them, then reads all answers. naru, uvloop's and
asyncio's Protocol, over TCP and Unix. Proxy, TCP to a Unix server: CPU seconds a GB of a download, and
CPU a round trip over 64 connections; naru, socat, and nginx (stream) where it is installed; and for the
download a bare loop of splice(2), the floor.
CPU time is that of the process and its children (/proc/PID/schedstat); contenders take turns, the figure
is the median. Server on one core, the client on another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import machine

CONNECTIONS, MESSAGE = 64, b"x" * 64
WARM_UP_ROUNDS = 100
Figure = TypeVar("Figure")
PEERS = Path(__file__).with_name("engine_peers.py")
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")  # where it is not built in
NGINX = """
{module} {user}
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 1024; }}
stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass unix:{target}; tcp_nodelay on; }} }}
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000, metavar="N", help="of 64 messages")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="passes (default 3)")
    parser.add_argument("--mib", type=int, default=512, metavar="N", help="of a download")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    load = machine.load()
    with tempfile.TemporaryDirectory(prefix="ne-") as folder:
        rows = measure(Path(folder), cores[-1], options)
    for row in rows:
        print(f"{row['what']:28}{row['who']:10}{row['median']:10.3f}  {row['unit']}")
    record = {
        "schema": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": machine.command_line(),
        "machine": machine.description(),
        "versions": machine.versions(["naru-ipc", "uvloop"]),
        "load_before": asdict(load),
        "rows": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def measure(folder: Path, core: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every contender of every comparison, in turn."""
    found: dict[tuple[str, str, str], list[float]] = {}

    def note(what: str, who: str, unit: str, figure: float | None) -> None:
        if figure is not None:
            found.setdefault((what, who, unit), []).append(figure)

    for _ in range(options.repeat):
        for family in ("tcp", "unix"):
            for who in ("naru", "uvloop", "asyncio"):
                with contextlib.suppress(FileNotFoundError), _echo(who, family, folder, core) as (
                    pid, place,
                ):  # fmt: skip
                    note(f"echo over {family}", who, "us CPU a message",
                         echo_cpu_us(pid, place, options.rounds))  # fmt: skip
        for who in ("naru", "splice", "socat", "nginx"):
            note("proxy, download", who, "s CPU a GB", proxied(who, folder, core, "source",
                 lambda pid, place: download_cpu_s(pid, place, options.mib)))  # fmt: skip
        for who in ("naru", "socat", "nginx"):
            note("proxy, 64 connections", who, "us CPU a trip", proxied(who, folder, core, "naru",
                 lambda pid, place: echo_cpu_us(pid, place, options.rounds)))  # fmt: skip
    return [
        {"what": what, "who": who, "unit": unit, "median": statistics.median(figures),
         "least": min(figures), "most": max(figures), "passes": len(figures)}
        for (what, who, unit), figures in found.items()
    ]  # fmt: skip


# ---- servers ----


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def server(
    command: list[str], core: int, ready: Callable[[subprocess.Popen[bytes]], object]
) -> Iterator[int]:
    """A pinned process; gives its pid when it is ready."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
    try:
        ready(process)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout:
            process.stdout.close()


def said_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise FileNotFoundError("a peer that is not installed")


def answers(place: Any) -> Callable[[subprocess.Popen[bytes]], None]:
    def ready(process: subprocess.Popen[bytes]) -> None:
        for _ in range(200):
            with contextlib.suppress(OSError):
                visit(place).close()
                return
            time.sleep(0.05)  # it has no other way to say so
        raise TimeoutError(f"nobody listens at {place}")

    return ready


@contextlib.contextmanager
def _echo(who: str, family: str, folder: Path, core: int) -> Iterator[tuple[int, Any]]:
    path = str(folder / f"{who}.sock")
    Path(path).unlink(missing_ok=True)
    port = free_port()
    place: Any = ("127.0.0.1", port) if family == "tcp" else path
    command = [sys.executable, str(PEERS), who, str(port) if family == "tcp" else path]
    with server(command, core, said_ready) as pid:
        yield pid, place


def proxied(
    who: str, folder: Path, core: int, behind: str, figure: Callable[[int, Any], float]
) -> float | None:
    """The figure of a proxy before a Unix server, or None when it is not installed."""
    port, target = free_port(), str(folder / f"{behind}.sock")
    commands = {
        "naru": [sys.executable, "-m", "naru.cli", "proxy", f"tcp://127.0.0.1:{port}",
                 f"unix://{target}", "--drain", "0.1"],
        "socat": ["socat", "-b", "65536",
                  f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=128",
                  f"UNIX-CONNECT:{target}"],
        "splice": [sys.executable, str(PEERS), "splice", str(port), target],
        "nginx": ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)],
    }  # fmt: skip
    if shutil.which(commands[who][0]) is None:
        return None
    (folder / "nginx.conf").write_text(
        NGINX.format(
            folder=folder, port=port, target=target,
            module=f"load_module {NGINX_STREAM};" if NGINX_STREAM.exists() else "",
            user="user root;" if os.geteuid() == 0 else "",  # or its worker may not connect
        )
    )  # fmt: skip
    Path(target).unlink(missing_ok=True)
    place = ("127.0.0.1", port)
    own = min(os.sched_getaffinity(0))
    with server([sys.executable, str(PEERS), behind, target], own, said_ready):
        with server(commands[who], core, answers(place)) as pid:
            return figure(pid, place)


# ---- figures ----


def cpu_ns(pid: int) -> int:
    """Of a process and its children that live."""
    try:
        total = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return 0  # a child that has just ended: that of the visit before
    for child in children:
        total += cpu_ns(int(child))
    return total


def visit(place: Any) -> socket.socket:
    if isinstance(place, tuple):
        return socket.create_connection(place)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(place)
    return sock


def echo_cpu_us(pid: int, place: Any, rounds: int) -> float:
    """Of the second visit: in its first one asyncio maps and unmaps memory for every message."""
    _echo_visit(place, lambda run: run(WARM_UP_ROUNDS))

    def measured(run: Callable[[int], None]) -> float:
        run(WARM_UP_ROUNDS)
        before = cpu_ns(pid)
        run(rounds)
        return (cpu_ns(pid) - before) / 1000 / (rounds * CONNECTIONS)

    return _echo_visit(place, measured)


def _echo_visit(place: Any, work: Callable[[Callable[[int], None]], Figure]) -> Figure:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(visit(place)) for _ in range(CONNECTIONS)]

        def run(rounds: int) -> None:
            for _ in range(rounds):
                for sock in socks:
                    sock.send(MESSAGE)
                for sock in socks:
                    sock.recv(64, socket.MSG_WAITALL)

        return work(run)


def download_cpu_s(pid: int, place: Any, mib: int) -> float:
    buffer = bytearray(1 << 20)
    with visit(place) as sock:
        before = cpu_ns(pid)
        sock.sendall(b"%08d" % mib)
        left = (mib - 1) << 20  # while all of its processes still live
        while left > 0:
            left -= (came := sock.recv_into(buffer))
            if came == 0:
                raise ConnectionError(f"{place} closed {left} bytes too early")
        spent = cpu_ns(pid) - before
        while sock.recv_into(buffer):
            pass
    return spent / 1e9 / (((mib - 1) << 20) / 1e9)


if __name__ == "__main__":
    sys.exit(main())
