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
    files                          bytes moved without copying, huge files in windows
    channel                        listen, connect, pair, sender, receiver
    transports/                    one file per mechanism, all of one shape
    _native/                       the ends and every verb: Cython over the C11 core in native/
    errors address settings        beside channel; import nothing of naru
    runtime statistics

`import naru` loads the ends and the errors; the rest comes when it is first used (`_LATE`).
"""

from __future__ import annotations

from naru._native.views import Batch, View
from naru.channel import (
    Channel,
    Endpoint,
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
from naru.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from naru.address import Address, parse
    from naru.statistics import Statistics
    from naru.transports.contract import Peer
    from naru.transports.listener import Listener

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

# Public names whose modules bring dataclasses, re or socket: three quarters of the time that
# `import naru` would take, for what many programs never ask for by name.
_LATE = {
    "Address": "naru.address",
    "Listener": "naru.transports.listener",
    "Peer": "naru.transports.contract",
    "Statistics": "naru.statistics",
    "parse": "naru.address",
}

if not TYPE_CHECKING:  # a type checker that saw this would accept every misspelt name

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(_LATE[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATE})
