"""54, 55 for arrays: leased and reserved ones, kept for too long, used after the end.

As test_54_55_views.py: whatever still looks at a message sees that message, never another one, and
never a signal; the name after `as` is emptied and raises. Every case is a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import pickle
import signal
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
from victims import in_place_pair, raises, run_victim

import naru
from naru.testing.children import Child
from naru.testing.events import Events

KINDS = ["shm", "unix", "pipe", "tcp"]
ITEMS = numpy.arange(64.0)


def flood(end: Any) -> None:
    for _ in range(1000):
        if not end.try_send(os.urandom(1000)):
            return


# ---- 54: kept beyond the block ----


def a_batch_array_alone() -> None:
    """It alone, without a view beside it: numpy.ndarray(buffer=) does not keep the buffer."""
    ours, theirs = in_place_pair("shm")
    with ours, theirs:
        ours.send_many([bytes([number]) * 64 for number in range(8)])
        batch = theirs.lease_many(4, timeout_s=1.0)
        kept = batch.__enter__().array("u1")
        raises(BufferError, functools.partial(batch.__exit__, None, None, None))
        flood(ours)
        assert kept[:, 0].tolist() == [0, 1, 2, 3]
        ours.close()
        theirs.close()
        assert kept[:, 63].tolist() == [0, 1, 2, 3]


def test_54_a_batch_as_an_array_kept_beyond_the_block() -> None:
    assert run_victim(a_batch_array_alone).error is None


def _record(array: Any) -> Any:
    return array.view([("a", "f8"), ("b", "f8")])[3]


WAYS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], float]]] = {
    "a slice": (lambda array: array[6:8], lambda kept: kept[0]),
    "a slice of a slice": (lambda array: array[5:][1:4][::2], lambda kept: kept[0]),
    "another shape": (lambda array: array.reshape(8, 8).T, lambda kept: kept[6, 0]),
    "another name": (lambda array: array, lambda kept: kept[6]),
    "a list": (lambda array: [array], lambda kept: kept[0][6]),
    "a memoryview": (memoryview, lambda kept: kept[6]),
    "an iterator": (lambda array: array.flat, lambda kept: kept[6]),
    "DLPack": (numpy.from_dlpack, lambda kept: kept[6]),
    "a record": (_record, lambda kept: kept["a"]),
    "ctypes": (lambda array: array.ctypes, lambda kept: kept._arr[6]),
    "a subclass": (lambda array: array.view(numpy.matrix), lambda kept: kept[0, 6]),
}


def keep(kind: str, way: str, forget: bool) -> None:
    ours, theirs = in_place_pair(kind)
    make, look = WAYS[way]
    with ours, theirs:
        ours.send_array(ITEMS)
        ours.send(b"the next message")
        try:
            with theirs.lease_array(timeout_s=1.0) as array:
                kept = make(array)
                if forget:  # then what is kept has the only reference
                    del array
        except BufferError:
            assert look(kept) == 6.0
        else:
            raise AssertionError("not raised: BufferError")
        flood(ours)
        assert look(kept) == 6.0
        if kind == "shm":
            raises(naru.UnsupportedError, theirs.try_receive)
        array = kept = None
        gc.collect()
        assert theirs.receive(timeout_s=1.0) == b"the next message"


@pytest.mark.parametrize(
    ("way", "forget"),
    # One name only, whichever it is, is the name of the array.
    [
        (way, forget)
        for way in WAYS
        for forget in (False, True)
        if not forget or way != "another name"
    ],
)
@pytest.mark.parametrize("kind", ["shm", "unix"])
def test_54_what_is_kept_beyond_the_block(kind: str, way: str, forget: bool) -> None:
    outcome = run_victim(keep, kind, way, forget)
    assert outcome.error is None, outcome.text


def keep_in_an_attribute(kind: str) -> None:
    ours, theirs = in_place_pair(kind)
    with ours, theirs:
        ours.send_array(ITEMS)

        class Viewer:
            def look(self) -> None:
                with theirs.lease_array(timeout_s=1.0) as self.array:
                    pass

        viewer = Viewer()
        raises(BufferError, viewer.look)
        assert viewer.array[6] == 6.0
        del viewer.array
        ours.send_array(ITEMS)
        with contextlib.ExitStack() as stack:  # its frame has no such variable
            array = stack.enter_context(theirs.lease_array(timeout_s=1.0))
            del array
        ours.send(b"next")
        assert theirs.receive(timeout_s=1.0) == b"next"


@pytest.mark.parametrize("kind", KINDS)
def test_54_kept_in_an_attribute(kind: str) -> None:
    outcome = run_victim(keep_in_an_attribute, kind)
    assert outcome.error is None, outcome.text


def reserve_and_stray(kind: str) -> None:
    ours, theirs = in_place_pair(kind)
    with ours, theirs:
        try:
            with ours.reserve_array(8, "f8") as room:
                room[:] = 1
                stray = room[2:]
        except BufferError:
            pass
        else:
            raise AssertionError("not raised: BufferError")
        assert theirs.try_receive() is None
        if kind == "shm":
            raises(naru.UnsupportedError, lambda: ours.send_array(ITEMS))
            assert ours.try_send_array(ITEMS) is False
        stray[:] = 7
        del room, stray
        gc.collect()
        ours.send_array(ITEMS)
        assert theirs.receive_array(timeout_s=1.0).tolist() == ITEMS.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_54_a_reserved_array_that_strays(kind: str) -> None:
    outcome = run_victim(reserve_and_stray, kind)
    assert outcome.error is None, outcome.text


# ---- the name after `as` ----


def in_every_kind_of_frame() -> None:
    ours, theirs = in_place_pair("shm")

    def in_a_generator() -> Iterator[float]:
        for _ in range(3):
            with theirs.lease_array(timeout_s=1.0) as array:
                yield float(array[6])
            raises(IndexError, lambda: array[6])

    async def in_a_coroutine() -> float:
        with theirs.lease_array(timeout_s=1.0) as array:
            await asyncio.sleep(0)
            return float(array[6])

    def in_a_closure() -> float:
        def look() -> float:
            return float(array[6])

        with theirs.lease_array(timeout_s=1.0) as array:
            found = look()
        raises(IndexError, look)
        return found

    def with_an_exception() -> None:
        try:
            with theirs.lease_array(timeout_s=1.0) as array:
                raise KeyError
        except KeyError:
            assert theirs.receive_array(timeout_s=1.0)[6] == 6.0, "the place came back at once"
            raises(IndexError, lambda: array[6])

    def of_others() -> None:
        """What else the function has may go when the function drops it."""
        mine = numpy.zeros(1000)
        gone = weakref.ref(mine)
        with theirs.lease_array(timeout_s=1.0) as array:
            assert array[6] == 6.0
        del mine
        assert gone() is None

    with ours, theirs:
        for _ in range(8):
            ours.send_array(ITEMS)
        assert list(in_a_generator()) == [6.0] * 3
        assert asyncio.run(in_a_coroutine()) == 6.0
        assert in_a_closure() == 6.0
        with_an_exception()
        of_others()
        ours.send_array(ITEMS)
        code = "with end.lease_array() as array: found = array[6]"
        names: dict[str, Any] = {"end": theirs}
        exec(code, names)
        assert names["found"] == 6.0
        assert names["array"].shape == ()
        assert names["end"] is theirs, "the names of a module are left alone"


def test_55_the_name_after_as_in_every_kind_of_frame() -> None:
    outcome = run_victim(in_every_kind_of_frame)
    assert outcome.error is None, outcome.text


def use_after(kind: str) -> None:
    ours, theirs = in_place_pair(kind)
    with ours, theirs:
        ours.send_array(ITEMS)
        lease = theirs.lease_array(timeout_s=1.0)
        with lease as array:
            assert not array.flags.writeable
            raises(ValueError, functools.partial(array.__setitem__, 0, 1))
        for use in (lambda: array[0], lambda: array[:], lambda: array.sum(), lambda: array + 1,
                    lambda: list(array), lambda: len(array), lambda: float(array),
                    lambda: array.reshape(64), lambda: array.__setitem__(0, 1),
                    lambda: array.mean()):  # fmt: skip
            raises((IndexError, TypeError, ValueError), use)  # type: ignore[arg-type]
        raises(ValueError, lambda: lease.__enter__())
        with ours.reserve_array((2, 2)) as room:
            room[:] = 1
        raises(ValueError, lambda: room.__setitem__((0, 0), 2))
        assert theirs.receive_array(timeout_s=1.0).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_55_used_after_the_block(kind: str) -> None:
    outcome = run_victim(use_after, kind)
    assert outcome.error is None, outcome.text


# ---- 55: the end comes ----


def end_while_leased(kind: str, how: str) -> None:
    ours, theirs = in_place_pair(kind)
    ours.send_array(ITEMS)
    lease = theirs.lease_array(timeout_s=1.0)
    array = lease.__enter__()
    if how != "peer closes":
        theirs.close()
    if how != "close":
        ours.close()
    gc.collect()
    assert array.tolist() == ITEMS.tolist()
    kept = array[4:]
    raises(BufferError, functools.partial(lease.__exit__, None, None, None))
    assert kept[2] == 6.0
    del lease
    gc.collect()
    assert kept[2] == 6.0
    del kept, array
    ours.close()
    theirs.close()


@pytest.mark.parametrize("how", ["close", "close both", "peer closes"])
@pytest.mark.parametrize("kind", KINDS)
def test_55_the_end_comes_while_an_array_is_out(kind: str, how: str) -> None:
    outcome = run_victim(end_while_leased, kind, how)
    assert outcome.error is None, outcome.text
    assert outcome.leaked == [], "and when the last one is gone, so is the memory"


def close_inside_reserve(kind: str) -> None:
    ours, theirs = in_place_pair(kind)
    with contextlib.suppress(naru.ClosedError):
        with ours.reserve_array(8) as room:
            ours.close()
            room[:] = 1
        raise AssertionError("not raised: ClosedError")
    raises(naru.PeerGoneError, lambda: theirs.receive_array(timeout_s=1.0))
    theirs.close()


@pytest.mark.parametrize("kind", KINDS)
def test_55_closed_inside_a_reservation(kind: str) -> None:
    outcome = run_victim(close_inside_reserve, kind)
    assert outcome.error is None, outcome.text


def fork_while_leased(kind: str) -> None:
    ours, theirs = in_place_pair(kind)
    with ours, theirs:
        ours.send_array(ITEMS)
        with theirs.lease_array(timeout_s=1.0) as array:
            pid = os.fork()
            if pid == 0:
                os._exit(0 if array[6] == 6.0 and theirs.closed else 1)
            assert os.waitpid(pid, 0)[1] == 0
            assert array[6] == 6.0


@pytest.mark.parametrize("kind", KINDS)
def test_55_a_child_is_forked_while_an_array_is_out(kind: str) -> None:
    assert run_victim(fork_while_leased, kind).error is None


EXITS = """
import sys, numpy, naru
ours, theirs = naru.pair(sys.argv[1])
ours.send_array(numpy.arange(8.0))
lease = theirs.lease_array()
array = lease.__enter__()
reservation = ours.reserve_array(64)
room = reservation.__enter__()
class Late:
    def __del__(self):
        print("late", array[6], flush=True)
