"""56: a process dies at each step of a resize, a restore or a snapshot; and what the next ones find."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import naru
from naru.cache import files, generations
from naru.testing.faults import Child, Events

pytestmark = pytest.mark.watchdog(seconds=120)

KEYS = 100
STEPS = [
    (files, "check_room"),
    (files, "_open_nameless"),
    (generations, "create"),
    (generations, "write_record"),
    (files, "_link"),
    (files, "retire"),
    (files, "_finish_succession"),
]
SNAPSHOT_STEPS = [
    (files, "_open_nameless"),
    (generations, "write"),
    (files.os, "fsync"),
    (files, "_link"),
    (files.os, "replace"),
]
BETWEEN_TWO_NAMES = [("_link", True), ("replace", False)]
"""A snapshot that died here has left itself behind under a hidden name."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:
        yield Path(name)


@pytest.fixture
def cache(folder: Path) -> Iterator[naru.Cache]:
    with naru.Cache.create(folder / "c", 4 << 20, shards=2, codec="bytes") as made:
        yield made


def fill(cache: naru.Cache, word: str) -> None:
    for number in range(KEYS):
        cache.set(
            f"key {number}", f"{word} {number}", ttl_s=None if number % 2 else 5000, tags=["t"]
        )


def words(cache: naru.Cache) -> set[str]:
    """What the values begin with; each must be its own key's."""
    found = set()
    for number in range(KEYS):
        word, _, own = cache[f"key {number}"].partition(" ")
        assert int(own) == number
        found.add(word)
        left_s = cache.ttl_s(f"key {number}")
        assert (left_s is None) if number % 2 else (left_s is not None and 4000 < left_s <= 5000)
    return found


def die(*_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def dies_in(
    events: Events, cache: naru.Cache, verb: str, argument: Any, step: tuple[Any, str], late: bool
) -> None:
    module, name = step
    original = getattr(module, name)

    def last(*args: Any, **more: Any) -> None:
        if late:
            original(*args, **more)
        die()

    setattr(module, name, last)
    getattr(cache, verb)(argument)


def kill_in(cache: naru.Cache, verb: str, argument: Any, step: tuple[Any, str], late: bool) -> None:
    with Child.run(dies_in, cache, verb, argument, step, late) as child:
        assert child.wait() == -signal.SIGKILL, child.output()


def hidden(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=[name for _, name in STEPS])
def test_56_death_at_each_step_of_a_resize(
    folder: Path, cache: naru.Cache, step: tuple[Any, str], late: bool
) -> None:
    """FAULTS 56: one generation or the other, with everything; others go on, and clean up."""
    fill(cache, "old")
    with naru.Cache.open(cache.path, lock_timeout_s=10) as other:
        kill_in(cache, "resize", 6 << 20, step, late)
        assert words(other) == {"old"}
        other["key 0"] = "new 0"  # a writer, whom nothing keeps waiting
        assert cache["key 0"] == "new 0"
        with naru.Cache.open(cache.path) as third:
            assert third["key 0"] == "new 0"
            assert third.statistics().size_bytes in (4 << 20, 6 << 20)
        other.evict_tag("t")
        assert list(filter(None, (cache.get(f"key {n}") for n in range(KEYS)))) == ["new 0"]
        fill(other, "again")
        cache.resize(5 << 20)
        assert words(other) == {"again"}
        assert other.statistics().size_bytes == 5 << 20
        assert other.check().sound
    assert hidden(folder) == []


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=[name for _, name in STEPS])
def test_56_death_at_each_step_of_a_restore(
    folder: Path, cache: naru.Cache, step: tuple[Any, str], late: bool
) -> None:
    """FAULTS 56: what was there, or what is in the snapshot; never some of each."""
    fill(cache, "saved")
    cache.snapshot(folder / "snapshot")
    fill(cache, "old")
    kill_in(cache, "restore", folder / "snapshot", step, late)
    found = words(cache)
    assert len(found) == 1
    with naru.Cache.open(cache.path) as other:
        assert words(other) == found
        other["key 1"] = "new 1"
        assert cache["key 1"] == "new 1"
    cache.restore(folder / "snapshot")
    assert words(cache) == {"saved"}
    assert cache.check().sound
    assert hidden(folder) == []


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", SNAPSHOT_STEPS, ids=[name for _, name in SNAPSHOT_STEPS])
def test_56_death_at_each_step_of_a_snapshot(
    folder: Path, cache: naru.Cache, step: tuple[Any, str], late: bool
) -> None:
    """FAULTS 56: the file is the snapshot before or this one, whole."""
    fill(cache, "first")
    cache.snapshot(folder / "snapshot")
    fill(cache, "second")
    kill_in(cache, "snapshot", folder / "snapshot", step, late)
    cache["key 1"] = "x 1"
    cache.restore(folder / "snapshot")
    assert words(cache) in ({"first"}, {"second"})
    assert cache.check().sound
    assert len(hidden(folder)) == ((step[1], late) in BETWEEN_TWO_NAMES)
