"""How values are packed, and what a cache refuses to unpack."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import naru
from naru.cache.codecs import ARRAY, CODECS, MSGPACK, PICKLE, SET, codec_of

JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:
        yield Path(name)


def round_trip(codec: str, value: Any) -> Any:
    one = codec_of(codec, "test")
    kind, head, body = one.pack(value)
    return one.unpack(kind, head + bytes(body if body is not None else b""))


@given(JSON)
def test_msgpack_and_pickle_give_back_what_they_got(value: Any) -> None:
    if not isinstance(value, bytes):
        assert round_trip("msgpack", value) == value
    assert round_trip("pickle", value) == value


@given(st.binary(), st.sampled_from([MSGPACK, ARRAY, SET, 6, 14]), st.sampled_from(CODECS))
def test_bytes_that_nobody_packed_are_an_error_of_naru(data: bytes, kind: int, codec: str) -> None:
    try:
        codec_of(codec, "test").unpack(kind, data)
    except naru.NaruError:
        pass  # what it should be, unless it happens to be right


def test_only_a_pickle_cache_unpickles() -> None:
    kind, head, _ = codec_of("pickle", "test").pack({1, 2})
    assert kind == PICKLE
    assert codec_of("pickle", "test").unpack(kind, head) == {1, 2}
    for codec in ("bytes", "msgpack", "numpy"):
        with pytest.raises(naru.ProtocolError, match='codec="pickle" if you trust'):
            codec_of(codec, "test").unpack(kind, head)


def test_pickle_has_to_be_asked_for_when_it_is_opened(folder: Path) -> None:
    with naru.Cache.create(folder / "c", 1 << 20, codec="pickle") as cache:
        cache["k"] = {1, 2}
        with pytest.raises(naru.NotPermittedError, match="unpickling runs"):
            naru.Cache.open(folder / "c")
        with naru.Cache.open(folder / "c", codec="pickle") as other:
            assert other["k"] == {1, 2}


def test_a_cache_has_one_codec(folder: Path) -> None:
    with naru.Cache.create(folder / "c", 1 << 20, codec="bytes") as cache:
        with pytest.raises(TypeError, match='codec="bytes" holds bytes, str and int, not dict'):
            cache["k"] = {}
        with pytest.raises(naru.BadAddressError, match="its codec is bytes, not msgpack"):
            naru.Cache.open(folder / "c", codec="msgpack")
        with naru.Cache.open(folder / "c") as other:
            assert other.codec == "bytes"
    with pytest.raises(naru.BadAddressError, match="bytes, msgpack, numpy, pickle"):
        naru.Cache.create(folder / "d", 1 << 20, codec="json")
    assert not (folder / "d").exists()


def test_arrays_keep_dtype_shape_and_order(folder: Path) -> None:
    numpy = pytest.importorskip("numpy")
    with naru.Cache.create(folder / "c", 8 << 20, shards=1, codec="numpy") as cache:
        for array in (
            numpy.arange(100_000.0).reshape(100, 1000),
            numpy.asfortranarray(numpy.arange(12, dtype=">i2").reshape(3, 4)),
            numpy.arange(20)[::2],
            numpy.zeros((0, 3)),
            numpy.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
        ):
            cache["k"] = array
            found = cache["k"]
            assert found.dtype == array.dtype
            assert found.shape == array.shape
            assert (found == array).all()
            assert not found.flags.writeable
            assert found.flags.aligned
        cache["d"] = {"a": [1]}
        assert cache["d"] == {"a": [1]}
        with pytest.raises(TypeError):
            cache["o"] = numpy.array([object()])
    with naru.Cache.create(folder / "d", 1 << 20) as cache:
        with pytest.raises(TypeError, match='codec="numpy" keeps'):
            cache["k"] = numpy.zeros(3)


def test_sets_of_resp_clients_are_read() -> None:
    data = b"\2\0\0\0" + b"\1\0\0\0a" + b"\2\0\0\0bc"
    assert codec_of("bytes", "test").unpack(SET, data) == frozenset({b"a", b"bc"})
    for wrong in (b"", b"\1\0\0\0", data[:-1], data + b"\5"):
        with pytest.raises(naru.CorruptedError):
            codec_of("bytes", "test").unpack(SET, wrong)
