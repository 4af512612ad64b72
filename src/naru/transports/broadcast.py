"""Publish/subscribe in shared memory: one ring that the publisher alone writes, many readers.

The door, the hello, the credentials and the lifeline are those of `shm`. Packets of the handshake:
the subscriber's hello (its kind is its policy; extra 1: it has membarrier); the publisher's hello
with four descriptors: the ring, the subscriber's own slot, its data bell, its space bell. The ring
is sealed so that a subscriber can map it for reading only.
Must not know: the layout of either memory (native/include/naru/broadcast.h).
Source: memfd_create(2), fcntl(2) F_SEAL_FUTURE_WRITE, unix(7), membarrier(2).
"""

from __future__ import annotations

import errno
import os
import socket
import weakref
from collections.abc import Generator
from typing import Any

from naru._native.opening import has_barrier
from naru._native.publishing import add_subscriber, open_publisher, open_subscriber
from naru.address import Address
from naru.errors import LimitError, NoSpaceError, NotPermittedError, ProtocolError
from naru.settings import ShmSettings
from naru.transports import hello
from naru.transports.connecting import Deadline, persist
from naru.transports.door import Door, finish
from naru.transports.memory import check_headroom
from naru.transports.names import rendezvous_path
from naru.transports.publishing import (
    POLICIES,
    Policy,
    Publisher,
    PublisherPlace,
    Subscriber,
    SubscriberPlace,
)
from naru.transports.shm import bind, check_bells, close_all, hear, hear_with_fds
from naru.transports.unix import peer_of

DESCRIPTORS = 4


# ---- the publisher's side ----


class _Greeter:
    """What the door does with a knock."""

    def __init__(self, address: Address, settings: ShmSettings) -> None:
        self.address = address
        self.settings = settings
        self.publisher: weakref.ref[Publisher] | None = None

    def welcome(self, sock: socket.socket) -> Generator[None, None, Any]:
        peer = peer_of(sock)
        theirs = yield from hear(sock, "shm.accept", self.address)
        publisher = self.publisher() if self.publisher else None
        if publisher is None:
            return None
        if not self.settings.permits(peer.uid, os.geteuid()):
            hello.refuse(sock, errno.EACCES)
            return None
        if theirs.kind not in hello.SUBSCRIBERS:
            hello.refuse(sock, errno.EPROTOTYPE)
            return None
        fences = not (has_barrier() and theirs.extra == 1)
        lifeline = os.dup(sock.fileno())
        try:
            policy = hello.SUBSCRIBERS.index(theirs.kind)
            fds = add_subscriber(publisher, policy, peer, fences, lifeline)
        except (LimitError, NoSpaceError) as error:
            os.close(lifeline)
            hello.refuse(sock, error.errno or errno.ENOMEM)
            raise
        except BaseException:
            os.close(lifeline)
            raise
        own = hello.Hello(hello.PUBLISHER, self.settings.max_message_bytes, int(not fences))
        try:
            # When it has gone meanwhile, its lifeline says so, and the porter frees its slot.
            socket.send_fds(sock, [hello.pack(own)], fds)
        finally:
            os.close(fds[1])
        return sock  # let_in closes it: the lifeline is another descriptor of the same socket


def publisher(address: Address) -> Publisher:
    settings = ShmSettings.from_address(address)
    check_headroom(settings.capacity_bytes, "shm.publisher", address)
    greeter = _Greeter(address, settings)
    listening, close_name = bind(address, settings)
    leave = [close_name, listening.close]
    try:
        door = Door(listening, greeter.welcome, socket.socket.close, settings.handshake_timeout_s)
        leave[-1] = door.close
        hint = "half of the ring is the most: raise capacity_bytes"
        place = PublisherPlace(settings, hint, *leave)
        end = open_publisher(Publisher, settings, address=address, place=place)
    except BaseException:
        while leave:
            leave.pop()()
        raise
    greeter.publisher = place.publisher = weakref.ref(end)
    end.employ(door)
    return end


# ---- the subscriber's side ----


def _check_permitted(sock: socket.socket, address: Address, settings: ShmSettings) -> Any:
    peer = peer_of(sock)
    if not settings.permits(peer.uid, os.geteuid()):
        raise NotPermittedError(
            f'shm.connect "{address}": the name belongs to uid {peer.uid}; '
            f"?allow_uids={peer.uid} trusts it",
            errno=errno.EPERM, operation="shm.connect", address=address,
        )  # fmt: skip
    return peer


def _check_answer(theirs: hello.Hello, fds: list[int], address: Address) -> None:
    if theirs.kind != hello.PUBLISHER or len(fds) != DESCRIPTORS:
        raise ProtocolError(
            f'shm.connect "{address}": the server sent {len(fds)} descriptors and kind '
            f"{theirs.kind} instead of {DESCRIPTORS} and {hello.PUBLISHER}: it is no publisher",
            errno=errno.EPROTO, operation="shm.connect", address=address,
        )  # fmt: skip
    check_bells(fds[2:], address)


def _reach(
    policy: Policy, address: Address, settings: ShmSettings, deadline: Deadline
) -> Subscriber:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fds: list[int] = []
    try:
        sock.setblocking(False)
        sock.connect(address.path or rendezvous_path("shm", str(address.name)))
        peer = _check_permitted(sock, address, settings)
        kind = hello.SUBSCRIBERS[POLICIES.index(policy)]
        hello.say(sock, hello.Hello(kind, settings.max_message_bytes, int(has_barrier())))
        theirs, fds = finish(hear_with_fds(sock, address), sock, deadline)
        _check_answer(theirs, fds, address)
        fences = not (has_barrier() and theirs.extra == 1)
        data, slot, data_bell, space_bell = fds
        end = open_subscriber(
            Subscriber, settings, data, slot, fences, sock.fileno(), data_bell, space_bell,
            address=address, peer=peer, place=SubscriberPlace(settings),
        )  # fmt: skip
    except BaseException:
        close_all(fds)
        sock.close()
        raise
    sock.detach()
    close_all(fds[:2])
    return end


def subscriber(address: Address, policy: Policy, deadline: Deadline) -> Subscriber:
    settings = ShmSettings.from_address(address)
    return persist(
        lambda: _reach(policy, address, settings, deadline),
        deadline, "shm.connect", address,
    )  # fmt: skip
