"""The API of naru.Cache on real servers: Redis, Valkey, a Redis cluster, and naru's own server."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: naru-ipc[cluster]")

from redis_servers import RealServer, any_server, certificates, free_port, until

import naru
import naru.cache
from naru import aio
from naru.cache import RemoteCache

pytestmark = pytest.mark.watchdog(seconds=90)


@pytest.fixture(scope="module", params=["redis", "valkey", "naru", "cluster"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="nr-") as folder:
        with any_server(request.param, Path(folder)) as found:
            yield found


@pytest.fixture(params=["far", "near"])
def cache(url: str, request: pytest.FixtureRequest) -> Iterator[RemoteCache]:
    near = 4 << 20 if request.param == "near" else False
    with naru.cache.open(url, near=near) as opened:
        assert isinstance(opened, RemoteCache)
        opened.clear()
        yield opened
        if opened.near is not None:
            opened.near.drop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealServer]:
    with RealServer(tmp_path / "r") as started:
        yield started


@pytest.mark.parametrize(
    "value",
    [b"", b"x", b"5", b"-7", b"007", b"\0N", b"\0N0x", "", "text", "5", "\0", 0, 5, -(2**63), 2**63 - 1,
     2**80, None, True, [1, "a", b"b"], {"k": 1.5}, b"q" * 100_000],
)  # fmt: skip
def test_values_come_back_as_they_went_in(cache: RemoteCache, value: Any) -> None:
    for _ in range(2):  # the second is near
        cache["k"] = value
        found = cache["k"]
        assert found == value
        assert type(found) is type(value)
        assert cache.get_many(["k", b"k", "absent"]) == {"k": value, b"k": value}
        assert cache.pop("k") == value


def test_reading_and_writing(cache: RemoteCache) -> None:
    assert cache.get("k") is None
    assert "k" not in cache
    with pytest.raises(KeyError):
        cache["k"]
    assert cache.add("k", 1)
    assert not cache.add("k", 2)
    assert cache.replace("k", 3)
    assert not cache.replace("other", 3)
    assert "k" in cache
    assert cache.setdefault("k", 9) == 3
    cache.update({"a": 1, "b": [2]})
    assert cache.get_many(["a", "b", "k"]) == {"a": 1, "b": [2], "k": 3}
    assert sorted(cache) == [b"a", b"b", b"k"]
    assert dict(cache.items("a")) == {b"a": 1}
    assert len(cache) == 3
    assert cache.delete_many(["a", "b", "c"]) == 2
    assert not cache.delete("a")
    del cache["k"]
    with pytest.raises(KeyError):
        del cache["k"]
    with pytest.raises(KeyError):
        cache.pop("k")
    buffer = bytearray(8)
    assert cache.get_into("k", buffer) is None
    cache["k"] = "text"
    assert cache.get_into("k", buffer) == 4
    assert bytes(buffer[:4]) == b"text"
    with pytest.raises(naru.TooBigError):
        cache.get_into("k", bytearray(3))


def test_time(cache: RemoteCache) -> None:
    cache.set("k", 1, ttl_s=0.05)
    until(lambda: "k" not in cache, "the expiry")
    assert cache.get("k") is None
    cache.set("k", 1, ttl_s=100)
    assert 90 < (cache.ttl_s("k") or 0) <= 100
    assert cache.touch("k")
    assert cache.ttl_s("k") is None
    assert cache.expire("k", 50)
    assert 40 < (cache.ttl_s("k") or 0) <= 50
    assert not cache.touch("absent", 5)
    with pytest.raises(KeyError):
        cache.ttl_s("absent")
    with pytest.raises(ValueError, match="above 0"):
        cache.set("k", 1, ttl_s=0)


def test_counting(cache: RemoteCache) -> None:
    assert cache.incr("n") == 1
    assert cache.incr("n", 10) == 11
    assert cache.decr("n", 5) == 6
    assert cache["n"] == 6
    assert cache.incr("m", 2, initial=40, ttl_s=50) == 42
    assert 40 < (cache.ttl_s("m") or 0) <= 50
    assert cache.incr("m", 1, ttl_s=9000) == 43
    assert (cache.ttl_s("m") or 0) <= 50
    with pytest.raises(KeyError):
        cache.incr("absent", initial=None)
    assert cache.incr("n", initial=None) == 7
    cache["n"] = 2**63 - 1
    with pytest.raises(naru.NaruError, match="64 bits"):
        cache.incr("n")
    for value in ("5", b"5", b"", None):
        cache["n"] = value
        with pytest.raises(naru.NaruError, match="no integer"):
            cache.incr("n")
    cache.set("n", 1, ttl_s=100, tags=["t"])
    assert cache.incr("n") == 2
    assert 90 < (cache.ttl_s("n") or 0) <= 100
    cache.evict_tag("t")
    assert cache.incr("n") == 1


def test_compare_and_set(cache: RemoteCache) -> None:
    assert cache.get_versioned("k") is None
    assert not cache.cas("k", 1, 1)
    cache["k"] = ["tea"]
    found = cache.get_versioned("k")
    assert found is not None
    assert found[0] == ["tea"]
    assert cache.cas("k", ["tea", "cake"], found[1])
    assert not cache.cas("k", [], found[1])
    assert cache["k"] == ["tea", "cake"]


def test_nobody_is_lost_between_reading_and_writing(url: str) -> None:
    with naru.cache.open(url) as cache:
        cache["sum"] = []

        def add(mine: int) -> None:
            for turn in range(10):
                while True:
                    found = cache.get_versioned("sum")
                    assert found is not None
                    if cache.cas("sum", [*found[0], (mine, turn)], found[1]):
                        break

        threads = [threading.Thread(target=add, args=(mine,)) for mine in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(cache["sum"]) == sorted([m, t] for m in range(3) for t in range(10))


def test_tags(cache: RemoteCache) -> None:
    cache.set("a", 1, tags=["red", "green"])
    cache.set("b", "x", tags="red")
    cache.set("c", [3], tags=[b"green"])
    assert cache.get_many("abc") == {"a": 1, "b": "x", "c": [3]}
    cache.evict_tag("red")
    assert cache.get_many("abc") == {"c": [3]}
    assert "a" not in cache
    assert cache.get("a") is None
    assert not cache.delete("a")
    assert not cache.touch("b")
    assert not cache.replace("b", 1)
    assert cache.add("b", 2)
    assert cache.pop("c") == [3]
    cache.set("a", 5, tags=["red"])
    assert cache["a"] == 5
    with pytest.raises(ValueError, match="16 tags"):
        cache.set("a", 1, tags=[str(i) for i in range(17)])


def test_many_keys(cache: RemoteCache) -> None:
    items = {f"key{i}": i for i in range(1500)}
    cache.set_many(items, ttl_s=100)
    assert cache.get_many(items) == items
    assert sorted(cache.scan("key1")) == sorted(k.encode() for k in items if k.startswith("key1"))
    assert cache.delete_many(items) == 1500
    assert len(list(cache.scan("key"))) == 0


def test_one_makes_it(cache: RemoteCache, url: str) -> None:
    made = []

    def make() -> str:
        made.append(threading.get_ident())
        time.sleep(0.2)
        return "value"

    def ask(found: list[Any]) -> None:
        with naru.cache.open(url) as mine:
            found.append(mine.get_or_set("k", make, ttl_s=60))

    found: list[Any] = []
    threads = [threading.Thread(target=ask, args=(found,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["value"] * 4
    assert len(made) == 1

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.get_or_set("other", fail)
    assert cache.get_or_set("other", lambda: 2) == 2


def test_the_stale_value_is_given_while_another_makes_the_new_one(cache: RemoteCache) -> None:
    cache.get_or_set("k", lambda: "old", ttl_s=0.1, stale_s=100)
    until(lambda: (cache.ttl_s("k") or 0) < 100, "the end of its time")
    inside, go_on = threading.Event(), threading.Event()

    def make() -> str:
        inside.set()
        go_on.wait()
        return "new"

    maker = threading.Thread(
        target=cache.get_or_set, args=("k", make), kwargs={"ttl_s": 50, "stale_s": 100}
    )
    maker.start()
    inside.wait()
    assert cache.get_or_set("k", lambda: "nobody's", ttl_s=50, stale_s=100) == "old"
    go_on.set()
    maker.join()
    assert cache["k"] == "new"


def test_locks(cache: RemoteCache, url: str) -> None:
    with naru.cache.open(url) as other, cache.lock("l"):
        theirs = other.lock("l", timeout_s=0.05)
        assert not theirs.try_acquire()
        with pytest.raises(naru.TimedOutError):
            theirs.acquire(timeout_s=0.05)
        with pytest.raises(naru.NotPermittedError):
            theirs.release()
        assert "l" not in cache
    lost, next_one = cache.lock("l", ttl_s=0.05), cache.lock("l", ttl_s=30)
    lost.acquire()
    until(next_one.try_acquire, "the end of the lock's time")
    with pytest.raises(naru.NotPermittedError):
        lost.renew()
    with pytest.raises(naru.NotPermittedError):
        lost.release()
    next_one.renew()
    next_one.release()


def test_memoize(cache: RemoteCache) -> None:
    calls = []

    @cache.memoize(ttl_s=60, tags=["squares"])
    def square(x: int) -> int:
        calls.append(x)
        return x * x

    assert [square(3), square(3), square(4)] == [9, 9, 16]
    assert calls == [3, 4]
    assert square.forget(3)  # type: ignore[attr-defined]
    assert not square.forget(3)  # type: ignore[attr-defined]
    cache.evict_tag("squares")
    assert square(4) == 16
    assert calls == [3, 4, 4]


@pytest.mark.parametrize("near", [False, 4 << 20])
def test_asyncio(url: str, near: int | bool) -> None:
    async def main() -> None:
        async with await aio.RemoteCache.open(url, near=near) as cache:
            await cache.clear()
            await cache.set("k", [1], ttl_s=60, tags=["t"])
            assert await cache.get("k") == [1]
            assert await cache.contains("k")
            assert await cache.get_many(["k", "x"]) == {"k": [1]}
            assert await cache.incr("n", 2) == 2
            assert await cache.get("n") == await cache.get("n") == 2
            assert [key async for key in cache.scan("n")] == [b"n"]
            made = []

            async def make() -> str:
                made.append(1)
                await asyncio.sleep(0.05)
                return "fresh"

            found = await asyncio.gather(*(cache.get_or_set("g", make, ttl_s=60) for _ in range(5)))
            assert found == ["fresh"] * 5
            assert len(made) == 1
            order = []

            async def inside(name: str) -> None:
                async with cache.lock("writer"):
                    order.append(name)
                    await asyncio.sleep(0.01)
                    order.append(name)

            await asyncio.gather(inside("a"), inside("b"))
            assert order in (["a", "a", "b", "b"], ["b", "b", "a", "a"])

            @cache.memoize(ttl_s=60)
            async def twice(x: int) -> int:
                made.append(x)
                return 2 * x

            assert [await twice(4), await twice(4)] == [8, 8]
            assert await twice.forget(4)  # type: ignore[attr-defined]
            await cache.evict_tag("t")
            assert await cache.get("k") is None
            assert (await cache.statistics()).reads > 3
            if cache.remote.near is not None:
                cache.remote.near.drop()

    asyncio.run(main())


def test_a_task_that_is_cancelled_passes_the_turn_on(url: str) -> None:
    async def main() -> None:
        async with await aio.RemoteCache.open(url) as cache:
            await cache.clear()
            inside = asyncio.Event()

            async def make() -> str:
                inside.set()
                await asyncio.sleep(1000)
                return "never"

            task = asyncio.ensure_future(cache.get_or_set("k", make))
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await cache.get_or_set("k", lambda: "next", timeout_s=5) == "next"

    asyncio.run(main())


# ---- what a server cannot, what is wrong ----


def test_what_cannot_be_there_says_why(server: RealServer) -> None:
    with naru.cache.open(server.url) as cache:
        for call in (
            cache.check, cache.drop, lambda: cache.resize(1), lambda: cache.snapshot("x"),
            lambda: cache.restore("x"), lambda: cache.path,
        ):  # fmt: skip
            with pytest.raises(naru.UnsupportedError, match="a cache on a server cannot: "):
                call()
        with pytest.raises(ValueError, match="the cache's own"):
            cache.get(b"\0naru.tag\0x")
        with pytest.raises(naru.TooBigError):
            cache.get(b"k" * 65_536)
        with pytest.raises(TypeError):
            cache.get(5)  # type: ignore[arg-type]


def test_other_programs_see_bytes_text_and_numbers(server: RealServer) -> None:
    with naru.cache.open(server.url) as cache:
        cache["b"], cache["n"] = b"plain", 41
        assert server.cli("GET", "b") == b"plain"
        assert server.cli("INCR", "n") == 42
        assert cache["n"] == 42
        server.cli("SET", "theirs", "x")
        assert cache["theirs"] == b"x"
        server.cli("RPUSH", "list", "x")
        with pytest.raises(naru.ProtocolError, match="another program keeps a list"):
            cache["list"]
        server.cli("SET", "new", b"\0NZ?")
        with pytest.raises(naru.ProtocolError, match="no naru of this version"):
            cache["new"]


def test_a_prefix_is_a_cache_of_its_own(server: RealServer) -> None:
    with naru.cache.open(server.url, prefix="a*:") as a, naru.cache.open(server.url) as whole:
        whole["other"] = whole["a?:x"] = 1
        a.set("tagged", 1, tags=["t"])
        assert a.pop("tagged") == 1
        a["k"] = 1
        assert list(a.scan()) == [b"k"]
        assert len(a) == 1
        assert whole["a*:k"] == 1
        with a.lock("l"):
            a.clear()
        assert len(a) == 0
        assert sorted(whole.scan()) == [b"a?:x", b"other"]


def test_nobody_is_there() -> None:
    with pytest.raises(naru.PeerGoneError, match="is the server there"):
        naru.cache.open("redis+unix:///tmp/naru-nobody.sock")
    with pytest.raises(naru.PeerGoneError, match="is the server there"):
        naru.cache.open(f"redis+cluster://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    "url",
    ["http://x", "redis://", "redis://h:port", "redis://h/db", "redis+cluster://a,b/3", "redis+unix://x/y",
     "redis://:secret@h/db"],
)  # fmt: skip
def test_an_address_that_cannot_be(url: str) -> None:
    with pytest.raises(naru.BadAddressError) as caught:
        naru.cache.open(url)
    assert "secret" not in str(caught.value)


def test_passwords(tmp_path: Path) -> None:
    with RealServer(tmp_path / "r", port=free_port(), requirepass="pass") as server:
        place = f"127.0.0.1:{server.port}"
        for wrong in (f"redis://{place}", f"redis://:wrong@{place}"):
            with pytest.raises(naru.NotPermittedError) as caught:
                naru.cache.open(wrong)
            assert "wrong@" not in str(caught.value)
        with naru.cache.open(f"redis://:pass@{place}/1", near=2 << 20) as cache:
            cache["k"] = 1
            assert cache["k"] == cache["k"] == 1
            assert "pass" not in repr(cache)
            assert cache.near is not None
            cache.near.drop()


def test_an_option_that_redis_py_does_not_know(server: RealServer) -> None:
    with pytest.raises(naru.BadAddressError, match="redis-py refuses"):
        naru.cache.open(server.url, no_such_option=1)


@pytest.mark.parametrize("near", [False, 2 << 20])
def test_tls(tmp_path: Path, near: bool | int) -> None:
    settings = certificates(tmp_path)
    port = free_port()
    with RealServer(tmp_path / "r", tls_port=str(port), **settings):
        url = f"rediss://127.0.0.1:{port}/2?ssl_ca_certs={settings['tls_cert_file']}"
        with naru.cache.open(url, near=near) as cache:
            cache.set("k", {"a": 1}, tags="t")
            assert cache["k"] == cache["k"] == {"a": 1}
            if cache.near is not None:
                until(lambda: cache["k"] and cache.statistics().near_hits, "a near value")
                cache.near.drop()
        with pytest.raises(naru.PeerGoneError, match="certificate"):
            naru.cache.open(f"rediss://127.0.0.1:{port}/2")


def test_a_full_server(tmp_path: Path) -> None:
    with RealServer(tmp_path / "r", maxmemory="2mb", maxmemory_policy="noeviction") as server:
        with (
            naru.cache.open(server.url) as cache,
            pytest.raises(naru.NoSpaceError, match="maxmemory"),
        ):
            for i in range(100):
                cache.set(f"k{i}", os.urandom(100_000))


# ---- processes, and what happens to them ----


def test_a_handle_goes_to_other_processes(server: RealServer) -> None:
    with naru.cache.open(server.url, codec="numpy" if _has_numpy() else "msgpack") as cache:
        cache["k"] = 1
        with pickle.loads(pickle.dumps(cache)) as copy:
            assert copy["k"] == 1
            assert copy.codec == cache.codec
        pid = os.fork()
        if pid == 0:
            os._exit(0 if cache["k"] == 1 and cache.incr("k") == 2 else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert cache["k"] == 2


def _has_numpy() -> bool:
    try:
        import numpy  # noqa: F401
    except ImportError:
        return False
    return True


def test_a_forked_child_does_not_hold_its_parents_locks(server: RealServer) -> None:
    with naru.cache.open(server.url) as cache:
        lock = cache.lock("l")
        lock.acquire()
        pid = os.fork()
        if pid == 0:
            try:
                lock.release()
            except naru.NotPermittedError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        lock.release()


MAKER = """
import sys, time, naru.cache
cache = naru.cache.open(sys.argv[1], lease_s=0.6)
def make():
    print("making", flush=True)
    time.sleep(1000)
