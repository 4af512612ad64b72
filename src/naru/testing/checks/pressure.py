"""A full receiver: the sender is told to wait, and nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from naru.errors import TimedOutError
from naru.testing.checks.catalogue import check
from naru.testing.checks.stage import PATIENCE_S, Stage, demand, demand_equal, demand_raises
from naru.testing.children import until_sleeping
from naru.testing.ledger import LedgerReader, LedgerWriter

THE_END = b"the end"
MOST_MESSAGES = 200_000


def fill(sender: Any, writer: LedgerWriter) -> None:
    """Sends until there is no room. Then `writer.count` messages were accepted."""
    for _ in range(MOST_MESSAGES):
        before = writer.count
        if not sender.try_send(writer.next()):
            writer.count = before
            return
    demand(False, f"{MOST_MESSAGES} messages were accepted and none received: no back-pressure")


def drain(stage: Stage, sender: Any, receiver: Any) -> LedgerReader:
    """Receives everything up to an end marker that is sent now."""
    reader = LedgerReader()
    marking = stage.run(sender.send, THE_END, timeout_s=PATIENCE_S)
    while (got := receiver.receive(timeout_s=PATIENCE_S)) != THE_END:
        reader.add(got)
    marking.result()
    return reader


def demand_exactly(reader: LedgerReader, count: int) -> None:
    """These messages came, each once, in order."""
    report = reader.report({1: count})
    demand(report.is_perfect, str(report))
    demand_equal(report.received, count, "messages received")


@check("back_pressure", "order", "reliable")
def a_full_receiver_is_not_overrun(stage: Stage) -> None:
    """try_send() gives False when there is no room; what was accepted arrives; then it goes on."""
    for size in (500, 3000):
        sender, receiver = stage.link()
        writer = LedgerWriter(1, min(size, stage.under_test.max_message_bytes))
        for _ in range(3):
            fill(sender, writer)
        demand_exactly(drain(stage, sender, receiver), writer.count)
        demand_equal(sender.try_send(b"next"), True, "try_send() after everything was received")
        demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"next", "receive()")


@check("order", "reliable")
def as_many_messages_fit_as_promised(stage: Stage) -> None:
    """`holds_messages` messages of 64 bytes need no receiver."""
    sender, receiver = stage.link()
    count = stage.under_test.holds_messages
    for number, message in enumerate(LedgerWriter(1, 64).take(count)):
        demand(sender.try_send(message), f"only {number} messages of {count} were taken")
    demand_exactly(drain(stage, sender, receiver), count)


@check("back_pressure", "order", "reliable")
def a_send_that_timed_out_sent_nothing(stage: Stage) -> None:
    """Every sending verb raises TimedOutError at a full receiver, and leaves no byte behind."""
    sender, receiver = stage.link()
    writer = LedgerWriter(1, 512)

    def reserve(message: bytes, timeout_s: float) -> None:
        with sender.reserve(len(message), timeout_s=timeout_s) as view:
            view[:] = message

    for timeout_s in (0, 0.01):
        for verb in (
            sender.send,
            lambda message, timeout_s: sender.send_parts([message[:256], message[256:]], timeout_s),
            lambda message, timeout_s: sender.send_many([message], timeout_s=timeout_s),
            reserve,
        ):
            _send_until_refused(sender, writer, verb, timeout_s)
    demand_exactly(drain(stage, sender, receiver), writer.count)


def _send_until_refused(
    sender: Any, writer: LedgerWriter, verb: Callable[..., Any], timeout_s: float
) -> None:
    """The kernel may find room after it had none (tcp), so one refusal is waited for."""
    fill(sender, writer)
    for _ in range(MOST_MESSAGES):
        try:
            verb(writer.next(), timeout_s=timeout_s)
        except TimedOutError:
            writer.count -= 1
            return
    demand(False, f"no TimedOutError in {MOST_MESSAGES} messages")


@check("back_pressure", "order", "reliable")
def a_large_send_that_timed_out_is_whole_or_nothing(stage: Stage) -> None:
    """A message above what the transport holds: TimedOutError and nothing came, or all of it."""
    sender, receiver = stage.link()
    writer = LedgerWriter(1, stage.under_test.max_message_bytes)
    for _ in range(3):
        message = writer.next()
        try:
            sender.send(message, timeout_s=0.01)
        except TimedOutError:
            writer.count -= 1
            break
    demand_exactly(drain(stage, sender, receiver), writer.count)


@check("back_pressure", "order", "reliable")
def a_batch_that_timed_out_says_how_far_it_came(stage: Stage) -> None:
    """send_many() into a full transport: the first messages arrive; the error has their number."""
    sender, receiver = stage.link()
    batch = LedgerWriter(1, 512).take(20_000)
    error = demand_raises(TimedOutError, sender.send_many, batch, timeout_s=0.01)
    reader = drain(stage, sender, receiver)
    count = reader.report().received
    demand_exactly(reader, count)
    demand(f"{count} messages" in str(error), f"{count} messages came; the error: {error}")


@check("back_pressure", "order", "reliable")
def room_wakes_a_sender(stage: Stage) -> None:
    """A thread that waits for room goes on as soon as something is received."""
    sender, receiver = stage.link()
    writer, reader = LedgerWriter(1, 512), LedgerReader()
    fill(sender, writer)
    for _ in range(3):
        waiting = stage.run(sender.send, writer.next(), timeout_s=PATIENCE_S)
        until_sleeping(waiting.native_id, patience_s=0.1)
        while not waiting.done:
            got = receiver.try_receive()
            if got is None:
                os.sched_yield()
            else:
                reader.add(got)
        waiting.result()
        fill(sender, writer)
    sending_the_end = stage.run(sender.send, THE_END, timeout_s=PATIENCE_S)
    while (got := receiver.receive(timeout_s=PATIENCE_S)) != THE_END:
        reader.add(got)
    sending_the_end.result()
    demand_exactly(reader, writer.count)


@check("back_pressure", "order", "reliable")
def an_accepted_message_needs_no_further_verb(stage: Stage) -> None:
    """What send() accepted arrives although its end then does nothing at all."""
    sender, receiver = stage.link()
    for size in (3000, 5000, 20_000):
        if size > stage.under_test.max_message_bytes:
            continue
        writer, reader = LedgerWriter(1, size), LedgerReader()

        def send(writer: LedgerWriter = writer) -> None:
            for _ in range(40):
                sender.send(writer.next(), timeout_s=PATIENCE_S)

        sending = stage.run(send)
        until_sleeping(sending.native_id, patience_s=0.05)  # it is ahead, and full
        for _ in range(40):
            reader.add(receiver.receive(timeout_s=PATIENCE_S))
        sending.result()
        demand_exactly(reader, 40)


@check("back_pressure", "in_place", "order", "reliable")
def a_lease_keeps_its_room(stage: Stage) -> None:
    """While a message is leased its room is not the sender's; afterwards it is."""
    sender, receiver = stage.link()
    writer, reader = LedgerWriter(1, 512), LedgerReader()
    fill(sender, writer)
    with receiver.lease(timeout_s=PATIENCE_S) as view:
        demand_equal(sender.try_send(b"!" * 512), False, "try_send() into a leased place")
        reader.add(view)
    while writer.count > reader.report().received:
        reader.add(receiver.receive(timeout_s=PATIENCE_S))
    fill(sender, writer)
    while writer.count > reader.report().received:
        reader.add(receiver.receive(timeout_s=PATIENCE_S))
    demand_exactly(reader, writer.count)


CHECKS = (
    a_full_receiver_is_not_overrun,
    as_many_messages_fit_as_promised,
    a_send_that_timed_out_sent_nothing,
    a_large_send_that_timed_out_is_whole_or_nothing,
    a_batch_that_timed_out_says_how_far_it_came,
    room_wakes_a_sender,
    an_accepted_message_needs_no_further_verb,
    a_lease_keeps_its_room,
)
