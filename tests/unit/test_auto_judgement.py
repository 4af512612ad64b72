"""When auto:// moves: 1.3 times better, for a second, at most once in ten."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naru.auto.judgement import (
    GAIN,
    LONG_ENOUGH_S,
    NO_RETURN_S,
    REST_S,
    Judge,
    Sample,
    traffic_between,
)

STEP_S = 0.5


def sample(at_s: float, each_way: float = 1000.0, size_bytes: int = 64) -> Sample:
    count = round(at_s * each_way)
    return Sample(at_s, count, count * size_bytes, count, count * size_bytes)


def moves(judge: Judge, seconds: float, each_way: float = 1000.0) -> list[tuple[float, str]]:
    """When it would move, and where, with a sample every half a second."""
    current, found = "shm", []
    for step in range(round(seconds / STEP_S) + 1):
        at_s = step * STEP_S
        better = judge.observe(current, sample(at_s, each_way))
        if better is not None:
            found.append((at_s, better))
            judge.moved(current, at_s)
            current = better
    return found


def test_a_better_one_is_taken_after_a_second() -> None:
    judge = Judge(lambda current, _: {} if current == "unix" else {"unix": 2.0, "pipe": 1.5})
    assert moves(judge, 20) == [(LONG_ENOUGH_S, "unix")]


@pytest.mark.parametrize("gain", [0.0, 0.5, 1.0, GAIN - 0.01])
def test_what_is_hardly_better_is_not(gain: float) -> None:
    assert moves(Judge(lambda *_: {"unix": gain}), 20) == []


def test_nothing_else_means_to_stay() -> None:
    assert moves(Judge(lambda *_: {}), 20) == []


def test_hardly_any_traffic_is_no_evidence() -> None:
    assert moves(Judge(lambda *_: {"unix": 9.0}), 20, each_way=5) == []


def test_two_that_always_look_better_than_the_other_do_not_flap() -> None:
    judge = Judge(lambda current, _: {"unix": 5.0} if current == "shm" else {"shm": 5.0})
    times = [at_s for at_s, _ in moves(judge, 60)]
    assert times == [LONG_ENOUGH_S]  # and back, to what was left, not within a minute


def test_one_after_the_other_has_time_between() -> None:
    order = {"shm": "unix", "unix": "pipe", "pipe": "tcp", "tcp": "shm"}
    judge = Judge(lambda current, _: {order[current]: 5.0})
    found = moves(judge, 45)
    assert [name for _, name in found] == ["unix", "pipe", "tcp"]
    times = [at_s for at_s, _ in found]
    assert all(later - earlier >= REST_S for earlier, later in itertools.pairwise(times))


def test_after_a_minute_the_old_one_is_allowed_again() -> None:
    judge = Judge(lambda current, _: {"unix": 5.0} if current == "shm" else {"shm": 5.0})
    times = [at_s for at_s, _ in moves(judge, 150)]
    assert len(times) >= 2
    assert times[1] - times[0] >= NO_RETURN_S


def test_a_moment_of_something_else_begins_the_second_anew() -> None:
    calls = iter([2.0, 1.0] * 50)
    judge = Judge(lambda *_: {"unix": next(calls)})
    assert moves(judge, 30) == []


def test_the_favourite_must_stay_the_same() -> None:
    calls = iter([{"unix": 2.0}, {"pipe": 2.0}] * 50)
    judge = Judge(lambda *_: next(calls))
    assert moves(judge, 30) == []


def test_a_conversation_wants_latency_and_a_stream_throughput() -> None:
    start = Sample(0.0, 0, 0, 0, 0)
    two_way = traffic_between(start, Sample(1.0, 1000, 64_000, 900, 64_000))
    one_way = traffic_between(start, Sample(1.0, 1000, 64_000, 10, 640))
    assert two_way is not None
    assert two_way.goal == "latency"
    assert one_way is not None
    assert one_way.goal == "throughput"
    assert one_way.size_bytes == 64
    assert one_way.rate_per_s == 1000


counters = st.tuples(*[st.integers(0, 10**9)] * 4)


@given(counters, counters, st.floats(0, 100), st.floats(0, 100))
def test_traffic_is_total(
    first: tuple[int, ...], more: tuple[int, ...], at_s: float, later_s: float
) -> None:
    begin = Sample(at_s, *first)
    end = Sample(at_s + later_s, *(a + b for a, b in zip(first, more, strict=True)))
    traffic = traffic_between(begin, end)
    if traffic is not None:
        assert traffic.rate_per_s > 0
        assert traffic.size_bytes >= 0
