"""Needs, and how the command writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naru.choosing.needs import (
    WORDS,
    Needs,
    describe,
    parse_rate,
    parse_sizes,
    parse_words,
    sizes_of,
)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20000", 20000), ("20000/s", 20000), ("20k/s", 20000), ("1.5M", 1.5e6), ("30/min", 0.5),
        ("3600/h", 1), (" 7 /s", 7),
    ],
)  # fmt: skip
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-1", "1e9", "k", "1/day", "nan", "inf", "1K", "9" * 13])
def test_no_rates(text: str) -> None:
    with pytest.raises(ValueError, match="no rate such as"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("1KB", {1000: 1.0}), ("64", {64: 1.0}), ("64:9,64KiB:1", {64: 9.0, 65536: 1.0}),
        ("64,128", {64: 1.0, 128: 1.0}), ("1:0.5", {1: 0.5}),
    ],
)  # fmt: skip
def test_sizes(text: str, weights: dict[int, float]) -> None:
    assert parse_sizes(text) == weights


@pytest.mark.parametrize(
    "text", ["", "0", "1TB", "64:", "64:x", "64:0", "64:-1", "64:nan", "64:inf", "64,64", "64,"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="sizes are such as"):
        parse_sizes(text)


@given(st.text(max_size=30))
def test_parsers_raise_nothing_but_value_errors(text: str) -> None:
    for parse in (parse_rate, parse_sizes, lambda one: parse_words([one])):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)


WEIGHTS = st.dictionaries(st.integers(0, 1 << 30), st.floats(1e-9, 1e9), min_size=1, max_size=20)


@given(WEIGHTS)
def test_shares_add_up_to_one_and_stay_as_they_are(weights: dict[int, float]) -> None:
    sizes = sizes_of(weights)
    assert [size for size, _ in sizes] == sorted(weights)
    assert sum(share for _, share in sizes) == pytest.approx(1)
    assert Needs(sizes=sizes).largest_bytes == max(weights)


def test_a_size_is_a_distribution_of_one() -> None:
    assert sizes_of(100) == ((100, 1.0),)
    assert sizes_of({64: 9, 65536: 1}) == ((64, 0.9), (65536, 0.1))
    assert Needs().sizes == ((1024, 1.0),)


@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        (-1, ValueError), ((1 << 30) + 1, ValueError), ({}, ValueError), ({64: 0}, ValueError),
        ({64: float("nan")}, ValueError), ({64: True}, ValueError), ({1.5: 1}, ValueError),
        ({True: 1}, ValueError), (True, TypeError), (1.5, TypeError), ("64", TypeError),
        (None, TypeError), (dict.fromkeys(range(2000), 1.0), ValueError),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be(sizes: Mapping[int, float], error: type[Exception]) -> None:
    with pytest.raises(error):
        sizes_of(sizes)


@pytest.mark.parametrize(
    "fields",
    [
        {"rate_per_s": 0}, {"rate_per_s": -1}, {"rate_per_s": float("nan")}, {"rate_per_s": 1e13},
        {"rate_per_s": True}, {"rate_per_s": "9"}, {"goal": "speed"}, {"wait": "forever"},
        {"sizes": ((64, 2.0),)}, {"sizes": ((65, 0.5), (64, 0.5))}, {"sizes": ()}, {"sizes": ((-1, 1.0),)},
        {"sizes": ((64, 0.5), (64, 0.5))}, {"sizes": ((64, float("nan")),)},
    ],
)  # fmt: skip
def test_needs_that_cannot_be(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|sizes are made by"):
        Needs(**fields)  # type: ignore[arg-type]


def test_every_word_sets_a_field() -> None:
    fields = {field.name for field in dataclasses.fields(Needs)}
    assert {word.field for word in WORDS.values()} <= fields
    assert parse_words(["fds", "lossy"]) == {"descriptors": True, "reliable": False}
    assert parse_words([]) == {}
    with pytest.raises(ValueError, match="'speed' is none of two-way, several-senders"):
        parse_words(["speed"])
    assert describe(Needs())["sizes"] == [[1024, 1.0]]
