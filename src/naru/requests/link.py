"""One connection of a client: requests out, replies in, by as many threads as like.

Whoever waits for a reply reads the channel, one at a time: it leads, and hands to the others what is
theirs; when it has its own, the next of them leads. So a single thread reads its reply itself, and
there is no thread beside it. Only when a request finds no room while others are open, a thread is
lent for as long as that lasts: the server may be waiting for this side to take its replies.

Holds: Link.
Must not know: how a connection is made or made anew (client.py), the layout of frames.
Joins: conversation.Asking says what may be sent and whose each reply is.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from naru._native.ends import Channel
from naru._native.multiplexing import (
    drop,
    flush_waiting,
    has_rest,
    may_have_message,
    send_two_parts,
    take,
    take_waiting,
    try_send_parts,
)
from naru.buffers import ReadableBuffer
from naru.errors import (
    ClosedError,
    NaruError,
    PeerGoneError,
    ProtocolError,
    RemoteError,
    TimedOutError,
)
from naru.requests.blocked import Blocked
from naru.requests.conversation import Asking
from naru.requests.frames import (
    CANCEL,
    CANCELLED,
    ERROR,
    HEAD_BYTES,
    REFUSED,
    REQUEST,
    Frame,
    number_of_reply,
    parse_error,
    parse_head,
    write_head,
    write_heads,
)
from naru.requests.pending import Bell, PendingReply, UnsentError, close_fds, left_s

__all__ = ["Link"]

LARGEST_ALONE_BYTES = 16384
"""Above, a message may be begun and have to wait for room."""


class Link:
    """A connection to a server until it ends; then it keeps why."""

    def __init__(self, channel: Channel, timeout_s: float | None) -> None:
        """Takes the channel over and waits for the server's welcome.

        Raises: TimedOutError: no welcome in time: is it a naru.serve()? ProtocolError, PeerGoneError.
        """
        self.address = channel.address
        self.error: NaruError | None = None
        """Why it has ended."""
        self.remote_errors = self.replies = self.given_up = 0
        self._channel = channel
        self._asking: Asking[PendingReply] = Asking()
        self._lock = threading.Lock()
        self._leading = False
        self._followers: deque[Bell] = deque()
        self._blocked = 0
        self._reader: threading.Thread | None = None
        try:
            head, body, fds = take_waiting(channel, HEAD_BYTES, timeout_s)
            close_fds(fds)
            self._asking.take(parse_head(head, len(body)), body)
            if not self._asking.limit:
                raise ProtocolError("a reply before the welcome")
        except BaseException as error:
            drop(channel)
            if isinstance(error, TimedOutError | ProtocolError):
                raise type(error)(
                    f'client "{self.address}": {error}; the other side does not answer requests: '
                    "is it a naru.serve()?",
                    operation="client",
                    address=self.address,
                ) from error
            raise

    # ---- facts ----

    @property
    def has_ended(self) -> bool:
        """`error` says why. Another thread may end it at any moment."""
        return self.error is not None

    @property
    def requests(self) -> int:
        return self._asking.requests

    @property
    def late(self) -> int:
        return self._asking.late

    @property
    def open_count(self) -> int:
        return self._asking.open_count

    # ---- asking ----

    def ask_alone(self, data: ReadableBuffer, deadline: float | None) -> PendingReply | None:
        """A whole request while nothing else is under way: what a single thread always does.

        The same as submit() and wait(), without what they do for others.

        Returns: the request, settled unless its time was up; None: not possible now, nothing was sent.
        """
        if type(data) is not bytes or len(data) > LARGEST_ALONE_BYTES:
            return None
        pending = PendingReply(self)
        asking = self._asking
        with self._lock:
            if self._leading or asking.open_count or not asking.limit:
                return None
            number = pending._number = asking.begin(pending)
            self._leading = True
        part = None
        try:
            request_head, reply_head = write_heads(number)
            if not self._try_alone(request_head, data, number, deadline):
                return None
            part = take_waiting(self._channel, HEAD_BYTES, left_s(deadline))
            if part[0] != reply_head:
                self._deliver(*part)
                part = None
        except TimedOutError:
            return pending
        except NaruError as error:
            self.fail(error)
        finally:
            with self._lock:  # as _stop_leading(): a lock costs more than what it guards
                self._leading = False
                if self._followers:
                    self._followers.popleft().ring()
                if part is not None and pending._error is None:
                    asking.close(number)
                    self.replies += 1
                    _, pending._reply, pending._fds = part
        return pending

    def _try_alone(self, head: bytes, data: bytes, number: int, deadline: float | None) -> bool:
        try:
            if not try_send_parts(self._channel, head, data):
                self._withdraw(number)
                return False
            if has_rest(self._channel):  # a ring that is smaller than the message
                flush_waiting(self._channel, left_s(deadline))
            return True
        except BaseException as error:
            self._give_back(number, error)
            raise

    def submit(
        self, data: ReadableBuffer, fds: Sequence[int], deadline: float | None
    ) -> PendingReply:
        """Sends a request; waits while as many are open as the server allows, and for room.

        Raises: UnsentError: the link has ended before the request was out. TimedOutError: nothing
        was sent. TooBigError, ForkedHandleError.
        """
        pending = PendingReply(self)
        while True:
            with self._lock:
                if self.error is not None:
                    raise UnsentError(self.error)
                if self._asking.has_room:
                    number = pending._number = self._asking.begin(pending)
                    alone = self._asking.open_count == 1
                    break
            self._wait_for_room(deadline)
        try:
            self._send(write_head(REQUEST, number), data, fds, deadline, alone)
        except BaseException as error:
            self._give_back(number, error)
            raise
        return pending

    def _withdraw(self, number: int) -> None:
        with self._lock:
            if not self.has_ended:
                self._asking.withdraw(number)

    def _give_back(self, number: int, error: BaseException) -> None:
        """A request that could not be sent. Raises: UnsentError when the link has ended by it."""
        self._withdraw(number)
        if isinstance(error, PeerGoneError | ClosedError):
            self.fail(error)  # unless another thread has met the end, and why, before
            assert self.error is not None
            raise UnsentError(self.error) from error

    def _wait_for_room(self, deadline: float | None) -> None:
        if not self._wait(self._has_room, deadline, None):
            raise TimedOutError(
                f'request "{self.address}": timed out (ETIMEDOUT); {self._asking.limit} requests '
                "are open, which is as many as the server allows; nothing was sent",
                operation="request",
                address=self.address,
            )

    def _has_room(self) -> bool:
        return self._asking.has_room or self.error is not None

    def _send(
        self,
        head: bytes,
        data: ReadableBuffer,
        fds: Sequence[int],
        deadline: float | None,
        alone: bool,
    ) -> None:
        channel = self._channel
        if alone and not fds:
            # No reply is on its way that the server could be waiting to get rid of.
            send_two_parts(channel, head, data, left_s(deadline))
            return
        is_begun = not fds and try_send_parts(channel, head, data)
        if is_begun and not has_rest(channel):
            return
        with Blocked(self):
            if fds:
                body = bytes(memoryview(data))  # type: ignore[arg-type]  # an _Array is a buffer
                channel.send_fds(head + body, fds, left_s(deadline))
            elif is_begun:  # its rest, or that of another thread's message
                flush_waiting(channel, left_s(deadline))
            else:
                send_two_parts(channel, head, data, left_s(deadline))

    # ---- waiting ----

    def wait(self, pending: PendingReply, deadline: float | None) -> bool:
        """Until it is settled. Returns: False: the time was up."""
        return self._wait(pending.is_settled, deadline, pending)

    def look(self) -> None:
        """Takes what is there, when nobody else does; never waits."""
        with self._lock:
            if self._leading or self.has_ended:
                return
            self._leading = True
        try:
            while (part := self._take_now()) is not None:
                self._deliver(*part)
        finally:
            self._stop_leading()

    def _take_now(self) -> tuple[bytes, bytes, Sequence[int]] | None:
        try:
            return take(self._channel, HEAD_BYTES)
        except NaruError as error:
            self.fail(error)
            return None

    def _wait(
        self, is_done: Callable[[], bool], deadline: float | None, pending: PendingReply | None
    ) -> bool:
        while not is_done():
            bell = None
            with self._lock:
                if is_done():
                    return True
                if self._leading:
                    bell = Bell()
                    self._followers.append(bell)
                    if pending is not None:
                        pending._bell = bell
                self._leading = True
            if bell is None:
                try:
                    if not self._lead(is_done, deadline):
                        return is_done()
                finally:
                    self._stop_leading()
            else:
                try:
                    bell.wait(left_s(deadline))
                finally:
                    self._stop_following(bell, pending)
                if deadline is not None and time.monotonic() >= deadline:
                    return is_done()
        return True

    def _lead(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        """Reads until it is done, or the link ends. Returns: False: the time was up."""
        channel = self._channel
        while self.error is None and not is_done():
            try:
                part = take_waiting(
                    channel, HEAD_BYTES, None if deadline is None else left_s(deadline)
                )
            except TimedOutError:
                return False
            except NaruError as error:
                self.fail(error)
                return True
            self._deliver(*part)
            while self._asking.open_count and may_have_message(channel):
                more = self._take_now()
                if more is None:
                    break
                self._deliver(*more)
        return True

    def _stop_leading(self) -> None:
        with self._lock:
            self._leading = False
            if self._followers:
                self._followers.popleft().ring()

    def _stop_following(self, bell: Bell, pending: PendingReply | None) -> None:
        with self._lock:
            if pending is not None:
                pending._bell = None
            if bell in self._followers:
                self._followers.remove(bell)
            elif not self._leading and self._followers:
                # It was told to lead, and leaves (its time is up, or its reply is here): the next.
                self._followers.popleft().ring()

    # ---- what comes ----

    def _deliver(self, head: bytes, body: bytes, fds: Sequence[int]) -> None:
        pending, error = None, None
        try:
            number = number_of_reply(head)
            if not number:
                frame = parse_head(head, len(body))
                error = self._error_of(frame, body) if frame.kind == ERROR else None
            with self._lock:
                pending = self._asking.answer(number) if number else self._asking.take(frame, body)
                if pending is not None:
                    self._settle(pending, body, fds, error)
                if self._followers and self._asking.open_count == self._asking.limit - 1:
                    self._ring_everybody()  # one of them may wait for room
        except NaruError as broken:
            self.fail(broken)
        if pending is None or error is not None:
            close_fds(fds)
        if pending is not None and isinstance(error, ProtocolError):
            self.fail(error)

    def _settle(
        self,
        pending: PendingReply,
        body: bytes,
        fds: Sequence[int],
        error: NaruError | None,
    ) -> None:
        """Under the lock: who goes to sleep for it has either seen it, or is among the followers."""
        if error is None:
            pending._fds = fds
            pending._reply = body
        else:
            pending.refused = isinstance(error, PeerGoneError)
            pending._error = error
            self.remote_errors += isinstance(error, RemoteError)
        self.replies += not pending.refused
        if pending._bell is not None:
            if pending._bell in self._followers:
                self._followers.remove(pending._bell)
            pending._bell.ring()

    def _error_of(self, frame: Frame, body: bytes) -> NaruError:
        failure = parse_error(body)
        if frame.flags == CANCELLED:  # nobody sees it, unless nobody has given the request up
            return ProtocolError("a request was cancelled that nobody gave up")
        if frame.flags == REFUSED:
            return PeerGoneError(
                f'request "{self.address}": the server is closing and has not begun it; send it '
                "again to the next one",
                operation="request",
                address=self.address,
                orderly=True,
            )
        return RemoteError(
            f'request "{self.address}": the handler raised {failure.type_name}: {failure.text}',
            operation="request",
            address=self.address,
            type_name=failure.type_name,
            remote_message=failure.text,
            remote_traceback=failure.traceback,
        )

    def _ring_everybody(self) -> None:
        while self._followers:
            self._followers.popleft().ring()

    # ---- ends ----

    def give_up(self, pending: PendingReply) -> None:
        """Nobody waits for it any more; its late reply will be dropped and counted."""
        with self._lock:
            if pending.is_settled() or not self._asking.abandon(pending._number):
                return
            pending._error = ClosedError(
                f'request "{self.address}": it was given up',
                operation="request",
                address=self.address,
            )
            if pending._bell is not None:
                pending._bell.ring()
            self.given_up += 1
        # A courtesy: without room for it now, or with a server that is going, the reply just comes.
        with suppress(NaruError):
            try_send_parts(self._channel, write_head(CANCEL, pending._number), b"")

    def fail(self, error: NaruError) -> None:
        """The link has ended: everybody who waits hears why."""
        with self._lock:
            if self.error is not None:
                return
            self.error = error
            for pending in self._asking.end():
                pending._error = error
                if pending._bell is not None:
                    pending._bell.ring()
            self._ring_everybody()
        drop(self._channel)

    def close(self) -> None:
        """Closes in good order; whoever waits gets ClosedError. Idempotent."""
        if self.error is None:
            with suppress(TimedOutError):  # a request that the server did not take any more
                self._channel.close()
            self.fail(
                ClosedError(
                    f'request "{self.address}": the client was closed',
                    operation="request",
                    address=self.address,
                )
            )
        with self._lock:
            reader = self._reader
        if reader is not None:
            reader.join()

    def abandon(self) -> None:
        """In a forked child: gives up this process's copy; the lock may be held for ever here."""
        drop(self._channel)
