"""Real clients and frameworks against the cache server: each is skipped where it is not installed."""

from __future__ import annotations

import asyncio
import importlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cache_servers import PATIENCE_S, serving, tcp_port, until

from naru import Cache
from naru.cache.serving import CacheServer

# What they warn of is not ours to mend.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.watchdog(seconds=60)]


def have(name: str) -> Any:
    """The module, or a skip that says what is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CacheServer]:
    with serving(tmp_path, processes=2, tcp=True) as started:
        yield started


@pytest.fixture
def url(server: CacheServer) -> str:
    return f"redis://127.0.0.1:{tcp_port(server)}"


@pytest.mark.parametrize("package", ["redis", "valkey"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_client_libraries(url: str, package: str, protocol: int) -> None:
    library = have(package)
    client = library.from_url(f"{url}/1".replace("redis://", f"{package}://"), protocol=protocol)
    try:
        assert client.ping()
        assert client.set("k", b"v", ex=100, nx=True)
        assert client.set("k", b"w", nx=True) is None
        assert client.get("k") == b"v"
        assert client.incr("n", 5) == 5
        assert client.mget("k", "absent", "n") == [b"v", None, b"5"]
        assert 99 <= client.ttl("k") <= 100
        assert client.info("server")["redis_mode"] == "standalone"
        assert client.config_get("maxmemory")["maxmemory"]
        assert len(client.client_list()) >= 1
        assert client.sadd("s", "a", "b") == 2
        assert sorted(client.smembers("s")) == [b"a", b"b"]
        assert sorted(client.scan_iter("*")) == [b"k", b"n", b"s"]
        with client.pipeline(transaction=True) as pipe:
            pipe.set("x", 1).incr("x").get("x")
            assert pipe.execute() == [True, 2, b"2"]
        with client.pipeline(transaction=False) as pipe:
            for i in range(1000):
                pipe.set(f"p{i}", i)
            assert all(pipe.execute())
        assert client.command_count() > 80
        assert "get" in client.command()
        client.flushdb()
        assert client.dbsize() == 0
    finally:
        client.close()


@pytest.mark.parametrize("package", ["redis", "valkey"])
def test_locks(url: str, package: str) -> None:
    library = have(package)
    client = library.from_url(url.replace("redis://", f"{package}://"))
    try:
        lock = client.lock("lock", timeout=100)
        assert lock.acquire()
        assert not client.lock("lock", timeout=10).acquire(blocking=False)
        assert lock.extend(50)
        assert 140 < client.ttl("lock") <= 150
        assert lock.extend(20, replace_ttl=True)
        assert client.ttl("lock") <= 20
        assert lock.reacquire()
        lock.release()
        assert client.get("lock") is None
        other = importlib.import_module(f"{package}.exceptions")
        lock = client.lock("lock", timeout=10)
        assert lock.acquire()
        client.set("lock", "somebody else's")
        with pytest.raises(other.LockError):
            lock.release()
    finally:
        client.close()


@pytest.mark.parametrize("protocol", [2, 3])
def test_messages(url: str, protocol: int) -> None:
    redis = have("redis")
    publisher = redis.from_url(url)
    listeners = [redis.from_url(url, protocol=protocol).pubsub() for _ in range(6)]
    try:
        for listener in listeners:
            listener.subscribe("c")
            listener.psubscribe("c*")
            until(lambda listener=listener: listener.get_message(timeout=1))
            until(lambda listener=listener: listener.get_message(timeout=1))
        assert publisher.publish("c", "hello") == 12
        for listener in listeners:
            found = [until(lambda listener=listener: listener.get_message(timeout=1)) for _ in "ab"]
            assert {one["type"] for one in found} == {"message", "pmessage"}
    finally:
        for listener in listeners:
            listener.close()
        publisher.close()


def test_client_side_cache(url: str) -> None:
    redis = have("redis")
    cache = importlib.import_module("redis.cache")
    near = redis.from_url(url, protocol=3, cache_config=cache.CacheConfig())
    far = redis.from_url(url)
    try:
        far.set("k", "one")
        assert near.get("k") == b"one"
        assert near.get("k") == b"one"
        assert near.get_cache().size == 1
        far.set("k", "two")
        assert until(lambda: near.get("k") == b"two")
    finally:
        near.close()
        far.close()


def test_watch_retries(url: str) -> None:
    redis = have("redis")
    client = redis.from_url(url)

    def add() -> None:
        for _ in range(50):
            client.transaction(
                lambda pipe: (lambda now: (pipe.multi(), pipe.set("n", now + 1)))(
                    int(pipe.get("n") or 0)
                ),
                "n",
            )

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert client.get("n") == b"200"
    finally:
        client.close()


def test_asyncio(url: str) -> None:
    have("redis")
    aio = importlib.import_module("redis.asyncio")

    async def converse() -> None:
        client = aio.from_url(url)
        try:
            await client.set("k", "v")
            assert await client.get("k") == b"v"
            assert await asyncio.gather(*(client.incr("n") for _ in range(50)))
            async with client.lock("lock", timeout=10):
                assert await client.exists("lock")
            pubsub = client.pubsub()
            await pubsub.subscribe("c")
            assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
            await client.publish("c", "m")
            assert (await pubsub.get_message(timeout=5))["data"] == b"m"
            await pubsub.aclose()
        finally:
            await client.aclose()

    asyncio.run(converse())


def test_cluster_client(tmp_path: Path) -> None:
    redis = have("redis")
    with CacheServer(
        str(tmp_path / "c.cache"),
        bind=["tcp://127.0.0.1:0"],
        processes=3,
        size_bytes=32 << 20,
        cluster=True,
    ) as server:
        client = redis.RedisCluster(host="127.0.0.1", port=tcp_port(server))
        try:
            for i in range(100):
                assert client.set(f"key:{i}", i)
            assert [client.get(f"key:{i}") for i in range(100)] == [b"%d" % i for i in range(100)]
            assert client.mget_nonatomic("key:1", "key:2", "key:3") == [b"1", b"2", b"3"]
            assert len(client.get_primaries()) == 3
            assert client.mset({"{u}a": 1, "{u}b": 2})
            assert client.mget("{u}a", "{u}b") == [b"1", b"2"]
            names = sorted(b"key:%d" % i for i in range(100))
            assert sorted(client.scan_iter("key:*")) == names  # each once, of its own process
            nodes = client.get_primaries()
            assert (
                sorted(key for node in nodes for key in client.keys("key:*", target_nodes=node))
                == names
            )
            assert sum(client.dbsize(target_nodes=node) for node in nodes) == 102
            assert client.flushall(target_nodes=nodes[0])  # the processes have the same data
            assert sum(client.dbsize(target_nodes=node) for node in nodes) == 0
        finally:
            client.close()


# ---- frameworks ----


def configured_django(caches: dict[str, Any]) -> Any:
    have("django")
    conf = importlib.import_module("django.conf")
    if not conf.settings.configured:
        conf.settings.configure(
            CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
        )
    handler = importlib.import_module("django.core.cache").CacheHandler(caches)
    return handler["default"]


def use_as_django_does(cache: Any) -> None:
    cache.clear()
    cache.set("k", {"a": [1, 2]}, 100)
    assert cache.get("k") == {"a": [1, 2]}
    assert not cache.add("k", 1)
    assert cache.add("n", 1)
    assert cache.incr("n", 4) == 5
    assert cache.decr("n") == 4
    with pytest.raises(ValueError, match="not found"):
        cache.incr("absent")
    cache.set_many({"x": 1, "y": 2}, 100)
    assert cache.get_many(["x", "y", "z"]) == {"x": 1, "y": 2}
    assert cache.touch("x", 50)
    assert cache.has_key("x")
    cache.delete_many(["x", "y"])
    assert cache.get("x", "gone") == "gone"
    assert cache.get_or_set("made", lambda: 7) == 7
    cache.clear()
    assert cache.get("k") is None
    cache.close()


@pytest.mark.may_leak  # its pool outlives close()
def test_django_core(url: str) -> None:
    have("redis")
    use_as_django_does(
        configured_django(
            {
                "default": {
                    "BACKEND": "django.core.cache.backends.redis.RedisCache",
                    "LOCATION": f"{url}/1",
                }
            }
        )
    )


@pytest.mark.may_leak  # its pool outlives close()
def test_django_redis(url: str) -> None:
    have("django_redis")
    cache = configured_django(
        {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"{url}/1"}}
    )
    use_as_django_does(cache)
    with cache.lock("lock", timeout=10):
        assert not cache.lock("lock", timeout=10).acquire(blocking=False)
    cache.set("user:1", 1)
    cache.set("user:2", 2)
    assert sorted(cache.iter_keys("user:*")) == ["user:1", "user:2"]
    assert cache.delete_pattern("user:*") == 2
    assert cache.ttl("absent") == 0
    cache.close()


def test_aiocache(url: str) -> None:
    have("aiocache")
    aiocache = importlib.import_module("aiocache")

    async def converse() -> None:
        port = int(url.rpartition(":")[2])
        async with aiocache.Cache(
            aiocache.Cache.REDIS, endpoint="127.0.0.1", port=port, namespace="n"
        ) as cache:
            await cache.set("k", "v", ttl=100)
            assert await cache.get("k") == "v"
            assert not await cache.exists("absent")
            with pytest.raises(ValueError, match="already exists"):
                await cache.add("k", "w")
            assert await cache.increment("i", 3) == 3
            await cache.multi_set([("a", "1"), ("b", "2")], ttl=100)
            assert await cache.multi_get(["a", "b", "c"]) == ["1", "2", None]
            lock = importlib.import_module("aiocache.lock")
            async with lock.RedLock(cache, "k", lease=2):
                pass
            async with lock.OptimisticLock(cache, "k") as held:
                await held.cas("new")
            assert await cache.get("k") == "new"
            assert await cache.delete("k") == 1
            await cache.clear(namespace="n")

    asyncio.run(converse())


@pytest.mark.parametrize("near", [False, True])
def test_cashews(url: str, near: bool) -> None:
    have("cashews")
    cashews = importlib.import_module("cashews")

    async def converse() -> None:
        cache = cashews.Cache()
        cache.setup(url, client_side=near)
        await cache.init()
        await cache.set("k", {"a": 1}, expire=100)
        assert await cache.get("k") == {"a": 1}
        assert await cache.incr("n") == 1
        await cache.set("tagged", 1, expire=100, tags=["t"])
        await cache.set("both", 2, expire=100, tags=["t", "u"])
        await cache.set("other", 3, expire=100, tags=["u"])
        await cache.delete_tags("t")
        assert await cache.get_many("tagged", "both", "other") == (None, None, 3)
        async with cache.lock("lock", expire=10):
            assert await cache.is_locked("lock")
        assert not await cache.is_locked("lock")
        assert [key async for key in cache.scan("k*")] == ["k"]
        assert await cache.get_expire("k") > 90
        await cache.delete("k")
        assert not await cache.exists("k")
        await cache.clear()
        await cache.close()

    asyncio.run(converse())


def test_cashews_decorators(url: str) -> None:
    """With tags in a template, a lock against stampedes, and early recomputation."""
    have("cashews")
    cashews = importlib.import_module("cashews")

    async def converse() -> None:
        cache = cashews.Cache()
        cache.setup(url)
        await cache.init()
        calls = []

        @cache(ttl="1m", key="user:{number}", tags=["users", "user:{number}"], lock=True)
        async def user(number: int) -> dict[str, int]:
            calls.append(number)
            await asyncio.sleep(0.05)
            return {"number": number}

        assert await asyncio.gather(*[user(1) for _ in range(10)]) == [{"number": 1}] * 10
        assert calls == [1]
        await user(2)
        await cache.delete_tags("user:1")
        await user(1)
        await user(2)
        assert calls == [1, 2, 1]
        await cache.delete_tags("users")
        await user(2)
        assert calls == [1, 2, 1, 2]
        await cache.close()

    asyncio.run(converse())


def test_cashews_near_copies_end(server: CacheServer, url: str) -> None:
    """What another client or a local Python program changes leaves the copies of client_side=True."""
    have("cashews")
    cashews = importlib.import_module("cashews")

    async def converse() -> None:
        near, far = cashews.Cache(), cashews.Cache()
        # With RESP3, redis-py 8 does not give cashews the pushes that it waits for, of no server.
        near.setup(f"{url}?protocol=2", client_side=True)
        far.setup(f"{url}?protocol=2", client_side=True)
        await near.init()
        await far.init()
        await far.set("k", "one", expire=100)
        assert await near.get("k") == "one"
        await far.set("k", "two", expire=100)
        await until_async(lambda: near.get("k"), "two")
        with Cache.open(server.name) as local:
            for key in local.scan():
                if key.endswith(b"k"):
                    local.delete(key)
        await until_async(lambda: near.get("k"), None)
        await near.close()
        await far.close()

    asyncio.run(converse())


async def until_async(ask: Any, expected: Any) -> None:
    """Waits for what comes by itself."""
    async with asyncio.timeout(PATIENCE_S):
        while await ask() != expected:
            await asyncio.sleep(0.01)


def test_coredis(server: CacheServer) -> None:
    coredis = have("coredis")

    async def converse() -> None:
        client = coredis.Redis.from_url(f"unix://{server.addresses[0].path}")
        async with client:
            assert await client.set("k", "v", ex=100)
            assert await client.get("k") == b"v"
            assert await client.incr("n") == 1
            assert await client.mget(["k", "absent"]) == (b"v", None)
            assert await client.sadd("s", ["a", "b"]) == 2
            assert await client.smembers("s") == {b"a", b"b"}
            assert 90 < await client.ttl("k") <= 100
            async with client.pipeline(transaction=True) as pipe:
                pipe.set("a", "1")
                pipe.get("a")
            assert await client.get("a") == b"1"
            assert await client.delete(["k", "a"]) == 2

    asyncio.run(converse())


@pytest.mark.may_leak  # its pool is nobody's to close
def test_flask_caching(url: str) -> None:
    flask, caching = have("flask"), have("flask_caching")
    app = flask.Flask("app")
    cache = caching.Cache(
        app, config={"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": url, "CACHE_KEY_PREFIX": "fk_"}
    )
    with app.app_context():
        assert cache.set("k", [1, 2], timeout=100)
        assert cache.get("k") == [1, 2]
        assert cache.add("other", 1)
        assert not cache.add("other", 2)
        cache.set_many({"x": 1, "y": 2})
        assert cache.get_many("x", "y", "z") == [1, 2, None]
        assert cache.has("x")
        assert cache.delete("x")
        cache.clear()
        assert cache.get("k") is None


@pytest.mark.may_leak  # its pool is nobody's to close
def test_dogpile(url: str) -> None:
    have("redis")
    have("dogpile.cache")
    region_of = importlib.import_module("dogpile.cache").make_region
    region = region_of().configure(
        "dogpile.cache.redis",
        arguments={"url": url, "distributed_lock": True, "redis_expiration_time": 100},
    )
    assert region.get_or_create("k", lambda: {"a": 1}) == {"a": 1}
    assert region.get("k") == {"a": 1}
    region.set_multi({"x": 1, "y": 2})
    assert region.get_multi(["x", "y"]) == [1, 2]
    region.delete("k")
    assert not region.get("k")
