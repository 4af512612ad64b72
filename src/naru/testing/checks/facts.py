"""What ends say about themselves: numbers, names, descriptors to poll, and what does not travel."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import select

from naru.errors import NaruError
from naru.statistics import Statistics
from naru.testing.checks.catalogue import check
from naru.testing.checks.stage import (
    PATIENCE_S,
    ConformanceError,
    Stage,
    demand,
    demand_equal,
    demand_raises,
)
from naru.testing.ledger import LedgerWriter

LOOKS = 100


@check("counts")
def statistics_add_up(stage: Stage) -> None:
    """Messages and bytes of both ends agree with what was sent; a record is a copy."""
    sender, receiver = stage.link()
    before = sender.statistics()
    demand(isinstance(before, Statistics), f"statistics() gave a {type(before).__name__}")
    demand_equal((before.messages_sent, before.bytes_sent), (0, 0), "at the start")
    sent = 0
    for turn in range(4):
        for message in (b"", b"x" * 100, b"y" * 24):
            if turn == 0:
                sender.send(message, timeout_s=PATIENCE_S)
            elif turn == 1:
                demand(sender.try_send(message), "try_send()")
            elif turn == 2:
                sender.send_many([message], timeout_s=PATIENCE_S)
            else:
                with sender.reserve(len(message), timeout_s=PATIENCE_S) as view:
                    view[:] = message
            sent += len(message)
            if turn == 0:
                receiver.receive(timeout_s=PATIENCE_S)
            elif turn == 1:
                receiver.receive_many(timeout_s=PATIENCE_S)
            elif turn == 2:
                with receiver.lease(timeout_s=PATIENCE_S):
                    pass
            else:
                with receiver.lease_many(timeout_s=PATIENCE_S):
                    pass
    out, into = sender.statistics(), receiver.statistics()
    demand_equal((out.messages_sent, out.bytes_sent), (12, sent), "sent")
    demand_equal((into.messages_received, into.bytes_received), (12, sent), "received")
    demand_equal((out.messages_received, into.messages_sent), (0, 0), "the other direction")
    demand_equal(into.depth_bytes, 0, "depth_bytes with nothing there")
    demand_equal((into.lost, into.duplicates, into.reordered, into.torn), (0, 0, 0, 0), "losses")
    demand_equal(before.messages_sent, 0, "an earlier record changed")
    demand_raises(dataclasses.FrozenInstanceError, setattr, before, "messages_sent", 1)
    for name, number in dataclasses.asdict(into).items():
        demand(isinstance(number, int) and number >= 0, f"{name} is {number!r}")


@check("counts")
def failed_verbs_are_not_counted(stage: Stage) -> None:
    """What was refused or found nothing counts as no message; a wait counts as a wait."""
    sender, receiver = stage.link()
    demand_equal(receiver.try_receive(), None, "try_receive()")
    demand_raises(NaruError, receiver.receive, timeout_s=0.01)
    demand_raises(NaruError, sender.send, bytes(stage.under_test.max_message_bytes + 1))
    demand_equal(sender.statistics().messages_sent, 0, "messages_sent")
    statistics = receiver.statistics()
    demand_equal(statistics.messages_received, 0, "messages_received")
    demand(statistics.waits >= 1, "a wait was not counted")


@check(streams=True)
def an_end_describes_itself(stage: Stage) -> None:
    """repr() names the kind of end and its address, in every state; .peer is a peer or None."""
    for end in stage.link():
        text = repr(end)
        demand(str(end.address) in text, f"{text} does not name {end.address}")
        peer = end.peer
        demand(peer is None or peer.pid > 0, f"peer is {peer!r}")
        end.close()
        demand("closed" in repr(end), f"{end!r} does not say that it is closed")
        demand(str(end.address) in repr(end), f"{end!r} forgot its address")


@check("pollable", streams=True)
def a_descriptor_shows_messages(stage: Stage) -> None:
    """fileno() polls readable when there is something, and not after try_receive() gave None."""
    sender, receiver = stage.link()
    poll = select.poll()
    poll.register(receiver.fileno(), select.POLLIN)
    for turn in range(5):
        for _ in range(LOOKS):  # a sign of life may come in between
            demand_equal(receiver.try_receive(), None, "try_receive() with nothing there")
            if not poll.poll(0):
                break
        else:
            raise ConformanceError("readable with nothing there, all the time")
        sender.send(b"%d" % turn, timeout_s=PATIENCE_S)
        demand(poll.poll(PATIENCE_S * 1000), "not readable although something was sent")
        demand_equal(receiver.try_receive(), b"%d" % turn, "try_receive() after poll")
    if not stage.under_test.is_channel:
        demand_raises(NaruError, sender.fileno)


@check("pollable", "tells_end", streams=True)
def a_descriptor_shows_the_end(stage: Stage) -> None:
    """fileno() polls readable when the peer closed."""
    sender, receiver = stage.link()
    sender.send(b"x", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"x", "receive()")
    poll = select.poll()
    poll.register(receiver.fileno(), select.POLLIN)
    demand_equal(receiver.try_receive(), None, "try_receive()")
    sender.close()
    demand(poll.poll(PATIENCE_S * 1000), "not readable although the peer closed")


@check("priority")
def the_highest_priority_comes_first(stage: Stage) -> None:
    """Among waiting messages: by priority, and in order within one."""
    sender, receiver = stage.link()
    sent = [(0, b"a"), (5, b"b"), (0, b"c"), (9, b"d"), (5, b"e"), (32767, b"f")]
    for priority, message in sent:
        sender.send(message, timeout_s=PATIENCE_S, priority=priority)
    got = [receiver.receive_with_priority(timeout_s=PATIENCE_S) for _ in sent]
    wanted = [(message, priority) for priority, message in sorted(sent, key=lambda one: -one[0])]
    demand_equal(got, wanted, "messages with priorities")


@check(streams=True)
def an_end_in_use_does_not_travel(stage: Stage) -> None:
    """Pickling or copying a receiving end in use raises, clearly; the end goes on."""
    sender, receiver = stage.link()
    sender.send(b"first", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"first", "receive()")
    for function in (pickle.dumps, copy.copy, copy.deepcopy):
        demand_raises((NaruError, TypeError), function, receiver)
    sender.send(b"next", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"next", "receive()")


@check("counts", "reliable")
def waiting_messages_are_seen(stage: Stage) -> None:
    """depth_bytes is 0 with nothing there, and never negative with something."""
    sender, receiver = stage.link()
    for message in LedgerWriter(1).take(stage.under_test.holds_messages):
        sender.send(message, timeout_s=PATIENCE_S)
    receiver.receive(timeout_s=PATIENCE_S)  # what is there has been looked at now
    demand(receiver.statistics().depth_bytes >= 0, "a negative depth")
    repr(receiver)
    for _ in range(stage.under_test.holds_messages - 1):
        receiver.receive(timeout_s=PATIENCE_S)
    demand_equal(receiver.statistics().depth_bytes, 0, "depth_bytes after everything was received")


CHECKS = (
    statistics_add_up,
    failed_verbs_are_not_counted,
    an_end_describes_itself,
    a_descriptor_shows_messages,
    a_descriptor_shows_the_end,
    the_highest_priority_comes_first,
    an_end_in_use_does_not_travel,
    waiting_messages_are_seen,
)
