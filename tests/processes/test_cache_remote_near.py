"""The near cache: what other clients change is seen, and nothing is believed that may be old."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: naru-ipc[cluster]")

from redis_servers import RealCluster, RealServer, until

import naru
import naru.cache
from naru.cache import RemoteCache

pytestmark = pytest.mark.watchdog(seconds=90)

SIZE = 4 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealServer]:
    with RealServer(tmp_path / "r") as started:
        yield started


@pytest.fixture
def cache(server: RealServer) -> Iterator[RemoteCache]:
    with opened(server.url) as one:
        yield one
        assert one.near is not None
        one.near.drop()


def opened(url: str, **options: Any) -> RemoteCache:
    found = naru.cache.open(url, near=SIZE, **options)
    assert isinstance(found, RemoteCache)
    return found


def hits_of(cache: RemoteCache, key: str) -> int:
    """0 or 1: whether a read of it is near now."""
    before = cache.statistics().near_hits
    cache.get(key)
    return cache.statistics().near_hits - before


def is_near(cache: RemoteCache, key: str, value: Any) -> bool:
    """Reads it until it is: the server's word of the change before may still be on its way."""
    return bool(until(lambda: cache.get(key) == value and hits_of(cache, key), "a near value"))


def heard_of(cache: RemoteCache, count: int) -> None:
    """The server's words of our own changes have come in, and take nothing away any more."""
    until(lambda: cache.statistics().invalidations >= count, "the server's word")


def sends_nothing(cache: RemoteCache, server: RealServer) -> bool:
    before = server.cli("INFO", "stats")["total_commands_processed"]
    assert cache["k"] == {"a": 1}
    return server.cli("INFO", "stats")["total_commands_processed"] == before + 1


def test_a_second_read_sends_nothing(cache: RemoteCache, server: RealServer) -> None:
    cache.set("k", {"a": 1}, ttl_s=100, tags=["t"])
    heard_of(cache, 2)  # the key, and the token of its tag
    until(lambda: sends_nothing(cache, server), "all of it near")
    asked = server.cli("INFO", "commandstats")["cmdstat_get"]["calls"]
    for _ in range(50):
        assert cache["k"] == {"a": 1}
        assert cache.get_many(["k"]) == {"k": {"a": 1}}
    assert server.cli("INFO", "commandstats")["cmdstat_get"]["calls"] == asked
    facts = cache.statistics()
    assert facts.near_hits >= 100
    assert facts.near_ratio > 0.9
    assert facts.near is not None


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("SET", "k", "new"), b"new"),
        (("DEL", "k"), None),
        (("APPEND", "k", "er"), b"older"),
        (("RENAME", "k", "gone"), None),
        (("PEXPIRE", "k", "1"), None),
        (("FLUSHDB",), None),
        (("FLUSHALL",), None),
        (("COPY", "other", "k", "REPLACE"), b"other"),
    ],
)
def test_what_redis_cli_changes_is_seen(
    cache: RemoteCache, server: RealServer, words: tuple[str, ...], wanted: bytes | None
) -> None:
    cache["k"], cache["other"] = b"old", b"other"
    assert is_near(cache, "k", b"old")
    server.cli(*words)
    until(lambda: cache.get("k") == wanted, "the new value")


def test_a_near_value_does_not_outlive_its_time(cache: RemoteCache) -> None:
    cache.set("k", 1, ttl_s=0.3)
    assert is_near(cache, "k", 1)
    until(lambda: "k" not in cache, "the expiry")
    assert cache.get("k") is None


def test_a_tag_that_another_machine_evicts(cache: RemoteCache, server: RealServer) -> None:
    cache.set("k", 1, tags=["t"])
    assert is_near(cache, "k", 1)
    with naru.cache.open(server.url) as other:
        other.evict_tag("t")
    until(lambda: cache.get("k") is None, "the end of the tag")


def test_two_handles_see_each_others_changes_at_once(
    cache: RemoteCache, server: RealServer
) -> None:
    with opened(server.url) as other:
        for turn in range(300):
            cache["k"] = turn
            assert other["k"] == turn  # both have one table: no waiting for the server's word
            other["k"] = -turn
            assert cache["k"] == -turn


READER = """
import sys, naru.cache
with naru.cache.open(sys.argv[1], near=4 << 20) as cache:
    for line in sys.stdin:
        print(repr(cache.get(line.strip())), cache.statistics().near_hits, flush=True)
"""


