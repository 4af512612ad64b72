"""60: four processes on a few keys, one killed every 100 ms: what all of them saw has one legal order."""

from __future__ import annotations

import contextlib
import random
import signal
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import scaled
from histories import Journal, Kind, Operation, contradiction

import naru
from naru._native.tending import AllShards
from naru.testing.faults import Child, Events

pytestmark = pytest.mark.watchdog(seconds=300)

PROCESSES = 4
KEYS = 5
BALLAST = (
    20  # values between the recorded ones, so that logs go round and locks are held for longer
)
EVERY_S = 0.1
MOST = 20_000  # operations of one process until it is killed


@pytest.fixture
def cache() -> Iterator[naru.Cache]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:
        with naru.Cache.create(Path(name, "c"), 16 << 20, shards=2, codec="bytes") as made:
            yield made


BYTES = random.Random(6).randbytes(100_000)


def ballast(noise: random.Random) -> bytes:
    """Now and then so large that copying it is most of what this process does: with a lock held."""
    begin = noise.randrange(30_000)
    body = BYTES[begin : begin + noise.choice([0, 100, 3_000, 70_000])]
    return struct.pack("<I", zlib.crc32(body)) + body


def do_for_ever(events: Events, cache: naru.Cache, journal: Journal, author: int) -> None:
    noise = random.Random(author)
    kinds: tuple[Kind, ...] = ("get", "get", "get", "set", "set", "incr", "incr", "delete")
    events.tell("ready")
    for number in range(MOST):
        key, kind = noise.randrange(KEYS), noise.choice(kinds)
        one(cache, journal, key, kind, (author << 32) + number if kind == "set" else 1)
        for _ in range(noise.randrange(2)):
            name = f"ballast {noise.randrange(BALLAST)}"
            cache.set(name, ballast(noise))
            found = cache.get(name)
            assert found is not None
            assert zlib.crc32(found[4:]) == struct.unpack_from("<I", found)[0]
    events.hear(60)  # its journal is full


def one(cache: naru.Cache, journal: Journal, key: int, kind: Kind, argument: int) -> None:
    name = f"key {key}"
    if kind == "get":
        journal.do(key, kind, argument, lambda: cache.get(name))
    elif kind == "set":
        journal.do(key, kind, argument, lambda: cache.set(name, argument))
    elif kind == "incr":
        journal.do(key, kind, argument, lambda: cache.incr(name, argument, initial=0))
    else:
        journal.do(key, kind, argument, lambda: cache.delete(name))


class Author:
    """A process and its journal."""

    def __init__(self, cache: naru.Cache, number: int) -> None:
        self.journal = Journal(MOST)
        self.child = Child.run(do_for_ever, cache, self.journal, number)
        self.child.expect("ready")

    def end(self) -> list[Operation]:
        """Killed wherever it is. Returns: what it did."""
        assert self.child.kill() == -9, self.child.output()
        done = list(self.journal.operations(time.monotonic_ns()))
        self.child.close()
        self.journal.close()
        return done


def record(cache: naru.Cache, kills: int) -> list[Operation]:
    history: list[Operation] = []
    noise = random.Random(60)
    with contextlib.ExitStack() as stack:
        authors = [Author(cache, number) for number in range(PROCESSES)]
        for author in authors:
            stack.enter_context(author.child)
        for number in range(kills):
            time.sleep(EVERY_S)
            at = noise.randrange(PROCESSES)
            if number % 3:  # else wherever it is
                with AllShards(cache._mapping, 10.0, cache.address):
                    time.sleep(0.001)  # the writers meet here
                    if number % 3 == 1:
                        authors[at].child.send_signal(
                            signal.SIGKILL
                        )  # in the middle, and had no turn
                authors[at].child.send_signal(signal.SIGKILL)  # in the crowd that goes on
            history += authors[at].end()
            authors[at] = Author(cache, PROCESSES + number)
            stack.enter_context(authors[at].child)
        for author in authors:
            history += author.end()
    return history


def test_60_a_legal_order_exists_whoever_is_killed(cache: naru.Cache) -> None:
    """FAULTS 60: strictly linearizable; nobody hangs, nothing is evicted, the checker is content."""
    history = record(cache, scaled(25, 120))
    assert {one.kind for one in history} == {"get", "set", "incr", "delete"}
    killed = sum(one.is_killed for one in history)
    print(f"{len(history)} operations, {killed} killed, {cache.statistics()}")
    assert len(history) > 1000
    found = contradiction(history)
    if found is not None:
        print(around(history, found))
    assert found is None
    assert cache.statistics().evicted == 0
    assert cache.statistics().rebuilt == 0
    assert cache.check().sound


def around(history: list[Operation], found: Operation) -> str:
    """What else was done to that key at that time."""
    near = [
        one
        for one in sorted(history, key=lambda one: one.begin_ns)
        if one.key == found.key
        and one.begin_ns < found.end_ns
        and one.end_ns > found.begin_ns - 100_000_000
    ]
    return "\n".join(map(str, near[-100:]))


def test_60_a_planted_fault_is_found(cache: naru.Cache) -> None:
    """A cache that forgets one acknowledged write in the middle of it all is caught by the same test."""
    journal = Journal(MOST)
    for number in range(200):
        one(cache, journal, 0, "set", number)
        if number == 100:
            cache.delete("key 0")  # which nobody wrote down
        one(cache, journal, 0, "get", 0)
    history = list(journal.operations(time.monotonic_ns()))
    journal.close()
    found = contradiction(history)
    assert found is not None
    assert (found.kind, found.result) == ("get", None)
