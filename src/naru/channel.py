"""The one message API: an address in, an end out.

Holds: listen, connect, pair, sender, receiver. Everything that an end can do is in the end itself
(naru._native.endpoint). Must not know: any mechanism; the address names the transport, which makes
the end.
"""

from __future__ import annotations

from naru._native.ends import Channel, Endpoint, Receiver, Sender

TYPE_CHECKING = False  # what `import naru` loads does without typing: 15 ms
if TYPE_CHECKING:
    from typing import Any

    from naru.address import Address
    from naru.transports.listener import Listener

__all__ = [
    "Channel",
    "Endpoint",
    "Receiver",
    "Sender",
    "connect",
    "listen",
    "pair",
    "receiver",
    "sender",
]


def _make(verb: str, text: str | Address, *args: Any) -> Any:
    address, function = _find(verb, text)
    return _call(verb, address, function, *args)


def reach(verb: str, text: str | Address, timeout_s: float | None, given_up: int = -1) -> Any:
    """connect, sender: what waits for somebody to be there. For naru.aio, whose tasks may be cancelled.

    Args:
        given_up: a descriptor whose getting readable ends the wait: GivenUpError.
    """
    address, function = _find(verb, text)
    from naru.transports.connecting import Deadline  # _find has loaded it

    return _call(verb, address, function, Deadline(timeout_s, given_up))


def _find(verb: str, text: str | Address) -> tuple[Address, Any]:
    # Late: the parser and the transports bring re, dataclasses and socket, which take four times as
    # long as the whole of `import naru`.
    from naru.errors import from_os_error

    try:
        from naru.address import parse, parse_pair
        from naru.transports import connecting, function_of  # noqa: F401  (for reach)
    except OSError as error:  # no descriptor is left to read the modules with
        raise from_os_error(error, f"naru.{verb}", text) from error

    address = parse_pair(text) if verb == "pair" else parse(text)
    return address, function_of(address.transport, verb, address)


def _call(verb: str, address: Address, function: Any, *args: Any) -> Any:
    from naru.errors import from_os_error

    try:
        return function(address, *args)
    except OSError as error:  # what a transport did not foresee; naru's own pass unchanged
        raise from_os_error(error, f"{address.transport}.{verb}", address) from error


def listen(address: str | Address) -> Listener:
    """Takes a name and listens for conversations: unix, shm, tcp, udp.

    Args:
        address: such as "shm://orders", "unix:///run/app.sock?mode=0660", "tcp://127.0.0.1:0".

    Raises:
        BadAddressError: before anything is created.
        NameTakenError: a living process has the name; a dead one's is taken over.
        NotPermittedError, LimitError, UnsupportedError (a transport without conversations).
    """
    made: Listener = _make("listen", address)
    return made


def connect(address: str | Address, timeout_s: float | None = 5.0) -> Channel:
    """Connects to a listener; waits while there is none yet.

    Args:
        timeout_s: seconds to wait for the listener to be there and to greet; None = for ever,
            0 = one try.

    Raises:
        NoSuchNameError: nobody listened in time. TimedOutError: somebody did, but was too busy.
        NotPermittedError, ProtocolError (not naru), UnsupportedError, BadAddressError.
    """
    made: Channel = reach("connect", address, timeout_s)
    return made


def pair(address: str | Address) -> tuple[Channel, Channel]:
    """Two ends joined to each other, for a parent and its children: shm, pipe, unix, tcp, udp.

    Each end belongs to the first process that uses it, whether it came there by fork or by pickle
    (multiprocessing). Use one, hand the other over.

    Args:
        address: "shm", or with options: "shm:?capacity_bytes=65536".
    """
    ends: tuple[Channel, Channel] = _make("pair", address)
    return ends


def receiver(address: str | Address) -> Receiver:
    """Takes a name and receives from many senders: unix, shm, tcp, udp, fifo, mq.

    Raises: as listen().
    """
    made: Receiver = _make("receiver", address)
    return made


def sender(address: str | Address, timeout_s: float | None = 5.0) -> Sender:
    """One of the senders to a receiver; waits while there is none yet.

    Args and Raises: as connect().
    """
    made: Sender = reach("sender", address, timeout_s)
    return made
