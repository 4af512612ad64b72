"""Threads that run handlers, and take the clients in turn: one that asks much delays the others by one
request each, not by all of its own.

Holds: Workers. Must not know: what a request is answered with, channels.
Joins: the server's loop puts requests in; `run` is the server's, and called without a lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from naru.requests.guests import Guest, Request

__all__ = ["Workers"]


class Workers:
    """At most `count` threads, started when they are needed."""

    def __init__(
        self, count: int, lock: threading.Lock, run: Callable[[Guest, Request], object], name: str
    ) -> None:
        """
        Args:
            lock: of the server: guests' queues are changed under it.
            run: answers one request; must not raise.
        """
        self._count = count
        self._changed = threading.Condition(lock)
        self._run = run
        self._name = name
        self._turns: deque[Guest] = deque()  # guests with queued requests, each once
        self._queued = self._idle = 0
        self._closed = False
        self._threads: list[threading.Thread] = []
        self.running = 0
        """Requests whose handler runs now."""

    @property
    def is_idle(self) -> bool:
        """No handler runs, and none waits."""
        return not self.running and not self._queued

    def put(self, guest: Guest, request: Request) -> None:
        """A request waits for its turn. Under the lock."""
        if not guest.queued:
            self._turns.append(guest)
        guest.queued.append(request)
        self._queued += 1
        self._changed.notify()
        # Those that were woken for earlier requests may not have taken them yet.
        if self._queued > self._idle and len(self._threads) < self._count:
            thread = threading.Thread(
                target=self._work, name=f"{self._name} {len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def remove(self, guest: Guest, number: int) -> Request | None:
        """Takes a request back that was not begun. None: there is none. Under the lock."""
        for request in guest.queued:
            if request.number == number:
                guest.queued.remove(request)
                self._queued -= 1
                if not guest.queued:
                    self._turns.remove(guest)
                return request
        return None

    def forget(self, guest: Guest) -> None:
        """It has gone: its queue is about to be emptied. Under the lock."""
        if guest.queued:
            self._turns.remove(guest)
            self._queued -= len(guest.queued)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._turns and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if self._closed:
                    return
                guest = self._turns.popleft()
                request = guest.queued.popleft()
                self._queued -= 1
                if guest.queued:
                    self._turns.append(guest)
                self.running += 1
            try:
                self._run(guest, request)
            finally:
                with self._changed:
                    self.running -= 1

    def close(self, timeout_s: float | None) -> bool:
        """No more requests are begun. Returns: every thread has ended; False: the time was up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(
            thread.is_alive()
            for thread in self._threads
            if thread is not threading.current_thread()
        )
