"""Unix stream sockets, by path or abstract name; Unix datagram sockets of other programs.

Carries descriptors; the kernel vouches for the peer (SO_PEERCRED). With framing=raw or lines it
talks to anything that listens on a Unix socket. Source: unix(7).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Generator
from typing import Any

from naru._native.ends import Channel, Receiver, Sender
from naru._native.opening import open_datagrams, open_stream
from naru.address import Address
from naru.errors import NotPermittedError, from_os_error
from naru.settings import UnixSettings
from naru.transports import hello
from naru.transports.connecting import Deadline, persist
from naru.transports.contract import Capabilities, End, Peer, Place
from naru.transports.door import Welcome, finish
from naru.transports.fan_in import open_receiver, start_listening
from naru.transports.listener import Listener
from naru.transports.names import bind_path
from naru.transports.pairs import make_pair

capabilities = Capabilities(
    transport="unix",
    mechanism="Unix stream socket",
    channel=True,
    pair=True,
    many_senders=True,
    order=True,
    reliable=True,
    back_pressure=True,
    descriptors=True,
    priority=False,
    in_place=False,
    peer_credentials=True,
    peer_death="at once",
    crosses_machines=False,
    max_message_bytes=lambda: UnixSettings().max_message_bytes,
)

_CREDENTIALS = struct.Struct("3i")


def peer_of(sock: socket.socket) -> Peer:
    """Who connected, or listens: as the kernel saw it at that moment."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Peer(*_CREDENTIALS.unpack(data))


def name_of(address: Address) -> str | bytes:
    """What bind and connect take."""
    return "\0" + str(address.name) if address.abstract else str(address.path)


def bound_socket(address: Address, settings: UnixSettings, kind: int) -> tuple[socket.socket, Any]:
    """A bound socket and the function that gives its name up."""
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        set_buffers(sock, settings.send_buffer_bytes, settings.receive_buffer_bytes)
        if not address.abstract:
            name = bind_path(sock, str(address.path), settings.mode, "unix.listen", address)
            return sock, name.close
        try:
            sock.bind(name_of(address))
        except OSError as error:
            raise from_os_error(error, "unix.listen", address) from error
    except BaseException:
        sock.close()
        raise
    return sock, lambda: None


def set_buffers(sock: socket.socket, send_bytes: int | None, receive_bytes: int | None) -> None:
    if send_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)


def _open(
    cls: type[End], address: Address, settings: UnixSettings, sock: socket.socket,
    peer: Peer | None, *closers: Callable[[], object],
) -> End:  # fmt: skip
    fd = sock.fileno()
    place = Place(settings, *closers, passes_fds=settings.framing != "lines")
    end = open_stream(cls, settings, "unix", fd, fd, address=address, peer=peer, place=place)
    sock.detach()
    return end


def _welcome(cls: type[End], kind: int, address: Address, settings: UnixSettings) -> Welcome:
    """Makes the server's half of the handshake."""

    def welcome(sock: socket.socket) -> Generator[None, None, Any]:
        peer = peer_of(sock)
        permitted = settings.permits(peer.uid, os.geteuid())
        if settings.framing != "naru":
            return _open(cls, address, settings, sock, peer) if permitted else None
        theirs = yield from hello.hear(sock, "unix.accept", address)
        if not permitted:
            hello.refuse(sock, errno.EACCES)
            return None
        if theirs.kind != kind:
            hello.refuse(sock, errno.EPROTOTYPE)
            return None
        own_kind = hello.CHANNEL if kind == hello.CHANNEL else hello.RECEIVER
        hello.say(sock, hello.Hello(own_kind, settings.max_message_bytes, 0))
        return _open(cls, address, settings, sock, peer)

    return welcome


def listen(address: Address) -> Listener:
    settings = UnixSettings.from_address(address)
    sock, close_name = bound_socket(address, settings, socket.SOCK_STREAM)
    start_listening(sock, settings.backlog, "unix.listen", address, close_name)
    welcome = _welcome(Channel, hello.CHANNEL, address, settings)
    return Listener(address, sock, welcome, settings.handshake_timeout_s, close_name)


def receiver(address: Address) -> Receiver:
    settings = UnixSettings.from_address(address)
    if settings.datagram:
        sock, close_name = bound_socket(address, settings, socket.SOCK_DGRAM)
        place = Place(settings, close_name)
        end = open_datagrams(
            Receiver, settings, sock.fileno(), True, 0, 0, address=address, place=place
        )
        sock.detach()
        return end
    sock, close_name = bound_socket(address, settings, socket.SOCK_STREAM)
    start_listening(sock, settings.backlog, "unix.listen", address, close_name)
    welcome = _welcome(Receiver, hello.SENDER, address, settings)
    return open_receiver(address, settings, sock, welcome, close_name)


def _reach(
    cls: type[End], kind: int, address: Address, settings: UnixSettings, deadline: Deadline
) -> End:
    sock = socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM if settings.datagram else socket.SOCK_STREAM
    )
    try:
        set_buffers(sock, settings.send_buffer_bytes, settings.receive_buffer_bytes)
        sock.setblocking(False)
        sock.connect(name_of(address))
        peer = None if settings.datagram else peer_of(sock)
        if peer and address.abstract and not settings.permits(peer.uid, os.geteuid()):
            raise NotPermittedError(
                f'unix.connect "{address}": the name belongs to uid {peer.uid}; ?allow_uids='
                f"{peer.uid} trusts it",
                errno=errno.EPERM, operation="unix.connect", address=address,
            )  # fmt: skip
        if settings.datagram:
            end = open_datagrams(
                cls, settings, sock.fileno(), True, 0, 0, address=address, place=Place(settings)
            )
            sock.detach()
            return end
        if settings.framing == "naru":
            hello.say(sock, hello.Hello(kind, settings.max_message_bytes, 0))
            finish(hello.hear(sock, "unix.connect", address), sock, deadline)
        return _open(cls, address, settings, sock, peer)
    except BaseException:
        sock.close()
        raise


def connect(address: Address, deadline: Deadline) -> Channel:
    settings = UnixSettings.from_address(address)
    return persist(
        lambda: _reach(Channel, hello.CHANNEL, address, settings, deadline),
        deadline, "unix.connect", address,
    )  # fmt: skip


def sender(address: Address, deadline: Deadline) -> Sender:
    settings = UnixSettings.from_address(address)
    return persist(
        lambda: _reach(Sender, hello.SENDER, address, settings, deadline),
        deadline, "unix.connect", address,
    )  # fmt: skip


def pair(address: Address) -> tuple[Channel, Channel]:
    return make_pair(address, pair_fds(address))


def pair_fds(address: Address) -> tuple[list[int], list[int]]:
    """What open_pair_end() takes, for either end."""
    UnixSettings.from_address(address)
    try:
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise from_os_error(error, "unix.pair", address) from error
    return [a.detach()], [b.detach()]


def open_pair_end(address: Address, index: int, fds: list[int]) -> Channel:
    settings = UnixSettings.from_address(address)
    sock = socket.socket(fileno=fds[0])
    try:
        set_buffers(sock, settings.send_buffer_bytes, settings.receive_buffer_bytes)
        return _open(Channel, address, settings, sock, peer_of(sock))
    finally:
        sock.detach()
