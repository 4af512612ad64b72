from collections.abc import Callable, Iterable
from typing import Protocol

from typing_extensions import disjoint_base

METHODS: tuple[str, ...]

class _Digest(Protocol):
    def update(self, data: memoryview, /) -> object: ...

@disjoint_base
class Mover:
    def __new__(
        cls,
        source: int,
        target: int,
        methods: Iterable[str],
        offset: int | None = None,
        count: int | None = None,
        *,
        target_is_socket: bool = False,
        chunk_bytes: int | None = None,
    ) -> Mover: ...
    @property
    def moved_bytes(self) -> int: ...
    @property
    def held_bytes(self) -> int: ...
    @property
    def method(self) -> str: ...
    @property
    def waits_for_target(self) -> bool: ...
    def release(self) -> None: ...
    def step(self, limit_bytes: int) -> int | None: ...
    def run(
        self,
        step_bytes: int,
        timeout_s: float | None,
        progress: Callable[[int], object] | None,
        digest: _Digest | None,
        ask_source: bool,
        ask_target: bool,
    ) -> None: ...
