"""4: both ends go in every order and way. The other side hears of it once, and then always the same;
its own close() makes it ClosedError. Nothing hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any

import pytest
from helpers import CHANNELS, PAIRS, QUEUES, connected, error_of, fresh_address, sender_to

import naru
from naru.testing.faults import Child, Events

WAYS = ("close", "exit", "kill", "exec")


def leave(events: Events, end: Any, way: str) -> None:
    """Uses its end and goes in one way."""
    end.send(b"hello")
    assert end.receive(timeout_s=10) == b"go"
    if way == "close":
        end.close()
        events.hear(timeout_s=60)
    elif way == "exit":
        os._exit(0)
    elif way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    else:  # another program in this process: it must not have inherited the end
        os.execv(sys.executable, [sys.executable, "-c", "import sys; sys.stdin.read()"])


def check_gone(ours: Any, kind: str, way: str) -> None:
    """However the verb, whoever asks twice: the peer is gone, in the same way."""
    for _ in range(3):
        with pytest.raises(naru.PeerGoneError) as caught:
            ours.receive(timeout_s=10)
        assert caught.value.orderly == (way == "close")
        assert isinstance(caught.value, ConnectionError)
        assert caught.value.errno
        assert caught.value.operation
        assert caught.value.address
    error = error_of(list, ours)
    assert (error is None) if way == "close" else isinstance(error, naru.PeerGoneError)
    error = None
    while error is None:  # udp: the first one shows that nobody is there; elsewhere it is known
        error = error_of(ours.send, b"into the void", timeout_s=10)
    for _ in range(3):
        assert isinstance(error, naru.PeerGoneError)
        error = error_of(ours.send, b"into the void", timeout_s=10)


def check_closed(ours: Any) -> None:
    ours.close()
    ours.close()
    assert ours.closed
    for verb in (ours.receive, ours.try_receive, lambda: ours.send(b"x"), lambda: ours.try_send(b"x"),
                 lambda: ours.send_many([b"x"]), lambda: next(ours), ours.fileno):  # fmt: skip
        for _ in range(2):
            with pytest.raises(naru.ClosedError):
                verb()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", PAIRS)
def test_fault_04_other_end_of_a_pair_leaves(kind: str, way: str) -> None:
    if kind == "udp" and way == "exec":
        kind = "udp:?heartbeat_s=0.3"
    ours, theirs = naru.pair(kind)
    with ours, Child.run(leave, theirs, way) as child:
        assert ours.receive(timeout_s=10) == b"hello"
        ours.send(b"go")
        check_gone(ours, kind, way)
        theirs.close()
        check_closed(ours)
        if way == "close":
            child.tell("over")
            child.check()


def connect_and_leave(events: Events, address: str, way: str) -> None:
    leave(events, naru.connect(address), way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CHANNELS)
def test_fault_04_client_leaves(kind: str, way: str, runtime: str) -> None:
    with (
        naru.listen(fresh_address(kind, runtime)) as listener,
        Child.run(connect_and_leave, str(listener.address), way) as child,
        listener.accept(timeout_s=10) as ours,
    ):
        assert ours.receive(timeout_s=10) == b"hello"
        ours.send(b"go")
        check_gone(ours, kind, way)
        check_closed(ours)
        if way == "close":
            child.tell("over")
            child.check()


def listen_and_leave(events: Events, address: str, way: str) -> None:
    listener = naru.listen(address)
    events.tell("ready", address=str(listener.address))
    leave(events, listener.accept(timeout_s=10), way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CHANNELS)
def test_fault_04_server_leaves(kind: str, way: str, runtime: str) -> None:
    with Child.run(listen_and_leave, fresh_address(kind, runtime), way) as child:
        address = child.expect("ready")["address"]
        with naru.connect(address) as ours:
            assert ours.receive(timeout_s=10) == b"hello"
            ours.send(b"go")
            if not (kind == "udp" and way == "close"):
                check_gone(ours, kind, way)
            check_closed(ours)
        if way == "close":
            child.tell("over")
            child.check()


def send_and_leave(events: Events, address: str, way: str) -> None:
    sender = naru.sender(address)
    for number in range(5):
        sender.send(b"%d" % number)
    if way == "close":
        sender.close()
        events.hear(timeout_s=60)
    elif way == "exit":
        os._exit(0)
    elif way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        os.execv(sys.executable, [sys.executable, "-c", "import sys; sys.stdin.read()"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", QUEUES)
def test_fault_04_a_sender_leaves_and_the_receiver_goes_on(
    kind: str, way: str, runtime: str
) -> None:
    with naru.receiver(fresh_address(kind, runtime)) as receiver:
        with Child.run(send_and_leave, str(receiver.address), way) as child:
            assert [receiver.receive(timeout_s=10) for _ in range(5)] == [
                b"0",
                b"1",
                b"2",
                b"3",
                b"4",
            ]
            with pytest.raises(naru.TimedOutError):
                receiver.receive(timeout_s=0.05)
            with sender_to(receiver) as second:
                second.send(b"second")
                assert receiver.receive(timeout_s=10) == b"second"
            if way == "close":
                child.tell("over")
                child.check()
        lost = 1 if kind in ("shm", "unix", "abstract", "tcp") and way != "close" else 0
        while (statistics := receiver.statistics()).peers_lost < lost:  # the watchdog is the limit
            with contextlib.suppress(naru.TimedOutError):
                receiver.receive(timeout_s=0.05)
        if kind in ("shm", "unix", "abstract", "tcp"):
            assert statistics.peers_lost == lost
            assert statistics.peers_closed >= (1 if way == "close" else 0)


@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("first", [0, 1])
def test_fault_04_closed_here_in_either_order(kind: str, first: int, runtime: str) -> None:
    with naru.listen(fresh_address(kind, runtime)) as listener:
        ends = connected(listener)
        ends[first].close()
        with pytest.raises(naru.PeerGoneError) as caught:
            ends[1 - first].receive(timeout_s=10)
        assert caught.value.orderly
        for end in ends:
            check_closed(end)


@pytest.mark.parametrize("kind", PAIRS)
def test_fault_04_close_with_messages_under_way_loses_none(kind: str) -> None:
    """What was accepted before close() arrives before the end is told; also after a long sleep."""
    ours, theirs = naru.pair(kind)
    messages = [b"%d" % number for number in range(50)]
    with theirs:
        ours.send_many(messages)
        ours.close()
        assert [theirs.receive(timeout_s=10) for _ in messages] == messages
        with pytest.raises(naru.PeerGoneError) as caught:
            theirs.receive(timeout_s=10)
        assert caught.value.orderly


@pytest.mark.parametrize("kind", ["shm", "pipe", "unix", "tcp"])
def test_fault_04_close_with_unread_messages_of_the_peer_loses_none_of_ours(kind: str) -> None:
    """tcp(7): closing with unread data resets the connection, and drops what is still to be sent."""
    ours, theirs = naru.pair(f"{kind}:?linger_s=20")
    with theirs:
        theirs.send(b"nobody reads this")
        big = bytes(range(256)) * (4 << 12)  # 4 MiB: more than the kernel holds
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(theirs.receive(timeout_s=20)))
        for number in range(3):
            theirs.send(b"%d" % number)
        reader.start()
        ours.send(big, timeout_s=20)
        ours.close()
        reader.join()
        assert got == [big]


@pytest.mark.parametrize("kind", ["shm", "pipe", "unix", "tcp"])
def test_fault_04_close_while_the_peer_is_slow_loses_none(kind: str) -> None:
    """The peer reads only after the close, and has itself sent something meanwhile."""
    ours, theirs = naru.pair(f"{kind}:?linger_s=20")
    messages = [bytes([number]) * 1000 for number in range(250)] * 20
    with theirs:
        accepted = 0
        while accepted < len(messages) and ours.try_send(messages[accepted]):
            accepted += 1
        theirs.send(b"nobody reads this")
        closing = threading.Thread(target=ours.close)
        closing.start()
        got = [theirs.receive(timeout_s=20) for _ in range(accepted // 2)]
        try:
            theirs.send(b"nor this")
        except naru.PeerGoneError:
            pass  # it has closed already: that is the point
        while len(got) < accepted:
            got.append(theirs.receive(timeout_s=20))
        closing.join()
        assert got == messages[:accepted]


@pytest.mark.parametrize("kind", PAIRS)
def test_fault_04_a_rare_sender_hears_of_the_death_soon(kind: str) -> None:
    """It never meets a full buffer, which is where it would learn it anyhow."""
    ours, theirs = naru.pair(kind)

    def take_one(events: Events) -> None:
        theirs.receive(timeout_s=10)
        events.tell("got it")
        events.hear(timeout_s=60)

    with ours, Child.run(take_one) as child:
        ours.send(b"first")
        child.expect("got it")
        child.kill()
        error, sends = None, 0
        while error is None and sends < 100:
            time.sleep(0.005)  # rarely: this is what is tested
            error, sends = error_of(ours.send, b"x"), sends + 1
        assert isinstance(error, naru.PeerGoneError), sends
        theirs.close()