class Reader:
    """Another process with the same near cache."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER, url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def get(self, key: str) -> tuple[str, int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(key + "\n")
        self.process.stdin.flush()
        value, hits = self.process.stdout.readline().rsplit(" ", 1)
        return value, int(hits)

    def kill(self) -> None:
        with self.process as process:
            process.kill()


def test_processes_share_what_is_near(cache: RemoteCache, server: RealServer) -> None:
    reader = Reader(server.url)
    try:
        assert reader.get("absent") == ("None", 0)  # it listens by now
        cache["k"] = 1
        # What we read it finds, once both have heard of the change before.
        until(lambda: is_near(cache, "k", 1) and reader.get("k")[1] > 0, "a near value there")
        server.cli("SET", "k", "2")
        until(lambda: cache.get("k") == 2, "the new value here")
        until(lambda: reader.get("k")[0] == "2", "the new value there")
    finally:
        reader.kill()


def test_the_process_that_put_it_there_is_killed(cache: RemoteCache, server: RealServer) -> None:
    """Who lives hears of every change by itself: nobody has to take over from the dead one."""
    reader = Reader(server.url)
    cache["k"] = 1
    assert reader.get("k")[0] == "1"
    reader.kill()
    server.cli("SET", "k", "2")
    until(lambda: cache.get("k") == 2, "the new value")


def test_what_changed_while_nobody_listened_is_not_believed(server: RealServer) -> None:
    with opened(server.url) as first:
        first["k"] = 1
        heard_of(first, 1)
        assert is_near(first, "k", 1)
    server.cli("SET", "k", "2")  # no process of this machine hears of it
    with opened(server.url) as second:
        assert second.near is not None
        assert b"k" in second.near  # the old value is still there
        assert second["k"] == 2
        assert is_near(second, "k", 2)
        second.near.drop()


def tracking_ids(server: RealServer) -> list[int]:
    return [int(one["id"]) for one in server.cli("CLIENT LIST") if "B" in one["flags"]]


def test_the_connection_that_listens_is_killed(cache: RemoteCache, server: RealServer) -> None:
    cache["k"] = 1
    assert is_near(cache, "k", 1)
    (old,) = tracking_ids(server)
    server.cli("CLIENT", "KILL", "ID", old)
    server.cli("SET", "k", "2")
    until(lambda: cache.statistics().connections_lost == 1, "the loss")
    assert cache["k"] == 2  # never the old one, from then on
    until(lambda: is_near(cache, "k", 2), "a new connection")
    server.cli("SET", "k", "3")
    until(lambda: cache.get("k") == 3, "the newer value")


def test_the_server_is_killed_and_started_again(server: RealServer) -> None:
    with opened(server.url, failover_s=0.2) as cache:
        cache["k"] = 1
        assert is_near(cache, "k", 1)
        server.kill()
        until(lambda: _lost(cache) == 1, "the loss")
        with pytest.raises(naru.PeerGoneError):
            cache["k"]
        server.start()
        server.cli("SET", "k", "2")
        until(lambda: _get(cache) == 2, "the new server's value")
        until(lambda: is_near(cache, "k", 2), "a new connection")
        assert cache.near is not None
        cache.near.drop()


def _lost(cache: RemoteCache) -> int:
    assert cache._near is not None
    return cache._near.listener.lost  # statistics() would ask the server


def _get(cache: RemoteCache) -> Any:
    try:
        return cache.get("k")
    except naru.PeerGoneError:
        return None


def test_a_server_that_has_fallen_silent_is_not_believed_for_long(server: RealServer) -> None:
    with opened(server.url, near_lag_s=0.4, timeout_s=0.3, failover_s=0) as cache:
        cache["k"] = 1
        assert is_near(cache, "k", 1)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: not _is_believed(cache), "the end of its belief")
        finally:
            server.process.send_signal(signal.SIGCONT)
        until(lambda: _is_believed(cache) and is_near(cache, "k", 1), "its return")
        assert cache.near is not None
        cache.near.drop()


def _is_believed(cache: RemoteCache) -> bool:
    try:
        return cache.get("k") == 1
    except naru.NaruError:
        return False


def test_a_forked_child_listens_itself(cache: RemoteCache, server: RealServer) -> None:
    cache["k"] = 1
    assert is_near(cache, "k", 1)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            until(lambda: is_near(cache, "k", 1), "a connection of its own")
            os.write(write, b"near")
            until(lambda: cache.get("k") == 2, "the new value")
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.read(read, 4) == b"near"
    server.cli("SET", "k", "2")
    assert os.waitpid(pid, 0)[1] == 0
    until(lambda: cache.get("k") == 2, "the new value here, too")
    os.close(read)
    os.close(write)


ORPHAN = """
import os, signal, sys, naru.cache
cache = naru.cache.open(sys.argv[1], near=4 << 20)
if os.fork() == 0:
    print(os.getpid(), flush=True)
    signal.pause()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_forked_child_does_not_keep_its_dead_parents_connection(
    cache: RemoteCache, server: RealServer
) -> None:
    """Nobody would read what the server sends there."""
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, server.url], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            until(lambda: len(tracking_ids(server)) == 1, "the end of the parent's connection")
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_value_that_changes_while_it_is_read_is_not_kept(
    cache: RemoteCache, server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's word comes between its answer and our putting it near."""
    cache["k"] = 1
    heard_of(cache, 1)
    near = cache._near
    assert near is not None
    keep = near.keep

    def late(key: bytes, *answer: Any) -> None:
        heard = near.listener.invalidations
        server.cli("SET", "k", "2")
        until(lambda: near.listener.invalidations > heard, "the server's word")
        keep(key, *answer)

    monkeypatch.setattr(near, "keep", late)
    assert cache["k"] == 1  # as it was when it was asked for
    monkeypatch.setattr(near, "keep", keep)
    assert cache["k"] == 2


def test_no_old_value_once_a_newer_one_was_seen_or_is_settled(server: RealServer) -> None:
    """Two handles read while another client counts: each sees numbers that only rise, and the last one."""
    with opened(server.url) as a, opened(server.url) as b:
        server.cli("SET", "n", "0")
        wrong: list[tuple[int, int]] = []
        done = threading.Event()

        def watch(cache: RemoteCache) -> None:
            last = 0
            while not done.is_set():
                seen = cache["n"]
                if seen < last:
                    wrong.append((last, seen))
                last = seen

        threads = [threading.Thread(target=watch, args=(one,)) for one in (a, b)]
        for thread in threads:
            thread.start()
        for _ in range(500):
            server.cli("INCR", "n")
        done.set()
        for thread in threads:
            thread.join()
        until(lambda: a["n"] == b["n"] == 500, "the last number")
        assert not wrong
        assert a.statistics().near_hits > 0
        assert a.near is not None
        a.near.drop()


WATCHER = """
import random, sys, threading, naru.cache
done = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
with naru.cache.open(sys.argv[1], near=4 << 20) as cache:
    last, wrong = {}, []
    print("begun", flush=True)
    while not done.is_set():
        key = f"n{random.randrange(4)}"
        seen = cache.get(key, 0)
        if seen < last.get(key, 0):
            wrong.append((key, last[key], seen))
        last[key] = seen
    print(wrong, cache.statistics().near_hits > 0, flush=True)
"""


def test_connections_are_lost_while_processes_read_and_another_writes(server: RealServer) -> None:
    """As the one before, with the listeners' connections killed all the time."""
    watchers = [
        subprocess.Popen(
            [sys.executable, "-c", WATCHER, server.url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    with opened(server.url) as cache:
        for one in watchers:
            assert one.stdout is not None
            assert one.stdout.readline() == "begun\n"
        for turn in range(1500):
            server.cli("INCR", f"n{turn % 4}")
            if turn % 100 == 99:
                for number in tracking_ids(server)[:2]:
                    server.cli("CLIENT", "KILL", "ID", number)
        for one in watchers:
            printed, _ = one.communicate("")
            assert printed == "[] True\n"
        until(lambda: [cache.get(f"n{i}") for i in range(4)] == [375] * 4, "the last numbers")
        assert cache.near is not None
        cache.near.drop()


def test_a_lock_of_the_near_table_that_cannot_be_had(
    cache: RemoteCache, server: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be taken away is not believed any more."""
    cache["k"] = 1
    assert is_near(cache, "k", 1)
    near = cache._near
    assert near is not None

    def stuck(key: bytes) -> bool:
        raise naru.TimedOutError("stopped")

    class Stuck:
        def __getattr__(self, name: str) -> Any:
            return stuck if name == "delete" else getattr(table, name)

    table = near._table
    monkeypatch.setattr(near, "_table", Stuck())
    server.cli("SET", "k", "2")
    until(lambda: cache.get("k") == 2, "the new value")


@pytest.mark.watchdog(seconds=120)
def test_in_a_cluster_every_master_is_heard(tmp_path: Path) -> None:
    with RealCluster(tmp_path / "c") as cluster:
        with opened(cluster.url) as cache:
            items = {f"k{i}": i for i in range(30)}
            cache.set_many(items)
            assert cache.get_many(items) == items
            until(lambda: sum(hits_of(cache, key) for key in items) == 30, "all of them near")
            with naru.cache.open(cluster.url) as other:
                other.set_many({key: -value for key, value in items.items()})
            until(
                lambda: cache.get_many(items) == {key: -value for key, value in items.items()},
                "the new values",
            )
            assert cache.near is not None
            cache.near.drop()


def test_a_prefix_is_all_that_is_listened_to(server: RealServer) -> None:
    with opened(server.url, prefix="mine:") as cache:
        cache["k"] = 1
        assert is_near(cache, "k", 1)
        until(lambda: cache.statistics().invalidations == 1, "the word of our own change")
        for i in range(50):
            server.cli("SET", f"theirs:{i}", "x")
        server.cli("SET", "mine:k", "2")
        until(lambda: cache.get("k") == 2, "the new value")
        assert cache.statistics().invalidations == 2
        assert cache.near is not None
        cache.near.drop()


def test_near_is_refused_where_nobody_says_what_changed(tmp_path: Path) -> None:
    with RealServer(tmp_path / "r", rename_command="CLIENT ''") as server:
        with pytest.raises(naru.UnsupportedError, match="says what has changed"):
            opened(server.url)
