"""From the figures of a row to medians, ratios, verdicts and lines of text.

Holds: pure functions: no clock, no file, no process.
Must not know: how a figure was measured (messages.py).
Joins: messages.py prints the lines and writes `as_record` to the results file.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rows import Row, Target


@dataclass
class Contender:
    """One way to do a row's work: a floor, naru or a peer, and what it took."""

    kind: str  # floor | naru | peer
    name: str
    figures: list[float] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)
    problem: str = ""  # "missing: ..." or "failed: ..."
    every_round: bool = True  # a peer that no target names runs in fewer

    @property
    def median(self) -> float | None:
        return statistics.median(self.figures) if self.figures else None

    @property
    def lost(self) -> int:
        return sum(detail.get("lost", 0) for detail in self.details)


@dataclass(frozen=True)
class Verdict:
    """A target, what was found, and whether that reaches it; None: not known."""

    text: str
    counts: bool  # a plain limit of another machine is told, but does not count
    found: float | None
    bound: float
    reach: bool | None


@dataclass
class RowResult:
    row: Row
    contenders: list[Contender]
    stolen_share: float = 0.0
    core_trips_ns: list[int] = field(default_factory=list)  # one look each round

    def named(self, kind: str, name: str | None = None) -> Contender | None:
        for contender in self.contenders:
            if contender.kind == kind and name in (None, contender.name):
                return contender
        return None

    @property
    def verdicts(self) -> list[Verdict]:
        return [verdict for target in self.row.targets for verdict in _verdicts(self, target)]

    @property
    def reach(self) -> bool | None:
        """Whether every target that counts is reached; None when one is not known."""
        found = [verdict.reach for verdict in self.verdicts if verdict.counts]
        if not found or None in found:
            return None
        return all(found)


def ratio(upper: Contender | None, lower: Contender | None) -> float | None:
    """Median of the ratios of runs next to each other.

    A machine whose speed drifts changes both of a pair, but not their ratio.
    """
    if upper is None or lower is None:
        return None
    pairs = list(zip(upper.figures, lower.figures, strict=False))
    ratios = [above / below for above, below in pairs if below > 0]
    return statistics.median(ratios) if ratios else None


def _verdicts(result: RowResult, target: Target) -> Iterator[Verdict]:
    row, naru = result.row, result.named("naru")
    if target.limit is not None:
        scaled = row.reference_floor is not None
        found = naru.median if naru else None
        text = f"{_sign(row)} {target.limit:g} {row.unit}"
        yield _judged(row, text, not scaled, found, target.limit)
        if row.reference_floor is not None:
            bound = target.limit / row.reference_floor
            text = f"{_sign(row)} {bound:.2f} x floor ({target.limit:g} / {row.reference_floor:g})"
            yield _judged(row, text, True, ratio(naru, result.named("floor")), bound)
    if target.of_floor is not None:
        text = f"{_sign(row)} {target.of_floor:g} x floor"
        found = ratio(naru, result.named("floor"))
        yield _judged(row, text, True, found, target.of_floor)
    if target.of_peer is not None:
        name, share = target.of_peer
        found = ratio(naru, result.named("peer", name))
        yield _judged(row, f"{_sign(row)} {share:g} x {name}", True, found, share)


def _sign(row: Row) -> str:
    return ">=" if row.higher_is_better else "<="


def _judged(row: Row, text: str, counts: bool, found: float | None, bound: float) -> Verdict:
    reach = None
    if found is not None:
        reach = found >= bound if row.higher_is_better else found <= bound
    return Verdict(text, counts, found, bound, reach)


def number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "-"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}" if value >= 0.1 else f"{value:.4f}"


def yes_or_no(reach: bool | None) -> str:
    return {True: "yes", False: "no", None: "?"}[reach]


def row_lines(result: RowResult) -> Iterator[str]:
    row = result.row
    yield f"{row.key}: {row.title} ({row.unit})"
    labels = [f"{contender.kind:<6} {contender.name}" for contender in result.contenders]
    labels += [f"target {verdict.text}" for verdict in result.verdicts]
    width = max(map(len, labels))
    for contender in result.contenders:
        yield f"  {labels.pop(0):<{width}} {_contender_figures(contender, result)}"
    for verdict in result.verdicts:
        aside = "" if verdict.counts else " (set on another machine)"
        found = f"{number(verdict.found):>9}  {yes_or_no(verdict.reach)}{aside}"
        yield f"  {labels.pop(0):<{width}} {found}"
    if row.note:
        yield f"  note: {row.note}"
    for disturbance in _disturbances(result):
        yield f"  note: {disturbance}"


def _disturbances(result: RowResult) -> Iterator[str]:
    if result.stolen_share > 0.02:
        yield f"the host took {result.stolen_share:.0%} of this machine meanwhile"
    near, far = min(result.core_trips_ns, default=0), max(result.core_trips_ns, default=0)
    if far > 2 * near:
        # A guest's cores are moved by its host, now sharing a cache and now not.
        yield f"the two cores were {near / 1e3:.2f} to {far / 1e3:.2f} us apart, there and back"


def _contender_figures(contender: Contender, result: RowResult) -> str:
    if contender.problem:
        return contender.problem
    floor, naru = result.named("floor"), result.named("naru")
    low, high = number(min(contender.figures)), number(max(contender.figures))
    line = f"{number(contender.median):>9}  [{low} .. {high}]"
    if contender is naru and (of_floor := ratio(naru, floor)) is not None:
        line += f"  {of_floor:.2f} x floor"
    if contender.kind == "peer" and (of_peer := ratio(naru, contender)) is not None:
        line += f"  naru is {of_peer:.2f} x this"
    if contender.lost:
        line += f"  LOST {contender.lost:,} messages"
    return line


def summary_lines(results: list[RowResult]) -> Iterator[str]:
    yield f"{'row':<20} {'floor':>9} {'naru':>9} {'x floor':>8}  {'unit':<15} reach"
    for result in results:
        floor, naru = result.named("floor"), result.named("naru")
        share = ratio(naru, floor)
        yield (
            f"{result.row.key:<20} {number(floor.median if floor else None):>9} "
            f"{number(naru.median if naru else None):>9} "
            f"{f'{share:.2f}' if share is not None else '-':>8}  {result.row.unit:<15} "
            f"{yes_or_no(result.reach)}"
        )


def as_record(result: RowResult) -> dict[str, Any]:
    """The row as JSON values, every run kept."""
    row, floor, naru = result.row, result.named("floor"), result.named("naru")
    return {
        "key": row.key,
        "title": row.title,
        "unit": row.unit,
        "size_bytes": row.size_bytes,
        "note": row.note,
        "stolen_share": round(result.stolen_share, 4),
        "core_trips_ns": result.core_trips_ns,
        "contenders": [
            {
                "kind": contender.kind,
                "name": contender.name,
                "problem": contender.problem,
                "median": contender.median,
                "min": min(contender.figures, default=None),
                "max": max(contender.figures, default=None),
                "lost": contender.lost,
                "naru_ratio": ratio(naru, contender) if contender is not naru else None,
                "runs": contender.details,
            }
            for contender in result.contenders
        ],
        "naru_of_floor": ratio(naru, floor),
        "targets": [
            {
                "text": verdict.text,
                "counts": verdict.counts,
                "found": verdict.found,
                "bound": verdict.bound,
                "reach": verdict.reach,
            }
            for verdict in result.verdicts
        ],
        "reach": result.reach,
    }
