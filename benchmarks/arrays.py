"""What an array costs from one process to another: naru beside multiprocessing.Queue, C and memcpy.

    python benchmarks/arrays.py            # a minute; writes benchmarks/results/arrays-DATE.json
    python benchmarks/arrays.py --quick    # seconds; writes nothing

Two pinned processes; the receiver reads one word of every cache line. GB/s of items, the median of
the rounds; the ways take turns, so that a machine whose speed drifts changes all of them.

Holds: the ways, and the turns. Must not know: how two processes meet (two_processes.py).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy

import machine
import naru
from floor_runs import Floor, FloorFailedError, FloorMissingError
from two_processes import Meeting, Stopwatch, run_pair

MIB = 1 << 20
SIZES = {"1 MiB": MIB, "16 MiB": 16 * MIB}
BYTES_A_ROUND = 1 << 30
PAYLOADS_IN_RING = 4
LIMIT_S = 60.0
RESULTS = Path(__file__).parent / "results"
Array = numpy.ndarray[Any, Any]
Way = Callable[[int, int], dict[str, float]]


class WrongArrayError(RuntimeError):
    """An array is missing, or came out of order."""


def touch(array: Array, number: int) -> None:
    """Reads a word of each line; the first is the array's number."""
    words = array.view("<u8")
    words[::8].sum()
    if words[0] != number:
        raise WrongArrayError(f"array {words[0]} came, {number} was due")


def measured(
    size_bytes: int, count: int, send: Callable[[int], None], receive: Callable[[int], None],
    flush: Callable[[], None] = lambda: None,
) -> dict[str, float]:  # fmt: skip
    """The time from the first send to the last array that was read, and both sides' CPU seconds."""

    def side(each: Callable[[int], None], end: Callable[[], None]) -> Any:
        def role(meeting: Meeting) -> dict[str, Any]:
            for number in range(8):  # the pages of the ring and of the arrays become known
                each(number)
            meeting.meet()
            watch = Stopwatch()
            for number in range(count):
                each(number)
            end()
            return watch.stop().__dict__

        return role

    sent, received = run_pair(side(send, flush), side(receive, lambda: None), limit_s=LIMIT_S)
    seconds = (received["end_ns"] - sent["start_ns"]) / 1e9
    return {
        "gb_per_s": count * size_bytes / seconds / 1e9,
        "cpu_sender_s": sent["cpu_ns"] / 1e9,
        "cpu_receiver_s": received["cpu_ns"] / 1e9,
    }


# ---- the ways ----


def _ends(size_bytes: int, default: bool) -> tuple[naru.Channel, naru.Channel]:
    capacity = PAYLOADS_IN_RING * (size_bytes + 4096)
    return naru.pair("shm" if default else f"shm:?capacity_bytes={capacity}")


