"""Taking connections: from naru's listeners, and from plain listening sockets.

Must not know: the loop. Joins: `accept()` gives the next connection or None and never waits;
`pause_s` says when to look again although nothing has become readable: a handshake's time may be
up, or a descriptor free.
"""

from __future__ import annotations

import errno
import socket
import time
from typing import Any

from naru.errors import TimedOutError

__all__ = ["FULL", "door_pause_s", "open_acceptor"]

FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PAUSE_S = 0.1


def door_pause_s(door: Any) -> float | None:
    """Seconds until this door wants step() in any case; None: it does not."""
    if door is None or not door.pending:
        return None
    left_ns: int = door.deadline_ns - time.monotonic_ns()
    return max(0.0, left_ns / 1e9)


class _Listener:
    """Around a naru.Listener."""

    def __init__(self, listener: Any) -> None:
        self._listener = listener

    def accept(self) -> Any:
        try:
            return self._listener.accept(timeout_s=0)
        except TimedOutError:
            return None

    @property
    def pause_s(self) -> float | None:
        return door_pause_s(self._listener._door)

    is_full = False  # its door pauses by itself


class _Socket:
    """Around a listening socket, which is made nonblocking."""

    def __init__(self, listening: socket.socket) -> None:
        listening.setblocking(False)
        self._listening = listening
        self.is_full = False
        self.pause_s: float | None = None

    def accept(self) -> socket.socket | None:
        self.is_full, self.pause_s = False, None
        while True:
            try:
                connection, _ = self._listening.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in FULL:
                    # Asked again at once it would say so 400,000 times a second (FAULTS 79).
                    self.is_full, self.pause_s = True, PAUSE_S
                    return None
                if error.errno in (errno.ECONNABORTED, errno.EPROTO, errno.EPERM):
                    continue  # that client has gone again
                raise
            connection.setblocking(False)
            return connection


def open_acceptor(listener: Any) -> _Listener | _Socket:
    """For a naru.Listener or a listening socket.socket.

    Raises: TypeError: it is neither.
    """
    if isinstance(listener, socket.socket):
        return _Socket(listener)
    if not hasattr(listener, "_door"):
        raise TypeError(f"on_connection: {listener!r} is no naru.Listener and no socket")
    return _Listener(listener)
