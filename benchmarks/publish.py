"""What a second, a fourth subscriber costs: rates and CPU time of each, beside a single one.

    python benchmarks/publish.py [--results FILE] [--repeats 3]

One publisher over shm, policy "block", batches of 64; each subscriber is a process of its own.
`relative_rate` is the rate of each subscriber beside that of a single one. With fewer cores than
processes that is a figure of the cores, so `relative_cpu` stands next to it: how much CPU time a
message costs a subscriber, beside a single one; its inverse is the rate that a free core would give.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import naru

ADDRESS = "shm://benchmark-publish?capacity_bytes=1MiB"
BATCH = 64
CASES = ((64, 400_000), (1024, 200_000))
SUBSCRIBERS = (1, 2, 4)


def in_place(end: naru.Subscriber, total: int) -> None:
    taken = 0
    while taken < total:
        with end.lease_many(BATCH) as batch:
            for view in batch:
                len(view)
            taken += len(batch)


def one_by_one(end: naru.Subscriber, total: int) -> None:
    receive = end.receive
    for _ in range(total):
        receive()


METHODS: dict[str, Callable[[naru.Subscriber, int], None]] = {
    "lease_many": in_place,
    "receive": one_by_one,
}


def subscribe(method: str, total: int, core: int, answers: Any) -> None:
    os.sched_setaffinity(0, {core})
    with naru.subscriber(ADDRESS) as end:
        end.receive()  # the start: everybody is here
        started_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
        METHODS[method](end, total)
        taken = (time.monotonic_ns() - started_ns, time.process_time_ns() - cpu_ns)
        answers.put(taken)


def run(method: str, size_bytes: int, total: int, count: int, cores: list[int]) -> dict[str, float]:
    """One pass. The publisher has the first core; the subscribers go round from the second on."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    processes = [
        context.Process(
            target=subscribe, args=(method, total, cores[(i + 1) % len(cores)], answers)
        )
        for i in range(count)
    ]
    for process in processes:
        process.start()
    os.sched_setaffinity(0, {cores[0]})
    with naru.publisher(ADDRESS) as publisher:
        while len(publisher.subscribers) < count:
            time.sleep(0.001)  # they are being started
        publisher.publish(b"start")
        batch = [bytes(size_bytes)] * BATCH
        for _ in range(total // BATCH):
            publisher.publish_many(batch)
        results = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    os.sched_setaffinity(0, set(cores))
    return {
        "rate_per_s": statistics.median(total / elapsed_ns * 1e9 for elapsed_ns, _ in results),
        "cpu_ns_per_message": statistics.median(cpu_ns / total for _, cpu_ns in results),
    }


def rows(repeats: int) -> list[dict[str, Any]]:
    cores = sorted(os.sched_getaffinity(0))
    made: list[dict[str, Any]] = []
    for size_bytes, total in CASES:
        total -= total % BATCH
        for method in METHODS:
            single: dict[str, float] = {}
            for count in SUBSCRIBERS:
                passes = [run(method, size_bytes, total, count, cores) for _ in range(repeats)]
                row = {key: statistics.median(one[key] for one in passes) for key in passes[0]}
                single = single or row
                rates = [one["rate_per_s"] for one in passes]
                made.append(
                    {
                        "size_bytes": size_bytes, "method": method, "subscribers": count,
                        **row,
                        "rate_lowest_per_s": min(rates), "rate_highest_per_s": max(rates),
                        "relative_rate": row["rate_per_s"] / single["rate_per_s"],
                        "relative_cpu": row["cpu_ns_per_message"] / single["cpu_ns_per_message"],
                        "all_rates_per_s": count * row["rate_per_s"],
                    }
                )  # fmt: skip
                print(
                    f"{size_bytes:5d} B {method:10s} {count} subscribers: "
                    f"{row['rate_per_s'] / 1e6:6.2f} M/s each, "
                    f"{made[-1]['relative_rate']:.2f} of a single one; "
                    f"{row['cpu_ns_per_message']:5.0f} ns CPU a message, "
                    f"{made[-1]['relative_cpu']:.2f}",
                    flush=True,
                )
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    load = machine.load()
    print(load.warning or "the machine is quiet", file=sys.stderr)
    made = rows(arguments.repeats)
    if arguments.results:
        result = {
            "command": machine.command_line(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine.description(),
            "load_before": {
                "average_1_min": load.average_1_min, "busy_share": load.busy_share,
                "stolen_share": load.stolen_share,
            },
            "naru": naru.__version__,
            "repeats": arguments.repeats,
            "rows": made,
        }  # fmt: skip
        arguments.results.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
