"""The contract of every transport: what it can, and what it has to offer.

Holds: `Capabilities` (one row of the table that `naru transports` prints, the docs show and
`naru.choose` will read), `Transport` (the functions a module of this folder has), `Place` (what
must be closed together with an end), `Listener`'s protocol. The semantics (order, loss, tearing,
blocking, errors) are stated once, in native/include/naru/endpoint.h, and checked for every
transport by `naru.testing.check_transport`.
Must not know: any mechanism.
Joins: `naru.channel` finds a transport by its name and calls these functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from naru._native.ends import Channel, Endpoint, Receiver, Sender
    from naru.address import Address
    from naru.settings import Settings
    from naru.transports.connecting import Deadline
    from naru.transports.listener import Listener

__all__ = ["Capabilities", "End", "Peer", "Place", "Transport"]

End = TypeVar("End", bound="Endpoint")


class Peer(NamedTuple):
    """Who is at the other end of a Unix or shm connection, as the kernel saw it at connect time."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a transport can, on this machine."""

    transport: str
    mechanism: str
    channel: bool
    """listen/accept/connect: both directions."""
    pair: bool
    """naru.pair(): between a parent and its children."""
    many_senders: bool
    """naru.receiver/sender: many senders, one receiver."""
    order: bool
    """One sender's messages arrive in the order in which they were sent."""
    reliable: bool
    """Nothing is lost while both processes live."""
    back_pressure: bool
    """A full receiver makes the sender wait."""
    descriptors: bool
    """Open files travel with messages."""
    priority: bool
    in_place: bool
    """lease() and reserve() look at the transport's own memory, without a copy."""
    peer_credentials: bool
    peer_death: str
    """How the end of a dead peer is seen."""
    crosses_machines: bool
    max_message_bytes: Callable[[], int]
    """The largest message, on this machine, with the default options."""


class Place:
    """What belongs to an end besides its connection: closed with it, after it."""

    __slots__ = ("_closers", "linger_s", "passes_fds")

    def __init__(
        self, settings: Settings, *closers: Callable[[], object], passes_fds: bool = False
    ) -> None:
        self.linger_s = settings.linger_s
        self.passes_fds = passes_fds
        self._closers = list(closers)

    def add_closer(self, closer: Callable[[], object]) -> None:
        """Runs before those that are here already."""
        self._closers.append(closer)

    def close(self) -> None:
        """Runs every closer once, the last errors of which come out."""
        while self._closers:
            self._closers.pop()()


class Transport(Protocol):
    """A module of this folder. A function that it does not have is a shape that it cannot."""

    capabilities: Capabilities

    def listen(self, address: Address) -> Listener: ...
    def connect(self, address: Address, deadline: Deadline) -> Channel: ...
    def pair(self, address: Address) -> tuple[Channel, Channel]: ...
    def sender(self, address: Address, deadline: Deadline) -> Sender: ...
    def receiver(self, address: Address) -> Receiver: ...
