"""57: a lock of the cache is held by a stopped process, and the clients of a cache server meet it.

What must hold: the client waits, not the server process; a lock that is given back in time refuses nobody,
and what had to wait happens once and in its order.
"""

from __future__ import annotations

import select
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_mutex import hold, keys_by_lock
from cache_servers import Resp, RespError, packed, serving, until

import naru
from naru.cache.serving import CacheServer
from naru.testing.faults import Child

pytestmark = pytest.mark.watchdog(seconds=60)

KEYS = 200
SHORT_S = 0.3
LONG_S = 30.0


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="nc-") as name:
        yield Path(name)


def client_of(server: CacheServer) -> Resp:
    return Resp(str(server.addresses[0].path))


def stopped_holder(path: Path) -> Child:
    child = Child.run(hold, path)
    assert child.expect("held")["result"] == 0
    child.stop()
    return child


def let_go(child: Child) -> None:
    child.go_on()
    child.tell("let go")
    child.expect("free")


def has_answer(client: Resp) -> bool:
    return bool(select.select([client.sock], [], [], 0)[0])


def test_57_the_client_waits_and_not_the_server(folder: Path) -> None:
    """FAULTS 57: everybody else is served meanwhile; the holder's death gives them the lock."""
    path = folder / "test.cache"
    with serving(folder, limits={"lock_wait_s": LONG_S}) as server, client_of(server) as other:
        with stopped_holder(path) as child:
            stuck, free = keys_by_lock(path, KEYS)
            writers = [client_of(server) for _ in range(20)]
            for number, writer in enumerate(writers):
                writer.send(packed("SET", stuck[number % len(stuck)], "v") + packed("PING"))
            for key in free:
                assert other.call("SET", key, key) == "OK"
                assert other.call("GET", key) == key.encode()
            assert other.call("GET", stuck[0]) is None
            assert not any(has_answer(writer) for writer in writers)
            child.kill()
            for writer in writers:
                assert [writer.reply(), writer.reply()] == ["OK", "PONG"]
                writer.sock.close()
        with naru.Cache.open(path) as cache:
            assert cache.statistics().owners_died == 1
            assert cache.check().sound


def test_57_who_waited_for_too_long_is_refused(folder: Path) -> None:
    path = folder / "test.cache"
    with serving(folder, limits={"lock_wait_s": SHORT_S}) as server:
        with stopped_holder(path) as child:
            stuck, _ = keys_by_lock(path, KEYS)
            writers = [client_of(server) for _ in range(3)]
            for _ in range(2):  # the second time the server knows
                begun = time.monotonic()
                for writer in writers:
                    writer.send(packed("SET", stuck[0], "v") + packed("PING"))
                for writer in writers:
                    with pytest.raises(RespError, match="TRYAGAIN a stopped process"):
                        writer.reply()
                    assert time.monotonic() - begun > 0.9 * SHORT_S
                    assert writer.reply() == "PONG"
            child.kill()
        for writer in writers:
            assert writer.call("SET", stuck[0], "w") == "OK"
            writer.sock.close()


def test_57_who_waited_is_served_in_order_and_once(folder: Path) -> None:
    """The holder goes on in time: as if nothing had been."""
    path = folder / "test.cache"
    with serving(folder, limits={"lock_wait_s": LONG_S}) as server, client_of(server) as other:
        with stopped_holder(path) as child:
            stuck, free = keys_by_lock(path, KEYS)
            one, two, same = stuck[0], stuck[1], free[0]
            stories: list[tuple[list[tuple[object, ...]], list[object]]] = [
                ([("SET", same, 1), ("INCRBY", one, 5), ("INCR", same)], ["OK", 5, 2]),
                ([("SET", free[1], 1), ("DEL", free[1], free[2], two)], ["OK", 1]),
                (
                    [("MULTI",), ("INCR", free[3]), ("INCR", stuck[2]), ("EXEC",), ("PING",)],
                    ["OK", "QUEUED", "QUEUED", [1, 1], "PONG"],
                ),
                ([("MSET", free[4], "a", stuck[3], "b"), ("GET", stuck[3])], ["OK", b"b"]),
                ([("SADD", stuck[4], "m", "n"), ("SCARD", stuck[4])], [2, 2]),
            ]
            clients = []
            for commands, _ in stories:
                client = client_of(server)
                client.send(b"".join(packed(*words) for words in commands))
                clients.append(client)
            until(lambda: other.call("GET", same) == b"1" and other.call("GET", free[1]) == b"1")
            let_go(child)
            for client, (commands, due) in zip(clients, stories, strict=True):
                assert [client.reply() for _ in commands] == due
                assert not has_answer(client)
                client.sock.close()
            child.kill()
        with naru.Cache.open(path) as cache:
            assert cache.statistics().lock_timeouts <= len(stuck)  # keys_by_lock's own
            assert cache.check().sound


def test_57_a_client_that_waits_may_go(folder: Path) -> None:
    """What it sent is run when the lock comes free, as with any server; nothing of it is left then."""
    path = folder / "test.cache"
    with serving(folder, limits={"lock_wait_s": LONG_S}) as server, client_of(server) as other:
        with stopped_holder(path) as child:
            stuck, _ = keys_by_lock(path, KEYS)
            clients = [client_of(server) for _ in range(10)]
            for client in clients:
                client.send(packed("APPEND", stuck[0], "x"))
            until(lambda: b"connected_clients:11" in other.call("INFO", "clients"))
            for client in clients[1:]:
                client.sock.close()
            let_go(child)
            assert clients[0].reply() in range(1, 11)
            clients[0].sock.close()
            child.kill()
        until(lambda: b"connected_clients:1\r" in other.call("INFO", "clients"))
        assert other.call("GET", stuck[0]).count(b"x") in range(1, 11)


@pytest.mark.parametrize(
    "words", [("EXEC",), ("DEL", 0, 1), ("RENAME", 0, 1), ("FLUSHALL",)], ids=lambda words: words[0]
)
def test_57_whole_or_refused(folder: Path, words: tuple[object, ...]) -> None:
    """What takes several locks changes nothing when it is refused for one."""
    path = folder / "test.cache"
    limits = {"lock_wait_s": SHORT_S}
    with serving(folder, limits=limits) as server, client_of(server) as client:
        with stopped_holder(path) as child:
            stuck, free = keys_by_lock(path, KEYS)
            keys = [free[0], stuck[0]]
            assert client.call("SET", free[0], "v") == "OK"
            if words == ("EXEC",):
                assert client.call("MULTI") == "OK"
                for key in keys:
                    assert client.call("APPEND", key, "w") == "QUEUED"
            reply = client.ask(*(keys[word] if isinstance(word, int) else word for word in words))
            assert reply.startswith("TRYAGAIN")
            if words != ("FLUSHALL",):  # shard by shard
                assert client.call("GET", free[0]) == b"v"
            assert client.call("PING") == "PONG"
            child.kill()
        assert client.call("SET", stuck[0], "w") == "OK"
        with naru.Cache.open(path) as cache:
            assert cache.check().sound
