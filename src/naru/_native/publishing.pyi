from typing import TypeVar

from naru._native.endpoint import Endpoint
from naru.address import Address
from naru.settings import Settings
from naru.transports.contract import Peer, Place

_End = TypeVar("_End", bound=Endpoint)

def open_publisher(
    cls: type[_End], settings: Settings, *, address: Address, place: Place | None = None
) -> _End: ...
def add_subscriber(
    publisher: Endpoint, policy: int, peer: Peer, fences: bool, lifeline: int
) -> list[int]: ...
def open_subscriber(
    cls: type[_End],
    settings: Settings,
    data: int,
    slot_fd: int,
    fences: bool,
    lifeline: int,
    data_bell: int,
    space_bell: int,
    *,
    address: Address,
    peer: Peer | None = None,
    place: Place | None = None,
) -> _End: ...
def open_fan_out(
    cls: type[_End], settings: Settings, *, address: Address, place: Place | None = None
) -> _End: ...
def add_connection(
    publisher: Endpoint, policy: int, peer: Peer | None, connection: Endpoint, greeting: bytes
) -> None: ...
def want_newest(subscriber: Endpoint) -> None: ...
def step(publisher: Endpoint) -> None: ...
def lives(publisher: Endpoint) -> int: ...
def subscriptions(publisher: Endpoint) -> list[tuple[int, int, int, int, int, int]]: ...
def lost(subscriber: Endpoint) -> int: ...
