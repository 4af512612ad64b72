"""3: the receiver is stopped (SIGSTOP) under a stream. The sender is told, its memory stays bounded,
and after SIGCONT nothing is missing (udp: what is missing has been counted)."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

import pytest
from helpers import PAIRS, QUEUES, fresh_address

import naru
from naru.testing.faults import Child, ChildError, Events
from naru.testing.ledger import LedgerReader, LedgerWriter

LAST = b"last"
TIMEOUT_S = 0.2
MOST = 200_000
SENDER = 1


def book_until_last(events: Events, receiver: Any) -> None:
    """Receives up to the last message (udp may lose it: it is repeated), then tells its books."""
    reader = LedgerReader()
    while (message := receiver.receive(timeout_s=30)) != LAST:
        reader.add(message)
    report = reader.report()
    sender = report.senders[SENDER]
    events.tell(
        "books", torn=report.torn, **dataclasses.asdict(sender),
        statistics=dataclasses.asdict(receiver.statistics()),
    )  # fmt: skip


def receive_at(events: Events, address: str) -> None:
    with naru.receiver(address) as receiver:
        events.tell("ready", address=str(receiver.address))
        book_until_last(events, receiver)


def receive_on(events: Events, end: Any) -> None:
    with end:
        end.receive()
        events.tell("ready")
        book_until_last(events, end)


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def fill(sender: Any, writer: LedgerWriter, is_lossy: bool) -> int:
    """Sends without waiting until there is no room; returns how many were accepted."""
    accepted = 0
    most = 2000 if is_lossy else MOST
    while accepted < most:
        message = writer.next()
        if not sender.try_send(message):
            writer.count -= 1
            return accepted
        accepted += 1
    assert is_lossy, "back-pressure"
    return accepted


def time_out(sender: Any, writer: LedgerWriter) -> int:
    """Three time-outs in a row: a tcp buffer goes on growing for a while. Returns the accepted ones."""
    accepted, in_a_row = 0, 0
    while in_a_row < 3:
        started = time.monotonic()
        message = writer.next()
        try:
            sender.send(message, timeout_s=TIMEOUT_S)
            accepted, in_a_row = accepted + 1, 0
        except naru.TimedOutError:
            writer.count -= 1
            in_a_row += 1
            assert time.monotonic() - started >= TIMEOUT_S
    return accepted


def stream_past_a_stop(sender: Any, child: Child, is_lossy: bool) -> tuple[int, dict[str, Any]]:
    writer = LedgerWriter(SENDER, 1024)
    sent = 0
    for _ in range(20):
        sender.send(writer.next())
        sent += 1
    child.stop()
    before = resident_bytes()
    sent += fill(sender, writer, is_lossy)
    if not is_lossy:
        sent += time_out(sender, writer)
    assert resident_bytes() - before < 32 << 20
    child.go_on()
    for _ in range(50):
        sender.send(writer.next(), timeout_s=20)
        sent += 1
    books = None
    while books is None:
        sender.send(LAST, timeout_s=20)
        books = heard(child, is_lossy)
    return sent, books


def heard(child: Child, is_lossy: bool) -> dict[str, Any] | None:
    """The child's books; None when the last message may have been lost."""
    if is_lossy:
        try:
            return child.expect("books", timeout_s=0.2)
        except ChildError:
            return None
    return child.expect("books")


def judge(kind: str, sent: int, books: dict[str, Any]) -> None:
    statistics = books["statistics"]
    assert books["torn"] == statistics["torn"] == 0
    assert books["duplicated"] == books["reordered"] == 0
    if kind == "udp":
        assert books["received"] + statistics["lost"] >= sent, "every loss is counted"
        assert books["lost"] <= statistics["lost"]
    else:
        assert (books["received"], books["lost"]) == (sent, 0)


@pytest.mark.parametrize("kind", QUEUES)
def test_fault_03_receiver_stopped_then_continued(kind: str, runtime: str) -> None:
    with Child.run(receive_at, fresh_address(kind, runtime)) as child:
        address = child.expect("ready")["address"]
        with naru.sender(address) as sender:
            sent, books = stream_past_a_stop(sender, child, kind == "udp")
        judge(kind, sent, books)
        child.check()


@pytest.mark.parametrize("kind", PAIRS)
def test_fault_03_other_end_of_a_pair_stopped_then_continued(kind: str) -> None:
    ours, theirs = naru.pair(kind)
    with Child.run(receive_on, theirs) as child, ours:
        ours.send(b"go")
        child.expect("ready")
        theirs.close()
        sent, books = stream_past_a_stop(ours, child, kind == "udp")
        judge(kind, sent, books)
        child.check()


@pytest.mark.parametrize("kind", ["shm", "pipe", "unix", "tcp"])
def test_fault_03_large_message_to_a_stopped_receiver_is_kept_whole(kind: str) -> None:
    """Begun and timed out means accepted: its rest is in the outbox, and goes out with what follows."""
    ours, theirs = naru.pair(kind)
    with Child.run(receive_on, theirs) as child, ours:
        ours.send(b"go")
        child.expect("ready")
        theirs.close()
        child.stop()
        writer = LedgerWriter(SENDER, lambda number: 16 << 20 if number == 0 else 100)
        ours.send(writer.next(), timeout_s=TIMEOUT_S)
        assert not ours.try_send(writer.next())
        child.go_on()
        writer.count -= 1
        ours.send(writer.next(), timeout_s=20)
        ours.send(LAST, timeout_s=20)
        judge(kind, 2, child.expect("books"))
        child.check()