cache.get_or_set("k", make)
"""


def test_the_death_of_the_maker_passes_the_turn_on(server: RealServer) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKER, server.url], stdout=subprocess.PIPE
    ) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"making\n"
        with naru.cache.open(server.url, lease_s=0.6) as cache:
            # It lives longer than its lease, and renews it: nobody else has the turn.
            with pytest.raises(naru.TimedOutError):
                cache.get_or_set("k", lambda: "too early", timeout_s=1.5)
            maker.send_signal(signal.SIGKILL)
            assert cache.get_or_set("k", lambda: "next", timeout_s=20) == "next"


def test_a_server_that_comes_back_is_used_again(server: RealServer) -> None:
    with naru.cache.open(server.url, failover_s=20) as cache:
        cache["k"] = 1
        server.kill()
        again = threading.Timer(0.3, server.start)
        again.start()
        assert cache.get("k") is None  # it was not saved
        again.join()
        assert cache.statistics().repeated > 0


def test_what_may_have_been_done_is_not_repeated(server: RealServer) -> None:
    with naru.cache.open(server.url, failover_s=0.3, timeout_s=0.5) as cache:
        assert cache.incr("n") == 1
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(naru.TimedOutError, match="may have been done, or not"):
                cache.incr("n")
        finally:
            server.process.send_signal(signal.SIGCONT)
        until(lambda: cache.get("n") == 2, "the increment that was sent")
        server.kill()
        with pytest.raises(naru.PeerGoneError):
            cache.get("n")
    with pytest.raises(naru.ClosedError):
        cache.get("n")


def test_a_missing_redis_py_says_which_extra(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['redis'] = None\n"
        "import naru.cache\n"
        "try: naru.cache.open('redis://127.0.0.1:1')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("pip install 'naru-ipc[cluster]'")


def test_anything_else_is_a_cache_of_this_machine(tmp_path: Path) -> None:
    naru.Cache.create(tmp_path / "c", 1 << 20).close()
    with naru.cache.open(tmp_path / "c") as cache:
        assert isinstance(cache, naru.Cache)


def test_the_shell(server: RealServer) -> None:
    def run(*words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "naru.cli", "cache", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    run("set", server.url, "k", "value", "--ttl", "60")
    assert run("get", server.url, "k") == "value\n"
    assert run("scan", server.url) == "k\n"
    assert "entries          1" in run("stats", server.url)
    assert '"entries": 1' in run("stats", server.url, "--json")
    assert run("delete", server.url, "k") == "1\n"
    for verb in ("check", "top", "drop"):
        assert "only get, set, delete, scan and stats" in run(verb, server.url, code=2)
    assert "is the server there" in run("get", "redis+unix:///tmp/naru-nobody.sock", "k", code=1)
