"""naru.aio.Cache: turns and locks of tasks."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import naru
from naru import aio


@pytest.fixture
def cache() -> Iterator[aio.Cache]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:
        with aio.Cache.create(Path(name, "c"), 4 << 20) as made:
            yield made


def test_tasks_wait_for_one_maker(cache: aio.Cache) -> None:
    made: list[int] = []

    async def make() -> str:
        made.append(1)
        await asyncio.sleep(0.05)
        return "value"

    async def main() -> list[Any]:
        return await asyncio.gather(*(cache.get_or_set("k", make, ttl_s=60) for _ in range(50)))

    assert asyncio.run(main()) == ["value"] * 50
    assert len(made) == 1


def test_make_may_be_an_ordinary_function(cache: aio.Cache) -> None:
    assert asyncio.run(cache.get_or_set("k", lambda: 5)) == 5


def test_a_cancelled_maker_passes_the_turn_on(cache: aio.Cache) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def make() -> str:
            begun.set()
            await asyncio.Event().wait()
            return "never"

        maker = asyncio.create_task(cache.get_or_set("k", make))
        await begun.wait()
        waiter = asyncio.create_task(cache.get_or_set("k", lambda: "mine"))
        with pytest.raises(naru.TimedOutError):
            await cache.get_or_set("k", make, timeout_s=0.02)
        maker.cancel()
        assert await waiter == "mine"
        with pytest.raises(asyncio.CancelledError):
            await maker

    asyncio.run(main())


def test_an_error_passes_the_turn_on(cache: aio.Cache) -> None:
    async def fail() -> None:
        raise KeyError("mine")

    async def main() -> None:
        with pytest.raises(KeyError, match="mine"):
            await cache.get_or_set("k", fail)
        assert await cache.get_or_set("k", lambda: 1, timeout_s=0) == 1

    asyncio.run(main())


def test_locks_of_tasks(cache: aio.Cache) -> None:
    inside = 0

    async def work() -> None:
        nonlocal inside
        async with cache.lock("name"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.002)
            inside -= 1

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(10)))
        async with cache.lock("name"):
            with pytest.raises(naru.TimedOutError):
                async with cache.lock("name", timeout_s=0.01):
                    pass
            with naru.Cache.open(cache.path) as other:
                assert not other.lock("name").try_acquire()

    asyncio.run(main())


def test_memoize_coroutines(cache: aio.Cache) -> None:
    calls: list[int] = []

    @cache.memoize(ttl_s=60)
    async def double(number: int) -> int:
        calls.append(number)
        await asyncio.sleep(0)
        return 2 * number

    async def main() -> list[int]:
        return await asyncio.gather(double(2), double(2), double(3))

    assert asyncio.run(main()) == [4, 4, 6]
    assert sorted(calls) == [2, 3]
    with naru.Cache.open(cache.path) as other:

        @other.memoize()
        async def treble(number: int) -> int:
            return 3 * number

        assert asyncio.run(treble(2)) == 6
        assert treble.forget(2)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="no coroutine function"):
        cache.memoize()(len)


def test_the_quick_verbs_are_the_same(cache: aio.Cache) -> None:
    cache["k"] = [1]
    assert cache["k"] == [1]
    assert type(cache).get is naru.Cache.get
