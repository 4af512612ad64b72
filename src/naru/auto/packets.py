"""Words over a control connection: one packet each, descriptors with them.

Must not know: what the words mean. Source: unix(7), SOCK_SEQPACKET and SCM_RIGHTS.
"""

from __future__ import annotations

import array
import errno
import socket
from collections.abc import Sequence
from typing import NamedTuple

from naru.auto.carriers import close_all
from naru.auto.words import PACKET_BYTES, Word, pack, unpack
from naru.errors import PeerGoneError

__all__ = ["Received", "receive_word", "send_word"]

MOST_FDS = 16


def send_word(sock: socket.socket, word: Word, fds: Sequence[int] = ()) -> None:
    """Raises OSError; BlockingIOError when the other side does not read."""
    if fds:
        socket.send_fds(sock, [pack(word)], list(fds))
    else:
        sock.send(pack(word))


class Received(NamedTuple):
    """A packet that came."""

    word: Word
    fds: list[int]
    """Close-on-exec, the receiver's to close."""
    lost: bool
    """This process had no free number for all of them: none is kept."""


def receive_word(sock: socket.socket, address: object) -> Received | None:
    """The next word; None when there is none yet.

    Raises:
        PeerGoneError: the other side has closed.
        ProtocolError: it said something else.
    """
    room = socket.CMSG_SPACE(MOST_FDS * array.array("i").itemsize)
    try:
        data, ancillary, flags, _ = sock.recvmsg(PACKET_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    try:
        if not data:
            raise PeerGoneError(
                f'auto "{address}": the other side has closed', errno=errno.EPIPE,
                operation="auto", address=address,
            )  # fmt: skip
        word = unpack(data)
    except BaseException:
        close_all(list(fds))
        raise
    if flags & socket.MSG_CTRUNC:
        close_all(list(fds))
        return Received(word, [], lost=True)
    return Received(word, list(fds), lost=False)
