"""What is put under test: factories for ends, and what the transport says that it can.

Holds: the protocols that a transport's ends fulfil, and TransportUnderTest.
Must not know: any transport; naru's own ends and a third party's are told apart by nothing.
Joins: the checks (naru.testing.checks) ask a TransportUnderTest for ends and for its traits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

__all__ = ["AnyChannel", "AnyListener", "AnyReceiver", "AnySender", "TransportUnderTest"]

Buffer: TypeAlias = Any
"""Any contiguous buffer: bytes, bytearray, memoryview, array.array, a numpy array."""


class AnyEnd(Protocol):
    """What every end has."""

    @property
    def address(self) -> Any: ...
    @property
    def closed(self) -> bool: ...
    @property
    def peer(self) -> Any: ...
    def close(self) -> None: ...
    def statistics(self) -> Any: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc_info: Any) -> None: ...


class AnySender(AnyEnd, Protocol):
    """The sending verbs; their promises stand at naru.Sender."""

    def send(self, data: Buffer, timeout_s: float | None = None) -> None: ...
    def try_send(self, data: Buffer) -> bool: ...
    def send_parts(self, buffers: Sequence[Buffer], timeout_s: float | None = None) -> None: ...
    def send_many(self, messages: Sequence[Buffer], timeout_s: float | None = None) -> None: ...
    def reserve(
        self, size_bytes: int, timeout_s: float | None = None
    ) -> AbstractContextManager[memoryview]: ...
    def send_fds(
        self, data: Buffer, fds: Sequence[Any], timeout_s: float | None = None
    ) -> None: ...


class AnyReceiver(AnyEnd, Protocol):
    """The receiving verbs; their promises stand at naru.Receiver."""

    def receive(self, timeout_s: float | None = None) -> bytes: ...
    def try_receive(self) -> bytes | None: ...
    def receive_many(self, limit: int = 64, timeout_s: float | None = None) -> list[bytes]: ...
    def receive_into(self, buffer: Any, timeout_s: float | None = None) -> int: ...
    def lease(self, timeout_s: float | None = None) -> AbstractContextManager[memoryview]: ...
    def lease_many(
        self, limit: int = 64, timeout_s: float | None = None
    ) -> AbstractContextManager[Any]: ...
    def receive_fds(
        self, limit: int = 253, timeout_s: float | None = None
    ) -> tuple[bytes, list[int]]: ...
    def fileno(self) -> int: ...
    def __iter__(self) -> Any: ...
    def __next__(self) -> bytes: ...


class AnyChannel(AnySender, AnyReceiver, Protocol):
    """One end of a conversation."""


class AnyListener(Protocol):
    """A name that gives channels."""

    @property
    def address(self) -> Any: ...
    @property
    def closed(self) -> bool: ...
    def accept(self, timeout_s: float | None = None) -> AnyChannel: ...
    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class TransportUnderTest:
    """One shape of one transport: how to make its ends, and what they promise.

    Give `make_channel_pair` for conversations, or `make_receiver` and `make_sender` for a one-way
    queue (a shape each: one TransportUnderTest each); `make_listener` and `make_connection` besides
    for conversations by name. Each call makes something fresh; the checks close it.

    A trait is a promise. What is promised is checked; what is not promised is checked to be refused
    with UnsupportedError where there is a verb for it, and otherwise not looked at.
    """

    name: str
    make_channel_pair: Callable[[], tuple[AnyChannel, AnyChannel]] | None = None
    make_receiver: Callable[[], AnyReceiver] | None = None
    make_sender: Callable[[Any], AnySender] | None = None
    """From the receiver that make_receiver() gave."""
    make_listener: Callable[[], AnyListener] | None = None
    make_connection: Callable[[Any], AnyChannel] | None = None
    """From the listener that make_listener() gave; must not need accept() to return first, or is
    called in a thread of its own."""

    max_message_bytes: int
    """The largest message; one more byte is refused. Choose it small (1 MiB): it is tried out."""
    holds_messages: int = 10
    """So many messages of 64 bytes can be sent before any is received."""
    boundaries: bool = True
    """What is sent as one message is received as one. (raw streams have none.)"""
    order: bool = True
    reliable: bool = True
    """Nothing is lost while both ends live."""
    back_pressure: bool = True
    """A full receiver makes the sender wait."""
    tells_end: bool = True
    """The receiving end learns that the sender closed: iteration ends. (A fan-in goes on.)"""
    tells_gone: bool = True
    """The sending end learns that the receiver is gone, at the latest when it cannot send more."""
    descriptors: bool = False
    priority: bool = False
    in_place: bool = False
    """A leased message stays where it is; its room is the sender's again when the lease ends."""
    arrays: bool = True
    """lease_many() batches have .array(dtype); needs numpy."""
    values: bool = True
    """send_object, send_array, lease_array, reserve_array and their kin."""
    pollable: bool = True
    """fileno() can be polled."""
    counts: bool = True
    """statistics() is a naru.Statistics, and what it counts adds up."""
    wakes: bool = True
    """close() by another thread ends every wait of the closed end with ClosedError."""

    @property
    def is_channel(self) -> bool:
        """Has both directions."""
        return self.make_channel_pair is not None

    @property
    def is_fan_in(self) -> bool:
        """Has one receiver and many senders."""
        return self.make_receiver is not None and self.make_sender is not None

    @property
    def is_listening(self) -> bool:
        """Has conversations by name."""
        return self.make_listener is not None and self.make_connection is not None
