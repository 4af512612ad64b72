from collections.abc import Collection, Iterable, Sequence
from typing import Any

from _typeshed import HasFileno

from naru._native.endpoint import Endpoint
from naru._native.views import Reservation
from naru.buffers import ReadableBuffer

class Sender(Endpoint):
    def send(
        self, data: ReadableBuffer, timeout_s: float | None = None, *, priority: int = 0
    ) -> None: ...
    def try_send(self, data: ReadableBuffer, *, priority: int = 0) -> bool: ...
    def send_parts(
        self,
        buffers: Collection[ReadableBuffer],
        timeout_s: float | None = None,
        *,
        priority: int = 0,
    ) -> None: ...
    def send_many(
        self, messages: Iterable[ReadableBuffer], timeout_s: float | None = None
    ) -> None: ...
    def reserve(self, size_bytes: int, timeout_s: float | None = None) -> Reservation: ...
    def send_fds(
        self,
        data: ReadableBuffer,
        fds: Sequence[int | HasFileno],
        timeout_s: float | None = None,
    ) -> None: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def _push_rest(self, slice_s: float) -> bool: ...
