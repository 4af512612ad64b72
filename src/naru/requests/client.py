"""The client: requests to one server, from one or many threads.

Holds: client() and Client: which connection is used, and when a new one is made.
Must not know: how replies find who waits for them (link.py), frames.
Joins: naru.channel connects; a Link is one connection.
"""

from __future__ import annotations

import copy
import os
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from naru.address import Address, parse
from naru.buffers import ReadableBuffer
from naru.channel import connect
from naru.errors import ClosedError, ForkedHandleError, PeerGoneError, UnsupportedError
from naru.requests.link import Link
from naru.requests.pending import PendingReply, UnsentError, close_fds, deadline_of, left_s
from naru.requests.records import ClientStatistics
from naru.settings import settings_for

__all__ = ["Client", "check_transport", "client"]


def check_transport(verb: str, text: str | Address) -> Address:
    """The address of a transport that can carry requests. Raises: UnsupportedError, BadAddressError."""
    address = parse(text)
    reason = None
    if address.transport == "udp":
        reason = "udp loses messages: a request would stay without its reply; take tcp"
    elif getattr(settings_for(address), "framing", "naru") != "naru":
        reason = "requests need naru's framing, which keeps the boundaries of messages"
    if reason:
        raise UnsupportedError(f'{verb} "{address}": {reason}', operation=verb, address=address)
    return address


def client(
    address: str | Address, timeout_s: float | None = 5.0, *, reconnect: bool = False
) -> Client:
    """Connects to a `naru.serve()`; waits while there is none yet.

    Args:
        address: such as "shm://sums"; unix, shm and tcp carry requests.
        timeout_s: seconds to wait for the server; None = for ever, 0 = one try.
        reconnect: after the server has gone, the next request connects again, within its own
            timeout_s. A request that the old server may have received is never sent again.

    Raises:
        NoSuchNameError: nobody listened in time. TimedOutError: somebody did and did not answer.
        ProtocolError: it is no server for requests. UnsupportedError: this transport carries none.
        NotPermittedError, BadAddressError.
    """
    parsed = check_transport("client", address)
    return Client(parsed, _open(parsed, deadline_of(timeout_s)), reconnect)


def _open(address: Address, deadline: float | None) -> Link:
    return Link(connect(address, left_s(deadline)), left_s(deadline))


