"""A cache as a mapping, over its quick verbs; the same for a local and a remote one.

Holds: MappingVerbs. Must not know: where the values are. Joins: CacheBase and RemoteBase inherit it.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, TypeVar

from naru.cache.store import Key, Store

__all__ = ["MappingVerbs"]

Any_store = TypeVar("Any_store", bound=Store)


class MappingVerbs:
    """See naru.Cache."""

    def __bool__(self) -> bool:
        return True  # an empty cache is a cache

    def __iter__(self: Store) -> Iterator[bytes]:
        return self.scan()

    def keys(self: Store) -> Iterator[bytes]:
        """As scan()."""
        return self.scan()

    def items(self: Store, prefix: Key = b"") -> Iterator[tuple[bytes, Any]]:
        """Keys, as bytes, with their values; those that go meanwhile are left out."""
        absent = object()
        for key in self.scan(prefix):
            value = self.get(key, absent)
            if value is not absent:
                yield key, value

    def values(self) -> Iterator[Any]:
        """As items(), without the keys."""
        items: Iterator[tuple[bytes, Any]] = self.items()  # type: ignore[misc]
        return (value for _, value in items)

    def setdefault(self: Store, key: Key, default: Any = None) -> Any:
        """The value; `default`, and from now on that, when there was none."""
        absent = object()
        while (value := self.get(key, absent)) is absent:
            if self.add(key, default):
                return default
        return value

    def update(self: Store, items: Any) -> None:
        """As set_many()."""
        self.set_many(items)

    def expire(self: Store, key: Key, ttl_s: float | None) -> bool:
        """As touch()."""
        return self.touch(key, ttl_s)

    def __enter__(self: Any_store) -> Any_store:
        return self

    def __exit__(
        self: Store,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
