from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar, type_check_only

from naru._native.endpoint import Endpoint
from naru._native.receiving import Receiver
from naru.address import Address
from naru.settings import Settings
from naru.transports.contract import Peer, Place
from naru.transports.pairs import Recipe

_End = TypeVar("_End", bound=Endpoint)

@type_check_only
class _Door(Protocol):
    @property
    def pending(self) -> bool: ...
    @property
    def deadline_ns(self) -> int: ...
    def fileno(self) -> int: ...
    def step(self) -> None: ...

def open_stream(
    cls: type[_End],
    settings: Settings,
    kind: Literal["pipe", "unix", "tcp"],
    incoming: int,
    outgoing: int,
    *,
    address: Address,
    peer: Peer | None = None,
    place: Place | None = None,
    coalesce: bool = False,
    heartbeat_ms: int = 0,
) -> _End: ...
def open_shm(
    cls: type[_End],
    settings: Settings,
    segment_fd: int,
    end: int,
    fences: bool,
    lifeline: int,
    data_bells: Sequence[int],
    space_bells: Sequence[int],
    *,
    address: Address,
    peer: Peer | None = None,
    place: Place | None = None,
) -> _End: ...
def open_fifo_receiver(
    cls: type[_End],
    settings: Settings,
    fd: int,
    keep_open: int,
    *,
    address: Address,
    place: Place | None = None,
) -> _End: ...
def open_fifo_sender(
    cls: type[_End],
    settings: Settings,
    fd: int,
    sender: int,
    *,
    address: Address,
    place: Place | None = None,
) -> _End: ...
def open_mq(
    cls: type[_End],
    settings: Settings,
    queue: int,
    receiver: bool,
    *,
    address: Address,
    place: Place | None = None,
) -> _End: ...
def open_datagrams(
    cls: type[_End],
    settings: Settings,
    fd: int,
    raw: bool,
    connection: int,
    heartbeat_ms: int,
    *,
    address: Address,
    peer: Peer | None = None,
    place: Place | None = None,
) -> _End: ...
def open_fan_in(
    cls: type[_End],
    settings: Settings,
    door: _Door,
    bell: int,
    *,
    address: Address,
    place: Place | None = None,
) -> _End: ...
def add_sender(fan_in: Receiver, child: Endpoint) -> None: ...
def sender_count(fan_in: Receiver) -> int: ...
def join_pair(a: Endpoint, b: Endpoint, claims_fd: int, recipes: tuple[Recipe, Recipe]) -> None: ...
def rejoin_pair(end: Endpoint, claims_fd: int, index: int, recipe: Recipe) -> None: ...
def create_claims() -> int: ...
def has_barrier() -> bool: ...
def open_mover(
    cls: type[_End],
    settings: Settings,
    first: Endpoint,
    *,
    address: Address,
    peer: Peer | None = None,
    place: Place | None = None,
) -> _End: ...
def prepare_move(mover: Endpoint, following: Endpoint) -> None: ...
def turn_sending(mover: Endpoint) -> bool: ...
def give_up_move(mover: Endpoint) -> bool: ...
def is_moving(mover: Endpoint) -> bool: ...
