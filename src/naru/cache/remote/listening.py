"""Hears from every server which keys have changed, and knows since when it has heard everything.

A connection of its own to the server, or to each master, with CLIENT TRACKING ON BCAST: the server says of
every key with our prefix that it has changed, whoever changed it and whoever has read it. (In the default
mode it would say so only to the connection that read the key, and forget that when the connection ends; but
what one process read, all of this machine find in the near cache.)

    since    all changes after this moment have been, or will be, said to this process
    heard    the moment of the last question whose answer came in: changes before it have been heard
             of, since a server's words come in order

Both are CLOCK_BOOTTIME, which all processes share and which goes on while the machine sleeps. A lost
connection, a changed cluster, a silent server: `since` begins anew, and nothing older is believed.

Holds: Listener. Must not know: where the near values are. Joins: near.py asks trusted_since().
"""

from __future__ import annotations

import selectors
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from naru.cache.remote.forking import begins_in_each_process
from naru.cache.remote.link import Link
from naru.errors import NaruError, UnsupportedError

__all__ = ["Listener", "now_ns"]

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
_SHAPE = (b"cluster_state", b"cluster_known_nodes", b"cluster_size", b"cluster_current_epoch")
_INVALIDATED = object()


now_ns = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
"""Of the clock that all processes of a machine share."""


