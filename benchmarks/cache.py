"""What a shared cache costs: naru beside dict (the floor), LMDB, diskcache, UltraDict, and Redis and Valkey
by redis-py, in one run; and what it keeps (cache_ratios.py).

    python benchmarks/cache.py            # some minutes; writes benchmarks/results/cache-DATE.json
    python benchmarks/cache.py --quick    # half a minute; writes nothing

Keys of 16 bytes, in an order that no cache of the processor knows. ns a call are of the whole Python
statement in a for loop, the median of the rounds; the contenders take turns. A peer that is not
installed is left out and named.

Holds: the rows, the turns. Must not know: how a contender does it (cache_contenders.py).
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cache_ratios
import machine
from cache_contenders import CONTENDERS, VALUE, Contender

RESULTS = Path(__file__).parent / "results"
LARGE = b"w" * 1024
BATCH = 100
# ns a call, or million operations a second: what naru must reach (10k keys, 1M keys).
TARGETS = {
    "get": (100, 330),
    "set": (150, 400),
    "get_many": (60, 150),
    "90/10": (5, 5),
    "50/50": (3, 3),
    "memory": (150, 150),
}


# ---- one process ----


def keys_of(count: int) -> list[bytes]:
    keys = [b"%016d" % number for number in range(count)]
    random.Random(1).shuffle(keys)
    return keys


def ns_per_call(operations: int, run: Callable[[], None]) -> float:
    started = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - started) / operations


def measure_one(made: Contender, keys: list[bytes], operations: int) -> dict[str, float]:
    get, put = made.verbs()
    for key in keys:
        put(key, VALUE)
    some = [keys[number % len(keys)] for number in range(operations)]

    def gets() -> None:
        for key in some:
            get(key)

    def sets() -> None:
        for key in some:
            put(key, VALUE)

    found = {"get": ns_per_call(operations, gets), "set": ns_per_call(operations, sets)}
    many = made.get_many()
    if many is not None:
        batches = [some[at : at + BATCH] for at in range(0, operations - BATCH + 1, BATCH)]

        def gets_many() -> None:
            for batch in batches:
                many(batch)

        found["get_many"] = ns_per_call(len(batches) * BATCH, gets_many)
    return found


# ---- two processes ----


def zipf(count: int, operations: int, seed: int) -> list[int]:
    """Numbers below `count`, the n-th as often as 1 / n ** 0.99."""
    sums = list(itertools.accumulate(1 / (n + 1) ** 0.99 for n in range(count)))
    noise = random.Random(seed)
    return [bisect.bisect_left(sums, noise.random() * sums[-1]) for _ in range(operations)]


def mix(
    kind: type[Contender], place: str, size_bytes: int, cpu: int, operations: int, reads: float,
    start: Any, results: Any,
) -> None:  # fmt: skip
    os.sched_setaffinity(0, {cpu})
    made = kind(place, size_bytes)
    get, put = made.verbs()
    keys = keys_of(10_000)
    noise = random.Random(cpu)
    work = [(keys[n], noise.random() < reads) for n in zipf(len(keys), operations, cpu)]
    start.wait()
    started = time.monotonic_ns()
    for key, reading in work:
        if reading:
            get(key)
        else:
            put(key, LARGE)
    results.put((started, time.monotonic_ns()))
    made.close()


def measure_two(
    kind: type[Contender], place: str, size_bytes: int, operations: int, reads: float
) -> float:
    """Million operations a second, of both together."""
    made = kind(place, size_bytes)
    _, put = made.verbs()
    for key in keys_of(10_000):
        put(key, LARGE)
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    cpus = sorted(os.sched_getaffinity(0))[:2]
    arguments = [(kind, place, size_bytes, cpu, operations, reads, start, results) for cpu in cpus]
    workers = [context.Process(target=mix, args=one) for one in arguments]
    for worker in workers:
        worker.start()
    times = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    made.close()
    seconds = (max(end for _, end in times) - min(begin for begin, _ in times)) / 1e9
    return len(workers) * operations / seconds / 1e6


# ---- the run ----


def places() -> Iterator[str]:
    while True:
        place = tempfile.mkdtemp(dir="/dev/shm", prefix="bench-cache-")
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def run(counts: list[int], operations: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """{row: {contender: a number a round}}"""
    found: dict[str, dict[str, list[float]]] = {}

    def note(row: str, name: str, value: float | None) -> None:
        if value is not None:
            found.setdefault(row, {}).setdefault(name, []).append(value)

    present = [kind for kind in CONTENDERS if is_there(kind)]
    for _ in range(rounds):
        for count, kind in itertools.product(counts, present):
            if kind.divisor > 1 and count > 10_000:
                continue  # minutes, to learn nothing new
            for place in itertools.islice(places(), 1):
                made = kind(place, max(16 << 20, count * 400))
                keys = keys_of(count)
                if kind.divisor > 1:
                    keys = keys[: count // kind.divisor]
                for row, value in measure_one(made, keys, operations // kind.divisor).items():
                    note(f"{row}, {count:,} keys", kind.name, value)
                if count == counts[-1]:
                    note("memory", kind.name, made.entry_bytes())
                made.close()
        for reads, row in ((0.9, "90/10"), (0.5, "50/50")):
            for kind in present:
                if kind.shared and kind.divisor == 1:
                    for place in itertools.islice(places(), 1):
                        note(row, kind.name, measure_two(kind, place, 64 << 20, operations, reads))
    return found


def is_there(kind: type[Contender]) -> bool:
    for place in itertools.islice(places(), 1):
        try:
            kind(place, 16 << 20).close()
        except ImportError as error:
            print(f"{kind.name}: not installed ({error})", file=sys.stderr)
            return False
        except Exception as error:
            print(f"{kind.name}: does not work here ({error!r})", file=sys.stderr)
            return False
    return True


def show(found: dict[str, dict[str, list[float]]], counts: list[int]) -> None:
    names = [kind.name for kind in CONTENDERS]
    print(f"{'':24}" + "".join(f"{name:>12}" for name in names) + f"{'naru must':>12}")
    for row, by_name in found.items():
        cells = "".join(
            f"{statistics.median(by_name[name]):12.1f}" if name in by_name else f"{'-':>12}"
            for name in names
        )
        kind, _, _ = row.partition(",")
        large = row.endswith(f"{counts[-1]:,} keys") and counts[-1] >= 1_000_000
        target = TARGETS[kind][large]
        print(f"{row:24}{cells}{('>= ' if '/' in row else '<= ') + str(target):>12}")
    print("ns a call or key; million operations a second of two processes; bytes an entry")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer keys and rounds; no file")
    parser.add_argument("--rounds", type=int, default=0)
    options = parser.parse_args()
    counts = [10_000, 100_000] if options.quick else [10_000, 1_000_000]
    operations = 100_000 if options.quick else 1_000_000
    found = run(counts, operations, options.rounds or (1 if options.quick else 5))
    show(found, counts)
    if not options.quick:
        ratios = cache_ratios.run()
        for row, one in ratios.items():
            print(f"{row:24}{one['lru']:11.1f}% LRU{one['naru']:11.1f}% naru")
        now = datetime.now(UTC)
        path = RESULTS / f"cache-{now:%Y-%m-%d}.json"
        facts = {
            "date": now.isoformat(),
            "machine": machine.description(),
            "command": machine.command_line(),
            "rows": found,
            "ratios": ratios,
        }
        path.write_text(json.dumps(facts, indent=1) + "\n")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
