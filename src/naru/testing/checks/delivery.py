"""Messages arrive: whole, once, in order. One at a time, many, in both directions."""

from __future__ import annotations

import array
from typing import Any

from naru.testing.checks.catalogue import check
from naru.testing.checks.stage import PATIENCE_S, Stage, demand, demand_equal, demand_raises
from naru.testing.ledger import LedgerReader, LedgerWriter

MANY = 2000
THE_END = b"the end"


@check()
def a_message_arrives(stage: Stage) -> None:
    """What was sent is received, as bytes, and then nothing is there."""
    sender, receiver = stage.link()
    sender.send(b"hello", timeout_s=PATIENCE_S)
    got = receiver.receive(timeout_s=PATIENCE_S)
    demand_equal(got, b"hello", "receive()")
    demand(type(got) is bytes, f"receive() gave a {type(got).__name__}, not bytes")
    demand_equal(receiver.try_receive(), None, "try_receive() with nothing there")


@check()
def an_empty_message_is_a_message(stage: Stage) -> None:
    """b"" arrives as b"", between others, and is not taken for an end."""
    sender, receiver = stage.link()
    for message in (b"", b"x", b"", b""):
        sender.send(message, timeout_s=PATIENCE_S)
        demand_equal(receiver.receive(timeout_s=PATIENCE_S), message, "receive()")


@check("channel")
def both_directions_work(stage: Stage) -> None:
    """The two directions of a conversation do not disturb each other."""
    a, b = stage.pair()
    a.send(b"to b", timeout_s=PATIENCE_S)
    b.send(b"to a", timeout_s=PATIENCE_S)
    demand_equal(b.receive(timeout_s=PATIENCE_S), b"to b", "b")
    demand_equal(a.receive(timeout_s=PATIENCE_S), b"to a", "a")
    demand_equal(a.try_receive(), None, "a has its own message back")


@check()
def any_buffer_can_be_sent(stage: Stage) -> None:
    """bytes, bytearray, memoryview, array: every contiguous buffer; its bytes are what arrives."""
    sender, receiver = stage.link()
    numbers = array.array("i", [1, 2, 3])
    buffers: list[Any] = [
        b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview"), memoryview(b"a slice")[2:],
        numbers, memoryview(numbers),
    ]  # fmt: skip
    for buffer in buffers:
        sender.send(buffer, timeout_s=PATIENCE_S)
        wanted = memoryview(buffer).tobytes()
        demand_equal(receiver.receive(timeout_s=PATIENCE_S), wanted, f"send({buffer!r})")
        demand_equal(sender.try_send(buffer), True, f"try_send({buffer!r})")
        demand_equal(receiver.receive(timeout_s=PATIENCE_S), wanted, f"try_send({buffer!r})")


@check(streams=True)
def what_is_no_buffer_is_refused(stage: Stage) -> None:
    """str, int, None and strided views raise TypeError or BufferError, and nothing is sent."""
    sender, receiver = stage.link()
    for wrong in ("text", 7, None, memoryview(b"abcdef")[::2]):
        for verb in (sender.send, sender.try_send):
            demand_raises((TypeError, BufferError, ValueError), verb, wrong)
        for verb in (sender.send_many, sender.send_parts):
            demand_raises((TypeError, BufferError, ValueError), verb, [b"good", wrong])
    demand_equal(sender.try_send(b"next"), True, "try_send() after refusals")
    got = b""
    while not got.endswith(b"next"):
        got += receiver.receive(timeout_s=PATIENCE_S)
    # send_many() may have sent what came before the wrong element
    demand_equal(got.replace(b"good", b""), b"next", "what arrived")


@check()
def a_message_is_a_copy(stage: Stage) -> None:
    """A buffer may be changed as soon as send() has returned."""
    sender, receiver = stage.link()
    buffer = bytearray(b"before")
    sender.send(buffer, timeout_s=PATIENCE_S)
    buffer[:] = b"after!"
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"before", "receive()")


@check()
def try_verbs_work_alone(stage: Stage) -> None:
    """try_send() and try_receive() carry messages without any waiting verb."""
    sender, receiver = stage.link()
    for message in LedgerWriter(1).take(stage.under_test.holds_messages):
        demand_equal(sender.try_send(message), True, "try_send() into an empty transport")
        got = receiver.try_receive()
        if got is None:  # a wire may take a moment
            got = receiver.receive(timeout_s=PATIENCE_S)
        demand_equal(got, message, "try_receive()")


