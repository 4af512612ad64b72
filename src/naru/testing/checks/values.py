"""Objects and arrays: they arrive as they were, in place or copied, and never as something else."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

from naru.errors import ProtocolError
from naru.testing.checks.catalogue import check
from naru.testing.checks.stage import PATIENCE_S, Stage, demand, demand_equal, demand_raises

try:
    import numpy
except ImportError:  # an extra; without it there are no arrays to try
    numpy = None  # type: ignore[assignment]


class _PlannedError(Exception):
    """Raised inside a block on purpose."""


@check("values")
def objects_arrive(stage: Stage) -> None:
    """send_object() and receive_object(), with and without a type, and their try_ forms."""
    sender, receiver = stage.link()
    for value in (None, 5, "text", b"bytes", [1, [2.5, None]], {"a": {"b": [True]}}, "x" * 1000):
        sender.send_object(value, timeout_s=PATIENCE_S)
        demand_equal(receiver.receive_object(timeout_s=PATIENCE_S), value, "receive_object()")
        demand_equal(sender.try_send_object(value), True, "try_send_object()")
        demand_equal(receiver.receive_object(timeout_s=PATIENCE_S), value, "receive_object()")
    sender.send_object([1, 2], timeout_s=PATIENCE_S)
    demand_equal(receiver.receive_object(tuple[int, int], timeout_s=PATIENCE_S), (1, 2), "typed")
    demand_equal(receiver.try_receive_object(default="none"), "none", "try_receive_object()")
    sender.send_object({1, (2, 3)}, codec="pickle", timeout_s=PATIENCE_S)
    got = receiver.receive_object(codec="pickle", timeout_s=PATIENCE_S)
    demand_equal(got, {1, (2, 3)}, "pickle, when both ask for it")


@check("values")
def another_kind_is_refused_and_gone(stage: Stage) -> None:
    """A message of another kind raises ProtocolError, and the next one arrives."""
    sender, receiver = stage.link()
    wrong: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (lambda: sender.send(b"plain"), lambda: receiver.receive_object(timeout_s=PATIENCE_S)),
        (
            lambda: sender.send_object([1], codec="pickle"),
            lambda: receiver.receive_object(timeout_s=PATIENCE_S),
        ),
        (
            lambda: sender.send_object("1"),
            lambda: receiver.receive_object(int, timeout_s=PATIENCE_S),
        ),
    ]
    if numpy is not None:
        wrong += [
            (lambda: sender.send(b"plain"), lambda: receiver.receive_array(PATIENCE_S)),
            (lambda: sender.send(b"plain"), lambda: receiver.lease_array(PATIENCE_S).__enter__()),
            (lambda: sender.send(b"\xc1A" + bytes(60)), lambda: receiver.receive_array(PATIENCE_S)),
        ]
    for send, receive in wrong:
        send()
        demand_raises(ProtocolError, receive)
        sender.send_object("next", timeout_s=PATIENCE_S)
        demand_equal(receiver.receive_object(timeout_s=PATIENCE_S), "next", "the next one")


def _some_arrays() -> Iterator[Any]:
    plain = numpy.arange(24, dtype="i4")
    yield from (plain, plain.reshape(2, 3, 4), plain.reshape(4, 6, order="F"), plain[3:4])
    yield from (
        plain[::-1],
        plain.reshape(4, 6)[::2, ::-3],
        plain.reshape(2, 3, 4).transpose(2, 0, 1),
    )
    yield from (numpy.array(2.5), numpy.zeros((3, 0, 2)), numpy.zeros((0,), "S3"))
    yield numpy.broadcast_to(numpy.float32(1.5), (3, 5))
    for dtype in (">f8", "?", "c16", "f2", "M8[ms]", "m8[25us]", "u1"):
        yield numpy.arange(7).astype(dtype)
    yield from (numpy.array(["", "한글", "abc"]), numpy.array([b"x", b"yy"]))
    record = numpy.dtype([("at", ">i2"), ("place", "f4", (2, 2)), ("name", "U3")], align=True)
    yield numpy.array([(1, 2.0, "a"), (3, 4.0, "bcd")], record)
    yield numpy.ones((1,) * 20)


def _demand_same(got: Any, sent: Any, what: str) -> None:
    what = f"{what} of {sent.dtype} {sent.shape}"
    demand_equal((got.dtype, got.shape), (sent.dtype, sent.shape), what)
    demand(numpy.array_equal(got, sent), f"{what}: other items came")
    demand(got.flags.aligned, f"{what}: not aligned")
    if sent.flags.forc:
        demand(got.flags.f_contiguous or not sent.flags.fnc, f"{what}: order F became C")
        demand(got.flags.c_contiguous or sent.flags.fnc, f"{what}: order C became F")


@check("values")
def arrays_arrive(stage: Stage) -> None:
    """Any dtype without objects, any shape and order; receive_array() gives memory of one's own."""
    if numpy is None:
        return
    sender, receiver = stage.link()
    kept = []
    for array in _some_arrays():
        sender.send_array(array, timeout_s=PATIENCE_S)
        got = receiver.receive_array(timeout_s=PATIENCE_S)
        _demand_same(got, array, "receive_array()")
        demand(got.flags.writeable, "a received array cannot be written to")
        kept.append((got, array))
        demand_equal(sender.try_send_array(array), True, "try_send_array()")
        with receiver.lease_array(timeout_s=PATIENCE_S) as leased:
            _demand_same(leased, array, "lease_array()")
            demand(not leased.flags.writeable, "a leased array can be written to")
            if stage.under_test.in_place:
                demand_equal(leased.ctypes.data % 64, 0, "address of a leased array, modulo 64")
    for got, array in kept:
        _demand_same(got, array, "an array that was received before the others")
    demand_equal(receiver.try_receive_array(), None, "try_receive_array() of nothing")
    demand_raises(TypeError, sender.send_array, numpy.array([None, "object"]))


