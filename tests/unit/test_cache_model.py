"""The whole API of a cache against a dict, with a clock that the test moves (FAULTS 61, 62)."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import naru

KEYS = st.sampled_from([b"", b"a", "a", "b", "c" * 300, b"\0nul", "한글", b"\xff\xfe", b"k" * 5000])
VALUES = st.one_of(
    st.binary(max_size=64),
    st.text(max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.none(),
    st.booleans(),
    st.lists(st.integers(0, 5), max_size=4),
    st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=3),
    st.sampled_from([b"x" * 5_000, b""]),
    st.sampled_from(
        [b"0", "41", b"-7", "-0", b"007", b"%d" % (2**63 - 1), str(2**63), "+1", "\u0661"]
    ),
)
# Never does a sum of steps meet a ttl: the real clock goes on, too.
TTLS = st.sampled_from([None, None, 10_000.0, 20_000.0, 3e6])
STEPS = st.sampled_from([5_001, 15_001, 2_000_001])
TAGS = st.sets(st.sampled_from(["red", "green", b"blue"]), max_size=2)


class Entry:
    def __init__(self, value: Any, expires_s: float | None, tags: set[Any]) -> None:
        self.value, self.expires_s, self.tags = value, expires_s, tags


def plain(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key


class Verbs(RuleBasedStateMachine):
    """What a dict with a clock would do, step by step; on whatever open_cache() gives."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: Any = self.open_cache()
        self.model: dict[bytes, Entry] = {}
        self.now_s = 0.0
        self.changes = 0

    def open_cache(self) -> Any:
        raise NotImplementedError

    def teardown(self) -> None:
        self.cache.close()

    def put(self, key: str | bytes, value: Any, ttl_s: float | None, tags: set[Any]) -> None:
        expires_s = None if ttl_s is None else self.now_s + ttl_s
        self.model[plain(key)] = Entry(value, expires_s, set(tags))

    @rule(key=KEYS, value=VALUES, ttl_s=TTLS, tags=TAGS)
    def set(self, key: Any, value: Any, ttl_s: float | None, tags: set[Any]) -> None:
        self.cache.set(key, value, ttl_s, tags)
        self.put(key, value, ttl_s, tags)

    @rule(key=KEYS, value=VALUES)
    def set_item(self, key: Any, value: Any) -> None:
        self.cache[key] = value
        self.put(key, value, None, set())

    @rule(key=KEYS, value=VALUES, ttl_s=TTLS)
    def add(self, key: Any, value: Any, ttl_s: float | None) -> None:
        assert self.cache.add(key, value, ttl_s) == (plain(key) not in self.model)
        if plain(key) not in self.model:
            self.put(key, value, ttl_s, set())

    @rule(key=KEYS, value=VALUES, ttl_s=TTLS)
    def replace(self, key: Any, value: Any, ttl_s: float | None) -> None:
        assert self.cache.replace(key, value, ttl_s) == (plain(key) in self.model)
        if plain(key) in self.model:
            self.put(key, value, ttl_s, set())

    @rule(items=st.dictionaries(KEYS, VALUES, max_size=5), ttl_s=TTLS)
    def set_many(self, items: dict[Any, Any], ttl_s: float | None) -> None:
        self.cache.set_many(items, ttl_s)
        for key, value in items.items():
            self.put(key, value, ttl_s, set())

    @rule(key=KEYS)
    def delete(self, key: Any) -> None:
        assert self.cache.delete(key) == (self.model.pop(plain(key), None) is not None)

    @rule(key=KEYS)
    def pop(self, key: Any) -> None:
        found = self.model.pop(plain(key), None)
        if found is None:
            with pytest.raises(KeyError):
                self.cache.pop(key)
            assert self.cache.pop(key, "none") == "none"
        else:
            assert self.cache.pop(key) == found.value

    @rule(keys=st.lists(KEYS, max_size=4))
    def delete_many(self, keys: list[Any]) -> None:
        there = {plain(key) for key in keys} & self.model.keys()
        assert self.cache.delete_many(keys) == len(there)
        for key in there:
            del self.model[key]

    @rule(key=KEYS, delta=st.integers(-5, 5), initial=st.sampled_from([0, 7, None]))
    def incr(self, key: Any, delta: int, initial: int | None) -> None:
        entry = self.model.get(plain(key))
        if entry is None and initial is None:
            with pytest.raises(KeyError):
                self.cache.incr(key, delta, initial)
            return
        old = initial if entry is None else self.number_in(entry.value)
        if old is None:
            with pytest.raises(naru.NaruError):
                self.cache.incr(key, delta, initial)
            return
        if not -(2**63) <= old + delta < 2**63:
            with pytest.raises(naru.NaruError, match="64 bits"):
                self.cache.incr(key, delta, initial)
            return
        assert self.cache.incr(key, delta, initial) == old + delta
        if entry is None:
            self.put(key, old + delta, None, set())
        else:
            entry.value = self.number_as(entry.value, old + delta)

    @staticmethod
    def number_in(value: Any) -> int | None:
        """What incr() makes of it; None: it refuses."""
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @staticmethod
    def number_as(value: Any, number: int) -> Any:
        """How a number stands there in the place of `value`."""
        return number

    @rule(key=KEYS, ttl_s=TTLS)
    def touch(self, key: Any, ttl_s: float | None) -> None:
        entry = self.model.get(plain(key))
        assert self.cache.touch(key, ttl_s) == (entry is not None)
        if entry is not None:
            entry.expires_s = None if ttl_s is None else self.now_s + ttl_s

    @rule(key=KEYS, value=VALUES, changed=st.booleans())
    def cas(self, key: Any, value: Any, changed: bool) -> None:
        found = self.cache.get_versioned(key)
        entry = self.model.get(plain(key))
        assert (found is None) == (entry is None)
        if found is None or entry is None:
            assert not self.cache.cas(key, value, 1)
            return
        assert found[0] == entry.value
        if changed:
            self.changes += 1  # another value each time: to a server, the same one is no change
            self.cache[key] = f"between {self.changes}"
            self.put(key, f"between {self.changes}", None, set())
        assert self.cache.cas(key, value, found[1]) == (not changed)
        if not changed:
            self.put(key, value, None, set())

    @rule(tag=st.sampled_from(["red", "green", "blue"]))
    def evict_tag(self, tag: str) -> None:
        self.cache.evict_tag(tag)
        self.model = {
            key: entry
            for key, entry in self.model.items()
            if tag not in {one if isinstance(one, str) else one.decode() for one in entry.tags}
        }

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.model.clear()

    @invariant()
    def same(self) -> None:
        wanted = {key: entry.value for key, entry in self.model.items()}
        assert self.cache.get_many(list(wanted)) == wanted
        assert dict(self.cache.items()) == wanted
        for key in (b"a", "b", "한글"):
            assert (key in self.cache) == (plain(key) in wanted)
            entry = self.model.get(plain(key))
            assert self.cache.get(key, "nothing") == (entry.value if entry else "nothing")
            if entry is None:
                continue
            left_s = self.cache.ttl_s(key)
            if entry.expires_s is None:
                assert left_s is None
            else:
                assert left_s is not None
                assert left_s <= entry.expires_s - self.now_s < left_s + 60


