"""Moving messages through an end, and checking them (payloads).

Each loop is what a user would write: nothing stands between it and the end's verbs. Must not know:
transports, processes, clocks of a run.
Joins: `sides` calls one of these between two readings of its clocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle, islice, repeat
from typing import Any

from naru.bench.meeting import Meeting
from naru.bench.payloads import Payloads
from naru.errors import CorruptedError, TimedOutError

__all__ = [
    "echo",
    "echo_batches",
    "make_batch_trips",
    "make_trips",
    "receive_batches",
    "receive_each",
    "receive_in_place",
    "receive_lossy",
    "send_batches",
    "send_each",
]

QUIET_S = 0.02

Send = Callable[[Any], object]
Receive = Callable[[], Any]


def send_each(send: Send, load: Payloads, count: int) -> None:
    """`send(message)`, one call a message."""
    block = list(load.block)
    whole, rest = divmod(count, load.block_length)
    for number in range(whole):
        block[-1] = load.marker(number)
        for message in block:
            send(message)
    if rest:
        for message in load.last_block(whole, rest):
            send(message)


def receive_each(receive: Receive, load: Payloads, count: int) -> None:
    """`receive()`, one call a message."""
    whole, rest = divmod(count, load.block_length)
    between = load.block_length - 2
    for number in range(whole):
        if between >= 0:
            place = load.sample_place(number)
            for _ in repeat(None, place):
                receive()
            load.check(receive(), place)
            for _ in repeat(None, between - place):
                receive()
        load.check_marker(receive(), number)
    for position in range(count - rest, count):
        load.check_at(receive(), position, count)


def send_batches(send_many: Callable[[list[Any]], object], load: Payloads, count: int) -> None:
    """`send_many(block)`."""
    block = list(load.block)
    whole, rest = divmod(count, load.block_length)
    for number in range(whole):
        block[-1] = load.marker(number)
        send_many(block)
    if rest:
        send_many(load.last_block(whole, rest))


def receive_batches(receive_many: Callable[[], list[Any]], load: Payloads, count: int) -> None:
    """`receive_many()`."""
    position = 0
    while position < count:
        batch = receive_many()
        load.check_batch(batch, position, count)
        position += len(batch)


def receive_in_place(lease_many: Callable[[], Any], load: Payloads, count: int) -> None:
    """`with lease_many() as batch`, looking at every message where it lies."""
    position = 0
    while position < count:
        with lease_many() as batch:
            for view in batch:
                view[0]
            load.check_batch(batch, position, count)
            position += len(batch)


def receive_lossy(end: Any, meeting: Meeting, load: Payloads) -> tuple[int, int]:
    """Takes what comes until the sender has finished and nothing more is there.

    Returns: (how many came, the monotonic time in ns at which the last one had been taken).
    """
    try_receive, receive = end.try_receive, end.receive
    received, empty_at_ns = 0, time.monotonic_ns()
    while True:
        message = try_receive()
        if message is None:
            empty_at_ns = time.monotonic_ns()
            finished = meeting.finished()  # before the last look: nothing is sent after it
            try:
                message = receive(timeout_s=QUIET_S)
            except TimedOutError:
                if finished:
                    return received, empty_at_ns
                continue
        if received % 16 == 0 and not load.is_one(message):
            raise CorruptedError(f"message {received} is none of those that were sent")
        received += 1


def make_trips(send: Send, receive: Receive, load: Payloads, count: int) -> list[int]:
    """Sends and waits for the answer.

    Returns: the ns of each trip; the check of the answer is outside of them.
    """
    clock = time.perf_counter_ns
    times_ns: list[int] = []
    keep = times_ns.append
    for message in islice(cycle(load.block), count):
        start_ns = clock()
        send(message)
        answer = receive()
        end_ns = clock()
        if answer != message:
            raise CorruptedError("an answer is not the message that was sent")
        keep(end_ns - start_ns)
    return times_ns


def echo(send: Send, receive: Receive, count: int) -> None:
    """The other side of `make_trips`."""
    for _ in repeat(None, count):
        send(receive())


def make_batch_trips(
    send_many: Callable[[list[Any]], object],
    receive_many: Callable[[], list[Any]],
    load: Payloads,
    count: int,
) -> list[int]:
    """Sends a batch and waits until a whole batch has come back.

    Returns: the ns of each trip; the checks are outside of them.
    """
    clock = time.perf_counter_ns
    times_ns: list[int] = []
    block, place = load.block, load.block_length - 1
    for _ in repeat(None, count):
        start_ns = clock()
        send_many(block)
        answers = _receive_block(receive_many, load.block_length)
        times_ns.append(clock() - start_ns)
        load.check(answers[0], 0)
        load.check(answers[place], place)
    return times_ns


def echo_batches(
    send_many: Callable[[list[Any]], object],
    receive_many: Callable[[], list[Any]],
    load: Payloads,
    count: int,
) -> None:
    """The other side of `make_batch_trips`; it answers when it has a whole batch."""
    for _ in repeat(None, count):
        send_many(_receive_block(receive_many, load.block_length))


def _receive_block(receive_many: Callable[[], list[Any]], length: int) -> list[Any]:
    answers = receive_many()
    while len(answers) < length:
        answers += receive_many()
    if len(answers) > length:
        raise CorruptedError(f"{length} messages were sent and {len(answers)} came")
    return answers
