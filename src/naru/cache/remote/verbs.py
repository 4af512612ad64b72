"""Changing what is on a server: one or two messages each; and what a handle is.

Holds: RemoteBase. Must not know: redis-py (link.py does), asyncio, who makes a value.
Joins: fills naru.cache.store.Store, as CacheBase does for a table of this machine; RemoteCache inherits it.

After each change this machine's near value is taken away, whether the answer came or not.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Self

from naru._native.table_file import error_of
from naru.cache.cache import Cache
from naru.cache.remote.addresses import place_of
from naru.cache.remote.link import Command
from naru.cache.remote.packing import (
    HEAD_BYTES,
    INTEGER,
    digest_of,
    pack,
    plain_of,
    tagged,
    version_of,
)
from naru.cache.remote.tags import Marks
from naru.cache.remote.whole import RemoteWhole
from naru.cache.store import Key, Tags
from naru.errors import NaruError

__all__ = ["RemoteBase"]

NEVER_S = 1e9
_INT64 = 1 << 63


class RemoteBase(RemoteWhole):
    """See naru.cache.RemoteCache."""

    @classmethod
    def open(
        cls,
        url: str,
        *,
        codec: str = "msgpack",
        prefix: str | bytes = b"",
        near: bool | int = False,
        near_lag_s: float = 2.0,
        timeout_s: float = 5.0,
        failover_s: float = 15.0,
        lease_s: float = 10.0,
        **options: Any,
    ) -> Self:
        """Connects to a server, or to a cluster.

        Args:
            url: redis://host:port/db, rediss:// with TLS, redis+unix:///path?db=0, redis+cluster://a,b.
            codec: as Cache.create(): how values are packed that are no bytes, str or int.
            prefix: put before every key on the server; the cache is what begins so.
            near: keep what was read in shared memory, for all processes of this machine: True, or the
                size of that table in bytes.
            near_lag_s: how old, in seconds, a near value may be when the server has fallen silent.
            timeout_s: how long one message waits for its answer.
            failover_s: how long a verb is tried again while the server, or a master of the cluster, is
                away, as far as repeating is harmless; 0: not at all.
            lease_s: how long the turn or the lock of a process outlives it.
            options: of redis-py's client, such as ssl_ca_certs, username, password, max_connections.

        Raises:
            PeerGoneError: nobody is there. NotPermittedError: the password is wrong.
            BadAddressError: an address, a codec or an option that cannot be.
            ImportError: redis-py is not installed (`naru-ipc[cluster]`).
            UnsupportedError: near=True, and the server cannot say what has changed.
        """
        known = {
            "codec": codec, "prefix": prefix, "near": near, "near_lag_s": near_lag_s,
            "timeout_s": timeout_s, "failover_s": failover_s, "lease_s": lease_s,
        }  # fmt: skip
        return cls(place_of(url), {**known, **options, "_url": url})

    # ---- writing ----

    def _packed(self, value: Any, marks: Marks) -> bytes:
        return tagged(marks, pack(value, self._codec.pack))

    @staticmethod
    def _expiry(ttl_s: float | None) -> tuple[Any, ...]:
        if ttl_s is None:
            return ()
        if not ttl_s > 0:
            raise ValueError(
                f"ttl_s must be above 0 seconds, not {ttl_s!r}; delete() forgets at once"
            )
        return () if ttl_s > NEVER_S else ("PX", max(1, int(ttl_s * 1000)))

    def _forget(self, *keys: bytes) -> None:
        """After a change, whether its answer came or not: this machine does not see the old value."""
        if self._near is not None:
            self._near.forget(keys)

    def _put(self, operation: str, full: bytes, *command: Any, again: bool) -> Any:
        try:
            return self._link.call(operation, *command, again=again)
        finally:
            self._forget(full)

    def set(self, key: Key, value: Any, ttl_s: float | None = None, tags: Tags = None) -> None:
        """As naru.Cache.set(). With tags it takes two messages."""
        full, expiry = self._key(key), self._expiry(ttl_s)
        raw = self._packed(value, self._tags.marks(tags))
        self._put("cache.set", full, "SET", full, raw, *expiry, again=True)

    def __setitem__(self, key: Key, value: Any) -> None:
        self.set(key, value)

    def set_many(self, items: Any, ttl_s: float | None = None, tags: Tags = None) -> None:
        """As naru.Cache.set_many(); in a cluster each goes to its node."""
        expiry, marks = self._expiry(ttl_s), self._tags.marks(tags)
        pairs = items.items() if hasattr(items, "items") else items
        commands: list[Command] = [
            ("SET", self._key(key), self._packed(value, marks), *expiry) for key, value in pairs
        ]
        try:
            self._link.batch("cache.set_many", commands)
        finally:
            self._forget(*(command[1] for command in commands))

    def add(self, key: Key, value: Any, ttl_s: float | None = None, tags: Tags = None) -> bool:
        """As naru.Cache.add()."""
        full, expiry = self._key(key), self._expiry(ttl_s)
        raw = self._packed(value, self._tags.marks(tags))
        if self._put("cache.add", full, "SET", full, raw, "NX", *expiry, again=False):
            return True
        head = self._link.call("cache.add", "GETRANGE", full, 0, HEAD_BYTES - 1)
        if not head or self._is_alive(head):
            return False

        def over_the_dead(old: bytes | None) -> tuple[bool, list[Command]]:
            if self._is_alive(old):
                return False, []
            return True, [("SET", full, raw, *expiry)]

        return self._change("cache.add", full, over_the_dead)  # type: ignore[no-any-return]

    def replace(self, key: Key, value: Any, ttl_s: float | None = None, tags: Tags = None) -> bool:
        """As naru.Cache.replace()."""
        full, expiry = self._key(key), self._expiry(ttl_s)
        raw = self._packed(value, self._tags.marks(tags))
        if not self._is_there("cache.replace", full, []):
            return False
        return bool(self._put("cache.replace", full, "SET", full, raw, "XX", *expiry, again=False))

    def cas(
        self, key: Key, value: Any, version: int, ttl_s: float | None = None, tags: Tags = None
    ) -> bool:
        """As naru.Cache.cas(): WATCH, a look, MULTI. See get_versioned() for what a version is."""
        full, expiry = self._key(key), self._expiry(ttl_s)
        raw = self._packed(value, self._tags.marks(tags))

        def if_same(old: bytes | None) -> tuple[bool, list[Command]]:
            if old is None or version_of(old) != version or not self._is_alive(old):
                return False, []
            return True, [("SET", full, raw, *expiry)]

        return self._change("cache.cas", full, if_same)  # type: ignore[no-any-return]

    def _change(self, operation: str, full: bytes, decide: Callable[..., Any]) -> Any:
        try:
            return self._link.change(operation, full, decide)
        finally:
            self._forget(full)

    def _remove_version(self, key: Key, version: int) -> bool:
        """As delete(), only if it still has this version."""
        full = self._key(key)

        def if_same(old: bytes | None) -> tuple[bool, list[Command]]:
            there = old is not None and version_of(old) == version
            return there, [("UNLINK", full)] if there else []

        return self._change("cache.delete", full, if_same)  # type: ignore[no-any-return]

    def delete(self, key: Key) -> bool:
        """As naru.Cache.delete(). (Repeated after an error of the connection it may say False.)"""
        full = self._key(key)
        try:
            return self._is_there("cache.delete", full, [("UNLINK", full)])
        finally:
            self._forget(full)

    def __delitem__(self, key: Key) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def delete_many(self, keys: Iterable[Key]) -> int:
        """As naru.Cache.delete_many()."""
        fulls = list(dict.fromkeys(self._key(key) for key in keys))
        commands: list[Command] = []
        for full in fulls:
            commands += (("GETRANGE", full, 0, HEAD_BYTES - 1), ("UNLINK", full))
        try:
            answers = self._link.batch("cache.delete", commands)
        finally:
            self._forget(*fulls)
        gone = {
            full: head
            for full, head, count in zip(fulls, answers[::2], answers[1::2], strict=True)
            if count
        }
        return len(self._living(gone))

    def touch(self, key: Key, ttl_s: float | None = None) -> bool:
        """As naru.Cache.touch()."""
        full, expiry = self._key(key), self._expiry(ttl_s)
        command = ("PEXPIRE", full, expiry[1]) if expiry else ("PERSIST", full)
        try:
            return self._is_there("cache.touch", full, [command])
        finally:
            self._forget(full)

    def incr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl_s: float | None = None
    ) -> int:
        """As naru.Cache.incr(). After an error of the connection it may have been done, or not."""
        full, expiry = self._key(key), self._expiry(ttl_s)
        if not -_INT64 <= delta < _INT64:
            raise OverflowError("delta does not fit into 64 bits")
        if initial is not None:
            self._in_64_bits(initial + delta)
            try:
                # One message; what cannot be added to as it stands is looked at below.
                first = (
                    [] if not initial and not expiry else [("SET", full, initial, "NX", *expiry)]
                )
                return int(self._added(full, [*first, ("INCRBY", full, delta)]))
            except NaruError as error:
                if "not an integer" not in str(error) and "overflow" not in str(error):
                    raise

        def add(old: bytes | None) -> tuple[int, list[Command]]:
            one = None if old is None else self._living({full: old}).get(full)
            if one is None:
                if initial is None:
                    raise KeyError(key)
                return initial + delta, [("SET", full, initial + delta, *expiry)]
            total = self._in_64_bits(self._integer(one.inner) + delta)
            return total, [("SET", full, tagged(one.marks, str(total).encode()), "KEEPTTL")]

        return int(self._change("cache.incr", full, add))

    def _added(self, full: bytes, commands: list[Command]) -> Any:
        try:
            if len(commands) == 1:
                return self._link.call("cache.incr", *commands[0], again=False)
            return self._link.together("cache.incr", commands, again=False)[-1]
        finally:
            self._forget(full)

    def _integer(self, inner: bytes) -> int:
        kind, data = plain_of(inner, self.address)
        if kind != INTEGER:
            raise error_of(-errno.EDOM, "cache.incr", self.address)
        return int(data)

    def _in_64_bits(self, total: int) -> int:
        if not -_INT64 <= total < _INT64:
            raise error_of(-errno.ERANGE, "cache.incr", self.address)
        return total

    def decr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl_s: float | None = None
    ) -> int:
        """As incr(), with the sign turned."""
        return self.incr(key, -delta, initial, ttl_s)

    def pop(self, key: Key, *default: Any) -> Any:
        """As naru.Cache.pop()."""
        if len(default) > 1:
            raise TypeError(f"pop() takes a key and a default, not {1 + len(default)} arguments")
        full = self._key(key)
        raw = self._put("cache.pop", full, "GETDEL", full, again=False)
        one = None if raw is None else self._living({full: raw}).get(full)
        if one is not None:
            return self._unpack(one.inner)
        if default:
            return default[0]
        raise KeyError(key)

    def evict_tag(self, tag: str | bytes) -> None:
        """As naru.Cache.evict_tag(): one message, however many entries bear it."""
        full = self._tags.key_of(digest_of(tag))
        self._put("cache.evict_tag", full, "UNLINK", full, again=True)

    # ---- the handle ----

    def close(self) -> None:
        """Gives the connections back; the cache stays, the near one too. Idempotent."""
        if not self._closed:
            self._closed = True
            self._leases.close()
            if self._near is not None:
                self._near.close()
            self._link.close()

    # ---- claims ----

    def _claim(self, key: Key, number: int, ttl_s: float | None = None) -> bool:
        return self._leases.claim(_plain(key), number, ttl_s)

    def _give_back(self, key: Key, number: int) -> bool:
        return self._leases.give_back(_plain(key), number)

    def _await_claim(self, key: Key, most_s: float) -> None:
        self._leases.wait(_plain(key), most_s)

    async def _off_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        import asyncio  # who only waits in threads does without it: 40 ms

        return await asyncio.to_thread(function, *arguments)

    # ---- what it is ----

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._closed

    @property
    def near(self) -> Cache | None:
        """The table of this machine that keeps what was read, or None. It outlives its handles:
        `cache.near.drop()` gives its memory back."""
        return None if self._near is None else self._near.table

    @property
    def codec(self) -> str:
        """How values are packed that are no bytes, str or int."""
        return self._codec.name

    def __repr__(self) -> str:
        state = " closed" if self.closed else f" {self.codec}{' near' if self._near else ''}"
        return f"<{type(self).__name__} {self.address!r}{state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.closed:
            raise TypeError(f"{self!r} cannot be pickled")
        return _reopen, (type(self), self._options)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)
            self.close()


def _plain(key: Key) -> bytes:
    return key.encode() if isinstance(key, str) else key


def _reopen(kind: type[RemoteBase], options: dict[str, Any]) -> RemoteBase:
    known = dict(options)
    return kind.open(known.pop("_url"), **known)
