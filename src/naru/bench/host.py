"""The process that forks the sides of each run: `python -m naru.bench.host`.

It has no threads and imports nothing but naru, so its forks are clean, whatever program asked for
the benchmark. A job is a line of JSON on its standard input, the answer a line on its standard
output. It ends with its input, or by SIGTERM; its children never outlive it in good order.
Must not know: repeats, medians, tables.
Joins: `runner` starts it.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from typing import Any, NoReturn

from naru.bench.ends import Place, make_place
from naru.bench.meeting import RECEIVER, SENDER, Meeting
from naru.bench.plan import TRIP_MODES
from naru.bench.sides import run_side
from naru.errors import LimitError, NaruError, NoSpaceError, UnsupportedError

__all__ = ["main", "run_job"]

GRACE_S = 2.0
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


class _Side:
    """A forked child and the pipe on which it reports."""

    def __init__(self, pid: int, report_fd: int) -> None:
        self.pid, self.report_fd = pid, report_fd
        self.text = b""
        self.reaped = False

    def reap(self, flags: int = 0) -> bool:
        if not self.reaped:
            pid, _ = os.waitpid(self.pid, flags)
            self.reaped = pid == self.pid
        return self.reaped


def run_job(job: dict[str, Any], command_fd: int | None = None) -> dict[str, Any]:
    """Runs one job in two processes.

    Args:
        job: transport, options, naive (its name or null), mode, size_bytes, count and passes, cores
            (two, or null), limit_s.
        command_fd: when this becomes readable before the end, the run is given up.

    Returns: passes, each with seconds, cpu_sender_s, cpu_receiver_s, waited_s, received, trips_ns;
    or error and cannot.
    """
    try:
        place = _make_place(job)
    except (NaruError, OSError) as error:
        return _answer_error(error)
    sides: list[_Side] = []
    try:
        meeting = Meeting()
        for side in (RECEIVER, SENDER):
            sides.append(_fork_side(place, side, job, meeting))
        return _combine(job, *_collect(sides, job["limit_s"], command_fd))
    finally:
        _end(sides)
        place.clear()


def _make_place(job: dict[str, Any]) -> Place:
    if job["naive"]:
        from naru.bench.naive import make_naive_place  # brings multiprocessing

        return make_naive_place(job["naive"])
    return make_place(job["transport"], job["options"])


def _answer_error(error: BaseException) -> dict[str, Any]:
    """`cannot`: this machine does not have it, which is no defect of what was measured."""
    text = str(error) if isinstance(error, NaruError) else f"{type(error).__name__}: {error}"
    cannot = isinstance(error, UnsupportedError | LimitError | NoSpaceError)
    return {"error": " ".join(text.split()), "cannot": cannot}


# ---- the two processes ----


def _fork_side(place: Place, side: int, job: dict[str, Any], meeting: Meeting) -> _Side:
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        _be_side(place, side, job, meeting, write_fd)
    os.close(write_fd)
    return _Side(pid, read_fd)


def _be_side(
    place: Place, side: int, job: dict[str, Any], meeting: Meeting, report_fd: int
) -> NoReturn:
    """The child; it never returns into the host's program."""
    answer: dict[str, Any]
    try:
        try:
            _leave_host()
            if job["cores"]:
                os.sched_setaffinity(0, {job["cores"][side]})
            answer = run_side(place, side, job, meeting)
        except BaseException as error:  # reported to the host, which has it printed
            answer = _answer_error(error)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # every name is given up by now
        with open(report_fd, "wb") as report:
            report.write(json.dumps(answer).encode())
    finally:
        # Not sys.exit: the host's exit handlers and buffers are not this process's.
        os._exit(0)


def _leave_host() -> None:
    """The host's input and output stay the host's; its death is this process's, too."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) == 0 and os.getppid() == 1:
        raise SystemExit(1)  # it died before the call


def _collect(
    sides: list[_Side], limit_s: float, command_fd: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both reports (receiver's first), or the first error in both places."""
    deadline_s = time.monotonic() + limit_s
    poll = select.poll()
    by_fd = {side.report_fd: side for side in sides}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    if command_fd is not None:
        poll.register(command_fd, select.POLLIN)
    answers: dict[int, dict[str, Any]] = {}
    while len(answers) < len(sides):
        ready = poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000)
        if not ready:
            problem = {"error": f"no result after {limit_s:.0f} s", "cannot": False}
            return problem, problem
        for fd, _ in ready:
            if fd == command_fd:
                raise SystemExit(0)  # whoever asked is gone, or changed its mind
            chunk = os.read(fd, 65536)
            by_fd[fd].text += chunk
            if not chunk:
                poll.unregister(fd)
                answers[fd] = _parse(by_fd[fd].text)
                if "error" in answers[fd]:
                    return answers[fd], answers[fd]
    return answers[sides[0].report_fd], answers[sides[1].report_fd]


def _parse(text: bytes) -> dict[str, Any]:
    if not text:
        return {"error": "one of the two processes was killed", "cannot": False}
    answer: dict[str, Any] = json.loads(text)
    return answer


def _end(sides: list[_Side]) -> None:
    """Ends what still runs: politely, so that names are removed, then by force."""
    for side in sides:
        if not side.reap(os.WNOHANG):
            os.kill(side.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + GRACE_S
    for side in sides:
        _wait_for_end(side, deadline_s)
        if not side.reap(os.WNOHANG):
            os.kill(side.pid, signal.SIGKILL)
            side.reap()
        os.close(side.report_fd)


def _wait_for_end(side: _Side, deadline_s: float) -> None:
    """Until the child is gone: its pidfd becomes readable. Source: pidfd_open(2)."""
    if side.reaped:
        return
    pidfd = os.pidfd_open(side.pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000)
    finally:
        os.close(pidfd)


def _combine(
    job: dict[str, Any], receiver: dict[str, Any], sender: dict[str, Any]
) -> dict[str, Any]:
    if "error" in receiver:
        return receiver
    if "error" in sender:
        return sender
    both = zip(receiver["passes"], sender["passes"], strict=True)
    return {"passes": [_combine_pass(job, *pair) for pair in both]}


def _combine_pass(
    job: dict[str, Any], receiver: dict[str, Any], sender: dict[str, Any]
) -> dict[str, Any]:
    if job["mode"] in TRIP_MODES:
        took_ns = sender["end_ns"] - sender["start_ns"]
    else:
        took_ns = receiver["end_ns"] - min(sender["start_ns"], receiver["start_ns"])
    return {
        "seconds": took_ns / 1e9,
        "cpu_sender_s": sender["cpu_ns"] / 1e9,
        "cpu_receiver_s": receiver["cpu_ns"] / 1e9,
        "waited_s": (sender["waited_ns"] + receiver["waited_ns"]) / 1e9,
        "received": receiver["received"],
        "trips_ns": sender.get("trips_ns"),
    }


# ---- the program ----


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    """Answers jobs until its input ends."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it hears it, and ends it
    buffered = b""
    while chunk := os.read(0, 65536):
        *lines, buffered = (buffered + chunk).split(b"\n")
        for line in lines:
            answer = json.dumps(run_job(json.loads(line), command_fd=0))
            sys.stdout.write(answer + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
