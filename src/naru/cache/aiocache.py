"""aiocache in shared memory.

    from naru.cache.aiocache import NaruCache

    cache = NaruCache("mysite", size_bytes=256 << 20, namespace="main:")
    await cache.set("key", {"a": 1}, ttl=60)

Takes aiocache's serializers (JSON unless given), plugins, namespaces; its locks work on it too.

Holds: NaruCache. Must not know: tables. Joins: aiocache.base.BaseCache.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any

from aiocache.base import BaseCache  # type: ignore[import-untyped,import-not-found,unused-ignore]
from aiocache.serializers import JsonSerializer  # type: ignore[import-untyped,import-not-found,unused-ignore]

from naru.cache.handles import shared_cache
from naru.errors import NaruError

__all__ = ["NaruCache"]

Stored = str | bytes | int


class NaruCache(BaseCache):
    """aiocache.base.BaseCache over naru.Cache; nothing of it ever waits."""

    NAME = "naru"

    def __init__(
        self,
        name: str = "aiocache",
        serializer: Any = None,
        options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        own = {"codec": "bytes", **(options or {})}
        for option in ("size_bytes", "shards", "mode", "lock_timeout_s"):
            if option in kwargs:
                own[option] = kwargs.pop(option)
        super().__init__(serializer=serializer or JsonSerializer(), **kwargs)
        self._name, self._options = name, own

    @property
    def _cache(self) -> Any:
        return shared_cache(self._name, **self._options)

    @staticmethod
    def _as_asked(value: Stored | None, encoding: str | None) -> Any:
        """str for serializers that have an encoding, bytes for the others."""
        if value is None:
            return None
        text = value if isinstance(value, str | bytes) else str(value)
        if encoding is None:
            return text.encode() if isinstance(text, str) else text
        return text.decode(encoding) if isinstance(text, bytes) else text

    async def _get(self, key: str, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        return self._as_asked(self._cache.get(key), encoding)

    async def _gets(self, key: str, encoding: str | None = "utf-8", _conn: Any = None) -> Any:
        """The version, for the compare-and-set of OptimisticLock."""
        found = self._cache.get_versioned(key)
        return None if found is None else found[1]

    async def _multi_get(
        self, keys: list[str], encoding: str | None = "utf-8", _conn: Any = None
    ) -> list[Any]:
        found = self._cache.get_many(keys)
        return [self._as_asked(found.get(key), encoding) for key in keys]

    async def _set(
        self, key: str, value: Any, ttl: Any = None, _cas_token: Any = None, _conn: Any = None
    ) -> Any:
        if _cas_token is not None:
            return self._cache.cas(key, value, _cas_token, ttl or None)
        self._cache.set(key, value, ttl or None)
        return True

    async def _multi_set(
        self, pairs: Iterable[tuple[str, Any]], ttl: Any = None, _conn: Any = None
    ) -> bool:
        self._cache.set_many(pairs, ttl or None)
        return True

    async def _add(self, key: str, value: Any, ttl: Any = None, _conn: Any = None) -> bool:
        if not self._cache.add(key, value, ttl or None):
            raise ValueError(f"Key {key} already exists, use .set to update the value")
        return True

    async def _exists(self, key: str, _conn: Any = None) -> bool:
        return key in self._cache

    async def _increment(self, key: str, delta: int, _conn: Any = None) -> int:
        try:
            total: int = self._cache.incr(key, delta)
        except NaruError as error:
            if error.errno != errno.EDOM:
                raise
            raise TypeError("Value is not an integer") from None
        return total

    async def _expire(self, key: str, ttl: Any, _conn: Any = None) -> bool:
        touched: bool = self._cache.touch(key, ttl or None)
        return touched

    async def _delete(self, key: str, _conn: Any = None) -> int:
        return int(self._cache.delete(key))

    async def _clear(self, namespace: str | None = None, _conn: Any = None) -> bool:
        if namespace:
            self._cache.delete_many(self._cache.scan(namespace))
        else:
            self._cache.clear()
        return True

    async def _raw(
        self, command: str, *args: Any, encoding: Any = None, _conn: Any = None, **kwargs: Any
    ) -> Any:
        return getattr(self._cache, command)(*args, **kwargs)

    async def _redlock_release(self, key: str, value: Any) -> int:
        found = self._cache.get_versioned(key)
        if found is None or found[0] != value:
            return 0
        return int(self._cache._remove_version(key, found[1]))
