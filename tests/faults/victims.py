"""Victims: naru's end of a hostile conversation, in a forked process that is judged as a whole.

Holds: `Victim`, a process that runs one function under its own watchdog and hands back an `Outcome`
(what came of it, which naru error, what it leaked, how much memory it took), and `run_victim()` for
the usual case. Must not know: what is tested.
Joins: the test plays the hostile or dying side itself; shm_helpers.py helps it to.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from helpers import open_fds, resident_bytes

import naru

__all__ = ["Outcome", "Victim", "VictimFailed", "run_victim", "until"]


class Outcome(NamedTuple):
    """What a victim's function did."""

    value: Any
    """What it returned, or None."""
    error: naru.NaruError | None
    """The naru error that it raised."""
    leaked: list[str]
    """Descriptors that were open after it and not before."""
    grown_bytes: int
    """By how much the peak of its memory exceeds what it had before."""


class VictimFailed(AssertionError):
    """It hung, was killed, or raised something that is not a naru error."""


def until(condition: Callable[[], Any], what: str, timeout_s: float = 10.0) -> Any:
    """Polls for what has no event (a /proc entry, a file); fails loudly."""
    deadline_s = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline_s, f"never happened: {what}"
        time.sleep(0.002)
    return result


class Victim:
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
        """Waits for its end. Raises VictimFailed for anything but a result or a naru error."""
        data = bytearray()
        while select.select([self._pipe], [], [], self._timeout_s + 5)[0]:
            chunk = os.read(self._pipe, 1 << 16)
            if not chunk:
                break
            data += chunk
        status = self.wait()
        self.close()
        if not data:
            raise VictimFailed(f"{self.name}: ended with {status} and no word (a hang, or a crash)")
        answer = pickle.loads(bytes(data))
        if isinstance(answer, str):
            raise VictimFailed(f"{self.name}:\n{answer}")
        return Outcome(*answer)

    def close(self) -> None:
        """Makes sure that nothing of it is left."""
        if self._status is None:
            self.kill()
            self.wait()
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def run_victim(function: Callable[..., Any], *arguments: Any, timeout_s: float = 5.0) -> Outcome:
    """Runs the function in a victim to its end."""
    with Victim(function, *arguments, timeout_s=timeout_s) as victim:
        return victim.outcome()


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
    before, resident = open_fds(), resident_bytes()
    value = error = None
    try:
        value = function(*arguments)
    except naru.NaruError as raised:
        error = raised.with_traceback(None)
        error.__cause__ = error.__context__ = None
    except BaseException:
        return traceback.format_exc()
    gc.collect()
    after = open_fds()
    leaked = [f"{fd}: {after[fd]}" for fd in after if after[fd] != before.get(fd)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return value, error, leaked, max(0, peak - resident)

