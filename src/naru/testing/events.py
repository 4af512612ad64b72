"""Words between a test and its child process: one JSON line each, over a pipe in each direction.

A test that kills, stops or continues a process at a chosen moment has to know the moment: the child
tells it. Holds: Events, events_of_parent.
Must not know: what the words mean, or how a child is started (children.py). Source: pipe(7).
"""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any

__all__ = ["ChildError", "Events", "events_of_parent"]

VARIABLE = "NARU_TEST_EVENTS"
PATIENCE_S = 15.0
"""How long a test waits for a word that must come; generous, because machines are busy."""


class ChildError(Exception):
    """A child process did not do what its test counts on."""


class Events:
    """One side of the conversation. Not safe from several threads."""

    def __init__(self, reading: int, writing: int) -> None:
        """Takes both descriptors over."""
        self._reading, self._writing = reading, writing
        self._unread = b""
        self.ended = False
        """The other side closed, or died."""

    def tell(self, name: str, **facts: Any) -> None:
        """Says a word, with facts that JSON can carry. Raises ChildError when nobody listens."""
        line = json.dumps({"name": name, **facts}).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._writing, line) :]
        except BrokenPipeError as error:
            self.ended = True
            raise ChildError(f"the other side ended before it could hear {name!r}") from error

    def hear(self, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The next word, whatever it is. Raises ChildError at the end of the other side or time."""
        until_s = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            if not self._poll(until_s):
                raise ChildError(f"nothing was said in {timeout_s} s")
            chunk = os.read(self._reading, 65536)
            if not chunk:
                self.ended = True
                raise ChildError("the other side ended without a word")
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def expect(self, name: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The next word, which must be this one; gives its facts. Raises ChildError."""
        try:
            heard = self.hear(timeout_s)
        except ChildError as error:
            raise ChildError(f"waited for {name!r}: {error}") from None
        if heard["name"] != name:
            raise ChildError(f"waited for {name!r}, heard {heard!r}")
        del heard["name"]
        return heard

    def _poll(self, until_s: float) -> bool:
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        return bool(poll.poll(max(0.0, until_s - time.monotonic()) * 1000))

    def close(self) -> None:
        """Idempotent; the other side's expect() raises from now on."""
        for fd in (self._reading, self._writing):
            if fd >= 0:
                os.close(fd)
        self._reading = self._writing = -1


def events_of_parent() -> Events:
    """In a script that Child.script() runs: the conversation with its test."""
    reading, writing = os.environ[VARIABLE].split(",")
    for fd in (reading, writing):
        os.set_inheritable(int(fd), False)
    return Events(int(reading), int(writing))
