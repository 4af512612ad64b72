"""lease, lease_many and reserve: messages where they lie, and how long they may be looked at."""

from __future__ import annotations

import gc
from typing import Any

from naru.errors import NaruError, TimedOutError
from naru.testing.checks.catalogue import check
from naru.testing.checks.stage import PATIENCE_S, Stage, demand, demand_equal, demand_raises
from naru.testing.ledger import LedgerReader, LedgerWriter


class _PlannedError(Exception):
    """Raised inside a block on purpose."""


@check()
def a_lease_shows_the_message(stage: Stage) -> None:
    """lease() gives a read-only view of bytes, valid in its block, and takes the message."""
    sender, receiver = stage.link()
    sender.send(b"first", timeout_s=PATIENCE_S)
    with receiver.lease(timeout_s=PATIENCE_S) as view:
        demand(isinstance(view, memoryview), f"lease() gave a {type(view).__name__}")
        demand_equal((view.format, view.ndim, view.readonly), ("B", 1, True), "the view's shape")
        demand_equal(view.tobytes(), b"first", "the view")
        demand_raises(TypeError, view.__setitem__, 0, 1)
    demand_raises(ValueError, lambda: view[0])
    demand_raises(ValueError, view.tobytes)
    sender.send(b"", timeout_s=PATIENCE_S)
    with receiver.lease(timeout_s=PATIENCE_S) as view:
        demand_equal(len(view), 0, "the view of an empty message")
    demand_equal(receiver.try_receive(), None, "a leased message came again")


@check()
def a_lease_is_for_one_block(stage: Stage) -> None:
    """A lease cannot be entered twice, and one that is never entered takes nothing."""
    sender, receiver = stage.link()
    sender.send(b"first", timeout_s=PATIENCE_S)
    for unused in (receiver.lease(), receiver.lease_many(), sender.reserve(3)):
        del unused
    for make in (receiver.lease, receiver.lease_many):
        lease = make(timeout_s=PATIENCE_S)
        with lease:
            pass
        demand_raises(ValueError, lease.__enter__)
        sender.send(b"next", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"next", "receive()")


@check()
def an_exception_in_a_lease_takes_the_message(stage: Stage) -> None:
    """The exception passes unchanged; the message is gone as if it had been received."""
    sender, receiver = stage.link()
    for make in (receiver.lease, receiver.lease_many):
        sender.send(b"first", timeout_s=PATIENCE_S)
        try:
            with make(timeout_s=PATIENCE_S):
                raise _PlannedError
        except _PlannedError:
            demand_equal(receiver.try_receive(), None, "the message came again")
        sender.send(b"next", timeout_s=PATIENCE_S)
        demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"next", "receive()")


@check()
def a_lease_waits_no_longer_than_told(stage: Stage) -> None:
    """With nothing there, entering raises TimedOutError and the end goes on."""
    sender, receiver = stage.link()
    for make in (receiver.lease, receiver.lease_many):
        for timeout_s in (0, 0.01):
            demand_raises(TimedOutError, make(timeout_s=timeout_s).__enter__)
    sender.send(b"next", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"next", "receive()")


@check()
def a_batch_is_a_sequence_of_views(stage: Stage) -> None:
    """lease_many(): len, index, slices of a view, bytes(), memoryview(), equality, iteration."""
    sender, receiver = stage.link()
    messages = [b"0123456789", b"", b"xyz"]
    seen: list[bytes] = []
    sender.send_many(messages, timeout_s=PATIENCE_S)
    while len(seen) < len(messages):
        with receiver.lease_many(2, timeout_s=PATIENCE_S) as batch:
            demand(1 <= len(batch) <= 2, f"lease_many(2) gave {len(batch)} messages")
            demand_raises(IndexError, lambda b=batch: b[len(b)])
            demand_equal(bytes(batch[-1]), bytes(batch[len(batch) - 1]), "batch[-1]")
            for view in batch:
                _try_view(view, bytes(view))
                seen.append(bytes(view))
        demand_raises(ValueError, lambda b=batch: b[0])
        demand_raises(ValueError, bytes, view)
        demand_raises((ValueError, BufferError), memoryview, view)
    demand_equal(seen, messages, "what the batches held")


