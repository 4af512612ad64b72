"""Reading from a server: a message and its answer, unless the value is near.

Holds: RemoteReading. Must not know: redis-py (link.py does), asyncio, who makes a value.
Joins: RemoteBase (verbs.py) adds what changes something.

Every value is read by _fetch: from the near cache, else from the server; and an entry whose tag was
evicted is not there, for every verb.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any

from naru._native.table_file import error_of
from naru.cache.codecs import codec_of
from naru.cache.mapping import MappingVerbs
from naru.cache.remote.addresses import Place
from naru.cache.remote.leases import Leases
from naru.cache.remote.link import Command, Link
from naru.cache.remote.near import USUAL_BYTES, Near, Ticket
from naru.cache.remote.packing import (
    HEAD_BYTES,
    TAGGED,
    Marked,
    plain_of,
    split,
    unpack,
    version_of,
)
from naru.cache.remote.tags import Marks, TagKeys
from naru.cache.remote.unsupported import Unsupported
from naru.cache.store import Key
from naru.errors import TooBigError

__all__ = ["CLAIMS", "OWN", "RemoteReading"]

OWN = b"\0naru."
"""What the cache itself keeps on the server begins so, behind the prefix."""
CLAIMS = OWN + b"claim\0"
KEY_MOST = 65_535


class RemoteReading(MappingVerbs, Unsupported):
    """See naru.cache.RemoteCache."""

    _is_far = True

    def __init__(self, place: Place, options: dict[str, Any]) -> None:
        more = {name: value for name, value in options.items() if name != "_url"}
        self._options = options
        self._closed = True  # until it is open
        self._codec = codec_of(more.pop("codec"), place.shown)
        prefix = more.pop("prefix")
        self._prefix = prefix.encode() if isinstance(prefix, str) else bytes(prefix)
        near, near_lag_s = more.pop("near"), more.pop("near_lag_s")
        lease_s = more.pop("lease_s")
        if not 0 < near_lag_s < 3600 or not 0 < lease_s < 3600:
            raise ValueError("near_lag_s and lease_s must be above 0 seconds and below an hour")
        self._place = place
        self._waits: dict[Any, Any] = {}
        self.reads = 0
        self._link = Link(place, more.pop("timeout_s"), more.pop("failover_s"), more)
        self._tags = TagKeys(self._link, self._prefix + OWN + b"tag\0")
        self._leases = Leases(self._link, self._prefix + CLAIMS, lease_s)
        self._near: Near | None = None
        if near:
            size_bytes = USUAL_BYTES if near is True else int(near)
            try:
                self._near = Near(self._link, self._prefix, size_bytes, near_lag_s)
            except BaseException:
                self._link.close()
                raise
        self._closed = False

    @property
    def address(self) -> str:
        """The URL, without the password."""
        return self._place.shown

    # ---- keys ----

    def _key(self, key: Key) -> bytes:
        if isinstance(key, str):
            key = key.encode()
        elif not isinstance(key, bytes):
            raise TypeError(f"a key is str or bytes, not {type(key).__name__}")
        if len(key) > KEY_MOST:
            raise TooBigError(f"a key of {len(key)} bytes: 65,535 are the most")
        if key.startswith(OWN):
            raise ValueError(f"keys that begin with {OWN!r} are the cache's own: {key[:40]!r}")
        return self._prefix + key

    # ---- reading ----

    def _fetch(
        self, keys: list[bytes], timed: bool = False, counts: bool = True
    ) -> dict[bytes, tuple[bytes, int]]:
        """What stands at keys, with milliseconds left (-1: it does not expire, or nobody asked)."""
        found: dict[bytes, tuple[bytes, int]] = {}
        near = self._near
        if near is not None:
            for key in keys:
                kept = near.read(key, counts)
                if kept is not None:
                    found[key] = kept
            keys = [key for key in keys if key not in found]
        if keys:
            found.update(self._ask(keys, timed))
        return found

    def _ask(self, keys: list[bytes], timed: bool) -> dict[bytes, tuple[bytes, int]]:
        near = self._near
        tickets: dict[bytes, Ticket | None] = {}
        if near is not None:
            tickets = {key: near.begin(key) for key in keys}
        if timed or any(tickets.values()):
            commands: list[Command] = []
            for key in keys:
                commands += (("GET", key), ("PTTL", key))
            answers = self._link.batch("cache.get", commands)
            raws, lefts = answers[::2], answers[1::2]
        elif len(keys) == 1:
            raws, lefts = [self._link.call("cache.get", "GET", keys[0])], [-1]
        else:
            raws, lefts = self._link.values("cache.get", keys), [-1] * len(keys)
        found = {}
        for key, raw, left_ms in zip(keys, raws, lefts, strict=True):
            ticket = tickets.get(key)
            if left_ms == -2:  # it went between the two questions
                raw = None
            if near is not None and ticket is not None:
                near.keep(key, raw, left_ms, ticket)
            if raw is not None:
                found[key] = (raw, left_ms)
        return found

    def _living(self, found: dict[bytes, bytes]) -> dict[bytes, Marked]:
        """Those of which no tag was evicted. Given values or their heads."""
        parts = {key: split(raw, self.address) for key, raw in found.items()}
        alive = self._alive(one.marks for one in parts.values() if one.marks)
        return {key: one for key, one in parts.items() if not one.marks or one.marks in alive}

    def _alive(self, marks: Iterable[Marks]) -> set[Marks]:
        def tokens(keys: list[bytes]) -> dict[bytes, bytes]:
            return {key: raw for key, (raw, _) in self._fetch(keys, counts=False).items()}

        return self._tags.alive(marks, tokens)

    def _is_alive(self, head: bytes | None) -> bool:
        return head is not None and bool(self._living({b"": head}))

    def _unpack(self, raw: bytes) -> Any:
        return unpack(raw, self._codec.unpack, self.address)

    def get(self, key: Key, default: Any = None) -> Any:
        """As naru.Cache.get(). Blocks for a message to the server and back, unless it is near."""
        raw = self._inner(self._key(key))
        return default if raw is None else unpack(raw, self._codec.unpack, self.address)

    def _inner(self, key: bytes) -> bytes | None:
        """What stands there, without its tags; None: nothing, or one of them was evicted."""
        self.reads += 1
        kept = None if self._near is None else self._near.read(key)
        if kept is None:
            kept = self._ask([key], False).get(key)
        if kept is None:
            return None
        raw = kept[0]
        if not raw.startswith(TAGGED):
            return raw
        one = split(raw, self.address)
        return one.inner if self._alive([one.marks]) else None

    def _get_near(self, key: Key, absent: Any) -> Any:
        """As get(), if no message is needed for it; `absent`: it is, or it is not known."""
        if self._near is None:
            return absent
        full = self._key(key)
        kept = self._near.read(full, counts=False)
        if kept is None or split(kept[0], self.address).marks:
            return absent
        self.reads += 1
        self._near.hits += 1
        return self._unpack(kept[0])

    def __getitem__(self, key: Key) -> Any:
        raw = self._inner(self._key(key))
        if raw is None:
            raise KeyError(key)
        return self._unpack(raw)

    def __contains__(self, key: Key) -> bool:
        return self._is_there("cache.get", self._key(key), [])

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """As naru.Cache.get_many(); in a cluster one message to each node, and not one instant of all."""
        asked = {key: self._key(key) for key in keys}
        self.reads += len(asked)
        found = self._fetch(list(dict.fromkeys(asked.values())))
        living = self._living({key: raw for key, (raw, _) in found.items()})
        return {
            key: self._unpack(living[full].inner) for key, full in asked.items() if full in living
        }

    def get_versioned(self, key: Key) -> tuple[Any, int] | None:
        """(value, version), for cas(); None when it is not there.

        The version is a digest of what stands there: bytes that were changed and changed back have the
        same one. It is always the server's, never a near one.
        """
        full = self._key(key)
        self.reads += 1
        raw = self._link.call("cache.get", "GET", full)
        if self._near is not None:
            self._near.settle(full, raw)
        one = None if raw is None else self._living({full: raw}).get(full)
        return None if one is None else (self._unpack(one.inner), version_of(raw))

    def _read(self, key: Key, absent: Any) -> tuple[Any, int, int]:
        full = self._key(key)
        self.reads += 1
        found = self._fetch([full], timed=True)
        if not found:
            return absent, 0, -1
        raw, left_ms = found[full]
        one = self._living({full: raw}).get(full)
        if one is None:
            return absent, 0, -1
        return self._unpack(one.inner), version_of(raw), left_ms

    def get_into(self, key: Key, buffer: Any) -> int | None:
        """As naru.Cache.get_into(); the value is copied once more on its way."""
        raw = self._inner(self._key(key))
        if raw is None:
            return None
        _, data = plain_of(raw, self.address)
        with memoryview(buffer) as view, view.cast("B") as room:
            if room.readonly:
                raise BufferError("the buffer is not writable")
            if len(data) > len(room):
                raise error_of(-errno.ENOBUFS, "cache.get_into", self.address, f"{len(data)} bytes")
            room[: len(data)] = data
        return len(data)

    def ttl_s(self, key: Key) -> float | None:
        """As naru.Cache.ttl_s()."""
        full = self._key(key)
        head, left_ms = self._link.together(
            "cache.ttl_s", [("GETRANGE", full, 0, HEAD_BYTES - 1), ("PTTL", full)]
        )
        if left_ms == -2 or not self._is_alive(head):
            raise KeyError(key)
        return None if left_ms == -1 else left_ms / 1000

    def _is_there(self, operation: str, full: bytes, commands: list[Command]) -> bool:
        """Whether it was, before the commands that go with the question."""
        head, there, *_ = self._link.together(
            operation, [("GETRANGE", full, 0, HEAD_BYTES - 1), ("EXISTS", full), *commands]
        )
        return bool(there) and self._is_alive(head)
