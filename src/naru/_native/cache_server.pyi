from collections.abc import Sequence
from typing import Any, Self

from typing_extensions import disjoint_base

from naru._native.engine import Engine, Service

PROCESSES_MOST: int
PAGE_BYTES: int

@disjoint_base
class CacheServer:
    def __new__(
        cls,
        fd: int,
        page: int,
        *,
        name: str = "",
        process: int = 0,
        processes: int = 1,
        inbox: int | None = None,
        outboxes: Sequence[int] = (),
        password: str | bytes | None = None,
        clients_most: int = 0,
        value_bytes_most: int = 0,
        lock_wait_s: float = 0,
        cluster_host: str | None = None,
        cluster_ports: Sequence[int] = (),
        port: int = 0,
        output_limit_bytes: int = 0,
    ) -> Self: ...
    def attach(self, engine: Engine, **limits: Any) -> Service: ...
    def has_successor(self) -> bool: ...
    def change_table(self, fd: int) -> None: ...
    def statistics(self) -> dict[str, int]: ...
