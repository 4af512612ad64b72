"""kill -9 of either side of an auto:// channel at every step of a move: nothing that was sent before is
lost to the living, the death is told, nothing hangs and nothing is left.

The victim replaces one function of its own conversation by one that kills it, before or after.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

import naru
from naru.testing.children import Child
from naru.testing.events import Events

PATIENCE_S = 15.0

# The functions that a move goes through, on the leading side and on the following one.
LEADING = ["carriers.make", "carriers.open_end", "prepare_move", "send_word", "turn_sending"]
FOLLOWING = ["carriers.open_end", "prepare_move", "send_word", "turn_sending"]
MESSAGES = 200


def lie_in_wait(step: str, after: bool) -> None:
    """The next call of this function is this process's last."""
    from naru.auto import conversation

    owner: Any = conversation
    *path, name = step.split(".")
    for part in path:
        owner = getattr(owner, part)
    function = getattr(owner, name)

    def last(*args: Any, **named: Any) -> Any:
        if not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **named)
        os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, last)


def victim(events: Events, leads: bool, step: str, after: bool, target: str) -> None:
    if leads:
        with naru.listen("auto://killed") as listener:
            events.tell("listening")
            channel: Any = listener.accept(timeout_s=PATIENCE_S)
        lie_in_wait(step, after)
        for number in range(MESSAGES):
            channel.send(b"%d" % number)
        channel._place.conversation.offer(target)
    else:
        channel = naru.connect("auto://killed", timeout_s=PATIENCE_S)
        lie_in_wait(step, after)
        for number in range(MESSAGES):
            channel.send(b"%d" % number)
        events.tell("ready")
    while True:
        channel.receive()


def hear_the_end(channel: Any) -> list[bytes]:
    """All that the victim sent; it must end by its death."""
    heard: list[bytes] = []
    with pytest.raises(naru.PeerGoneError):
        while True:
            heard.append(channel.receive(timeout_s=PATIENCE_S))
    with pytest.raises(naru.PeerGoneError):
        for _ in range(100_000):
            channel.send(b"to nobody", timeout_s=PATIENCE_S)
    return heard


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("target", ["unix", "pipe", "tcp"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", FOLLOWING)
def test_the_following_side_is_killed(step: str, after: bool, target: str) -> None:
    with naru.listen("auto://killed") as listener:
        with Child.run(victim, False, step, after, target) as child:
            with listener.accept(timeout_s=PATIENCE_S) as channel:
                child.events.expect("ready")
                assert channel._place.conversation.offer(target)  # type: ignore[attr-defined]
                heard = hear_the_end(channel)
            assert child.wait() == -signal.SIGKILL
    assert heard == [b"%d" % number for number in range(MESSAGES)]


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("target", ["unix", "pipe", "tcp"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", LEADING)
def test_the_leading_side_is_killed(step: str, after: bool, target: str) -> None:
    with Child.run(victim, True, step, after, target) as child:
        child.events.expect("listening")
        with naru.connect("auto://killed", timeout_s=PATIENCE_S) as channel:
            heard = hear_the_end(channel)
        assert child.wait() == -signal.SIGKILL
    assert heard == [b"%d" % number for number in range(MESSAGES)]


def stopped(events: Events) -> None:
    with naru.connect("auto://killed", timeout_s=PATIENCE_S) as channel:
        events.tell("ready")
        for message in channel:
            channel.send(message)


@pytest.mark.watchdog(seconds=60)
def test_a_stopped_side_does_not_hold_up_the_other() -> None:
    """The offer is never answered: the channel stays where it is, and goes on when the other does."""
    with naru.listen("auto://killed") as listener, Child.run(stopped) as child:
        with listener.accept(timeout_s=PATIENCE_S) as channel:
            child.events.expect("ready")
            child.stop()
            assert channel._place.conversation.offer("unix")  # type: ignore[attr-defined]
            for number in range(100):
                channel.send(b"%d" % number, timeout_s=PATIENCE_S)
            child.go_on()
            assert [channel.receive(timeout_s=PATIENCE_S) for _ in range(100)] == [
                b"%d" % number for number in range(100)
            ]
        child.wait()


@pytest.mark.parametrize(
    "said",
    [b"garbage", b'{"type":"answer","number":9,"prepared":true}', b'{"type":"refusal","error":1,"why":""}',
     b'{"type":"offer","number":2,"transport":"mq","capacity_bytes":1,"max_message_bytes":1,'
     b'"fences":true,"moves":true}'],
)  # fmt: skip
@pytest.mark.parametrize("liar", [0, 1], ids=["leader", "follower"])
def test_nonsense_ends_the_moves_and_nothing_else(liar: int, said: bytes) -> None:
    with naru.listen("auto://killed") as listener:
        made: list[Any] = []
        connecting = threading.Thread(target=lambda: made.append(naru.connect("auto://killed")))
        connecting.start()
        accepted: Any = listener.accept(timeout_s=PATIENCE_S)
        connecting.join()
    with accepted, made[0]:
        ends = [accepted, made[0]]
        ends[liar]._place.conversation.control.send(said)
        until_s = time.monotonic() + PATIENCE_S
        while not ends[1 - liar]._place.conversation.closed and time.monotonic() < until_s:
            time.sleep(0.001)  # it is a thread of its own that reads the control connection
        assert ends[1 - liar]._place.conversation.closed
        assert not accepted._place.conversation.offer("unix") or liar == 0
        for number in range(100):
            accepted.send(b"%d" % number)
            assert made[0].receive(timeout_s=PATIENCE_S) == b"%d" % number
            made[0].send(b"%d" % number)
            assert accepted.receive(timeout_s=PATIENCE_S) == b"%d" % number
