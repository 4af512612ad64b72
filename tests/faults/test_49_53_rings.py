"""49, 51, 53: sleeping and waking, counters that wrap, other versions of the other side."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from shm_helpers import CHANNEL, SENDER, Memory, RawServer, connected, hello
from victims import SOAK, Victim

import naru
from naru._native.ends import Channel
from naru._native.opening import has_barrier, open_shm
from naru._native.system import create_segment, eventfd
from naru.address import parse
from naru.settings import ShmSettings
from naru.testing.children import Child
from naru.testing.events import Events
from naru.testing.ledger import LedgerReader, LedgerWriter

# ---- 49: a wake-up that gets lost ----

ROUNDS = 1_000_000 if SOAK else 10_000
BURSTS = 300_000 if SOAK else 10_000


def _dawdle(dice: random.Random) -> None:
    """From nothing to a few microseconds: around the moment at which the other side falls asleep."""
    for _ in range(dice.choice([0, 0, 1, 10, 100, dice.randrange(500)])):
        pass


def echo(events: Events, end: Any, rounds: int) -> None:
    dice = random.Random(1)
    for _ in range(rounds):
        message = end.receive(timeout_s=10.0)
        _dawdle(dice)
        end.send(message, timeout_s=10.0)


@pytest.mark.watchdog(seconds=2000 if SOAK else 60)
@pytest.mark.parametrize("wait", ["sleep", "adaptive"])
def test_49_ping_pong(wait: str) -> None:
    """Each side sleeps and is woken in every round; a lost wake-up is a time-out."""
    dice = random.Random(49)
    ours, theirs = naru.pair(f"shm:?capacity_bytes=4096&wait={wait}")
    with ours, theirs, Child.run(echo, theirs, ROUNDS) as child:
        for number in range(ROUNDS):
            message = b"%d" % number
            ours.send(message, timeout_s=10.0)
            _dawdle(dice)
            assert ours.receive(timeout_s=10.0) == message
        child.check()
        sleeps = ours.statistics().sleeps
    if wait == "sleep":
        assert sleeps > ROUNDS // 10, "this test is about sleeping"


def gather(events: Events, end: Any, bursts: int) -> None:
    """Receives in every way, with pauses; the sender meets a full ring, this side an empty one."""
    dice, reader = random.Random(2), LedgerReader()
    while reader.report().received < bursts:
        for message in end.receive_many(dice.randrange(1, 64), timeout_s=10.0):
            reader.add(message)
        _dawdle(dice)
    assert reader.report({1: bursts}).is_perfect


@pytest.mark.watchdog(seconds=2000 if SOAK else 60)
@pytest.mark.parametrize("wait", ["sleep", "adaptive"])
def test_49_a_ring_that_is_always_full_or_empty(wait: str) -> None:
    """Both directions of waiting: for messages, and for room (a quarter of the ring is waited for)."""
    dice = random.Random(49)
    writer = LedgerWriter(1, lambda sequence: 24 + sequence * 37 % 2000)
    ours, theirs = naru.pair(f"shm:?capacity_bytes=4096&wait={wait}")
    with ours, theirs, Child.run(gather, theirs, BURSTS) as child:
        while writer.count < BURSTS:
            ours.send(writer.next(), timeout_s=10.0)
            if dice.random() < 0.05:
                _dawdle(dice)
        child.check()


def feed(events: Events, address: str, sender_id: int, count: int) -> None:
    dice, writer = random.Random(sender_id), LedgerWriter(sender_id, 100)
    with naru.sender(address, timeout_s=10.0) as sender:
        for _ in range(count):
            sender.send(writer.next(), timeout_s=10.0)
            _dawdle(dice)


@pytest.mark.watchdog(seconds=2000 if SOAK else 60)
@pytest.mark.parametrize("wait", ["sleep", "adaptive"])
def test_49_many_senders_share_one_bell(runtime: str, wait: str) -> None:
    reader = LedgerReader()
    address = f"shm://{runtime}/s?capacity_bytes=4096&wait={wait}"
    with naru.receiver(address) as receiver:
        children = [Child.run(feed, address, i, BURSTS) for i in range(3)]
        for _ in range(3 * BURSTS):
            reader.add(receiver.receive(timeout_s=10.0))
        for child in children:
            child.check()
            child.close()
    assert reader.report(dict.fromkeys(range(3), BURSTS)).is_perfect


# ---- 51: counters that wrap ----

CAPACITY = 8192


def ends_from(first_position: int, capacity: int = CAPACITY) -> tuple[Channel, Channel]:
    """A pair whose counters begin here."""
    address, settings = parse("shm://wraps"), ShmSettings()
    segment = create_segment(capacity, capacity, first_position=first_position)
    bells = [eventfd() for _ in range(4)]
    lifelines = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends = []
    for index, lifeline in enumerate(lifelines):
        own = bells if index == 0 else [os.dup(bell) for bell in bells]
        ends.append(
            open_shm(
                Channel, settings, segment, index, not has_barrier(), lifeline.detach(),
                (own[0], own[2]), (own[1], own[3]), address=address,
            )
        )  # fmt: skip
    os.close(segment)
    return ends[0], ends[1]


STARTS = {
    f"{name} - {before}": position - before
    for name, position in {"2^31": 2**31, "2^32": 2**32, "2^63": 2**63, "2^64": 2**64}.items()
    for before in (8, CAPACITY, 3 * CAPACITY + 8)
}


@pytest.mark.parametrize("capacity", [CAPACITY, 3 * 4096])
@pytest.mark.parametrize("start", STARTS)
def test_51_positions_wrap(start: str, capacity: int) -> None:
    """Over the edge in both directions, in every way, and never a byte wrong."""
    here, there = ends_from(STARTS[start], capacity)
    with here, there:
        for sender, receiver in ((here, there), (there, here)):
            writer = LedgerWriter(1, lambda sequence: 24 + sequence * 331 % 1500)
            reader = LedgerReader()
            for _ in range(12):
                sender.send(writer.next(), timeout_s=1.0)
                sender.send_many(writer.take(3), timeout_s=1.0)
                message = writer.next()
                with sender.reserve(len(message), timeout_s=1.0) as view:
                    view[:] = message
                with receiver.lease(timeout_s=1.0) as view:
                    reader.add(view)
                with receiver.lease_many(2, timeout_s=1.0) as batch:
                    reader.add_all([bytes(view) for view in batch])
                reader.add_all(receiver.receive_many(64, timeout_s=1.0))
            assert reader.report({1: writer.count}).is_perfect


@pytest.mark.parametrize("start", STARTS)
def test_51_full_and_empty_at_the_edge(start: str) -> None:
    here, there = ends_from(STARTS[start])
    with here, there:
        for _ in range(8):
            sent = 0
            while here.try_send(b"%d" % sent + bytes(96)):
                sent += 1
            assert sent == CAPACITY // 112
            assert there.statistics().depth_bytes > CAPACITY - 224
            for number in range(sent):
                assert there.try_receive() == b"%d" % number + bytes(96)
            assert there.try_receive() is None
            assert there.statistics().depth_bytes == 0


# ---- 53: the other side is of another version ----


@pytest.fixture
def server(runtime: str) -> Iterator[RawServer]:
    with RawServer(f"{runtime}/other") as made:
        yield made


def visit(address: str) -> None:
    naru.connect(address, timeout_s=2.0).close()


SEGMENTS: dict[str, dict[str, Any]] = {
    "an older version": {"version": 0},
    "a newer version": {"version": 2},
    "the other byte order": {"byte_order": 0x04030201},
    "32-bit sizes": {"magic": b"NARUSHM1", "total_bytes": 0x2300000023000},
}


@pytest.mark.parametrize("what", SEGMENTS)
def test_53_a_segment_of_another_build(server: RawServer, what: str) -> None:
    with Victim(visit, server.address) as client, Memory.create(**SEGMENTS[what]) as memory:
        server.accept()
        server.answer(memory)
        outcome = client.outcome()
    if what == "32-bit sizes":
        assert outcome.error is naru.CorruptedError
    else:
        assert outcome.error is naru.ProtocolError
        assert "another version" in outcome.text
    assert outcome.leaked == []


@pytest.mark.parametrize("version", [0, 2, 0x0100, 0xFFFF])
def test_53_a_server_of_another_version(server: RawServer, version: int) -> None:
    with Victim(visit, server.address) as client, Memory.create() as memory:
        server.accept()
        server.answer_with([memory.fd, *server.bells.fds], hello(CHANNEL, version=version))
        outcome = client.outcome()
    assert outcome.error is naru.ProtocolError
    assert f"version {version} " in outcome.text
    assert "this side 1" in outcome.text
    assert outcome.leaked == []


KINDS = {"shm": socket.SOCK_SEQPACKET, "unix": socket.SOCK_STREAM}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [0, 2, 0xFFFF])
def test_53_a_client_of_another_version(runtime: str, kind: str, version: int) -> None:
    """It is refused, and the next one, of this version, is not."""
    address = f"{kind}://{runtime}/s"
    with naru.listen(address) as listener:
        stranger = connected(f"{runtime}/s", KINDS[kind])
        with stranger:
            stranger.send(hello(CHANNEL, version=version))
            with pytest.raises(naru.TimedOutError):
                listener.accept(timeout_s=0)
            assert listener.strangers == 1
            assert stranger.recv(64) == b"", "hung up"
        with Victim(visit, address):
            listener.accept(timeout_s=10.0).close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("said", "opener"), [(SENDER, naru.listen), (CHANNEL, naru.receiver), (3, naru.listen)]
)
def test_53_the_other_shape(runtime: str, kind: str, said: int, opener: Any) -> None:
    with opener(f"{kind}://{runtime}/s") as owner:
        stranger = connected(f"{runtime}/s", KINDS[kind])
        with stranger:
            stranger.send(hello(said))
            if opener is naru.listen:
                with pytest.raises(naru.TimedOutError):
                    owner.accept(timeout_s=0)
            else:
                assert owner.try_receive() is None
            answer = stranger.recv(64)
            assert answer[6:8] == (0x100).to_bytes(2, "little"), "a refusal"
            assert stranger.recv(64) == b""