late = Late()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_55_the_interpreter_ends_while_arrays_are_out(kind: str) -> None:
    with Child.script(EXITS, kind, env={"PYTHONWARNINGS": "ignore"}) as child:
        child.check()
        assert "late 6.0" in child.output()


def sender_dies(address: str) -> None:
    def lend(events: Events) -> None:
        sender = naru.connect(address)
        sender.send_array(ITEMS)
        with sender.reserve_array(8) as room:  # killed while it computes in the ring
            room[:] = 1
            events.tell("sent")
            signal.pause()

    with naru.listen(address) as listener, Child.run(lend) as child:
        with listener.accept(timeout_s=5.0) as channel:
            with channel.lease_array(timeout_s=5.0) as array:
                child.expect("sent")
                child.kill()
                assert array.tolist() == ITEMS.tolist()
            raises(naru.PeerGoneError, lambda: channel.receive_array(timeout_s=5.0))


@pytest.mark.parametrize("kind", ["shm", "unix"])
def test_55_the_sender_of_a_leased_array_dies(runtime: str, kind: str) -> None:
    outcome = run_victim(sender_dies, f"{kind}://{runtime}/a", timeout_s=15.0)
    assert outcome.error is None, outcome.text


# ---- what a hostile sender writes ----


def take_lies(kind: str) -> int:
    from test_codec_header import SEEDS

    ours, theirs = in_place_pair(kind)
    refused = 0
    with ours, theirs:
        for name, message in SEEDS.items():
            if name.startswith("good"):
                continue
            for verb in (theirs.receive_array, theirs.lease_array(1.0).__enter__):
                ours.send(message)
                raises(naru.ProtocolError, verb)
                refused += 1
        ours.send_array(ITEMS)
        assert theirs.receive_array(timeout_s=1.0)[6] == 6.0
    return refused


@pytest.mark.parametrize("kind", ["shm", "unix"])
def test_lies_about_an_array_cost_no_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(os.path.join(os.path.dirname(__file__), "..", "unit"))
    outcome = run_victim(take_lies, kind)
    assert outcome.error is None, outcome.text
    assert outcome.value > 80
    assert outcome.grown_bytes < 64 << 20, "of the exabytes that were claimed"


def test_leases_do_not_pickle() -> None:
    ours, theirs = in_place_pair("shm")
    with ours, theirs, pytest.raises(TypeError):
        pickle.dumps(theirs.lease())
