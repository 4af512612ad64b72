"""What a request costs: naru beside a bare channel, multiprocessing.connection and pyzmq, in one run.

    python benchmarks/requests.py [--quick] [--repeat N] [--json FILE]

A server in a process of its own, pinned to one core, echoes; the client is pinned to another. With 1 in
flight each request waits for its reply; with 8, eight are always under way (pyzmq: DEALER and ROUTER,
since REQ allows one; multiprocessing.connection and the bare channel: sent ahead by hand, order is all
that they have). Every contender runs N times, in turned order every other round; figures are medians of
the rounds. p50 and p99 are of single requests, from asking to having the reply.

Needs naru installed; pyzmq is measured where it is installed. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import util
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

import machine
import naru

RESULTS = Path(__file__).parent / "results"
SIZES_BYTES = (64, 1024)
WINDOW = 8
WARM_UP = 300

Ask = tuple[Callable[[bytes], Any], Callable[[Any], bytes]]
"""Begins a request, and waits for the reply of what it gave."""


def serve_requests(address: str) -> None:
    with naru.serve(address, lambda data: data) as server:
        server.serve_forever()


def open_requests(address: str, stack: ExitStack) -> Ask:
    client = stack.enter_context(naru.client(address))
    return client.submit, lambda pending: pending.result()


def serve_channel(address: str) -> None:
    with naru.listen(address) as listener, listener.accept() as channel:
        for message in channel:
            channel.send(message)


def open_channel(address: str, stack: ExitStack) -> Ask:
    channel = stack.enter_context(naru.connect(address))
    return channel.send, lambda nothing: channel.receive()


def serve_connection(address: str) -> None:
    with Listener(address, "AF_UNIX") as listener, listener.accept() as connection:
        while True:
            connection.send_bytes(connection.recv_bytes())


def open_connection(address: str, stack: ExitStack) -> Ask:
    _wait_for(address)
    connection = stack.enter_context(Client(address, "AF_UNIX"))
    return connection.send_bytes, lambda nothing: connection.recv_bytes()


def serve_zmq(address: str) -> None:
    import zmq

    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(f"ipc://{address}")
    while True:
        socket.send_multipart(socket.recv_multipart())


def open_zmq(address: str, stack: ExitStack) -> Ask:
    import zmq

    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    stack.callback(context.term)
    stack.callback(socket.close, 0)
    socket.connect(f"ipc://{address}")
    return socket.send, lambda nothing: socket.recv()


def serve_zmq_rep(address: str) -> None:
    import zmq

    socket = zmq.Context().socket(zmq.REP)
    socket.bind(f"ipc://{address}")
    while True:
        socket.send(socket.recv())


def open_zmq_req(address: str, stack: ExitStack) -> Ask:
    import zmq

    context = zmq.Context()
    socket = context.socket(zmq.REQ)
    stack.callback(context.term)
    stack.callback(socket.close, 0)
    socket.connect(f"ipc://{address}")
    return socket.send, lambda nothing: socket.recv()


def _wait_for(path: str) -> None:
    until_s = time.monotonic() + 5
    while not os.path.exists(path):
        if time.monotonic() > until_s:
            raise TimeoutError(path)
        time.sleep(0.001)  # before anything is measured


CONTENDERS: dict[str, tuple[str, Callable[[str], None], Callable[[str, ExitStack], Ask], int]] = {
    # name: where ({} is a fresh path), server, client, the most in flight
    "naru.client, shm": ("shm://{}.shm", serve_requests, open_requests, WINDOW),
    "naru.client, unix": ("unix://{}", serve_requests, open_requests, WINDOW),
    "bare channel, shm": ("shm://{}.shm", serve_channel, open_channel, WINDOW),
    "bare channel, unix": ("unix://{}", serve_channel, open_channel, WINDOW),
    "multiprocessing.connection, unix": ("{}", serve_connection, open_connection, WINDOW),
    "pyzmq REQ/REP, ipc": ("{}", serve_zmq_rep, open_zmq_req, 1),
    "pyzmq DEALER/ROUTER, ipc": ("{}", serve_zmq, open_zmq, WINDOW),
}


def run(
    name: str, size_bytes: int, in_flight: int, count: int, cores: tuple[int, int]
) -> dict[str, float]:
    """One server process, one client, `count` requests."""
    template, serve, connect, _ = CONTENDERS[name]
    with tempfile.TemporaryDirectory(prefix="nrq-", dir="/tmp") as directory, ExitStack() as stack:
        address = template.format(f"{directory}/s")
        server = os.fork()
        if server == 0:
            os.sched_setaffinity(0, {cores[1]})
            try:
                serve(address)
            finally:
                os._exit(0)
        stack.callback(os.waitpid, server, 0)
        stack.callback(os.kill, server, 9)
        os.sched_setaffinity(0, {cores[0]})
        begin, end = connect(address, stack)
        return measure(begin, end, size_bytes, in_flight, count)


def measure(
    begin: Callable[[bytes], Any],
    end: Callable[[Any], bytes],
    size_bytes: int,
    in_flight: int,
    count: int,
) -> dict[str, float]:
    data = os.urandom(size_bytes)
    now = time.perf_counter_ns
    took: list[int] = []
    under_way: deque[tuple[int, Any]] = deque()
    started = now()
    for number in range(WARM_UP + count):
        if number == WARM_UP:
            took.clear()
            started = now()
        under_way.append((now(), begin(data)))
        if len(under_way) >= in_flight:
            asked, pending = under_way.popleft()
            reply = end(pending)
            took.append(now() - asked)
    passed_ns = now() - started
    assert reply == data
    for _, pending in under_way:
        end(pending)
    took.sort()
    return {
        "per_s": len(took) / passed_ns * 1e9,
        "p50_us": took[len(took) // 2] / 1e3,
        "p99_us": took[len(took) * 99 // 100] / 1e3,
    }


def rows(names: list[str], count: int, repeat: int) -> list[dict[str, Any]]:
    allowed = sorted(os.sched_getaffinity(0))
    cores = (allowed[0], allowed[-1])
    made = []
    for in_flight in (1, WINDOW):
        for size_bytes in SIZES_BYTES:
            taking_part = [name for name in names if in_flight <= CONTENDERS[name][3]]
            found: dict[str, list[dict[str, float]]] = {name: [] for name in taking_part}
            for round_ in range(repeat):
                for name in taking_part if round_ % 2 == 0 else reversed(taking_part):
                    found[name].append(run(name, size_bytes, in_flight, count, cores))
            for name in taking_part:
                row = {
                    "name": name,
                    "size_bytes": size_bytes,
                    "in_flight": in_flight,
                    "rounds": found[name],
                }
                for figure in ("per_s", "p50_us", "p99_us"):
                    row[figure] = statistics.median(one[figure] for one in found[name])
                made.append(row)
                print(
                    f"{in_flight} in flight, {size_bytes:5} B  {name:34} {row['per_s']:9.0f}/s  "
                    f"p50 {row['p50_us']:7.1f} us  p99 {row['p99_us']:8.1f} us",
                    flush=True,
                )
    return made


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small counts: does it all run?")
    parser.add_argument("--repeat", type=int, default=5, metavar="N")
    parser.add_argument("--only", default="", help="contenders whose names contain this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    options = parser.parse_args(arguments)
    has_zmq = util.find_spec("zmq") is not None
    names = [n for n in CONTENDERS if options.only in n and (has_zmq or "zmq" not in n)]
    if not has_zmq:
        print("pyzmq is not installed and not measured")
    now = datetime.now(UTC)
    record = {
        "command": machine.command_line(),
        "date": now.isoformat(timespec="seconds"),
        "machine": machine.description(),
        "versions": machine.versions(["naru-ipc", "pyzmq"]),
        "load_before": asdict(machine.load()),
    }
    record["repeat"] = repeat = 1 if options.quick else options.repeat
    record["rows"] = rows(names, 300 if options.quick else 5000, repeat)
    record["load_after"] = asdict(machine.load())
    file = options.json
    if file is None and not options.quick and not options.only:
        file = RESULTS / f"requests-{now.date()}.json"
    if file is not None:
        file.write_text(json.dumps(record, indent=1) + "\n")
        print(f"written: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
