"""Which figures cannot be: a small message that took longer than a larger one on the same way.

A cell is measured in a fraction of a second, and in that another program, or the host of a virtual
machine, can have had the CPU all the time. Such a figure stands out among its neighbours: nothing
about a transport makes 64 bytes slower than 1,024. It is measured again, and of the two the quicker
one counts, because disturbances only ever take time.
Pure. Must not know: how anything is measured. Joins: `probe` runs again what is doubtful.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import TypeAlias

from naru.bench.plan import TRIP_MODES, Contender, Job
from naru.bench.result import Record
from naru.sizes import batch_length

__all__ = ["DOUBTFUL", "doubtful_jobs", "with_better"]

DOUBTFUL = 1.3
"""So many times as long as a larger message: more than the noise of neighbouring sizes."""


def doubtful_jobs(jobs: Sequence[Job], records: Iterable[Record]) -> list[Job]:
    """Those whose record took longer than one of larger messages, in the order of the jobs."""
    costs = {_key(record): _cost_s(record) for record in records}
    return [job for job in jobs if costs.get(_key(job), 0.0) > DOUBTFUL * _least_above(job, costs)]


def with_better(first: Sequence[Record], again: Iterable[Record]) -> list[Record]:
    """The first records, each replaced where it was quicker when it was measured again."""
    second = {_key(record): record for record in again}
    return [min(record, second.get(_key(record), record), key=_cost_s) for record in first]


_Key: TypeAlias = tuple[Contender, str, int]


def _key(one: Job | Record) -> _Key:
    return one.contender, one.mode, one.size_bytes


def _least_above(job: Job, costs: dict[_Key, float]) -> float:
    """The quickest of the larger messages that went the same way, in batches as long."""
    contender, mode, size_bytes = _key(job)
    return min(
        (
            cost
            for (other, its_mode, its_bytes), cost in costs.items()
            if (other, its_mode) == (contender, mode)
            and its_bytes > size_bytes
            and batch_length(its_bytes) == batch_length(size_bytes)
        ),
        default=inf,
    )


def _cost_s(record: Record) -> float:
    """Of a round trip, or of a message; inf: nothing arrived."""
    calm = record.calm()
    if record.mode in TRIP_MODES:
        return calm.trip_ns(0.5).median * 1e-9
    rate = calm.messages_per_s.median
    return 1 / rate if rate > 0 else inf
