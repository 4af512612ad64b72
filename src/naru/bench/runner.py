"""Runs a plan: trials, counts that fit the time, repeats in turn, records.

Each repeat goes once through all jobs, so that a machine that becomes slower or quicker meanwhile
does so for all of them. Must not know: how a run is made (host, in a process of its own), tables.
Joins: the command calls `run_plan` with a Plan and gets a Report.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import IO, Any

from naru.bench.machine import (
    choose_cores,
    core_groups,
    describe,
    load_of_others,
    measure_load,
    read_cpu_times,
)
from naru.bench.plan import RUN_OVERHEAD_S, Gap, Job, Plan, affordable_counts
from naru.bench.result import SCHEMA, Pass, Record, Report
from naru.errors import NaruError

__all__ = ["Progress", "largest_messages", "pick_cores", "run_plan"]

LEAST_LIMIT_S = 120.0
LIMIT_PART = 20.0
"""A run that takes so many times as long as predicted is stuck."""
TRIALS_PART = 0.7
"""When the trials alone took more of the budget than this, they are what there is."""
LEAST_BUDGET_S = 0.001
PATIENCE = 1.1
"""How much longer than its budget a run may take for one more repeat."""
END_S = 5.0
REFRESH_S = 0.2
MOST_NAMED = 6

Progress = Callable[[float, str], None]
"""Called with the share that is done (0 to 1) and what is being done."""


def pick_cores(asked: tuple[int, int] | None) -> tuple[tuple[int, int] | None, list[str]]:
    """The cores of sender and receiver, and what is to be said about them.

    Raises: ValueError for cores that this process may not use.
    """
    allowed = os.sched_getaffinity(0)
    if asked is None:
        cores = choose_cores(sorted(allowed), core_groups())
        note = "only one CPU is allowed here: the sides take turns on it, and are not pinned"
        return cores, [] if cores else [note]
    missing = sorted(set(asked) - allowed)
    if missing:
        shown = ",".join(str(cpu) for cpu in sorted(allowed))
        raise ValueError(f"CPU {missing[0]} may not be used here; allowed are {shown}")
    same = asked[0] == asked[1]
    return asked, ["both sides are pinned to one core: they take turns on it"] if same else []


def largest_messages() -> dict[str, int]:
    """The largest message of each transport on this machine; one that it lacks is missing."""
    from naru.transports import capabilities

    found = {}
    for row in capabilities():
        with contextlib.suppress(NaruError):  # not there: its run says so
            found[row.transport] = row.max_message_bytes()
    return found


def run_plan(
    plan: Plan,
    *,
    cores: tuple[int, int] | None,
    wait: str = "adaptive",
    notes: list[str] | None = None,
    command: list[str] | None = None,
    progress: Progress = lambda share, what: None,
) -> Report:
    """Runs all jobs of a plan; takes as long as they take.

    Args:
        cores: of sender and receiver; None: not pinned.
        wait: the waiting mode of naru's ends (adaptive, spin, sleep).
        notes: for the report, to which this adds.

    Raises: KeyboardInterrupt, after its processes have ended. A job that fails becomes a Gap.
    """
    machine = describe()
    said = list(notes or [])
    before = measure_load()
    if before.warning:
        said.append(before.warning)
    times, own_s = read_cpu_times(), _own_cpu_s()
    with _Host() as host:
        run = _Run(host, plan, cores, wait, progress)
        repeats = run.go()
    during = load_of_others(times, read_cpu_times(), _own_cpu_s() - own_s)
    if during.warning and not before.warning:
        said.append(f"while it ran, {during.warning}")
    records = run.records
    return Report(
        schema=SCHEMA,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command or [],
        machine=machine,
        cores=list(cores) if cores else None,
        wait=wait,
        repeats=repeats,
        records=records,
        gaps=[*plan.gaps, *run.gaps],
        notes=[*said, *_lowered(records, plan, repeats), *_losses(records)],
        load_before=before,
        load_during=during,
    )


def _own_cpu_s() -> float:
    """Of this process, and of all that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _lowered(records: list[Record], plan: Plan, repeats: int) -> list[str]:
    found = []
    if repeats < plan.repeats:
        found.append(f"{repeats} of {plan.repeats} repeats, so as to end in time")
    lowered = [record for record in records if record.count < record.count_asked]
    if lowered:
        named = [f"{one.contender.name} {one.mode} {one.count:,}" for one in lowered[:MOST_NAMED]]
        more = len(lowered) - len(named)
        tail = f" and {more} more (--json has all)" if more else ""
        found.append(
            f"fewer messages than asked, so as to end within {plan.budget_s:.0f} s; their times "
            f"are scaled up: {', '.join(named)}{tail}"
        )
    return found


