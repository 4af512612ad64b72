"""naru.engine: native protocols in one thread, for as many connections as there are descriptors.

    import naru

    with naru.Engine() as engine:
        engine.echo("tcp://127.0.0.1:7000", "unix:@echo")
        engine.proxy("tcp://127.0.0.1:2375", target="unix:///var/run/docker.sock")
        engine.run()

Holds: addresses for the engine's services, what the descriptor limit allows, the meaning of the
counters.
Must not know: a protocol, or how the loop works (native/engine, native/include/naru/engine.h).
Joins: naru._native.engine runs it; cli/proxy.py and the benchmarks use it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from naru._native import engine as native
from naru._native.engine import FramesConnection, Service, raise_descriptor_limit
from naru.address import Address, parse
from naru.errors import UnsupportedError, from_os_error
from naru.settings import TcpSettings, UnixSettings
from naru.transports.tcp import resolve, with_port
from naru.transports.unix import bound_socket, name_of, set_buffers

__all__ = [
    "Engine",
    "EngineStatistics",
    "FramesConnection",
    "Service",
    "describe_limit",
    "listening_socket",
    "raise_descriptor_limit",
]

OWN_DESCRIPTORS = 16
"""Standard streams, the loop's three, listeners, the spare, a few pipes."""


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Numbers of one engine since it was created, each read at its own moment."""

    waits: int
    """Calls of the kernel's wait."""
    sleeps: int
    """Of those: that were allowed to sleep."""
    wakeups: int
    """Sleeps that ended with an event; an idle engine has none."""
    turns: int
    events: int
    stale_events: int
    """Events of descriptors that were closed without a word; nobody got them."""
    callbacks: int
    timers_fired: int
    timers_missed: int
    """Periods that went by unserved: skipped, never made up for in a burst."""
    wakes: int
    rebuilds: int
    """New epolls, to be rid of descriptors that were closed while a copy lives."""
    source_count: int
    timer_count: int
    busy_ns: int
    """In callbacks, all turns together."""
    turn_longest_ns: int
    """What a ready connection may have waited at most."""
    turns_by_ns: tuple[int, ...]
    """Place i counts the turns that took [2**i, 2**(i+1)) ns; 40 places."""


class Engine(native.Engine):
    """One thread's loop over any number of connections, served in C with the GIL released.

    An engine is one thread's; stop(), statistics(), a service's drain(), cut_all() and
    stop_listening() may be called from any. Limits of a service, all optional:
    `connection_limit`, `idle_timeout_s`, `stall_timeout_s` (30: a peer that takes nothing of what
    waits for it is cut off), `high_water_bytes` (256 KiB: above, this peer is not read),
    `low_water_bytes`, `output_limit_bytes` (16 MiB: above, it is cut off), `input_limit_bytes`,
    `linger_timeout_s`, `accept_batch`.

    Raises: LimitError without three free descriptors.
    Source: epoll(7), timerfd_create(2), accept(2).
    """

    def echo(self, *addresses: str | Address, **limits: Any) -> Service:
        """Sends every byte back. Returns: the service; `.addresses` has the ports chosen."""
        return _listen_all(self, self.make_echo(**limits), addresses)

    def proxy(
        self,
        *addresses: str | Address,
        target: str | Address,
        connect_timeout_s: float | None = None,
        **limits: Any,
    ) -> Service:
        """Joins every connection with one to `target`, byte by byte, with half-close.

        Args:
            connect_timeout_s: Default 5. Then, or when nobody listens there, the client is reset.

        Raises: UnsupportedError for anything but tcp and unix; NoSuchNameError, NameTakenError, ...
            as the addresses say.
        """
        service = self.make_proxy(
            _target_of(_parse(target)), connect_timeout_s=connect_timeout_s, **limits
        )
        return _listen_all(self, service, addresses)

    def frames(
        self,
        *addresses: str | Address,
        on_message: Callable[[FramesConnection, bytes], object],
        on_open: Callable[[FramesConnection], object] | None = None,
        on_close: Callable[[FramesConnection, Exception | None], object] | None = None,
        max_message_bytes: int | None = None,
        **limits: Any,
    ) -> Service:
        """Speaks naru's messages with naru.connect() and naru.sender().

        Args:
            on_message: Called in the engine's thread for each message; it may `connection.send()`.
            on_close: With None after a goodbye, else with the error.
            max_message_bytes: Default 16 MiB; above it a peer is cut off.
        """
        service = self.make_frames(
            on_message,
            on_open=on_open,
            on_close=on_close,
            max_message_bytes=max_message_bytes,
            **limits,
        )
        return _listen_all(self, service, addresses)

    def statistics(self) -> EngineStatistics:
        """The loop's counters; from any thread, also while it runs."""
        return EngineStatistics(**self.read_statistics())


