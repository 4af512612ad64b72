"""naru: messages between the processes of a Linux machine, over every mechanism the kernel has.

    import naru

    with naru.listen("shm://orders") as listener:          # one process
        with listener.accept() as channel:
            for message in channel:
                ...

    with naru.connect("shm://orders") as channel:          # another
        channel.send(b"hello")

Map of the package (each layer knows only those below it):

    cli  bench  testing            the command, `naru bench` and `probe`, the conformance suite
    auto/                          auto://: negotiates, and moves a channel while it runs
    choosing/                      which transport: needs, profile, policy
    aio/                           the same verbs for asyncio: `from naru import aio`
    requests/                      serve, client: request and reply
    reactor/ engine signals        one loop for everything; native protocols; signals as messages
    channel publishing             listen, connect, pair, sender, receiver; publisher, subscriber
    cache/                         keys and values that all processes share
    files/                         bytes moved without copying, huge files in windows
    transports/                    one file per mechanism, all of one shape
    _native/                       the ends and every verb: Cython over the C11 core in native/
    codec/                         objects and arrays as messages
    errors address settings        beside channel; import nothing of naru
    runtime statistics sizes

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
    RemoteError,
    TimedOutError,
    TooBigError,
    UnsupportedError,
)
from naru.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from naru.address import Address, parse
    from naru.auto.channels import AutoChannel, Selection
    from naru.cache.cache import Cache
    from naru.cache.locks import Lock
    from naru.cache.records import CacheReport, CacheStatistics
    from naru.choosing.front import choose
    from naru.choosing.needs import Needs
    from naru.choosing.policy import Choice
    from naru.engine import Engine
    from naru.publishing import Publisher, Subscriber, Subscription, publisher, subscriber
    from naru.reactor import Reactor
    from naru.requests.client import Client, client
    from naru.requests.guests import Reply, Request
    from naru.requests.pending import PendingReply
    from naru.requests.records import ClientStatistics, ServerStatistics
    from naru.requests.server import Server, serve
    from naru.statistics import Statistics
    from naru.transports.contract import Peer
    from naru.transports.listener import Listener

__all__ = [
    "Address",
    "AutoChannel",
    "BadAddressError",
    "Batch",
    "Cache",
    "CacheReport",
    "CacheStatistics",
    "Channel",
    "Choice",
    "Client",
    "ClientStatistics",
    "ClosedError",
    "CorruptedError",
    "Endpoint",
    "Engine",
    "ForkedHandleError",
    "LimitError",
    "Listener",
    "Lock",
    "NameTakenError",
    "NaruError",
    "Needs",
    "NoSpaceError",
    "NoSuchNameError",
    "NotPermittedError",
    "Peer",
    "PeerGoneError",
    "PendingReply",
    "ProtocolError",
    "Publisher",
    "Reactor",
    "Receiver",
    "RemoteError",
    "Reply",
    "Request",
    "Selection",
    "Sender",
    "Server",
    "ServerStatistics",
    "Statistics",
    "Subscriber",
    "Subscription",
    "TimedOutError",
    "TooBigError",
    "UnsupportedError",
    "View",
    "__version__",
    "choose",
    "client",
    "connect",
    "listen",
    "pair",
    "parse",
    "publisher",
    "receiver",
    "sender",
    "serve",
    "subscriber",
]

# Public names whose modules bring dataclasses, re or socket: three quarters of the time that
# `import naru` would take, for what many programs never ask for by name.
_LATE = {
    "Address": "naru.address",
    "AutoChannel": "naru.auto.channels",
    "Cache": "naru.cache.cache",
    "CacheReport": "naru.cache.records",
    "CacheStatistics": "naru.cache.records",
    "Choice": "naru.choosing.policy",
    "Client": "naru.requests.client",
    "ClientStatistics": "naru.requests.records",
    "Engine": "naru.engine",
    "Listener": "naru.transports.listener",
    "Lock": "naru.cache.locks",
    "Needs": "naru.choosing.needs",
    "Peer": "naru.transports.contract",
    "PendingReply": "naru.requests.pending",
    "Publisher": "naru.publishing",
    "Reactor": "naru.reactor",
    "Reply": "naru.requests.guests",
    "Request": "naru.requests.guests",
    "Selection": "naru.auto.channels",
    "Server": "naru.requests.server",
    "ServerStatistics": "naru.requests.records",
    "Statistics": "naru.statistics",
    "Subscriber": "naru.publishing",
    "Subscription": "naru.publishing",
    "choose": "naru.choosing.front",
    "client": "naru.requests.client",
    "parse": "naru.address",
    "publisher": "naru.publishing",
    "serve": "naru.requests.server",
    "subscriber": "naru.publishing",
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
