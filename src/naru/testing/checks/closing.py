"""The end: what close() does here, what the peer sees, who is woken, what a forgotten end says."""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

from naru.errors import ClosedError, PeerGoneError, TimedOutError
from naru.testing.checks.catalogue import check
from naru.testing.checks.pressure import demand_exactly, fill
from naru.testing.checks.stage import PATIENCE_S, Stage, demand, demand_equal, demand_raises
from naru.testing.children import until_sleeping
from naru.testing.ledger import LedgerReader, LedgerWriter
from naru.testing.subject import TransportUnderTest


def sending_verbs(sender: Any) -> list[Callable[[], Any]]:
    """Each sending verb, ready to call."""
    return [
        lambda: sender.send(b"x"),
        lambda: sender.try_send(b"x"),
        lambda: sender.send_parts([b"x"]),
        lambda: sender.send_many([b"x"]),
        lambda: sender.reserve(1).__enter__(),
    ]


def receiving_verbs(receiver: Any) -> list[Callable[[], Any]]:
    """Each receiving verb, ready to call."""
    return [
        receiver.receive,
        receiver.try_receive,
        receiver.receive_many,
        lambda: receiver.receive_into(bytearray(10)),
        lambda: next(receiver),
        lambda: receiver.lease().__enter__(),
        lambda: receiver.lease_many().__enter__(),
    ]


@check(streams=True)
def a_closed_end_says_so(stage: Stage) -> None:
    """close() may be called again; every verb of the end raises ClosedError from then on."""
    sender, receiver = stage.link()
    demand_equal((sender.closed, receiver.closed), (False, False), "closed, before")
    for end in (sender, receiver):
        for _ in range(3):
            end.close()
        demand_equal(end.closed, True, "closed, after")
        repr(end)
        end.statistics()
    for verb in sending_verbs(sender) + receiving_verbs(receiver):
        for _ in range(2):
            demand_raises(ClosedError, verb)


@check(streams=True)
def a_with_block_closes(stage: Stage) -> None:
    """`with end:` gives the end itself and closes it, also when the block raises."""
    sender, receiver = stage.link()
    with sender as inner:
        demand(inner is sender, "`with end as x` gave something else")
    demand_equal(sender.closed, True, "closed after the block")
    try:
        with receiver:
            raise RuntimeError
    except RuntimeError:
        demand_equal(receiver.closed, True, "closed after an exception")


@check("tells_end", "reliable")
def the_end_comes_after_the_last_message(stage: Stage) -> None:
    """What was sent before close() is received; then PeerGoneError with orderly=True, each time."""
    sender, receiver = stage.link()
    writer, reader = LedgerWriter(1), LedgerReader()
    for message in writer.take(stage.under_test.holds_messages):
        sender.send(message, timeout_s=PATIENCE_S)
    sender.close()
    for _ in range(writer.count):
        reader.add(receiver.receive(timeout_s=PATIENCE_S))
    demand_exactly(reader, writer.count)
    demand_raises(PeerGoneError, receiver.receive, timeout_s=PATIENCE_S)
    for verb in receiving_verbs(receiver):
        try:
            verb()
        except StopIteration:
            continue  # the iterator's way to say it
        except PeerGoneError as error:
            demand(isinstance(error, ConnectionError), "PeerGoneError is no ConnectionError")
            demand(error.orderly, f"a close in good order looks like a death: {error}")
            continue
        demand(False, "a verb found something after the end")


@check("tells_end", "reliable")
def iteration_ends_with_the_peer(stage: Stage) -> None:
    """`for message in end` gives every message, then ends without an error, also when it waits."""
    for waits in (False, True):
        sender, receiver = stage.link()
        messages = LedgerWriter(1).take(stage.under_test.holds_messages)
        iterating = stage.run(list, receiver) if waits else None
        for message in messages:
            sender.send(message, timeout_s=PATIENCE_S)
        if iterating:
            until_sleeping(iterating.native_id, patience_s=0.1)
        sender.close()
        got = iterating.result() if iterating else list(receiver)
        demand_equal(got, messages, "what iteration gave")


@check("tells_end", streams=True)
def the_end_wakes_a_receiver(stage: Stage) -> None:
    """A thread that waits for a message learns at once that the peer closed."""
    sender, receiver = stage.link()
    sender.send(b"x", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"x", "receive()")
    waiting = stage.run(receiver.receive, timeout_s=PATIENCE_S)
    until_sleeping(waiting.native_id, patience_s=0.1)
    sender.close()
    demand(waiting.error(PeerGoneError).orderly, "a close in good order looks like a death")


