"""What a benchmark found: frozen records, and the same as JSON.

Holds: every pass of every job, the machine, what could not be measured; medians are properties, and
are written out into the JSON for its readers.
Must not know: how it was measured, how it is shown.
Joins: `runner` makes a Report; `table` and `plot` read it; `write_report`/`read_report` keep it.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from naru.bench.files import write_whole
from naru.bench.machine import Load, Machine
from naru.bench.plan import Contender, Gap

__all__ = ["SCHEMA", "Pass", "Record", "Report", "Spread", "read_report", "to_json", "write_report"]

SCHEMA = "naru-bench/1"
CALM_FACTOR, CALM_SHARE = 1.5, 0.02


@dataclass(frozen=True)
class Spread:
    """Of one number over all passes."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Pass:
    """One run of a job, in two fresh processes."""

    seconds: float
    """From the moment both sides began to the last message received (or answered)."""
    cpu_sender_s: float
    cpu_receiver_s: float
    received: int
    """As many as were sent, except where messages may be lost (udp)."""
    trips_ns: dict[str, int] | None = None
    """Round trips: the time at each share of the distribution, "0.5" being the median."""
    waited_s: float = 0.0
    """Both sides together: ready to run, while the CPU belonged to others."""

    @property
    def waited_share(self) -> float:
        """Of the time; a wake-up of an idle CPU is a little of it, too."""
        return self.waited_s / self.seconds


@dataclass(frozen=True)
class Record:
    """A job and its passes."""

    contender: Contender
    mode: str
    size_bytes: int
    count: int
    """Messages, or round trips, a pass."""
    count_asked: int
    """More than `count` where this machine is too slow for it within the time."""
    passes: list[Pass]

    def calm(self) -> Record:
        """The passes in which others took hardly more of the CPUs than in the calmest one; at least
        half of them, because a single one may be odd for another reason.

        Another process on one of the two cores does not make figures a little worse, but something
        else: who spins loses a whole time slice.
        """
        shares = sorted(one.waited_share for one in self.passes)
        most = max(CALM_FACTOR * shares[0] + CALM_SHARE, shares[len(shares) // 2])
        return replace(self, passes=[one for one in self.passes if one.waited_share <= most])

    @property
    def seconds(self) -> Spread:
        return Spread.of([one.seconds for one in self.passes])

    @property
    def messages_per_s(self) -> Spread:
        return Spread.of([one.received / one.seconds for one in self.passes])

    @property
    def bytes_per_s(self) -> float:
        return self.messages_per_s.median * self.size_bytes

    @property
    def time_asked_s(self) -> Spread:
        """The time for `count_asked` messages that arrive."""
        times = [one.seconds * self.count_asked / max(1, one.received) for one in self.passes]
        return Spread.of(times)

    @property
    def cpu_s(self) -> Spread:
        """Of both sides, for `count_asked` messages."""
        scale = self.count_asked / self.count
        return Spread.of([(one.cpu_sender_s + one.cpu_receiver_s) * scale for one in self.passes])

    @property
    def lost_share(self) -> float:
        return 1.0 - statistics.median(one.received for one in self.passes) / self.count

    def trip_ns(self, share: float) -> Spread:
        """Round trips: the time that this share of them stayed within. KeyError for others."""
        return Spread.of([(one.trips_ns or {})[f"{share:g}"] for one in self.passes])

    def distribution(self) -> list[tuple[float, float]]:
        """(share, ns) of round trips, the median over the passes; empty for one way."""
        shares = sorted(float(share) for share in self.passes[0].trips_ns or {})
        return [(share, self.trip_ns(share).median) for share in shares]

    def summary(self) -> dict[str, Any]:
        """The medians, for readers of the JSON."""
        found: dict[str, Any] = {
            "seconds": dataclasses.asdict(self.seconds),
            "messages_per_s": dataclasses.asdict(self.messages_per_s),
            "bytes_per_s": self.bytes_per_s,
            "cpu_both_s": dataclasses.asdict(self.cpu_s),
            "lost_share": self.lost_share,
        }
        if self.passes[0].trips_ns:
            for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
                found[f"trip_{name}_ns"] = dataclasses.asdict(self.trip_ns(share))
        return found


@dataclass(frozen=True)
class Report:
    """All of one `naru bench`."""

    schema: str
    date: str
    """UTC, ISO 8601."""
    command: list[str]
    machine: Machine
    cores: list[int] | None
    """Of sender and receiver; None: not pinned."""
    wait: str
    repeats: int
    records: list[Record]
    gaps: list[Gap]
    notes: list[str]
    """What a reader must know: load, lowered counts, losses."""
    load_before: Load | None = None
    load_during: Load | None = None
    """Of others, while it ran."""

    def find(self, name: str, mode: str, size_bytes: int) -> Record | None:
        """The record of a contender's name, or None."""
        for record in self.records:
            if (record.contender.name, record.mode, record.size_bytes) == (name, mode, size_bytes):
                return record
        return None

    @property
    def sizes_bytes(self) -> list[int]:
        return sorted({record.size_bytes for record in self.records})


def to_json(report: Report) -> bytes:
    """All of it, with the medians written out for other programs."""
    data = dataclasses.asdict(report)
    for record, entry in zip(report.records, data["records"], strict=True):
        entry["summary"] = record.summary()
    return json.dumps(data, indent=1).encode() + b"\n"


def write_report(report: Report, path: str | Path) -> None:
    """Writes JSON, whole or not at all. Raises OSError."""
    write_whole(path, to_json(report))


def read_report(path: str | Path) -> Report:
    """Reads what write_report wrote. Raises OSError, ValueError for anything else."""
    import msgspec

    data = json.loads(Path(path).read_bytes())
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no result of this naru's benchmark (schema {SCHEMA})")
    return msgspec.convert(data, Report)
