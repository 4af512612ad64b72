"""naru: messages between the processes of a Linux machine, over every mechanism the kernel has.

    import naru

    with naru.listen("shm://orders") as listener:          # one process
        with listener.accept() as channel:
            for message in channel:
                ...

    with naru.connect("shm://orders") as channel:          # another
        channel.send(b"hello")

Map of the package (each layer knows only those below it):

    cli  bench  testing            the command, `naru bench`, the conformance suite
    channel                        listen, connect, pair, sender, receiver
    transports/                    one file per mechanism, all of one shape
    _native/                       the ends and every verb: Cython over the C11 core in native/
    errors address settings        beside channel; import nothing of naru
    runtime statistics
"""

from __future__ import annotations

from naru._native.views import Batch, View
from naru.address import Address, parse
from naru.channel import (
    Channel,
    Endpoint,
    Listener,
    Peer,
    Receiver,
    Sender,
    connect,
    listen,
    pair,
    receiver,
    sender,
)
from naru.errors import (
    BadAddressError,
    ClosedError,
    CorruptedError,
    ForkedHandleError,
    LimitError,
    NameTakenError,
    NaruError,
    NoSpaceError,
    NoSuchNameError,
    NotPermittedError,
    PeerGoneError,
    ProtocolError,
    TimedOutError,
    TooBigError,
    UnsupportedError,
)
from naru.statistics import Statistics
from naru.version import __version__

__all__ = [
    "Address",
    "BadAddressError",
    "Batch",
    "Channel",
    "ClosedError",
    "CorruptedError",
    "Endpoint",
    "ForkedHandleError",
    "LimitError",
    "Listener",
    "NameTakenError",
    "NaruError",
    "NoSpaceError",
    "NoSuchNameError",
    "NotPermittedError",
    "Peer",
    "PeerGoneError",
    "ProtocolError",
    "Receiver",
    "Sender",
    "Statistics",
    "TimedOutError",
    "TooBigError",
    "UnsupportedError",
    "View",
    "__version__",
    "connect",
    "listen",
    "pair",
    "parse",
    "receiver",
    "sender",
]
