"""Forked children of a fault test: each under its own watchdog, each counted.

Holds: `Child`, one forked process that runs one function and hands back what came of it, and
`in_child()` for the usual case. Must not know: what is tested.
Joins: the tests play the hostile or dying side in one process and naru's in the other.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import re
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import naru

__all__ = ["SOAK", "Child", "Outcome", "descriptors", "in_child", "peak_bytes", "until"]

SOAK = bool(os.environ.get("NARU_SOAK"))
"""The long set: more kills, longer flips. By hand or nightly."""


class Outcome(NamedTuple):
    """What a child's function did."""

    value: Any
    """What it returned, or None."""
    error: naru.NaruError | None
    """The naru error that it raised."""
    leaked: list[str]
    """Descriptors that were open after it and not before."""
    grown_bytes: int
    """By how much the peak of its memory exceeds what it had before."""


class ChildFailed(AssertionError):
    """The child hung, was killed, or raised something that is not a naru error."""


def descriptors() -> dict[int, str]:
    """The open descriptors of this process, without the one that looks."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the directory itself
    return found


def peak_bytes() -> int:
    """The most memory that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def until(condition: Callable[[], Any], what: str, timeout_s: float = 10.0) -> Any:
    """Polls for what has no event (a /proc entry, a file); fails loudly."""
    deadline_s = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline_s, f"never happened: {what}"
        time.sleep(0.002)
    return result


class Child:
    """A process that runs `function(*arguments)` and then ends without any clean-up."""

    def __init__(
        self, function: Callable[..., Any], *arguments: Any, timeout_s: float = 5.0
    ) -> None:
        """A hang of timeout_s ends it, with all its stacks on stderr."""
        self.name = getattr(function, "__name__", str(function))
        self._timeout_s = timeout_s
        self._status: int | None = None
        self._pipe, outgoing = os.pipe()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._pipe)
            _run(function, arguments, outgoing, timeout_s)
        os.close(outgoing)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signals it, if it was not waited for yet."""
        if self._status is None:
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Reaps it; its exit code, negative for a signal."""
        if self._status is None:
            # the watchdog inside does not run in a stopped process
            readable, _, _ = select.select([self._pipe], [], [], self._timeout_s + 5)
            if not readable:
                os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def outcome(self) -> Outcome:
        """Waits for its end. Raises ChildFailed for anything but a result or a naru error."""
        data = bytearray()
        while select.select([self._pipe], [], [], self._timeout_s + 5)[0]:
            chunk = os.read(self._pipe, 1 << 16)
            if not chunk:
                break
            data += chunk
        status = self.wait()
        self.close()
        if not data:
            raise ChildFailed(f"{self.name}: ended with {status} and no word (a hang, or a crash)")
        answer = pickle.loads(bytes(data))
        if isinstance(answer, str):
            raise ChildFailed(f"{self.name}:\n{answer}")
        return Outcome(*answer)

    def close(self) -> None:
        """Makes sure that nothing of it is left."""
        if self._status is None:
            self.kill()
            self.wait()
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def in_child(function: Callable[..., Any], *arguments: Any, timeout_s: float = 5.0) -> Outcome:
    """Runs the function in a child to its end."""
    with Child(function, *arguments, timeout_s=timeout_s) as child:
        return child.outcome()


def _run(
    function: Callable[..., Any], arguments: tuple[Any, ...], outgoing: int, timeout_s: float
) -> NoReturn:
    code = 1
    try:
        faulthandler.dump_traceback_later(timeout_s, exit=True)
        warnings.simplefilter("error")
        answer = _observe(function, arguments)
        data = memoryview(pickle.dumps(answer))
        while data:
            data = data[os.write(outgoing, data) :]
        code = 0
    finally:
        os._exit(code)


def _observe(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    before, peak = descriptors(), _resident_bytes()
    value = error = None
    try:
        value = function(*arguments)
    except naru.NaruError as raised:
        error = raised.with_traceback(None)
        error.__cause__ = error.__context__ = None
    except BaseException:
        return traceback.format_exc()
    gc.collect()
    after = descriptors()
    leaked = [f"{fd}: {after[fd]}" for fd in after if after[fd] != before.get(fd)]
    return value, error, leaked, max(0, peak_bytes() - peak)


def _resident_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        match = re.search(r"VmRSS:\s+([0-9]+) kB", file.read())
    assert match
    return int(match[1]) * 1024
