"""38: the shared memory changes at full speed while naru reads it (time of check, time of use).

The attacker writes to everything that both map: positions, record headers, sleep words, the segment's
own header. The naru end goes on, or gives the connection up with a naru error; it never crashes,
hangs, or takes more memory than a message may. native/tests/test_ring_threads.c does the same to the
ring alone under TSan and ASan.
"""

from __future__ import annotations

import itertools
import random
import select
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from shm_helpers import FDS_SHIFT, FIRST, MORE, PAGE, SKIP, Memory, RawClient, RawServer
from victims import SOAK, Victim

import naru

SECONDS = 30.0 if SOAK else 1.0
CAPACITY = 65536
LIMIT = 1 << 20
OUT, IN = 0, 1
BURST = 500  # flips between two looks at the clock

POSITIONS = [0, 4, 8, CAPACITY, CAPACITY + 8, 2**31, 2**32, 2**63, 2**64 - 8, 2**64 - 1]
LENGTHS = [0, 8, 1000, CAPACITY - 8, CAPACITY - 7, CAPACITY, 2**31, 2**32 - 16, 2**32 - 1]
FLAGS = [0, FIRST, MORE, FIRST | MORE, SKIP, 1 << FDS_SHIFT, 253 << FDS_SHIFT, 2**32 - 1]

Flip = Callable[[Memory, random.Random], None]


def flip_positions(memory: Memory, dice: random.Random) -> None:
    """Mostly right, sometimes nonsense, and right again before anybody can be sure."""
    ring, name = dice.choice([(OUT, "head"), (IN, "tail")])
    good = memory.word(ring, "tail" if name == "head" else "head")
    memory.set_word(ring, name, dice.choice(POSITIONS))
    memory.set_word(ring, name, good + dice.choice([0, 0, 8, 16, -8 if name == "head" else 8]))


def flip_records(memory: Memory, dice: random.Random) -> None:
    """The next record's header is one thing and then another."""
    position = memory.word(IN, "head")
    memory.write(IN, position, struct.pack("=II", 8, 0))
    memory.set_word(IN, "tail", position + 16)
    memory.write(IN, position, struct.pack("=II", dice.choice(LENGTHS), dice.choice(FLAGS)))
    memory.write(IN, position, struct.pack("=II", 8, 0))


def flip_words(memory: Memory, dice: random.Random) -> None:
    """Sleep words and goodbyes come and go; the messages are honest."""
    ring = dice.choice([OUT, IN])
    for name in ("consumer_sleeps", "producer_wants"):
        memory.set_word(ring, name, dice.choice([0, 1, 2**32 - 1, 2**64 - 1]))
    if memory.word(IN, "tail") - memory.word(IN, "head") < CAPACITY // 2:
        memory.put(IN, b"12345678")


def flip_bytes(memory: Memory, dice: random.Random) -> None:
    """Any byte of the three pages that rule the rest, or of the data."""
    at = dice.choice([dice.randrange(3 * PAGE), 3 * PAGE + dice.randrange(2 * CAPACITY)])
    memory.map[at] = dice.randrange(256)


FLIPS: list[Flip] = [flip_positions, flip_records, flip_words, flip_bytes]


def verbs(channel: Any) -> Iterator[Callable[[], object]]:
    """Every way to look at what came, in turn, with a send between."""
    buffer = bytearray(CAPACITY)

    def leased() -> None:
        with channel.lease(timeout_s=0.05) as view:
            bytes(view)

    def leased_many() -> None:
        with channel.lease_many(64, timeout_s=0.05) as batch:
            for view in batch:
                bytes(view)

    yield from itertools.cycle(
        [
            lambda: channel.receive(timeout_s=0.05),
            lambda: channel.receive_many(64, timeout_s=0.05),
            lambda: channel.receive_into(buffer, timeout_s=0.05),
            lambda: channel.try_receive(),
            leased,
            leased_many,
            lambda: channel.try_send(b"x" * 1000),
            lambda: channel.statistics(),
        ]
    )


