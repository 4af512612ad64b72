"""The profile's file: what is written is read, and nothing else is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import cell, profile, whole_profile

from naru import CorruptedError, NoSuchNameError
from naru.choosing import profile as profiles_module
from naru.choosing.profile import (
    LARGEST_FILE_BYTES,
    Profile,
    Spread,
    from_json,
    load_profile,
    profile_path,
    read_profile,
    shipped_profile,
    to_json,
)

CORPUS = Path(__file__).parents[1] / "corpus" / "profile"


def test_there_and_back() -> None:
    whole = whole_profile()
    assert from_json(to_json(whole)) == whole
    assert whole.find("mq", 64, False, "sleep") is not None
    assert whole.find("mq", 65536, False, "sleep") is None


FIGURES = st.floats(1e-3, 1e9)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["shm", "pipe", "new1"]), st.integers(1, 1 << 30), st.booleans(),
            st.sampled_from(["adaptive", "sleep"]), st.none() | FIGURES, st.none() | FIGURES,
        ),
        max_size=10, unique_by=lambda row: row[:4],
    )
)  # fmt: skip
def test_every_profile_there_and_back(rows: list[Any]) -> None:
    made = profile([cell(*row) for row in rows])
    assert from_json(to_json(made)) == made


# ---- what is refused ----


def changed(*path: str | int, to: object) -> bytes:
    data = json.loads(to_json(whole_profile()))
    place = data
    for step in path[:-1]:
        place = place[step]
    if to is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(data).encode()


WRONG = {
    "another schema": changed("schema", to="naru-bench/1"),
    "no schema": changed("schema", to=KeyError),
    "an unknown field": changed("extra", to=1),
    "a missing field": changed("cells", to=KeyError),
    "a missing figure": changed("cells", 0, "trip", "p50_us", "median", to=KeyError),
    "zero": changed("cells", 0, "rate", "per_s", "least", to=0),
    "negative": changed("cells", 0, "trip", "p50_us", "least", to=-1),
    "least above median": changed("cells", 0, "trip", "p50_us", "least", to=1e9),
    "p99 below p50": changed("cells", 0, "trip", "p50_us",
                             to={"least": 1, "median": 1e9, "most": 1e9}),
    "not finite": changed("cells", 0, "rate", "per_s", "most", to=float("inf")),
    "no number": changed("cells", 0, "rate", "per_s", "most", to="9"),
    "a number as text": changed("repeats", to="3"),
    "a boolean": changed("cells", 0, "size_bytes", to=True),
    "no size": changed("cells", 0, "size_bytes", to=0),
    "an unknown wait": changed("cells", 0, "wait", to="spin"),
    "a strange name": changed("cells", 0, "transport", to="\x1b[31mshm"),
    "a long name": changed("cells", 0, "transport", to="a" * 17),
    "control characters": changed("machine", "cpu", to="CPU\x1b[2J"),
    "a long text": changed("machine", "kernel", to="6" * 1000),
    "a cell twice": changed("cells", 1, to=json.loads(to_json(whole_profile()))["cells"][0]),
    "too many cells": changed("cells", to=[{}] * 10_001),
    "a share above 1": changed("load", "busy_during", to=1.5),
    "a list": b"[]", "nothing": b"", "half": to_json(whole_profile())[:500], "null": b"null",
    "binary": bytes(range(256)), "deep": b"[" * 100_000, "not utf-8": b'{"schema": "\xff"}',
}  # fmt: skip


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_what_is_no_profile(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        from_json(data)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        from_json(data)


SMALL = to_json(profile([cell("shm", 64, False, "adaptive", 1.0, 2.0)]))


@given(st.integers(0, len(SMALL) - 1), st.binary(max_size=8), st.integers(0, 8))
def test_damaged_bytes_are_refused_or_still_a_whole_profile(at: int, put: bytes, gone: int) -> None:
    try:
        read = from_json(SMALL[:at] + put + SMALL[at + gone :])
    except ValueError:
        return
    assert isinstance(read, Profile)
    assert from_json(to_json(read)) == read


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
PATHS = st.sampled_from(
    [("cells", 0, "trip"), ("cells", 0, "rate", "per_s"), ("cells", 0, "size_bytes"), ("load",),
     ("cores",), ("machine", "cores"), ("notes",), ("cells",), ("date",), ("shipped",)]
)  # fmt: skip


@given(PATHS, JSON)
def test_any_value_anywhere(path: tuple[str | int, ...], value: object) -> None:
    try:
        read = from_json(changed(*path, to=value))
    except ValueError:
        return
    assert from_json(to_json(read)) == read


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_corpus(file: Path) -> None:
    """Each once passed, or crashed, or could have."""
    if file.name.startswith("good"):
        assert from_json(file.read_bytes()).cells
    else:
        with pytest.raises(ValueError, match=r"\S"):
            from_json(file.read_bytes())


@pytest.mark.parametrize("values", [(1, 2, 3), (2, 1, 0.5), (1, 1, float("nan")), (0, 0, 0)])
def test_spreads(values: tuple[float, float, float]) -> None:
    median, least, most = values
    with pytest.raises(ValueError, match="a spread is"):
        Spread(median=median, least=least, most=most)


# ---- files ----


def test_the_shipped_one_is_right() -> None:
    shipped = shipped_profile()
    assert shipped.shipped
    assert {one.transport for one in shipped.cells} >= {"shm", "pipe", "unix", "tcp"}
    assert "shipped with naru" in shipped.origin


def test_where_it_lives() -> None:
    assert profile_path({"XDG_DATA_HOME": "/d", "HOME": "/h"}) == Path("/d/naru/profile.json")
    for ignored in ({}, {"XDG_DATA_HOME": ""}, {"XDG_DATA_HOME": "relative"}):
        path = profile_path({**ignored, "HOME": "/h"})
        assert path == Path("/h/.local/share/naru/profile.json")
    assert profile_path({}).is_absolute()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "naru").mkdir()
    return tmp_path / "naru" / "profile.json"


def test_none_means_the_shipped_one_and_is_said(place: Path) -> None:
    found, said = load_profile()
    assert found == shipped_profile()
    assert len(said) == 1
    assert "no profile of this machine" in said[0]
    assert "naru probe" in said[0]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 10, b"x" * (LARGEST_FILE_BYTES + 1)])
def test_a_broken_one_means_the_shipped_one_and_is_said(place: Path, data: bytes) -> None:
    place.write_bytes(data)
    found, said = load_profile()
    assert found.shipped
    assert f"{place}" in said[0]
    assert "the shipped one is used instead" in said[0]


def test_what_cannot_be_read_means_the_shipped_one(place: Path) -> None:
    place.mkdir()
    found, said = load_profile()
    assert found.shipped
    assert "the shipped one is used instead" in said[0]


def test_ones_own_is_taken(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = whole_profile()
    place.write_bytes(to_json(own))
    found, said = load_profile()
    assert found == own
    assert "this is" in said[0]  # made up on a kernel that nobody runs
    monkeypatch.setattr(os, "cpu_count", lambda: own.machine.cores)
    monkeypatch.setattr(profiles_module.os, "uname", lambda: os.uname_result(
        ("Linux", "host", own.machine.kernel, "version", "x86_64")))  # fmt: skip
    assert load_profile() == (own, ())


def test_a_named_one_has_to_be_right(tmp_path: Path) -> None:
    with pytest.raises(NoSuchNameError, match="naru probe"):
        load_profile(tmp_path / "none")
    broken = tmp_path / "broken"
    broken.write_bytes(b"{}")
    with pytest.raises(CorruptedError, match=r"no profile of this naru \(.*schema"):
        read_profile(broken)
