"""What a shared cache costs: naru beside dict (the floor), LMDB, diskcache and UltraDict, in one run.

    python benchmarks/cache.py            # some minutes; writes benchmarks/results/cache-DATE.json
    python benchmarks/cache.py --quick    # half a minute; writes nothing

Keys of 16 bytes, in an order that no cache of the processor knows. ns a call are of the whole Python
statement in a for loop, the median of the rounds; the contenders take turns. A peer that is not
installed is left out and named.

Holds: the contenders, the rows, the turns. Must not know: how two processes are pinned (machine.py).
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

import machine
import naru

RESULTS = Path(__file__).parent / "results"
VALUE = b"v" * 100
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


class Contender:
    """One way to keep keys and values; a missing package is an ImportError of the constructor."""

    name = ""
    shared = True
    divisor = 1  # a slow one is asked for fewer operations

    def __init__(self, place: str, size_bytes: int) -> None:
        self.place, self.size_bytes = place, size_bytes

    def verbs(self) -> tuple[Callable[[bytes], Any], Callable[[bytes, bytes], Any]]:
        """get and set, as quick as this contender has them."""
        raise NotImplementedError

    def get_many(self) -> Callable[[list[bytes]], Any] | None:
        """None: it has no such verb."""
        return None

    def entry_bytes(self) -> float | None:
        """Of memory, for a key of 16 and a value of 100 bytes."""
        return None

    def close(self) -> None:
        """Lets go of it; the file stays for others."""


class Dict(Contender):
    """The floor: nothing is shared."""

    name, shared = "dict", False

    def verbs(self) -> Any:
        self.items: dict[bytes, bytes] = {}
        return self.items.get, self.items.__setitem__

    def get_many(self) -> Any:
        get = self.items.get
        return lambda keys: [get(key) for key in keys]


class Naru(Contender):
    """naru.Cache with bytes."""

    name = "naru"

    def __init__(self, place: str, size_bytes: int) -> None:
        super().__init__(place, size_bytes)
        self.cache = naru.Cache.open_or_create(f"{place}/naru", size_bytes, codec="bytes")

    def verbs(self) -> Any:
        return self.cache.get, self.cache.set

    def get_many(self) -> Any:
        return self.cache.get_many

    def entry_bytes(self) -> float | None:
        """File bytes for each entry, in a file that is full."""
        with naru.Cache.create(f"{self.place}/full", 32 << 20, codec="bytes") as cache:
            for number in range(400_000):  # more than it holds
                cache.set(b"%016d" % number, VALUE)
            kept = len(cache)
            cache.drop()
        return (32 << 20) / kept

    def close(self) -> None:
        self.cache.close()


class Lmdb(Contender):
    """One transaction a call, as workers of a server would; without fsync, as a cache would."""

    name = "lmdb"

    def __init__(self, place: str, size_bytes: int) -> None:
        super().__init__(place, size_bytes)
        import lmdb

        self.environment = lmdb.open(
            f"{place}/lmdb", map_size=size_bytes * 4, sync=False, metasync=False, writemap=True
        )

    def verbs(self) -> Any:
        begin = self.environment.begin

        def get(key: bytes) -> Any:
            with begin() as transaction:
                return transaction.get(key)

        def put(key: bytes, value: bytes) -> None:
            with begin(write=True) as transaction:
                transaction.put(key, value)

        return get, put

    def get_many(self) -> Any:
        begin = self.environment.begin

        def get_many(keys: list[bytes]) -> Any:
            with begin() as transaction:
                return transaction.cursor().getmulti(sorted(keys))

        return get_many

    def entry_bytes(self) -> float | None:
        status = self.environment.stat()
        pages = status["branch_pages"] + status["leaf_pages"] + status["overflow_pages"]
        return float(pages * status["psize"] / max(1, status["entries"]))

    def close(self) -> None:
        self.environment.close()


class Diskcache(Contender):
    """SQLite below."""

    name, divisor = "diskcache", 50

    def __init__(self, place: str, size_bytes: int) -> None:
        super().__init__(place, size_bytes)
        import diskcache

        self.cache = diskcache.Cache(f"{place}/diskcache", size_limit=size_bytes * 4)

    def verbs(self) -> Any:
        return self.cache.get, self.cache.set

    def close(self) -> None:
        self.cache.close()


class UltraDict(Contender):
    """A dict in each process, kept the same by a stream of changes."""

    name, divisor = "ultradict", 20

    def __init__(self, place: str, size_bytes: int) -> None:
        super().__init__(place, size_bytes)
        import UltraDict2

        name = f"bench{abs(hash(place)) % 10**8}"
        self.items = UltraDict2.UltraDict(
            name=name, buffer_size=8 << 20, full_dump_size=size_bytes, auto_unlink=True
        )

    def verbs(self) -> Any:
        return self.items.get, self.items.__setitem__

    def close(self) -> None:
        self.items.close()


CONTENDERS: tuple[type[Contender], ...] = (Dict, Naru, Lmdb, Diskcache, UltraDict)


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
        now = datetime.now(UTC)
        path = RESULTS / f"cache-{now:%Y-%m-%d}.json"
        facts = {
            "date": now.isoformat(),
            "machine": machine.description(),
            "command": machine.command_line(),
            "rows": found,
        }
        path.write_text(json.dumps(facts, indent=1) + "\n")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
