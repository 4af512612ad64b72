"""naru.cache.flask_caching in a Flask application, and naru.cache.aiocache under aiocache's decorators."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = [pytest.mark.watchdog(seconds=60), pytest.mark.may_leak]  # closes at exit, as it says


@pytest.fixture
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nd-") as name:
        yield name


@pytest.fixture
def flask_cache(folder: str) -> Any:
    flask = pytest.importorskip("flask", reason="Flask is not installed")
    flask_caching = pytest.importorskip("flask_caching", reason="Flask-Caching is not installed")
    app = flask.Flask("shop")
    config = {
        "CACHE_TYPE": "naru.cache.flask_caching.NaruCache",
        "CACHE_NARU_NAME": f"{folder}/flask",
        "CACHE_NARU_OPTIONS": {"size_bytes": 4 << 20},
        "CACHE_KEY_PREFIX": "shop:",
        "CACHE_DEFAULT_TIMEOUT": 60,
    }
    cache = flask_caching.Cache(app, config=config)
    cache.test_app = app
    with app.app_context():
        yield cache


def test_flask_values(flask_cache: Any) -> None:
    cache = flask_cache
    assert cache.set("k", {"a": (1, 2)})
    assert cache.get("k") == {"a": (1, 2)}
    assert cache.get("absent") is None
    assert not cache.add("k", 1)
    assert cache.add("l", 1)
    assert cache.has("l")
    assert cache.get_many("k", "l", "absent") == [{"a": (1, 2)}, 1, None]
    assert cache.get_dict("l") == {"l": 1}
    assert cache.set_many({"m": 1, "n": 2}) == ["m", "n"]
    assert cache.delete("m")
    assert not cache.delete("m")
    assert cache.delete_many("n", "absent") == ["n", "absent"]
    backend = cache.cache
    assert (backend.inc("count"), backend.inc("count", 5), backend.dec("count")) == (1, 6, 5)
    assert 50 < backend._cache.ttl_s("shop:k") <= 60
    cache.set("ever", 1, timeout=0)
    assert backend._cache.ttl_s("shop:ever") is None
    backend._cache["another"] = 1
    assert cache.clear()
    assert list(backend._cache) == [b"another"]


def test_flask_views_and_memoize(flask_cache: Any) -> None:
    cache = flask_cache
    calls: list[str] = []

    @cache.test_app.route("/")
    @cache.cached(timeout=50)
    def page() -> str:
        calls.append("page")
        return f"page {len(calls)}"

    @cache.memoize(50)
    def add(a: int, b: int) -> int:
        calls.append("add")
        return a + b

    client = cache.test_app.test_client()
    assert [client.get("/").data for _ in range(3)] == [b"page 1"] * 3
    assert (add(1, 2), add(1, 2), add(2, 2)) == (3, 3, 4)
    assert calls == ["page", "add", "add"]
    cache.delete_memoized(add)
    assert add(1, 2) == 3
    assert len(calls) == 4


@pytest.fixture
def aiocache_cache(folder: str) -> Any:
    pytest.importorskip("aiocache", reason="aiocache is not installed")
    from naru.cache.aiocache import NaruCache

    return NaruCache(f"{folder}/aio", size_bytes=4 << 20, namespace="main:")


def test_aiocache_values(aiocache_cache: Any) -> None:
    cache = aiocache_cache

    async def main() -> None:
        assert await cache.set("k", {"a": [1, "x"]}, ttl=60)
        assert await cache.get("k") == {"a": [1, "x"]}
        assert await cache.get("absent", default=5) == 5
        with pytest.raises(ValueError, match="already exists"):
            await cache.add("k", 1)
        assert await cache.multi_set([("l", 1), ("m", None)])
        assert await cache.multi_get(["k", "l", "absent"]) == [{"a": [1, "x"]}, 1, None]
        assert await cache.exists("k")
        assert await cache.increment("n", 5) == 5
        assert await cache.increment("n") == 6
        assert await cache.get("n") == 6
        with pytest.raises(TypeError, match="not an integer"):
            await cache.increment("k")
        assert await cache.expire("k", 5)
        assert not await cache.expire("absent", 5)
        assert await cache.delete("k") == 1
        assert await cache.delete("k") == 0
        await cache.set("other", 1, namespace="other:")
        assert await cache.clear(namespace="main:")
        assert await cache.get("l") is None
        assert await cache.get("other", namespace="other:") == 1
        assert await cache.raw("get", "other:other") == "1"

    asyncio.run(main())


def test_aiocache_serializers_locks_and_decorators(aiocache_cache: Any, folder: str) -> None:
    from aiocache import cached
    from aiocache.lock import OptimisticLock, OptimisticLockError, RedLock
    from aiocache.serializers import NullSerializer, PickleSerializer

    from naru.cache.aiocache import NaruCache

    pickling = NaruCache(f"{folder}/aio", serializer=PickleSerializer(), size_bytes=4 << 20)
    plain = NaruCache(f"{folder}/aio", serializer=NullSerializer(), size_bytes=4 << 20)
    calls: list[int] = []

    class Ours(NaruCache):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(f"{folder}/aio", size_bytes=4 << 20, **kwargs)

    @cached(ttl=60, cache=Ours, key_builder=lambda function, number: f"double {number}")
    async def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    async def main() -> None:
        await pickling.set("p", {1, 2})
        assert await pickling.get("p") == {1, 2}
        await plain.set("s", "text")
        assert await plain.get("s") == "text"
        assert [await double(2), await double(2)] == [4, 4]
        async with RedLock(aiocache_cache, "k", lease=5):
            assert await aiocache_cache.exists("k-lock")
        assert not await aiocache_cache.exists("k-lock")
        await aiocache_cache.set("v", 1)
        async with OptimisticLock(aiocache_cache, "v") as lock:
            assert await lock.cas(2)
        async with OptimisticLock(aiocache_cache, "v") as lock:
            await aiocache_cache.set("v", 3)
            with pytest.raises(OptimisticLockError):
                await lock.cas(4)
        assert await aiocache_cache.get("v") == 3

    asyncio.run(main())
    assert calls == [2]
