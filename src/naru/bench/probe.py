"""`naru probe`: measures what `naru.choose` needs to know of this machine.

Holds: which cells are measured and for how long, and how a Report becomes a Profile; writing it.
Must not know: how a cell is measured (runner, sides, loops: the same as for `naru bench`), or how
anything is chosen.
Joins: the command calls `probe` and `save_profile`; `naru.choosing.profile` reads what was written.

Each repeat goes once through all cells, the transports of a cell one after the other, because a
shared machine drifts. A cell is measured in several short passes: those in which others had the CPU
do not count where there are calmer ones. A trial of each decides how many messages fit into its time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from naru.bench import machine as machines
from naru.bench.files import check_target, write_whole
from naru.bench.plan import Contender, Gap, Job, Plan
from naru.bench.plausibility import doubtful_jobs, with_better
from naru.bench.result import Record, Report
from naru.bench.result import Spread as Found
from naru.bench.runner import Progress, largest_messages, pick_cores, run_plan
from naru.choosing.profile import (
    SCHEMA,
    Cell,
    Load,
    Machine,
    Profile,
    Rate,
    Spread,
    Trip,
    profile_path,
    to_json,
)
from naru.errors import NaruError
from naru.sizes import batch_length
from naru.transports import NAMES

__all__ = ["FULL_S", "QUICK_S", "check_place", "plan_probe", "probe", "profile_of", "save_profile"]

SIZES_BYTES = (64, 1 << 10, 64 << 10, 1 << 20, 16 << 20)
QUICK_SIZES_BYTES = SIZES_BYTES[:-1]
WAITS = ("adaptive", "sleep")
STREAMS, TRIPS = ("message", "batch"), ("round-trip", "batch-trip")
MODES = (*STREAMS, *TRIPS)

FULL_S, QUICK_S = 40.0, 8.5
"""What the runs are fitted into; starting, and the last ones, come on top."""
FULL_DEADLINE_S, QUICK_DEADLINE_S = 50.0, 12.0
AGAIN_PART = 0.15
"""Of that time, for what has to be measured again."""
FULL_REPEATS, QUICK_REPEATS = 3, 1
PASSES = 3
"""Of each run: two new processes cost as much as a pass. Of large ones, one: they cost more."""
LARGE_BYTES = 1 << 20
MOST_STREAM, MOST_TRIPS = 200_000, 10_000
STREAM_BYTES = 128 << 20
FEWEST = 2
NOISY_PART = 0.8
TRIAL_STREAM, TRIAL_TRIPS = 2_000, 60
TRIAL_BYTES = 4 << 20


def probe(
    *,
    quick: bool = False,
    transports: Sequence[str] = NAMES,
    sizes_bytes: Sequence[int] | None = None,
    budget_s: float | None = None,
    cores: tuple[int, int] | None = None,
    progress: Progress = lambda share, what: None,
) -> Profile:
    """Measures this machine; takes about a minute, or ten seconds when it is to be quick.

    Args:
        sizes_bytes: None: from 64 bytes to 16 MiB, and the largest message where that is less.
        budget_s: how long the runs may take; None: 40 s, quick 8.5 s.
        cores: of sender and receiver; None: two that suit.

    Raises:
        NaruError: nothing at all could be measured.
        ValueError: cores that this process may not use.
        KeyboardInterrupt: after its processes have ended.
    """
    pinned, notes = pick_cores(cores)
    usual_s = QUICK_S if quick else FULL_S
    plan_s = usual_s if budget_s is None else budget_s
    plan = plan_probe(
        transports,
        sizes_bytes or (QUICK_SIZES_BYTES if quick else SIZES_BYTES),
        quick=quick,
        budget_s=plan_s,
        largest_bytes=largest_messages(),
    )
    if budget_s is None:
        plan = replace(plan, deadline_s=QUICK_DEADLINE_S if quick else FULL_DEADLINE_S)
    report = run_plan(plan, cores=pinned, progress=progress)
    report, more = _with_second_thoughts(plan, report, AGAIN_PART * plan_s, pinned, progress)
    return profile_of(report, quick=quick, notes=[*notes, *more])


def _with_second_thoughts(
    plan: Plan,
    report: Report,
    budget_s: float,
    cores: tuple[int, int] | None,
    progress: Progress,
) -> tuple[Report, list[str]]:
    """The report, with what cannot be measured once more; and what is to be said of that."""
    jobs = doubtful_jobs(plan.jobs, report.records)
    if not jobs:
        return report, []
    again = run_plan(
        Plan(tuple(jobs), (), plan.repeats, budget_s, deadline_s=budget_s),
        cores=cores,
        progress=lambda share, what: progress(1.0, f"again: {what}"),
    )
    note = f"{len(jobs)} figures were slower than those of larger messages, and measured again"
    return replace(report, records=with_better(report.records, again.records)), [note]


def plan_probe(
    transports: Sequence[str],
    sizes_bytes: Sequence[int],
    *,
    quick: bool,
    budget_s: float,
    largest_bytes: Mapping[str, int],
    waits: Sequence[str] = WAITS,
) -> Plan:
    """The cells, in the order in which they are measured.

    Args:
        largest_bytes: the largest message of each transport; one that is not here is missing.
    """
    jobs = []
    sizes = {name: _sizes(sizes_bytes, largest_bytes.get(name, 0), quick) for name in transports}
    for size_bytes in sorted({size for own in sizes.values() for size in own}):
        for mode in MODES:
            for wait in waits:
                if quick and wait == "sleep" and mode != "round-trip":
                    continue  # a stream keeps both sides awake: the figures are nearly the same
                jobs += [
                    _job(name, wait, mode, size_bytes)
                    for name in transports
                    # A batch of which some may be lost never comes back whole.
                    if size_bytes in sizes[name] and not (name == "udp" and mode == "batch-trip")
                ]
    gaps = [
        Gap(name, "", 0, "not to be had on this machine")
        for name in transports
        if name not in largest_bytes
    ]
    return Plan(tuple(jobs), tuple(gaps), QUICK_REPEATS if quick else FULL_REPEATS, budget_s)


def _sizes(wanted: Sequence[int], largest_bytes: int, quick: bool) -> list[int]:
    """Those that fit; and the largest message, so that nothing has to be drawn on beyond."""
    own = [size for size in wanted if size <= largest_bytes]
    if not quick and 0 < largest_bytes < max(wanted) and largest_bytes not in own:
        own.append(largest_bytes)
    return own


def _contender(name: str, wait: str) -> Contender:
    return Contender(name, name, options="" if wait == "adaptive" else f"wait={wait}")


def _job(name: str, wait: str, mode: str, size_bytes: int) -> Job:
    """So many as are enough, however quick they are, and so few as show how quick they are."""
    each_bytes = size_bytes * (batch_length(size_bytes) if mode == "batch-trip" else 1)
    most, trial = (MOST_TRIPS, TRIAL_TRIPS) if mode in TRIPS else (MOST_STREAM, TRIAL_STREAM)
    count = max(FEWEST, min(most, STREAM_BYTES // each_bytes))
    tried = max(FEWEST, min(trial, TRIAL_BYTES // each_bytes))
    passes = 1 if each_bytes >= LARGE_BYTES else PASSES
    return Job(_contender(name, wait), mode, size_bytes, count, passes, tried)


# ---- from a report to a profile ----


def profile_of(report: Report, *, quick: bool, notes: Sequence[str] = ()) -> Profile:
    """What was measured, as a profile. Raises: NaruError when that is nothing."""
    if not report.records:
        reason = next((gap.reason for gap in report.gaps), "no transport")
        raise NaruError(f"nothing could be measured: {reason}", operation="naru.probe")
    about = report.machine
    records = [record.calm() for record in report.records]
    return Profile(
        schema=SCHEMA,
        naru=about.naru,
        date=report.date,
        shipped=False,
        quick=quick,
        repeats=max(len(record.passes) for record in report.records),
        cores=(report.cores[0], report.cores[1]) if report.cores else None,
        machine=Machine(
            cpu=about.cpu, cores=about.cores_online, virtual=about.virtual, kernel=about.kernel,
            architecture=about.architecture, python=about.python,
        ),
        load=_load(report),
        notes=tuple(dict.fromkeys([*notes, *_noise(report, records), *_missing(report)])),
        cells=tuple(_cells(records)),
    )  # fmt: skip


def _load(report: Report) -> Load:
    idle = machines.Load(0.0, 0.0)
    before, during = report.load_before or idle, report.load_during or idle
    return Load(
        busy_before=_share(before.busy_share), stolen_before=_share(before.stolen_share),
        busy_during=_share(during.busy_share), stolen_during=_share(during.stolen_share),
    )  # fmt: skip


def _share(value: float) -> float:
    return min(1.0, max(0.0, round(value, 4)))


def _noise(report: Report, records: Sequence[Record]) -> list[str]:
    found = []
    every = sum(len(record.passes) for record in report.records)
    kept = sum(len(record.passes) for record in records)
    if kept < NOISY_PART * every:
        found.append(
            f"{1 - kept / every:.0%} of the passes were disturbed by others and do not count"
        )
    for when, load in (("before", report.load_before), ("while", report.load_during)):
        if load is not None and load.warning is not None:
            found.append(f"{when} it was measured: {load.warning}")
    return found


def _missing(report: Report) -> list[str]:
    """One line a transport: the first thing that went wrong with it."""
    first: dict[str, str] = {}
    for gap in report.gaps:
        what = f" ({gap.mode}, {gap.size_bytes:,} bytes)" if gap.mode else ""
        text = "".join(sign for sign in gap.reason if sign.isprintable())[:1000]
        first.setdefault(gap.contender, f"{gap.contender}{what}: {text}")
    return list(first.values())


def _cells(records: Sequence[Record]) -> list[Cell]:
    found: dict[tuple[str, int, bool, str], dict[str, Record]] = {}
    for record in records:
        batch = record.mode in ("batch", "batch-trip")
        wait = "sleep" if record.contender.options else "adaptive"
        key = (record.contender.transport, record.size_bytes, batch, wait)
        found.setdefault(key, {})["trip" if record.mode in TRIPS else "rate"] = record
    return [
        Cell(
            transport=transport, size_bytes=size_bytes, batch=batch,
            wait="sleep" if wait == "sleep" else "adaptive",
            trip=_trip(own.get("trip")), rate=_rate(own.get("rate")),
        )
        for (transport, size_bytes, batch, wait), own in found.items()
    ]  # fmt: skip


def _trip(record: Record | None) -> Trip | None:
    if record is None:
        return None
    p50, p99 = record.trip_ns(0.5), record.trip_ns(0.99)
    return Trip(p50_us=_spread(p50, 1e-3), p99_us=_spread(p99, 1e-3), trips=record.count)


def _rate(record: Record | None) -> Rate | None:
    if record is None or not all(one.received for one in record.passes):
        return None
    return Rate(
        per_s=_spread(record.messages_per_s, 1.0), messages=record.count,
        lost_share=_share(record.lost_share),
    )  # fmt: skip


def _spread(found: Found, scale: float) -> Spread:
    median, least, most = (
        float(f"{value * scale:.6g}") for value in (found.median, found.least, found.most)
    )
    return Spread(median=median, least=least, most=most)


def check_place(path: str | Path | None = None) -> Path:
    """Where a profile will be. Raises: OSError when it cannot be written there.

    Args:
        path: None: `profile_path()`, whose directory is made when it is missing.
    """
    place = profile_path() if path is None else Path(path)
    if path is None:
        os.makedirs(place.parent, mode=0o700, exist_ok=True)
    check_target(place)
    return place


def save_profile(profile: Profile, path: str | Path | None = None) -> Path:
    """Replaces the profile in one step. Returns: where it is. Raises: OSError; the old one stays.

    Args:
        path: as in `check_place`.
    """
    place = check_place(path)
    write_whole(place, to_json(profile))
    return place
