"""10: forks. An end belongs to the process that used it first; any other gets ForkedHandleError at its
first use, and takes nothing away from the owner. Unused ends of a pair travel, by fork and by pickle."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
from helpers import CHANNELS, PAIRS, QUEUES, connected, fresh_address, scaled, sender_to

import naru
from naru.testing.faults import Child, Events
from naru.testing.ledger import LedgerReader, LedgerWriter


def verbs_of(end: Any) -> list[Any]:
    """Every use of an end that could do something."""
    verbs: list[Any] = []
    if isinstance(end, naru.Sender):
        verbs += [
            lambda: end.send(b"child"), lambda: end.try_send(b"child"), lambda: end.send_many([b"child"]),
            lambda: end.send_parts([b"child"]), lambda: end.reserve(5).__enter__(),
        ]  # fmt: skip
    if isinstance(end, naru.Receiver):
        verbs += [
            lambda: end.receive(timeout_s=1), end.try_receive, lambda: end.receive_many(timeout_s=1),
            lambda: next(end), lambda: end.lease(timeout_s=1).__enter__(), end.fileno,
            lambda: end.receive_into(bytearray(100), timeout_s=1),
        ]  # fmt: skip
    return verbs


def is_refused(events: Events, *ends: Any) -> None:
    """In the child: nothing works, whatever is tried, and closing is harmless."""
    for end in ends:
        for verb in verbs_of(end) * 2:
            with pytest.raises(naru.ForkedHandleError):
                verb()
        assert end.closed
        repr(end)
        end.statistics()
        end.close()
        end.close()


def check_conversation(a: Any, b: Any) -> None:
    """Nothing that a child did is in it."""
    for sender, receiver in ((a, b), (b, a)):
        if not isinstance(sender, naru.Sender) or not isinstance(receiver, naru.Receiver):
            continue
        reader, writer = LedgerReader(), LedgerWriter(1, 200)
        for _ in range(20):
            sender.send(writer.next())
            reader.add(receiver.receive(timeout_s=10))
        assert reader.report({1: 20}).is_perfect
        with pytest.raises(naru.TimedOutError):
            receiver.receive(timeout_s=0.01)


@pytest.mark.parametrize("kind", PAIRS)
def test_fault_10_used_ends_of_a_pair_are_the_parents(kind: str) -> None:
    a, b = naru.pair(kind)
    with a, b:
        check_conversation(a, b)
        for _ in range(scaled(3, 100)):
            with Child.run(is_refused, a, b) as child:
                check_conversation(a, b)
                child.check()
        check_conversation(a, b)


@pytest.mark.parametrize("kind", CHANNELS)
def test_fault_10_a_conversation_is_the_parents(kind: str, runtime: str) -> None:
    with naru.listen(fresh_address(kind, runtime)) as listener:
        client, server = connected(listener)

        def in_child(events: Events) -> None:
            is_refused(events, client, server)
            with pytest.raises(naru.ForkedHandleError):
                listener.accept(timeout_s=1)
            listener.close()
            listener.close()

        with client, server:
            for _ in range(scaled(3, 100)):
                with Child.run(in_child) as child:
                    check_conversation(client, server)
                    child.check()
            check_conversation(client, server)
        again = connected(listener)  # the name is still there, and the parent's
        check_conversation(*again)
        for end in again:
            end.close()


@pytest.mark.parametrize("kind", QUEUES)
def test_fault_10_a_queue_is_the_parents(kind: str, runtime: str) -> None:
    with naru.receiver(fresh_address(kind, runtime)) as receiver, sender_to(receiver) as sender:
        check_conversation(sender, receiver)
        for _ in range(scaled(3, 100)):
            with Child.run(is_refused, sender, receiver) as child:
                check_conversation(sender, receiver)
                child.check()
        check_conversation(sender, receiver)
        with sender_to(receiver) as second:
            check_conversation(second, receiver)


@pytest.mark.parametrize("kind", QUEUES)
def test_fault_10_exit_of_a_child_removes_no_name(kind: str, runtime: str) -> None:
    """Also one that ends as Python does, with finalizers and atexit."""
    with naru.receiver(fresh_address(kind, runtime)) as receiver:

        def leave_in_order(events: Events) -> None:
            raise SystemExit(0)  # out of the stack, which drops the child's reference

        with Child.run(leave_in_order) as child:
            child.check()
        with sender_to(receiver) as sender:
            check_conversation(sender, receiver)


# ---- one end each ----


def echo(events: Events, end: Any) -> None:
    with end:
        for message in end:
            end.send(message)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("first", ["parent", "child"])
def test_fault_10_an_unused_end_goes_to_a_forked_child(kind: str, first: str) -> None:
    ours, theirs = naru.pair(kind)
    if first == "parent":
        ours.send(b"early")
    with ours, Child.run(echo, theirs) as child:
        if first == "parent":
            assert ours.receive(timeout_s=10) == b"early"
        reader, writer = LedgerReader(), LedgerWriter(1)
        for _ in range(50):
            ours.send(writer.next())
            reader.add(ours.receive(timeout_s=10))
        assert reader.report({1: 50}).is_perfect
        with pytest.raises(naru.ForkedHandleError):
            theirs.send(b"no longer ours")
        theirs.close()
        ours.close()
        child.check()


@pytest.mark.parametrize("kind", PAIRS)
def test_fault_10_two_processes_reach_for_the_same_end(kind: str) -> None:
    """The first one has it; which one that is, both agree on."""
    for _ in range(scaled(5, 100)):
        ours, theirs = naru.pair(kind)

        def grab(events: Events, end: Any = theirs) -> None:
            events.hear()
            try:
                end.send(b"child's")
                events.tell("mine")
            except naru.ForkedHandleError:
                events.tell("refused")
            events.hear()

        with Child.run(grab) as child, ours:
            child.tell("go")
            try:
                theirs.send(b"parent's")
                winner = b"parent's"
            except naru.ForkedHandleError:
                winner = b"child's"
            assert child.expect("refused" if winner == b"parent's" else "mine") == {}
            assert ours.receive(timeout_s=10) == winner
            child.tell("over")
            child.check()
            theirs.close()
            with pytest.raises(naru.PeerGoneError):
                ours.receive(timeout_s=10)


@pytest.mark.parametrize("kind", PAIRS)
def test_fault_10_the_ends_go_to_two_children(kind: str) -> None:
    """The parent keeps neither: each child hears of the other's end."""
    a, b = naru.pair(kind)

    def talk(events: Events, end: Any, opens: bool) -> None:
        with end:
            if opens:
                end.send(b"ping")
                assert end.receive(timeout_s=10) == b"pong"
            else:
                assert end.receive(timeout_s=10) == b"ping"
                end.send(b"pong")
                with pytest.raises(naru.PeerGoneError):
                    end.receive(timeout_s=10)

    with Child.run(talk, a, True) as one, Child.run(talk, b, False) as other:
        a.close()
        b.close()
        one.check()
        other.check()


