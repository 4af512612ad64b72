"""What was read from a server, kept in shared memory for all processes of this machine.

    key     as on the server
    value   u64 moment before it was asked for (CLOCK_BOOTTIME, ns), then the server's bytes as they are
            b"": somebody is asking for it just now

A value is put there only over what stood there before the server was asked, a mark or an older value: a
change that any process heard of meanwhile has taken that away. And it is believed only by a process that has
heard of every change since that moment (listening.py). docs/design/cache.md has the proof.

Holds: Near. Must not know: redis-py, how values are packed. Joins: verbs.py reads through it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from naru.cache.cache import Cache
from naru.cache.remote.link import Link
from naru.cache.remote.listening import Listener, now_ns
from naru.errors import NaruError

__all__ = ["Near", "Ticket"]

USUAL_BYTES = 64 << 20
ASKING = b""
ASKING_S = 60.0
"""A mark whose process died while it asked goes by itself."""
STAMP_BYTES = 8
NOTHING = 2**63
"""The version of nothing: it has another each time."""

Ticket = tuple[int, int]
"""Moment before the question, version of what stood there."""


def name_of(link: Link, prefix: bytes) -> str:
    """One table for each server, database, user and prefix."""
    place = link.place
    what = repr((sorted(place.hosts), place.url if not place.hosts else "", place.database, place.user,
                 prefix))  # fmt: skip
    return f"near-{hashlib.blake2b(what.encode(), digest_size=10).hexdigest()}"


class Near:
    """Args: size_bytes: of the table; lag_s: as RemoteCache.open(near_lag_s=)."""

    def __init__(self, link: Link, prefix: bytes, size_bytes: int, lag_s: float) -> None:
        self.hits = self.misses = self.unheard = 0
        self._table: Cache | None = None
        self.listener = Listener(link, prefix, lag_s, self._changed)
        try:
            self.listener.start(link.timeout_s)  # first: a table that nobody may use is not made
            self._table = Cache.open_or_create(name_of(link, prefix), size_bytes, codec="bytes")
        except BaseException:
            self.close()
            raise

    @property
    def table(self) -> Cache:
        """It is there from the end of the making on."""
        assert self._table is not None
        return self._table

    def read(self, key: bytes, counts: bool = True) -> tuple[bytes, int] | None:
        """(the server's bytes, milliseconds left or -1); None: ask the server.

        Args: counts: in the statistics.
        """
        assert self._table is not None
        try:
            found, version, left_ms = self._table._read(key, ASKING)
        except NaruError:
            found, version, left_ms = ASKING, 0, -1
        # Only now: a process that was stopped in between must not believe what it read before.
        at_ns = now_ns()
        since_ns = self.listener.trusted_since(at_ns)
        if not since_ns:
            self.unheard += counts
            return None
        if not version or len(found) < STAMP_BYTES:
            self.misses += counts
            return None
        if not since_ns <= int.from_bytes(found[:STAMP_BYTES], "little") <= at_ns:
            self.misses += counts
            return None
        self.hits += counts
        return found[STAMP_BYTES:], left_ms

    def begin(self, key: bytes) -> Ticket | None:
        """Before the server is asked. None: its answer is not to be kept."""
        if not self.listener.trusted_since():
            return None
        try:
            found = self.table.get_versioned(key)
            if found is None:
                self.table.add(
                    key, ASKING, ASKING_S
                )  # or another process does: one mark is for all
                found = self.table.get_versioned(key)
        except NaruError:
            return None
        return now_ns(), NOTHING if found is None else found[1]

    def keep(self, key: bytes, raw: bytes | None, left_ms: int, ticket: Ticket) -> None:
        """The server's answer (None: it is not there), unless the key has changed since begin()."""
        moment_ns, version = ticket
        ttl_s = None
        if left_ms >= 0:
            ttl_s = left_ms / 1000 - (now_ns() - moment_ns) / 1e9
        try:
            if raw is None or (ttl_s is not None and ttl_s <= 0):
                done = self.table._remove_version(key, version)
            else:
                stamp = moment_ns.to_bytes(STAMP_BYTES, "little")
                done = self.table.cas(key, stamp + raw, version, ttl_s)
        except NaruError:
            done = False  # too large, or a stopped process holds a lock
        if not done:
            self.settle(key, raw)

    def settle(self, key: bytes, raw: bytes | None) -> None:
        """The server's answer is given to somebody: nobody is to find, or to put here, an older one.

        What is asked for from now on is newer. What another process asked for before, and has put here or
        will put here over its mark, may be older, unless it is the same.
        """
        try:
            found = self.table.get(key)
        except NaruError:
            found = ASKING
        if found is not None and (raw is None or found[STAMP_BYTES:] != raw):
            self._changed(key)

    def forget(self, keys: Iterable[bytes]) -> None:
        """This process has changed them: what is near is old for everybody."""
        for key in keys:
            self._changed(key)

    def forget_all(self) -> None:
        self._changed(None)

    def _changed(self, key: bytes | None) -> None:
        try:
            if self._table is None:
                self.listener.distrust()
            elif key is None:
                self._table.clear()
            else:
                self._table.delete(key)
        except NaruError:
            self.listener.distrust()

    def statistics(self) -> dict[str, Any]:
        """As fields of RemoteStatistics."""
        try:
            near = self.table.statistics()
        except NaruError:
            near = None
        return {
            "near_hits": self.hits, "near_misses": self.misses, "near_unheard": self.unheard,
            "invalidations": self.listener.invalidations, "connections_lost": self.listener.lost,
            "near": near,
        }  # fmt: skip

    def close(self) -> None:
        """The table stays, for the other processes. Idempotent."""
        self.listener.close()
        if self._table is not None:
            self._table.close()
