"""A cache between processes: forked, spawned, and apart."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import naru
from naru.testing.faults import Child, Events

pytestmark = pytest.mark.watchdog(seconds=60)


@pytest.fixture
def cache() -> Iterator[naru.Cache]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:
        with naru.Cache.create(Path(name, "c"), 8 << 20, shards=4) as made:
            yield made


def write(cache: naru.Cache, name: str) -> None:
    cache[name] = {"pid": os.getpid()}
    cache.incr("count")
    cache.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.may_leak  # multiprocessing's resource tracker stays
def test_multiprocessing(cache: naru.Cache, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    children = [context.Process(target=write, args=(cache, f"child {n}")) for n in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert {cache[f"child {n}"]["pid"] for n in range(2)} == {child.pid for child in children}
    assert cache["count"] == 2


def count_up(events: Events, path: str, turns: int) -> None:
    with naru.Cache.open(path) as cache:
        events.tell("ready")
        events.expect("go")
        for _ in range(turns):
            cache.incr("n")
            while True:
                value, version = cache.get_versioned("list") or ([], 0)
                if version == 0 and cache.add("list", [1]):
                    break
                if version and cache.cas("list", [value[0] + 1], version):
                    break
            with cache.lock("guard"):
                cache["guarded"] = cache.get("guarded", 0) + 1


def test_no_change_is_lost(cache: naru.Cache) -> None:
    """incr, compare-and-set and a lock, each counting the same."""
    turns = 200
    children = [Child.run(count_up, str(cache.path), turns) for _ in range(3)]
    for child in children:
        child.expect("ready")
    for child in children:
        child.tell("go")
    for child in children:
        child.check()
        child.close()
    assert (cache["n"], cache["list"], cache["guarded"]) == (3 * turns, [3 * turns], 3 * turns)


def make_one(events: Events, path: str) -> None:
    with naru.Cache.open(path) as cache:

        def make() -> int:
            cache.incr("made")
            return os.getpid()

        events.tell("ready")
        events.expect("go")
        for number in range(50):
            cache.get_or_set(f"key {number}", make, ttl_s=60)


def test_each_value_is_made_once_among_processes(cache: naru.Cache) -> None:
    children = [Child.run(make_one, str(cache.path)) for _ in range(4)]
    for child in children:
        child.expect("ready")
    for child in children:
        child.tell("go")
    for child in children:
        child.check()
        child.close()
    assert cache["made"] == 50


def read_and_follow(events: Events, path: str) -> None:
    with naru.Cache.open(path) as cache:
        events.tell("ready")
        while True:
            word = events.hear()
            if word["name"] == "end":
                return
            events.tell("found", value=cache.get("k"), size_bytes=cache.statistics().size_bytes)


def test_a_reader_follows_a_resize_of_another_process(cache: naru.Cache) -> None:
    cache["k"] = "old"
    with Child.run(read_and_follow, str(cache.path)) as child:
        child.expect("ready")
        child.tell("look")
        assert child.expect("found") == {"value": "old", "size_bytes": 8 << 20}
        cache.resize(16 << 20)
        cache["k"] = "new"
        child.tell("look")
        assert child.expect("found") == {"value": "new", "size_bytes": 16 << 20}
        child.tell("end")
        child.check()


def test_a_forked_child_uses_the_handle_of_its_parent(cache: naru.Cache) -> None:
    with cache.lock("name"):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                cache["child"] = b"was here"
                code = 0 if not cache.lock("name").try_acquire() else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert cache["child"] == b"was here"
