"""What a verb that may wait no longer leaves behind goes out without another verb of its end."""

from __future__ import annotations

import gc
import threading
import warnings

import pytest

import naru

STREAMS = ["pipe", "unix", "tcp", "shm"]
LARGE = b"large" * 1_000_000


def begin(a: naru.Channel) -> None:
    """A message of which the transport has taken a part: accepted, and the rest is in the outbox."""
    a.send(LARGE, timeout_s=0.05)


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("kind", STREAMS)
def test_rest_of_a_timed_send_goes_out_by_itself(kind: str) -> None:
    a, b = naru.pair(kind)
    with a, b:
        begin(a)
        assert b.receive(timeout_s=20) == LARGE
        a.send(b"next")
        assert b.receive(timeout_s=20) == b"next"


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("kind", STREAMS)
def test_rest_of_a_try_send_goes_out_by_itself(kind: str) -> None:
    a, b = naru.pair(kind)
    with a, b:
        assert a.try_send(LARGE)
        assert b.receive(timeout_s=20) == LARGE


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("kind", STREAMS)
def test_messages_behind_a_rest_stay_in_order(kind: str) -> None:
    a, b = naru.pair(kind)
    with a, b:
        begin(a)
        sender = threading.Thread(target=lambda: [a.send(b"%d" % i) for i in range(100)])
        sender.start()
        assert b.receive(timeout_s=20) == LARGE
        assert [b.receive(timeout_s=20) for _ in range(100)] == [b"%d" % i for i in range(100)]
        sender.join()


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("kind", STREAMS)
def test_rest_for_a_peer_that_closed_ends_its_thread(kind: str) -> None:
    a, b = naru.pair(f"{kind}:?linger_s=0.1")
    begin(a)
    b.close()
    until_no_pusher()
    with pytest.raises(naru.PeerGoneError):
        for _ in range(100):
            a.send(b"after")
    a.close()


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("kind", STREAMS)
def test_end_with_a_rest_is_collected_all_the_same(kind: str) -> None:
    a, b = naru.pair(f"{kind}:?linger_s=0.1")
    with b, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # raised in the pusher's thread, or here
        begin(a)
        del a
        until_no_pusher()
        gc.collect()
        with pytest.raises((naru.PeerGoneError, naru.CorruptedError)):
            b.receive(timeout_s=20)


def until_no_pusher() -> None:
    for thread in threading.enumerate():
        if thread.name == "naru-outbox":
            thread.join()


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("kind", ["pipe", "unix", "tcp"])
def test_thread_asleep_in_receive_gets_what_another_thread_has_read(kind: str) -> None:
    """One read takes many messages from the kernel; no event tells a sleeping thread of them."""
    a, b = naru.pair(f"{kind}:?wait=sleep")
    with a, b:
        for _ in range(300):
            came: list[bytes] = []
            asleep = threading.Thread(target=lambda came=came: came.append(b.receive()))
            asleep.start()
            a.send_many([b"1", b"2"])
            first = b.receive()
            asleep.join()  # without another verb of this thread
            assert {first, *came} == {b"1", b"2"}
