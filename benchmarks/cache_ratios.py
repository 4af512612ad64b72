"""Hit ratios of naru's cache beside an exact LRU of as many entries: popular keys, scans, changing fashions.

    python benchmarks/cache_ratios.py

A cache that holds a tenth of the keys is asked for one key after the other; what is not there is set. Every
request counts, from the empty cache on. The sequences follow from a seed: the same everywhere.

Holds: the sequences, the LRU. Must not know: what a request costs.
"""

from __future__ import annotations

import sys
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy

import naru

KEYS = 500_000
ENTRIES = KEYS // 10
SIZE_BYTES = ENTRIES * 150  # with 16 + 100 bytes: what an entry may cost
REQUESTS = 5_000_000
SHIFTS = 4
SCANNED_PART = 0.2
SEED = 7
VALUE = b"v" * 100

Numbers = numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]
# Per cent, what TARGETS of the project ask for; a scan has none.
TARGETS = {"zipf": 77.0, "shifting": 72.5}


def zipf(requests: int) -> Numbers:
    """Numbers below KEYS, the n-th as often as 1 / n ** 0.99, in no order of their own."""
    sums = numpy.cumsum(1 / numpy.arange(1, KEYS + 1) ** 0.99)
    noise = numpy.random.default_rng(SEED)
    found = numpy.searchsorted(sums, noise.random(requests) * sums[-1])
    return noise.permutation(KEYS)[found]


def with_scans() -> Numbers:
    """Zipf; every fifth request belongs to a walk over keys that nobody else asks for."""
    asked = zipf(REQUESTS)
    step = round(1 / SCANNED_PART)
    asked[::step] = KEYS + numpy.arange(len(asked[::step]))
    return asked


def shifting() -> Numbers:
    """Zipf; other keys become the popular ones, SHIFTS times."""
    asked = zipf(REQUESTS * (SHIFTS - 1))
    phase = numpy.arange(len(asked)) * SHIFTS // len(asked)
    return (asked + phase * (KEYS // SHIFTS)) % KEYS


TRACES = {"zipf": lambda: zipf(REQUESTS), "scan": with_scans, "shifting": shifting}


def names(asked: Numbers) -> Iterator[bytes]:
    return (b"%016d" % number for number in asked.tolist())


def of_naru(asked: Iterable[bytes]) -> tuple[float, int]:
    """(hits in per cent, entries at the end)"""
    hits = requests = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="bench-cache-") as place:
        with naru.Cache.create(Path(place, "c"), SIZE_BYTES, codec="bytes", shards=1) as cache:
            get, put = cache.get, cache.set
            for key in asked:
                requests += 1
                if get(key) is None:
                    put(key, VALUE)
                else:
                    hits += 1
            return 100 * hits / requests, len(cache)


def of_lru(asked: Iterable[bytes], entries: int) -> float:
    kept: OrderedDict[bytes, None] = OrderedDict()
    hits = requests = 0
    for key in asked:
        requests += 1
        if key in kept:
            hits += 1
            kept.move_to_end(key)
        else:
            kept[key] = None
            if len(kept) > entries:
                kept.popitem(last=False)
    return 100 * hits / requests


def run() -> dict[str, dict[str, float]]:
    """{"hit ratio, zipf": {"naru": per cent, "lru": per cent, "entries": ...}}"""
    found = {}
    for name, trace in TRACES.items():
        asked = trace()
        ratio, entries = of_naru(names(asked))
        lru = of_lru(names(asked), entries)
        found[f"hit ratio, {name}"] = {"naru": ratio, "lru": lru, "entries": float(entries)}
    return found


def main() -> int:
    for row, one in run().items():
        target = TARGETS.get(row.split(", ")[1])
        wanted = f"   naru must >= {target}" if target else ""
        print(
            f"{row:22} naru {one['naru']:5.1f} %   LRU of {one['entries']:,.0f} entries "
            f"{one['lru']:5.1f} %{wanted}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