@check()
def parts_are_joined(stage: Stage) -> None:
    """send_parts() sends one message: the parts in their order, empty ones too, also very many."""
    sender, receiver = stage.link()
    thousands = [bytes([i % 256]) for i in range(3000)]
    few: list[Any] = [b"a", bytearray(b"bc"), b"", memoryview(b"d")]
    for parts in (few, [b"alone"], [], [b""], thousands):
        sender.send_parts(parts, timeout_s=PATIENCE_S)
        got = receiver.receive(timeout_s=PATIENCE_S)
        demand_equal(got, b"".join(parts), f"{len(parts)} parts")


@check()
def iteration_gives_messages(stage: Stage) -> None:
    """An end is an iterator over its messages, and goes on after a pause."""
    sender, receiver = stage.link()
    for message in (b"one", b"two"):
        sender.send(message, timeout_s=PATIENCE_S)
        demand_equal(next(iter(receiver)), message, "next()")
    waiting = stage.run(next, receiver)
    sender.send(b"three", timeout_s=PATIENCE_S)
    demand_equal(waiting.result(), b"three", "next() that had to wait")


@check("reliable", "order")
def many_messages_keep_their_order(stage: Stage) -> None:
    """Thousands of messages, the sender far ahead: nothing lost, doubled or moved."""
    sender, receiver = stage.link()
    most = min(stage.under_test.max_message_bytes, 3000)
    writer = LedgerWriter(1, lambda sequence: 24 + sequence * 37 % (most - 23))
    reader = LedgerReader()

    def send() -> None:
        for _ in range(MANY):
            sender.send(writer.next(), timeout_s=PATIENCE_S)
        sender.send(THE_END, timeout_s=PATIENCE_S)

    sending = stage.run(send)
    while (got := receiver.receive(timeout_s=PATIENCE_S)) != THE_END:
        reader.add(got)
    sending.result()
    report = reader.report({1: MANY})
    demand(report.is_perfect, str(report))
    demand_equal(receiver.try_receive(), None, "after the last")


@check("channel", "reliable")
def both_directions_at_full_speed(stage: Stage) -> None:
    """Both ends send and receive at once; neither waits for the other for ever."""
    a, b = stage.pair()
    count = MANY // 4

    def send(end: Any, writer: LedgerWriter) -> None:
        for _ in range(count):
            end.send(writer.next(), timeout_s=PATIENCE_S)

    def receive(end: Any) -> LedgerReader:
        reader = LedgerReader()
        for _ in range(count):
            reader.add(end.receive(timeout_s=PATIENCE_S))
        return reader

    sending = [stage.run(send, a, LedgerWriter(1, 1500)), stage.run(send, b, LedgerWriter(2, 1500))]
    receiving = [stage.run(receive, b), stage.run(receive, a)]
    for sender_id, (out, into) in enumerate(zip(sending, receiving, strict=True), 1):
        report = into.result().report({sender_id: count})
        out.result()
        demand(report.is_perfect, str(report))


@check("not boundaries", "reliable", streams=True)
def bytes_keep_their_order(stage: Stage) -> None:
    """Without boundaries: the bytes arrive, all, in order, in pieces of any size."""
    sender, receiver = stage.link()
    messages = LedgerWriter(1, lambda sequence: 24 + sequence * 97 % 5000).take(300)
    wanted = b"".join(messages)

    def send() -> None:
        for message in messages:
            sender.send(message, timeout_s=PATIENCE_S)

    sending = stage.run(send)
    got = bytearray()
    while len(got) < len(wanted):
        got += receiver.receive(timeout_s=PATIENCE_S)
    sending.result()
    demand_equal(bytes(got), wanted, "the stream")


CHECKS = (
    a_message_arrives,
    an_empty_message_is_a_message,
    both_directions_work,
    any_buffer_can_be_sent,
    what_is_no_buffer_is_refused,
    a_message_is_a_copy,
    try_verbs_work_alone,
    parts_are_joined,
    iteration_gives_messages,
    many_messages_keep_their_order,
    both_directions_at_full_speed,
    bytes_keep_their_order,
)
