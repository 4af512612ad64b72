"""35, 36: SIGKILL to a producer or a consumer of a ring, at any moment.

What had been sent arrives, whole and in order; what had not is never half there; the receiver goes on
with the next producer, and the next consumer starts clean. (native/tests/test_ring_processes.c dies
at every step of the ring's code instead.)
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import SharedNumbers
from victims import SOAK, until

import naru
from naru.testing.children import Child
from naru.testing.events import Events
from naru.testing.ledger import LedgerReader, LedgerWriter

KILLS = 500 if SOAK else 40
CAPACITY = 65536
OPTIONS = f"?capacity_bytes={CAPACITY}"

Produce = Callable[[Any, LedgerWriter], None]


def _send(sender: Any, writer: LedgerWriter) -> None:
    sender.send(writer.next())


def _send_many(sender: Any, writer: LedgerWriter) -> None:
    sender.send_many(writer.take(20))


def _reserve(sender: Any, writer: LedgerWriter) -> None:
    message = writer.next()
    with sender.reserve(len(message)) as view:
        view[:] = message


SMALL = random.Random(35).choices(range(24, 3000), k=997)
LARGE = random.Random(36).choices(range(CAPACITY, 4 * CAPACITY), k=97)
PRODUCERS: dict[str, tuple[Produce, list[int]]] = {
    "send": (_send, SMALL),
    "send_many": (_send_many, SMALL),
    "reserve": (_reserve, SMALL),
    "fragments": (_send, LARGE),
}


def writer_of(sender_id: int, how: str) -> LedgerWriter:
    sizes = PRODUCERS[how][1]
    return LedgerWriter(sender_id, lambda sequence: sizes[sequence % len(sizes)])


def produce(
    events: Events, address: str, sender_id: int, how: str, accepted: SharedNumbers
) -> None:
    writer = writer_of(sender_id, how)
    with naru.sender(address, timeout_s=10.0) as sender:
        events.tell("go")
        while True:
            PRODUCERS[how][0](sender, writer)
            accepted[sender_id] = writer.count


@pytest.mark.watchdog(seconds=1000 if SOAK else 40)
@pytest.mark.parametrize("how", PRODUCERS)
def test_35_a_producer_is_killed(runtime: str, how: str) -> None:
    dice, reader = random.Random(35), LedgerReader()
    with SharedNumbers(KILLS) as accepted, naru.receiver(f"shm://{runtime}/s{OPTIONS}") as receiver:
        for sender_id in range(KILLS):
            with Child.run(produce, f"shm://{runtime}/s", sender_id, how, accepted) as child:
                _receive_for_a_while(receiver, reader, dice)
                child.kill()
            until(
                lambda last=sender_id: _drain(receiver, reader) > last,
                "the loss of a killed sender",
            )
            report = reader.report({i: accepted[i] for i in range(sender_id + 1)})
            assert report.is_perfect, report
        assert receiver.statistics().peers_lost == KILLS
        assert report.received > 0


def _receive_for_a_while(receiver: Any, reader: LedgerReader, dice: random.Random) -> None:
    """A random number of messages; then, sometimes, nothing for so long that the ring is full."""
    for _ in range(dice.choice([1, 1, dice.randrange(2, 50), dice.randrange(50, 1000)])):
        reader.add(receiver.receive(timeout_s=10.0))
    time.sleep(dice.choice([0, 0, dice.random() * 0.005]))


def _drain(receiver: Any, reader: LedgerReader) -> int:
    """Books what is there; how many senders were lost until now."""
    while (message := receiver.try_receive()) is not None:
        reader.add(message)
    return int(receiver.statistics().peers_lost)


@pytest.mark.parametrize("how", PRODUCERS)
def test_35_a_channel_hears_of_it(runtime: str, how: str) -> None:
    """One to one: after the last whole message PeerGoneError, and not in good order."""
    dice = random.Random(35)
    for _ in range(KILLS // 3):
        reader, (ours, theirs) = LedgerReader(), naru.pair(f"shm:{OPTIONS}")
        with SharedNumbers(1) as accepted, ours:
            with Child.run(_produce_pair, theirs, how, accepted) as child:
                _receive_for_a_while(ours, reader, dice)
                child.kill()
            with pytest.raises(naru.PeerGoneError) as gone:
                while True:
                    reader.add(ours.receive(timeout_s=10.0))
            assert not gone.value.orderly
            report = reader.report({0: accepted[0]})
            assert report.is_perfect, report
        theirs.close()


def _produce_pair(events: Events, end: Any, how: str, accepted: SharedNumbers) -> None:
    writer = writer_of(0, how)
    while True:
        PRODUCERS[how][0](end, writer)
        accepted[0] = writer.count


# ---- the consumer ----

RECEIVED, FAULTS = 0, 1


def _messages(receiver: Any, how: str) -> Iterator[bytes]:
    buffer = bytearray(4 * CAPACITY)
    while True:
        if how == "receive":
            yield receiver.receive(timeout_s=10.0)
        elif how == "receive_many":
            yield from receiver.receive_many(64, timeout_s=10.0)
        elif how == "receive_into":
            yield bytes(buffer[: receiver.receive_into(buffer, timeout_s=10.0)])
        else:
            with receiver.lease_many(64, timeout_s=10.0) as batch:
                yield from [bytes(view) for view in batch]


def consume(events: Events, address: str, how: str, books: SharedNumbers) -> None:
    """Each message is booked in memory that outlives this process."""
    reader = LedgerReader()
    with naru.receiver(address) as receiver:
        events.tell("open")
        for message in _messages(receiver, how):
            books[FAULTS] += reader.add(message) != "new"
            books[RECEIVED] += 1


@pytest.mark.watchdog(seconds=1000 if SOAK else 40)
@pytest.mark.parametrize("size", ["small", "fragments"])
@pytest.mark.parametrize("how", ["receive", "receive_many", "receive_into", "lease_many"])
def test_36_a_consumer_is_killed(runtime: str, how: str, size: str) -> None:
    """The next consumer hears nothing of what the last one had: each sender starts anew."""
    dice = random.Random(36)
    address = f"shm://{runtime}/s{OPTIONS}"
    for sender_id in range(KILLS // 2):
        with SharedNumbers(2) as books, Child.run(consume, address, how, books) as child:
            child.expect("open")
            writer = writer_of(sender_id, "fragments" if size == "fragments" else "send")
            wanted = dice.choice([1, dice.randrange(2, 50), dice.randrange(50, 500)])
            with naru.sender(address, timeout_s=10.0) as sender:
                while books[RECEIVED] < wanted:
                    sender.send(writer.next(), timeout_s=10.0)
                time.sleep(dice.choice([0, dice.random() * 0.002]))
                child.kill()
                with pytest.raises(naru.PeerGoneError):
                    while True:
                        sender.send(writer.next(), timeout_s=10.0)
            assert books[FAULTS] == 0
            assert wanted <= books[RECEIVED] <= writer.count
