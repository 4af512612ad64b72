"""All that is on a server under a prefix: emptying it, going through it, counting.

Holds: RemoteWhole. Must not know: redis-py, asyncio. Joins: RemoteBase (verbs.py) inherits it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from naru.cache.remote.reading import CLAIMS, OWN, RemoteReading
from naru.cache.remote.records import RemoteStatistics
from naru.cache.store import Key

__all__ = ["RemoteWhole"]


class RemoteWhole(RemoteReading):
    """See naru.cache.RemoteCache."""

    def clear(self) -> None:
        """Forgets everything with the prefix; without one the whole database, whoever wrote it, and with
        it the locks and turns that are held."""
        try:
            if not self._prefix:
                self._link.each("cache.clear", "FLUSHDB")
                return
            claims = self._prefix + CLAIMS
            keys = (key for key in self._link.keys(self._prefix) if not key.startswith(claims))
            self._link.batch("cache.clear", [("UNLINK", key) for key in keys])
        finally:
            if self._near is not None:
                self._near.forget_all()

    def scan(self, prefix: Key = b"") -> Iterator[bytes]:
        """The keys that begin with `prefix`, as bytes, in no order.

        What is there all the time is given. The server may give a key twice while its table grows, and
        those whose tag was evicted are given until they expire or are set again.
        """
        start = len(self._prefix)
        begin = self._prefix + (prefix.encode() if isinstance(prefix, str) else prefix)
        own = self._prefix + OWN
        return (key[start:] for key in self._link.keys(begin) if not key.startswith(own))

    def __len__(self) -> int:
        """Keys with the prefix; without one all of the database, also those of tags and locks."""
        if not self._prefix:
            return sum(self._link.each("cache.len", "DBSIZE"))
        return sum(1 for _ in self.scan())

    def statistics(self) -> RemoteStatistics:
        """Counters of the server, or of all masters together, and those of this handle."""
        facts: list[dict[str, Any]] = self._link.each("cache.statistics", "INFO")

        def total(name: str) -> int:
            return sum(int(one.get(name) or 0) for one in facts)

        near: dict[str, Any] = {
            "near_hits": 0, "near_misses": 0, "near_unheard": 0, "invalidations": 0,
            "connections_lost": 0, "near": None,
        }  # fmt: skip
        if self._near is not None:
            near = self._near.statistics()
        version = facts[0].get("valkey_version") or facts[0].get("redis_version") or ""
        return RemoteStatistics(
            servers=len(facts), version=str(version),
            entries=sum(self._link.each("cache.statistics", "DBSIZE")),
            used_bytes=total("used_memory"), most_bytes=total("maxmemory"),
            hits=total("keyspace_hits"), misses=total("keyspace_misses"),
            evicted=total("evicted_keys"), expired=total("expired_keys"),
            reads=self.reads, repeated=self._link.repeated, **near,
        )  # fmt: skip
