"""What a benchmark runs: combinations, sizes, and counts that fit into a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naru.bench.plan import (
    DEFAULT_MODES,
    FEWEST,
    MODES,
    NAIVE,
    SEED_C_MS,
    SEED_TRANSPORTS,
    Contender,
    Job,
    affordable_counts,
    default_count,
    make_plan,
    parse_size,
    show_size,
)

SHM, MQ = Contender("shm", "shm"), Contender("mq", "mq")
PIPE = Contender("os.pipe", "pipe", naive=True)


def plan_of(contenders, modes=DEFAULT_MODES, sizes=(1024,), count=None, largest=None):
    return make_plan(
        contenders, modes, sizes, count=count, repeats=3, budget_s=100.0,
        largest_bytes=largest or {},
    )  # fmt: skip


def test_the_default_is_the_seeds_table() -> None:
    assert SEED_TRANSPORTS == tuple(SEED_C_MS) == ("shm", "pipe", "unix", "mq", "tcp")
    assert list(SEED_C_MS.values()) == [45, 523, 612, 892, 1250]
    plan = plan_of([Contender(name, name) for name in SEED_TRANSPORTS])
    assert [job.count for job in plan.jobs] == [1_000_000] * 15
    assert [job.contender.name for job in plan.jobs[::3]] == list(SEED_TRANSPORTS)


def test_plain_python_has_no_batches() -> None:
    plan = plan_of([SHM, PIPE], MODES)
    assert [job.mode for job in plan.jobs if job.contender is SHM] == list(MODES)
    assert [job.mode for job in plan.jobs if job.contender is PIPE] == ["message", "round-trip"]
    assert not plan.gaps


def test_what_is_too_large_is_a_gap_with_a_reason() -> None:
    plan = plan_of([SHM, MQ, PIPE], ["message"], [8192, 8193], largest={"mq": 8192, "shm": 1 << 30})
    assert [(job.contender.name, job.size_bytes) for job in plan.jobs] == [
        ("shm", 8192), ("mq", 8192), ("os.pipe", 8192), ("shm", 8193), ("os.pipe", 8193),
    ]  # fmt: skip
    (gap,) = plan.gaps
    assert (gap.contender, gap.size_bytes, gap.failed) == ("mq", 8193, False)
    assert gap.reason == "mq carries at most 8,192 bytes a message"


def test_an_explicit_count_is_kept() -> None:
    plan = plan_of([SHM], MODES, [64, 1 << 20], count=7)
    assert {job.count for job in plan.jobs} == {7}
    assert plan.budget_s is None


@pytest.mark.parametrize(
    ("mode", "size_bytes", "count"),
    [
        ("message", 64, 1_000_000),
        ("batch", 1024, 1_000_000),
        ("in-place", 65536, 16384),
        ("message", 1 << 30, FEWEST),
        ("round-trip", 64, 20_000),
        ("round-trip", 1 << 20, 1024),
    ],
)
def test_default_counts(mode: str, size_bytes: int, count: int) -> None:
    assert default_count(mode, size_bytes) == count


@given(
    costs=st.lists(
        st.tuples(st.integers(64, 10**6), st.floats(10, 1e6), st.sampled_from(MODES)),
        min_size=1,
        max_size=30,
    ),
    room_s=st.floats(-1, 1000),
)
def test_lowered_counts_fit_the_room(costs, room_s) -> None:
    jobs = [Job(SHM, mode, 1024, count) for count, _, mode in costs]
    rates = [ns for _, ns, _ in costs]
    counts = affordable_counts(jobs, rates, room_s)
    assert all(1 <= count <= job.count for job, count in zip(jobs, counts, strict=True))
    times = [count * ns / 1e9 for count, ns in zip(counts, rates, strict=True)]
    # What was tried out is always run, even where the room is too small for it.
    least = [job.trial_count * ns / 1e9 for job, ns in zip(jobs, rates, strict=True)]
    assert sum(times) <= max(0.0, room_s) * 1.001 + sum(least)
    whole = [job.count * ns / 1e9 for job, ns in zip(jobs, rates, strict=True)]
    if sum(whole) <= room_s:
        assert counts == [job.count for job in jobs]


def test_only_the_slowest_are_lowered() -> None:
    jobs = [Job(SHM, "message", 1024, 1_000_000) for _ in range(3)]
    counts = affordable_counts(jobs, [100.0, 1_000.0, 50_000.0], 9.85)
    assert counts[:2] == [1_000_000, 1_000_000]
    assert counts[2] == 170_000  # 8.75 s are left of the 50 asked; two digits


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1", 1), ("1024", 1024), ("1KB", 1000), ("1KiB", 1024), ("64kib", 65536),
        ("2 MiB", 2 << 20), ("1GiB", 1 << 30), ("1MB", 10**6), ("0", None), ("", None),
        ("-1", None), ("1.5KiB", None),
        ("2GiB", None), ("1TB", None), ("KiB", None), ("9" * 13, None), ("\u0661", None),
    ],
)  # fmt: skip
def test_sizes(text: str, size_bytes: int | None) -> None:
    assert parse_size(text) == size_bytes


@given(st.integers(1, 1 << 30))
def test_a_shown_size_reads_as_itself(size_bytes: int) -> None:
    assert parse_size(show_size(size_bytes)) == size_bytes


def test_every_plain_way_is_held_against_a_transport() -> None:
    from naru.transports import NAMES

    assert set(NAIVE.values()) <= set(NAMES)
