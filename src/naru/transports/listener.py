"""What naru.listen returns: a name that gives channels.

Must not know: any mechanism; the door brings finished channels.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Self

from naru._native.ends import Channel
from naru._native.system import eventfd
from naru.address import Address
from naru.errors import ClosedError, ForkedHandleError, TimedOutError, from_os_error
from naru.transports.connecting import Deadline
from naru.transports.door import Door

__all__ = ["Listener"]


class Listener:
    """Accepts conversations at an address until it is closed. Safe from several threads."""

    def __init__(
        self,
        address: Address,
        listening: socket.socket,
        welcome: Callable[[socket.socket], Generator[None, None, Any]],
        handshake_timeout_s: float,
        close_name: Callable[[], object] = lambda: None,
    ) -> None:
        """Made by a transport's listen(); takes socket and name over, also when this fails."""
        self.address = address
        """Where it listens; the real port where 0 was asked."""
        self._ready: deque[Channel] = deque()
        self._close_name = close_name
        self._lock = threading.RLock()
        self._bell = -1
        try:
            self._bell = eventfd(address=address)
            self._door = Door(listening, welcome, self._ready.append, handshake_timeout_s)
        except BaseException:
            if self._bell >= 0:
                os.close(self._bell)
            listening.close()
            close_name()
            raise
        self._waiting = 0
        self._closed = False
        self._owner = os.getpid()

    def accept(self, timeout_s: float | None = None) -> Channel:
        """Waits for the next conversation.

        Whoever connects and says nothing, or is not naru, or may not, is dropped after
        `handshake_timeout_s` and never delays others.

        Args:
            timeout_s: seconds; None = for ever, 0 = one look.

        Raises:
            TimedOutError: nobody came in time.
            ClosedError: this listener was closed, also by another thread meanwhile.
            ForkedHandleError: it belongs to the parent process.
        """
        deadline = Deadline(timeout_s)
        poll = select.poll()
        with self._lock:
            self._check("accept")
            self._waiting += 1
            poll.register(self._door, select.POLLIN)
            poll.register(self._bell, select.POLLIN)
        try:
            while True:
                with self._lock:
                    self._check("accept")
                    self._silence_bell()
                    self._door.step()
                    if self._ready:
                        return self._take_ready()
                    pause_ms = self._pause_ms(deadline)
                if deadline.passed:
                    raise TimedOutError(
                        f'accept "{self.address}": timed out (ETIMEDOUT); nobody connected in time',
                        operation="accept",
                        address=self.address,
                    )
                try:
                    poll.poll(pause_ms)
                except OSError as error:
                    raise from_os_error(error, "accept", self.address) from error
        finally:
            with self._lock:
                self._waiting -= 1
                self._free_bell()

    def _take_ready(self) -> Channel:
        channel = self._ready.popleft()
        # One step may have let in several, and the door is silent now: the others who wait in
        # accept() must hear of theirs.
        if self._ready and self._waiting > 1:
            os.eventfd_write(self._bell, 1)
        return channel

    def _pause_ms(self, deadline: Deadline) -> float | None:
        pauses = [s * 1000 for s in (deadline.left_s, self._step_due_s()) if s is not None]
        return min(pauses) + 1 if pauses else None

    def _step_due_s(self) -> float | None:
        """Seconds after which accept(timeout_s=0) has something to do although nothing became
        readable (a silent stranger's time is up); None: nothing."""
        if not self._door.pending:
            return None
        import time

        return max(0.0, (self._door.deadline_ns - time.monotonic_ns()) / 1e9)

    def _silence_bell(self) -> None:
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            return  # it did not ring

    def _check(self, operation: str) -> None:
        if os.getpid() != self._owner:
            raise ForkedHandleError(
                f'{operation} "{self.address}": this listener belongs to process {self._owner}; '
                "listen in this one",
                operation=operation,
                address=self.address,
            )
        if self._closed:
            raise ClosedError(
                f'{operation} "{self.address}": the listener is closed',
                operation=operation,
                address=self.address,
            )

    def _free_bell(self) -> None:
        if self._closed and self._waiting == 0 and self._bell >= 0:
            os.close(self._bell)
            self._bell = -1

    def fileno(self) -> int:
        """Polls readable when accept(timeout_s=0) is worth a try."""
        self._check("fileno")
        return self._door.fileno()

    @property
    def _pause_s(self) -> float | None:
        """Seconds until accept(timeout_s=0) is worth a try even if nothing becomes readable.

        (A silent stranger's time is up then.) None: never.
        """
        with self._lock:
            pause_ms = self._pause_ms(Deadline(None))
        return None if pause_ms is None else pause_ms / 1000

    @property
    def strangers(self) -> int:
        """Connections refused so far: not naru, not allowed, silent."""
        return self._door.strangers

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._closed

    def close(self) -> None:
        """Gives the address up; conversations that were accepted go on. Idempotent."""
        if os.getpid() != self._owner:
            self._closed = True  # the door closed itself at the fork; the name is the parent's
            self._free_bell()
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._waiting:
                os.eventfd_write(self._bell, 1)
            self._door.close()
            self._close_name()
            while self._ready:
                self._ready.popleft().close()
            self._free_bell()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Channel:
        try:
            return self.accept()
        except ClosedError:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener {self.address}{' (closed)' if self._closed else ''}>"

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and os.getpid() == self._owner:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)
            self.close()
