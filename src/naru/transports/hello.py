"""The 16 bytes with which each end of a connection opens, and the way a stranger is refused.

    0      4         6      8                   12            16
    "NARU" version   kind   max message bytes   extra

kind: what the sender of the hello is: a channel's end, a sender, a receiver, a publisher, a
subscriber (of each policy one); or a refusal, whose extra is an errno. extra: the heartbeat in ms
(tcp, udp); 1 when the process has membarrier(2) (shm).
Numbers are in the machine's byte order: another order makes another magic, and is refused.
Pure functions over bytes, and the two handshakes as generators that yield when they need more.
Must not know: which transport it serves.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Generator
from typing import NamedTuple

from naru.errors import (
    NotPermittedError,
    PeerGoneError,
    ProtocolError,
    UnsupportedError,
    from_errno,
)

__all__ = [
    "CHANNEL",
    "HELLO_BYTES",
    "PUBLISHER",
    "RECEIVER",
    "SENDER",
    "SUBSCRIBERS",
    "Handshake",
    "Hello",
    "pack",
    "unpack",
]

CHANNEL, SENDER, RECEIVER, PUBLISHER = 1, 2, 3, 4
SUBSCRIBERS = (5, 6, 7)
"""A subscriber of each policy: block, drop_oldest, latest."""
_KINDS = (CHANNEL, SENDER, RECEIVER, PUBLISHER, *SUBSCRIBERS)
REFUSAL = 0x100
HELLO_BYTES = 16
VERSION = 1
_MAGIC = b"NARU"
_LAYOUT = struct.Struct("=4sHHII")

Handshake = Generator[None, None, "Hello"]
"""Yields whenever the socket has nothing more to read."""


class Hello(NamedTuple):
    """What the other end said of itself."""

    kind: int
    max_message_bytes: int
    extra: int


def pack(hello: Hello) -> bytes:
    """The 16 bytes of a hello."""
    return _LAYOUT.pack(_MAGIC, VERSION, hello.kind, hello.max_message_bytes, hello.extra)


def pack_refusal(error: int) -> bytes:
    """The 16 bytes that tell a client why it is refused: EACCES, EPROTOTYPE for a wrong shape, or
    what the listener's kernel said (EMFILE, ENOMEM)."""
    return _LAYOUT.pack(_MAGIC, VERSION, REFUSAL, 0, error)


def refuse(sock: socket.socket, error: int) -> None:
    """Tells a client why it is turned away; 16 bytes always fit in a fresh connection's buffer.

    Only after its own hello was read: to close a socket with unread bytes resets the connection,
    and the reset overtakes the refusal.
    """
    sock.send(pack_refusal(error))


def unpack(data: bytes, operation: str, address: object) -> Hello:
    """Reads a hello.

    Raises:
        ProtocolError: not naru, another version, nonsense.
        NotPermittedError, UnsupportedError: a refusal.
    """
    if len(data) != HELLO_BYTES or not data.startswith(_MAGIC):
        raise ProtocolError(
            f'{operation} "{address}": the other side is not naru (it opened with '
            f"{data[:16]!r}); use ?framing=raw or lines to talk to other programs",
            errno=errno.EPROTO, operation=operation, address=address,
        )  # fmt: skip
    _, version, kind, max_message_bytes, extra = _LAYOUT.unpack(data)
    if version != VERSION:
        raise ProtocolError(
            f'{operation} "{address}": the other side speaks version {version} of the protocol, '
            f"this side {VERSION}: install the same naru on both",
            errno=errno.EPROTONOSUPPORT, operation=operation, address=address,
        )  # fmt: skip
    if kind == REFUSAL:
        _raise_refusal(extra, operation, address)
    if kind not in _KINDS or max_message_bytes == 0:
        raise ProtocolError(
            f'{operation} "{address}": a hello that makes no sense (kind {kind})',
            errno=errno.EPROTO, operation=operation, address=address,
        )  # fmt: skip
    return Hello(kind, max_message_bytes, extra)


def _raise_refusal(error: int, operation: str, address: object) -> None:
    if error == errno.EPROTOTYPE:
        raise UnsupportedError(
            f'{operation} "{address}": the other side has another shape: naru.connect goes with '
            "naru.listen, naru.sender with naru.receiver, naru.subscriber with naru.publisher",
            errno=error, operation=operation, address=address,
        )  # fmt: skip
    if error == errno.EACCES:
        raise NotPermittedError(
            f'{operation} "{address}": refused (EACCES), this user may not connect; ?allow_uids= '
            "at the listener permits it",
            errno=error, operation=operation, address=address,
        )  # fmt: skip
    if error not in errno.errorcode:
        raise ProtocolError(
            f'{operation} "{address}": refused for a reason that is none ({error})',
            errno=errno.EPROTO, operation=operation, address=address,
        )  # fmt: skip
    raise from_errno(-error, operation, address, detail="it is the other side that says so")


def say(sock: socket.socket, hello: Hello) -> None:
    """Sends a hello; 16 bytes always fit in a fresh connection's buffer."""
    sock.sendall(pack(hello))


def hear(sock: socket.socket, operation: str, address: object) -> Handshake:
    """Reads the other side's hello from a nonblocking stream socket."""
    data = b""
    while len(data) < HELLO_BYTES:
        try:
            chunk = sock.recv(HELLO_BYTES - len(data))
        except BlockingIOError:
            yield
            continue
        if not chunk:
            raise PeerGoneError(
                f'{operation} "{address}": the other side closed during the hello',
                errno=errno.EPIPE, operation=operation, address=address,
            )  # fmt: skip
        data += chunk
        if not _MAGIC.startswith(data[:4]):
            break  # a stranger that speaks first is known by its first bytes
    return unpack(data, operation, address)
