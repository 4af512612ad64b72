"""Two forked, pinned processes that meet, are timed, and report.

Holds: the fork, the pinning to cores, the line where both sides meet before
a measurement, the clocks of one side, and the end of both when one fails.
Must not know: what the sides send each other, nor how.
Joins: loops.py measures inside the two roles given to `run_pair`; peers and
naru's own runners reach it through peers/contract.py.
"""

from __future__ import annotations

import json
import mmap
import os
import selectors
import signal
import struct
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

SENDER = 0
RECEIVER = 1
CORES = (0, 1)

# A side that waits for messages that never come is ended, not waited for.
LIMIT_S = 240.0

_LINE_BYTES = 64
_TEXT_AT = 4 * _LINE_BYTES
_DONE_AT = 2 * _LINE_BYTES


class SideFailedError(RuntimeError):
    """One of the two processes failed; the text is its traceback."""


class Meeting:
    """Memory shared by both sides: a start line, a line of text, a done flag."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)
        self._phase = 0
        self._side = SENDER

    def join(self, side: int) -> None:
        """Says which side this process is; called once, after the fork."""
        self._side = side

    def meet(self) -> None:
        """Waits until the other side is here too. At most 255 times."""
        self._phase += 1
        self._memory[self._side * _LINE_BYTES] = self._phase
        other = (1 - self._side) * _LINE_BYTES
        while self._memory[other] < self._phase:
            os.sched_yield()

    def announce(self, text: str) -> None:
        """Leaves a text (an address) for the side that meets next."""
        data = text.encode()
        struct.pack_into("<H", self._memory, _TEXT_AT, len(data))
        self._memory[_TEXT_AT + 2 : _TEXT_AT + 2 + len(data)] = data

    def announced(self) -> str:
        """The text that the other side left before the last `meet`."""
        (length,) = struct.unpack_from("<H", self._memory, _TEXT_AT)
        return self._memory[_TEXT_AT + 2 : _TEXT_AT + 2 + length].decode()

    def finish(self) -> None:
        """The sender of a lossy transport says that nothing more comes."""
        self._memory[_DONE_AT] = 1

    def begin(self) -> None:
        """Takes `finish` back, before the next pass."""
        self._memory[_DONE_AT] = 0

    def finished(self) -> bool:
        return self._memory[_DONE_AT] == 1


@dataclass(frozen=True)
class Span:
    """What one side measured of one pass, on clocks that both sides share."""

    start_ns: int
    end_ns: int
    cpu_ns: int


class Stopwatch:
    """CLOCK_MONOTONIC and the CPU time of all threads of this process."""

    def __init__(self) -> None:
        self._cpu_ns = time.process_time_ns()
        self._start_ns = time.monotonic_ns()

    def stop(self) -> Span:
        end_ns = time.monotonic_ns()
        return Span(self._start_ns, end_ns, time.process_time_ns() - self._cpu_ns)


Role = Callable[[Meeting], dict[str, Any]]


def run_pair(
    sender: Role, receiver: Role, cores: tuple[int, int] = CORES, limit_s: float = LIMIT_S
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs both roles in their own pinned processes.

    Returns: what the sender and what the receiver returned (JSON values).
    Raises: SideFailedError when a side raised, was killed, or took too long;
    the other one is ended then.
    """
    meeting = Meeting()
    children = [
        _fork_side(role, side, cores[side], meeting)
        for side, role in ((RECEIVER, receiver), (SENDER, sender))
    ]
    try:
        answers = _collect(children, limit_s)
    finally:
        for pid, fd in children:
            _end(pid)
            os.close(fd)
    return answers[1], answers[0]


def _fork_side(role: Role, side: int, core: int, meeting: Meeting) -> tuple[int, int]:
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid > 0:
        os.close(write_fd)
        return pid, read_fd
    os.close(read_fd)
    _be_side(role, side, core, meeting, write_fd)  # never returns
    raise AssertionError


def _be_side(role: Role, side: int, core: int, meeting: Meeting, write_fd: int) -> NoReturn:
    """The child: it never returns into the parent's program."""
    answer: dict[str, Any]
    try:
        os.sched_setaffinity(0, {core})
        meeting.join(side)
        answer = {"result": role(meeting)}
    except BaseException:  # reported to the parent, which raises it there
        answer = {"error": traceback.format_exc()}
    with open(write_fd, "wb") as report:
        report.write(json.dumps(answer).encode())
    # Not sys.exit: exit handlers of the parent's program must not run here.
    os._exit(0 if "result" in answer else 1)


def _collect(children: list[tuple[int, int]], limit_s: float) -> list[dict[str, Any]]:
    deadline_s = time.monotonic() + limit_s
    texts: dict[int, bytes] = {fd: b"" for _, fd in children}
    answers: dict[int, dict[str, Any]] = {}
    with selectors.DefaultSelector() as selector:
        for _, fd in children:
            selector.register(fd, selectors.EVENT_READ)
        while len(answers) < len(children):
            ready = selector.select(max(0.0, deadline_s - time.monotonic()))
            if not ready:
                raise SideFailedError(f"not done after {limit_s:.0f} s")
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                texts[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
                    answers[key.fd] = _answer(texts[key.fd])
    return [answers[fd] for _, fd in children]


def _answer(text: bytes) -> dict[str, Any]:
    if not text:
        raise SideFailedError("a side was killed before it could report")
    answer = json.loads(text)
    if "error" in answer:
        raise SideFailedError(answer["error"].strip())
    result: dict[str, Any] = answer["result"]
    return result


def _end(pid: int) -> None:
    """Kills the child if it still runs, and reaps it."""
    done, _ = os.waitpid(pid, os.WNOHANG)
    if done == 0:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
