"""The server: a name, a handler, and as many clients as come.

Holds: serve() and Server: its life (serving, draining, closing), running handlers, its numbers.
Must not know: epoll, frames, room. Joins: Loop reads and sends; Workers run handlers beside it.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from naru._native.multiplexing import has_rest, try_send_parts
from naru.address import Address
from naru.channel import listen
from naru.errors import ClosedError, ForkedHandleError, PeerGoneError, TimedOutError, TooBigError
from naru.requests.client import check_transport
from naru.requests.frames import CANCELLED, MOST_OPEN, REFUSED, REPLY, number_of, reply_head_of
from naru.requests.guests import Guest, Outgoing, Request
from naru.requests.loop import Loop
from naru.requests.records import ServerStatistics
from naru.requests.workers import Workers
from naru.settings import settings_for

__all__ = ["Server", "serve"]

Handler = Callable[[Any], object]


def serve(
    address: str | Address,
    handler: Handler,
    *,
    threads: int = 1,
    pass_request: bool = False,
    most_open: int = 64,
    held_bytes: int = 16 << 20,
) -> Server:
    """Takes a name and answers requests at it: `serve_forever()`, or `start()` for a thread.

    Args:
        address: such as "shm://sums"; unix, shm and tcp carry requests.
        handler: called with the bytes of a request, returns the reply: bytes, any contiguous buffer
            or a `naru.Reply` with open files. What it raises becomes a RemoteError at the client.
        threads: how many handlers run at once, at least 1. With 1 they run in the serving thread,
            which is quickest; with more a slow one does not delay other clients.
        pass_request: the handler gets a `naru.Request`: data, peer, descriptors.
        most_open: 1..2**20 requests that one client may have open.
        held_bytes: of requests and replies of one client; above, nothing more is read from it.

    Raises: as naru.listen(); UnsupportedError: this transport carries no requests.
    """
    parsed = check_transport("serve", address)
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    if not 1 <= most_open <= MOST_OPEN:
        raise ValueError(f"most_open must be 1 to {MOST_OPEN}, not {most_open}")
    return Server(parsed, handler, threads, pass_request, most_open, held_bytes)


class Server:
    """Answers requests until it is closed. Made by naru.serve(); belongs to one process."""

    def __init__(
        self,
        address: Address,
        handler: Handler,
        threads: int,
        pass_request: bool,
        most_open: int,
        held_bytes: int,
    ) -> None:
        """Made by naru.serve()."""
        self._loop = Loop(
            listen(address), most_open=most_open, held_bytes=held_bytes,
            sleeps_only=settings_for(address).wait == "sleep",
        )  # fmt: skip
        self.address = self._loop.listener.address
        """Where it listens; the real port where 0 was asked."""
        self._handler = handler
        self._pass_request = pass_request
        self._thread_count = threads
        self._workers: Workers | None = None
        self._owner = os.getpid()
        self._serving: threading.Thread | None = None
        self._thread: threading.Thread | None = None
        self._finished = threading.Event()
        self._is_stopping = self._is_draining = self._is_drained = self._closed = False
        self._drain_until_s: float | None = None
        self._counting = threading.Lock()
        self._requests = self._replies = self._errors = 0
        self._refused = self._cancelled = self._unsent = 0

    # ---- serving ----

    def serve_forever(self) -> None:
        """Answers requests in this thread, until close() or the end of drain().

        Raises: ClosedError: it was closed before. ForkedHandleError. What a handler raises goes to
        its client; KeyboardInterrupt and SystemExit come out here.
        """
        self._check("serve_forever")
        if self._serving is not None:
            raise ValueError(f"{self!r} is served by another thread")
        self._serving = threading.current_thread()
        self._loop.answerer = _Answering(self)
        if self._thread_count > 1:
            name = f"naru {self.address}"
            self._workers = Workers(self._thread_count, self._loop.lock, self._run, name)
        try:
            while not self._is_stopping:
                if self._is_draining and self._drain_step():
                    break
                self._loop.turn(self._drain_until_s)
        finally:
            self._finish()

    def start(self) -> Self:
        """Answers requests in a thread of its own, until close() or drain(). Returns: itself."""
        self._check("start")
        if self._thread is not None:
            raise ValueError(f"{self!r} was started before")
        self._thread = threading.Thread(
            target=self.serve_forever, name=f"naru serve {self.address}", daemon=True
        )
        self._thread.start()
        return self

    def _finish(self) -> None:
        self._closed = True
        if self._workers is not None:
            self._workers.close(0.0)  # nothing more is begun; close() waits for what runs
        self._loop.close()
        self._loop.answerer = None
        self._finished.set()

    # ---- requests ----

    def _on_request(self, guest: Guest, request: Request) -> None:
        self._requests += 1
        if self._is_draining:
            closing = PeerGoneError("the server is closing", orderly=True)
            self._answer(guest, request, Outgoing.error(request.number, closing, REFUSED))
        elif self._workers is None:
            self._run(guest, request)
        else:
            with self._loop.lock:
                self._workers.put(guest, request)

    def _answer_at_once(self, guest: Guest, head: bytes, body: bytes) -> bool:
        """The same as _on_request() for what is simple: nothing else knows of it before it is over."""
        if self._workers is not None or self._pass_request:
            return False
        reply_head = reply_head_of(head)
        if reply_head is None or self._is_draining or guest.is_blocked:
            return False
        self._requests += 1
        guest.answering.requests += 1
        try:
            made = self._handler(body)
        except BaseException as error:
            self._errors += 1
            self._loop.deliver(guest, Outgoing.error(number_of(reply_head), error))
            if not isinstance(error, Exception):
                raise
            return True
        if type(made) is bytes and self._try_at_once(guest, reply_head, made):
            self._replies += 1
        else:
            self._deliver(guest, number_of(reply_head), made)
        return True

    def _try_at_once(self, guest: Guest, reply_head: bytes, made: bytes) -> bool:
        try:
            if not try_send_parts(guest.channel, reply_head, made):
                return False
        except TooBigError:
            return False
        if has_rest(guest.channel):
            guest.is_blocked = True
            self._loop.post(guest)
        return True

    def _deliver(self, guest: Guest, number: int, made: object) -> None:
        try:
            outgoing = Outgoing.reply(number, made)
        except Exception as error:
            outgoing = Outgoing.error(number, error)
        self._count(outgoing)
        self._loop.deliver(guest, outgoing)

    def _run(self, guest: Guest, request: Request) -> None:
        try:
            made = self._handler(request if self._pass_request else request.data)
            outgoing = Outgoing.reply(request.number, made)
        except Exception as error:
            outgoing = Outgoing.error(request.number, error)
        except BaseException as error:
            self._answer(guest, request, Outgoing.error(request.number, error))
            if self._workers is None:
                raise  # Ctrl-C, sys.exit(): the serving thread's
            return
        self._answer(guest, request, outgoing)

    def _answer(self, guest: Guest, request: Request, outgoing: Outgoing) -> None:
        is_taken = self._loop.answer(guest, request, outgoing)
        with self._counting:
            self._count(outgoing)
            if not is_taken:
                self._unsent += 1
        if self._is_draining:
            self._loop.post()

    def _count(self, outgoing: Outgoing) -> None:
        if outgoing.kind == REPLY:
            self._replies += 1
        elif outgoing.flags == REFUSED:
            self._refused += 1
        elif outgoing.flags == CANCELLED:
            self._cancelled += 1
        else:
            self._errors += 1

    def _on_cancel(self, guest: Guest, number: int) -> None:
        if self._workers is None:
            return  # begun and ended before the cancel was read
        with self._loop.lock:
            request = self._workers.remove(guest, number)
        if request is not None:
            gone = ClosedError("given up before it was begun")
            self._answer(guest, request, Outgoing.error(number, gone, CANCELLED))

    def _on_leave(self, guest: Guest) -> None:
        with self._loop.lock:
            if self._workers is not None:
                self._workers.forget(guest)
            dropped, lost = guest.leave()
        with self._counting:
            self._cancelled += len(dropped)
            self._unsent += lost

    # ---- the end ----

    def drain(self, timeout_s: float | None = None) -> bool:
        """Stops in good order: the name is free, what was asked is answered, then it closes.

        Requests that come meanwhile are refused, and their clients may send them to the next server
        (`naru.client(reconnect=True)` does). From a handler or a signal handler of the serving
        thread it returns at once, and serve_forever() returns when all is done.

        Args:
            timeout_s: seconds; None = for ever. When they are over, what is left is dropped.

        Returns: True: everything was answered, or will be waited for by the serving thread.
        Raises: ClosedError, ForkedHandleError.
        """
        self._check("drain")
        if timeout_s is not None:
            self._drain_until_s = time.monotonic() + timeout_s
        self._is_draining = True
        self._loop.post()
        if self._serving is None and self._thread is None:
            self.close()
            return True
        if self._serving is threading.current_thread():
            return True
        self._finished.wait(timeout_s)
        self.close(None if timeout_s is None else 1.0)
        return self._is_drained

    def _drain_step(self) -> bool:
        """Returns: it is over."""
        self._loop.listener.close()
        if self._loop.is_idle:
            self._loop.read_all()  # what came until now is refused, and not met by a closed door
            if self._loop.is_idle:
                self._is_drained = True
                return True
        return self._drain_until_s is not None and time.monotonic() >= self._drain_until_s

    def close(self, timeout_s: float | None = 5.0) -> None:
        """Closes at once: clients see the end, requests that were not begun are dropped. Idempotent.

        Waits for the handlers that run. From a handler or a signal handler of the serving thread it
        returns at once, and serve_forever() returns at its next turn.

        Args:
            timeout_s: seconds to wait for running handlers; None = for ever.

        Raises: TimedOutError: a handler still runs; its reply will go nowhere.
        """
        if os.getpid() != self._owner:
            self._closed = True
            self._loop.abandon()
            return
        self._is_stopping = True
        self._loop.post()
        current = threading.current_thread()
        if self._serving is current and not self._finished.is_set():
            return
        if self._serving is None and self._thread is None:
            if not self._finished.is_set():
                self._finish()
        elif not self._finished.wait(timeout_s):
            self._raise_busy(timeout_s)
        if self._thread is not None and self._thread is not current:
            self._thread.join()
        if self._workers is not None and not self._workers.close(timeout_s):
            self._raise_busy(timeout_s)
        self._loop.close_bell()

    def _raise_busy(self, timeout_s: float | None) -> None:
        raise TimedOutError(
            f'close "{self.address}": a handler still runs after {timeout_s} s; its reply goes '
            "nowhere",
            operation="close",
            address=self.address,
        )

    def _check(self, operation: str) -> None:
        if os.getpid() != self._owner:
            raise ForkedHandleError(
                f'{operation} "{self.address}": this server belongs to process {self._owner}; '
                "serve in this one",
                operation=operation,
                address=self.address,
            )
        if self._closed:
            raise ClosedError(
                f'{operation} "{self.address}": the server is closed',
                operation=operation,
                address=self.address,
            )

    # ---- facts ----

    @property
    def closed(self) -> bool:
        """True after close(), after drain(), and in a forked child."""
        return self._closed or os.getpid() != self._owner

    def statistics(self) -> ServerStatistics:
        """What this server has counted, as a frozen `naru.ServerStatistics`."""
        loop = self._loop
        return ServerStatistics(
            clients=len(loop.guests), clients_total=loop.clients_total,
            clients_broken=loop.clients_broken, strangers=loop.listener.strangers,
            requests=self._requests, replies=self._replies, errors=self._errors,
            refused=self._refused, cancelled=self._cancelled, unsent=self._unsent,
            open=loop.open_count,
        )  # fmt: skip

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
        note = "closed" if self.closed else f"{len(self._loop.guests)} clients"
        return f"<Server {self.address} ({note})>"

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and os.getpid() == self._owner:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)
            self.close(0.0)


class _Answering:
    """What the loop sees of its server."""

    __slots__ = ("_server", "answer_at_once", "on_cancel", "on_leave", "on_request")

    def __init__(self, server: Server) -> None:
        self._server = server
        self.answer_at_once = server._answer_at_once
        self.on_request = server._on_request
        self.on_cancel = server._on_cancel
        self.on_leave = server._on_leave

    def may_spin(self) -> bool:
        workers = self._server._workers
        return workers is None or workers.is_idle
