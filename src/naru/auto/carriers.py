"""Connections that one process makes and hands to another: descriptors over a Unix socket.

Holds: which transports can be made so, and what their descriptors must be: the other process may be
hostile. Must not know: who wants which, and when.
Joins: a transport's `pair_fds()` makes both ends, its `open_pair_end()` opens one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Sequence
from typing import Any

from naru._native.ends import Channel
from naru.address import Address
from naru.errors import ProtocolError, from_os_error
from naru.settings import AutoSettings
from naru.transports import Peer, load

__all__ = ["CARRIERS", "address_of", "close_all", "make", "open_end"]

CARRIERS = ("shm", "unix", "pipe", "tcp")
_COUNTS = {"shm": 6, "unix": 1, "pipe": 2, "tcp": 1}


def address_of(
    transport: str, settings: AutoSettings, capacity_bytes: int, max_message_bytes: int
) -> Address:
    """The address of one connection, as naru.pair() would take it."""
    options = {
        "wait": settings.wait,
        "max_message_bytes": str(max_message_bytes),
        "linger_s": f"{settings.linger_s:.9f}",
    }
    if transport in ("shm", "pipe"):
        options["capacity_bytes"] = str(capacity_bytes)
    return Address(transport, options=options)


def make(address: Address) -> tuple[list[int], list[int]]:
    """The descriptors of both ends. Raises: as naru.pair()."""
    try:
        fds: tuple[list[int], list[int]] = load(address.transport).pair_fds(address)
    except OSError as error:
        raise from_os_error(error, "auto.offer", address) from error
    return fds


def open_end(
    address: Address, index: int, fds: Sequence[int], fences: bool, peer: Peer | None, *,
    lost: bool = False,
) -> Channel:  # fmt: skip
    """One end. Takes the descriptors over, also when this fails.

    Raises:
        ProtocolError: they are not what this transport's descriptors are.
        LimitError: they were lost on their way; NoSpaceError, CorruptedError.
    """
    try:
        if lost:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        _check_kinds(address, fds)
        transport = load(address.transport)
        if address.transport == "shm":
            end: Channel = transport.open_sent_end(address, index, list(fds), fences, peer)
        else:
            end = transport.open_pair_end(address, index, list(fds))
    except BaseException as error:
        close_all(fds)
        if isinstance(error, OSError):
            raise from_os_error(error, "auto.open", address) from error
        raise
    return end


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _check_kinds(address: Address, fds: Sequence[int]) -> None:
    """What is none of these could block who reads it, or be somebody else's."""
    transport = address.transport
    if len(fds) != _COUNTS[transport]:
        _refuse(address, f"{len(fds)} descriptors instead of {_COUNTS[transport]}")
    if transport == "pipe":
        for fd, access in zip(fds, (os.O_RDONLY, os.O_WRONLY), strict=True):
            is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
            if not is_pipe or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != access:
                _refuse(address, "a descriptor that is not this end of a pipe")
        return
    families, kind = {
        "shm": ({socket.AF_UNIX}, socket.SOCK_SEQPACKET),
        "unix": ({socket.AF_UNIX}, socket.SOCK_STREAM),
        "tcp": ({socket.AF_INET, socket.AF_INET6}, socket.SOCK_STREAM),
    }[transport]
    if not stat.S_ISSOCK(os.fstat(fds[-1]).st_mode):
        _refuse(address, "a descriptor that is no socket")
    sock = socket.socket(fileno=fds[-1])
    try:
        found: Any = (sock.family, sock.type)
    finally:
        sock.detach()
    if found[0] not in families or found[1] != kind:
        _refuse(address, "a socket of another kind")


def _refuse(address: Address, wrong: str) -> None:
    raise ProtocolError(
        f'auto.open "{address}": the other side sent {wrong}', errno=errno.EPROTO,
        operation="auto.open", address=address,
    )  # fmt: skip
