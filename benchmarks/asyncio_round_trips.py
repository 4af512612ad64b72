"""What a question and its answer cost under asyncio: naru.aio, asyncio streams, zmq.asyncio.

    python benchmarks/asyncio_round_trips.py [--trips N] [--rounds N] [--json FILE]

Two pinned processes, one that asks and one that answers, each in a loop of its own: the standard one,
or uvloop on both sides. Every contender runs once a round, in turned order every other round; figures
are medians over the rounds of each round's median and 99th percentile, in us. "asleep" is naru with
?wait=sleep: what a trip costs whose two halves find the other side asleep.

asyncio streams carry frames as naru does over a stream: a length of 4 bytes, then the bytes.
Needs: naru installed for real (not editable). uvloop and pyzmq are left out where they are missing.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import naru
from naru import aio
from two_processes import Meeting, SideFailedError, run_pair

SIZES_BYTES = (64, 1024)
WARM_UP_TRIPS = 300
LENGTH = struct.Struct("<I")
DISTRIBUTIONS = ["naru-ipc", "uvloop", "pyzmq"]

Ask = Callable[[bytes], Awaitable[bytes]]
Server = Callable[[str, Meeting, int], Coroutine[Any, Any, None]]
Client = Callable[[str, Callable[[Ask], Awaitable[None]]], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Contender:
    """Both sides of one way to do it."""

    name: str
    address: str
    """With {d} a directory of the run."""
    serve: Server
    """(address, meeting, trips): is there, meets, answers."""
    use: Client
    """(address, measure): connects and calls measure(ask)."""
    needs: str = ""


# ---- naru ----


async def serve_naru(address: str, meeting: Meeting, trips: int) -> None:
    async with aio.listen(address) as listener:
        meeting.meet()
        async with await listener.accept() as channel:
            for _ in range(trips):
                await channel.send(await channel.receive())


async def use_naru(address: str, measure: Callable[[Ask], Awaitable[None]]) -> None:
    async with await aio.connect(address) as channel:

        async def ask(message: bytes) -> bytes:
            await channel.send(message)
            return await channel.receive()

        await measure(ask)


# ---- asyncio streams ----


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return await reader.readexactly(length)


async def serve_streams(address: str, meeting: Meeting, trips: int) -> None:
    done = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(trips):
            message = await _read_frame(reader)
            writer.write(LENGTH.pack(len(message)) + message)
            await writer.drain()
        writer.close()
        done.set()

    server = await asyncio.start_unix_server(answer, address)
    meeting.meet()
    await done.wait()
    server.close()


async def use_streams(address: str, measure: Callable[[Ask], Awaitable[None]]) -> None:
    reader, writer = await asyncio.open_unix_connection(address)

    async def ask(message: bytes) -> bytes:
        writer.write(LENGTH.pack(len(message)) + message)
        await writer.drain()
        return await _read_frame(reader)

    await measure(ask)
    writer.close()


# ---- zmq.asyncio ----


async def serve_zmq(address: str, meeting: Meeting, trips: int) -> None:
    import zmq
    import zmq.asyncio

    context: Any = zmq.asyncio.Context()
    socket: Any = context.socket(zmq.PAIR)
    socket.bind(address)
    meeting.meet()
    for _ in range(trips):
        await socket.send(await socket.recv())
    socket.close()
    context.term()


async def use_zmq(address: str, measure: Callable[[Ask], Awaitable[None]]) -> None:
    import zmq
    import zmq.asyncio

    context: Any = zmq.asyncio.Context()
    socket: Any = context.socket(zmq.PAIR)
    socket.connect(address)

    async def ask(message: bytes) -> bytes:
        await socket.send(message)
        answer: bytes = await socket.recv()
        return answer

    await measure(ask)
    socket.close()
    context.term()


CONTENDERS = [
    Contender("naru.aio shm", "shm://{d}/trips.shm", serve_naru, use_naru),
    Contender("naru.aio unix", "unix://{d}/trips.sock", serve_naru, use_naru),
    Contender("naru.aio shm, asleep", "shm://{d}/trips.shm?wait=sleep", serve_naru, use_naru),
    Contender("naru.aio unix, asleep", "unix://{d}/trips.sock?wait=sleep", serve_naru, use_naru),
    Contender("asyncio streams, unix", "{d}/streams.sock", serve_streams, use_streams),
    Contender("zmq.asyncio ipc", "ipc://{d}/zmq.sock", serve_zmq, use_zmq, needs="zmq"),
]


# ---- measuring ----


def run_in(loop: str, work: Coroutine[Any, Any, None]) -> None:
    if loop == "uvloop":
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)


def trips_of(contender: Contender, loop: str, size_bytes: int, trips: int) -> dict[str, Any]:
    """One round: p50 and p99 in us, and the CPU time of both sides for each trip."""
    with tempfile.TemporaryDirectory(prefix="nb-") as directory:
        address = contender.address.format(d=directory)
        total = trips + WARM_UP_TRIPS

        def answering(meeting: Meeting) -> dict[str, Any]:
            spent_ns = time.process_time_ns()
            run_in(loop, contender.serve(address, meeting, total))
            return {"cpu_us": (time.process_time_ns() - spent_ns) / total / 1000}

        def asking(meeting: Meeting) -> dict[str, Any]:
            taken_ns: list[int] = []

            async def measure(ask: Ask) -> None:
                message = bytes(range(256)) * (size_bytes // 256) or bytes(size_bytes)
                for _ in range(WARM_UP_TRIPS):
                    assert await ask(message) == message
                for _ in range(trips):
                    started_ns = time.perf_counter_ns()
                    await ask(message)
                    taken_ns.append(time.perf_counter_ns() - started_ns)

            meeting.meet()
            spent_ns = time.process_time_ns()
            run_in(loop, contender.use(address, measure))
            taken_ns.sort()
            return {
                "p50_us": taken_ns[len(taken_ns) // 2] / 1000,
                "p99_us": taken_ns[len(taken_ns) * 99 // 100] / 1000,
                "cpu_us": (time.process_time_ns() - spent_ns) / total / 1000,
            }

        asked, answered = run_pair(asking, answering)
        return {**asked, "cpu_of_server_us": answered["cpu_us"]}


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    if machine.is_editable("naru-ipc"):
        print("naru is an editable install, which is not what users run: pip install .")
        return 2
    load = machine.load()
    if load.warning:
        print(f"note: {load.warning}")
    loops = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
    contenders = [c for c in CONTENDERS if not c.needs or importlib.util.find_spec(c.needs)]
    cases = [(c, loop, size) for size in SIZES_BYTES for loop in loops for c in contenders]
    rounds: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    before = machine.cpu_times()
    for number in range(options.rounds):
        for contender, loop, size_bytes in cases if number % 2 == 0 else reversed(cases):
            key = (contender.name, loop, size_bytes)
            try:
                figures = trips_of(contender, loop, size_bytes, options.trips)
            except SideFailedError as error:
                print(f"{key}: {error}", file=sys.stderr)
                return 1
            rounds.setdefault(key, []).append(figures)
    rows = [_row(*key, figures) for key, figures in rounds.items()]
    _print(rows)
    record = {
        "schema": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": machine.command_line(),
        "machine": machine.description(),
        "versions": {**machine.versions(DISTRIBUTIONS), "naru-ipc": naru.__version__},
        "load_before": asdict(load),
        "stolen_share": machine.stolen_share(before, machine.cpu_times()),
        "trips": options.trips,
        "rounds": options.rounds,
        "rows": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def _row(name: str, loop: str, size_bytes: int, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    return {
        "contender": name, "loop": loop, "size_bytes": size_bytes,
        **{key: round(value, 2) for key, value in medians.items()},
        "p50_us_least": round(min(one["p50_us"] for one in rounds), 2),
        "p50_us_most": round(max(one["p50_us"] for one in rounds), 2),
    }  # fmt: skip


def _print(rows: list[dict[str, Any]]) -> None:
    print(f"{'us a round trip':24}{'loop':>9}{'bytes':>7}{'p50':>9}{'p99':>9}"
          f"{'least p50':>11}{'most p50':>10}{'CPU':>8}")  # fmt: skip
    for row in rows:
        print(
            f"{row['contender']:24}{row['loop']:>9}{row['size_bytes']:>7}{row['p50_us']:>9.1f}"
            f"{row['p99_us']:>9.1f}{row['p50_us_least']:>11.1f}{row['p50_us_most']:>10.1f}"
            f"{row['cpu_us']:>8.1f}"
        )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trips", type=int, default=5000, help="a round (default 5000)")
    parser.add_argument("--rounds", type=int, default=3, help="of each (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a copy of the figures")
    options = parser.parse_args(arguments)
    if min(options.trips, options.rounds) < 1:
        parser.error("--trips and --rounds are at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
