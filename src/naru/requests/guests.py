"""One client as its server sees it: what it has asked, and the replies that it has not taken yet.

Holds: Request and Reply (what a handler gets and gives), Guest (sending to one client without ever
waiting, its limits). Must not know: the loop, threads, other clients.
Joins: server.py reads requests from guests and gives them their replies; a guest without room says so
by `is_blocked`, and the loop calls push() when there may be room.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any

from naru._native.ends import Channel
from naru._native.multiplexing import flush, has_rest, try_send_parts
from naru.address import Address
from naru.buffers import ReadableBuffer
from naru.errors import TimedOutError, TooBigError, UnsupportedError
from naru.requests.conversation import Answering
from naru.requests.frames import (
    ERROR,
    REPLY,
    failure_of,
    parse_head,
    write_error,
    write_head,
    write_welcome,
)
from naru.transports.contract import Peer

__all__ = ["Guest", "Outgoing", "Reply", "Request"]


class Reply:
    """A reply with open files: what a handler may return instead of bytes."""

    __slots__ = ("_fds", "data")

    def __init__(self, data: ReadableBuffer, fds: Sequence[Any] = ()) -> None:
        """
        Args:
            data: any contiguous buffer.
            fds: descriptors, or objects with fileno(), at most 253. Duplicates are made now, so that
                yours may be closed before the reply is sent.

        Raises: OSError: not every one of them is open.
        """
        self.data = data
        self._fds: list[int] = []
        for fd in fds:
            self._fds.append(os.dup(fd if isinstance(fd, int) else fd.fileno()))

    def take_fds(self) -> list[int]:
        """The duplicates: from now on the caller's to close. Empty the second time."""
        fds, self._fds = self._fds, []
        return fds

    def __repr__(self) -> str:
        return f"<Reply with {len(self._fds)} descriptors>"

    def __del__(self) -> None:
        for fd in self.take_fds():
            os.close(fd)


class Request:
    """A request, as a handler gets it with `pass_request=True`."""

    __slots__ = ("_fds", "_guest", "data", "number")

    def __init__(self, guest: Guest, number: int, data: bytes, fds: Sequence[int]) -> None:
        """Made by the server."""
        self._guest = guest
        self.number = number
        """Of its connection, chosen by the client."""
        self.data = data
        self._fds = fds

    @property
    def peer(self) -> Peer | None:
        """Who asks, as the kernel saw it at connect time (unix, shm)."""
        return self._guest.channel.peer

    @property
    def address(self) -> Address:
        """Of the server."""
        return self._guest.channel.address

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors that came with it; closed after the handler, unless taken."""
        return tuple(self._fds)

    def take_fds(self) -> list[int]:
        """The descriptors that came with it; from now on yours to close. Empty the second time."""
        fds, self._fds = self._fds, ()
        return list(fds)

    @property
    def is_abandoned(self) -> bool:
        """Its client has gone: a long piece of work may stop."""
        return self._guest.has_gone

    def close(self) -> None:
        """Closes the descriptors that nobody has taken. The server calls it."""
        for fd in self.take_fds():
            os.close(fd)

    def __repr__(self) -> str:
        return f"<Request {self.number} ({len(self.data)} bytes, {len(self._fds)} descriptors)>"


class Outgoing:
    """A reply, or an error, on its way to a guest."""

    __slots__ = ("body", "fds", "flags", "head", "kind", "size_bytes")

    def __init__(
        self, kind: int, number: int, body: bytes, flags: int = 0, fds: Sequence[int] = ()
    ) -> None:
        """Takes the descriptors over."""
        self.kind, self.flags = kind, flags
        self.size_bytes = len(body)
        self.head = write_head(kind, number, flags)
        self.body = body
        self.fds = fds

    @classmethod
    def error(cls, number: int, error: BaseException, flags: int = 0) -> Outgoing:
        """An error that carries what can be told of an exception."""
        return cls(ERROR, number, write_error(failure_of(error)), flags)

    @classmethod
    def reply(cls, number: int, made: object) -> Outgoing:
        """What a handler returned. Raises: TypeError: it is nothing that can be sent."""
        if type(made) is bytes:
            return cls(REPLY, number, made)
        data: Any = made.data if isinstance(made, Reply) else made
        try:
            view = memoryview(data)
        except TypeError as error:
            raise TypeError(
                f"the handler returned {type(data).__name__}, not bytes, a buffer or a naru.Reply"
            ) from error
        # A copy: it may have to wait for room, while the handler goes on changing its buffer.
        body = view.tobytes()
        return cls(REPLY, number, body, fds=made.take_fds() if isinstance(made, Reply) else ())

    def close(self) -> None:
        """Its descriptors are sent, or never will be."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()


