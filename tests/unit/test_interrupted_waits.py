"""A signal is seen whenever it comes: before a verb sleeps, while it does, and while it closes."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import naru

KINDS = ["shm:", "pipe:", "unix:", "tcp:"]


class _AlarmError(Exception):
    pass


@pytest.fixture
def alarm() -> Iterator[Callable[[float], None]]:
    """Raises _AlarmError in this thread after so many seconds."""

    def ring(number: int, frame: object) -> None:
        raise _AlarmError

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda after_s: (signal.setitimer(signal.ITIMER_REAL, after_s), None)[1]
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS)
def test_at_every_instant_of_falling_asleep(kind: str, alarm: Callable[[float], None]) -> None:
    dice = random.Random(7)
    one, other = naru.pair(kind)
    with one, other:
        other.send(b"the other end is in use")
        one.receive(timeout_s=10)
        for _ in range(100):
            with pytest.raises(_AlarmError):  # a lost one would be a TimedOutError
                alarm(1e-6 + dice.random() * 2e-4)
                one.receive(timeout_s=10)
        other.send(b"goes on")
        assert one.receive(timeout_s=10) == b"goes on"


@pytest.mark.parametrize("kind", KINDS)
def test_a_sender_without_room(kind: str, alarm: Callable[[float], None]) -> None:
    dice = random.Random(7)
    one, other = naru.pair(kind)
    with one, other:
        for _ in range(20):
            with pytest.raises(_AlarmError):
                alarm(0.001 + dice.random() * 2e-3)
                while True:
                    one.send(bytes(1000), timeout_s=10)
        taken: Any = b""
        while taken is not None:  # so that nothing is under way when they close
            taken = other.try_receive()


def test_what_ended_the_block_is_told_first() -> None:
    one, other = naru.pair("unix:?linger_s=0.05")
    with other, pytest.raises(_AlarmError) as caught, one:
        one.send(bytes(4 << 20), timeout_s=0.05)  # begun; the rest waits for room
        raise _AlarmError
    assert any("rest of the last message" in note for note in caught.value.__notes__)
