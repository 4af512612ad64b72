"""What each side of a run does: warm-up, measured pass, clocks.

Holds: the sender's and the receiver's half of a stream, of round trips, of
large payloads, and of an idle wait.
Must not know: any peer; an end (peers/contract.py) is all it sees.
Joins: peers/contract.py runs the halves in two processes; loops.py moves the
messages.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

import loops
from two_processes import Meeting, Span, Stopwatch

WARM_UP_SHARE = 10
LARGE_SHAPES = ("copy", "reserve")


def whole_blocks(count: int) -> int:
    """Streams are whole blocks of 64: a marker ends each."""
    return -(-count // loops.BLOCK)


def percentile(ordered: list[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _passes(job: Any) -> tuple[int, int]:
    """Messages of the warm-up and of the measured pass."""
    if job.shape in LARGE_SHAPES:
        return max(2, job.count // WARM_UP_SHARE), job.count
    return whole_blocks(job.count // WARM_UP_SHARE) * loops.BLOCK, job.count


def send_passes(end: Any, meeting: Meeting, job: Any) -> dict[str, Any]:
    span = Span(0, 0, 0)
    for count in _passes(job):
        meeting.begin()
        meeting.meet()
        watch = Stopwatch()
        _send_pass(end, job, count)
        span = watch.stop()
        meeting.finish()
        meeting.meet()
    return asdict(span)


def _send_pass(end: Any, job: Any, count: int) -> None:
    blocks = count // loops.BLOCK
    if job.shape in LARGE_SHAPES:
        loops.send_large(end, count)
    elif job.shape != "per-message":
        loops.send_batches(end, blocks, job.size_bytes)
    elif end.polled:
        loops.send_each_polled(end, blocks, job.size_bytes)
    else:
        loops.send_each(end, blocks, job.size_bytes)


def receive_passes(end: Any, meeting: Meeting, job: Any) -> dict[str, Any]:
    span, lost = Span(0, 0, 0), 0
    for count in _passes(job):
        lost_before = end.losses()
        meeting.meet()
        watch = Stopwatch()
        received = _receive_pass(end, meeting, job, count)
        span = watch.stop()
        meeting.meet()
        lost = count - received
        if lost != end.losses() - lost_before:
            raise loops.WrongMessageError(
                f"{lost} of {count} messages are missing, {end.losses() - lost_before} counted lost"
            )
    return {**asdict(span), "lost": lost}


def _receive_pass(end: Any, meeting: Meeting, job: Any, count: int) -> int:
    blocks = count // loops.BLOCK
    if end.lossy and job.shape in LARGE_SHAPES:
        return loops.receive_lossy(lambda: end.try_receive_large(loops.touch_lines), meeting)
    if end.lossy:
        return loops.receive_lossy(end.try_receive, meeting)
    if job.shape in LARGE_SHAPES:
        loops.receive_large(end, count, loops.touch_lines)
    elif job.shape in ("views", "array"):
        end.receive_in_place(job.shape, blocks, job.size_bytes)
    elif job.shape == "batch":
        loops.receive_batches(end, blocks, job.size_bytes)
    elif end.polled:
        loops.receive_each_polled(end, blocks, job.size_bytes)
    else:
        loops.receive_each(end, blocks, job.size_bytes)
    return count


def _trip_passes(blocks: int) -> tuple[int, int]:
    return max(1, blocks // WARM_UP_SHARE), blocks


def time_trips(end: Any, meeting: Meeting, blocks: int, size_bytes: int) -> dict[str, Any]:
    span = Span(0, 0, 0)
    stamps_ns: list[int] = []
    for count in _trip_passes(blocks):
        meeting.meet()
        stamps_ns.clear()
        watch = Stopwatch()
        end.run_trips(count, size_bytes, stamps_ns)
        span = watch.stop()
    return {**asdict(span), "samples_ns": loops.trip_times(stamps_ns)}


def answer_trips(end: Any, meeting: Meeting, blocks: int) -> dict[str, Any]:
    span = Span(0, 0, 0)
    for count in _trip_passes(blocks):
        meeting.meet()
        watch = Stopwatch()
        end.run_echo(count)
        span = watch.stop()
    return asdict(span)


def send_late(end: Any, meeting: Meeting, seconds: float) -> dict[str, Any]:
    meeting.meet()
    time.sleep(seconds)  # the idle time that is measured
    end.send_one(loops.numbered(0, 64))
    return {}


def wait_idle(end: Any, meeting: Meeting) -> dict[str, Any]:
    _scheduled_ns()  # the first reading costs more than the later ones
    meeting.meet()
    start_ns, start_cpu_ns = time.monotonic_ns(), _scheduled_ns()
    message = end.unwrap(end.receive_one())
    end_cpu_ns, end_ns = _scheduled_ns(), time.monotonic_ns()
    if int.from_bytes(message[:8], "little") != 0:
        raise loops.WrongMessageError("the late message is not the one that was sent")
    return {"seconds": (end_ns - start_ns) / 1e9, "cpu_s": (end_cpu_ns - start_cpu_ns) / 1e9}


def _scheduled_ns() -> int:
    """Time on a CPU of all threads of this process, by the scheduler's count."""
    total_ns = 0
    for task in os.listdir("/proc/self/task"):
        fd = os.open(f"/proc/self/task/{task}/schedstat", os.O_RDONLY)
        total_ns += int(os.read(fd, 100).split()[0])
        os.close(fd)
    return total_ns
