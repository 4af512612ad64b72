from typing_extensions import disjoint_base

from naru.errors import NaruError

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
