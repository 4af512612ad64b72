"""The loops that every Python runner, a peer's or naru's, goes through.

Holds: sending and receiving a stream, round trips, large payloads, and the
check that nothing was lost, doubled or reordered, all at a cost of a few
nanoseconds a message so that the check is not what is measured.
Must not know: any transport. It calls what an end offers (peers/contract.py).
Joins: peers/contract.py runs these in the two processes of two_processes.py.

How messages are checked. Messages go in blocks of 64. The first 8 bytes of
each are its place in the block, those of the last one the marker of its
block. The timed loops look at each marker: one message too many or too few
shifts every later marker. Before them, an untimed pass compares every byte of
numbered messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from two_processes import Meeting

BLOCK = 64
CHECKED_MESSAGES = 16 * BLOCK

_MARKER = 1 << 32
_ALL_BUT_LAST = range(BLOCK - 1)


class WrongMessageError(RuntimeError):
    """A message is missing, doubled, torn or out of order."""


def numbered(number: int, size_bytes: int) -> bytes:
    """A message that begins with its number."""
    return number.to_bytes(8, "little") + b"Z" * (size_bytes - 8)


def marker(block_number: int, size_bytes: int) -> bytes:
    """The last message of a block."""
    return numbered(_MARKER + block_number, size_bytes)


def new_block(size_bytes: int) -> list[bytes]:
    """A block whose last message is still to be set to its marker."""
    return [numbered(place, size_bytes) for place in range(BLOCK)]


def sum_of_numbers(blocks: int) -> int:
    """What the first 8 bytes of all messages of a stream add up to."""
    places = sum(_ALL_BUT_LAST) * blocks
    return places + _MARKER * blocks + blocks * (blocks - 1) // 2


def check_marker(message: Any, block_number: int, size_bytes: int) -> None:
    number = int.from_bytes(message[:8], "little")
    if len(message) != size_bytes or number != _MARKER + block_number:
        raise WrongMessageError(
            f"block {block_number} ends with {number:#x} in {len(message)} bytes, "
            f"not with {_MARKER + block_number:#x} in {size_bytes}"
        )


def check_batch(batch: Any, received: int, size_bytes: int) -> None:
    """Checks the markers in a batch that begins at message `received`."""
    first = BLOCK - 1 - received % BLOCK
    for at in range(first, len(batch), BLOCK):
        check_marker(batch[at], (received + at) // BLOCK, size_bytes)


# -- streams ----------------------------------------------------------------


def send_each(end: Any, blocks: int, size_bytes: int) -> None:
    send = end.send
    block = new_block(size_bytes)
    for number in range(blocks):
        block[-1] = marker(number, size_bytes)
        for message in block:
            send(message)


def send_each_polled(end: Any, blocks: int, size_bytes: int) -> None:
    try_send = end.try_send
    block = new_block(size_bytes)
    for number in range(blocks):
        block[-1] = marker(number, size_bytes)
        for message in block:
            while not try_send(message):
                pass


def receive_each(end: Any, blocks: int, size_bytes: int) -> None:
    receive, unwrap = end.receive, end.unwrap
    for number in range(blocks):
        for _ in _ALL_BUT_LAST:
            receive()
        check_marker(unwrap(receive()), number, size_bytes)


def receive_each_polled(end: Any, blocks: int, size_bytes: int) -> None:
    try_receive, unwrap = end.try_receive, end.unwrap
    for number in range(blocks):
        for _ in _ALL_BUT_LAST:
            while try_receive() is None:
                pass
        while (message := try_receive()) is None:
            pass
        check_marker(unwrap(message), number, size_bytes)


def send_batches(end: Any, blocks: int, size_bytes: int) -> None:
    send_batch = end.send_batch
    block = new_block(size_bytes)
    for number in range(blocks):
        block[-1] = marker(number, size_bytes)
        send_batch(block)


def receive_batches(end: Any, blocks: int, size_bytes: int) -> None:
    receive_batch = end.receive_batch
    received, wanted = 0, blocks * BLOCK
    while received < wanted:
        batch = receive_batch()
        check_batch(batch, received, size_bytes)
        received += len(batch)
    if received != wanted:
        raise WrongMessageError(f"{received} messages came, {wanted} were sent")


def receive_lossy(try_receive: Callable[[], Any], meeting: Meeting) -> int:
    """Takes what comes until the sender is done and nothing is left.

    Returns: how many messages came.
    """
    received = 0
    while True:
        finished = meeting.finished()  # before the look: nothing comes after it
        empty = True
        while try_receive() is not None:
            received += 1
            empty = False
        if finished and empty:
            return received


# -- every byte, untimed ----------------------------------------------------


def send_checked(end: Any, size_bytes: int) -> None:
    for number in range(CHECKED_MESSAGES):
        end.send_one(numbered(number, size_bytes))


def receive_checked(end: Any, size_bytes: int) -> None:
    for number in range(CHECKED_MESSAGES):
        message = bytes(end.unwrap(end.receive_one()))
        if message != numbered(number, size_bytes):
            raise WrongMessageError(f"message {number} came as {message[:16]!r}...")


# -- round trips ------------------------------------------------------------


def trips(end: Any, blocks: int, size_bytes: int, stamps_ns: list[int]) -> None:
    """Round trips by blocking calls; see `trip_times` for the stamps."""
    send, receive, unwrap = end.send, end.receive, end.unwrap
    stamp, clock = stamps_ns.append, time.perf_counter_ns
    block = new_block(size_bytes)
    answer: Any = b""
    for number in range(blocks):
        block[-1] = marker(number, size_bytes)
        stamp(clock())
        for message in block:
            send(message)
            answer = receive()
            stamp(clock())
        check_marker(unwrap(answer), number, size_bytes)


def trips_polled(end: Any, blocks: int, size_bytes: int, stamps_ns: list[int]) -> None:
    """Round trips that poll for the answer; see `trip_times` for the stamps."""
    try_send, try_receive, unwrap = end.try_send, end.try_receive, end.unwrap
    stamp, clock = stamps_ns.append, time.perf_counter_ns
    block = new_block(size_bytes)
    answer: Any = b""
    for number in range(blocks):
        block[-1] = marker(number, size_bytes)
        stamp(clock())
        for message in block:
            while not try_send(message):
                pass
            while (answer := try_receive()) is None:
                pass
            stamp(clock())
        check_marker(unwrap(answer), number, size_bytes)


def trip_times(stamps_ns: list[int]) -> list[int]:
    """Trips between the 65 stamps of each block; the check between blocks is nobody's."""
    size = BLOCK + 1
    starts = [stamps_ns[at] for at in range(len(stamps_ns)) if at % size != BLOCK]
    ends = [stamps_ns[at] for at in range(len(stamps_ns)) if at % size != 0]
    return [end - start for start, end in zip(starts, ends, strict=True)]