def _losses(records: list[Record]) -> list[str]:
    return [
        f"{record.contender.name} {record.mode}: {record.lost_share:.1%} of the messages were "
        "lost; figures are of those that came"
        for record in records
        if record.lost_share > 0
    ]


@dataclass
class _Work:
    """A job on its way through the repeats."""

    job: Job
    asked: int
    ns_per_message: float = 1000.0
    overhead_s: float = RUN_OVERHEAD_S
    trial: Pass | None = None
    passes: list[Pass] = field(default_factory=list)
    gap: Gap | None = None

    @property
    def predicted_s(self) -> float:
        return self.job.count * self.job.passes * self.ns_per_message / 1e9 + self.overhead_s

    def leave_out(self, reason: str, *, failed: bool = False) -> None:
        job = self.job
        self.gap = Gap(job.contender.name, job.mode, job.size_bytes, reason, failed)

    @property
    def record(self) -> Record:
        job = self.job
        return Record(job.contender, job.mode, job.size_bytes, job.count, self.asked, self.passes)


class _Run:
    def __init__(
        self, host: _Host, plan: Plan, cores: tuple[int, int] | None, wait: str, progress: Progress
    ) -> None:
        self._host, self._plan, self._cores = host, plan, cores
        self._wait, self._progress = wait, progress
        self._works = [_Work(job, job.count) for job in plan.jobs]
        self._tried_share = 0.0

    def go(self) -> int:
        """Returns: how many repeats there were."""
        began_s = time.monotonic()
        budget_s = self._plan.budget_s
        if budget_s is not None:
            budget_s = max(budget_s, LEAST_BUDGET_S)
            self._try_out(budget_s)
            self._tried_share = min(TRIALS_PART, (time.monotonic() - began_s) / budget_s)
            if time.monotonic() - began_s > TRIALS_PART * budget_s:
                return self._settle_for_trials()
            self._fit(budget_s - (time.monotonic() - began_s))
        total_s = sum(work.predicted_s for work in self._works) * self._plan.repeats
        done_s = 0.0
        for repeat in range(1, self._plan.repeats + 1):
            repeat_began_s = time.monotonic()
            for work in self._works:
                name = f"{work.job.contender.name} {work.job.mode} {repeat}/{self._plan.repeats}"
                now_s = time.monotonic()
                show = partial(self._show, name, now_s, done_s, work.predicted_s, total_s)
                self._measure(work, show)
                done_s += work.predicted_s
            now_s = time.monotonic()
            if budget_s and 2 * now_s - repeat_began_s - began_s > budget_s * PATIENCE:
                return repeat  # the machine has become slower: another one would take too long
        return self._plan.repeats

    def _show(
        self, name: str, began_s: float, done_s: float, predicted_s: float, total_s: float
    ) -> None:
        """While a run goes on, its part of the bar fills as predicted, but not to its end."""
        passed_s = min(time.monotonic() - began_s, 0.95 * predicted_s)
        share = (done_s + passed_s) / total_s
        self._progress(self._tried_share + (1 - self._tried_share) * share, name)

    def _try_out(self, budget_s: float) -> None:
        first_s = time.monotonic()
        for work in self._works:
            name = f"trying {work.job.contender.name} {work.job.mode}"
            began_s = time.monotonic()
            deadline_s = self._plan.deadline_s
            if deadline_s is not None and began_s - first_s > deadline_s:
                work.leave_out("no time was left for it: the machine is too busy")
                continue
            share = min(TRIALS_PART, (began_s - first_s) / budget_s)
            self._progress(share, name)
            count = work.job.trial_count
            for found in self._ask(work, count, 1, partial(self._progress, share, name)):
                work.trial = found
                work.ns_per_message = found.seconds * 1e9 / count
                work.overhead_s = time.monotonic() - began_s - found.seconds

    def _settle_for_trials(self) -> int:
        """No time is left for more: the machine is too slow, or too busy, for this budget."""
        for work in self._works:
            if work.trial is not None:
                work.job = replace(work.job, count=work.job.trial_count)
                work.passes.append(work.trial)
        return 1

    def _fit(self, budget_s: float) -> None:
        works = [work for work in self._works if work.gap is None]
        room_s = budget_s / self._plan.repeats - sum(work.overhead_s for work in works)
        costs_ns = [work.ns_per_message * work.job.passes for work in works]
        counts = affordable_counts([work.job for work in works], costs_ns, room_s)
        for work, count in zip(works, counts, strict=True):
            work.job = replace(work.job, count=count)

    def _measure(self, work: _Work, meanwhile: Callable[[], object]) -> None:
        if work.gap is not None:
            return
        work.passes += self._ask(work, work.job.count, work.job.passes, meanwhile)

    def _ask(
        self, work: _Work, count: int, passes: int, meanwhile: Callable[[], object]
    ) -> list[Pass]:
        """Empty: it failed, and the work has its gap."""
        answer = self._host.run(self._message(work, count, passes), meanwhile)
        if "error" not in answer:
            return [Pass(**one) for one in answer["passes"]]
        work.leave_out(answer["error"], failed=not answer["cannot"])
        return []

    def _message(self, work: _Work, count: int, passes: int) -> dict[str, Any]:
        contender, job = work.job.contender, work.job
        options = [contender.options] if contender.options else []
        if self._wait != "adaptive" and "wait=" not in contender.options:
            options.append(f"wait={self._wait}")
        if contender.transport == "udp" and "heartbeat_s=" not in contender.options:
            options.append("heartbeat_s=0")  # a side that is still preparing is no dead one
        return {
            "transport": contender.transport,
            "options": "&".join(options),
            "naive": contender.name if contender.naive else None,
            "mode": job.mode,
            "size_bytes": job.size_bytes,
            "count": count,
            "passes": passes,
            "cores": self._cores,
            "limit_s": max(LEAST_LIMIT_S, LIMIT_PART * work.predicted_s),
        }

    @property
    def records(self) -> list[Record]:
        return [work.record for work in self._works if work.gap is None]

    @property
    def gaps(self) -> list[Gap]:
        return [work.gap for work in self._works if work.gap is not None]


class _Host:
    """The process of host.py: started here, ended here."""

    def __enter__(self) -> _Host:
        # The same modules as in this process, wherever they come from.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; from naru.bench.host import main; "
            "sys.exit(main())"
        )
        # A session of its own: Ctrl-C is heard here, and here alone.
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def run(self, job: dict[str, Any], meanwhile: Callable[[], object]) -> dict[str, Any]:
        """The answer to a job. `meanwhile` is called some times a second."""
        stdin, stdout = self._pipes()
        try:
            stdin.write(json.dumps(job).encode() + b"\n")
            stdin.flush()
            while not select.select([stdout], [], [], REFRESH_S)[0]:
                meanwhile()
            line = stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            code = self._process.wait()
            raise NaruError(f"the measuring process ended (exit code {code})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def __exit__(self, *exc_info: object) -> None:
        stdin, stdout = self._pipes()
        try:
            # The end of its input ends it, also in the middle of a run.
            with contextlib.suppress(BrokenPipeError):
                stdin.close()
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._kill()
        except BaseException:  # Ctrl-C once more: at once, then
            self._kill()
            raise
        finally:
            stdout.close()

    def _kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