class Caches(Verbs):
    """A table of this machine: with its clock, and what only it can."""

    def open_cache(self) -> Any:
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-")
        # Large enough that nothing is evicted: a dict does not do that either.
        return naru.Cache.create(Path(self.folder.name, "model"), 8 << 20, shards=2)

    @staticmethod
    def number_in(value: Any) -> int | None:
        """Digits count, too: so a client of Redis writes a number."""
        if not isinstance(value, bytes | str):
            return Verbs.number_in(value)
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not re.fullmatch("0|-?[1-9][0-9]{0,18}", text):
            return None
        return int(text) if -(2**63) <= int(text) < 2**63 else None

    @staticmethod
    def number_as(value: Any, number: int) -> Any:
        if isinstance(value, bytes):
            return b"%d" % number
        return str(number) if isinstance(value, str) else number

    def teardown(self) -> None:
        assert self.cache.check().sound
        super().teardown()
        self.folder.cleanup()

    @rule(step_s=STEPS)
    def go_on(self, step_s: int) -> None:
        self.cache._shift_clock(step_s * 1000)
        self.now_s += step_s
        self.model = {
            key: entry
            for key, entry in self.model.items()
            if entry.expires_s is None or entry.expires_s > self.now_s
        }

    @rule(size_mib=st.sampled_from([8, 12, 16]))
    def resize(self, size_mib: int) -> None:
        self.cache.resize(size_mib << 20)


TestCaches = Caches.TestCase
TestCaches.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
pytestmark = pytest.mark.watchdog(seconds=300)