@check("tells_end", "back_pressure", "order", "reliable")
def close_pushes_out_what_was_accepted(stage: Stage) -> None:
    """After close() everything that was accepted arrives, although the transport was full."""
    sender, receiver = stage.link()
    writer = LedgerWriter(1, min(3000, stage.under_test.max_message_bytes))
    fill(sender, writer)
    closing = stage.run(sender.close)
    reader = LedgerReader()
    for message in receiver:
        reader.add(message)
    closing.result()
    demand_exactly(reader, writer.count)


@check("tells_gone", streams=True)
def a_sender_learns_that_the_receiver_is_gone(stage: Stage) -> None:
    """Sending to a closed receiver raises PeerGoneError, at the latest when nothing more fits."""
    sender, receiver = stage.link()
    sender.send(b"unread", timeout_s=PATIENCE_S)
    receiver.close()
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            sender.send(b"x" * 64, timeout_s=0.2)
        except PeerGoneError:
            break
        except TimedOutError:
            pass  # full, and not sure yet
        demand(time.monotonic() < until_s, "it never learned")
    demand_raises(PeerGoneError, lambda: [sender.try_send(b"x") for _ in range(100)])
    sender.close()


@check("tells_gone", "back_pressure")
def the_receivers_end_wakes_a_sender(stage: Stage) -> None:
    """A thread that waits for room learns that the receiver closed."""
    sender, receiver = stage.link()

    def send_for_ever() -> None:
        while True:
            sender.send(b"x" * 512, timeout_s=PATIENCE_S)

    waiting = stage.run(send_for_ever)
    until_sleeping(waiting.native_id, patience_s=0.1)
    receiver.close()
    waiting.error(PeerGoneError)


@check("wakes", streams=True)
def close_wakes_whoever_receives(stage: Stage) -> None:
    """close() by another thread ends every receiving wait of this end with ClosedError."""
    number = 0
    while True:
        sender, receiver = stage.link()
        functions = receiving_verbs(receiver)
        functions.remove(receiver.try_receive)
        if number == len(functions):
            return
        function = functions[number]
        number += 1
        waiting = [stage.run(function) for _ in range(2)]
        for task in waiting:
            until_sleeping(task.native_id, patience_s=0.05)
        receiver.close()
        for task in waiting:
            task.error(ClosedError)
        sender.close()


@check("wakes", "back_pressure")
def close_wakes_whoever_sends(stage: Stage) -> None:
    """close() by another thread ends every sending wait of this end with ClosedError."""
    for kind in ("send", "send_many", "reserve"):
        sender, receiver = stage.link()

        def send_for_ever(sender: Any = sender, kind: str = kind) -> None:
            while True:
                if kind == "send":
                    sender.send(b"x" * 512)
                elif kind == "send_many":
                    sender.send_many([b"x" * 512] * 10)
                else:
                    with sender.reserve(512) as view:
                        view[:] = b"x" * 512

        waiting = [stage.run(send_for_ever) for _ in range(2)]
        for task in waiting:
            until_sleeping(task.native_id, patience_s=0.05)
        closing = stage.run(sender.close)
        while not closing.join(0.001):  # it may have to push out the rest of an accepted message
            _drain(receiver)
        closing.result()
        for task in waiting:
            task.error(ClosedError)
        receiver.close()


def _drain(receiver: Any) -> None:
    try:
        while receiver.try_receive() is not None:
            continue
    except PeerGoneError:
        return  # that was all


@check(streams=True)
def a_forgotten_end_warns_and_closes(stage: Stage) -> None:
    """An open end that is collected warns with ResourceWarning and leaves no descriptor open."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _use_and_forget(stage.under_test)
        gc.collect()
    said = [one for one in caught if issubclass(one.category, ResourceWarning)]
    demand(len(said) >= 2, f"two ends were forgotten, ResourceWarning came {len(said)} times")
    demand_equal(len(os.listdir("/proc/self/fd")), before, "open descriptors")


def _use_and_forget(under_test: TransportUnderTest) -> None:
    sender, receiver = Stage(under_test).link()
    sender.send(b"x", timeout_s=PATIENCE_S)
    receiver.receive(timeout_s=PATIENCE_S)


@check(streams=True)
def a_closed_end_does_not_warn(stage: Stage) -> None:
    """An end that was closed is collected in silence."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for end in Stage(stage.under_test).link():
            end.close()
        del end
        gc.collect()
    demand_equal([str(one.message) for one in caught], [], "warnings")


CHECKS = (
    a_closed_end_says_so,
    a_with_block_closes,
    the_end_comes_after_the_last_message,
    iteration_ends_with_the_peer,
    the_end_wakes_a_receiver,
    close_pushes_out_what_was_accepted,
    a_sender_learns_that_the_receiver_is_gone,
    the_receivers_end_wakes_a_sender,
    close_wakes_whoever_receives,
    close_wakes_whoever_sends,
    a_forgotten_end_warns_and_closes,
    a_closed_end_does_not_warn,
)
