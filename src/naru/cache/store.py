"""What is asked of a cache by all that is built on its quick verbs: whether a table of this machine fills
it, or a server of another.

Holds: Store. Must not know: who fills it. Joins: mapping.py, making.py, awaiting.py, locks.py and
memoizing.py use nothing else; CacheBase (verbs.py) and RemoteBase (remote/verbs.py) fill it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

__all__ = ["Key", "Store", "Tags"]

Key = str | bytes
Tags = Iterable[str | bytes] | str | bytes | None


class Store(Protocol):
    """The quick verbs, and claims: a key's turn or a lock, held by a number of this process."""

    _waits: dict[Any, Any]
    _is_far: bool
    """Its verbs take long enough to hold up an event loop."""

    @property
    def address(self) -> Any: ...
    @property
    def closed(self) -> bool: ...

    def get(self, key: Key, default: Any = None) -> Any: ...
    def set(self, key: Key, value: Any, ttl_s: float | None = None, tags: Tags = None) -> None: ...
    def add(self, key: Key, value: Any, ttl_s: float | None = None, tags: Tags = None) -> bool: ...
    def set_many(self, items: Any, ttl_s: float | None = None, tags: Tags = None) -> None: ...
    def delete(self, key: Key) -> bool: ...
    def touch(self, key: Key, ttl_s: float | None = None) -> bool: ...
    def scan(self, prefix: Key = b"") -> Iterator[bytes]: ...
    def close(self) -> None: ...

    def _read(self, key: Key, absent: Any) -> tuple[Any, int, int]:
        """(value, version, milliseconds left); version 0: not there; -1 left: it does not expire."""

    def _claim(self, key: Key, number: int, ttl_s: float | None = None) -> bool:
        """True: it is ours now, or was before and its time begins anew. False: another has it."""

    def _give_back(self, key: Key, number: int) -> bool:
        """False: it was not ours any more."""

    def _await_claim(self, key: Key, most_s: float) -> None:
        """Until something may have happened to it, or most_s went by."""

    async def _off_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls it where it does not hold up an event loop; at once where it never waits."""
