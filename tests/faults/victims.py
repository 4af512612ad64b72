"""Victims: naru's end of a hostile conversation, in a forked process that is judged as a whole.

Holds: `Victim`, a process that runs one function under its own watchdog and hands back an `Outcome`
(what came of it, which naru error, what it leaked, how much memory it took), and `run_victim()` for
the usual case. Must not know: what is tested.
Joins: naru.testing's Child is the process; the test plays the hostile side, shm_helpers.py helps it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import mmap
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import naru
from naru.testing.children import Child
from naru.testing.descriptors import open_descriptors
from naru.testing.events import ChildError, Events

__all__ = ["SOAK", "Outcome", "Victim", "run_victim", "until"]

SOAK = bool(os.environ.get("NARU_SOAK"))
"""The long set (more kills, longer flips), by hand or nightly."""


class Outcome(NamedTuple):
    """What a victim's function did."""

    value: Any
    """What it returned, as JSON carries it; None when it raised."""
    error: type[naru.NaruError] | None
    """The class of the naru error that it raised."""
    text: str
    leaked: list[str]
    """Descriptors that were open after it and not before."""
    grown_bytes: int
    """By how much the peak of its memory exceeds what it had before."""


class Victim:
    """A process that runs `function(*arguments)` so many times; a hang is its end, stacks and all."""

    def __init__(
        self, function: Callable[..., Any], *arguments: Any, times: int = 1, timeout_s: float = 5.0
    ) -> None:
        """timeout_s is for each time. A first parameter named `events` gets the child's Events."""
        self._patience_s = timeout_s + 5.0
        self.child = Child.run(_be_judged, function, arguments, times, timeout_s)

    def expect(self, word: str) -> dict[str, Any]:
        """Waits for a word that the function told."""
        return self.child.expect(word, self._patience_s)

    def outcome(self) -> Outcome:
        """Waits for the next round's end. ChildError for all but a result or a naru error."""
        facts = self.child.expect("outcome", self._patience_s)
        error = facts.pop("error")
        return Outcome(error=getattr(naru, error) if error else None, **facts)

    def __enter__(self) -> Victim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        if error is not None and not isinstance(error, ChildError):
            with contextlib.suppress(ChildError):
                error.add_note(f"its victim: {self.child.events.hear(1.0)}")
            error.add_note(f"its victim printed: {self.child.output()}")
        self.child.close()


def run_victim(function: Callable[..., Any], *arguments: Any, timeout_s: float = 5.0) -> Outcome:
    """Runs the function in a victim to its end."""
    with Victim(function, *arguments, timeout_s=timeout_s) as victim:
        outcome = victim.outcome()
        victim.child.check()
        return outcome


def _be_judged(
    events: Events, function: Callable[..., Any], arguments: tuple[Any, ...], times: int,
    timeout_s: float,
) -> None:  # fmt: skip
    # Not dump_traceback_later: where the parent has one, its thread is missing here, and waited for.
    faulthandler.register(signal.SIGALRM, chain=True)
    warnings.simplefilter("error")
    if function.__code__.co_varnames[:1] == ("events",):
        arguments = (events, *arguments)
    for _ in range(times):
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        events.tell("outcome", **_judge(function, arguments))


def _judge(function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    before, resident = open_descriptors(), _resident_bytes()
    value, error, text = None, None, ""
    try:
        value = function(*arguments)
    except naru.NaruError as raised:
        error, text = type(raised).__name__, str(raised)
    gc.collect()
    after = open_descriptors()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "value": value, "error": error, "text": text, "grown_bytes": max(0, peak - resident),
        "leaked": [f"{fd}: {after[fd]}" for fd in after if after[fd] != before.get(fd)],
    }  # fmt: skip


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def until(condition: Callable[[], Any], what: str, timeout_s: float = 10.0) -> Any:
    """Polls for what has no event (a /proc entry, a word in shared memory); fails loudly."""
    deadline_s = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline_s, f"never happened: {what}"
        time.sleep(0.002)
    return result


# ---- messages in place ----

RING_BYTES = 65536


def in_place_pair(kind: str) -> Any:
    """A small ring, and no patience at the end: what is left in place is for the test to see."""
    capacity = f"capacity_bytes={RING_BYTES}&" if kind == "shm" else ""
    return naru.pair(f"{kind}:?{capacity}linger_s=0")


def raises(leaf: type[BaseException], function: Callable[[], object]) -> None:
    """pytest.raises, without what keeps the frame (and its views and arrays) alive."""
    try:
        function()
    except leaf:
        return
    raise AssertionError(f"not raised: {leaf.__name__}")
