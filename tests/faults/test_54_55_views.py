"""54, 55: messages in place, held for long, kept for too long, used after the end.

A view shows its message for as long as it lives, whatever the sender does meanwhile, and whoever
closed or died; then it is an error to use it. Never a signal, never another message's bytes. Every
case runs in a process of its own, because the wrong answer is SIGSEGV.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import threading
import zlib
from typing import Any

import numpy
import pytest
from victims import SOAK, in_place_pair, raises, run_victim, until

import naru
from naru.testing.children import Child
from naru.testing.events import Events
from naru.testing.ledger import LedgerReader, LedgerWriter

KINDS = ["shm", "unix", "pipe", "tcp"]
MESSAGES = 100_000 if SOAK else 4_000


def crc(view: Any) -> int:
    return zlib.crc32(memoryview(view))


# ---- 54: held while the sender goes on ----


def flood(events: Events, end: Any, count: int) -> None:
    writer = LedgerWriter(1, lambda sequence: 24 + sequence * 131 % 4000)
    for _ in range(count):
        end.send(writer.next(), timeout_s=20.0)


def hold(kind: str) -> str:
    """Every third look is a long one: the sender comes to a standstill, and the view stays."""
    reader = LedgerReader()
    ours, theirs = in_place_pair(kind)
    with ours, theirs, Child.run(flood, theirs, MESSAGES) as child:
        looks = 0
        while reader.report().received < MESSAGES:
            looks += 1
            if looks % 2:
                with ours.lease(timeout_s=10.0) as view:
                    before = crc(view)
                    _wait_for_standstill(ours, looks)
                    assert crc(view) == before
                    reader.add(view)
            else:
                with ours.lease_many(64, timeout_s=10.0) as batch:
                    before = [crc(view) for view in batch]
                    _wait_for_standstill(ours, looks)
                    assert [crc(view) for view in batch] == before
                    reader.add_all([bytes(view) for view in batch])
        child.check()
    return str(reader.report({1: MESSAGES}))


def _wait_for_standstill(end: Any, looks: int) -> None:
    """Until nothing more comes in, which is when nothing more fits."""
    if looks % 30 not in (3, 4) or looks > 300:
        return
    depth, same = -1, 0
    while same < 3:
        now = end.statistics().depth_bytes
        same = same + 1 if now == depth else 0
        depth = now
        threading.Event().wait(0.002)


@pytest.mark.watchdog(seconds=600 if SOAK else 40)
@pytest.mark.parametrize("kind", KINDS)
def test_54_a_view_stays_while_the_sender_goes_on(kind: str) -> None:
    outcome = run_victim(hold, kind, timeout_s=500.0 if SOAK else 30.0)
    assert outcome.error is None, outcome.text
    assert outcome.value.startswith(
        f"{MESSAGES} received, 0 lost, 0 duplicated, 0 reordered, 0 torn"
    )


def back_pressure(kind: str) -> int:
    """One leased message: the sender gets False at last, and never overwrites it."""
    ours, theirs = in_place_pair(kind)
    with ours, theirs:
        ours.send(b"the one that is held")
        with theirs.lease(timeout_s=1.0) as view:
            for number in range(10_000):
                if not ours.try_send(b"%05d" % number * 200):
                    break
            else:
                return -1
            raises(naru.TimedOutError, lambda: ours.send(b"x" * 1000, timeout_s=0.01))
            assert view == b"the one that is held"
            raises(naru.UnsupportedError, theirs.try_receive)
            raises(naru.UnsupportedError, lambda: theirs.receive_many(8))
            raises(naru.UnsupportedError, lambda: theirs.lease().__enter__())
        for expected in range(number):
            ours.try_receive()  # pushes out the rest of the last message, where one was begun
            assert theirs.receive(timeout_s=1.0) == b"%05d" % expected * 200
        return number


@pytest.mark.parametrize("kind", KINDS)
def test_54_back_pressure(kind: str) -> None:
    outcome = run_victim(back_pressure, kind)
    assert outcome.error is None, outcome.text
    assert outcome.value > 10


def keep(kind: str, what: str) -> None:
    """A view, an array, a batch's view is kept beyond the block, and the sender floods on."""
    ours, theirs = in_place_pair(kind)
    with ours, theirs:
        ours.send_many([bytes([number]) * 64 for number in range(8)])
        kept: list[Any] = []
        lease = (
            theirs.lease_many(4, timeout_s=1.0) if what == "batch" else theirs.lease(timeout_s=1.0)
        )
        view = lease.__enter__()
        if what == "array":
            kept.append(numpy.frombuffer(view, "u1"))
        elif what == "view":
            kept.append(memoryview(view)[8:24])
        else:
            kept.append(view.array("u1"))
            kept.append(memoryview(view[1]))
        del view
        before = [crc(numpy.ascontiguousarray(thing)) for thing in kept]
        raises(BufferError, functools.partial(lease.__exit__, None, None, None))
        while ours.try_send(os.urandom(1000)):
            pass
        assert [crc(numpy.ascontiguousarray(thing)) for thing in kept] == before
        raises(naru.UnsupportedError, theirs.try_receive)
        kept.clear()
        gc.collect()
        assert theirs.try_receive() is not None, "the place came back with the last view"


