"""No result can be wrong in silence: what the receiver of a benchmark notices."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from naru.bench import loops
from naru.bench.payloads import COMPARED_BYTES, Payloads
from naru.errors import CorruptedError

SIZES = [1, 7, 8, 9, 64, 1024, COMPARED_BYTES, COMPARED_BYTES + 1, 100_000, 5 << 20]


class Line:
    """A queue in this process, with a fault on the way."""

    def __init__(self, fault: Any = None) -> None:
        self.messages: list[bytes] = []
        self._fault = fault
        self._left: deque[bytes] | None = None

    def send(self, message: Any) -> None:
        self.messages.append(bytes(message))

    def send_many(self, batch: Any) -> None:
        self.messages += [bytes(message) for message in batch]

    def _queue(self) -> deque[bytes]:
        if self._left is None:
            self._left = deque(self._fault(self.messages) if self._fault else self.messages)
        return self._left

    def receive(self) -> bytes:
        return self._queue().popleft()

    def receive_many(self) -> list[bytes]:
        queue = self._queue()
        return [queue.popleft() for _ in range(min(50, len(queue)))]


@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 129])
def test_a_good_stream_passes(size_bytes: int, count: int) -> None:
    count = min(count, 2) if size_bytes > 100_000 else count
    for send, receive in (("send", "receive"), ("send_many", "receive_many")):
        line, load = Line(), Payloads(size_bytes)
        sender = loops.send_each if send == "send" else loops.send_batches
        receiver = loops.receive_each if receive == "receive" else loops.receive_batches
        sender(getattr(line, send), load, count)
        assert len(line.messages) == count
        assert {len(message) for message in line.messages} == {size_bytes}
        receiver(getattr(line, receive), Payloads(size_bytes), count)


def lose(at: int) -> Any:
    return lambda messages: [*messages[:at], *messages[at + 1 :], messages[-1]]


def repeat(at: int) -> Any:
    return lambda messages: [*messages[:at], messages[at], *messages[at:]]


def swap(at: int) -> Any:
    def fault(messages: list[bytes]) -> list[bytes]:
        messages = list(messages)
        messages[at], messages[at + 64] = messages[at + 64], messages[at]
        return messages

    return fault


def tear(at: int) -> Any:
    def fault(messages: list[bytes]) -> list[bytes]:
        torn = bytearray(messages[at])
        torn[-1] ^= 1
        return [*messages[:at], bytes(torn), *messages[at + 1 :]]

    return fault


def cut(at: int) -> Any:
    return lambda messages: [*messages[:at], messages[at][:-1], *messages[at + 1 :]]


@pytest.mark.parametrize("way", ["one by one", "batches"])
@pytest.mark.parametrize(
    "fault",
    [lose(0), lose(100), lose(63), repeat(5), repeat(127), swap(63), tear(63), cut(127)],
    ids=["lost first", "lost", "lost marker", "twice", "marker twice", "swapped", "torn", "cut"],
)
def test_a_fault_is_found(fault: Any, way: str) -> None:
    line, load = Line(fault), Payloads(1024)
    loops.send_each(line.send, load, 640)
    with pytest.raises(CorruptedError, match=r"was lost, repeated or torn|more than"):
        if way == "batches":
            loops.receive_batches(line.receive_many, load, 640)
        else:
            loops.receive_each(line.receive, load, 640)


def test_every_place_of_a_block_is_compared_sooner_or_later() -> None:
    load = Payloads(1024)
    assert {load.sample_place(number) for number in range(63)} == set(range(63))


def test_what_may_come_on_a_lossy_way() -> None:
    load = Payloads(64)
    assert all(load.is_one(message) for message in load.block)
    assert load.is_one(bytes(load.marker(3)))
    assert not load.is_one(bytes(load.block[3])[:-1])
    assert not load.is_one(b"x" * 63 + b"y")
    assert not load.is_one(bytes(load.block[3])[:-1] + b"!")


def test_round_trips_check_their_answers() -> None:
    line, load = Line(), Payloads(64)
    times_ns = loops.make_trips(line.send, lambda: line.messages[-1], load, 100)
    assert len(times_ns) == 100
    with pytest.raises(CorruptedError, match="an answer is not"):
        loops.make_trips(line.send, lambda: line.messages[0], load, 100)