@check("values")
def large_arrays_arrive(stage: Stage) -> None:
    """Arrays up to the largest message, in one piece or gathered, whatever the transport holds."""
    if numpy is None:
        return
    sender, receiver = stage.link()
    most = stage.under_test.max_message_bytes - 256
    whole = numpy.arange(most // 2, dtype="u2")
    square = numpy.arange((int(most**0.5) - 1) ** 2, dtype="u1").reshape(int(most**0.5) - 1, -1)
    for array in (whole, whole[::-2], square, square.T, square[::2, ::-1], square.T[1:, 1:]):
        for receive in (_receive_copy, _lease_copy):
            sending = stage.run(sender.send_array, array, timeout_s=PATIENCE_S)
            _demand_same(receive(receiver), array, receive.__name__)
            sending.result()

        def reserve(array: Any = array) -> None:
            with sender.reserve_array(array.shape, array.dtype, timeout_s=PATIENCE_S) as room:
                room[...] = array

        sending = stage.run(reserve)
        demand(numpy.array_equal(_lease_copy(receiver), array), "reserve_array()")
        sending.result()


def _receive_copy(receiver: Any) -> Any:
    return receiver.receive_array(timeout_s=PATIENCE_S)


def _lease_copy(receiver: Any) -> Any:
    with receiver.lease_array(timeout_s=PATIENCE_S) as array:
        return array.copy("K")


@check("values")
def a_leased_array_ends_with_its_block(stage: Stage) -> None:
    """The name after `as` is emptied; another way to the memory raises BufferError and stays true."""
    if numpy is None:
        return
    sender, receiver = stage.link()
    sent = numpy.arange(32.0)
    for number in range(3):
        sender.send_array(sent + number, timeout_s=PATIENCE_S)
        with receiver.lease_array(timeout_s=PATIENCE_S) as array:
            demand_equal(float(array[5]), 5.0 + number, "array[5]")
        demand_raises(IndexError, lambda: array[5])
        demand_raises(TypeError, lambda: array.sum())
        demand_raises(TypeError, lambda: array + 1)
    sender.send_array(sent, timeout_s=PATIENCE_S)
    kept = _outlive(receiver)
    for _ in range(50):
        if not sender.try_send_array(sent + 1):
            break
    demand(numpy.array_equal(kept, sent[4:8]), "a slice that outlived its block shows other items")
    del kept
    gc.collect()
    demand_equal(float(receiver.receive_array(timeout_s=PATIENCE_S)[0]), 1.0, "the next array")


def _outlive(receiver: Any) -> Any:
    try:
        with receiver.lease_array(timeout_s=PATIENCE_S) as array:
            kept = array[4:8]
    except BufferError:
        return kept
    demand(False, "lease_array() said nothing about a slice that outlived its block")
    return None


@check("values")
def reserved_arrays_are_sent(stage: Stage) -> None:
    """What was written is sent at the end; not after an exception, nor when a slice is kept."""
    if numpy is None:
        return
    sender, receiver = stage.link()
    shapes: list[tuple[Any, str, Any]] = [
        ((3, 4), "f8", "C"), ((3, 4), ">i2", "F"), ((), "?", "C"), (0, "f4", "C")
    ]  # fmt: skip
    for shape, dtype, order in shapes:
        with sender.reserve_array(shape, dtype, order, timeout_s=PATIENCE_S) as room:
            demand(room.flags.writeable and room.flags.aligned, "a reserved array")
            demand_equal(room.ctypes.data % 64, 0, "address of a reserved array, modulo 64")
            room[...] = 1
        demand_raises((IndexError, TypeError), lambda: room[0])
        wanted = numpy.ones(shape, dtype, order)
        _demand_same(receiver.receive_array(timeout_s=PATIENCE_S), wanted, "reserve_array()")
    try:
        with sender.reserve_array(8, timeout_s=PATIENCE_S) as room:
            room[:] = 1
            raise _PlannedError
    except _PlannedError:
        demand_equal(receiver.try_receive(), None, "a dropped reservation was sent")
    demand_raises(BufferError, _reserve_and_keep, sender)
    gc.collect()
    demand_equal(receiver.try_receive(), None, "one that was still seen was sent")
    sender.send_array(numpy.arange(3), timeout_s=PATIENCE_S)
    got = receiver.receive_array(timeout_s=PATIENCE_S)
    demand_equal(got.tolist(), [0, 1, 2], "the next array")


def _reserve_and_keep(sender: Any) -> None:
    with sender.reserve_array(8, timeout_s=PATIENCE_S) as room:
        kept = room[2:]
        room[:] = 1
    del kept


@check("values", "reliable")
def threads_send_arrays(stage: Stage) -> None:
    """Several threads send arrays and bytes on one end; each message is whole."""
    if numpy is None:
        return
    sender, receiver = stage.link()
    size = min(20_000, stage.under_test.max_message_bytes // 8)

    def send(number: int) -> None:
        array = numpy.full(size, number, "u1")
        for turn in range(50):
            sender.send_array(array if turn % 2 else array[::-1], timeout_s=PATIENCE_S)

    sending = [stage.run(send, number) for number in range(4)]
    counts = [0] * 4
    for _ in range(200):
        array = receiver.receive_array(timeout_s=PATIENCE_S)
        demand(len(array) == size and (array == array[0]).all(), "an array is of two senders")
        counts[array[0]] += 1
    for task in sending:
        task.result()
    demand_equal(counts, [50] * 4, "arrays of each thread")


CHECKS = (
    objects_arrive,
    another_kind_is_refused_and_gone,
    arrays_arrive,
    large_arrays_arrive,
    a_leased_array_ends_with_its_block,
    reserved_arrays_are_sent,
    threads_send_arrays,
)