@pytest.mark.parametrize("what", ["view", "array", "batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_54_kept_beyond_the_block(kind: str, what: str) -> None:
    assert run_victim(keep, kind, what).error is None


def reserve_and_stray(kind: str) -> None:
    """A reservation's view that is kept: nothing is sent, nothing written later is seen."""
    ours, theirs = in_place_pair(kind)
    with ours, theirs:
        with ours.reserve(8) as view:
            view[:] = b"reserved"
        assert theirs.receive(timeout_s=1.0) == b"reserved"
        reservation = ours.reserve(8)
        view = reservation.__enter__()
        stray = numpy.frombuffer(view, "u1")
        del view
        raises(BufferError, lambda: reservation.__exit__(None, None, None))
        assert theirs.try_receive() is None
        if kind == "shm":
            raises(naru.UnsupportedError, lambda: ours.send(b"x"))
            assert ours.try_send(b"x") is False
            assert theirs.try_receive() is None
        stray[:] = 7
        del stray
        gc.collect()
        ours.send(b"after")
        assert theirs.receive(timeout_s=1.0) == b"after"
        try:
            with ours.reserve(8) as view:
                view[:] = b"dropped!"
                raise KeyError
        except KeyError:
            view.release()
        assert theirs.try_receive() is None
        ours.send(b"at last")
        assert theirs.receive(timeout_s=1.0) == b"at last"


@pytest.mark.parametrize("kind", KINDS)
def test_54_a_reservation_that_strays(kind: str) -> None:
    outcome = run_victim(reserve_and_stray, kind)
    assert outcome.error is None, outcome.text


# ---- 55: after the end ----


def end_while_leased(kind: str, how: str) -> bytes:
    """The end is closed, dropped, or its peer is, while a view and an array of it are out."""
    ours, theirs = in_place_pair(kind)
    payload = os.urandom(3000)
    ours.send(payload)
    lease = theirs.lease(timeout_s=1.0)
    view = lease.__enter__()
    array = numpy.frombuffer(view, "u1")
    if how == "close":
        theirs.close()
    elif how == "close by a thread":
        thread = threading.Thread(target=theirs.close)
        thread.start()
        thread.join()
    elif how == "close both":
        ours.close()
        theirs.close()
    elif how == "peer closes":
        ours.close()
    elif how == "forgotten":
        theirs.close()
        del theirs
    elif how == "peer floods and closes":
        while ours.try_send(os.urandom(1000)):
            pass
        with contextlib.suppress(naru.TimedOutError):  # the rest of the last one, where one began
            ours.close()
    gc.collect()
    assert bytes(view) == payload
    assert array.tobytes() == payload
    raises(BufferError, functools.partial(lease.__exit__, None, None, None))
    assert array.tobytes() == payload
    del view
    assert array.tobytes() == payload
    del array, lease
    gc.collect()
    ours.close()
    if how != "forgotten":
        theirs.close()
    return b""


@pytest.mark.parametrize(
    "how", ["close", "close by a thread", "close both", "peer closes", "forgotten",
            "peer floods and closes"],
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_55_the_end_comes_while_a_view_is_out(kind: str, how: str) -> None:
    outcome = run_victim(lambda: bool(end_while_leased(kind, how)))
    assert outcome.error is None, outcome.text
    assert outcome.leaked == [], "and when the last view is gone, so is the memory"


def use_after(kind: str) -> None:
    ours, theirs = in_place_pair(kind)
    ours.send_many([b"12345678"] * 6)
    lease = theirs.lease(timeout_s=1.0)
    with lease as view:
        assert view == b"12345678"
    for use in (lambda: bytes(view), lambda: view[0], lambda: memoryview(view), lambda: memoryview(lease),
                lambda: numpy.frombuffer(view, "u1"), lambda: lease.__enter__()):  # fmt: skip
        raises(ValueError, use)
    many = theirs.lease_many(2, timeout_s=1.0)
    with many as batch:
        one = batch[0]
        assert len(batch) == 2
    for use in (lambda: bytes(one), lambda: one[0], lambda: one[:], lambda: memoryview(one), lambda: batch[0],
                lambda: batch.array("u1"), lambda: memoryview(batch), lambda: list(batch),
                lambda: one == b"12345678", lambda: many.__enter__()):  # fmt: skip
        raises(ValueError, use)
    reservation = ours.reserve(8)
    with reservation as room:
        room[:] = b"12345678"
    for use in (lambda: bytes(room), lambda: room.__setitem__(0, 1), lambda: memoryview(reservation),
                lambda: reservation.__enter__()):  # fmt: skip
        raises(ValueError, use)
    ours.close()
    theirs.close()
    for use in (lambda: theirs.lease().__enter__(), lambda: theirs.lease_many().__enter__(),
                lambda: ours.reserve(8).__enter__(), lambda: ours.send(b"x"), theirs.try_receive,
                theirs.fileno):  # fmt: skip
        raises(naru.ClosedError, use)


@pytest.mark.parametrize("kind", KINDS)
def test_55_used_after_the_block_and_after_close(kind: str) -> None:
    outcome = run_victim(use_after, kind)
    assert outcome.error is None, outcome.text


def close_inside_reserve(kind: str) -> None:
    ours, theirs = in_place_pair(kind)
    reservation = ours.reserve(8)
    view = reservation.__enter__()
    ours.close()
    view[:] = b"too late"
    raises(naru.ClosedError, lambda: reservation.__exit__(None, None, None))
    raises(naru.PeerGoneError, lambda: theirs.receive(timeout_s=1.0))
    theirs.close()


@pytest.mark.parametrize("kind", KINDS)
def test_55_closed_inside_a_reservation(kind: str) -> None:
    outcome = run_victim(close_inside_reserve, kind)
    assert outcome.error is None, outcome.text


def fork_while_leased(kind: str) -> None:
    ours, theirs = in_place_pair(kind)
    with ours, theirs:
        ours.send(b"before the fork")
        with theirs.lease(timeout_s=1.0) as view:
            pid = os.fork()
            if pid == 0:
                os._exit(0 if bytes(view) == b"before the fork" and theirs.closed else 1)
            assert os.waitpid(pid, 0)[1] == 0
            assert view == b"before the fork"


@pytest.mark.parametrize("kind", KINDS)
def test_55_a_child_is_forked_while_a_view_is_out(kind: str) -> None:
    assert run_victim(fork_while_leased, kind).error is None


EXITS = """
import sys, numpy, naru
ours, theirs = naru.pair(sys.argv[1])
ours.send_many([b"12345678"] * 8)
lease = theirs.lease()
view = lease.__enter__()
array = numpy.frombuffer(view, "u1")
reservation = ours.reserve(64)
room = reservation.__enter__()
class Late:
    def __del__(self):
        print(bytes(array[:4]), flush=True)
late = Late()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_55_the_interpreter_ends_while_views_are_out(kind: str) -> None:
    with Child.script(EXITS, kind, env={"PYTHONWARNINGS": "ignore"}) as child:
        child.check()
        assert "b'1234'" in child.output()


def lender_dies(address: str) -> bytes:
    """A receiver of many senders: the one whose message is out is killed, another one floods."""

    def lend(events: Events) -> None:
        sender = naru.sender(address)
        sender.send(b"from the one that dies" * 50)
        events.tell("sent")
        signal.pause()

    with naru.receiver(address) as receiver, Child.run(lend) as child:
        with receiver.lease(timeout_s=10.0) as view:
            before = bytes(view)
            child.expect("sent")
            child.kill()
            threading.Event().wait(0.05)
            assert bytes(view) == before == b"from the one that dies" * 50
        raises(naru.TimedOutError, lambda: receiver.receive(timeout_s=0.05))
        until(lambda: receiver.statistics().peers_lost == 1, "the loss of the sender")
    return b""


@pytest.mark.parametrize("kind", ["shm", "unix"])
def test_55_the_sender_of_a_leased_message_dies(runtime: str, kind: str) -> None:
    outcome = run_victim(lambda: bool(lender_dies(f"{kind}://{runtime}/s")), timeout_s=15.0)
    assert outcome.error is None, outcome.text
    assert outcome.leaked == []
