from typing import Any, Literal, Self, TypeVar, overload

from numpy.typing import NDArray

from naru._native.endpoint import Endpoint
from naru._native.views import Batch, Lease
from naru.buffers import WriteableBuffer
from naru.codec.arrays import ArrayLease

_Value = TypeVar("_Value")
_Default = TypeVar("_Default")

class Receiver(Endpoint):
    def receive(self, timeout_s: float | None = None) -> bytes: ...
    def try_receive(self) -> bytes | None: ...
    def receive_many(self, limit: int = 64, timeout_s: float | None = None) -> list[bytes]: ...
    def receive_into(self, buffer: WriteableBuffer, timeout_s: float | None = None) -> int: ...
    def receive_with_priority(self, timeout_s: float | None = None) -> tuple[bytes, int]: ...
    def receive_fds(
        self, limit: int = 253, timeout_s: float | None = None
    ) -> tuple[bytes, list[int]]: ...
    def lease(self, timeout_s: float | None = None) -> Lease: ...
    def lease_many(self, limit: int = 64, timeout_s: float | None = None) -> Batch: ...
    @overload
    def receive_object(
        self,
        type: None = None,
        codec: Literal["msgpack", "pickle"] | None = None,
        timeout_s: float | None = None,
    ) -> Any: ...
    @overload
    def receive_object(
        self,
        type: type[_Value],
        codec: Literal["msgpack"] | None = None,
        timeout_s: float | None = None,
    ) -> _Value: ...
    @overload
    def receive_object(
        self,
        type: object,
        codec: Literal["msgpack"] | None = None,
        timeout_s: float | None = None,
    ) -> Any: ...
    @overload
    def try_receive_object(
        self,
        type: None = None,
        codec: Literal["msgpack", "pickle"] | None = None,
        default: object = None,
    ) -> Any: ...
    @overload
    def try_receive_object(
        self,
        type: type[_Value],
        codec: Literal["msgpack"] | None = None,
        default: _Default = ...,
    ) -> _Value | _Default: ...
    @overload
    def try_receive_object(
        self,
        type: object,
        codec: Literal["msgpack"] | None = None,
        default: object = None,
    ) -> Any: ...
    def receive_array(self, timeout_s: float | None = None) -> NDArray[Any]: ...
    def try_receive_array(self) -> NDArray[Any] | None: ...
    def lease_array(
        self, timeout_s: float | None = None, *, writable: bool = False
    ) -> ArrayLease: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes: ...