def endure(channel: Any, ends: Counter[str]) -> None:
    """Uses a channel until it has ended."""
    with channel:
        for verb in verbs(channel):
            try:
                verb()
            except (naru.TimedOutError, naru.TooBigError):
                continue
            except naru.NaruError as error:
                ends[type(error).__name__] += 1
                return


def serve(events: Any, address: str, seconds: float) -> dict[str, int]:
    ends: Counter[str] = Counter()
    until_s = time.monotonic() + seconds
    with naru.listen(address) as listener:
        events.tell("listening")
        while time.monotonic() < until_s:
            try:
                endure(listener.accept(timeout_s=0.2), ends)
            except naru.TimedOutError:
                continue
    return ends


@pytest.mark.parametrize("flip", FLIPS, ids=lambda flip: flip.__name__)
def test_38_a_server_goes_on(runtime: str, flip: Flip) -> None:
    dice = random.Random(38)
    address = f"shm://{runtime}/s?capacity_bytes={CAPACITY}&max_message_bytes={LIMIT}&linger_s=0"
    with Victim(serve, address, SECONDS, timeout_s=SECONDS + 5) as victim:
        victim.expect("listening")
        connections = 0
        until_s = time.monotonic() + SECONDS
        while time.monotonic() < until_s - 0.1:
            connections += _torment(f"{runtime}/s", flip, dice, until_s)
        outcome = victim.outcome()
    assert outcome.error is None
    assert connections > 0
    assert sum(outcome.value.values()) > 0, "it was never found out"
    assert outcome.leaked == []
    assert outcome.grown_bytes < 8 * LIMIT + (16 << 20)


def _torment(path: str, flip: Flip, dice: random.Random, until_s: float) -> int:
    """One connection, until naru has had enough of it."""
    try:
        client = RawClient(path, timeout_s=0.5)
    except OSError:
        return 0  # the victim's time is up
    with client:
        hangup = select.poll()
        hangup.register(client.lifeline, select.POLLRDHUP)
        while time.monotonic() < until_s and not hangup.poll(0):
            for _ in range(BURST):
                flip(client.memory, dice)
            client.ring()
    return 1


def flip_header(memory: Memory, dice: random.Random) -> None:
    """Capacities that fit the file and others, while the client compares them with it."""
    a, b = dice.choice([(CAPACITY, CAPACITY), (0, 2 * CAPACITY), (PAGE, 2 * CAPACITY - PAGE),
                        (2**40, 2**40), (2**64 - PAGE, 2 * CAPACITY + PAGE)])  # fmt: skip
    memory.map[24:40] = struct.pack("=QQ", a, b)
    memory.map[40:48] = struct.pack("=Q", dice.choice(POSITIONS))


def visit(address: str, seconds: float) -> dict[str, int]:
    ends: Counter[str] = Counter()
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        try:
            with naru.connect(address, timeout_s=0.5) as channel:
                ends["let in"] += 1
                channel.try_send(b"x" * 1000)
                channel.try_receive()
        except naru.NaruError as error:
            ends[type(error).__name__] += 1
    return ends


def test_38_a_client_attaches(runtime: str) -> None:
    """The segment's header changes between the client's look and its use."""
    dice = random.Random(38)
    with RawServer(f"{runtime}/s") as server, Memory.create((CAPACITY, CAPACITY)) as memory:
        address = f"{server.address}?linger_s=0"
        with Victim(visit, address, SECONDS, timeout_s=SECONDS + 5) as victim:
            server.sock.settimeout(0.01)
            until_s = time.monotonic() + SECONDS + 0.6
            while time.monotonic() < until_s:
                for name in ("tail", "head"):
                    memory.set_word(OUT, name, 0)
                    memory.set_word(IN, name, 0)
                try:
                    server.accept()
                except TimeoutError:
                    continue
                server.answer(memory)
                for _ in range(200):
                    flip_header(memory, dice)
            outcome = victim.outcome()
    assert outcome.error is None
    assert set(outcome.value) > {"let in"}, "some were let in, and some attacks were seen"
    assert outcome.leaked == []
