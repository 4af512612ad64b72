"""A cache that is too small for what it is given, and one that lives for decades (FAULTS 61, 62).

A full cache may forget, so a dict says what a value is *if* it is there: the last one, whole; never an
older one, and never another key's. What cannot fit at all changes nothing.
"""

from __future__ import annotations

import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import naru

pytestmark = pytest.mark.watchdog(seconds=300)

SIZE_BYTES = 1 << 20
LONGEST_KEY = 65_535
SPECIAL = {
    "empty": b"",
    "nul": b"\0",
    "nuls": b"\0" * 8,
    "nul inside": b"nul\0in it",
    "longest": b"k" * LONGEST_KEY,
    "almost": b"\xff" * (LONGEST_KEY - 1),
}
# By name: a failure that shows 64 KiB of a key shows nothing.
NAMES = st.one_of(st.sampled_from(list(SPECIAL)), st.integers(0, 300).map(str))
SIZES = st.sampled_from([0, 1, 7, 100, 3_000, 65_535, 65_536, 80_000])


def key_of(name: str) -> bytes:
    return SPECIAL.get(name, b"key " + name.encode())


def value_of(key: bytes, number: int, size: int) -> bytes:
    """Whose it is, and which, as often as it fits."""
    word = b"%d:%d;" % (zlib.crc32(key), number)
    return (word * (size // len(word) + 1))[: max(size, len(word))]


class FullCaches(RuleBasedStateMachine):
    """One shard of 1 MiB, which a few hundred of these values fill."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-")
        self.cache = naru.Cache.create(
            Path(self.folder.name, "model"), SIZE_BYTES, shards=1, codec="bytes"
        )
        self.model: dict[bytes, bytes] = {}
        self.number = 0

    def teardown(self) -> None:
        assert self.cache.check().sound
        assert self.cache.statistics().rebuilt == 0
        self.cache.close()
        self.folder.cleanup()

    def next_value(self, key: bytes, size: int) -> bytes:
        self.number += 1
        return value_of(key, self.number, size)

    @rule(name=NAMES, size=SIZES)
    def set(self, name: str, size: int) -> None:
        key = key_of(name)
        value = self.next_value(key, size)
        self.cache.set(key, value)
        self.model[key] = value
        assert self.cache.get(key) == value  # nobody else wrote: what was set last is there

    @rule(keys=st.lists(st.integers(0, 300), min_size=20, max_size=60), size=SIZES)
    def set_many(self, keys: list[int], size: int) -> None:
        items = {b"key %d" % n: self.next_value(b"key %d" % n, size) for n in keys}
        self.cache.set_many(items)
        self.model.update(items)

    @rule(name=NAMES, size=SIZES)
    def add(self, name: str, size: int) -> None:
        key = key_of(name)
        value = self.next_value(key, size)
        before = self.cache.get(key)
        assert self.cache.add(key, value) == (before is None)
        if before is None:
            self.model[key] = value

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        key = key_of(name)
        there = key in self.cache
        assert self.cache.delete(key) == there
        self.model.pop(key, None)

    @rule(name=NAMES, beyond=st.sampled_from([SIZE_BYTES // 2, SIZE_BYTES, 2 * SIZE_BYTES]))
    def set_what_no_shard_can_hold(self, name: str, beyond: int) -> None:
        key = key_of(name)
        before, entries = self.cache.get(key), len(self.cache)
        most = self.cache.statistics().log_bytes
        with pytest.raises(naru.TooBigError):
            self.cache.set(key, bytes(most + beyond))
        assert (self.cache.get(key), len(self.cache)) == (before, entries)

    @rule(size=SIZES)
    def set_under_a_key_that_is_too_long(self, size: int) -> None:
        entries = len(self.cache)
        for act in (
            lambda: self.cache.set(b"k" * (LONGEST_KEY + 1), b"v" * size),
            lambda: self.cache.set("k" * (LONGEST_KEY + 1), b"v" * size),
            lambda: self.cache.incr(b"k" * (LONGEST_KEY + 1)),
        ):
            with pytest.raises(naru.TooBigError):
                act()
        assert len(self.cache) == entries

    @rule(amount=st.integers(-5, 5))
    def count(self, amount: int) -> None:
        before = self.cache.get(b"counter")
        assert self.cache.incr(b"counter", amount, 100) == (
            100 + amount if before is None else int(before) + amount
        )

    @precondition(lambda self: self.number > 200)
    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.model.clear()
        assert len(self.cache) == 0

    @invariant()
    def what_is_there_is_the_last(self) -> None:
        for key in (b"", b"\0", b"nul\0in it", b"key 1"):
            assert self.cache.get(key) in (None, self.model.get(key))
        found = self.cache.statistics()
        assert found.live_bytes <= found.log_bytes < SIZE_BYTES

    @rule()
    def everything_is_the_last(self) -> None:
        found = dict(self.cache.items())
        found.pop(b"counter", None)
        assert found.keys() <= self.model.keys()
        assert all(value == self.model[key] for key, value in found.items())
        assert self.cache.get_many(list(found)) == found


TestFullCaches = FullCaches.TestCase
TestFullCaches.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)


@pytest.fixture
def cache() -> Iterator[naru.Cache]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:
        with naru.Cache.create(Path(name, "c"), 4 << 20, shards=2) as made:
            yield made


def test_61_the_largest_value_fits_and_one_byte_more_does_not(cache: naru.Cache) -> None:
    """FAULTS 61: the limit is sharp, and what was there stays."""
    low, high = 0, 4 << 20
    cache.set("k", b"")
    while high - low > 1:
        middle = (low + high) // 2
        try:
            cache.set("k", bytes(middle))
            low = middle
        except naru.TooBigError:
            high = middle
        found = cache.get("k")
        assert found is not None
        assert len(found) == low
    assert low > 1 << 19
    with pytest.raises(naru.TooBigError):
        cache.set("k", b"x" * high)
    assert cache["k"] == bytes(low)
    cache.set("l" * LONGEST_KEY, b"v")
    assert cache["l" * LONGEST_KEY] == b"v"
    assert cache.check().sound


YEAR_S = 365.25 * 86_400


def test_62_after_2038(cache: naru.Cache) -> None:
    """FAULTS 62: 2**31 seconds are nothing special to a cache that is still in use then."""
    until_2039_s = (2039 - 1970) * YEAR_S - time.time()
    cache._shift_clock(int(until_2039_s * 1000))
    cache.set("short", b"v", ttl_s=10)
    cache.set("long", b"v", ttl_s=2 * YEAR_S)
    left_s = cache.ttl_s("short")
    assert left_s is not None
    assert 0 < left_s <= 10
    cache._shift_clock(11_000)
    assert "short" not in cache
    assert cache["long"] == b"v"
    assert cache.add("short", b"w", ttl_s=10)
    cache._shift_clock(int(1.9 * YEAR_S * 1000))
    assert cache["long"] == b"v"
    cache._shift_clock(int(0.2 * YEAR_S * 1000))
    assert "long" not in cache
    assert "short" not in cache
    assert cache.check().sound


def test_62_what_is_beyond_the_clock_s_end_never_expires(cache: naru.Cache) -> None:
    """FAULTS 62: 17 years after the cache was made; no time wraps around to one that has passed."""
    for years in (17, 18, 35, 100, 3e6, 1e300):
        cache.set("k", b"v", ttl_s=years * YEAR_S)
        assert cache["k"] == b"v"
    cache._shift_clock(int(40 * YEAR_S * 1000))
    assert cache["k"] == b"v"
    assert cache.ttl_s("k") is None
    cache.set("later", b"v", ttl_s=5)
    assert cache["later"] == b"v"


def test_62_steps_of_the_wall_clock_change_nothing(
    cache: naru.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 62: expiry follows the monotonic clock, whatever somebody sets the other one to."""
    real_s = time.time()
    for step_s in (-1e9, 0.0, 4e9):
        monkeypatch.setattr(time, "time", lambda at_s=real_s + step_s: at_s)
        monkeypatch.setattr(time, "time_ns", lambda at_s=real_s + step_s: int(at_s * 1e9))
        for key, act in verbs(cache).items():
            act()
            left_s = cache.ttl_s(key)
            assert left_s is not None, key
            assert 3500 < left_s <= 3600, key
    monkeypatch.undo()
    assert set(cache) == {key.encode() for key in verbs(cache)}
    cache._shift_clock(3_601_000)
    assert [key for key in verbs(cache) if key in cache] == []


def verbs(cache: naru.Cache) -> dict[str, Any]:
    """What sets a time to live, by the key that it sets it for."""
    return {
        "set": lambda: cache.set("set", b"v", ttl_s=3600),
        "add": lambda: (cache.delete("add"), cache.add("add", b"v", ttl_s=3600)),
        "set_many": lambda: cache.set_many({"set_many": b"v"}, ttl_s=3600),
        "touch": lambda: (cache.set("touch", b"v"), cache.touch("touch", 3600)),
        "get_or_set": lambda: (
            cache.delete("get_or_set"),
            cache.get_or_set("get_or_set", lambda: b"v", ttl_s=3600),
        ),
    }