def naru_way(sender: str, receiver: str, default: bool = False) -> Way:
    """One of naru's verbs on each side."""

    def way(size_bytes: int, count: int) -> dict[str, float]:
        near, far = _ends(size_bytes, default)
        source = numpy.zeros(size_bytes // 8, "<u8")

        def send_array(number: int) -> None:
            source[0] = number
            near.send_array(source)

        def send(number: int) -> None:
            source[0] = number
            near.send(source)

        def reserve_array(number: int) -> None:
            with near.reserve_array(len(source), "<u8") as room:
                room[0] = number

        def lease_array(number: int) -> None:
            with far.lease_array() as array:
                touch(array, number)

        def receive_array(number: int) -> None:
            touch(far.receive_array(), number)

        def lease(number: int) -> None:
            with far.lease() as view:
                touch(numpy.frombuffer(view, "<u8"), number)

        verbs = {verb.__name__: verb for verb in (send, send_array, reserve_array, lease,
                                                  lease_array, receive_array)}  # fmt: skip
        with near, far:
            return measured(size_bytes, count, verbs[sender], verbs[receiver])

    return way


def queue_way(size_bytes: int, count: int) -> dict[str, float]:
    """multiprocessing.Queue: pickles, through a pipe, by a thread."""
    queue: Any = multiprocessing.get_context("fork").Queue(PAYLOADS_IN_RING)
    source = numpy.zeros(size_bytes // 8, "<u8")

    def put(number: int) -> None:
        copy = source.copy()  # the thread pickles it later
        copy[0] = number
        queue.put(copy)

    def flush() -> None:
        queue.close()
        queue.join_thread()

    return measured(size_bytes, count, put, lambda number: touch(queue.get(), number), flush)


def memcpy_way(size_bytes: int, count: int) -> dict[str, float]:
    """numpy.copyto in one process, to as many places in turn as the ring has."""
    source = numpy.ones(size_bytes // 8, "<u8")
    places = numpy.zeros((PAYLOADS_IN_RING, size_bytes // 8), "<u8")
    for place in places:
        numpy.copyto(place, source)
    started = time.perf_counter()
    for number in range(count):
        numpy.copyto(places[number % PAYLOADS_IN_RING], source)
    return {"gb_per_s": count * size_bytes / (time.perf_counter() - started) / 1e9}


def floor_way(floor: Floor, shape: str) -> Way:
    """The same ring and doorbells in C."""

    def way(size_bytes: int, count: int) -> dict[str, float]:
        command = f"shm large --shape {shape} --size {size_bytes} --capacity {4 * size_bytes}"
        found = floor.run(command, count)
        return {"gb_per_s": found["count"] * size_bytes / found["seconds"] / 1e9}

    return way


def ways(floor: Floor | None) -> dict[str, Way]:
    """By name; those with `(` in their names are no channel between processes of naru."""
    found: dict[str, Way] = {
        "send_array, lease_array": naru_way("send_array", "lease_array"),
        "reserve_array, lease_array": naru_way("reserve_array", "lease_array"),
        "send_array, receive_array": naru_way("send_array", "receive_array"),
        "send, lease": naru_way("send", "lease"),
        "default ring: send_array, receive_array": naru_way("send_array", "receive_array", True),
        "default ring: send_array, lease_array": naru_way("send_array", "lease_array", True),
        "(multiprocessing.Queue)": queue_way,
        "(memcpy in one process)": memcpy_way,
    }
    if floor is not None:
        found["(C floor: copied in, read in place)"] = floor_way(floor, "copy")
        found["(C floor: reserved and leased)"] = floor_way(floor, "reserve")
    return found


# ---- the turns ----


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="an eighth of the data, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the results go")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    about, load = machine.description(), machine.load()
    print(
        f"{about['cpu']}, {about['cores_online']} cores; {load.warning or 'the machine is quiet'}"
    )
    try:
        floor = Floor()
    except FloorMissingError as error:
        print(f"no C floor: {error}", file=sys.stderr)
        floor = None
    rows: list[dict[str, Any]] = []
    for title, size_bytes in SIZES.items():
        count = BYTES_A_ROUND // size_bytes // (8 if options.quick else 1)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways(floor)}
        for turn in range(rounds):
            order = list(ways(floor).items())
            for name, way in order if turn % 2 == 0 else reversed(order):
                share = count // 8 if way is queue_way else count
                try:
                    runs[name].append(way(size_bytes, max(share, 8)))
                except FloorFailedError as error:
                    print(f"{name}: {error}", file=sys.stderr)
        for name, found in runs.items():
            rows.append({"size": title, "way": name, "runs": found} | _summary(found))
            print(f"{title:>7}  {name:42} {rows[-1]['gb_per_s']:7.2f} GB/s", flush=True)
    if floor is not None:
        floor.close()
    record = {
        "schema": 1, "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": machine.command_line(), "quick": options.quick, "rounds": rounds,
        "machine": about, "load_before": load.__dict__,
        "versions": machine.versions(["naru-ipc", "numpy"]), "rows": rows,
    }  # fmt: skip
    file = options.json
    if file is None and not options.quick:
        file = RESULTS / f"arrays-{datetime.now(UTC):%Y-%m-%d}.json"
    if file is not None:
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def _summary(runs: list[dict[str, float]]) -> dict[str, float]:
    figures = [run["gb_per_s"] for run in runs] or [0.0]
    return {
        "gb_per_s": round(statistics.median(figures), 3),
        "min": round(min(figures), 3), "max": round(max(figures), 3),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
