"""naru.cache.django under Django: what its documentation promises, and Django's own tests.

Django's tests of backends are in its source archive, not in the installed package:
NARU_DJANGO_TESTS names their folder, and without it that one test is skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django", reason="Django is not installed")

from naru.cache.django import NaruCache

pytestmark = [pytest.mark.watchdog(seconds=180), pytest.mark.may_leak]  # closes at exit, as it says

HERE = Path(__file__).parent
TESTS = os.environ.get("NARU_DJANGO_TESTS", "")


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nd-") as name:
        yield name


@pytest.fixture
def cache(folder: str) -> Any:
    made = NaruCache(f"{folder}/c", {"OPTIONS": {"size_bytes": 4 << 20}})
    made.clear()
    return made


@pytest.mark.skipif(
    not TESTS, reason="NARU_DJANGO_TESTS does not name the tests of Django's source"
)
def test_django_s_own_tests() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, str(HERE / "django_suite.py"), TESTS],
        env=environment, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_values_of_all_kinds(cache: Any) -> None:
    stuff = {"string": "text", "int": 42, "bool": True, "float": 1.5, "none": None,
             "list": [1, (2,)], "set": {1}, "bytes": b"\0", "type": NaruCache}  # fmt: skip
    cache.set("stuff", stuff)
    assert cache.get("stuff") == stuff
    for key, value in stuff.items():
        cache.set(key, value)
        assert cache.get(key, "default") == value
    assert cache.get("absent") is None
    assert cache.get("absent", "bang") == "bang"


def test_timeouts(cache: Any) -> None:
    cache.set("gone", 1, timeout=0)
    cache.set("negative", 1, timeout=-1)
    assert cache.get_many(["gone", "negative"]) == {}
    assert cache.add("gone", 1, timeout=0)
    assert "gone" not in cache
    cache.set("k", 1, timeout=60)
    assert cache.touch("k", timeout=None)
    assert cache._cache.ttl_s(cache.make_key("k")) is None
    assert cache.touch("k", timeout=0)
    assert not cache.touch("k")
    cache.set("default", 1)
    assert 290 < cache._cache.ttl_s(cache.make_key("default")) <= 300
    cache.set_many({"a": 1, "b": 2}, timeout=0)
    assert not cache.has_key("a")


def test_add_and_get_or_set(cache: Any) -> None:
    assert cache.add("k", 1)
    assert not cache.add("k", 2)
    assert cache.get_or_set("k", 3) == 1
    assert cache.get_or_set("l", lambda: 4) == 4
    assert cache.get_or_set("none", None) is None


def test_counting(cache: Any) -> None:
    cache.set("n", 41, timeout=60)
    assert cache.incr("n") == 42
    assert cache.decr("n", 10) == 32
    assert cache.incr("n", -1) == 31
    assert cache.get("n") == 31
    assert cache._cache.ttl_s(cache.make_key("n")) <= 60
    cache.set("f", 1.5)
    assert cache.incr("f") == 2.5
    cache.set("large", 2**70)
    assert cache.incr("large") == 2**70 + 1
    cache.set("text", "answer")
    with pytest.raises(TypeError):
        cache.incr("text")
    with pytest.raises(ValueError, match="not found"):
        cache.incr("absent")


def test_many_versions_and_prefixes(cache: Any, folder: str) -> None:
    assert cache.set_many({"a": 1, "b": 2}) == []
    assert cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
    assert cache.get_many(iter(["a"])) == {"a": 1}
    cache.delete_many(["a", "c"])
    assert cache.get("a") is None
    cache.set("v", "one", version=1)
    cache.set("v", "two", version=2)
    assert cache.get("v", version=2) == "two"
    assert cache.incr_version("b") == 2
    assert cache.get("b") is None
    assert cache.get("b", version=2) == 2
    options = {"OPTIONS": {"size_bytes": 4 << 20}, "KEY_PREFIX": "other"}
    other = NaruCache(f"{folder}/c", options)
    other.set("v", "mine")
    assert cache.get("v") == "one"
    assert cache.delete("v")
    assert not cache.delete("v")
    assert other.get("v") == "mine"


def test_closing_after_a_request_changes_nothing(cache: Any) -> None:
    cache.set("k", 1)
    cache.close()
    assert cache.get("k") == 1


def test_its_coroutines(cache: Any) -> None:
    import asyncio

    async def main() -> None:
        await cache.aset("k", 1)
        assert await cache.aget("k") == 1
        assert await cache.aincr("k") == 2
        assert await cache.aget_many(["k"]) == {"k": 2}
        await cache.aclear()
        assert await cache.aget("k") is None

    asyncio.run(main())
