"""1 and 2: one side is killed while messages stream. What arrived is whole, in order, without a gap;
the other side hears of the death; the name can be used again."""

from __future__ import annotations

import random
import signal
from typing import Any

import pytest
from helpers import PAIRS, QUEUES, SharedNumbers, fresh_address, scaled, sender_to

import naru
from naru.testing.faults import Child, Events
from naru.testing.ledger import LedgerReader, LedgerWriter

SEEDS = range(scaled(4, 50))
BOOKED, FLAWED = 0, 1


def book_all(receiver: Any, numbers: SharedNumbers) -> None:
    """Receives until it is killed; what it has booked survives it."""
    reader = LedgerReader()
    for message in receiver:
        finding = reader.add(message)
        numbers[FLAWED] += finding != "new"
        numbers[BOOKED] += 1


def receive_at(events: Events, address: str, numbers: SharedNumbers) -> None:
    with naru.receiver(address) as receiver:
        events.tell("ready", address=str(receiver.address))
        book_all(receiver, numbers)


def receive_on(events: Events, end: Any, numbers: SharedNumbers) -> None:
    events.tell("ready")
    book_all(end, numbers)


def stream_until_it_dies(
    sender: Any, child: Child, numbers: SharedNumbers, kill_at: int, size_bytes: int
) -> int:
    """Sends for ever, kills the child once it has booked `kill_at`; returns the accepted ones."""
    writer = LedgerWriter(1, size_bytes)
    accepted, killed = 0, False
    while True:
        if not killed and numbers[BOOKED] >= kill_at:
            child.send_signal(signal.SIGKILL)
            killed = True
        message = writer.next()
        try:
            sender.send(message, timeout_s=10)
        except naru.PeerGoneError as error:
            assert killed, error
            assert not error.orderly
            return accepted
        accepted += 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", PAIRS)
def test_fault_01_receiver_of_a_pair_killed_while_the_sender_streams(kind: str, seed: int) -> None:
    chance = random.Random(f"{kind} {seed}")
    with SharedNumbers(2) as numbers:
        ours, theirs = naru.pair(kind)
        with ours, Child.run(receive_on, theirs, numbers) as child:
            child.expect("ready")
            size_bytes = chance.choice([24, 100, 5000, 50000])
            accepted = stream_until_it_dies(ours, child, numbers, chance.randrange(300), size_bytes)
            assert child.kill() == -signal.SIGKILL
            theirs.close()
            for _ in range(2):
                with pytest.raises(naru.PeerGoneError):
                    ours.send(b"after", timeout_s=1)
        if kind != "udp":
            assert numbers[FLAWED] == 0
        assert numbers[BOOKED] <= accepted + 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", QUEUES)
def test_fault_01_receiver_killed_while_a_sender_streams(
    kind: str, seed: int, runtime: str
) -> None:
    chance = random.Random(f"{kind} {seed}")
    address = fresh_address(kind, runtime)
    with SharedNumbers(2) as numbers, Child.run(receive_at, address, numbers) as child:
        address = child.expect("ready")["address"]
        with naru.sender(address) as sender:
            size_bytes = chance.choice([24, 100, 5000])
            accepted = stream_until_it_dies(
                sender, child, numbers, chance.randrange(300), size_bytes
            )
            assert child.kill() == -signal.SIGKILL
        if kind != "udp":
            assert numbers[FLAWED] == 0
        assert numbers[BOOKED] <= accepted + 1
        take_over(address, kind, numbers[BOOKED], accepted, size_bytes)


def take_over(address: str, kind: str, booked: int, accepted: int, size_bytes: int) -> None:
    """The dead receiver's name serves the next one; a queue keeps its messages."""
    with naru.receiver(address) as receiver:
        if kind == "mq":
            left = []
            while (message := receiver.try_receive()) is not None:
                left.append(message)
            expected = LedgerWriter(1, size_bytes).take(accepted)
            assert left == expected[len(expected) - len(left) :]
            assert len(left) >= accepted - booked - 1  # one may have died in the receiver's hands
        with sender_to(receiver) as sender:
            sender.send(b"the next one's")
            assert receiver.receive(timeout_s=10) == b"the next one's"