def echo(end: Any, blocks: int) -> None:
    send, receive = end.send, end.receive
    if end.wraps:
        unwrap = end.unwrap
        for _ in range(blocks * BLOCK):
            send(unwrap(receive()))
        return
    for _ in range(blocks * BLOCK):
        send(receive())


def echo_polled(end: Any, blocks: int) -> None:
    try_send, try_receive, unwrap = end.try_send, end.try_receive, end.unwrap
    for _ in range(blocks * BLOCK):
        while (message := try_receive()) is None:
            pass
        message = unwrap(message) if end.wraps else message
        while not try_send(message):
            pass


async def trips_awaited(end: Any, blocks: int, size_bytes: int, stamps_ns: list[int]) -> None:
    """trips(), where send and receive are coroutine functions."""
    send, receive, stamp, clock = end.send, end.receive, stamps_ns.append, time.perf_counter_ns
    block = new_block(size_bytes)
    answer = b""
    for number in range(blocks):
        block[-1] = marker(number, size_bytes)
        stamp(clock())
        for message in block:
            await send(message)
            answer = await receive()
            stamp(clock())
        check_marker(answer, number, size_bytes)


async def echo_awaited(end: Any, blocks: int) -> None:
    """echo(), likewise."""
    for _ in range(blocks * BLOCK):
        await end.send(await end.receive())


def clock_cost_ns() -> float:
    """What one sample costs by itself: it is inside every trip's figure.

    The least of several tries: whatever else runs can only add to it.
    """
    return min(_clock_cost_ns() for _ in range(20))


def _clock_cost_ns() -> float:
    stamps_ns: list[int] = []
    stamp, clock = stamps_ns.append, time.perf_counter_ns
    for _ in range(5_000):
        stamp(clock())
    return (stamps_ns[-1] - stamps_ns[0]) / (len(stamps_ns) - 1)


# -- large payloads ---------------------------------------------------------


def send_large(end: Any, count: int) -> None:
    send = end.send_large
    for number in range(count):
        send(number)


def receive_large(end: Any, count: int, touch: Callable[[Any], int]) -> None:
    receive = end.receive_large
    for number in range(count):
        if receive(touch) != number:
            raise WrongMessageError(f"large payload {number} is missing or out of order")


def touch_lines(view: Any) -> int:
    """Reads one word of each 64-byte line in place.

    Returns: the number in the payload's first 8 bytes.
    """
    import numpy

    words = numpy.frombuffer(view, dtype="<u8")
    words[::8].sum()
    return int(words[0])
