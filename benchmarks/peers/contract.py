"""What a peer is: the one shape that every file in this folder has.

Holds: what an end of a peer offers, and how a peer's stream, round trip, large
payloads and idle receiver are run in two processes.
Must not know: any peer. A peer's package is imported after the fork, in the
process that uses it, unless what it makes must be inherited.
Joins: two_processes.py forks, passes.py is what each side does there;
messages.py asks `PEERS` (peers/__init__.py) for what its rows name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import loops
from peers import passes
from two_processes import (
    RECEIVER,
    SENDER,
    Meeting,
    SideFailedError,
    run_pair,
)


@dataclass(frozen=True)
class Job:
    """One run: what is asked of a peer."""

    size_bytes: int
    count: int
    shape: str = "per-message"  # per-message | batch | views | array; large: copy | reserve
    two_way: bool = False
    wait: str = "default"


@dataclass(frozen=True)
class StreamResult:
    """One way: from the first message sent to the last one received."""

    size_bytes: int
    count: int
    seconds: float
    cpu_sender_s: float
    cpu_receiver_s: float
    lost: int


@dataclass(frozen=True)
class RoundTripResult:
    """There and back; each trip timed by itself."""

    size_bytes: int
    count: int
    seconds: float
    cpu_sender_s: float
    cpu_receiver_s: float
    p50_ns: int
    p99_ns: int
    p999_ns: int


@dataclass(frozen=True)
class IdleResult:
    """CPU time of a receiver that waits for a message that comes late."""

    seconds: float
    cpu_receiver_s: float


class End:
    """One process's end. Blocking calls: `send` and `receive`.

    A subclass sets `send`, `receive` (and the batch calls) to callables, best
    the peer's own methods, so that no Python frame stands between the loop and
    the peer.
    """

    polled = False
    lossy = False
    wraps = False  # receive gives something that holds the message
    checkable = True  # by plain calls of send_one and receive_one
    send: Callable[[Any], Any]
    receive: Callable[[], Any]
    send_batch: Callable[[list[bytes]], Any]
    receive_batch: Callable[[], Any]

    def unwrap(self, received: Any) -> Any:
        return received

    def send_one(self, message: bytes) -> None:
        self.send(message)

    def receive_one(self) -> Any:
        return self.receive()

    def receive_in_place(self, shape: str, blocks: int, size_bytes: int) -> None:
        """The shapes `views` and `array`: looks at messages where they lie."""
        raise NotImplementedError(shape)

    def run_trips(self, blocks: int, size_bytes: int, stamps_ns: list[int]) -> None:
        loops.trips(self, blocks, size_bytes, stamps_ns)

    def run_echo(self, blocks: int) -> None:
        loops.echo(self, blocks)

    def send_large(self, number: int) -> None:
        raise NotImplementedError

    def receive_large(self, touch: Callable[[Any], int]) -> int:
        raise NotImplementedError

    def losses(self) -> int:
        """Messages that the peer itself counts as lost."""
        return 0

    def close(self) -> None:
        return None


class PolledEnd(End):
    """An end whose calls never wait: False when full, None when empty."""

    polled = True
    try_send: Callable[[Any], Any]
    try_receive: Callable[[], Any]

    def send_one(self, message: bytes) -> None:
        while not self.try_send(message):
            pass

    def receive_one(self) -> Any:
        while (message := self.try_receive()) is None:
            pass
        return message

    def run_trips(self, blocks: int, size_bytes: int, stamps_ns: list[int]) -> None:
        loops.trips_polled(self, blocks, size_bytes, stamps_ns)

    def run_echo(self, blocks: int) -> None:
        loops.echo_polled(self, blocks)

    def try_receive_large(self, touch: Callable[[Any], int]) -> int | None:
        """Of a lossy peer only: None when nothing is there."""
        raise NotImplementedError


class Peer:
    """A way to move messages between two processes, at a pinned version."""

    name = ""
    distribution: str | None = None  # None: the standard library
    transport = ""
    shapes: frozenset[str] = frozenset({"per-message", "trip"})
    note = ""

    def missing(self) -> str | None:
        """Why this peer can't run here, or None."""
        if self.distribution is None:
            return None
        try:
            metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return f"{self.distribution} is not installed"
        return None

    @property
    def version(self) -> str:
        return metadata.version(self.distribution) if self.distribution else "stdlib"

    # -- what a peer fills in

    def prepare(self, job: Job) -> Any:
        """In the parent, before the fork: what both processes inherit."""
        return None

    def bind(self, place: Any, job: Job, meeting: Meeting) -> Any:
        """In the receiver, before the sender opens: take the name."""
        return None

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> End:
        """In each process: its end. `bound` is what `bind` gave, None at the sender."""
        raise NotImplementedError

    def clean_up(self, place: Any) -> None:
        """In the parent, after both are gone."""

    # -- what every peer runs

    def run_stream(self, size_bytes: int, count: int, shape: str = "per-message") -> StreamResult:
        return self._one_way(Job(size_bytes, passes.whole_blocks(count) * loops.BLOCK, shape))

    def run_large(self, size_bytes: int, count: int, shape: str = "copy") -> StreamResult:
        return self._one_way(Job(size_bytes, count, shape))

    def run_round_trip(self, size_bytes: int, count: int, wait: str = "default") -> RoundTripResult:
        blocks = passes.whole_blocks(count)
        job = Job(size_bytes, blocks * loops.BLOCK, two_way=True, wait=wait)
        sent, received = self._run(
            job,
            lambda end, meeting: passes.time_trips(end, meeting, blocks, size_bytes),
            lambda end, meeting: passes.answer_trips(end, meeting, blocks),
        )
        samples = sorted(sent["samples_ns"])
        return RoundTripResult(
            size_bytes=size_bytes,
            count=len(samples),
            seconds=(sent["end_ns"] - sent["start_ns"]) / 1e9,
            cpu_sender_s=sent["cpu_ns"] / 1e9,
            cpu_receiver_s=received["cpu_ns"] / 1e9,
            p50_ns=passes.percentile(samples, 0.5),
            p99_ns=passes.percentile(samples, 0.99),
            p999_ns=passes.percentile(samples, 0.999),
        )

    def run_idle(self, seconds: float) -> IdleResult:
        job = Job(64, 1)
        _, received = self._run(
            job,
            lambda end, meeting: passes.send_late(end, meeting, seconds),
            passes.wait_idle,
            checked=False,
        )
        return IdleResult(seconds=received["seconds"], cpu_receiver_s=received["cpu_s"])

    def _one_way(self, job: Job) -> StreamResult:
        sent, received = self._run(
            job,
            lambda end, meeting: passes.send_passes(end, meeting, job),
            lambda end, meeting: passes.receive_passes(end, meeting, job),
            checked=job.shape not in ("copy", "reserve"),
        )
        return StreamResult(
            size_bytes=job.size_bytes,
            count=job.count,
            seconds=(received["end_ns"] - sent["start_ns"]) / 1e9,
            cpu_sender_s=sent["cpu_ns"] / 1e9,
            cpu_receiver_s=received["cpu_ns"] / 1e9,
            lost=received["lost"],
        )

    def _run(
        self, job: Job, send: Any, receive: Any, checked: bool = True
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            place = self.prepare(job)
        except Exception as error:  # a peer's own: told like a side's failure
            raise SideFailedError(f"{type(error).__name__}: {error}") from error

        def sender(meeting: Meeting) -> dict[str, Any]:
            meeting.meet()
            end = self.open(place, job, SENDER, None, meeting)
            meeting.meet()
            if checked and end.checkable and not end.lossy:
                loops.send_checked(end, job.size_bytes)
            result: dict[str, Any] = send(end, meeting)
            meeting.meet()  # what was sent is received: now it may be closed
            end.close()
            return result

        def receiver(meeting: Meeting) -> dict[str, Any]:
            bound = self.bind(place, job, meeting)
            meeting.meet()
            end = self.open(place, job, RECEIVER, bound, meeting)
            meeting.meet()
            if checked and end.checkable and not end.lossy:
                loops.receive_checked(end, job.size_bytes)
            result: dict[str, Any] = receive(end, meeting)
            meeting.meet()
            end.close()
            return result

        try:
            return run_pair(sender, receiver)
        finally:
            self.clean_up(place)