class Client:
    """Sends requests and gets replies. Safe from several threads; belongs to one process."""

    def __init__(self, address: Address, link: Link, reconnect: bool) -> None:
        """Made by naru.client()."""
        self.address = address
        """Of the server."""
        self._link = link
        self._reconnect = reconnect
        self._connecting = threading.Lock()
        self._closed = False
        self._owner = os.getpid()
        self._is_forked = False
        self._reconnects = 0
        self._past = _Counts()
        _clients.add(self)

    # ---- verbs ----

    def request(
        self, data: ReadableBuffer, timeout_s: float | None = None, fds: Sequence[Any] = ()
    ) -> bytes:
        """Sends a request and waits for its reply.

        Args:
            data: any contiguous buffer, 0 bytes to the limit of the transport less 16.
            timeout_s: seconds for all of it; None = for ever.
            fds: descriptors, or objects with fileno(), that go with it (unix, shm); they stay yours.

        Returns: the reply; b"" is one of 0 bytes. Descriptors that come with it are closed.

        Raises:
            TimedOutError: no reply in time. The connection stays in step: the late reply is dropped
                and counted, and the server drops the request if it has not begun it.
            RemoteError: the handler raised.
            PeerGoneError: the server is gone. Whether it has received the request is not known;
                no request is ever sent twice.
            ClosedError, ForkedHandleError, TooBigError, UnsupportedError (descriptors), ProtocolError.

        Blocks without the GIL.
        """
        pending = self._ask(data, timeout_s, fds)
        if pending._fds:
            close_fds(pending._take_fds())
        assert pending._reply is not None
        return pending._reply

    def request_fds(
        self, data: ReadableBuffer, timeout_s: float | None = None, fds: Sequence[Any] = ()
    ) -> tuple[bytes, list[int]]:
        """As request(); returns (reply, descriptors that came with it, yours to close)."""
        pending = self._ask(data, timeout_s, fds)
        assert pending._reply is not None
        return pending._reply, list(pending._take_fds())

    def submit(
        self, data: ReadableBuffer, timeout_s: float | None = None, fds: Sequence[Any] = ()
    ) -> PendingReply:
        """Sends a request and does not wait for its reply; several may be under way.

        Args:
            timeout_s: seconds to wait for room, and while as many are open as the server allows
                (`most_open`); None = for ever.

        Raises: as request(), but for its reply's.
        """
        pending, _ = self._submit(data, deadline_of(timeout_s), fds)
        return pending

    def request_many(
        self, requests: Iterable[ReadableBuffer], timeout_s: float | None = None
    ) -> list[bytes]:
        """Sends all, as many at once as the server allows, and returns the replies in their order.

        Args:
            timeout_s: seconds for all of them; None = for ever.

        Raises: as request(), at the first that fails; the others are given up then.
        """
        deadline = deadline_of(timeout_s)
        waiting: deque[PendingReply] = deque()
        replies = []
        try:
            for data in requests:
                waiting.append(self._submit(data, deadline, ())[0])
                while waiting and waiting[0].is_settled():
                    replies.append(waiting.popleft().result())
            while waiting:
                replies.append(waiting[0].result(left_s(deadline)))
                waiting.popleft()
        except BaseException:
            for pending in waiting:
                pending.cancel()
            raise
        return replies

    def _ask(
        self, data: ReadableBuffer, timeout_s: float | None, fds: Sequence[Any]
    ) -> PendingReply:
        deadline = None if timeout_s is None else deadline_of(timeout_s)
        while True:
            pending, link = self._begin(data, deadline, fds)
            if pending._reply is not None:
                return pending
            try:
                pending._wait(None if deadline is None else left_s(deadline))
                return pending
            except PeerGoneError:
                if not (pending.refused and self._reconnect):
                    raise
                link.fail(_leaving(link))  # it is closing: the next server takes it
            except BaseException:  # Ctrl-C, too: nobody waits for it any more
                pending.cancel()
                raise

    def _begin(
        self, data: ReadableBuffer, deadline: float | None, fds: Sequence[Any]
    ) -> tuple[PendingReply, Link]:
        link = self._link
        if not fds and link.error is None and not self._is_forked:
            try:
                pending = link.ask_alone(data, deadline)
            except UnsentError:  # it is as the next of a link that has ended
                pending = None
            if pending is not None:
                return pending, link
        return self._submit(data, deadline, fds)

    def _submit(
        self, data: ReadableBuffer, deadline: float | None, fds: Sequence[Any]
    ) -> tuple[PendingReply, Link]:
        while True:
            if self._is_forked:
                self._refuse_forked()
            link = self._link
            if link.error is not None:
                link = self._connect_again(link, deadline)
            try:
                return link.submit(data, fds, deadline), link
            except UnsentError as unsent:
                # Never received: the same request may go to the next connection.
                if not self._reconnect or not isinstance(unsent.error, PeerGoneError):
                    raise copy.copy(unsent.error) from None

    # ---- connections ----

    def _connect_again(self, ended: Link, deadline: float | None) -> Link:
        assert ended.error is not None
        if self._closed or not self._reconnect:
            raise copy.copy(ended.error)
        with self._connecting:
            if self._link is ended and not self._closed:
                self._link = _open(self.address, deadline)
                self._past.add(ended)
                self._reconnects += 1
        if self._closed:  # meanwhile
            self._link.close()
            raise ClosedError(
                f'request "{self.address}": the client was closed',
                operation="request",
                address=self.address,
            )
        return self._link

    def _refuse_forked(self) -> None:
        raise ForkedHandleError(
            f'request "{self.address}": this client belongs to process {self._owner}; make one in '
            "this process",
            operation="request",
            address=self.address,
        )

    # ---- facts and life ----

    def statistics(self) -> ClientStatistics:
        """What this client has counted, as a frozen `naru.ClientStatistics`."""
        counts = copy.copy(self._past)
        counts.add(self._link)
        return ClientStatistics(
            requests=counts.requests, replies=counts.replies, remote_errors=counts.remote_errors,
            timed_out=counts.given_up, late=counts.late, open=self._link.open_count,
            reconnects=self._reconnects,
        )  # fmt: skip

    @property
    def closed(self) -> bool:
        """True after close(), and in a forked child."""
        return self._closed or self._is_forked

    def close(self) -> None:
        """Closes the connection; threads that wait for replies get ClosedError. Idempotent."""
        if self._is_forked:
            self._closed = True
            self._link.abandon()
            return
        self._closed = True
        self._link.close()

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
        if self.closed:
            note = "closed"
        elif self._link.error is not None:
            note = "the server is gone"
        else:
            note = f"{self._link.open_count} open"
        return f"<Client {self.address} ({note})>"

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and not self._is_forked:
            if self._link.error is None:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)
            self.close()


# A forked child has copies of clients, whose locks a thread of the parent may have held.
_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _mark_forked() -> None:
    for one in list(_clients):
        one._is_forked = True


os.register_at_fork(after_in_child=_mark_forked)


def _leaving(link: Link) -> PeerGoneError:
    return PeerGoneError(
        f'request "{link.address}": the server is closing',
        operation="request",
        address=link.address,
        orderly=True,
    )


class _Counts:
    """Of the connections that have ended."""

    def __init__(self) -> None:
        self.requests = self.replies = self.remote_errors = self.given_up = self.late = 0

    def add(self, link: Link) -> None:
        self.requests += link.requests
        self.replies += link.replies
        self.remote_errors += link.remote_errors
        self.given_up += link.given_up
        self.late += link.late
