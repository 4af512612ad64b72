"""What a message costs: naru, the C floor and the best peers, in one run.

    python benchmarks/messages.py [--quick] [--only shm,pipe] [--json FILE]
                                  [--floor BUILD_DIR] [--repeat N]

Every row is run N times (short rows three times as often); in each round its
floor, naru and its peers run one after the other, in turned order every other
round. Figures are medians, and ratios are medians of the ratios within a
round, because the speed of a shared machine drifts. Results go to benchmarks/results/.

Needs: naru installed for real (not editable), benchmarks/requirements.txt and
a C compiler. What is not there is told as missing, and the rest runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import loops
import machine
import naru_runs
from floor_runs import Floor, FloorFailedError, FloorMissingError
from peers import PEERS, Peer
from report import Contender, RowResult, as_record, row_lines, summary_lines
from rows import ROWS, Row
from two_processes import SideFailedError

CORE_TRIPS = 2_000
Run = Callable[[], dict[str, Any]]

RESULTS_DIRECTORY = Path(__file__).parent / "results"
DISTRIBUTIONS = [
    "naru-ipc",
    "numpy",
    *sorted({p.distribution for p in PEERS.values() if p.distribution}),
]


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    rows = _selected(options.only)
    if not rows:
        print(f"no row matches --only {options.only}; there are: {', '.join(_groups())}")
        return 2
    if machine.is_editable("naru-ipc") and not options.quick:
        print("naru is an editable install, which is not what users run: pip install .")
        return 2
    record = _head(options)
    results = []
    with _Floors(options.floor) as floors:
        for row in rows:
            result = _run_row(row, floors, options)
            results.append(result)
            print("\n".join(row_lines(result)), end="\n\n", flush=True)
    print("\n".join(summary_lines(results)))
    record["load_after"] = asdict(machine.load())
    record["rows"] = [as_record(result) for result in results]
    if (file := _results_file(options)) is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n")
        print(f"\nwritten: {file}")
    failed = [c for r in results for c in r.contenders if c.problem.startswith("failed")]
    return 1 if failed else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small counts: does it all run?")
    parser.add_argument("--only", default="", help="row keys or their beginnings, with commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    parser.add_argument("--floor", type=Path, metavar="BUILD_DIR", help="built floor programs")
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds (default 5, quick 1)")
    parser.add_argument("--no-peers", action="store_true", help="floor and naru only")
    options = parser.parse_args(arguments)
    if options.repeat is None:
        options.repeat = 1 if options.quick else 5
    if options.repeat < 1:
        parser.error("--repeat is at least 1")
    return options


def _groups() -> list[str]:
    return list(dict.fromkeys(row.group for row in ROWS))


def _selected(only: str) -> list[Row]:
    wanted = [part.strip() for part in only.split(",") if part.strip()]
    if not wanted:
        return list(ROWS)
    return [row for row in ROWS if any(f"{row.key}.".startswith(f"{w}.") for w in wanted)]


def _results_file(options: argparse.Namespace) -> Path | None:
    """A quick run is kept only when asked: its figures mean little."""
    if options.json is not None:
        path: Path = options.json
        return path
    if options.quick:
        return None
    parts = [f"{datetime.now(UTC):%Y-%m-%d}", *options.only.replace(".", "-").split(",")]
    return RESULTS_DIRECTORY / f"messages-{'-'.join(part for part in parts if part)}.json"


def _head(options: argparse.Namespace) -> dict[str, Any]:
    """Prints the machine and its load, and begins the results."""
    about, now = machine.description(), machine.load()
    versions = machine.versions(DISTRIBUTIONS)
    clock_cost_ns = loops.clock_cost_ns()
    print(f"{about['cpu']}, {about['cores_online']} cores, Linux {about['kernel']}, ", end="")
    print(f"Python {about['python']}, naru {versions['naru-ipc'] or 'not installed'}")
    print(
        f"load {now.average_1_min:.2f}, busy {now.busy_share:.0%}, stolen by the host "
        f"{now.stolen_share:.0%}; rounds: {options.repeat}; "
        f"a Python round trip holds {clock_cost_ns:.0f} ns of clock"
    )
    if now.warning:
        print(f"WARNING: {now.warning}: figures mean little, ratios less than they should")
    print(flush=True)
    return {
        "schema": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": machine.command_line(),
        "quick": options.quick,
        "repeat": options.repeat,
        "machine": about,
        "versions": versions,
        "clock_cost_ns": round(clock_cost_ns, 1),
        "load_before": asdict(now),
    }


class _Floors:
    """The floor, or why there is none."""

    def __init__(self, build_directory: Path | None) -> None:
        self._floor: Floor | None = None
        self.missing = ""
        try:
            self._floor = Floor(build_directory)
        except FloorMissingError as error:
            self.missing = f"missing: {error}"

    def __enter__(self) -> _Floors:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._floor is not None:
            self._floor.close()

    def run(self, command: str, count: int) -> dict[str, Any]:
        if self._floor is None:
            raise FloorFailedError(self.missing)
        return self._floor.run(command, count)

    def core_trip_ns(self) -> int | None:
        """How far the two cores are from each other just now."""
        if self._floor is None:
            return None
        record = self._floor.run("shm trip --wait spin --size 64", CORE_TRIPS)
        return int(record["p50_ns"])


def _run_row(row: Row, floors: _Floors, options: argparse.Namespace) -> RowResult:
    count = row.quick_count if options.quick else row.count
    tasks = _tasks(row, floors, count, options)
    result = RowResult(row, [contender for contender, _ in tasks])
    before = machine.cpu_times()
    for round_number in range(options.repeat * (1 if options.quick else row.rounds)):
        if (core_trip_ns := floors.core_trip_ns()) is not None:
            result.core_trips_ns.append(core_trip_ns)
        for contender, run in tasks if round_number % 2 == 0 else reversed(tasks):
            if contender.every_round or round_number < options.repeat:
                _run_once(row, contender, run)
    result.stolen_share = machine.stolen_share(before, machine.cpu_times())
    return result


def _run_once(row: Row, contender: Contender, run: Run) -> None:
    if contender.problem:
        return
    try:
        detail = run()
    except (SideFailedError, FloorFailedError) as error:
        contender.problem = f"failed: {str(error).splitlines()[-1]}"
        contender.figures.clear()
        print(f"{row.key} {contender.name} failed: {error}", file=sys.stderr)
        return
    contender.details.append(detail)
    contender.figures.append(_figure(row, detail))


def _tasks(
    row: Row, floors: _Floors, count: int, options: argparse.Namespace
) -> list[tuple[Contender, Run]]:
    tasks: list[tuple[Contender, Run]] = []
    for place, command in enumerate(row.floors):
        contender = Contender("floor", command, problem=floors.missing, every_round=place == 0)
        tasks.append((contender, _floor_run(row, floors, command, count)))
    if row.naru is not None:
        naru = naru_runs.RUNS[row.naru]
        tasks.append(_peer_task("naru", row, naru, row.shape, count))
    for part in () if options.no_peers else row.peers:
        share = count if row.kind == "idle" else max(1, count // part.divisor)
        tasks.append(_peer_task("peer", row, PEERS[part.peer], part.shape, share))
    return tasks


def _floor_run(row: Row, floors: _Floors, command: str, count: int) -> Run:
    if row.kind == "idle":
        return lambda: floors.run(f"{command} --idle {count}", 1)
    sized = command if "--size" in command else f"{command} --size {row.size_bytes}"
    return lambda: floors.run(sized, count)


def _peer_task(kind: str, row: Row, peer: Peer, shape: str, count: int) -> tuple[Contender, Run]:
    why = peer.missing()
    contender = Contender(
        kind,
        peer.name,
        problem=f"missing: {why}" if why else "",
        every_round=kind == "naru" or peer.name in row.judged_peers,
    )
    return contender, lambda: _run_peer(row, peer, shape, count)


def _run_peer(row: Row, peer: Peer, shape: str, count: int) -> dict[str, Any]:
    if row.kind == "trip":
        return asdict(peer.run_round_trip(row.size_bytes, count, row.wait))
    if row.kind == "idle":
        return asdict(peer.run_idle(float(count)))
    if row.kind == "large":
        return asdict(peer.run_large(row.size_bytes, count, shape))
    return asdict(peer.run_stream(row.size_bytes, count, shape))


def _figure(row: Row, detail: dict[str, Any]) -> float:
    """The row's unit, from a floor's record or a runner's result."""
    if row.kind == "trip":
        return float(detail["p50_ns"]) / 1e3
    if row.kind == "idle":
        return 100.0 * float(detail["cpu_receiver_s"]) / float(detail["seconds"])
    arrived = detail["count"] - detail.get("lost", 0)
    if row.kind == "large":
        return float(arrived * row.size_bytes / detail["seconds"] / 1e9)
    return float(detail["seconds"] * 1e9 / max(1, arrived))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