# ---- 2 ----


def send_until_killed(sender: Any, sender_id: int, size_bytes: int, within_s: float) -> None:
    """Dies at a moment of the kernel's choosing, anywhere in the code below."""
    writer = LedgerWriter(sender_id, size_bytes)
    sender.send(writer.next())
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, within_s)
    while True:
        sender.send(writer.next())


def send_at(events: Events, address: str, sender_id: int, size_bytes: int, within_s: float) -> None:
    send_until_killed(naru.sender(address), sender_id, size_bytes, within_s)


def send_on(events: Events, end: Any, size_bytes: int, within_s: float) -> None:
    send_until_killed(end, 1, size_bytes, within_s)


def size_for(kind: str) -> int:
    """1 MiB, or the most that the transport takes."""
    return {"udp": 60000, "mq": 8192}.get(kind, 1 << 20)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", PAIRS)
def test_fault_02_sender_of_a_pair_killed_mid_message(kind: str, seed: int) -> None:
    within_s = random.Random(f"{kind} {seed}").uniform(0.0002, 0.03)
    reader = LedgerReader()
    ours, theirs = naru.pair(kind)
    with ours, Child.run(send_on, theirs, size_for(kind), within_s) as child:
        with pytest.raises((naru.PeerGoneError, naru.CorruptedError)) as caught:
            while True:
                reader.add(ours.receive(timeout_s=10))
        assert not getattr(caught.value, "orderly", False)
        assert child.wait() == -signal.SIGALRM
        theirs.close()
        assert type(error_again(ours)) is caught.type, "the end stays as it is"
    report = reader.report()
    assert report.received >= 1
    assert report.torn == 0
    assert kind == "udp" or report.is_perfect, report
    assert ours.statistics().torn <= 1


def error_again(end: Any) -> BaseException | None:
    try:
        end.receive(timeout_s=1)
    except naru.NaruError as error:
        return error
    return None


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", QUEUES)
def test_fault_02_sender_killed_mid_message(kind: str, seed: int, runtime: str) -> None:
    """Three senders die, a fourth does not: its messages all come."""
    chance = random.Random(f"{kind} {seed}")
    reader = LedgerReader()
    with naru.receiver(fresh_address(kind, runtime)) as receiver:
        children = [
            Child.run(
                send_at, str(receiver.address), number, size_for(kind), chance.uniform(0.0002, 0.03)
            )
            for number in (1, 2, 3)
        ]
        try:
            while any(child.is_alive() for child in children):
                receive_some(receiver, reader)
            assert [child.wait() for child in children] == [-signal.SIGALRM] * 3
            while receive_some(receiver, reader):
                pass
            with sender_to(receiver) as survivor:
                for message in LedgerWriter(4).take(5):
                    survivor.send(message)
                while (
                    reader.report().senders.get(4) is None or reader.report({4: 5}).senders[4].lost
                ):
                    reader.add(receiver.receive(timeout_s=10))
        finally:
            for child in children:
                child.close()
        statistics = receiver.statistics()
    report = reader.report({4: 5})
    assert report.torn == 0
    assert report.senders[4].is_perfect
    assert kind == "udp" or report.is_perfect, report
    assert statistics.torn <= 3
    if kind in ("shm", "unix", "abstract", "tcp"):
        assert statistics.peers_lost == 3


def receive_some(receiver: Any, reader: LedgerReader) -> bool:
    try:
        for message in receiver.receive_many(timeout_s=0.05):
            reader.add(message)
    except naru.TimedOutError:
        return False
    return True


def test_fault_02_the_kill_really_comes_in_the_middle() -> None:
    """Over a pipe, a 1 MiB message that nobody reads cannot be through: its sender dies in it."""
    ours, theirs = naru.pair("pipe:?capacity_bytes=65536")
    with ours, Child.run(send_on, theirs, 1 << 20, 0.01) as child:
        first = ours.receive(timeout_s=10)
        assert LedgerReader().add(first) == "new"
        assert child.wait() == -signal.SIGALRM
        theirs.close()
        with pytest.raises(naru.CorruptedError):
            ours.receive(timeout_s=10)
        assert ours.statistics().torn == 1
