"""Open files that travel next to their message, and what becomes of those nobody asked for."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from naru.errors import LimitError, UnsupportedError
from naru.testing.checks.catalogue import check
from naru.testing.checks.stage import PATIENCE_S, Stage, demand, demand_equal, demand_raises
from naru.testing.descriptors import limited_descriptors, open_descriptors

MOST_FDS = 253  # SCM_MAX_FD


@contextmanager
def files(count: int) -> Iterator[list[int]]:
    """Descriptors of so many different files; each contains its number."""
    fds = []
    try:
        for number in range(count):
            fd = os.memfd_create(f"check-{number}")
            fds.append(fd)
            os.pwrite(fd, b"%d" % number, 0)
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def read_and_close(fds: list[int]) -> list[int]:
    """The numbers in the files; every descriptor must be close-on-exec."""
    numbers = []
    for fd in fds:
        flags = fcntl.fcntl(fd, fcntl.F_GETFD)
        numbers.append(int(os.pread(fd, 10, 0)))
        os.close(fd)
        demand(flags & fcntl.FD_CLOEXEC, "a received descriptor is not close-on-exec")
    return numbers


@check("descriptors")
def descriptors_arrive_with_their_message(stage: Stage) -> None:
    """In their order, close-on-exec, new numbers for the same files; the sender keeps its own."""
    sender, receiver = stage.link()
    with files(4) as fds:
        for count in (1, 2, 4):
            sender.send_fds(b"%d files" % count, fds[:count], timeout_s=PATIENCE_S)
            message, got = receiver.receive_fds(timeout_s=PATIENCE_S)
            demand_equal(message, b"%d files" % count, "the message")
            demand(not set(got) & set(fds), "the sender's own numbers came")
            demand_equal(read_and_close(got), list(range(count)), "the files")
            demand_equal([int(os.pread(fd, 10, 0)) for fd in fds], [0, 1, 2, 3], "the sender's")
        sender.send(b"none", timeout_s=PATIENCE_S)
        demand_equal(receiver.receive_fds(timeout_s=PATIENCE_S), (b"none", []), "without any")
        with open(fds[0], closefd=False) as file:
            sender.send_fds(bytearray(b"an object"), [file], timeout_s=PATIENCE_S)
        message, got = receiver.receive_fds(timeout_s=PATIENCE_S)
        demand_equal((message, read_and_close(got)), (b"an object", [0]), "an object with fileno()")


@check("descriptors", "order")
def descriptors_stay_with_their_message(stage: Stage) -> None:
    """Among messages without, small and large, each finds its own."""
    sender, receiver = stage.link()
    large = b"L" * min(stage.under_test.max_message_bytes, 300_000)
    with files(3) as fds:

        def send() -> None:
            sender.send(b"A", timeout_s=PATIENCE_S)
            sender.send_fds(b"B", fds[0:1], timeout_s=PATIENCE_S)
            sender.send(b"C", timeout_s=PATIENCE_S)
            sender.send_fds(large, fds[1:3], timeout_s=PATIENCE_S)
            sender.send(large, timeout_s=PATIENCE_S)
            sender.send_fds(b"D", fds[0:3], timeout_s=PATIENCE_S)

        sending = stage.run(send)
        got = []
        for _ in range(6):
            message, came = receiver.receive_fds(timeout_s=PATIENCE_S)
            got.append((message, read_and_close(came)))
        sending.result()
    wanted = [(b"A", []), (b"B", [0]), (b"C", []), (large, [1, 2]), (large, []), (b"D", [0, 1, 2])]
    demand_equal(got, wanted, "what came with what")


@check("descriptors")
def as_many_descriptors_as_the_kernel_takes(stage: Stage) -> None:
    """253 in one message arrive; 254 and none are refused with LimitError, wrong ones as wrong."""
    sender, receiver = stage.link()
    with files(MOST_FDS + 1) as fds:
        for wrong in ([], fds):
            demand_raises(LimitError, sender.send_fds, b"x", wrong)
        demand_raises((ValueError, OSError), sender.send_fds, b"x", [-1])
        demand_raises((TypeError, AttributeError), sender.send_fds, b"x", ["0"])
        demand_raises(ValueError, sender.send_fds, b"", fds[:1])
        sender.send_fds(b"all", fds[:MOST_FDS], timeout_s=PATIENCE_S)
        message, got = receiver.receive_fds(timeout_s=PATIENCE_S)
        demand_equal((message, read_and_close(got)), (b"all", list(range(MOST_FDS))), "253 files")


@check("descriptors")
def descriptors_nobody_asked_for_are_closed(stage: Stage) -> None:
    """Every other receiving verb gives the message, closes its descriptors and counts them."""
    sender, receiver = stage.link()
    buffer = bytearray(10)

    def lease(make: Any) -> None:
        with make(timeout_s=PATIENCE_S):
            pass

    verbs: list[Callable[[], object]] = [
        lambda: receiver.receive(timeout_s=PATIENCE_S),
        lambda: receiver.receive_many(timeout_s=PATIENCE_S),
        lambda: receiver.receive_into(buffer, timeout_s=PATIENCE_S),
        lambda: next(receiver),
        lambda: lease(receiver.lease),
        lambda: lease(receiver.lease_many),
    ]
    with files(3) as fds:
        for verb in verbs:
            before = open_descriptors()
            sender.send_fds(b"x", fds, timeout_s=PATIENCE_S)
            verb()
            demand_equal(len(open_descriptors()), len(before), "open descriptors")
        sender.send_fds(b"limited", fds, timeout_s=PATIENCE_S)
        message, got = receiver.receive_fds(1, timeout_s=PATIENCE_S)
        demand_equal((message, read_and_close(got)), (b"limited", [0]), "receive_fds(limit=1)")
        if stage.under_test.counts:
            wanted = 3 * len(verbs) + 2
            demand_equal(receiver.statistics().fds_dropped, wanted, "fds_dropped")


@check("descriptors")
def unread_descriptors_are_closed_with_the_end(stage: Stage) -> None:
    """What was never received is closed when both ends are."""
    before = len(open_descriptors())
    sender, receiver = stage.link()
    with files(3) as fds:
        for number in range(3):
            sender.send_fds(b"unread", fds[: number + 1], timeout_s=PATIENCE_S)
        receiver.receive(timeout_s=PATIENCE_S)  # what follows may have been read ahead
    receiver.close()
    sender.close()
    demand_equal(len(open_descriptors()), before, "open descriptors")


@check("descriptors", "order")
def a_full_process_loses_that_message_only(stage: Stage) -> None:
    """With too few free descriptors: LimitError, nothing stays open, the next messages arrive."""
    sender, receiver = stage.link()
    sender.send(b"warm-up", timeout_s=PATIENCE_S)
    receiver.receive(timeout_s=PATIENCE_S)
    with files(3) as fds:
        sender.send_fds(b"too many", fds, timeout_s=PATIENCE_S)
        before = len(open_descriptors())
        with limited_descriptors(1):
            demand_raises(LimitError, receiver.receive_fds, timeout_s=PATIENCE_S)
        demand_equal(len(open_descriptors()), before, "open descriptors")
        sender.send_fds(b"next", fds, timeout_s=PATIENCE_S)
        message, got = receiver.receive_fds(timeout_s=PATIENCE_S)
        demand_equal((message, read_and_close(got)), (b"next", [0, 1, 2]), "the next message")


@check("not descriptors", streams=True)
def descriptors_are_refused(stage: Stage) -> None:
    """A transport that passes none says so with UnsupportedError, and goes on."""
    sender, receiver = stage.link()
    with files(1) as fds:
        demand_raises(UnsupportedError, sender.send_fds, b"x", fds)
    sender.send(b"next", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive(timeout_s=PATIENCE_S), b"next", "receive()")
    sender.send(b"none", timeout_s=PATIENCE_S)
    demand_equal(receiver.receive_fds(timeout_s=PATIENCE_S), (b"none", []), "receive_fds()")


CHECKS = (
    descriptors_arrive_with_their_message,
    descriptors_stay_with_their_message,
    as_many_descriptors_as_the_kernel_takes,
    descriptors_nobody_asked_for_are_closed,
    unread_descriptors_are_closed_with_the_end,
    a_full_process_loses_that_message_only,
    descriptors_are_refused,
)
