"""A real cluster of three masters, of which one is killed while it is used."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: naru-ipc[cluster]")

from redis_servers import RealCluster, RealServer, until

import naru
import naru.cache
from naru.cache import RemoteCache

pytestmark = pytest.mark.watchdog(seconds=150)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RealCluster]:
    with RealCluster(tmp_path / "c", masters=3, replicas=1) as found:
        yield found


class Load(threading.Thread):
    """Sets a key after the other, and knows which of them the server has acknowledged."""

    def __init__(self, cache: RemoteCache) -> None:
        super().__init__()
        self.cache, self.go_on = cache, True
        self.acknowledged: dict[str, int] = {}
        self.errors: list[Exception] = []
        self.last_s = 0.0

    def run(self) -> None:
        number = 0
        while self.go_on:
            number += 1
            try:
                self.cache.set(f"key{number}", number)
                self.acknowledged[f"key{number}"] = number
                self.last_s = time.monotonic()
            except Exception as error:
                self.errors.append(error)


def master_of(cluster: RealCluster, key: str) -> RealServer:
    """The node that has it."""
    import redis

    with redis.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port, protocol=2) as client:
        port = client.get_node_from_key(key).port  # type: ignore[no-untyped-call,unused-ignore]
        for node in client.get_nodes():
            node.redis_connection.connection_pool.disconnect()
    return next(node for node in cluster.nodes if node.port == port)


def has_reached_replicas(cluster: RealCluster) -> bool:
    """Every replica has read all that its master has written so far."""
    offsets = {}
    for node in cluster.nodes:
        role = node.cli("ROLE")
        if role[0] == b"master":
            offsets[node.port] = role[1]
    for node in cluster.nodes:
        role = node.cli("ROLE")
        if role[0] == b"slave" and role[4] < offsets[role[2]]:
            return False
    return True


@pytest.mark.parametrize("near", [False, 4 << 20])
def test_a_master_is_killed_under_load(cluster: RealCluster, near: bool | int) -> None:
    with naru.cache.open(cluster.url, near=near, failover_s=40, timeout_s=2) as cache:
        assert isinstance(cache, RemoteCache)
        replicated = {f"before{i}": i for i in range(300)}
        cache.set_many(replicated)
        assert cache.get_many(replicated) == replicated
        until(lambda: has_reached_replicas(cluster), "replication")
        load = Load(cache)
        load.start()
        until(lambda: len(load.acknowledged) > 200, "some load")

        killed_s = time.monotonic()
        master_of(cluster, "before1").kill()

        assert cache.get_many(replicated) == replicated  # waits for the replica's election
        count = len(load.acknowledged)
        until(lambda: len(load.acknowledged) > count + 200, "the load's going on")
        load.go_on = False
        load.join()
        assert load.last_s > killed_s
        # What a set says may be wrong, but it is said in naru's words.
        assert all(isinstance(error, naru.NaruError) for error in load.errors), load.errors
        found = cache.get_many(load.acknowledged)
        assert all(found[key] == load.acknowledged[key] for key in found)
        # Acknowledged and lost: only what had not reached the replica when its master died.
        lost = load.acknowledged.keys() - found.keys()
        assert len(lost) < 100, f"{len(lost)} of {len(load.acknowledged)}"
        if cache.near is not None:
            until(lambda: cache._near is not None and cache._near.listener.trusted_since(), "trust")
            for _ in range(2):
                assert cache.get_many(replicated) == replicated
            assert cache.statistics().near_hits >= 300
            with naru.cache.open(cluster.url) as other:
                other["before1"] = "new"
            until(lambda: cache["before1"] == "new", "the word of the new master")
            cache.near.drop()


def test_without_patience_the_error_says_what_is_wrong(cluster: RealCluster) -> None:
    with naru.cache.open(cluster.url, failover_s=0, timeout_s=2) as cache:
        cache["k"] = 1
        master_of(cluster, "k").kill()
        with pytest.raises((naru.PeerGoneError, naru.TimedOutError)) as caught:
            cache["k"]
        assert str(caught.value).startswith('cache.get "redis+cluster://')
        with pytest.raises((naru.PeerGoneError, naru.TimedOutError)):
            cache.incr("k")


def test_slots_that_move_are_followed(tmp_path: Path) -> None:
    """MOVED and ASK: the same handle before, during and after."""
    with RealCluster(tmp_path / "c", masters=3) as cluster:
        with naru.cache.open(cluster.url, near=4 << 20) as cache:
            assert isinstance(cache, RemoteCache)
            cache["{tag}k"], cache["{tag}n"] = "value", 1
            until(lambda: cache["{tag}k"] == "value" and cache.statistics().near_hits, "a near one")
            source = master_of(cluster, "{tag}k")
            target = next(node for node in cluster.nodes if node is not source)
            slot = int(source.cli("CLUSTER", "KEYSLOT", "{tag}k"))
            ids = {
                node.port: str(node.cli("CLUSTER", "MYID"), "ascii") for node in (source, target)
            }
            target.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
            source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
            source.cli("MIGRATE", "127.0.0.1", target.port, "{tag}k", 0, 5000)
            assert cache.incr("{tag}n") == 2  # still at the source
            assert cache.pop("{tag}k") == "value"  # ASK
            source.cli("MIGRATE", "127.0.0.1", target.port, "{tag}n", 0, 5000)
            for node in (target, source):
                node.cli("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
            assert cache.incr("{tag}n") == 3  # MOVED
            assert cache["{tag}n"] == 3
            target_client = naru.cache.open(cluster.url)
            with target_client:
                target_client["{tag}n"] = 10
            until(lambda: cache["{tag}n"] == 10, "the word of the slot's new master")
            assert cache.near is not None
            cache.near.drop()