def describe_limit(descriptors: int, *, per_connection: int = 1) -> str:
    """What a descriptor limit allows, in plain words.

    Args:
        descriptors: RLIMIT_NOFILE, as raise_descriptor_limit() gives it.
        per_connection: 1 for a server, 2 for a proxy.
    """
    connections = max(0, descriptors - OWN_DESCRIPTORS) // per_connection
    what = "connection" if per_connection == 1 else "proxied connection"
    each = "" if per_connection == 1 else f", {per_connection} descriptors each"
    return (
        f"{descriptors:,} descriptors: about {connections:,} {what}s at once{each}; what comes "
        "beyond waits in the kernel's queue (ulimit -Hn, LimitNOFILE= raise it)"
    )


def _parse(address: str | Address) -> Address:
    parsed = address if isinstance(address, Address) else parse(address)
    if parsed.transport not in ("tcp", "unix"):
        raise UnsupportedError(
            f'engine "{parsed}": its protocols run over byte streams that somebody listens on: '
            "tcp://host:port, unix:///path, unix:@name",
            errno=errno.EOPNOTSUPP, operation="engine", address=parsed,
        )  # fmt: skip
    return parsed


def listening_socket(
    address: str | Address, *, reuse_port: bool = False
) -> tuple[socket.socket, Address, Callable[[], object]]:
    """For servers of several processes, which hand it on.

    Returns: the socket, the address with the port that the kernel chose, and what gives its name up.
    Raises: UnsupportedError for anything but tcp and unix, and for ?allow_uids=; NameTakenError and others.
    """
    parsed = _parse(address)
    return _listen_unix(parsed) if parsed.transport == "unix" else _listen_tcp(parsed, reuse_port)


def _listen_all(engine: Engine, service: Service, addresses: tuple[str | Address, ...]) -> Service:
    for address in addresses:
        sock, real, close_name = listening_socket(address, reuse_port=engine.reuse_port)
        try:
            service.listen(sock, real, close_name)
        except BaseException:
            sock.close()
            close_name()
            raise
    return service


def _listen_unix(address: Address) -> tuple[socket.socket, Address, Callable[[], object]]:
    if "allow_uids" in address.options:
        raise UnsupportedError(
            f"{address}: the engine does not look who connects: ?mode= of the socket and the rights of its "
            "directory say who may",
            operation="engine.listen",
            address=address,
        )
    settings = UnixSettings.from_address(address)
    sock, close_name = bound_socket(address, settings, socket.SOCK_STREAM)
    try:
        sock.listen(settings.backlog)
    except OSError as error:
        sock.close()
        close_name()
        raise from_os_error(error, "engine.listen", address) from error
    return sock, address, close_name


def _listen_tcp(
    address: Address, reuse_port: bool
) -> tuple[socket.socket, Address, Callable[[], object]]:
    settings = TcpSettings.from_address(address)
    family, _, _, _, place = resolve(address, socket.SOCK_STREAM, "engine.listen", passive=True)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_buffers(sock, settings.send_buffer_bytes, settings.receive_buffer_bytes)
        sock.bind(place)
        sock.listen(settings.backlog)
    except OSError as error:
        sock.close()
        raise from_os_error(error, "engine.listen", address) from error
    return sock, with_port(address, sock.getsockname()[1]), lambda: None


def _target_of(address: Address) -> tuple[int, Any]:
    """(family, address) for the native side; a host name is looked up now, once."""
    if address.transport == "unix":
        UnixSettings.from_address(address)
        return socket.AF_UNIX, name_of(address)
    TcpSettings.from_address(address)
    family, _, _, _, place = resolve(address, socket.SOCK_STREAM, "engine.proxy", passive=False)[0]
    return family, place
