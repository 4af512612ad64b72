"""What a benchmark runs: a table of jobs, and how their counts fit into a time.

Holds: the modes, the transports of the default run, the seed's figures, the rules for counts.
Pure: no clock, no machine; limits and measured rates are passed in.
Must not know: how a job is run.
Joins: `runner.run_plan` takes the Plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from naru.sizes import parse_size, show_size

__all__ = [
    "DEFAULT_MODES",
    "MODES",
    "NAIVE",
    "SEED_C_MS",
    "SEED_TRANSPORTS",
    "TRIP_MODES",
    "Contender",
    "Gap",
    "Job",
    "Plan",
    "affordable_counts",
    "default_count",
    "make_plan",
    "parse_size",
    "show_size",
]

ONE_WAY_MODES = ("message", "batch", "in-place")
MODES = (*ONE_WAY_MODES, "round-trip")
DEFAULT_MODES = ONE_WAY_MODES
TRIP_MODES = ("round-trip", "batch-trip")
"""batch-trip: a batch there and a batch back; only the probe asks for it."""

SEED_TRANSPORTS = ("shm", "pipe", "unix", "mq", "tcp")
SEED_C_MS: Mapping[str, int] = {"shm": 45, "pipe": 523, "unix": 612, "mq": 892, "tcp": 1250}
"""1 KB x 1,000,000 in C, as the text that naru grew from gives them; another machine's."""
SEED_SIZE_BYTES = 1024
SEED_COUNT = 1_000_000

NAIVE: Mapping[str, str] = {
    "os.pipe": "pipe",
    "socket unix": "unix",
    "socket tcp": "tcp",
    "mp.Pipe": "unix",
    "mp.Queue": "shm",
}
"""Plain Python ways, and the naru transport that each is held against."""
NAIVE_MODES = ("message", "round-trip")

LONGEST_STREAM_BYTES = 1 << 30
MOST_TRIPS = 20_000
FEWEST = 64
TRIAL = 4_000
TRIAL_TRIPS = 400
TRIAL_BYTES = 8 << 20
RUN_OVERHEAD_S = 0.05
"""Two forks, the meeting, the warm-up; as long as it has not been measured."""


@dataclass(frozen=True)
class Contender:
    """Who is measured: a naru transport with its options, or a plain Python way."""

    name: str
    transport: str
    """naru's, or for a naive one the transport that it is held against."""
    naive: bool = False
    options: str = ""
    """The query of the address, such as "capacity_bytes=16MiB"."""


@dataclass(frozen=True)
class Job:
    """One figure: a contender moves messages of one size in one mode."""

    contender: Contender
    mode: str
    size_bytes: int
    count: int
    passes: int = 1
    """So many times `count`, one after the other, in the same two processes."""
    trial: int | None = None
    """How many to try out; None: by size."""

    @property
    def trial_count(self) -> int:
        """How many show roughly how long one takes."""
        if self.trial is not None:
            return min(self.count, self.trial)
        most = TRIAL_TRIPS if self.mode in TRIP_MODES else TRIAL
        return max(1, min(self.count, most, max(FEWEST, TRIAL_BYTES // self.size_bytes)))


@dataclass(frozen=True)
class Gap:
    """A cell without a figure, and why."""

    contender: str
    mode: str
    size_bytes: int
    reason: str
    failed: bool = False
    """True: it should have worked. False: it cannot be on this machine."""


@dataclass(frozen=True)
class Plan:
    """Jobs, in the order of the table."""

    jobs: tuple[Job, ...]
    gaps: tuple[Gap, ...]
    repeats: int
    budget_s: float | None
    """Counts are lowered so that all ends within; None: they stay as asked."""
    deadline_s: float | None = None
    """What has not been tried by then is left out; None: everything is tried."""


def make_plan(
    contenders: Sequence[Contender],
    modes: Sequence[str],
    sizes_bytes: Sequence[int],
    *,
    count: int | None,
    repeats: int,
    budget_s: float | None,
    largest_bytes: Mapping[str, int],
) -> Plan:
    """All combinations that can be.

    Args:
        count: messages a run; None: by size (`default_count`), lowered to fit `budget_s`.
        largest_bytes: the largest message of each transport; one that is missing has no limit.
    """
    jobs, gaps = [], []
    for size_bytes in sizes_bytes:
        for contender in contenders:
            for mode in modes:
                if contender.naive and mode not in NAIVE_MODES:
                    continue
                limit = None if contender.naive else largest_bytes.get(contender.transport)
                if limit is not None and size_bytes > limit:
                    reason = f"{contender.transport} carries at most {limit:,} bytes a message"
                    gaps.append(Gap(contender.name, mode, size_bytes, reason))
                    continue
                many = count if count is not None else default_count(mode, size_bytes)
                jobs.append(Job(contender, mode, size_bytes, many))
    budget = None if count is not None else budget_s
    return Plan(tuple(jobs), tuple(gaps), repeats, budget)


def default_count(mode: str, size_bytes: int) -> int:
    """The seed's million at 1 KB; fewer of large ones."""
    most = MOST_TRIPS if mode == "round-trip" else SEED_COUNT
    return max(FEWEST, min(most, LONGEST_STREAM_BYTES // size_bytes))


def affordable_counts(
    jobs: Sequence[Job], ns_per_message: Sequence[float], room_s: float
) -> list[int]:
    """Counts with which all jobs together take at most `room_s`; only the slowest are lowered.

    Every job may take the same longest time: what the quick ones leave of their share goes to the
    slow ones (water filling). What the trial had is the least.
    """
    costs_s = [job.count * ns / 1e9 for job, ns in zip(jobs, ns_per_message, strict=True)]
    left_s, longest_s = max(0.0, room_s), 0.0
    for place, cost_s in enumerate(sorted(costs_s)):
        longest_s = left_s / (len(costs_s) - place)
        if cost_s > longest_s:
            break
        left_s -= cost_s
        longest_s = cost_s
    return [
        job.count if cost_s <= longest_s else _round_down(job.count * longest_s / cost_s, job)
        for job, cost_s in zip(jobs, costs_s, strict=True)
    ]


def _round_down(count: float, job: Job) -> int:
    """To two digits, at least as many as the trial had."""
    whole = int(count)
    step: int = 10 ** max(0, len(str(whole)) - 2)
    return max(whole // step * step, min(job.trial_count, job.count))
