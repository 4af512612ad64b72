"""Figures that cannot be: found, measured again, and the quicker one counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from reports import one_way, trips

from naru.bench.plan import Contender, Job
from naru.bench.plausibility import DOUBTFUL, doubtful_jobs, with_better
from naru.bench.result import Record

SHM, UNIX = Contender("shm", "shm"), Contender("unix", "unix")
SIZES = (64, 1024, 65536)


def records_of(contender: Contender, us_by_size: dict[int, float]) -> list[Record]:
    return [trips(contender, us, size_bytes) for size_bytes, us in us_by_size.items()]


def jobs_of(records: list[Record]) -> list[Job]:
    return [Job(one.contender, one.mode, one.size_bytes, one.count) for one in records]


def test_growing_times_are_believed() -> None:
    records = records_of(SHM, {64: 1.0, 1024: 1.0, 65536: 9.0})
    assert doubtful_jobs(jobs_of(records), records) == []


def test_a_small_message_slower_than_a_larger_one_is_doubted() -> None:
    records = records_of(SHM, {64: 5.0, 1024: 1.0, 65536: 9.0})
    jobs = jobs_of(records)
    assert doubtful_jobs(jobs, records) == [jobs[0]]


def test_a_little_slower_is_noise() -> None:
    records = records_of(SHM, {64: 0.99 * DOUBTFUL, 1024: 1.0})
    assert doubtful_jobs(jobs_of(records), records) == []


def test_another_transport_is_no_measure() -> None:
    records = records_of(SHM, {64: 5.0}) + records_of(UNIX, {1024: 1.0})
    assert doubtful_jobs(jobs_of(records), records) == []


def test_streams_are_compared_by_the_message() -> None:
    slow = one_way(SHM, "message", 4.0, 64, count=1000)
    fast = one_way(SHM, "message", 1.0, 1024, count=1000)
    jobs = jobs_of([slow, fast])
    assert doubtful_jobs(jobs, [slow, fast]) == [jobs[0]]


def test_batches_of_another_length_are_another_thing() -> None:
    few, many = (one_way(SHM, "batch", 1.0, size, count=1000) for size in (16 << 20, 64))
    slow = one_way(SHM, "batch", 9.0, 64, count=1000)
    assert doubtful_jobs(jobs_of([many, few]), [slow, few]) == []


def test_what_arrived_not_at_all_is_no_reason_to_doubt_others() -> None:
    lost = one_way(SHM, "message", 1.0, 1024, count=1000, received=0)
    some = one_way(SHM, "message", 4.0, 64, count=1000)
    assert doubtful_jobs(jobs_of([some, lost]), [some, lost]) == []


def test_the_quicker_of_two_measurements_counts() -> None:
    first = records_of(SHM, {64: 5.0, 1024: 1.0})
    better, worse = records_of(SHM, {64: 0.9})[0], records_of(SHM, {64: 7.0})[0]
    assert with_better(first, [better]) == [better, first[1]]
    assert with_better(first, [worse]) == first
    assert with_better(first, []) == first


times = st.dictionaries(st.sampled_from(SIZES), st.floats(0.1, 1000), min_size=1)


@given(times, times)
def test_measuring_again_never_makes_a_figure_slower(
    first: dict[int, float], again: dict[int, float]
) -> None:
    before = records_of(SHM, first)
    after = with_better(before, records_of(SHM, again))
    assert [one.size_bytes for one in after] == [one.size_bytes for one in before]
    for old, new in zip(before, after, strict=True):
        assert new.trip_ns(0.5).median <= old.trip_ns(0.5).median
