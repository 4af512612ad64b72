"""A cache server and local Python processes on the same data: each sees what the other one changes."""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cache_servers import Resp, packed, serving, until
from commands import environment

from naru import Cache
from naru.cache.serving import CacheServer

pytestmark = pytest.mark.watchdog(seconds=60)


@pytest.fixture(params=[1, 2])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[CacheServer]:
    with serving(tmp_path, processes=request.param) as started:
        yield started


@pytest.fixture
def cache(server: CacheServer) -> Iterator[Cache]:
    with Cache.open(server.name) as opened:
        yield opened


@pytest.fixture
def client(server: CacheServer) -> Iterator[Resp]:
    with connected(server) as one:
        yield one


def connected(server: CacheServer) -> Resp:
    return Resp(str(server.addresses[0].path))


def pushed(client: Resp) -> list[bytes] | None:
    """The keys of the next invalidation; None: all."""
    kind, keys = client.reply()
    assert kind == b"invalidate"
    return keys  # type: ignore[no-any-return]


# ---- clients that cache ----

CHANGES: list[tuple[str, Callable[[Cache], object]]] = [
    ("set", lambda cache: cache.set("k", "new")),
    ("set_many", lambda cache: cache.set_many({"a": 1, "k": "new"})),
    ("incr", lambda cache: cache.incr("k")),
    ("replace", lambda cache: cache.replace("k", b"new")),
    ("touch", lambda cache: cache.touch("k", ttl_s=100.0)),
    ("delete", lambda cache: cache.delete("k")),
    ("pop", lambda cache: cache.pop("k")),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
def test_a_local_change_is_told(
    server: CacheServer, cache: Cache, client: Resp, name: str, change: Callable[[Cache], object]
) -> None:
    cache.set("k", 1)
    cache.set("never read", 1)
    client.call("HELLO", 3)
    assert client.call("CLIENT", "TRACKING", "ON") == "OK"
    assert client.call("GET", "k") == b"1"
    cache.set("never read", 2)
    change(cache)
    assert pushed(client) == [b"k"]
    with connected(server) as other:  # told once, until it is read again
        other.call("SET", "k", "again")
    assert client.call("PING") == "PONG"


@pytest.mark.parametrize("change", [lambda c: c.clear(), lambda c: c.evict_tag("t")])
def test_many_at_once_are_everything(
    cache: Cache, client: Resp, change: Callable[[Cache], object]
) -> None:
    cache.set("k", b"v", tags=["t"])
    client.call("HELLO", 3)
    client.call("CLIENT", "TRACKING", "ON")
    assert client.call("GET", "k") == b"v"
    change(cache)
    assert pushed(client) is None
    while (found := client.call("GET", "k")) == [b"invalidate", None]:
        pass  # it was emptied one shard after the other
    assert found is None


def test_a_local_entry_that_expires_is_told(cache: Cache, client: Resp) -> None:
    cache.set("k", b"v", ttl_s=0.3)
    client.call("HELLO", 3)
    client.call("CLIENT", "TRACKING", "ON")
    assert client.call("GET", "k") == b"v"
    assert pushed(client) == [b"k"]


def test_local_changes_by_prefix_go_where_they_are_sent(server: CacheServer, cache: Cache) -> None:
    with connected(server) as listener, connected(server) as asker:
        number = listener.call("CLIENT", "ID")
        listener.call("SUBSCRIBE", "__redis__:invalidate")
        assert asker.call(
            "CLIENT", "TRACKING", "ON", "REDIRECT", number, "BCAST", "PREFIX", "user:"
        ) == "OK"  # fmt: skip
        cache.set("other", b"v")
        cache.set("user:1", b"v")
        assert listener.reply() == [b"message", b"__redis__:invalidate", [b"user:1"]]
        cache.delete("user:1")
        assert listener.reply() == [b"message", b"__redis__:invalidate", [b"user:1"]]


def test_what_a_server_changes_is_told_once(server: CacheServer, client: Resp) -> None:
    client.call("HELLO", 3)
    client.call("CLIENT", "TRACKING", "ON", "BCAST")
    with connected(server) as other:
        for number in range(100):
            other.call("SET", number, "v")
    with Cache.open(server.name) as cache:
        cache.set("last", b"v")
    assert [pushed(client) for _ in range(101)] == [*([b"%d" % n] for n in range(100)), [b"last"]]


def test_what_is_forgotten_is_told(tmp_path: Path) -> None:
    with (
        serving(tmp_path, size_bytes=2 << 20) as server,
        Cache.open(server.name) as cache,
        connected(server) as client,
    ):
        cache.set("k", b"v")
        client.call("HELLO", 3)
        client.call("CLIENT", "TRACKING", "ON")
        assert client.call("GET", "k") == b"v"
        with connected(server) as other:
            for number in range(100):
                other.send(b"".join(b"SET %d:%d %0900d\r\n" % (number, i, i) for i in range(100)))
                assert [other.reply() for _ in range(100)] == ["OK"] * 100
        assert pushed(client) in ([b"k"], None)


def test_two_servers_of_one_cache_tell_each_other(server: CacheServer, client: Resp) -> None:
    with (
        CacheServer(
            server.name, bind=[f"unix://{server.addresses[0].path}2"], processes=1
        ) as second,
        connected(second) as other,
    ):
        client.call("HELLO", 3)
        client.call("CLIENT", "TRACKING", "ON")
        other.call("SET", "k", 1)
        assert client.call("GET", "k") == b"1"
        other.call("SET", "k", 2)
        assert pushed(client) == [b"k"]


HAMMER = """
import sys
from naru import Cache
with Cache.open(sys.argv[1]) as cache:
    number = 0
    while True:
        number += 1
        cache.set("hot", number)
        cache.set(str(number % 1000), number)
        if number == 1:
            print(flush=True)
"""


class Near:
    """What a client has that keeps what it read until it is told that it changed."""

    def __init__(self, connection: Resp) -> None:
        self.connection = connection
        self.kept: dict[bytes, bytes | None] = {}
        connection.call("HELLO", 3)
        connection.call("CLIENT", "TRACKING", "ON")

    def get(self, key: bytes) -> bytes | None:
        self.ask("PING")
        if key not in self.kept:
            self.kept[key] = b""  # an invalidation that comes before the reply is for this
            value = self.ask("GET", key)
            if key not in self.kept:
                return value
            self.kept[key] = value
        return self.kept[key]

    def ask(self, *words: object) -> Any:
        self.connection.send(packed(*words))
        while isinstance(found := self.connection.reply(), list):
            if found[1] is None:
                self.kept.clear()
            else:
                self.kept.pop(found[1][0], None)
        return found


def test_nobody_keeps_what_is_old(server: CacheServer, cache: Cache, client: Resp) -> None:
    """Local writers are killed at any instant: no change of theirs stays unknown."""
    near = Near(client)
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", HAMMER, server.name], stdout=subprocess.PIPE, env=environment()
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            for _ in range(300):
                near.get(b"hot")
            writer.send_signal(signal.SIGKILL)
        until(lambda: near.get(b"hot") == str(cache.get("hot")).encode())


# ---- transactions ----


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
def test_a_local_change_drops_the_transaction(
    cache: Cache, client: Resp, name: str, change: Callable[[Cache], object]
) -> None:
    cache.set("k", 1)
    client.call("WATCH", "k")
    change(cache)
    client.call("MULTI")
    client.call("SET", "other", "v")
    assert client.call("EXEC") is None
    assert cache.get("other") is None


@pytest.mark.parametrize("change", [lambda c: c.clear(), lambda c: c.evict_tag("t")])
def test_emptying_drops_the_transaction(
    cache: Cache, client: Resp, change: Callable[[Cache], object]
) -> None:
    cache.set("k", b"v", tags=["t"])
    client.call("WATCH", "k")
    change(cache)
    client.call("MULTI")
    client.call("SET", "other", "v")
    assert client.call("EXEC") is None


def test_a_transaction_is_one_change_for_local_readers(cache: Cache, client: Resp) -> None:
    over = threading.Event()
    differences = []

    def write() -> None:
        for number in range(300):
            client.send(b"MULTI\r\nSET a %d\r\nSET b %d\r\nEXEC\r\n" % (number, number))
            assert [client.reply() for _ in range(4)][3] == ["OK", "OK"]
        over.set()

    client.call("MSET", "a", 0, "b", 0)
    writer = threading.Thread(target=write)
    writer.start()
    while not over.is_set():
        first, second = cache.get("b"), cache.get("a")  # b is written last
        if int(first) > int(second):
            differences.append((first, second))
    writer.join()
    assert not differences


# ---- another size ----


class Load(threading.Thread):
    """Writes, reads and counts over one connection, and says what went wrong."""

    def __init__(self, connection: Resp, name: str) -> None:
        super().__init__()
        self.connection, self.key = connection, name
        self.counted = self.rounds = 0
        self.wrong: list[object] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            self.rounds += 1
            own = f"own:{self.key}"
            self.connection.send(
                b"SET %(k)b %(n)d\r\nGET %(k)b\r\nINCR count\r\nMULTI\r\nINCR count\r\nGET %(k)b\r\n"
                b"EXEC\r\nDEL %(k)b other\r\n" % {b"k": own.encode(), b"n": self.rounds}
            )
            found = [self.connection.item() for _ in range(8)]
            number = b"%d" % self.rounds
            self.counted += 2
            if (
                found[:2] != ["OK", number]
                or not isinstance(found[2], int)
                or found[3:6] != ["OK", "QUEUED", "QUEUED"]
                or found[6][1:] != [number]
                or found[7] != 1
            ):
                self.wrong.append(found)


def went_on(loads: list[Load], rounds: list[int]) -> list[bool]:
    return [load.rounds > before + 5 for load, before in zip(loads, rounds, strict=True)]


def test_a_resize_under_load_is_not_seen(server: CacheServer, cache: Cache) -> None:
    cache.update({f"key:{i}": b"value %d" % i for i in range(20_000)})
    with contextlib.ExitStack() as stack:
        loads = [Load(stack.enter_context(connected(server)), str(i)) for i in range(4)]
        listener = stack.enter_context(connected(server))
        listener.call("SUBSCRIBE", "news")
        for load in loads:
            load.start()
        for size_bytes in (48 << 20, 24 << 20, 32 << 20):
            rounds = [load.rounds for load in loads]
            cache.resize(size_bytes)
            until(lambda rounds=rounds: all(went_on(loads, rounds)))
        for load in loads:
            load.over.set()
        for load in loads:
            load.join()
        assert [load.wrong for load in loads] == [[]] * 4
        assert int(cache.get("count")) == sum(load.counted for load in loads)
        with connected(server) as other:
            assert other.call("GET", "key:777") == b"value 777"
            assert other.call("PUBLISH", "news", "hello") == 1
        assert listener.reply() == [b"message", b"news", b"hello"]


def test_after_a_resize_cached_copies_are_told(cache: Cache, client: Resp) -> None:
    cache.set("k", b"v")
    client.call("HELLO", 3)
    client.call("CLIENT", "TRACKING", "ON")
    assert client.call("GET", "k") == b"v"
    cache.resize(40 << 20)
    assert pushed(client) is None  # nobody has asked for anything since
    assert client.call("GET", "k") == b"v"
    cache.set("k", b"w")
    assert pushed(client) == [b"k"]


def test_what_was_watched_before_a_resize_has_changed(cache: Cache, client: Resp) -> None:
    """Versions are counted by generation: the same number may be another value's."""
    cache.set("k", b"v")
    client.call("WATCH", "k")
    cache.resize(40 << 20)
    client.call("MULTI")
    client.call("SET", "other", "v")
    assert client.call("EXEC") is None
    client.call("WATCH", "k")
    client.call("MULTI")
    client.call("SET", "other", "v")
    assert client.call("EXEC") == ["OK"]


def test_a_snapshot_of_another_cache(
    server: CacheServer, cache: Cache, client: Resp, tmp_path: Path
) -> None:
    """It has another secret: what is subscribed and tracked is found nevertheless."""
    with Cache.create(tmp_path / "second", 4 << 20) as second:
        second.set("k", b"second")
        second.snapshot(tmp_path / "snapshot")
    with connected(server) as listener:
        listener.call("SUBSCRIBE", *[f"channel:{i}" for i in range(20)])
        for _ in range(19):
            listener.reply()
        cache.restore(tmp_path / "snapshot")
        assert client.call("GET", "k") == b"second"
        for i in range(20):
            assert client.call("PUBLISH", f"channel:{i}", "m") == 1
            assert listener.reply()[1] == b"channel:%d" % i


def test_a_copier_that_is_stopped_holds_nobody_for_ever(cache: Cache, client: Resp) -> None:
    """Who copies the table keeps writers waiting; when it is killed, they go on."""
    code = (
        "import sys, time\nfrom naru import Cache\nfrom naru._native.tending import AllShards\n"
        "cache = Cache.open(sys.argv[1])\n"
        "with AllShards(cache._mapping, 10.0, sys.argv[1]):\n    print(flush=True)\n    time.sleep(100)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(cache.path)], stdout=subprocess.PIPE, env=environment()
    ) as copier:
        assert copier.stdout is not None
        copier.stdout.readline()
        client.send(packed("SET", "k", "v") + packed("GET", "k"))
        assert not select.select([client.sock], [], [], 0.6)[0]  # longer than a lock is waited for
        copier.kill()
        assert client.reply() == "OK"
        assert client.reply() == b"v"


# ---- what a value is for the other ----


def test_what_python_sees_of_values_of_clients(cache: Cache, client: Resp) -> None:
    client.call("SET", "text", "value")
    client.call("SET", "number", 5)
    client.call("INCR", "count")
    client.call("INCRBY", "number", 2)
    client.call("INCRBYFLOAT", "float", "1.5")
    client.call("SADD", "set", "a", "b")
    client.call("SET", "digits", 5)
    client.call("APPEND", "count", "0")
    assert cache.get("text") == b"value"
    assert cache.get("digits") == b"5"
    assert cache.get("number") == 7
    assert cache.get("count") == b"10"
    assert cache.get("float") == b"1.5"
    assert cache.get("set") == {b"a", b"b"}
    assert cache.incr("digits") == 6
    assert cache.get("digits") == b"6"  # it keeps the kind that it finds


def test_what_clients_see_of_values_of_python(tmp_path: Path) -> None:
    with serving(tmp_path, size_bytes=8 << 20) as server, connected(server) as client:
        with Cache.open(server.name, codec="msgpack") as cache:
            cache.set("bytes", b"\0\xff")
            cache.set("text", "h\u00e9")
            cache.set("number", -7)
            cache.set("list", [1, "a"])
            assert cache.get("list") == [1, "a"]
        assert client.call("GET", "bytes") == b"\0\xff"
        assert client.call("GET", "text") == "h\u00e9".encode()
        assert client.call("GET", "number") == b"-7"
        assert client.call("INCR", "number") == -6
        assert client.call("GET", "list") == b"\x92\x01\xa1a"
        assert client.call("TYPE", "list") == "string"
