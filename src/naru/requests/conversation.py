"""What may be said when: both sides of a conversation as state machines without I/O.

    client: `Asking`                            server: `Answering`
    welcome     limit is known                  -
    begin       request n is open               begin      n is open
    abandon     nobody waits for n any more     cancel     n, when it was not begun, is dropped
    take        n's one reply or error          finish     n is closed

A number is open from its request to its one reply or error, also after nobody waits for it any more:
so a late reply is known for what it is, and whatever else comes unasked breaks the protocol. At most
`limit` are open, which bounds what both sides hold, and leaves room for every cancel.

Holds: the tables, their rules and counts. Must not know: channels, threads, time.
Joins: link.py and guests.py call these under their locks, and do what they are told.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from naru.errors import ProtocolError
from naru.requests.frames import (
    CANCEL,
    ERROR,
    MOST_OPEN,
    REPLY,
    REQUEST,
    WELCOME,
    Frame,
    parse_welcome,
)

__all__ = ["Answering", "Asking"]

Waiter = TypeVar("Waiter")
LAST_NUMBER = 2**64 - 1


class Asking(Generic[Waiter]):
    """The client's side: which requests are open, and who waits for each."""

    def __init__(self) -> None:
        self.limit = 0
        """How many may be open; 0 until the server's welcome."""
        self.requests = 0
        """Begun and not withdrawn, so far."""
        self.late = 0
        """Replies that came when nobody waited for them any more."""
        self._open: dict[int, Waiter | None] = {}
        self._last = 0

    @property
    def has_room(self) -> bool:
        """begin() is allowed."""
        return len(self._open) < self.limit

    @property
    def open_count(self) -> int:
        """Requests without their reply, the abandoned ones too."""
        return len(self._open)

    def begin(self, waiter: Waiter) -> int:
        """A request is about to be sent. Returns: its number. Only with has_room."""
        if not self.has_room:
            raise ValueError(f"{len(self._open)} requests are open, {self.limit} may be")
        self._last = self._last % LAST_NUMBER + 1
        while self._last in self._open:  # after 2**64 requests
            self._last = self._last % LAST_NUMBER + 1
        self._open[self._last] = waiter
        self.requests += 1
        return self._last

    def close(self, number: int) -> None:
        """Its reply is here: take(), for who has compared the whole head."""
        del self._open[number]

    def withdraw(self, number: int) -> None:
        """It could not be sent: no reply will come."""
        del self._open[number]
        self.requests -= 1

    def abandon(self, number: int) -> bool:
        """Nobody waits for it any more. Returns: it is open, so a cancel is worth sending."""
        if self._open.get(number) is None:
            return False
        self._open[number] = None
        return True

    def take(self, frame: Frame, body: bytes) -> Waiter | None:
        """What came closes a request.

        Returns: who waits for it; None when that has been abandoned, and for the welcome.
        Raises: ProtocolError: nothing of the kind was asked.
        """
        if frame.kind == REPLY or frame.kind == ERROR:
            return self.answer(frame.number)
        if frame.kind != WELCOME:
            raise ProtocolError(f"a server sent a frame of kind {frame.kind}")
        if self.limit:
            raise ProtocolError("a second welcome")
        self.limit = parse_welcome(body)
        return None

    def answer(self, number: int) -> Waiter | None:
        """take() of a reply or an error."""
        try:
            waiter = self._open.pop(number)
        except KeyError:
            raise ProtocolError(f"a reply to request {number}, which is not open") from None
        if waiter is None:
            self.late += 1
        return waiter

    def end(self) -> list[Waiter]:
        """The connection is gone. Returns: everybody who still waits; nothing is open from now on."""
        waiting = [waiter for waiter in self._open.values() if waiter is not None]
        self._open.clear()
        self.limit = 0
        return waiting


class Answering:
    """The server's side of one client: which requests are open."""

    def __init__(self, limit: int) -> None:
        """Args: limit: how many may be open, 1..2**20: what the welcome says."""
        if not 1 <= limit <= MOST_OPEN:
            raise ValueError(f"1 to {MOST_OPEN} requests may be open at once, not {limit}")
        self.limit = limit
        self.requests = 0
        """Begun so far."""
        self._open: set[int] = set()

    @property
    def open_count(self) -> int:
        """Requests without their reply."""
        return len(self._open)

    def take(self, frame: Frame) -> bool:
        """What a client sent. Returns: True for a request, which is open now; False for a cancel.

        A cancel may have crossed the reply on its way, so that its number may mean nothing.

        Raises: ProtocolError: more than `limit` are open, a number that is in use, no such kind.
        """
        if frame.kind == CANCEL:
            return False
        if frame.kind != REQUEST:
            raise ProtocolError(f"a client sent a frame of kind {frame.kind}")
        if frame.number in self._open:
            raise ProtocolError(f"request {frame.number} is open already")
        if len(self._open) >= self.limit:
            raise ProtocolError(f"more than {self.limit} requests are open")
        self._open.add(frame.number)
        self.requests += 1
        return True

    def finish(self, number: int) -> None:
        """Its reply, or its error, is on its way: once for each request."""
        self._open.remove(number)
