"""TCP, over IPv4 and IPv6: the transport that crosses machines.

TCP_NODELAY is set except in a burst (native/transports/stream.c). A server starts at once while its
old port is in TIME_WAIT (SO_REUSEADDR). A peer that is stopped is found by heartbeats, because its
kernel goes on acknowledging. Source: tcp(7), RFC 9293, RFC 896, RFC 1122 4.2.3.2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import select
import socket
from collections.abc import Generator
from typing import Any

from naru._native.ends import Channel, Receiver, Sender
from naru._native.opening import open_stream
from naru.address import Address
from naru.errors import BadAddressError, ProtocolError, from_os_error
from naru.settings import TcpSettings
from naru.transports import hello
from naru.transports.connecting import Deadline, persist
from naru.transports.contract import Capabilities, End, Place
from naru.transports.door import Welcome, finish
from naru.transports.fan_in import open_receiver, start_listening
from naru.transports.heartbeat import keep_beating
from naru.transports.listener import Listener
from naru.transports.pairs import make_pair
from naru.transports.unix import set_buffers

capabilities = Capabilities(
    transport="tcp",
    mechanism="TCP",
    channel=True,
    pair=True,
    many_senders=True,
    order=True,
    reliable=True,
    back_pressure=True,
    descriptors=False,
    priority=False,
    in_place=False,
    peer_credentials=False,
    peer_death="at once here; heartbeat_s for a stopped peer or another machine",
    crosses_machines=True,
    max_message_bytes=lambda: TcpSettings().max_message_bytes,
)

KEEPALIVE_PROBES = 4


def resolve(address: Address, kind: int, operation: str, *, passive: bool) -> list[Any]:
    """getaddrinfo(3); refuses port 0 for a client."""
    if not passive and address.port == 0:
        raise BadAddressError(
            f'{operation} "{address}": port 0 means "any free port" and is for listeners; take the '
            "port from listener.address",
            operation=operation, address=address,
        )  # fmt: skip
    try:
        return socket.getaddrinfo(
            address.host, address.port, type=kind, flags=socket.AI_PASSIVE if passive else 0
        )
    except OSError as error:
        raise from_os_error(error, operation, address) from error


def with_port(address: Address, port: int) -> Address:
    return dataclasses.replace(address, port=port)


def prepare(sock: socket.socket, settings: TcpSettings) -> None:
    set_buffers(sock, settings.send_buffer_bytes, settings.receive_buffer_bytes)
    if settings.nodelay:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if settings.keepalive_s:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, settings.keepalive_s)
        interval = max(1, settings.keepalive_s // KEEPALIVE_PROBES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def _open(
    cls: type[End], address: Address, settings: TcpSettings, sock: socket.socket, limit_ms: int
) -> End:
    fd = sock.fileno()
    end = open_stream(
        cls, settings, "tcp", fd, fd, address=address, place=Place(settings),
        coalesce=settings.nodelay and settings.coalesce == "auto" and settings.framing == "naru",
        heartbeat_ms=limit_ms,
    )  # fmt: skip
    sock.detach()
    keep_beating(end, limit_ms / 1000)
    return end


def _own_hello(kind: int, settings: TcpSettings) -> hello.Hello:
    return hello.Hello(kind, settings.max_message_bytes, int(settings.heartbeat_s * 1000))


def agree_on_heartbeat(own_s: float, theirs: hello.Hello) -> int:
    """ms; both sides beat as the stricter one wants, and none when neither asks."""
    asked = [ms for ms in (int(own_s * 1000), theirs.extra) if ms > 0]
    return min(asked, default=0)


def _welcome(cls: type[End], kind: int, address: Address, settings: TcpSettings) -> Welcome:
    own_kind = hello.CHANNEL if kind == hello.CHANNEL else hello.RECEIVER

    def welcome(sock: socket.socket) -> Generator[None, None, Any]:
        prepare(sock, settings)
        limit_ms = 0
        if settings.framing == "naru":
            theirs = yield from hello.hear(sock, "tcp.accept", address)
            if theirs.kind != kind:
                hello.refuse(sock, errno.EPROTOTYPE)
                return None
            hello.say(sock, _own_hello(own_kind, settings))
            limit_ms = agree_on_heartbeat(settings.heartbeat_s, theirs)
        return _open(cls, address, settings, sock, limit_ms)

    return welcome


def bind(address: Address, settings: TcpSettings) -> tuple[socket.socket, Address]:
    family, kind, protocol, _, place = resolve(
        address, socket.SOCK_STREAM, "tcp.listen", passive=True
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
    except OSError as error:
        sock.close()
        raise from_os_error(error, "tcp.listen", address) from error
    start_listening(sock, settings.backlog, "tcp.listen", address)
    return sock, with_port(address, sock.getsockname()[1])


def listen(address: Address) -> Listener:
    settings = TcpSettings.from_address(address)
    sock, real = bind(address, settings)
    welcome = _welcome(Channel, hello.CHANNEL, real, settings)
    return Listener(real, sock, welcome, settings.handshake_timeout_s)


def receiver(address: Address) -> Receiver:
    settings = TcpSettings.from_address(address)
    sock, real = bind(address, settings)
    welcome = _welcome(Receiver, hello.SENDER, real, settings)
    return open_receiver(real, settings, sock, welcome, lambda: None)


def connect_socket(candidate: Any, settings: TcpSettings, deadline: Deadline) -> socket.socket:
    family, kind, protocol, _, place = candidate
    sock = socket.socket(family, kind, protocol)
    try:
        prepare(sock, settings)
        sock.setblocking(False)
        error = sock.connect_ex(place)
        if error == errno.EINPROGRESS:
            if not deadline.wait(sock.fileno(), select.POLLOUT):
                raise TimeoutError
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error == 0 and sock.getsockname() == sock.getpeername():
            error = errno.ECONNREFUSED  # nobody there: the socket connected to itself
        if error:
            raise OSError(error, "connect")
    except BaseException:
        sock.close()
        raise
    return sock


def reach_socket(address: Address, settings: TcpSettings, deadline: Deadline) -> socket.socket:
    """Connects to the first of the address's numbers that takes it."""
    candidates = resolve(address, socket.SOCK_STREAM, "tcp.connect", passive=False)
    for candidate in candidates[:-1]:
        try:
            return connect_socket(candidate, settings, deadline)
        except TimeoutError:
            raise
        except OSError:
            continue
    return connect_socket(candidates[-1], settings, deadline)