def _try_view(view: Any, message: bytes) -> None:
    demand_equal(len(view), len(message), "len(view)")
    demand_equal(view[2:7], message[2:7], "view[2:7]")
    demand(view == message, "view == its bytes")
    demand(view != message + b"!", "view != other bytes")
    with memoryview(view) as seen:
        demand(seen.readonly, "a view that can be written to")
        demand_equal(seen.tobytes(), message, "memoryview(view)")
    if message:
        demand_equal((view[0], view[-1]), (message[0], message[-1]), "view[0], view[-1]")


@check("arrays")
def a_batch_is_an_array(stage: Stage) -> None:
    """batch.array(dtype): equal-sized messages as rows; unequal ones are refused."""
    try:
        import numpy
    except ImportError:
        return  # an extra; without it there is nothing to try
    sender, receiver = stage.link()
    rows = [numpy.arange(i, i + 8, dtype="i4") for i in range(4)]
    sender.send_many(rows, timeout_s=PATIENCE_S)
    taken = 0
    while taken < len(rows):
        with receiver.lease_many(timeout_s=PATIENCE_S) as batch:
            array = batch.array("i4")
            demand_equal((array.shape[1], array.dtype.str), (8, "<i4"), "the array's shape")
            demand(not array.flags.writeable, "the array can be written to")
            demand_equal(array.tolist(), [r.tolist() for r in rows[taken:][: len(array)]], "rows")
            demand_raises(ValueError, batch.array, "S5")
            taken += len(array)
            del array
        demand_raises(ValueError, batch.array, "i4")
    sender.send_many([b"12", b"1234"], timeout_s=PATIENCE_S)
    with receiver.lease_many(timeout_s=PATIENCE_S) as batch:
        if len(batch) == 2:
            demand_raises(ValueError, batch.array)


@check("order", "reliable")
def a_view_that_outlives_its_block_stays_true(stage: Stage) -> None:
    """Leaving the block raises BufferError; the view still shows its message, whatever is sent;
    once it is gone, receiving goes on and nothing is lost."""
    for verb in ("lease", "lease_many"):
        sender, receiver = stage.link()
        writer, reader = LedgerWriter(1, 64), LedgerReader()
        for message in writer.take(2):
            sender.send(message, timeout_s=PATIENCE_S)
        kept, first = _outlive(receiver, verb)
        copy = bytes(first)
        reader.add(first)
        while writer.count < 3000:  # as many as the transport takes meanwhile
            upcoming = LedgerWriter(1, 64)
            upcoming.count = writer.count
            if not sender.try_send(upcoming.next()):
                break
            writer.count += 1
        demand_equal(bytes(kept), copy, f"the view after {verb}() while more was sent")
        for other in (receiver.try_receive, receiver.receive_many):
            _receive_or_refuse(other, reader)
        demand_equal(bytes(kept), copy, f"the view after {verb}() while more was received")
        kept.release()
        del kept
        gc.collect()
        receiving = stage.run(_receive_until, receiver, reader, writer.count + 1)
        sender.send(writer.next(), timeout_s=PATIENCE_S)
        receiving.result()
        report = reader.report({1: writer.count})
        demand(report.is_perfect, f"{verb}: {report}")


def _outlive(receiver: Any, verb: str) -> tuple[memoryview, bytes]:
    """A view whose block is over, and its message."""
    try:
        if verb == "lease":
            with receiver.lease(timeout_s=PATIENCE_S) as view:
                kept, first = memoryview(view)[:], bytes(view)
        else:
            with receiver.lease_many(1, timeout_s=PATIENCE_S) as batch:
                kept, first = memoryview(batch[0]), bytes(batch[0])
    except BufferError:
        return kept, first
    demand(False, f"{verb}() said nothing about a view that outlived its block")
    raise AssertionError


