"""Several threads on one end, many senders on one receiver: each message once, nobody starved."""

from __future__ import annotations

import threading
from typing import Any

from naru.errors import ClosedError, PeerGoneError, TimedOutError
from naru.testing.checks.catalogue import check
from naru.testing.checks.pressure import demand_exactly
from naru.testing.checks.stage import PATIENCE_S, Stage, Task, demand, demand_equal
from naru.testing.ledger import LedgerReader, LedgerWriter

THREADS = 8
EACH = 150
STARVED_AFTER = 100_000


@check("reliable")
def eight_threads_share_each_end(stage: Stage) -> None:
    """Eight threads send on one end, eight receive on the other: each message comes once, whole."""
    sender, receiver = stage.link()
    most = stage.under_test.max_message_bytes

    def send(sender_id: int) -> None:
        # Some messages are larger than what the transport holds at once: they may not mix.
        writer = LedgerWriter(
            sender_id, lambda s: min(most, 70_000 if s % 50 == 7 else 24 + s * 11)
        )
        for _ in range(EACH):
            sender.send(writer.next(), timeout_s=PATIENCE_S)

    left = threading.Semaphore(THREADS * EACH)

    def receive() -> list[bytes]:
        got = []
        while left.acquire(blocking=False):
            got.append(receiver.receive(timeout_s=PATIENCE_S))
        return got

    receiving = [stage.run(receive) for _ in range(THREADS)]
    sending = [stage.run(send, number) for number in range(THREADS)]
    reader = LedgerReader()
    for task in receiving:
        reader.add_all(task.result())  # thread by thread, so their order says nothing
    for task in sending:
        task.result()
    report = reader.report(dict.fromkeys(range(THREADS), EACH))
    demand(report.lost == report.duplicated == report.torn == 0, str(report))


@check("wakes", "reliable")
def close_ends_eight_threads(stage: Stage) -> None:
    """close() amid traffic: each of eight threads gets ClosedError, or hears of the peer's end."""
    sender, receiver = stage.link()
    started = threading.Barrier(THREADS + 1)

    def work(number: int) -> None:
        started.wait()
        while True:
            try:
                if number % 2:
                    sender.send(b"x" * 200, timeout_s=PATIENCE_S)
                else:
                    receiver.receive(timeout_s=PATIENCE_S)
            except (ClosedError, PeerGoneError):
                return

    working = [stage.run(work, number) for number in range(THREADS)]
    started.wait()
    for end in (receiver, sender):
        try:
            end.close()
        except TimedOutError:
            continue  # the rest of a message for the end that was closed first
    for task in working:
        task.result()


@check("fan_in", "reliable")
def many_senders_meet_in_one_receiver(stage: Stage) -> None:
    """Every sender's messages arrive, each in its own order, whatever the others do."""
    count = 12
    receiver, senders = stage.fan_in(count)

    def send(sender: Any, sender_id: int) -> None:
        writer = LedgerWriter(sender_id, lambda s: 24 + (s * 131 + sender_id * 17) % 4000)
        for _ in range(EACH):
            sender.send(writer.next(), timeout_s=PATIENCE_S)

    sending = [stage.run(send, sender, number) for number, sender in enumerate(senders)]
    reader = LedgerReader()
    for _ in range(count * EACH):
        reader.add(receiver.receive(timeout_s=PATIENCE_S))
    for task in sending:
        task.result()
    report = reader.report(dict.fromkeys(range(count), EACH))
    demand(report.is_perfect, str(report))


@check("fan_in", "back_pressure")
def a_busy_sender_does_not_starve_the_others(stage: Stage) -> None:
    """While one sender never stops, each of the others gets its messages through."""
    receiver, (busy, *quiet) = stage.fan_in(5)
    enough = threading.Event()

    def never_stop() -> None:
        while not enough.is_set():
            try:
                busy.send_many([b"busy" * 16] * 8, timeout_s=0.5)
            except TimedOutError:
                continue  # nobody receives any more: look whether it is enough

    shouting = stage.run(never_stop)
    wanted = {b"quiet %d" % number for number in range(len(quiet))}
    speaking = [
        stage.run(sender.send, message, timeout_s=PATIENCE_S)
        for sender, message in zip(quiet, sorted(wanted), strict=True)
    ]
    taken = 0
    while wanted:
        messages = receiver.receive_many(64, timeout_s=PATIENCE_S)
        wanted.difference_update(messages)
        taken += len(messages)
        demand(taken < STARVED_AFTER, f"after {taken} messages still without {sorted(wanted)}")
    enough.set()
    for task in speaking:
        task.result()
    _receive_until_done(receiver, shouting)


def _receive_until_done(receiver: Any, task: Task) -> None:
    while not task.done:
        receiver.try_receive()
    task.result()


@check("fan_in", "reliable")
def senders_come_and_go(stage: Stage) -> None:
    """A receiver outlives its senders: what each sent before it closed arrives, then others'."""
    receiver, _ = stage.fan_in(0)
    reader = LedgerReader()
    for number in range(10):

        def visit(sender_id: int = number) -> None:
            task = stage.under_test.make_sender
            assert task is not None
            writer = LedgerWriter(sender_id)
            with task(receiver) as sender:
                for _ in range(20):
                    sender.send(writer.next(), timeout_s=PATIENCE_S)

        visiting = stage.run(visit)
        for _ in range(20):
            reader.add(receiver.receive(timeout_s=PATIENCE_S))
        visiting.result()
    report = reader.report(dict.fromkeys(range(10), 20))
    demand(report.is_perfect, str(report))
    demand_equal(receiver.try_receive(), None, "after all have gone")
    if stage.under_test.counts:
        demand_equal(receiver.statistics().peers_lost, 0, "peers_lost, though all said goodbye")


@check("fan_in", "reliable")
def a_sender_may_come_back(stage: Stage) -> None:
    """Messages of a sender that has gone are still received after a new one has come."""
    receiver, (first,) = stage.fan_in(1)
    writer = LedgerWriter(1)
    for message in writer.take(stage.under_test.holds_messages // 2):
        first.send(message, timeout_s=PATIENCE_S)
    first.close()
    connecting = stage.sender_task(receiver)
    reader = LedgerReader()
    for _ in range(writer.count):
        reader.add(receiver.receive(timeout_s=PATIENCE_S))
    demand_exactly(reader, writer.count)
    while not connecting.done:
        demand_equal(receiver.try_receive(), None, "before the second sends")
    connecting.result().send(b"second", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"second", "receive()")


CHECKS = (
    eight_threads_share_each_end,
    close_ends_eight_threads,
    many_senders_meet_in_one_receiver,
    a_busy_sender_does_not_starve_the_others,
    senders_come_and_go,
    a_sender_may_come_back,
)