class Listener:
    """One in each process that uses a handle.

    Args:
        prefix: of the keys that matter; b"": all.
        lag_s: silence of a server after which nothing is believed any more.
        forget: called with a key that has changed; None: all have. In the listener's thread.
    """

    def __init__(
        self, link: Link, prefix: bytes, lag_s: float, forget: Callable[[bytes | None], None]
    ) -> None:
        self._link, self._prefix, self._forget = link, prefix, forget
        self._lag_ns = int(lag_s * 1e9)
        self._ask_every_s = lag_s / 4
        self.invalidations = self.lost = 0
        self._floor_ns = 0
        self._sessions: list[_Session] = []
        begins_in_each_process(self)

    def _begin_process(self) -> None:
        for session in self._sessions:
            session.close()  # its parent's: else they stay open here when that is dead
        self._since_ns = 0
        self._sessions = []
        self._tried = threading.Event()
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def start(self, timeout_s: float) -> None:
        """Raises: UnsupportedError: the server cannot say what has changed. What connecting raises."""
        self._start()
        self._tried.wait(timeout_s)
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="naru near", daemon=True)
                self._thread.start()

    def trusted_since(self, at_ns: int = 0) -> int:
        """What was read from the servers after this moment, and is still in the near cache, stands
        there as it did lag_s ago or later. 0: nothing does.

        Args: at_ns: the moment that is asked for, if it is known already; not before the value was read.
        """
        since_ns, oldest_ns = self._since_ns, (at_ns or now_ns()) - self._lag_ns
        if not since_ns:
            if not self._ended.is_set():
                self._start()  # in a forked child, which has no thread of its parent's
            return 0
        for session in self._sessions:
            if session.heard_ns < oldest_ns:
                return 0
        return since_ns if since_ns > self._floor_ns else self._floor_ns

    def distrust(self) -> None:
        """A change was heard of, and could not be acted on: nothing up to now is believed."""
        self._floor_ns = now_ns()

    def close(self) -> None:
        """Idempotent."""
        self._since_ns = 0
        self._ended.set()
        for session in self._sessions:
            session.wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._ask_every_s * 2 + 1)

    # ---- the thread ----

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._ended.is_set():
            try:
                self._hear()
            except (
                Exception
            ) as error:  # of whatever kind: the thread goes on, and nothing is believed
                if not self._tried.is_set():
                    self._error = self._explained(error)
                if self._since_ns:
                    self.lost += 1
                    pause_s = FIRST_PAUSE_S
            finally:
                self._since_ns = 0
                for session in self._sessions:
                    session.close()
                self._tried.set()
            if self._error is not None:
                return  # start() tells it
            self._ended.wait(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    def _explained(self, error: Exception) -> Exception:
        if isinstance(error, NaruError):
            return error
        shown = self._link.place.shown
        return UnsupportedError(
            f'cache.open "{shown}": near needs a server that says what has changed '
            f"(CLIENT TRACKING, RESP3; Redis 6, Valkey 7.2 or later): {error}",
            operation="cache.open",
            address=shown,
        )

    def _hear(self) -> None:
        masters = self._link.look_for_nodes()
        cluster = self._link.place.is_cluster
        self._sessions = [
            _Session(connection, self._said, cluster)
            for connection in self._link.tracking_connections()
        ]
        for session in self._sessions:
            session.begin(self._prefix)
        if self._link.look_for_nodes() != masters:  # before we knew the cluster's shape
            raise RuntimeError("the cluster's masters have changed")
        self._since_ns = now_ns()
        self._tried.set()
        with selectors.PollSelector() as selector:  # it has no descriptor that a child would keep
            for session in self._sessions:
                selector.register(session.fd, selectors.EVENT_READ, session)
            while not self._ended.is_set():
                for ready, _ in selector.select(self._ask_every_s):
                    ready.data.read()
                for session in self._sessions:
                    session.ask(self._ask_every_s)

    def _said(self, response: Any) -> object:
        """redis-py's parser gives what was pushed: ["invalidate", [key ...] or None]."""
        keys = response[1]
        for key in keys if keys is not None else (None,):
            self._forget(key)
        self.invalidations += 1 if keys is None else len(keys)
        return _INVALIDATED


class _Session:
    """One server's connection: what it pushes, and whether it still answers."""

    def __init__(self, connection: Any, said: Callable[[Any], object], cluster: bool) -> None:
        self._connection, self._said = connection, said
        self._question = ("CLUSTER", "INFO") if cluster else ("PING",)
        self._shape: object = None
        self._asked_ns = 0
        self._answered = True
        self.heard_ns = 0
        self.fd = -1

    def begin(self, prefix: bytes) -> None:
        """Returns when every later change will be said."""
        connection = self._connection
        connection.connect()
        connection._parser.set_invalidation_push_handler(self._said)
        words: tuple[Any, ...] = ("CLIENT", "TRACKING", "ON", "BCAST")
        connection.send_command(*words, *(("PREFIX", prefix) if prefix else ()))
        self._answer()
        asked_ns = now_ns()
        connection.send_command(*self._question)
        self._shape = self._shape_of(self._answer())
        self.heard_ns = self._asked_ns = asked_ns
        self.fd = connection._sock.fileno()

    def _answer(self) -> Any:
        while (answer := self._connection.read_response(push_request=True)) is _INVALIDATED:
            pass
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _shape_of(self, answer: Any) -> object:
        """What changes when a cluster's masters do; of a single server nothing."""
        if len(self._question) == 1:
            return None
        lines = answer.replace(b"\r", b"").split(b"\n")
        return sorted(line for line in lines if line.partition(b":")[0] in _SHAPE)

    def ask(self, every_s: float) -> None:
        """A question now and then; its answer has everything before it behind it."""
        if self._answered and now_ns() - self._asked_ns >= every_s * 1e9 / 2:
            self._answered, self._asked_ns = False, now_ns()
            self._connection.send_command(*self._question)

    def read(self) -> None:
        """All that has come in. Raises: of the connection; RuntimeError: the cluster has changed."""
        while self._connection.can_read(0):
            answer = self._connection.read_response(push_request=True)
            if answer is _INVALIDATED:
                continue
            if isinstance(answer, Exception):
                raise answer
            if self._shape_of(answer) != self._shape:
                raise RuntimeError("the cluster's masters have changed")
            self._answered, self.heard_ns = True, self._asked_ns

    def wake(self) -> None:
        """From another thread: a read of the socket ends."""
        try:
            self._connection._sock.shutdown(2)
        except (AttributeError, OSError):
            pass  # it is closed already

    def close(self) -> None:
        """Idempotent."""
        self._connection.disconnect()
