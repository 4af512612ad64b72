"""Words over a control connection: one packet each, descriptors with them.

Must not know: what the words mean. Source: unix(7), SOCK_SEQPACKET and SCM_RIGHTS.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections.abc import Sequence

from naru.auto.carriers import close_all
from naru.auto.words import PACKET_BYTES, Word, pack, unpack
from naru.errors import PeerGoneError, from_os_error

__all__ = ["receive_word", "send_word"]

MOST_FDS = 16


def send_word(sock: socket.socket, word: Word, fds: Sequence[int] = ()) -> None:
    """Raises OSError; BlockingIOError when the other side does not read."""
    if fds:
        socket.send_fds(sock, [pack(word)], list(fds))
    else:
        sock.send(pack(word))


def receive_word(sock: socket.socket, address: object) -> tuple[Word, list[int]] | None:
    """The next word and its descriptors, close-on-exec; None when there is none yet.

    Raises:
        PeerGoneError: the other side has closed.
        ProtocolError: it said something else. LimitError: its descriptors found no free number.
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
        if flags & socket.MSG_CTRUNC:
            number = errno.EMFILE if len(fds) < MOST_FDS else errno.EPROTO
            raise from_os_error(OSError(number, os.strerror(number)), "auto", address)
        return unpack(data), list(fds)
    except BaseException:
        close_all(list(fds))
        raise
