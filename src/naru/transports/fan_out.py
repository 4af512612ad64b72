"""Publish/subscribe over unix and tcp: one connection and one queue for each subscriber.

The door, the hello and the credentials are those of the two transports; the queues and policies are
in C (native/transports/fan_out.c). After the hello the publisher alone speaks: records, among them
one that says how many were left out at its place; the subscriber says goodbye, and its heart beats (a
"latest" one's for each message that it took).
Must not know: what a policy does.
"""

from __future__ import annotations

import errno
import os
import socket
import weakref
from collections.abc import Callable, Generator
from typing import Any, Literal

from naru._native.ends import Sender
from naru._native.opening import open_stream
from naru._native.publishing import add_connection, open_fan_out, want_newest
from naru.address import Address
from naru.errors import BadAddressError, NotPermittedError, ProtocolError
from naru.settings import TcpSettings, UnixSettings, settings_for
from naru.transports import hello, tcp, unix
from naru.transports.connecting import Deadline, persist
from naru.transports.contract import End, Peer, Place
from naru.transports.door import Door, finish
from naru.transports.fan_in import start_listening
from naru.transports.heartbeat import keep_beating
from naru.transports.publishing import (
    POLICIES,
    Policy,
    Publisher,
    PublisherPlace,
    Subscriber,
    SubscriberPlace,
)

Settings = UnixSettings | TcpSettings


def _settings_of(address: Address) -> Settings:
    settings = settings_for(address)
    assert isinstance(settings, UnixSettings | TcpSettings), address.transport
    if settings.framing != "naru":
        raise BadAddressError(
            f'address "{address}": publishers and subscribers speak naru to each other, not '
            f"framing={settings.framing}",
            operation="parse", address=address,
        )  # fmt: skip
    return settings


def _own_hello(kind: int, settings: Settings) -> hello.Hello:
    beat_ms = int(settings.heartbeat_s * 1000) if isinstance(settings, TcpSettings) else 0
    return hello.Hello(kind, settings.max_message_bytes, beat_ms)


def _agree_on_heartbeat(settings: Settings, theirs: hello.Hello) -> int:
    if isinstance(settings, UnixSettings):
        return 0
    return tcp.agree_on_heartbeat(settings.heartbeat_s, theirs)


def _open(
    cls: type[End], address: Address, settings: Settings, sock: socket.socket, place: Place,
    peer: Peer | None, limit_ms: int,
) -> End:  # fmt: skip
    """An end over the socket, which it takes over."""
    kind: Literal["unix", "tcp"] = "unix" if isinstance(settings, UnixSettings) else "tcp"
    coalesce = (
        isinstance(settings, TcpSettings) and settings.nodelay and settings.coalesce == "auto"
    )
    fd = sock.fileno()
    end = open_stream(
        cls, settings, kind, fd, fd, address=address, peer=peer, place=place, coalesce=coalesce,
        heartbeat_ms=limit_ms,
    )  # fmt: skip
    sock.detach()
    return end


# ---- the publisher's side ----


def _bind(
    address: Address, settings: Settings
) -> tuple[socket.socket, Address, Callable[[], object]]:
    if isinstance(settings, TcpSettings):
        sock, real = tcp.bind(address, settings)
        return sock, real, lambda: None
    sock, close_name = unix.bound_socket(address, settings, socket.SOCK_STREAM)
    start_listening(sock, settings.backlog, "unix.listen", address, close_name)
    return sock, address, close_name


class _Greeter:
    """What the door does with a knock."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self.address = address
        self.settings = settings
        self.publisher: weakref.ref[Publisher] | None = None

    def welcome(self, sock: socket.socket) -> Generator[None, None, Any]:
        peer = None
        if isinstance(self.settings, TcpSettings):
            tcp.prepare(sock, self.settings)
        else:
            peer = unix.peer_of(sock)
        operation = f"{self.address.transport}.accept"
        theirs = yield from hello.hear(sock, operation, self.address)
        publisher = self.publisher() if self.publisher else None
        if publisher is None:
            return None
        if isinstance(self.settings, UnixSettings) and not self.settings.permits(
            unix.peer_of(sock).uid, os.geteuid()
        ):
            hello.refuse(sock, errno.EACCES)
            return None
        if theirs.kind not in hello.SUBSCRIBERS:
            hello.refuse(sock, errno.EPROTOTYPE)
            return None
        greeting = hello.pack(_own_hello(hello.PUBLISHER, self.settings))
        limit_ms = _agree_on_heartbeat(self.settings, theirs)
        place = Place(self.settings)
        end = _open(Sender, self.address, self.settings, sock, place, peer, limit_ms)
        try:
            policy = hello.SUBSCRIBERS.index(theirs.kind)
            add_connection(publisher, policy, peer, end, greeting)
        except BaseException:
            end.close()
            raise
        keep_beating(publisher, limit_ms / 1000)
        return True


def publisher(address: Address) -> Publisher:
    settings = _settings_of(address)
    listening, real, close_name = _bind(address, settings)
    greeter = _Greeter(real, settings)
    leave = [close_name, listening.close]
    try:
        door = Door(listening, greeter.welcome, lambda _made: None, settings.handshake_timeout_s)
        leave[-1] = door.close
        place = PublisherPlace(settings, "raise max_message_bytes here and there", *leave)
        end = open_fan_out(Publisher, settings, address=real, place=place)
    except BaseException:
        while leave:
            leave.pop()()
        raise
    greeter.publisher = place.publisher = weakref.ref(end)
    end.employ(door)
    return end


# ---- the subscriber's side ----


def _knock(
    address: Address, settings: Settings, deadline: Deadline
) -> tuple[socket.socket, Peer | None]:
    if isinstance(settings, TcpSettings):
        return tcp.reach_socket(address, settings, deadline), None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        unix.set_buffers(sock, settings.send_buffer_bytes, settings.receive_buffer_bytes)
        sock.setblocking(False)
        sock.connect(unix.name_of(address))
        peer = unix.peer_of(sock)
        if address.abstract and not settings.permits(peer.uid, os.geteuid()):
            raise NotPermittedError(
                f'unix.connect "{address}": the name belongs to uid {peer.uid}; ?allow_uids='
                f"{peer.uid} trusts it",
                errno=errno.EPERM, operation="unix.connect", address=address,
            )  # fmt: skip
    except BaseException:
        sock.close()
        raise
    return sock, peer


def _reach(policy: Policy, address: Address, settings: Settings, deadline: Deadline) -> Subscriber:
    operation = f"{address.transport}.connect"
    sock, peer = _knock(address, settings, deadline)
    try:
        kind = hello.SUBSCRIBERS[POLICIES.index(policy)]
        hello.say(sock, _own_hello(kind, settings))
        theirs = finish(hello.hear(sock, operation, address), sock, deadline)
        if theirs.kind != hello.PUBLISHER:
            raise ProtocolError(
                f'{operation} "{address}": the server is no publisher (kind {theirs.kind})',
                errno=errno.EPROTO, operation=operation, address=address,
            )  # fmt: skip
        limit_ms = _agree_on_heartbeat(settings, theirs)
        place = SubscriberPlace(settings)
        end = _open(Subscriber, address, settings, sock, place, peer, limit_ms)
    except BaseException:
        sock.close()
        raise
    if policy == "latest":
        want_newest(end)
    keep_beating(end, limit_ms / 1000)
    return end


def subscriber(address: Address, policy: Policy, deadline: Deadline) -> Subscriber:
    settings = _settings_of(address)
    return persist(
        lambda: _reach(policy, address, settings, deadline),
        deadline, f"{address.transport}.connect", address,
    )  # fmt: skip
