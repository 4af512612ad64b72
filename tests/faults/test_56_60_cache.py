"""56, 57, 60 and their kin: processes that die or stop in the middle of a cache's work."""

from __future__ import annotations

import random
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import SharedNumbers, scaled

import naru
from naru._native.tending import AllShards
from naru.testing.faults import Child, Events

pytestmark = pytest.mark.watchdog(seconds=scaled(120, 900))

KEYS = 64


@pytest.fixture
def cache() -> Iterator[naru.Cache]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:
        with naru.Cache.create(Path(name, "c"), 8 << 20, shards=4, codec="bytes") as made:
            yield made


def value_of(key: int, number: int, noise: random.Random) -> bytes:
    """Its number, its key, something, and a checksum of it all."""
    body = struct.pack("<QI", number, key) + noise.randbytes(noise.choice([0, 10, 300, 5000]))
    return struct.pack("<I", zlib.crc32(body)) + body


def number_in(key: int, value: bytes) -> int:
    (check,) = struct.unpack_from("<I", value)
    assert zlib.crc32(value[4:]) == check, "a torn value"
    number, own = struct.unpack_from("<QI", value, 4)
    assert own == key, "the value of another key"
    return int(number)


def write_for_ever(
    events: Events, cache: naru.Cache, numbers: SharedNumbers, writer: int, seed: int
) -> None:
    """Only its own keys (KEYS a writer), so that what it last acknowledged is what must be there."""
    noise = random.Random(seed)
    events.tell("ready")
    while True:
        key = writer * KEYS + noise.randrange(KEYS)
        number = numbers[key]
        cache.set(f"k{key}", value_of(key, number + 1, noise), ttl_s=noise.choice([None, 3600]))
        numbers[key] = number + 1  # not struct.pack_into(): it would clear the place first
        cache.incr(f"n{writer}")
        if noise.random() < 0.1:
            cache.set("shared", value_of(9999, 1, noise))
            cache.delete("shared")
        if noise.random() < 0.05:
            cache.touch(f"k{key}", 7200)


def read_for_ever(events: Events, cache: naru.Cache, keys: int) -> None:
    events.tell("ready")
    while True:
        for key in range(keys):
            value = cache.get(f"k{key}")
            if value is not None:
                number_in(key, value)


def test_56_60_writers_and_readers_killed_at_any_moment(cache: naru.Cache) -> None:
    """Nothing hangs, nothing is torn, what was acknowledged is there."""
    noise = random.Random(5)
    with SharedNumbers(2 * KEYS) as numbers:
        for turn in range(scaled(100, 1000)):
            with (
                Child.run(write_for_ever, cache, numbers, 0, 2 * turn) as one,
                Child.run(write_for_ever, cache, numbers, 1, 2 * turn + 1) as two,
                Child.run(read_for_ever, cache, 2 * KEYS) as reader,
            ):
                children = [one, two, reader]
                for child in children:
                    child.expect("ready")
                with AllShards(cache._mapping, 10.0, cache.address):
                    pass  # a moment that the writers meet at: then they are in the middle of it
                for _ in range(noise.randrange(200)):
                    cache.get_many([f"k{key}" for key in range(2 * KEYS)])
                noise.shuffle(children)
                for child in children:
                    assert child.kill() == -9, child.output()
            look_at_everything(cache, numbers)
    found = cache.statistics()
    assert found.rebuilt == 0
    assert cache.check().sound
    assert found.evicted == 0


def look_at_everything(cache: naru.Cache, numbers: SharedNumbers) -> None:
    for key in range(2 * KEYS):
        acknowledged = numbers[key]
        value = cache.get(f"k{key}")
        number = 0 if value is None else number_in(key, value)
        assert number - acknowledged in (0, 1), "an acknowledged write is not there"
        numbers[key] = number
        cache.touch(f"k{key}", 3600)  # every shard's lock can be had
    assert cache.check().sound


def hold_all(events: Events, cache: naru.Cache) -> None:
    with AllShards(cache._mapping, 10.0, cache.address):
        events.tell("held")
        events.hear(60)


def test_57_a_stopped_holder_gives_a_timeout_and_its_death_the_lock(cache: naru.Cache) -> None:
    cache["k"] = b"v"
    with naru.Cache.open(cache.path, lock_timeout_s=0.3) as impatient:
        with Child.run(hold_all, cache) as child:
            child.expect("held")
            child.stop()
            for act in (
                lambda: impatient.set("k", b"w"),
                lambda: impatient.delete("k"),
                lambda: impatient.incr("n"),
                lambda: impatient.touch("k", 5),
                impatient.clear,
            ):
                with pytest.raises(naru.TimedOutError, match="is it stopped"):
                    act()
            assert impatient["k"] == b"v"
            assert impatient.get_many(["k"]) == {"k": b"v"}
            assert list(impatient) == [b"k"]
            child.kill()
            impatient["k"] = b"w"
    assert cache["k"] == b"w"
    assert cache.statistics().owners_died > 0
    assert cache.check().sound


def make_for_ever(events: Events, cache: naru.Cache) -> None:
    def make() -> bytes:
        events.tell("making")
        events.hear(60)
        return b"never"

    cache.get_or_set("k", make)


def test_a_killed_maker_passes_the_turn_on(cache: naru.Cache) -> None:
    with Child.run(make_for_ever, cache) as child:
        child.expect("making")
        with pytest.raises(naru.TimedOutError):
            cache.get_or_set("k", lambda: b"mine", timeout_s=0.05)
        with Child.run(wait_for_it, cache) as waiter:
            waiter.expect("waiting")
            child.kill()
            assert waiter.expect("found")["value"] == "theirs"
            waiter.check()
    assert cache["k"] == b"theirs"


def wait_for_it(events: Events, cache: naru.Cache) -> None:
    events.tell("waiting")
    value: Any = cache.get_or_set("k", lambda: b"theirs")
    events.tell("found", value=value.decode())


def lock_for_ever(events: Events, cache: naru.Cache) -> None:
    with cache.lock("name"):
        events.tell("locked")
        events.hear(60)


def test_a_killed_holder_of_a_lock_gives_it_up(cache: naru.Cache) -> None:
    with Child.run(lock_for_ever, cache) as child:
        child.expect("locked")
        assert not cache.lock("name").try_acquire()
        child.stop()
        assert not cache.lock("name").try_acquire()
        with pytest.raises(naru.TimedOutError):
            cache.lock("name").acquire(0.05)
        child.kill()
        with cache.lock("name", timeout_s=10):
            pass


def resize_for_ever(events: Events, cache: naru.Cache) -> None:
    events.tell("ready")
    while True:
        cache.resize(9 << 20)
        cache.resize(8 << 20)


def test_a_killed_resizer_leaves_one_generation_or_the_other(cache: naru.Cache) -> None:
    noise = random.Random(7)
    for number in range(200):
        cache[f"k{number}"] = value_of(number, 1, noise)
    for turn in range(scaled(10, 100)):
        with Child.run(resize_for_ever, cache) as child:
            child.expect("ready")
            for _ in range(noise.randrange(30)):
                cache.get_many([f"k{number}" for number in range(200)])
                cache["other"] = b"x"
            child.kill()
        assert [number_in(n, cache[f"k{n}"]) for n in range(200)] == [1] * 200, turn
        cache["written"] = str(turn)
    assert cache.check().sound


def test_58_a_lock_whose_owners_die_one_after_the_other(cache: naru.Cache) -> None:
    for _ in range(scaled(20, 200)):
        with Child.run(hold_all, cache) as child:
            child.expect("held")
            child.kill()
        cache["k"] = b"v"
    assert cache.check().sound
