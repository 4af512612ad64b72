"""Shared memory: rings in a sealed memfd, found through a Unix seqpacket socket.

The listener makes the segment and the doorbells and passes them over the socket, which stays open
as the lifeline: a dead peer is a hang-up. Nothing has a name in /dev/shm, so nothing is left
behind.
Packets of the handshake: the client's hello (extra 1: it has membarrier); the server's hello, with
five descriptors: segment, data bell and space bell of each ring that exists.
Source: memfd_create(2), unix(7), eventfd(2), membarrier(2).
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections.abc import Generator
from typing import Any

from naru._native.ends import Channel, Receiver, Sender
from naru._native.opening import has_barrier, open_shm
from naru._native.system import create_segment, eventfd
from naru.address import Address
from naru.errors import LimitError, NoSpaceError, NotPermittedError, ProtocolError, from_os_error
from naru.settings import ShmSettings
from naru.transports import hello
from naru.transports.connecting import Deadline, persist
from naru.transports.contract import Capabilities, End, Peer, Place
from naru.transports.door import Welcome, finish
from naru.transports.fan_in import open_receiver, start_listening
from naru.transports.listener import Listener
from naru.transports.memory import check_headroom
from naru.transports.names import bind_path, rendezvous_path
from naru.transports.pairs import make_pair
from naru.transports.unix import peer_of

capabilities = Capabilities(
    transport="shm",
    mechanism="ring in a sealed memfd",
    channel=True,
    pair=True,
    many_senders=True,
    order=True,
    reliable=True,
    back_pressure=True,
    descriptors=True,
    priority=False,
    in_place=True,
    peer_credentials=True,
    peer_death="at once",
    crosses_machines=False,
    max_message_bytes=lambda: ShmSettings().max_message_bytes,
)

NO_RING = -1
MAX_NAME_BYTES = 60


class Connection:
    """The descriptors of one connection, in the order in which they travel."""

    def __init__(self, fds: list[int]) -> None:
        """[segment, data bell 0, space bell 0, data bell 1, space bell 1]; -1: no such ring."""
        self.fds = fds

    @classmethod
    def create(
        cls, to_client: int, to_server: int, address: Address, shared_bell: int
    ) -> Connection:
        """A new segment with rings of these sizes (bytes, 0 = none) and its bells."""
        check_headroom(to_client + to_server, "shm.connect", address)
        fds = [create_segment(to_client, to_server, address=address)]
        try:
            for capacity, bell in ((to_client, NO_RING), (to_server, shared_bell)):
                if capacity == 0:
                    fds += [NO_RING, NO_RING]
                    continue
                fds.append(os.dup(bell) if bell != NO_RING else eventfd(address=address))
                fds.append(eventfd(address=address))
        except BaseException:
            close_all(fds)
            raise
        return cls(fds)

    def open(
        self, cls: type[End], settings: ShmSettings, end: int, fences: bool, lifeline: int,
        address: Address, peer: Peer | None, *, keep_segment: bool = False,
    ) -> End:  # fmt: skip
        """One end; the descriptors and the lifeline are taken over."""
        segment, *bells = self.fds
        closers = [lambda: os.close(segment)] if keep_segment else []
        end_object = open_shm(
            cls, settings, segment, end, fences, lifeline, (bells[0], bells[2]),
            (bells[1], bells[3]), address=address, peer=peer,
            place=Place(settings, *closers, passes_fds=True),
        )  # fmt: skip
        if not keep_segment:
            os.close(segment)
        return end_object


def close_all(fds: list[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


# ---- the server's side ----


def bind(address: Address, settings: ShmSettings) -> tuple[socket.socket, Any]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if address.path:
            name = bind_path(sock, address.path, settings.mode, "shm.listen", address)
        else:
            path = rendezvous_path("shm", str(address.name))
            name = bind_path(sock, path, settings.mode, "shm.listen", address)
        start_listening(sock, settings.backlog, "shm.listen", address, name.close)
    except BaseException:
        sock.close()
        raise
    return sock, name.close


def _welcome(
    cls: type[End], kind: int, address: Address, settings: ShmSettings, bell: int
) -> Welcome:
    to_client = settings.capacity_bytes if kind == hello.CHANNEL else 0
    own_kind = hello.CHANNEL if kind == hello.CHANNEL else hello.RECEIVER

    def welcome(sock: socket.socket) -> Generator[None, None, Any]:
        peer = peer_of(sock)
        theirs = yield from hear(sock, "shm.accept", address)
        if not settings.permits(peer.uid, os.geteuid()):
            hello.refuse(sock, errno.EACCES)
            return None
        if theirs.kind != kind:
            hello.refuse(sock, errno.EPROTOTYPE)
            return None
        try:
            connection = Connection.create(to_client, settings.capacity_bytes, address, bell)
        except (LimitError, NoSpaceError) as error:
            hello.refuse(sock, error.errno or errno.ENOMEM)
            raise
        fences = not (has_barrier() and theirs.extra == 1)
        own = hello.Hello(own_kind, settings.max_message_bytes, 0 if fences else 1)
        try:
            sent = [fd for fd in connection.fds if fd >= 0]
            socket.send_fds(sock, [hello.pack(own)], sent)
            end = connection.open(cls, settings, 0, fences, sock.fileno(), address, peer)
        except BaseException:
            close_all(connection.fds)
            raise
        sock.detach()
        return end

    return welcome


def listen(address: Address) -> Listener:
    settings = ShmSettings.from_address(address)
    sock, close_name = bind(address, settings)
    welcome = _welcome(Channel, hello.CHANNEL, address, settings, NO_RING)
    return Listener(address, sock, welcome, settings.handshake_timeout_s, close_name)


def receiver(address: Address) -> Receiver:
    settings = ShmSettings.from_address(address)
    sock, close_name = bind(address, settings)
    try:
        bell = eventfd(address=address)
    except BaseException:
        sock.close()
        close_name()
        raise
    welcome = _welcome(Receiver, hello.SENDER, address, settings, bell)
    return open_receiver(address, settings, sock, welcome, close_name, bell, lambda: os.close(bell))


# ---- the client's side ----


def hear(sock: socket.socket, operation: str, address: Address) -> hello.Handshake:
    """One packet without descriptors."""
    while True:
        try:
            data = sock.recv(hello.HELLO_BYTES + 1)
        except BlockingIOError:
            yield
            continue
        if not data:
            raise from_os_error(ConnectionResetError(errno.ECONNRESET, ""), operation, address)
        return hello.unpack(data, operation, address)


def hear_with_fds(
    sock: socket.socket, address: Address
) -> Generator[None, None, tuple[hello.Hello, list[int]]]:
    """The server's packet. What does not fit the contract is closed (FAULTS 91, 92)."""
    room = socket.CMSG_SPACE(253 * array.array("i").itemsize)
    while True:
        try:
            data, ancillary, flags, _ = sock.recvmsg(
                hello.HELLO_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            yield
            continue
        break
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    try:
        if not data:
            raise from_os_error(ConnectionResetError(errno.ECONNRESET, ""), "shm.connect", address)
        theirs = hello.unpack(data, "shm.connect", address)
        if flags & socket.MSG_CTRUNC:
            raise from_os_error(OSError(errno.EMFILE, ""), "shm.connect", address)
    except BaseException:
        close_all(list(fds))
        raise
    return theirs, list(fds)


def check_bells(fds: list[int], address: Address) -> None:
    """Whatever is no eventfd could hang who reads it or rings it."""
    for fd in fds:
        try:
            what = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            return  # no /proc here: the rules of the C core about blocking must do
        if what != "anon_inode:[eventfd]":
            raise ProtocolError(
                f'shm.connect "{address}": the server sent a doorbell that is none ({what})',
                errno=errno.EPROTO, operation="shm.connect", address=address,
            )  # fmt: skip


def _reach(
    cls: type[End], kind: int, address: Address, settings: ShmSettings, deadline: Deadline
) -> End:
    rings = 2 if kind == hello.CHANNEL else 1
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.connect(address.path or rendezvous_path("shm", str(address.name)))
        peer = peer_of(sock)
        if not settings.permits(peer.uid, os.geteuid()):
            raise NotPermittedError(
                f'shm.connect "{address}": the name belongs to uid {peer.uid}; '
                f"?allow_uids={peer.uid} trusts it",
                errno=errno.EPERM, operation="shm.connect", address=address,
            )  # fmt: skip
        hello.say(sock, hello.Hello(kind, settings.max_message_bytes, int(has_barrier())))
        theirs, fds = finish(hear_with_fds(sock, address), sock, deadline)
        if len(fds) != 1 + 2 * rings:
            close_all(fds)
            raise ProtocolError(
                f'shm.connect "{address}": the server sent {len(fds)} descriptors instead of '
                f"{1 + 2 * rings}",
                errno=errno.EPROTO, operation="shm.connect", address=address,
            )  # fmt: skip
        try:
            check_bells(fds[1:], address)
            if rings == 1:  # ring 0, to the client, does not exist
                fds[1:1] = [NO_RING, NO_RING]
            fences = not (has_barrier() and theirs.extra == 1)
            end = Connection(fds).open(cls, settings, 1, fences, sock.fileno(), address, peer)
        except BaseException:
            close_all(fds)
            raise
        sock.detach()
        return end
    except BaseException:
        sock.close()
        raise


def connect(address: Address, deadline: Deadline) -> Channel:
    settings = ShmSettings.from_address(address)
    return persist(
        lambda: _reach(Channel, hello.CHANNEL, address, settings, deadline),
        deadline, "shm.connect", address,
    )  # fmt: skip


def sender(address: Address, deadline: Deadline) -> Sender:
    settings = ShmSettings.from_address(address)
    return persist(
        lambda: _reach(Sender, hello.SENDER, address, settings, deadline),
        deadline, "shm.connect", address,
    )  # fmt: skip


# ---- both ends in one hand ----


def pair(address: Address) -> tuple[Channel, Channel]:
    return make_pair(address, pair_fds(address))


def pair_fds(address: Address) -> tuple[list[int], list[int]]:
    """What open_pair_end() takes, for either end."""
    settings = ShmSettings.from_address(address)
    connection = Connection.create(
        settings.capacity_bytes, settings.capacity_bytes, address, NO_RING
    )
    other: list[int] = []
    try:
        for fd in connection.fds:
            other.append(os.dup(fd))
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        close_all([*connection.fds, *other])
        raise from_os_error(error, "shm.pair", address) from error
    return [*connection.fds, a.detach()], [*other, b.detach()]


def open_pair_end(address: Address, index: int, fds: list[int]) -> Channel:
    """One end from the connection's descriptors and the lifeline; pickle needs the segment's."""
    peer = Peer(os.getpid(), os.geteuid(), os.getegid())
    return _open_end(address, index, fds, not has_barrier(), peer, keep_segment=True)


def open_sent_end(
    address: Address, index: int, fds: list[int], fences: bool, peer: Peer | None
) -> Channel:
    """The same for an end whose descriptors came from, or went to, another process."""
    check_bells(fds[1:5], address)
    return _open_end(address, index, fds, fences, peer, keep_segment=False)


def _open_end(
    address: Address, index: int, fds: list[int], fences: bool, peer: Peer | None, *,
    keep_segment: bool,
) -> Channel:  # fmt: skip
    settings = ShmSettings.from_address(address)
    *connection, lifeline = fds
    end: Channel = Connection(connection).open(
        Channel, settings, index, fences, lifeline, address, peer, keep_segment=keep_segment
    )
    return end
