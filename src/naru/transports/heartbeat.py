"""Signs of life on a timer, for the transports whose kernel answers for a stopped process.

One daemon thread per process, started with the first end that wants heartbeats and ended with the
last. It takes the GIL for a moment per beat; a beat is skipped while data are under way.
Must not know: what a beat is (Endpoint._beat).
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

__all__ = ["keep_beating"]

BEATS_PER_LIMIT = 10


class _Heart:
    """The timer of one process."""

    def __init__(self) -> None:
        self._ends: dict[weakref.ref[Any], float] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, end: Any, interval_s: float) -> None:
        with self._changed:
            reference = weakref.ref(end)
            self._ends[reference] = min(interval_s, self._ends.get(reference, interval_s))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="naru-heartbeat", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._ends:
                    self._thread = None
                    return
                self._changed.wait(min(self._ends.values()))
                ends = list(self._ends)
            for reference in ends:
                end = reference()
                if end is None or end.closed or end._beat() < 0:
                    with self._changed:  # gone; whoever uses it hears of it from its own verbs
                        self._ends.pop(reference, None)
            end = None  # or the last one would live until the next beat


_heart = _Heart()


def _new_heart() -> None:
    """In a forked child: the thread is the parent's, and so are the ends."""
    global _heart
    _heart = _Heart()


os.register_at_fork(after_in_child=_new_heart)


def keep_beating(end: Any, heartbeat_s: float) -> None:
    """Sends a sign of life often enough that `heartbeat_s` of silence means death."""
    if heartbeat_s > 0:
        _heart.add(end, heartbeat_s / BEATS_PER_LIMIT)
