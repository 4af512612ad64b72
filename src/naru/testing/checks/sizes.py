"""Sizes: every boundary of buffers, pages and fields, up to the largest message and one more."""

from __future__ import annotations

from collections.abc import Iterator

from naru.errors import TooBigError
from naru.testing.checks.catalogue import check
from naru.testing.checks.stage import PATIENCE_S, Stage, demand_equal, demand_raises

KIB, MIB = 1 << 10, 1 << 20
EDGES = (
    0, 1, 7, 8, 9, 4095, 4096, 4097, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB,
)  # fmt: skip


def sizes_for(max_message_bytes: int) -> Iterator[int]:
    """The edges that fit, and the largest message."""
    yield from (size for size in EDGES if size < max_message_bytes)
    yield max_message_bytes


def pattern(size_bytes: int) -> bytes:
    """Bytes that differ from place to place, so that a moved or doubled piece shows."""
    block = bytes(range(251))
    return (block * (size_bytes // len(block) + 1))[:size_bytes]


@check()
def every_size_arrives(stage: Stage) -> None:
    """Each size arrives whole, whether the one before was larger or smaller."""
    sender, receiver = stage.link()
    sizes = list(sizes_for(stage.under_test.max_message_bytes))
    for size in [*sizes, sizes[-1], 3]:
        message = pattern(size)
        demand_equal(stage.transfer(sender, receiver, message), message, f"a message of {size}")


@check()
def every_size_arrives_by_the_other_verbs(stage: Stage) -> None:
    """The same through send_parts() and receive_into(), reserve() and lease()."""
    sender, receiver = stage.link()
    most = stage.under_test.max_message_bytes
    buffer = bytearray(most + 1)
    for size in sizes_for(most):
        message = pattern(size)
        third = size // 3
        parts = [message[:third], memoryview(message)[third : 2 * third], message[2 * third :]]
        sending = stage.run(sender.send_parts, parts, timeout_s=PATIENCE_S)
        demand_equal(receiver.receive_into(buffer, timeout_s=PATIENCE_S), size, "receive_into()")
        sending.result()
        demand_equal(buffer[:size], message, f"send_parts() of {size}")

        def reserve(message: bytes = message) -> None:
            with sender.reserve(len(message), timeout_s=PATIENCE_S) as view:
                view[:] = message

        sending = stage.run(reserve)
        with receiver.lease(timeout_s=PATIENCE_S) as view:
            got = bytes(view)
        sending.result()
        demand_equal(got, message, f"reserve() of {size}")


@check()
def one_byte_too_many_is_refused(stage: Stage) -> None:
    """Every sending verb refuses it with TooBigError before anything is sent; the end goes on."""
    sender, receiver = stage.link()
    too_big = bytes(stage.under_test.max_message_bytes + 1)

    def reserve() -> None:
        with sender.reserve(len(too_big)):
            pass

    for function, *args in (
        (sender.send, too_big),
        (sender.try_send, too_big),
        (sender.send, bytearray(too_big)),
        (sender.send_parts, [too_big[:100], too_big[100:]]),
        (sender.send_many, [too_big]),
        (reserve,),
    ):
        demand_raises(TooBigError, function, *args)
        demand_equal(receiver.try_receive(), None, "something of the refused message came")
    sender.send(b"next", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"next", "receive()")


@check("order", "reliable")
def a_batch_stops_before_one_too_big(stage: Stage) -> None:
    """send_many() sends what comes before it, nothing of it and nothing after it."""
    sender, receiver = stage.link()
    too_big = bytes(stage.under_test.max_message_bytes + 1)
    demand_raises(TooBigError, sender.send_many, [b"one", b"two", too_big, b"three"])
    sender.send(b"next", timeout_s=PATIENCE_S)
    got = [receiver.receive(timeout_s=PATIENCE_S) for _ in range(3)]
    demand_equal(got, [b"one", b"two", b"next"], "what arrived")


CHECKS = (
    every_size_arrives,
    every_size_arrives_by_the_other_verbs,
    one_byte_too_many_is_refused,
    a_batch_stops_before_one_too_big,
)
