"""The format of snapshots: what was written comes back, and nothing else is believed."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import naru
from naru.cache.snapshots import Entry, Head, read_entries, read_head, write

CORPUS = Path(__file__).parents[1] / "corpus" / "cache_snapshot"
HEADS = st.builds(
    Head,
    st.integers(0, 1 << 39),
    st.integers(1, 1024),
    st.integers(0, 2**32 - 1),
    st.integers(0, 100),
    st.binary(min_size=16, max_size=16),
    st.sampled_from(["bytes", "msgpack", "numpy", "pickle"]),
    st.integers(0, 2**62),
)
ENTRIES = st.builds(
    Entry,
    st.binary(max_size=40),
    st.binary(max_size=60),
    st.integers(0, 15),
    st.integers(-1, 2**62),
    st.lists(st.integers(0, 2**64 - 1), max_size=16).map(tuple),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:
        yield Path(name)


def written(head: Head, entries: list[Entry]) -> bytes:
    file = io.BytesIO()
    assert write(file, head, entries) == len(entries)
    return file.getvalue()


def read(data: bytes) -> tuple[Head, list[Entry]]:
    file = io.BytesIO(data)
    return read_head(file), list(read_entries(file))


@given(HEADS, st.lists(ENTRIES, max_size=5))
def test_what_was_written_comes_back(head: Head, entries: list[Entry]) -> None:
    assert read(written(head, entries)) == (head, entries)


@given(HEADS, st.lists(ENTRIES, max_size=3), st.data())
def test_a_changed_or_cut_file_is_refused(
    head: Head, entries: list[Entry], data: st.DataObject
) -> None:
    whole = bytearray(written(head, entries))
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = bytes(whole[:at])
    whole[at] ^= data.draw(st.integers(1, 255))
    for wrong in (cut, bytes(whole)):
        with pytest.raises((naru.CorruptedError, naru.ProtocolError)):
            read(wrong)


@given(st.binary(max_size=300))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(naru.CorruptedError):
        read(data)


def test_the_corpus_is_refused() -> None:
    files = sorted(CORPUS.iterdir())
    assert files
    for file in files:
        with pytest.raises((naru.CorruptedError, naru.ProtocolError)):
            read(file.read_bytes())


def test_another_version_says_so() -> None:
    whole = bytearray(written(Head(1, 1, 1, 1, bytes(16), "bytes", 0), []))
    whole[8] = 2
    with pytest.raises(naru.ProtocolError, match="version 2"):
        read(bytes(whole))


def test_a_size_that_lies_costs_no_memory() -> None:
    whole = written(Head(1, 1, 1, 1, bytes(16), "bytes", 0), [Entry(b"k", b"v", 0, -1, ())])
    lying = bytearray(whole)
    lying[80 + 8 : 80 + 16] = (1 << 39).to_bytes(8, "little")
    with pytest.raises(naru.CorruptedError):
        read(bytes(lying))


def test_snapshot_and_restore(folder: Path) -> None:
    with naru.Cache.create(folder / "c", 4 << 20, shards=2) as cache:
        cache.set("a", "text", ttl_s=3600, tags=["red"])
        cache.set("b", {"x": 1}, ttl_s=5)
        cache.set("c", b"x" * 100_000)
        assert cache.snapshot(folder / "s") == 3
        assert (folder / "s").stat().st_mode & 0o777 == 0o600
        cache.clear()
        cache["d"] = b"not in it"
        with naru.Cache.open(folder / "c") as other:
            assert cache.restore(folder / "s") == 3
            assert dict(other.items()) == {b"a": "text", b"b": {"x": 1}, b"c": b"x" * 100_000}
            assert 3500 < (other.ttl_s("a") or 0) <= 3600
            other.evict_tag("red")
            assert "a" not in cache
    with naru.Cache.create(folder / "d", 4 << 20) as second:
        second.restore(folder / "s")
        second.evict_tag("red")
        assert sorted(second) == [b"b", b"c"]
    assert sorted(path.name for path in folder.iterdir()) == ["c", "d", "s"]


def test_a_damaged_snapshot_changes_nothing(folder: Path) -> None:
    with naru.Cache.create(folder / "c", 1 << 20) as cache:
        cache["k"] = b"v" * 1000
        cache.snapshot(folder / "s")
        data = bytearray((folder / "s").read_bytes())
        data[500] ^= 1
        (folder / "s").write_bytes(data)
        cache["k"] = b"new"
        with pytest.raises(naru.CorruptedError):
            cache.restore(folder / "s")
        with pytest.raises(naru.NoSuchNameError):
            cache.restore(folder / "absent")
        assert cache["k"] == b"new"
        with naru.Cache.create(folder / "b", 1 << 20, codec="bytes") as other:
            other.snapshot(folder / "t")
        with pytest.raises(naru.BadAddressError, match="its codec is bytes"):
            cache.restore(folder / "t")
        with pytest.raises(naru.NoSuchNameError):
            cache.snapshot(folder / "absent" / "s")
    assert sorted(path.name for path in folder.iterdir()) == ["b", "c", "s", "t"]
