"""Is the choice right? Every transport measured anew in each cell, beside what was chosen before.

    python benchmarks/choice.py [--profile FILE] [--budget S] [--rounds N] [--quick] [--json FILE]

First a probe of this machine is taken (or --profile is read), from which naru chooses. Then all
transports are measured in every cell of the grid: sizes x {one by one, batch} x {latency,
throughput}. The regret of a pick is how much worse it is than the best one of the cell. Beside it:
the textbook's fixed rule, "always shm", "always unix", and the *noise*: the regret of the best of
one half of the rounds when the other half judges it, which nobody who predicts can be below.

Rounds in which others had the CPU do not count where a transport has calmer ones. udp is left out:
it loses messages. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
from naru.bench.probe import FULL_S, plan_probe, probe
from naru.bench.result import Record, Report
from naru.bench.runner import largest_messages, pick_cores, run_plan
from naru.choosing.needs import Goal, Needs, sizes_of
from naru.choosing.policy import choose
from naru.choosing.profile import Profile, read_profile
from naru.choosing.textbook import textbook_rule
from naru.sizes import show_size
from naru.transports import capabilities

RESULTS_DIRECTORY = Path(__file__).parent / "results"
SIZES_BYTES = (64, 1 << 10, 64 << 10, 1 << 20)
TRANSPORTS = ("shm", "pipe", "unix", "fifo", "mq", "tcp")
GOALS: tuple[Goal, ...] = ("latency", "throughput")
MODES = {
    (False, "latency"): "round-trip", (False, "throughput"): "message",
    (True, "latency"): "batch-trip", (True, "throughput"): "batch",
}  # fmt: skip

GOOD_REGRET, WORST_REGRET, GOOD_SHARE = 0.05, 0.15, 0.95
"""The target: within 5 % of the best in 95 % of the cells, and never worse than 15 %."""
RULES = ("naru", "textbook", "shm", "unix", "noise")


@dataclass(frozen=True)
class Cell:
    """One question, and how everybody answered it."""

    size_bytes: int
    batch: bool
    goal: str
    figures: dict[str, float]
    """us there and back, or messages a second, of each transport: the median of the calm rounds."""
    best: str
    picks: dict[str, str]
    regrets: dict[str, float | None]
    """By rule; None: its pick cannot do it at all."""

    @property
    def title(self) -> str:
        how = "batch" if self.batch else "one by one"
        return f"{show_size(self.size_bytes)}, {how}, {self.goal}"


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    if machine.is_editable("naru-ipc") and not options.quick:
        print("naru is an editable install, which is not what users run: pip install .")
        return 2
    before = machine.load()
    if before.warning:
        print(f"WARNING: {before.warning}")
    profile = _profile(options)
    print(f"naru chooses by: {profile.origin}", flush=True)
    report = _measure(options)
    cells = [
        judge(report, profile, size_bytes, batch, goal)
        for size_bytes in SIZES_BYTES
        for batch in (False, True)
        for goal in GOALS
    ]
    summary = summarise(cells)
    print("\n".join(_lines(cells, summary)))
    for note in report.notes:
        print(f"note: {note}")
    if (file := _results_file(options)) is not None:
        record = _record(options, profile, report, cells, summary, asdict(before))
        file.write_text(json.dumps(record, indent=1) + "\n")
        print(f"\nwritten: {file}")
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--profile", type=Path, metavar="FILE", help="instead of a new probe")
    parser.add_argument("--budget", type=float, default=110.0, metavar="S", help="of measuring")
    parser.add_argument("--rounds", type=int, default=4, metavar="N", help="at least 2")
    parser.add_argument("--quick", action="store_true", help="does it all run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds is at least 2")
    return options


def _profile(options: argparse.Namespace) -> Profile:
    if options.profile is not None:
        return read_profile(options.profile)
    return probe(quick=options.quick, budget_s=None if options.quick else FULL_S)


def _measure(options: argparse.Namespace) -> Report:
    cores, notes = pick_cores(None)
    plan = plan_probe(
        TRANSPORTS, SIZES_BYTES, quick=True, budget_s=10.0 if options.quick else options.budget,
        largest_bytes=largest_messages(), waits=("adaptive",),
    )  # fmt: skip
    rounds = 2 if options.quick else options.rounds
    return run_plan(replace(plan, repeats=rounds), cores=cores, notes=notes)


# ---- judging ----


def judge(report: Report, profile: Profile, size_bytes: int, batch: bool, goal: Goal) -> Cell:
    """Measures the picks of all rules by the figures of the report."""
    needs = Needs(sizes=sizes_of(size_bytes), batch=batch, goal=goal, related=True)
    mode = MODES[batch, goal]
    records = {
        name: record for name in TRANSPORTS if (record := report.find(name, mode, size_bytes))
    }
    figures = {name: _figure(record, goal) for name, record in records.items()}
    picks = {
        "naru": choose(needs, profile, _reliable()).transport,
        "textbook": textbook_rule(needs)[0],
        "shm": "shm",
        "unix": "unix",
    }
    regrets = {rule: regret(figures, pick, goal) for rule, pick in picks.items()}
    return Cell(
        size_bytes, batch, goal, figures, _best(figures, goal), picks,
        {**regrets, "noise": _noise(records, goal)},
    )  # fmt: skip


def _reliable() -> list[Any]:
    return [row for row in capabilities() if row.transport in TRANSPORTS]


def _figure(record: Record, goal: str, rounds: slice = slice(None)) -> float:
    passes = replace(record, passes=record.passes[rounds]).calm().passes
    if goal == "latency":
        return statistics.median((one.trips_ns or {})["0.5"] / 1e3 for one in passes)
    return statistics.median(one.received / one.seconds for one in passes)


def _best(figures: dict[str, float], goal: str) -> str:
    return (min if goal == "latency" else max)(figures, key=lambda name: figures[name])


def regret(figures: dict[str, float], pick: str, goal: str) -> float | None:
    """How much worse than the best: 0.05 is 5 %. None: the pick cannot do it."""
    if pick not in figures:
        return None
    best = figures[_best(figures, goal)]
    return figures[pick] / best - 1 if goal == "latency" else best / figures[pick] - 1


def _noise(records: dict[str, Record], goal: str) -> float | None:
    """Of one who knows one half of the rounds, before the other half; the mean of both ways."""
    halves = [
        {name: _figure(record, goal, half(len(record.passes))) for name, record in records.items()}
        for half in (lambda count: slice(count // 2), lambda count: slice(count // 2, None))
        if all(len(record.passes) > 1 for record in records.values())
    ]
    if len(halves) < 2:
        return None
    ways = [
        regret(judges, _best(knows, goal), goal) for knows, judges in (halves, reversed(halves))
    ]
    return statistics.fmean(way for way in ways if way is not None)


def summarise(cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """Of each rule: the share of good cells, the worst, and whether that is the target."""
    found = {}
    for rule in RULES:
        regrets = [cell.regrets[rule] for cell in cells]
        known = [one for one in regrets if one is not None]
        good = sum(one <= GOOD_REGRET for one in known) / len(cells)
        worst = max(known, default=None)
        cannot = len(regrets) - len(known)
        reached = good >= GOOD_SHARE and not cannot and (worst or 0.0) <= WORST_REGRET
        found[rule] = {
            "good_share": good, "mean": statistics.fmean(known) if known else None,
            "worst": worst, "cannot": cannot, "reached": reached,
        }  # fmt: skip
    return found


# ---- output ----


def _lines(cells: Sequence[Cell], summary: dict[str, dict[str, Any]]) -> list[str]:
    head = ["cell", "best", "naru", "", "textbook", "", "shm", "unix", "noise"]
    rows = [head]
    for cell in cells:
        rows.append([
            cell.title, cell.best, cell.picks["naru"], _percent(cell.regrets["naru"]),
            cell.picks["textbook"], _percent(cell.regrets["textbook"]),
            *(_percent(cell.regrets[rule]) for rule in ("shm", "unix", "noise")),
        ])  # fmt: skip
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines.append("")
    for rule, found in summary.items():
        cannot = f", cannot {found['cannot']} of them" if found["cannot"] else ""
        lines.append(
            f"{rule:9} within 5 %: {found['good_share']:.0%} of the cells, worst "
            f"{_percent(found['worst'])}{cannot}"
        )
    reached = "reached" if summary["naru"]["reached"] else "missed"
    lines.append(f"target of naru (95 % of the cells within 5 %, none above 15 %): {reached}")
    return [line.rstrip() for line in lines]


def _percent(share: float | None) -> str:
    return "cannot" if share is None else f"{share:+.0%}" if share else "best"


def _results_file(options: argparse.Namespace) -> Path | None:
    if options.json is not None:
        path: Path = options.json
        return path
    return (
        None if options.quick else RESULTS_DIRECTORY / f"choice-{datetime.now(UTC):%Y-%m-%d}.json"
    )


def _record(
    options: argparse.Namespace,
    profile: Profile,
    report: Report,
    cells: Sequence[Cell],
    summary: dict[str, Any],
    load_before: dict[str, Any],
) -> dict[str, Any]:
    about = profile.load
    return {
        "schema": 1,
        "date": report.date,
        "command": machine.command_line(),
        "quick": options.quick,
        "rounds": report.repeats,
        "machine": machine.description(),
        "versions": machine.versions(["naru-ipc"]) | {"naru": report.machine.naru},
        "load_before": load_before,
        "load_during": asdict(report.load_during) if report.load_during else None,
        "profile": {
            "origin": profile.origin, "date": profile.date, "quick": profile.quick,
            "repeats": profile.repeats, "busy_during": about.busy_during,
        },
        "target": {
            "good_regret": GOOD_REGRET, "good_share": GOOD_SHARE, "worst_regret": WORST_REGRET,
        },
        "summary": summary,
        "cells": [{**asdict(cell), "title": cell.title} for cell in cells],
        "notes": report.notes,
    }  # fmt: skip


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
