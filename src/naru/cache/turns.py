"""The verbs that wait for another process: its making of a value, its lock.

Holds: WaitingVerbs. Must not know: asyncio (naru.aio.cache has their twins), where the values are.
Joins: naru.Cache and naru.cache.RemoteCache inherit it; making.py and locks.py do the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from naru.cache import making
from naru.cache.locks import Lock
from naru.cache.store import Key, Store, Tags

__all__ = ["WaitingVerbs"]

Function = TypeVar("Function", bound=Callable[..., Any])


class WaitingVerbs:
    """See naru.Cache."""

    def get_or_set(
        self: Store,
        key: Key,
        make: Callable[[], Any],
        ttl_s: float | None = None,
        tags: Tags = None,
        *,
        stale_s: float = 0,
        timeout_s: float | None = None,
    ) -> Any:
        """The value; when there is none, one process of all makes it and the others wait for it.

        Args:
            make: called without arguments, in this thread, if it is this process's turn.
            ttl_s, tags: of the value that is made, as set().
            stale_s: so long after ttl_s the old value is still kept: one process makes the new one,
                the others get the old one at once. Say the same at every call for a key.
            timeout_s: how long to wait for another process's make at most; None: as long as it lives.

        Returns: the value, made here or there.

        Raises:
            What make() raises: to its own caller alone; the next one has the turn then.
            TimedOutError: another process was still making it.
            RuntimeError: make() asked for the key that it makes. As set().
        """
        order = making.Order(self, key, ttl_s, tags, stale_s)
        return making.get_or_set(order, make, timeout_s)

    def lock(
        self: Store, name: Key, ttl_s: float | None = None, timeout_s: float | None = None
    ) -> Lock:
        """A lock by name: `with cache.lock("report"): ...`

        Args:
            name: not a key; locks and keys do not meet.
            ttl_s: after so long it is free, even though its owner lives; None: as long as that lives.
            timeout_s: how long `with` waits at most; None: for ever.
        """
        return Lock(self, name, ttl_s, timeout_s)

    def memoize(
        self: Store,
        ttl_s: float | None = None,
        tags: Tags = None,
        *,
        stale_s: float = 0,
        timeout_s: float | None = None,
        key: Callable[..., Key] | None = None,
    ) -> Callable[[Function], Function]:
        """Decorator: results are remembered, for all processes, as get_or_set() does.

        Args:
            key: called with the arguments, gives what stands for them; None: all arguments, which then
                have to be what msgpack knows. The function's module and qualified name always belong
                to it.

        Returns: a decorator for functions and coroutine functions. What it gives has `.forget(*args)`,
        which says whether there was a result, `.key(*args)`, and `.__wrapped__`.
        """

        def decorate(function: Function) -> Function:
            from naru.cache.memoizing import memoize

            made: Any = memoize(
                self,
                function,
                ttl_s=ttl_s,
                tags=tags,
                stale_s=stale_s,
                timeout_s=timeout_s,
                key=key,
            )
            return made  # type: ignore[no-any-return]

        return decorate
