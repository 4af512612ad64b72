"""What each of the two processes of a run does: open, meet, warm up, measure, report.

Holds: the sender's and the receiver's half of a one-way run, and of round trips.
Must not know: how processes are made (host), what is done with the figures (runner).
Joins: `host` calls `run_side` in a forked child and sends what it returns, plain JSON values.
"""

from __future__ import annotations

import math
from typing import Any

from naru.bench import loops
from naru.bench.ends import End, Place
from naru.bench.meeting import RECEIVER, SENDER, Meeting, Span, Stopwatch
from naru.bench.payloads import Payloads
from naru.bench.plan import TRIP_MODES
from naru.errors import CorruptedError

__all__ = ["TRIP_SHARES", "run_side"]

WARM_UP_PART = 10
MOST_WARM_UP = 10_000

TRIP_SHARES = (
    0.0, 0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.98, 0.99,
    0.995, 0.999, 0.9999, 1.0,
)  # fmt: skip
"""The points of the distribution of round trips that a result keeps."""


def run_side(place: Place, side: int, job: dict[str, Any], meeting: Meeting) -> dict[str, Any]:
    """One side of one run: a warm-up, and the passes that count.

    Args:
        job: mode, size_bytes, count (of each pass), passes (host.py).

    Returns: for each pass its Span as numbers; the receiver adds what came, the sender of round
    trips how long they took.
    """
    load = Payloads(job["size_bytes"])
    mode, two_way = job["mode"], job["mode"] in TRIP_MODES
    run = _run_trips if two_way else _run_sender if side == SENDER else _run_receiver
    end = place.open(side, two_way)
    try:
        run(end, side, mode, _warm_up(job["count"]), load, meeting)
        passes = [run(end, side, mode, job["count"], load, meeting) for _ in range(job["passes"])]
    finally:
        end.close()
    return {"passes": passes}


def _warm_up(count: int) -> int:
    return max(1, min(count // WARM_UP_PART, MOST_WARM_UP))


def _numbers(span: Span) -> dict[str, Any]:
    return {
        "start_ns": span.start_ns, "end_ns": span.end_ns, "cpu_ns": span.cpu_ns,
        "waited_ns": span.waited_ns,
    }  # fmt: skip


def _run_sender(
    end: End, side: int, mode: str, count: int, load: Payloads, meeting: Meeting
) -> dict[str, Any]:
    meeting.finish(False)
    meeting.meet(side)
    watch = Stopwatch()
    if mode == "message":
        loops.send_each(end.send, load, count)
    else:
        loops.send_batches(end.send_many, load, count)
    span = watch.stop()
    meeting.finish(True)
    meeting.meet(side)
    return _numbers(span)


def _run_receiver(
    end: End, side: int, mode: str, count: int, load: Payloads, meeting: Meeting
) -> dict[str, Any]:
    meeting.meet(side)
    watch = Stopwatch()
    received, end_ns = _receive(end, mode, count, load, meeting)
    span = watch.stop()
    meeting.meet(side)
    return {**_numbers(span), "received": received, "end_ns": end_ns or span.end_ns}


def _receive(
    end: End, mode: str, count: int, load: Payloads, meeting: Meeting
) -> tuple[int, int | None]:
    """How many came, and when the last one had come if that is not now."""
    if end.lossy:
        received, end_ns = loops.receive_lossy(end, meeting, load)
        if received > count:
            raise CorruptedError(f"{count} messages were sent and {received} came")
        return received, end_ns
    if mode == "message":
        loops.receive_each(end.receive, load, count)
    elif mode == "batch":
        loops.receive_batches(end.receive_many, load, count)
    else:
        loops.receive_in_place(end.lease_many, load, count)
    return count, None


def _run_trips(
    end: End, side: int, mode: str, count: int, load: Payloads, meeting: Meeting
) -> dict[str, Any]:
    times_ns: list[int] = []
    meeting.meet(side)
    watch = Stopwatch()
    if mode == "batch-trip":
        if side == SENDER:
            times_ns = loops.make_batch_trips(end.send_many, end.receive_many, load, count)
        else:
            loops.echo_batches(end.send_many, end.receive_many, load, count)
    elif side == SENDER:
        times_ns = loops.make_trips(end.send, end.receive, load, count)
    else:
        loops.echo(end.send, end.receive, count)
    span = watch.stop()
    if side == RECEIVER:
        return {**_numbers(span), "received": count}
    return {**_numbers(span), "trips_ns": quantiles(times_ns)}


def quantiles(times_ns: list[int]) -> dict[str, int]:
    """The value at each of TRIP_SHARES (nearest rank), by its share as text."""
    ordered = sorted(times_ns)
    last = len(ordered) - 1
    return {
        f"{share:g}": ordered[min(last, max(0, math.ceil(share * len(ordered)) - 1))]
        for share in TRIP_SHARES
    }