def _receive_or_refuse(receive: Any, reader: LedgerReader) -> None:
    """While a view is alive an end may refuse to receive, but it may not lose anything."""
    try:
        got = receive()
    except NaruError:
        return
    reader.add_all(got if isinstance(got, list) else [got] if got is not None else [])


def _receive_until(receiver: Any, reader: LedgerReader, count: int) -> None:
    while reader.report().received < count:
        reader.add(receiver.receive(timeout_s=PATIENCE_S))


@check()
def reserve_sends_what_was_written(stage: Stage) -> None:
    """The view is writable, of the size asked for; leaving the block sends it as one message."""
    sender, receiver = stage.link()
    for message in (b"0123456789", b"", b"x" * 24):
        with sender.reserve(len(message), timeout_s=PATIENCE_S) as view:
            shape = (view.format, view.nbytes, view.readonly)
            demand_equal(shape, ("B", len(message), False), "the view's shape")
            view[:] = message
            demand_equal(receiver.try_receive(), None, "it came before the block was left")
        demand_equal(receiver.receive(timeout_s=PATIENCE_S), message, "receive()")
        demand_raises(ValueError, view.tobytes)
    demand_raises(ValueError, sender.reserve, -1)


@check()
def an_exception_drops_a_reservation(stage: Stage) -> None:
    """The exception passes unchanged, nothing is sent, the end goes on."""
    sender, receiver = stage.link()
    for size in (0, 24, 4000):
        try:
            with sender.reserve(size, timeout_s=PATIENCE_S) as view:
                view[:] = b"!" * size
                raise _PlannedError
        except _PlannedError:
            demand_equal(receiver.try_receive(), None, "a dropped reservation was sent")
    sender.send(b"next", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"next", "receive()")


@check()
def a_reservation_that_is_still_seen_is_not_sent(stage: Stage) -> None:
    """With a second view alive, leaving the block raises BufferError and nothing is sent."""
    sender, receiver = stage.link()
    kept: list[memoryview] = []

    def reserve() -> None:
        with sender.reserve(24, timeout_s=PATIENCE_S) as view:
            view[:] = b"A" * 24
            kept.append(memoryview(view))

    demand_raises(BufferError, reserve)
    demand_equal(kept[0].tobytes(), b"A" * 24, "the surviving view")
    kept[0][:] = b"B" * 24
    demand_equal(receiver.try_receive(), None, "it was sent")
    kept.pop().release()
    gc.collect()
    sender.send(b"next", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"next", "receive()")


@check("order", "reliable")
def reservations_and_sends_keep_their_order(stage: Stage) -> None:
    """reserve() and send() by turns, thousands of times round: one sequence."""
    sender, receiver = stage.link()
    writer, reader = LedgerWriter(1, lambda sequence: 24 + sequence * 41 % 900), LedgerReader()

    def send() -> None:
        for turn in range(1000):
            message = writer.next()
            if turn % 2:
                sender.send(message, timeout_s=PATIENCE_S)
                continue
            with sender.reserve(len(message), timeout_s=PATIENCE_S) as view:
                view[:] = message

    sending = stage.run(send)
    for _ in range(500):
        with receiver.lease(timeout_s=PATIENCE_S) as view:
            reader.add(view)
        reader.add(receiver.receive(timeout_s=PATIENCE_S))
    sending.result()
    report = reader.report({1: 1000})
    demand(report.is_perfect, str(report))


CHECKS = (
    a_lease_shows_the_message,
    a_lease_is_for_one_block,
    an_exception_in_a_lease_takes_the_message,
    a_lease_waits_no_longer_than_told,
    a_batch_is_a_sequence_of_views,
    a_batch_is_an_array,
    a_view_that_outlives_its_block_stays_true,
    reserve_sends_what_was_written,
    an_exception_drops_a_reservation,
    a_reservation_that_is_still_seen_is_not_sent,
    reservations_and_sends_keep_their_order,
)