class Guest:
    """One client. Its methods are called under the server's lock."""

    def __init__(self, channel: Channel, most_open: int, held_bytes: int) -> None:
        """Args: held_bytes: of requests and replies together, above which nothing more is read."""
        self.channel = channel
        self.fd = -1
        """Of the channel, once the loop watches it."""
        self.answering = Answering(most_open)
        self.queued: deque[Request] = deque()
        """Requests that wait for a worker."""
        self.has_gone = False
        self.is_paused = False
        """The loop does not read from it."""
        self.is_blocked = False
        """There was no room for everything; push() tries again."""
        self.held_bytes = 0
        self._most_held_bytes = held_bytes
        self._unsent: deque[Outgoing] = deque()

    def greet(self) -> None:
        """The server's first word; there is room for it."""
        try_send_parts(self.channel, *write_welcome(self.answering.limit))

    @property
    def is_full(self) -> bool:
        """It has asked for so much, or taken so little, that no more is read from it now."""
        return self.held_bytes > self._most_held_bytes

    @property
    def is_idle(self) -> bool:
        """Everything that it asked has been answered, and the answers are out."""
        return not self.answering.open_count and not self.is_blocked

    def begin(self, request: Request) -> None:
        self.held_bytes += len(request.data)

    def answer(self, request: Request, outgoing: Outgoing) -> bool:
        """Closes a request. Returns: False: nobody is there to take the answer.

        Raises: what sending meets; the guest has to be dropped then.
        """
        self.held_bytes -= len(request.data)
        self.answering.finish(request.number)
        request.close()
        if self.has_gone:
            outgoing.close()
            return False
        self.deliver(outgoing)
        return True

    def deliver(self, outgoing: Outgoing) -> None:
        """Sends an answer, or keeps it until there is room. Raises as answer()."""
        if self.is_blocked or not self._try_send(outgoing):
            self._unsent.append(outgoing)
            self.held_bytes += outgoing.size_bytes
            self.is_blocked = True
        elif has_rest(self.channel):
            self.is_blocked = True

    def push(self) -> bool:
        """Sends what had no room. Returns: all is out. Raises as answer()."""
        while flush(self.channel):
            if not self._unsent:
                self.is_blocked = False
                return True
            if not self._try_send(self._unsent[0]):
                return False
            self.held_bytes -= self._unsent.popleft().size_bytes
        return False

    def _try_send(self, outgoing: Outgoing) -> bool:
        try:
            if not outgoing.fds:
                return try_send_parts(self.channel, outgoing.head, outgoing.body)
            message = b"".join((outgoing.head, outgoing.body))
            self.channel.send_fds(message, outgoing.fds, 0)
        except TimedOutError:
            return False
        except (TooBigError, UnsupportedError) as error:  # the message's fault, not the guest's
            outgoing.close()
            number = parse_head(outgoing.head, 0).number
            instead = Outgoing.error(number, error)
            outgoing.head, outgoing.body = instead.head, instead.body
            return self._try_send(outgoing)
        outgoing.close()
        return True

    def leave(self) -> tuple[list[Request], int]:
        """It is gone. Returns: the requests of it that were not begun, how many answers are lost."""
        self.has_gone = True
        dropped, lost = list(self.queued), len(self._unsent)
        self.queued.clear()
        for request in dropped:
            request.close()
        for outgoing in self._unsent:
            outgoing.close()
        self._unsent.clear()
        return dropped, lost