# ---- multiprocessing ----


def echo_and_close(end: Any) -> None:
    """The target of multiprocessing: at module level, so that spawn finds it."""
    with end:
        for message in end:
            end.send(message)


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def context(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield multiprocessing.get_context(request.param)
    stop_helpers()


def stop_helpers() -> None:
    """multiprocessing keeps a server and a tracker for the next time."""
    from multiprocessing import forkserver, resource_tracker

    forkserver._forkserver._stop()
    resource_tracker._resource_tracker._stop()


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.watchdog(seconds=60)
def test_fault_10_an_unused_end_goes_to_a_multiprocessing_child(kind: str, context: Any) -> None:
    ours, theirs = naru.pair(kind)
    process = context.Process(target=echo_and_close, args=(theirs,))
    process.start()
    with ours:
        reader, writer = LedgerReader(), LedgerWriter(1, 300)
        for _ in range(20):
            ours.send(writer.next())
            reader.add(ours.receive(timeout_s=30))
        assert reader.report({1: 20}).is_perfect
        with pytest.raises(naru.ForkedHandleError):
            theirs.send(b"it has gone")
        theirs.close()
    process.join(30)
    assert process.exitcode == 0
    process.close()


@pytest.mark.parametrize("kind", ["udp:?heartbeat_s=0.1", "tcp:?heartbeat_s=0.1"])
def test_fault_10_a_child_may_take_longer_to_start_than_the_heartbeat(kind: str) -> None:
    ours, theirs = naru.pair(kind)
    context = multiprocessing.get_context("fork")
    may_begin = context.Event()
    process = context.Process(target=wait_and_echo, args=(may_begin, theirs))
    process.start()
    with ours:
        theirs.close()
        ours.send(b"early")
        with pytest.raises(TimeoutError):
            ours.receive(timeout_s=0.5)
        may_begin.set()
        assert ours.receive(timeout_s=10) == b"early"
    process.join(10)
    assert process.exitcode == 0
    process.close()


def wait_and_echo(may_begin: Any, end: Any) -> None:
    may_begin.wait()
    echo_and_close(end)


@pytest.mark.parametrize("kind", PAIRS)
def test_fault_10_used_ends_and_accepted_ones_do_not_pickle(kind: str) -> None:
    a, b = naru.pair(kind)
    with a, b:
        a.send(b"x")
        b.receive(timeout_s=10)
        for end in (a, b):
            with pytest.raises(naru.UnsupportedError):
                ForkingPickler.dumps(end)


# ---- forks under load ----


@pytest.mark.parametrize("kind", ["shm", "pipe", "unix", "tcp"])
@pytest.mark.watchdog(seconds=120)
def test_fault_10_forks_while_threads_stream(kind: str) -> None:
    """The forks come at any moment of a send, a receive and a wait."""
    forks = scaled(20, 100)
    a, b = naru.pair(kind)
    stop = threading.Event()
    writer, reader = LedgerWriter(1, lambda number: (24, 100, 5000)[number % 3]), LedgerReader()

    def send() -> None:
        while not stop.is_set():
            a.send(writer.next())
        a.close()

    def receive() -> None:
        for message in b:
            reader.add(message)

    threads = [threading.Thread(target=send), threading.Thread(target=receive)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(forks):
            with Child.run(is_refused, a, b) as child:
                child.check()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        b.close()
    report = reader.report({1: writer.count})
    assert report.is_perfect, report


def test_fault_10_a_fork_does_not_keep_the_peer_alive() -> None:
    """A child that never touches naru still must not hold its parent's connection open."""
    for kind in ("shm", "pipe", "unix", "tcp"):
        a, b = naru.pair(kind)
        a.send(b"x")
        assert b.receive(timeout_s=10) == b"x"
        pid = os.fork()
        if pid == 0:
            try:
                threading.Event().wait(60)
            finally:
                os._exit(0)
        try:
            a.close()
            with pytest.raises(naru.PeerGoneError):
                b.receive(timeout_s=10)
            b.close()
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
