"""naru.aio.RemoteCache: a cache on a server for asyncio. Each verb waits in a thread, and never the loop.

Holds: RemoteCache. Must not know: redis-py. Joins: naru.cache.RemoteCache, which may be used by any
thread; what is near is given without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self

from naru.aio.cache import AwaitingVerbs
from naru.cache.remote import RemoteCache as _Remote
from naru.cache.remote import RemoteStatistics
from naru.cache.store import Key, Tags

__all__ = ["RemoteCache"]

_END: Any = object()


class RemoteCache(AwaitingVerbs):
    """As naru.cache.RemoteCache, with every verb awaited: `await cache.get("k")`.

    Made by `await RemoteCache.open(url, ...)`. For one event loop or several.
    """

    def __init__(self, remote: _Remote) -> None:
        self._remote = remote

    @classmethod
    async def open(cls, url: str, **options: Any) -> Self:
        """As naru.cache.RemoteCache.open()."""
        return cls(await asyncio.to_thread(_Remote.open, url, **options))

    @property
    def _store(self) -> Any:
        return self._remote

    @property
    def remote(self) -> _Remote:
        """The same cache for threads."""
        return self._remote

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._remote.closed

    async def get(self, key: Key, default: Any = None) -> Any:
        """As naru.Cache.get()."""
        found = self._remote._get_near(key, _END)
        if found is not _END:
            return found
        return await asyncio.to_thread(self._remote.get, key, default)

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """As naru.Cache.get_many()."""
        return await asyncio.to_thread(self._remote.get_many, keys)

    async def get_versioned(self, key: Key) -> tuple[Any, int] | None:
        """As naru.cache.RemoteCache.get_versioned()."""
        return await asyncio.to_thread(self._remote.get_versioned, key)

    async def get_into(self, key: Key, buffer: Any) -> int | None:
        """As naru.Cache.get_into()."""
        return await asyncio.to_thread(self._remote.get_into, key, buffer)

    async def contains(self, key: Key) -> bool:
        """As `key in cache`."""
        return await asyncio.to_thread(self._remote.__contains__, key)

    async def ttl_s(self, key: Key) -> float | None:
        """As naru.Cache.ttl_s()."""
        return await asyncio.to_thread(self._remote.ttl_s, key)

    async def set(
        self, key: Key, value: Any, ttl_s: float | None = None, tags: Tags = None
    ) -> None:
        """As naru.Cache.set()."""
        await asyncio.to_thread(self._remote.set, key, value, ttl_s, tags)

    async def set_many(self, items: Any, ttl_s: float | None = None, tags: Tags = None) -> None:
        """As naru.Cache.set_many()."""
        await asyncio.to_thread(self._remote.set_many, items, ttl_s, tags)

    async def add(
        self, key: Key, value: Any, ttl_s: float | None = None, tags: Tags = None
    ) -> bool:
        """As naru.Cache.add()."""
        return await asyncio.to_thread(self._remote.add, key, value, ttl_s, tags)

    async def replace(
        self, key: Key, value: Any, ttl_s: float | None = None, tags: Tags = None
    ) -> bool:
        """As naru.Cache.replace()."""
        return await asyncio.to_thread(self._remote.replace, key, value, ttl_s, tags)

    async def cas(
        self, key: Key, value: Any, version: int, ttl_s: float | None = None, tags: Tags = None
    ) -> bool:
        """As naru.Cache.cas()."""
        return await asyncio.to_thread(self._remote.cas, key, value, version, ttl_s, tags)

    async def delete(self, key: Key) -> bool:
        """As naru.Cache.delete()."""
        return await asyncio.to_thread(self._remote.delete, key)

    async def delete_many(self, keys: Iterable[Key]) -> int:
        """As naru.Cache.delete_many()."""
        return await asyncio.to_thread(self._remote.delete_many, keys)

    async def pop(self, key: Key, *default: Any) -> Any:
        """As naru.Cache.pop()."""
        return await asyncio.to_thread(self._remote.pop, key, *default)

    async def touch(self, key: Key, ttl_s: float | None = None) -> bool:
        """As naru.Cache.touch()."""
        return await asyncio.to_thread(self._remote.touch, key, ttl_s)

    async def incr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl_s: float | None = None
    ) -> int:
        """As naru.Cache.incr()."""
        return await asyncio.to_thread(self._remote.incr, key, delta, initial, ttl_s)

    async def decr(
        self, key: Key, delta: int = 1, initial: int | None = 0, ttl_s: float | None = None
    ) -> int:
        """As naru.Cache.decr()."""
        return await asyncio.to_thread(self._remote.decr, key, delta, initial, ttl_s)

    async def evict_tag(self, tag: Key) -> None:
        """As naru.Cache.evict_tag()."""
        await asyncio.to_thread(self._remote.evict_tag, tag)

    async def clear(self) -> None:
        """As naru.cache.RemoteCache.clear()."""
        await asyncio.to_thread(self._remote.clear)

    async def scan(self, prefix: Key = b"") -> AsyncIterator[bytes]:
        """As naru.cache.RemoteCache.scan(): `async for key in cache.scan("user:")`."""
        keys = self._remote.scan(prefix)
        while (key := await asyncio.to_thread(next, keys, _END)) is not _END:
            yield key

    async def statistics(self) -> RemoteStatistics:
        """As naru.cache.RemoteCache.statistics()."""
        return await asyncio.to_thread(self._remote.statistics)

    def memoize(
        self,
        ttl_s: float | None = None,
        tags: Tags = None,
        *,
        stale_s: float = 0,
        timeout_s: float | None = None,
        key: Callable[..., Key] | None = None,
    ) -> Callable[[Callable[..., Awaitable[Any]]], Any]:
        """As naru.aio.Cache.memoize(); `.forget(...)` is awaited."""
        decorated = super().memoize(ttl_s, tags, stale_s=stale_s, timeout_s=timeout_s, key=key)

        def decorate(function: Callable[..., Awaitable[Any]]) -> Any:
            made: Any = decorated(function)
            forget = made.forget

            async def forgetting(*args: Any, **kwargs: Any) -> bool:
                gone: bool = await asyncio.to_thread(forget, *args, **kwargs)
                return gone

            made.forget = forgetting
            return made

        return decorate

    async def close(self) -> None:
        """As naru.cache.RemoteCache.close()."""
        await asyncio.to_thread(self._remote.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._remote)
