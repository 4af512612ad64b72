"""The one message API: an address in, an end out.

Holds: listen, connect, pair, sender, receiver. Everything that an end can do is in the end itself
(naru._native.endpoint). Must not know: any mechanism; the address names the transport, which makes
the end.
"""

from __future__ import annotations

from naru._native.ends import Channel, Endpoint, Receiver, Sender
from naru.address import Address, parse, parse_pair
from naru.transports import function_of
from naru.transports.contract import Peer
from naru.transports.listener import Listener

__all__ = [
    "Channel",
    "Endpoint",
    "Listener",
    "Peer",
    "Receiver",
    "Sender",
    "connect",
    "listen",
    "pair",
    "receiver",
    "sender",
]


def listen(address: str | Address) -> Listener:
    """Takes a name and listens for conversations: unix, shm, tcp, udp.

    Args:
        address: such as "shm://orders", "unix:///run/app.sock?mode=0660", "tcp://127.0.0.1:0".

    Raises:
        BadAddressError: before anything is created.
        NameTakenError: a living process has the name; a dead one's is taken over.
        NotPermittedError, LimitError, UnsupportedError (a transport without conversations).
    """
    parsed = parse(address)
    made: Listener = function_of(parsed.transport, "listen", parsed)(parsed)
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
    parsed = parse(address)
    made: Channel = function_of(parsed.transport, "connect", parsed)(parsed, timeout_s)
    return made


def pair(address: str | Address) -> tuple[Channel, Channel]:
    """Two ends joined to each other, for a parent and its children: shm, pipe, unix, tcp, udp.

    Each end belongs to the first process that uses it, whether it came there by fork or by pickle
    (multiprocessing). Use one, hand the other over.

    Args:
        address: "shm", or with options: "shm:?capacity_bytes=65536".
    """
    parsed = parse_pair(address)
    ends: tuple[Channel, Channel] = function_of(parsed.transport, "pair", parsed)(parsed)
    return ends


def receiver(address: str | Address) -> Receiver:
    """Takes a name and receives from many senders: unix, shm, tcp, udp, fifo, mq.

    Raises: as listen().
    """
    parsed = parse(address)
    made: Receiver = function_of(parsed.transport, "receiver", parsed)(parsed)
    return made


def sender(address: str | Address, timeout_s: float | None = 5.0) -> Sender:
    """One of the senders to a receiver; waits while there is none yet.

    Args and Raises: as connect().
    """
    parsed = parse(address)
    made: Sender = function_of(parsed.transport, "sender", parsed)(parsed, timeout_s)
    return made
