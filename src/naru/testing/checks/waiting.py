"""Waiting: no longer than told, woken by what happens, ended by Ctrl-C; nothing is left behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from naru.errors import NaruError, TimedOutError
from naru.testing.checks.catalogue import check
from naru.testing.checks.pressure import fill
from naru.testing.checks.stage import PATIENCE_S, Stage, demand, demand_equal, demand_raises
from naru.testing.children import until_sleeping
from naru.testing.ledger import LedgerReader, LedgerWriter


@check(streams=True)
def receiving_waits_no_longer_than_told(stage: Stage) -> None:
    """Every receiving verb raises TimedOutError (also a TimeoutError) and takes nothing with it."""
    sender, receiver = stage.link()
    for timeout_s in (0, 0.01):
        for verb, *args in (
            (receiver.receive,),
            (receiver.receive_many, 5),
            (receiver.receive_into, bytearray(10)),
        ):
            error = demand_raises(TimedOutError, verb, *args, timeout_s=timeout_s)
            demand(isinstance(error, TimeoutError), "TimedOutError is no TimeoutError")
            demand(isinstance(error, NaruError), "TimedOutError is no NaruError")
    sender.send(b"next", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"next", "receive()")


@check(streams=True)
def a_timeout_of_zero_takes_what_is_there(stage: Stage) -> None:
    """timeout_s=0 is one look and not a refusal."""
    sender, receiver = stage.link()
    sender.send(b"there", timeout_s=0)
    for attempt in range(1000):
        try:
            demand_equal(receiver.receive(timeout_s=0), b"there", "receive(timeout_s=0)")
            return
        except TimedOutError:
            demand(attempt < 999, "receive(timeout_s=0) never saw the message")
            os.sched_yield()


@check(streams=True)
def a_wrong_timeout_is_refused(stage: Stage) -> None:
    """Negative, NaN and text raise ValueError or TypeError where the verb would have to wait."""
    _, receiver = stage.link()
    for wrong in (-1, -0.001, float("nan"), "1"):
        demand_raises((ValueError, TypeError), receiver.receive, timeout_s=wrong)
    demand_raises(TimedOutError, receiver.receive, timeout_s=0)


@check(streams=True)
def a_message_wakes_a_receiver(stage: Stage) -> None:
    """A thread that waits for a message gets the next one, again and again."""
    sender, receiver = stage.link()
    for turn in range(20):
        waiting = stage.run(receiver.receive, timeout_s=PATIENCE_S)
        if turn % 4 == 0:
            until_sleeping(waiting.native_id, patience_s=0.1)
        sender.send(b"%d" % turn, timeout_s=PATIENCE_S)
        demand_equal(waiting.result(), b"%d" % turn, "the awaited message")


@check("channel")
def ends_take_turns(stage: Stage) -> None:
    """Question and answer, a hundred times, each waiting for the other: no wake-up is lost."""
    a, b = stage.pair()
    turns = 100

    def answer() -> None:
        for _ in range(turns):
            b.send(b"answer to " + b.receive(timeout_s=PATIENCE_S), timeout_s=PATIENCE_S)

    answering = stage.run(answer)
    for turn in range(turns):
        a.send(b"%d" % turn, timeout_s=PATIENCE_S)
        demand_equal(a.receive(timeout_s=PATIENCE_S), b"answer to %d" % turn, "the answer")
    answering.result()


@check(streams=True)
def ctrl_c_ends_a_wait_for_a_message(stage: Stage) -> None:
    """KeyboardInterrupt comes out of every receiving verb, and the end goes on."""
    sender, receiver = stage.link()
    for verb, *args in (
        (receiver.receive,),
        (receiver.receive_many,),
        (receiver.receive_into, bytearray(100)),
        (receiver.__next__,),
        (receiver.lease().__enter__,),
    ):
        if not _interrupt(verb, *args):
            return
    sender.send(b"next", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"next", "receive() after Ctrl-C")


@check("back_pressure", "order", "reliable")
def ctrl_c_ends_a_wait_for_room(stage: Stage) -> None:
    """KeyboardInterrupt comes out of a send; what was interrupted is sent whole or not at all."""
    sender, receiver = stage.link()
    writer = LedgerWriter(1, 512)
    fill(sender, writer)
    message = writer.next()
    if not _interrupt(sender.send, message):
        return
    reader = LedgerReader()
    end_marker = stage.run(sender.send, b"the end", timeout_s=PATIENCE_S)
    while (got := receiver.receive(timeout_s=PATIENCE_S)) != b"the end":
        reader.add(got)
    end_marker.result()
    report = reader.report()
    demand(report.is_perfect, str(report))
    demand(report.received in (writer.count - 1, writer.count), f"{report} of {writer.count}")


def _interrupt(function: Callable[..., Any], *args: Any) -> bool:
    """Calls the function, which waits, and sends Ctrl-C meanwhile: KeyboardInterrupt must come.

    False when this cannot be tried: signals come to the first thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    first = threading.get_native_id()

    def press() -> None:
        until_sleeping(first, patience_s=0.1)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    try:
        pressing.start()
        result = function(*args)
        pressing.join()
    except KeyboardInterrupt:
        pressing.join()
        return True
    finally:
        signal.signal(signal.SIGINT, before)
    demand(False, f"{function.__name__} gave {result!r} instead of KeyboardInterrupt")
    return True


CHECKS = (
    receiving_waits_no_longer_than_told,
    a_timeout_of_zero_takes_what_is_there,
    a_wrong_timeout_is_refused,
    a_message_wakes_a_receiver,
    ends_take_turns,
    ctrl_c_ends_a_wait_for_a_message,
    ctrl_c_ends_a_wait_for_room,
)
