"""Verbs for many messages at once, and the one that fills the caller's buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from naru.errors import TooBigError
from naru.testing.checks.catalogue import check
from naru.testing.checks.stage import PATIENCE_S, Stage, demand, demand_equal, demand_raises
from naru.testing.ledger import LedgerReader, LedgerWriter


@check()
def a_batch_arrives_one_by_one(stage: Stage) -> None:
    """send_many() sends each element as a message: lists, tuples, iterators, of any buffers."""
    sender, receiver = stage.link()
    few = [b"one", b"", b"three"]
    mixed = [b"bytes", bytearray(b"bytearray"), memoryview(b"view"), b"bytes again"]
    for batch in (few, tuple(few), iter(few), mixed):
        wanted = mixed if batch is mixed else few
        sender.send_many(batch, timeout_s=PATIENCE_S)
        got = [receiver.receive(timeout_s=PATIENCE_S) for _ in wanted]
        demand_equal(sorted(got), sorted(bytes(one) for one in wanted), "what arrived")
    sender.send_many([], timeout_s=PATIENCE_S)
    demand_equal(receiver.try_receive(), None, "an empty batch sent something")


@check()
def a_batch_is_received_at_once(stage: Stage) -> None:
    """receive_many() gives what is there, 1 to `limit` messages, as a list of bytes."""
    sender, receiver = stage.link()
    count = stage.under_test.holds_messages
    for message in LedgerWriter(1).take(count):
        sender.send(message, timeout_s=PATIENCE_S)
    reader, taken = LedgerReader(), 0
    limits = iter([1, 3] + [count] * count)
    while taken < count:
        limit = next(limits)
        messages = receiver.receive_many(limit, timeout_s=PATIENCE_S)
        demand(type(messages) is list, f"receive_many() gave a {type(messages).__name__}")
        demand(1 <= len(messages) <= limit, f"receive_many({limit}) gave {len(messages)} messages")
        reader.add_all(messages)
        taken += len(messages)
    report = reader.report({1: count})
    demand(report.is_perfect, str(report))
    for limit in (0, -1):
        demand_raises(ValueError, receiver.receive_many, limit)
        demand_raises(ValueError, receiver.lease_many, limit)


@check("reliable", "order")
def batches_of_any_size_keep_the_order(stage: Stage) -> None:
    """send_many() above what the transport holds, received in batches: nothing lost or moved."""
    sender, receiver = stage.link()
    writer = LedgerWriter(1, lambda sequence: 24 + sequence * 13 % 500)
    batches = [writer.take(count) for count in (1, 2, 63, 64, 65, 255, 256, 257, 600)]

    def send() -> None:
        for batch in batches:
            sender.send_many(batch, timeout_s=PATIENCE_S)

    sending = stage.run(send)
    reader, taken = LedgerReader(), 0
    while taken < writer.count:
        messages = receiver.receive_many(100, timeout_s=PATIENCE_S)
        reader.add_all(messages)
        taken += len(messages)
    sending.result()
    report = reader.report({1: writer.count})
    demand(report.is_perfect, str(report))


@check("reliable", "order")
def batches_may_hold_large_messages(stage: Stage) -> None:
    """Small and very large messages in one batch arrive in order, by every receiving verb."""
    sender, receiver = stage.link()
    large = min(stage.under_test.max_message_bytes, 200_000)
    sizes = [100, 100, large, 100, large, large, 24]
    for receive in (_by_receive_many, _by_lease_many):
        writer = LedgerWriter(1, lambda sequence: sizes[sequence])
        sending = stage.run(sender.send_many, writer.take(len(sizes)), timeout_s=PATIENCE_S)
        reader, taken = LedgerReader(), 0
        while taken < len(sizes):
            messages = receive(receiver)
            reader.add_all(messages)
            taken += len(messages)
        sending.result()
        report = reader.report({1: len(sizes)})
        demand(report.is_perfect, f"{receive.__name__}: {report}")


def _by_receive_many(receiver: Any) -> list[bytes]:
    messages: list[bytes] = receiver.receive_many(64, timeout_s=PATIENCE_S)
    return messages


def _by_lease_many(receiver: Any) -> list[bytes]:
    with receiver.lease_many(64, timeout_s=PATIENCE_S) as batch:
        return [bytes(view) for view in batch]


@check()
def receive_into_fills_a_buffer(stage: Stage) -> None:
    """receive_into() writes the message at the start of a buffer and nothing behind it."""
    sender, receiver = stage.link()
    buffer = bytearray(b"." * 10)
    wanted = b"0123456789"
    for message in (b"0123456789", b"abc", b""):
        wanted = message + wanted[len(message) :]
        sender.send(message, timeout_s=PATIENCE_S)
        demand_equal(receiver.receive_into(buffer, timeout_s=PATIENCE_S), len(message), "its size")
        demand_equal(bytes(buffer), wanted, "the buffer")
    demand_raises((TypeError, BufferError), receiver.receive_into, b"read only")
    demand_raises((TypeError, BufferError), receiver.receive_into, "text")


@check()
def a_buffer_too_small_keeps_the_message(stage: Stage) -> None:
    """receive_into() a smaller buffer raises TooBigError; the next verb has the message."""
    sender, receiver = stage.link()
    for take in _takers(receiver):
        sender.send(b"kept for the next", timeout_s=PATIENCE_S)
        small = bytearray(b"." * 3)
        for _ in range(2):
            demand_raises(TooBigError, receiver.receive_into, small, timeout_s=PATIENCE_S)
            demand_equal(bytes(small), b"...", "the small buffer")
        demand_equal(take(), b"kept for the next", "the message that did not fit")
        demand_equal(receiver.try_receive(), None, "it came twice")


def _takers(receiver: Any) -> list[Callable[[], Any]]:
    buffer = bytearray(100)

    def by_into() -> bytes:
        return bytes(buffer[: receiver.receive_into(buffer, timeout_s=PATIENCE_S)])

    def by_lease() -> bytes:
        with receiver.lease(timeout_s=PATIENCE_S) as view:
            return bytes(view)

    return [
        lambda: receiver.receive(timeout_s=PATIENCE_S),
        receiver.try_receive,
        lambda: next(receiver),
        lambda: receiver.receive_many(timeout_s=PATIENCE_S)[0],
        by_into,
        by_lease,
        lambda: _by_lease_many(receiver)[0],
    ]


CHECKS = (
    a_batch_arrives_one_by_one,
    a_batch_is_received_at_once,
    batches_of_any_size_keep_the_order,
    batches_may_hold_large_messages,
    receive_into_fills_a_buffer,
    a_buffer_too_small_keeps_the_message,
)
