"""What a live move of an auto:// channel costs: the longest silence while it moves.

    python benchmarks/moves.py                 # half a minute; writes benchmarks/results/moves-DATE.json
    python benchmarks/moves.py --moves 20 --json FILE

Two pinned processes exchange messages of 100 bytes there and back without a pause, and the channel
is moved from one transport to the next. The silence of a move is its longest round trip, from the
offer until both directions have turned. Beside it: the longest of as many round trips without a
move, because a busy machine has silences of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import naru
from naru._native.opening import is_moving
from naru.bench.machine import describe

ROUND = ("unix", "pipe", "tcp", "shm")
MESSAGE = bytes(100)


def answer(address: str, core: int) -> None:
    """The other process."""
    os.sched_setaffinity(0, {core})
    with naru.connect(address) as channel:
        for message in channel:
            channel.send(message)


def trip(channel: Any) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    channel.send(MESSAGE)
    channel.receive(timeout_s=10)
    return 1e3 * (time.perf_counter() - started)


def measure(channel: Any, moves: int) -> list[dict[str, Any]]:
    """Each move, with the silence of as many trips right before it."""
    rows = []
    for number in range(moves):
        source, target = channel.choice.transport, ROUND[number % len(ROUND)]
        for _ in range(500):
            trip(channel)
        started = time.perf_counter()
        if not channel._place.conversation.offer(target):
            raise SystemExit("a move could not begin")
        silences = [trip(channel)]
        while is_moving(channel) or channel.choice.transport != target:
            silences.append(trip(channel))
        took_ms = 1e3 * (time.perf_counter() - started)
        calm_ms = max(trip(channel) for _ in silences)
        rows.append(
            {"from": source, "to": target, "silence_ms": max(silences), "took_ms": took_ms,
             "trips": len(silences), "calm_ms": calm_ms}
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moves", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    address = f"auto://naru-moves-{os.getpid()}"
    with naru.listen(address) as listener:
        child = os.fork()
        if child == 0:
            answer(address, cores[-1])
            os._exit(0)
        os.sched_setaffinity(0, {cores[0]})
        with listener.accept(timeout_s=10) as channel:
            rows = measure(channel, options.moves)
        os.waitpid(child, 0)
    silences = sorted(row["silence_ms"] for row in rows)
    calm = sorted(row["calm_ms"] for row in rows)
    for name, values in (("silence of a move", silences), ("without a move", calm)):
        print(
            f"{name:18}  median {statistics.median(values):7.3f} ms   "
            f"90 % {values[int(0.9 * len(values))]:7.3f} ms   most {values[-1]:7.3f} ms"
        )
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    place = options.json or Path(__file__).parent / "results" / f"moves-{date}.json"
    record = {"date": date, "machine": asdict(describe()), "load": os.getloadavg(), "moves": rows}
    place.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"written: {place}")


if __name__ == "__main__":
    main()
