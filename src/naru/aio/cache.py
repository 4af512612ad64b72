"""naru.aio.Cache: the shared cache in asyncio; what may wait is awaited, the rest is as quick as ever.

Holds: Cache, AwaitingVerbs. Must not know: files. Joins: naru.cache.awaiting waits in one
thread for all tasks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from naru.cache import awaiting
from naru.cache.awaiting import AsyncLock
from naru.cache.making import Order
from naru.cache.store import Tags
from naru.cache.verbs import CacheBase

__all__ = ["AwaitingVerbs", "Cache"]

Function = TypeVar("Function", bound=Callable[..., Any])


class AwaitingVerbs:
    """See naru.aio.Cache."""

    _store: Any

    async def get_or_set(
        self,
        key: str | bytes,
        make: Callable[[], Awaitable[Any] | Any],
        ttl_s: float | None = None,
        tags: Tags = None,
        *,
        stale_s: float = 0,
        timeout_s: float | None = None,
    ) -> Any:
        """As naru.Cache.get_or_set(); `make` may be a coroutine function.

        Cancelling the task that makes the value passes the turn on.
        """
        order = Order(self._store, key, ttl_s, tags, stale_s)
        return await awaiting.get_or_set(order, make, timeout_s)

    def lock(
        self, name: str | bytes, ttl_s: float | None = None, timeout_s: float | None = None
    ) -> AsyncLock:
        """As naru.Cache.lock(): `async with cache.lock("report"): ...`"""
        return AsyncLock(self._store, name, ttl_s, timeout_s)

    def memoize(
        self,
        ttl_s: float | None = None,
        tags: Tags = None,
        *,
        stale_s: float = 0,
        timeout_s: float | None = None,
        key: Callable[..., str | bytes] | None = None,
    ) -> Callable[[Function], Function]:
        """As naru.Cache.memoize(), for coroutine functions; others would hold up the loop.

        Raises: TypeError: the function is no coroutine function.
        """

        def decorate(function: Function) -> Function:
            import inspect

            from naru.cache.memoizing import memoize

            if not inspect.iscoroutinefunction(function):
                raise TypeError(
                    f"{function!r} is no coroutine function: naru.Cache.memoize is for it"
                )
            made: Any = memoize(
                self._store,
                function,
                ttl_s=ttl_s,
                tags=tags,
                stale_s=stale_s,
                timeout_s=timeout_s,
                key=key,
            )
            return made  # type: ignore[no-any-return]

        return decorate


class Cache(AwaitingVerbs, CacheBase):
    """As naru.Cache, for one event loop or several.

    get, set and the other verbs on keys are ordinary calls: they take less time than an await. (A writer
    may wait for another process in the middle of a write: microseconds, and lock_timeout_s at most.)
    """

    @property
    def _store(self) -> Any:
        return self
