from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from typing_extensions import disjoint_base

from naru.buffers import WriteableBuffer
from naru.errors import NaruError

Default = TypeVar("Default")

def error_of(
    result: int, operation: str, address: object, detail: str | None = None
) -> NaruError: ...

@disjoint_base
class Mapping: ...

@disjoint_base
class Tags: ...

def create(
    fd: int,
    *,
    size_bytes: int,
    shards: int = 0,
    entry_bytes: int = 0,
    small_percent: int = 0,
    seed: bytes = b"",
    codec: bytes = b"",
    address: object = None,
) -> Mapping: ...
def attach(fd: int, *, address: object = None) -> Mapping: ...

@disjoint_base
class Table:
    def __init__(
        self,
        mapping: Mapping,
        *,
        address: object,
        lock_timeout_s: float | None,
        packer: Callable[[Any], tuple[int, bytes, Any]],
        unpacker: Callable[[int, bytes], Any],
    ) -> None: ...
    @property
    def address(self) -> Any: ...
    @property
    def closed(self) -> bool: ...
    @property
    def _mapping(self) -> Mapping: ...
    def _open_successor(self) -> Mapping: ...
    def _close(self) -> None: ...
    def _shift_clock(self, ms: int) -> None: ...
    def _read(self, key: str | bytes, absent: Any) -> tuple[Any, int, int]: ...
    def get(self, key: str | bytes, default: Any = None) -> Any: ...
    def __getitem__(self, key: str | bytes, /) -> Any: ...
    def __contains__(self, key: str | bytes, /) -> bool: ...
    def get_many(self, keys: Iterable[str | bytes]) -> dict[str | bytes, Any]: ...
    def get_versioned(self, key: str | bytes) -> tuple[Any, int] | None: ...
    def get_into(self, key: str | bytes, buffer: WriteableBuffer) -> int | None: ...
    def ttl_s(self, key: str | bytes) -> float | None: ...
    def set(
        self,
        key: str | bytes,
        value: Any,
        ttl_s: float | None = None,
        tags: Iterable[str | bytes] | str | bytes | None = None,
    ) -> None: ...
    def __setitem__(self, key: str | bytes, value: Any, /) -> None: ...
    def add(
        self,
        key: str | bytes,
        value: Any,
        ttl_s: float | None = None,
        tags: Iterable[str | bytes] | str | bytes | None = None,
    ) -> bool: ...
    def replace(
        self,
        key: str | bytes,
        value: Any,
        ttl_s: float | None = None,
        tags: Iterable[str | bytes] | str | bytes | None = None,
    ) -> bool: ...
    def cas(
        self,
        key: str | bytes,
        value: Any,
        version: int,
        ttl_s: float | None = None,
        tags: Iterable[str | bytes] | str | bytes | None = None,
    ) -> bool: ...
    def set_many(
        self,
        items: Any,
        ttl_s: float | None = None,
        tags: Iterable[str | bytes] | str | bytes | None = None,
    ) -> None: ...
    def delete(self, key: str | bytes) -> bool: ...
    def __delitem__(self, key: str | bytes, /) -> None: ...
    def delete_many(self, keys: Iterable[str | bytes]) -> int: ...
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
