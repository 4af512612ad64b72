"""How long `import naru` takes: fresh interpreters with it, less fresh interpreters without.

    python benchmarks/import_time.py [--runs N] [--json FILE]

The two run in turn, because the speed of a shared machine drifts. Prints JSON: wall clock and CPU
time in milliseconds, and how much a first conversation adds (parser, settings, sockets).
Needs: naru installed for real (not editable: its hook imports more than naru does).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import machine

LIMIT_MS = 40.0  # what the package promises

CASES = {
    "nothing": "pass",
    "import naru": "import naru",
    "first shm pair": "import naru\nfor end in naru.pair('shm'): end.close()",
}


class Cost(NamedTuple):
    """Of one fresh interpreter, in ms."""

    wall: float
    cpu: float


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="of each (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a copy of what is printed")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs is at least 1")
    if machine.is_editable("naru-ipc"):
        print("naru is an editable install, which is not what users run: pip install .")
        return 2
    load = machine.load()
    record = {
        "schema": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": machine.command_line(),
        "machine": machine.description(),
        "versions": machine.versions(["naru-ipc"]),
        "load_before": asdict(load),
        "limit_ms": LIMIT_MS,
        "runs": options.runs,
        "cases": _summary(_measure(options.runs)),
    }
    text = json.dumps(record, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")
    return 0


def _measure(runs: int) -> dict[str, list[Cost]]:
    for code in CASES.values():
        _run_fresh(code)  # compiled files and the page cache are there from now on
    costs: dict[str, list[Cost]] = {name: [] for name in CASES}
    for _ in range(runs):
        for name, code in CASES.items():
            costs[name].append(_run_fresh(code))
    return costs


def _run_fresh(code: str) -> Cost:
    begun_s = time.perf_counter()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - begun_s
    if status != 0:
        raise SystemExit(f"failed: {sys.executable} -c {code!r}")
    return Cost(wall_s * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3)


def _summary(costs: dict[str, list[Cost]]) -> dict[str, dict[str, Any]]:
    """Medians and best of each case, less those of the bare interpreter."""
    rows: dict[str, dict[str, Any]] = {}
    for name, of_case in costs.items():
        row: dict[str, Any] = {}
        for field in Cost._fields:
            bare = [getattr(cost, field) for cost in costs["nothing"]]
            values = sorted(getattr(cost, field) for cost in of_case)
            less = (statistics.median(bare), min(bare)) if name != "nothing" else (0.0, 0.0)
            quarter = len(values) // 4
            row[f"{field}_median_ms"] = round(statistics.median(values) - less[0], 2)
            row[f"{field}_best_ms"] = round(values[0] - less[1], 2)
            row[f"{field}_quartiles_apart_ms"] = round(values[-1 - quarter] - values[quarter], 2)
        rows[name] = row
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
