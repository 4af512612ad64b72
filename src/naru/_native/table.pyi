from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from typing_extensions import disjoint_base

from naru._native.table_file import Mapping
from naru._native.table_reading import Readable

_Tags: TypeAlias = Iterable[str | bytes] | str | bytes | None

@disjoint_base
class Table(Readable):
    def __init__(
        self,
        mapping: Mapping,
        *,
        address: object,
        lock_timeout_s: float | None,
        packer: Callable[[Any], tuple[int, bytes, Any]],
        unpacker: Callable[[int, bytes], Any],
    ) -> None: ...
    def set(
        self,
        key: str | bytes,
        value: Any,
        ttl_s: float | None = None,
        tags: _Tags = None,
    ) -> None: ...
    def __setitem__(self, key: str | bytes, value: Any, /) -> None: ...
    def add(
        self,
        key: str | bytes,
        value: Any,
        ttl_s: float | None = None,
        tags: _Tags = None,
    ) -> bool: ...
    def replace(
        self,
        key: str | bytes,
        value: Any,
        ttl_s: float | None = None,
        tags: _Tags = None,
    ) -> bool: ...
    def cas(
        self,
        key: str | bytes,
        value: Any,
        version: int,
        ttl_s: float | None = None,
        tags: _Tags = None,
    ) -> bool: ...
    def set_many(
        self,
        items: Any,
        ttl_s: float | None = None,
        tags: _Tags = None,
    ) -> None: ...
    def delete(self, key: str | bytes) -> bool: ...
    def __delitem__(self, key: str | bytes, /) -> None: ...
    def delete_many(self, keys: Iterable[str | bytes]) -> int: ...
    def _remove_version(self, key: str | bytes, version: int) -> bool: ...
    def touch(self, key: str | bytes, ttl_s: float | None = None) -> bool: ...
    def incr(
        self,
        key: str | bytes,
        delta: int = 1,
        initial: int | None = 0,
        ttl_s: float | None = None,
    ) -> int: ...
    def decr(
        self,
        key: str | bytes,
        delta: int = 1,
        initial: int | None = 0,
        ttl_s: float | None = None,
    ) -> int: ...
    def pop(self, key: str | bytes, *default: Any) -> Any: ...
    def evict_tag(self, tag: str | bytes) -> None: ...
    def clear(self) -> None: ...