def _reach(
    cls: type[End], kind: int, address: Address, settings: TcpSettings, deadline: Deadline
) -> End:
    sock = reach_socket(address, settings, deadline)
    limit_ms = 0
    try:
        if settings.framing == "naru":
            hello.say(sock, _own_hello(kind, settings))
            theirs = finish(hello.hear(sock, "tcp.connect", address), sock, deadline)
            limit_ms = agree_on_heartbeat(settings.heartbeat_s, theirs)
        return _open(cls, address, settings, sock, limit_ms)
    except BaseException:
        sock.close()
        raise


def connect(address: Address, deadline: Deadline) -> Channel:
    settings = TcpSettings.from_address(address)
    return persist(
        lambda: _reach(Channel, hello.CHANNEL, address, settings, deadline),
        deadline, "tcp.connect", address,
    )  # fmt: skip


def sender(address: Address, deadline: Deadline) -> Sender:
    settings = TcpSettings.from_address(address)
    return persist(
        lambda: _reach(Sender, hello.SENDER, address, settings, deadline),
        deadline, "tcp.connect", address,
    )  # fmt: skip


def pair(address: Address) -> tuple[Channel, Channel]:
    """A connection over loopback."""
    return make_pair(address, pair_fds(address))


def pair_fds(address: Address) -> tuple[list[int], list[int]]:
    """What open_pair_end() takes, for either end. The accepted side is checked to be the connecting
    one."""
    settings = TcpSettings.from_address(address)
    with contextlib.ExitStack() as until_made:
        try:
            listening = socket.create_server(("127.0.0.1", 0), backlog=1)
            until_made.enter_context(listening)
            a = socket.create_connection(listening.getsockname(), timeout=5)
            until_made.enter_context(a)
            listening.settimeout(5)
            b = until_made.enter_context(listening.accept()[0])
            is_stranger = b.getpeername() != a.getsockname()
            for sock in (a, b):
                prepare(sock, settings)
        except OSError as error:
            raise from_os_error(error, "tcp.pair", address) from error
        if is_stranger:
            raise ProtocolError(
                f'tcp.pair "{address}": another process connected first', operation="tcp.pair",
                address=address,
            )  # fmt: skip
        return [a.detach()], [b.detach()]


def open_pair_end(address: Address, index: int, fds: list[int]) -> Channel:
    settings = TcpSettings.from_address(address)
    sock = socket.socket(fileno=fds[0])
    try:
        return _open(Channel, address, settings, sock, int(settings.heartbeat_s * 1000))
    finally:
        sock.detach()
