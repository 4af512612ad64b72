"""Values and addresses of a cache on a server: pure functions, whatever they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import naru
from naru.cache.codecs import codec_of
from naru.cache.opening import is_remote
from naru.cache.remote.addresses import place_of
from naru.cache.remote.packing import (
    HEAD_BYTES,
    INTEGER,
    digest_of,
    pack,
    plain_of,
    split,
    tagged,
    unpack,
    version_of,
)

CORPUS = sorted((Path(__file__).parents[1] / "corpus" / "remote_value").iterdir())
CODEC = codec_of("msgpack", "test")
LIKELY = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=8).map(lambda tail: b"\0N" + tail),
    st.integers().map(lambda number: str(number).encode()),
    st.binary(max_size=60).map(lambda tail: b"\0NT" + tail),
)
VALUES = st.one_of(
    LIKELY,
    st.text(max_size=20),
    st.integers(-(2**100), 2**100),
    st.none(),
    st.booleans(),
    st.lists(st.integers(-5, 5), max_size=3),
)
MARKS = st.lists(
    st.tuples(st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8)), max_size=16
).map(tuple)


def value_of(raw: bytes) -> Any:
    return unpack(raw, CODEC.unpack, "test")


@given(value=VALUES, marks=MARKS)
def test_what_goes_in_comes_out(value: Any, marks: Any) -> None:
    raw = tagged(marks, pack(value, CODEC.pack))
    one = split(raw, "test")
    assert one.marks == marks
    found = value_of(one.inner)
    assert found == value
    assert type(found) is type(value)
    assert split(raw[:HEAD_BYTES], "test").marks == marks  # the head of it says which tags


@given(value=VALUES)
def test_numbers_alone_are_what_a_server_adds_to(value: Any) -> None:
    raw = pack(value, CODEC.pack)
    assert (plain_of(raw, "test")[0] == INTEGER) == (type(value) is int)


@given(raw=LIKELY)
def test_any_bytes_are_a_value_or_an_error(raw: bytes) -> None:
    judge(raw)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    judge(path.read_bytes())


def judge(raw: bytes) -> None:
    try:
        value_of(split(raw, "test").inner)
    except naru.NaruError as error:
        assert isinstance(error, naru.CorruptedError | naru.ProtocolError)
        assert 'cache "test"' in str(error)


@given(a=LIKELY, b=LIKELY)
def test_versions_are_of_the_bytes(a: bytes, b: bytes) -> None:
    assert (version_of(a) == version_of(b)) == (a == b)
    assert 0 < version_of(a) < 2**64


def test_names_of_tags() -> None:
    assert digest_of("tag") == digest_of(b"tag") != digest_of("other")
    with pytest.raises(TypeError, match="a tag is str or bytes"):
        digest_of(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "hosts", "shown"),
    [
        ("redis://h", (("h", 6379),), "redis://h"),
        ("redis://user:p%40ss@h:1/2", (("h", 1),), "redis://user@h:1/2"),
        ("rediss://:pass@[::1]:7/0?ssl_cert_reqs=none", (("::1", 7),), "rediss://[::1]:7/0"),
        ("redis+unix:///run/r.sock?db=3", (), "redis+unix:///run/r.sock"),
        ("unix://:pass@/run/r.sock", (), "unix:///run/r.sock"),
        (
            "redis+cluster://a:1,b,c:3",
            (("a", 1), ("b", 6379), ("c", 3)),
            "redis+cluster://a:1,b,c:3",
        ),
        ("valkey://h", (("h", 6379),), "valkey://h"),
        ("valkeys+cluster://h", (("h", 6379),), "valkeys+cluster://h"),
    ],
)
def test_places(url: str, hosts: Any, shown: str) -> None:
    place = place_of(url)
    assert place.hosts == hosts
    assert place.shown == shown
    assert "pass" not in place.shown
    assert place.is_cluster == ("cluster" in url)
    assert is_remote(url)


@given(
    text=st.text(max_size=30), scheme=st.sampled_from(["redis", "redis+unix", "redis+cluster", "x"])
)
def test_any_text_is_a_place_or_an_error(text: str, scheme: str) -> None:
    try:
        place_of(f"{scheme}://{text}")
    except naru.BadAddressError:
        pass  # that is what it is for
