"""A transport in plain Python, between the threads of one process.

Whoever writes one of their own can run it through the conformance suite, as test_toy_transport.py
does with this one. It knows nothing of naru but its errors and its Statistics, and is as simple as
the promises allow: a list with a lock. `ToyEnd.flaw` breaks one promise on purpose.
"""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from naru.errors import (
    ClosedError,
    PeerGoneError,
    TimedOutError,
    TooBigError,
    UnsupportedError,
)
from naru.statistics import Statistics

CAPACITY_MESSAGES = 100
MAX_MESSAGE_BYTES = 300_000


class Direction:
    """Messages on their way from one end to the other."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.ended = False
        """The sending end has closed."""
        self.refused = False
        """The receiving end has closed."""


class ToyEnd:
    """One end of a conversation."""

    def __init__(
        self, changed: threading.Condition, out: Direction, into: Direction, flaw: str
    ) -> None:
        self.address = "toy:"
        self.peer = None
        self.closed = False
        self.flaw = flaw
        self._changed, self._out, self._in = changed, out, into
        self._borrowed = False
        self._counts = dict.fromkeys(Statistics.__dataclass_fields__, 0)

    # ---- waiting ----

    def _wait_until(self, ready: Callable[[], bool], timeout_s: float | None, what: str) -> None:
        """With the lock."""
        if timeout_s is not None and (math.isnan(timeout_s) or timeout_s < 0):
            raise ValueError(f"timeout_s must be None or at least 0, not {timeout_s!r}")
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        if not self.closed and not ready():
            self._counts["waits"] += 1
        while not self.closed and not ready():
            left_s = None if until_s is None else until_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise TimedOutError(f"{what}: timed out", operation=what, address=self.address)
            self._changed.wait(left_s)
        if self.closed:
            raise ClosedError(f"{what}: closed on this side", operation=what, address=self.address)

    # ---- sending ----

    def send(self, data: Any, timeout_s: float | None = None) -> None:
        message = self._to_bytes(data)
        with self._changed:
            self._wait_until(lambda: self._has_room(), timeout_s, "send")
            self._put(message)

    def try_send(self, data: Any) -> bool:
        message = self._to_bytes(data)
        with self._changed:
            self._check_open("try_send")
            if not self._has_room():
                return False
            self._put(message)
            return True

    def send_parts(self, buffers: Sequence[Any], timeout_s: float | None = None) -> None:
        self.send(b"".join(self._to_bytes(buffer) for buffer in buffers), timeout_s)

    def send_many(self, messages: Sequence[Any], timeout_s: float | None = None) -> None:
        self._check_open("send_many")
        for sent, message in enumerate(messages):
            try:
                self.send(message, timeout_s)
            except TimedOutError:
                text = f"send_many: timed out; {sent} messages were sent, the others not"
                raise TimedOutError(text, address=self.address) from None

    @contextmanager
    def _reserving(self, size_bytes: int, timeout_s: float | None) -> Iterator[memoryview]:
        self._check_open("reserve")
        self._check_size(size_bytes)
        place = bytearray(size_bytes)
        view = memoryview(place)
        try:
            yield view
        except BaseException:
            view.release()
            raise
        view.release()
        place.append(0)  # raises BufferError when another view is alive
        place.pop()
        self.send(place, timeout_s)

    def reserve(self, size_bytes: int, timeout_s: float | None = None) -> Any:
        if size_bytes < 0:
            raise ValueError("size_bytes must be at least 0")
        return OneBlock(self._reserving(size_bytes, timeout_s))

    def send_fds(self, data: Any, fds: Sequence[Any], timeout_s: float | None = None) -> None:
        raise UnsupportedError("send_fds: a toy passes no descriptors", address=self.address)

    def _to_bytes(self, data: Any) -> bytes:
        view = memoryview(data)
        if not view.c_contiguous:
            raise BufferError("not contiguous")
        self._check_size(view.nbytes)
        return bytes(view)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > MAX_MESSAGE_BYTES and self.flaw != "takes any size":
            raise TooBigError(f"{size_bytes} bytes are too many", address=self.address)

    def _has_room(self) -> bool:
        return self._out.refused or len(self._out.messages) < CAPACITY_MESSAGES

    def _put(self, message: bytes) -> None:
        if self._out.refused:
            raise PeerGoneError("send: the peer is gone", address=self.address, orderly=True)
        self._counts["messages_sent"] += 1
        self._counts["bytes_sent"] += len(message)
        if self.flaw == "loses" and self._counts["messages_sent"] % 97 == 0:
            return
        self._out.messages.append(message[:4000] if self.flaw == "cuts" else message)
        if self.flaw == "doubles" and self._counts["messages_sent"] % 97 == 0:
            self._out.messages.append(message)
        if self.flaw == "reorders" and len(self._out.messages) % 31 == 30:
            self._out.messages[-1], self._out.messages[-2] = self._out.messages[-2], message
        self._changed.notify_all()

    # ---- receiving ----

    def receive(self, timeout_s: float | None = None) -> bytes:
        with self._changed:
            self._check_open("receive")
            self._wait_until(self._is_readable, timeout_s, "receive")
            return self._take()

    def try_receive(self) -> bytes | None:
        with self._changed:
            self._check_open("try_receive")
            return self._take() if self._is_readable() else None

    def receive_many(self, limit: int = 64, timeout_s: float | None = None) -> list[bytes]:
        if limit < 1:
            raise ValueError("limit must be at least 1")
        with self._changed:
            messages = [self.receive(timeout_s)]
            while self._in.messages and len(messages) < limit:
                messages.append(self._take())
            return messages

    def receive_into(self, buffer: Any, timeout_s: float | None = None) -> int:
        view = memoryview(buffer)
        if view.readonly:
            raise BufferError("the buffer is read-only")
        with self._changed:
            message = self.receive(timeout_s)
            if len(message) > view.nbytes:
                self._give_back(message)
                raise TooBigError(
                    "the buffer is too small; the message is kept", address=self.address
                )
        view.cast("B")[: len(message)] = message
        return len(message)

    def receive_fds(
        self, limit: int = 253, timeout_s: float | None = None
    ) -> tuple[bytes, list[int]]:
        return self.receive(timeout_s), []

    def lease(self, timeout_s: float | None = None) -> Any:
        return OneBlock(self._leasing(lambda: [self.receive(timeout_s)], lambda views: views[0]))

    def lease_many(self, limit: int = 64, timeout_s: float | None = None) -> Any:
        if limit < 1:
            raise ValueError("limit must be at least 1")
        return OneBlock(self._leasing(lambda: self.receive_many(limit, timeout_s), ToyBatch))

    @contextmanager
    def _leasing(
        self, receive: Callable[[], list[bytes]], show: Callable[[list[memoryview]], Any]
    ) -> Iterator[Any]:
        places = [bytearray(message) for message in receive()]
        views = [memoryview(place).toreadonly() for place in places]
        shown = show(views)
        try:
            yield shown
        finally:
            for view in views:
                view.release()
            if isinstance(shown, ToyBatch):
                shown.over = True
        for place in places:
            if self.flaw != "forgets views":
                place.append(0)  # raises BufferError when another view is alive

    def fileno(self) -> int:
        raise UnsupportedError("fileno: a toy has no descriptor", address=self.address)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            return self.receive()
        except PeerGoneError:
            raise StopIteration from None

    def _is_readable(self) -> bool:
        return bool(self._in.messages) or self._in.ended

    def _take(self) -> bytes:
        if not self._in.messages:
            raise PeerGoneError(
                "receive: the peer closed", address=self.address, orderly=self.flaw != "dies"
            )
        message = self._in.messages.popleft()
        self._counts["messages_received"] += 1
        self._counts["bytes_received"] += len(message)
        self._changed.notify_all()
        return message

    def _give_back(self, message: bytes) -> None:
        self._in.messages.appendleft(message)
        self._counts["messages_received"] -= 1
        self._counts["bytes_received"] -= len(message)

    # ---- life ----

    def _check_open(self, what: str) -> None:
        if self.closed:
            raise ClosedError(f"{what}: closed on this side", operation=what, address=self.address)

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._out.ended = self._in.refused = True
            self._changed.notify_all()

    def statistics(self) -> Statistics:
        return Statistics(**self._counts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ToyEnd {self.address}{' (closed)' if self.closed else ''}>"

    def __reduce__(self) -> Any:
        raise UnsupportedError("a toy does not travel", address=self.address)

    def __del__(self) -> None:
        if not self.closed and self.flaw != "says nothing":
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)


class ToyBatch(Sequence[memoryview]):
    """What lease_many() gives."""

    def __init__(self, views: list[memoryview]) -> None:
        self._views = views
        self.over = False

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: Any) -> Any:
        if self.over:
            raise ValueError("the batch is over")
        return self._views[index]


class OneBlock:
    """A context manager for one `with` block."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._entered = inner, False

    def __enter__(self) -> Any:
        if self._entered:
            raise ValueError("a lease is for one `with` block")
        self._entered = True
        return self._inner.__enter__()

    def __exit__(self, *exc_info: Any) -> Any:
        return self._inner.__exit__(*exc_info)


def make_pair(flaw: str = "") -> tuple[ToyEnd, ToyEnd]:
    """Two ends joined to each other."""
    changed, there, back = threading.Condition(), Direction(), Direction()
    return ToyEnd(changed, there, back, flaw), ToyEnd(changed, back, there, flaw)
