"""The pure parts of the reactor: what inotify's bytes say, quantiles."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naru.reactor.changes import HEAD, Event, parse
from naru.reactor.statistics import quantile_s

names = st.binary(min_size=0, max_size=40).map(lambda b: os.fsdecode(b.replace(b"\0", b"")))
numbers = st.integers(0, 2**32 - 1)
events = st.builds(Event, st.integers(-1, 2**31 - 1), numbers, numbers, names)


def written(event: Event) -> bytes:
    """As the kernel writes it: the name ends with zeros, up to a multiple of 16."""
    name = os.fsencode(event.name)
    padded = name.ljust((len(name) // 16 + 1) * 16, b"\0") if name else b""
    return HEAD.pack(event.watch, event.mask, event.cookie, len(padded)) + padded


@given(st.lists(events))
def test_parse_gives_back_what_was_written(some: list[Event]) -> None:
    assert parse(b"".join(map(written, some))) == some


@given(st.lists(events, min_size=1), st.data())
def test_what_is_cut_short_is_left_out(some: list[Event], data: st.DataObject) -> None:
    whole = b"".join(map(written, some))
    cut = data.draw(st.integers(0, len(whole)))
    assert parse(whole[:cut]) == some[: len(parse(whole[:cut]))]


@given(st.binary(max_size=300))
def test_parse_takes_any_bytes(data: bytes) -> None:
    parse(data)


@pytest.mark.parametrize(
    ("counts", "part", "expected"),
    [
        ([], 0.5, 0.0),
        ([0, 0, 0], 0.99, 0.0),
        ([0, 10, 0], 0.5, 4e-9),
        ([99, 0, 1], 0.99, 2e-9),
        ([98, 0, 2], 0.99, 8e-9),
        ([1, 1], 1.0, 4e-9),
    ],
)
def test_quantiles_are_upper_bounds(counts: list[int], part: float, expected: float) -> None:
    assert quantile_s(counts, part) == pytest.approx(expected)
