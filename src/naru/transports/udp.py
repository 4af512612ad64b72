"""UDP: messages that may be lost, repeated and reordered; naru counts all three.

A client sends HELLO datagrams until it is welcomed; the server then gives it a socket of its own,
connected to it, on the same port: the kernel sorts by sender, and the server hears of ICMP errors.
Both sides put the client's random number on their datagrams, so that strays are told apart.

    0        4       8            16          24
    length   flags   connection   sequence    payload      flags: 1 HELLO, 2 WELCOME, 4 BYE, 8 beat

Source: udp(7), RFC 768.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import select
import socket
import struct
from collections import OrderedDict
from collections.abc import Generator
from typing import Any

from naru._native.ends import Channel, Receiver, Sender
from naru._native.opening import open_datagrams
from naru.address import Address
from naru.errors import ProtocolError, UnsupportedError, from_os_error
from naru.settings import UdpSettings
from naru.transports import hello
from naru.transports.connecting import Deadline, persist
from naru.transports.contract import Capabilities, End, Place
from naru.transports.fan_in import open_receiver
from naru.transports.heartbeat import keep_beating
from naru.transports.listener import Listener
from naru.transports.pairs import make_pair
from naru.transports.tcp import agree_on_heartbeat, resolve, with_port
from naru.transports.unix import set_buffers

MAX_DATAGRAM = 65507
_HEADER = struct.Struct("=IIQQ")

capabilities = Capabilities(
    transport="udp",
    mechanism="UDP",
    channel=True,
    pair=True,
    many_senders=True,
    order=False,
    reliable=False,
    back_pressure=False,
    descriptors=False,
    priority=False,
    in_place=False,
    peer_credentials=False,
    peer_death="at the next send or heartbeat (heartbeat_s)",
    crosses_machines=True,
    max_message_bytes=lambda: MAX_DATAGRAM - _HEADER.size,
)

HELLO, WELCOME = 1, 2
FIRST_RETRY_S = 0.02
LAST_RETRY_S = 0.5
REMEMBERED = 1024


def _pack(flags: int, connection: int, payload: bytes) -> bytes:
    return _HEADER.pack(len(payload), flags, connection, 0) + payload


def _unpack(data: bytes, flags: int, operation: str, address: Address) -> tuple[int, hello.Hello]:
    """(connection, hello) of a HELLO or WELCOME."""
    if len(data) == _HEADER.size + hello.HELLO_BYTES:
        length, got, connection, _ = _HEADER.unpack_from(data)
        if length == hello.HELLO_BYTES and got == flags:
            return connection, hello.unpack(data[_HEADER.size :], operation, address)
    raise ProtocolError(
        f'{operation} "{address}": the other side is not naru',
        errno=errno.EPROTO, operation=operation, address=address,
    )  # fmt: skip


class _Doorstep(socket.socket):
    """The bound socket, so shaped that a Door can accept from it: accept() makes the connected
    socket of the next client that says HELLO."""

    real_address: Address
    kind = hello.CHANNEL
    _welcomed: OrderedDict[int, None]
    """The latest connections: a HELLO that was repeated meanwhile makes no second socket."""

    def accept(self) -> tuple[socket.socket, Any]:
        while True:
            data, client = self.recvfrom(MAX_DATAGRAM)
            try:
                connection, theirs = _unpack(data, HELLO, "udp.accept", self.real_address)
            except ProtocolError:
                continue  # whoever sends datagrams to a port may; a HELLO is answered
            if connection in self._welcomed:
                continue  # its own socket answers the repetitions that come later
            if theirs.kind != self.kind:
                refusal = hello.pack_refusal(errno.EPROTOTYPE)
                self.sendto(_pack(WELCOME, connection, refusal), client)
                continue
            guest = self._give_socket(client, connection, theirs)
            self._welcomed[connection] = None
            if len(self._welcomed) > REMEMBERED:
                self._welcomed.popitem(last=False)
            return guest, client

    def _give_socket(self, client: Any, connection: int, theirs: hello.Hello) -> _Guest:
        # Only while the new socket is bound may the port be shared: otherwise a second server could
        # bind it and nobody would notice.
        guest = _Guest(self.family, socket.SOCK_DGRAM)
        try:
            guest.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                guest.bind(self.getsockname())
                guest.connect(client)
            finally:
                self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        except BaseException:
            guest.close()
            raise
        guest.connection, guest.theirs = connection, theirs
        return guest


class _Guest(socket.socket):
    connection: int
    theirs: hello.Hello


def _bind(address: Address, settings: UdpSettings, kind: int) -> _Doorstep:
    candidates = resolve(address, socket.SOCK_DGRAM, "udp.listen", passive=True)
    family, _, protocol, _, place = candidates[0]
    sock = _Doorstep(family, socket.SOCK_DGRAM, protocol)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
    except OSError as error:
        sock.close()
        raise from_os_error(error, "udp.listen", address) from error
    sock.kind = kind
    sock._welcomed = OrderedDict()
    sock.real_address = with_port(address, sock.getsockname()[1])
    return sock


def _open(
    cls: type[End], address: Address, settings: UdpSettings, sock: socket.socket, raw: bool,
    connection: int, limit_ms: int,
) -> End:  # fmt: skip
    set_buffers(sock, settings.send_buffer_bytes, settings.receive_buffer_bytes)
    end = open_datagrams(
        cls, settings, sock.fileno(), raw, connection, limit_ms, address=address,
        place=Place(settings),
    )  # fmt: skip
    sock.detach()
    keep_beating(end, limit_ms / 1000)
    return end


def _welcome(cls: type[End], kind: int, address: Address, settings: UdpSettings) -> Any:
    own_kind = hello.CHANNEL if kind == hello.CHANNEL else hello.RECEIVER

    def welcome(guest: _Guest) -> Generator[None, None, Any]:
        own = hello.Hello(own_kind, settings.max_message_bytes, int(settings.heartbeat_s * 1000))
        limit_ms = agree_on_heartbeat(settings.heartbeat_s, guest.theirs)
        # Opened before it is welcomed: the first message may be on its heels.
        guest.send(_pack(WELCOME, guest.connection, hello.pack(own)))
        return _open(cls, address, settings, guest, False, guest.connection, limit_ms)
        yield  # a generator, as every handshake; this one needs no second step

    return welcome


def _refuse_raw(operation: str, address: Address) -> None:
    raise UnsupportedError(
        f'{operation} "{address}": raw datagrams have no conversations; use naru.receiver and '
        "naru.sender",
        errno=errno.EOPNOTSUPP, operation=operation, address=address,
    )  # fmt: skip


def listen(address: Address) -> Listener:
    settings = UdpSettings.from_address(address)
    if settings.framing == "raw":
        _refuse_raw("udp.listen", address)
    sock = _bind(address, settings, hello.CHANNEL)
    welcome = _welcome(Channel, hello.CHANNEL, sock.real_address, settings)
    return Listener(sock.real_address, sock, welcome, settings.handshake_timeout_s)


def receiver(address: Address) -> Receiver:
    settings = UdpSettings.from_address(address)
    sock = _bind(address, settings, hello.SENDER)
    if settings.framing == "raw":
        return _open(Receiver, sock.real_address, settings, sock, True, 0, 0)
    welcome = _welcome(Receiver, hello.SENDER, sock.real_address, settings)
    return open_receiver(sock.real_address, settings, sock, welcome, lambda: None)


def _greet(
    sock: socket.socket, own: hello.Hello, deadline: Deadline, address: Address
) -> tuple[int, hello.Hello]:
    """HELLO until WELCOME comes; the datagrams of either may be lost."""
    connection = secrets.randbits(63)
    retry_s = FIRST_RETRY_S
    while True:
        sock.send(_pack(HELLO, connection, hello.pack(own)))
        pause = deadline.turn(retry_s)
        while not pause.passed and pause.wait(sock.fileno(), select.POLLIN):
            got, theirs = _unpack(sock.recv(MAX_DATAGRAM), WELCOME, "udp.connect", address)
            if got == connection:
                return connection, theirs
        if deadline.passed:
            raise TimeoutError
        retry_s = min(retry_s * 2, LAST_RETRY_S)


def _reach(
    cls: type[End], kind: int, address: Address, settings: UdpSettings, deadline: Deadline
) -> End:
    candidates = resolve(address, socket.SOCK_DGRAM, "udp.connect", passive=False)
    family, _, protocol, _, place = candidates[0]
    sock = socket.socket(family, socket.SOCK_DGRAM, protocol)
    try:
        sock.connect(place)
        if settings.framing == "raw":
            return _open(cls, address, settings, sock, True, 0, 0)
        sock.setblocking(False)
        own = hello.Hello(kind, settings.max_message_bytes, int(settings.heartbeat_s * 1000))
        connection, theirs = _greet(sock, own, deadline, address)
        limit_ms = agree_on_heartbeat(settings.heartbeat_s, theirs)
        return _open(cls, address, settings, sock, False, connection, limit_ms)
    except BaseException:
        sock.close()
        raise


def connect(address: Address, deadline: Deadline) -> Channel:
    settings = UdpSettings.from_address(address)
    if settings.framing == "raw":
        _refuse_raw("udp.connect", address)
    return persist(
        lambda: _reach(Channel, hello.CHANNEL, address, settings, deadline),
        deadline, "udp.connect", address,
    )  # fmt: skip


def sender(address: Address, deadline: Deadline) -> Sender:
    settings = UdpSettings.from_address(address)
    return persist(
        lambda: _reach(Sender, hello.SENDER, address, settings, deadline),
        deadline, "udp.connect", address,
    )  # fmt: skip


def pair(address: Address) -> tuple[Channel, Channel]:
    """Two sockets on loopback, connected to each other."""
    UdpSettings.from_address(address)
    with contextlib.ExitStack() as until_made:
        try:
            a = until_made.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            b = until_made.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            a.bind(("127.0.0.1", 0))
            b.bind(("127.0.0.1", 0))
            a.connect(b.getsockname())
            b.connect(a.getsockname())
        except OSError as error:
            raise from_os_error(error, "udp.pair", address) from error
        fds = [a.detach()], [b.detach()]
    return make_pair(address, fds)


def open_pair_end(address: Address, index: int, fds: list[int]) -> Channel:
    settings = UdpSettings.from_address(address)
    sock = socket.socket(fileno=fds[0])
    limit_ms = int(settings.heartbeat_s * 1000)
    try:
        ports = sorted((sock.getsockname()[1], sock.getpeername()[1]))
        connection = ports[0] << 16 | ports[1]  # they are connected: only each other's get in
        return _open(
            Channel, address, settings, sock, settings.framing == "raw", connection, limit_ms
        )
    finally:
        sock.detach()
