"""The tables of the cache: what calls cost beside others, what it keeps, what its server costs.

Holds: tables from records of benchmarks/cache.py and cache_server.py. Must not know: where those are.
"""

from __future__ import annotations

import statistics
from typing import Any

from cells import number, source, table

PEERS = ("lmdb", "diskcache", "ultradict", "redis", "valkey")
WORDS = {
    "get": "`get`, ns", "set": "`set`, ns", "get_many": "`get_many` of 100, ns a key",
    "90/10": "two processes, 90 % get, 1 KB, million a second",
    "50/50": "two processes, 50 % get, 1 KB, million a second", "memory": "bytes an entry",
}  # fmt: skip
TRACES = {
    "zipf": "popular and unpopular keys (zipf 0.99)",
    "scan": "the same, every fifth request part of a scan",
    "shifting": "other keys become the popular ones, three times",
}


def calls(record: dict[str, Any]) -> str:
    """A row a verb: dict as the floor, naru, the others, naru's ratio to LMDB, the target."""
    body = []
    for row, rounds in record["rows"].items():
        verb, _, keys = row.partition(", ")
        found = {name: statistics.median(values) for name, values in rounds.items()}
        naru_is = found["naru"] / found["lmdb"] if "lmdb" in found else None
        body.append([
            f"{WORDS[verb]}{f', {keys}' if keys else ''}", _cell(found, "dict"),
            f"**{_cell(found, 'naru')}**", *(_cell(found, name) for name in PEERS), number(naru_is),
        ])  # fmt: skip
    head = ["keys of 16, values of 100 bytes", "dict", "naru", *PEERS, "naru is, of LMDB"]
    rounds = max(len(values) for row in record["rows"].values() for values in row.values())
    return table(head, body) + "\n" + source(record | {"repeat": rounds}, "cache")


def ratios(record: dict[str, Any]) -> str:
    """A row a sequence of requests."""
    body = [
        [TRACES[row.split(", ")[1]], f"**{one['naru']:.1f} %**", f"{one['lru']:.1f} %"]
        for row, one in record["ratios"].items()
    ]
    head = ["500,000 keys, room for a tenth", "naru", "LRU of as many entries"]
    return table(head, body)


def servers(record: dict[str, Any]) -> str:
    """CPU time and rate of each server, in the rows of redis-benchmark."""
    results = record["results"]
    body = [
        [f"{row['test'].upper()}, pipeline of {row['pipeline']}",
         *(f"{number(rows[at]['cpu_s_per_million'])} s, {rows[at]['requests_per_s'] / 1000:,.0f} k/s"
           for rows in results.values())]
        for at, row in enumerate(results["naru, 1 process"])
    ]  # fmt: skip
    head = ["50 connections, Unix socket: CPU a million, rate", *results]
    return table(head, body) + "\n" + source(record | {"repeat": record["rounds"]}, "cache_server")


def _cell(found: dict[str, float], name: str) -> str:
    return number(found.get(name))
