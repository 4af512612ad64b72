"""The rest of messages that were begun when their time was up: pushed out in the background.

A message of which the transport has taken a part must be completed, or the stream behind it is
lost. A verb that may not wait any longer leaves the rest in its end's outbox; what follows pushes
it, but an end that does nothing more would keep its peer waiting. So each such end gets a daemon
thread until its rest is out; that is rare (a timed send of a large message to a slow peer), and a
stuck peer then holds up no other end.
Must not know: what a rest is (`Sender._push_rest`).
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

__all__ = ["push_later"]

# An end that nobody else holds is collected between two slices, and closed with its warning.
SLICE_S = 0.2


class _Pushers:
    """The ends of one process that have a thread."""

    def __init__(self) -> None:
        self._ends: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.RLock()  # a signal handler may send, too

    def start(self, end: Any) -> None:
        with self._lock:
            if end in self._ends:
                return
            self._ends.add(end)
        threading.Thread(
            target=self._run, args=(weakref.ref(end),), name="naru-outbox", daemon=True
        ).start()

    def _run(self, reference: weakref.ref[Any]) -> None:
        while True:
            end = reference()
            if end is None:
                return
            if not end._push_rest(SLICE_S):
                with self._lock:
                    # A rest that came since the last look finds this end in the set, and starts no
                    # thread: look once more before leaving it.
                    if end.closed or not end._push_rest(0):
                        self._ends.discard(end)
                        return
            end = None


_pushers = _Pushers()


def _new_pushers() -> None:
    """In a forked child: the threads are the parent's, and so are the ends."""
    global _pushers
    _pushers = _Pushers()


os.register_at_fork(after_in_child=_new_pushers)


def push_later(end: Any) -> None:
    """Sees to it that the rest in this end's outbox goes out as soon as there is room."""
    _pushers.start(end)
