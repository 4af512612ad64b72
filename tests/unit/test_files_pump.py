"""Pump: both directions byte-exact, half-closed, reset, stalled, by hand and in a thread."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naru
from naru.files import Pump, PumpStatistics

MIB = 1 << 20


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


PAIRS = {"unix": socket.socketpair, "tcp": tcp_pair}


class Peer(threading.Thread):
    """Sends pieces, ends its direction, and reads to the end of the other."""

    def __init__(self, end: socket.socket, pieces: list[bytes], *, last: bool = False) -> None:
        super().__init__()
        self.end, self.pieces, self.last = end, pieces, last
        self.found = bytearray()
        self.start()

    def run(self) -> None:
        if self.last:  # half-closed: the other side has ended before we begin
            self.read()
        for piece in self.pieces:
            self.end.sendall(piece)
        self.end.shutdown(socket.SHUT_WR)
        if not self.last:
            self.read()

    def read(self) -> None:
        while piece := self.end.recv(1 << 16):
            self.found += piece


@contextmanager
def pumped(kind: str, other: str, **options: Any) -> Iterator[tuple[Any, Any, Pump]]:
    """(far end of a, far end of b, the pump between)."""
    with ExitStack() as stack:
        ends = [*PAIRS[kind](), *PAIRS[other]()]
        for end in ends:
            stack.enter_context(end)
        pump = stack.enter_context(Pump(ends[1], ends[2], **options))
        yield ends[0], ends[3], pump


pieces = st.lists(
    st.tuples(st.sampled_from([1, 1, 2, 100, 4096, 70_000]), st.integers(0, 255)), max_size=12
).map(lambda sizes: [bytes([value]) * size for size, value in sizes])


@settings(max_examples=60)
@given(
    pieces,
    pieces,
    st.sampled_from(["unix", "tcp"]),
    st.sampled_from(["unix", "tcp"]),
    st.booleans(),
)
def test_every_byte_both_ways(
    forward: list[bytes], backward: list[bytes], kind: str, other: str, after: bool
) -> None:
    with pumped(kind, other) as (a, b, pump):
        one, two = Peer(a, forward), Peer(b, backward, last=after)
        counts = pump.run()
        one.join()
        two.join()
        assert bytes(two.found) == b"".join(forward)
        assert bytes(one.found) == b"".join(backward)
        assert (counts.bytes_forward, counts.bytes_backward) == (len(two.found), len(one.found))
        assert counts.forward_ended
        assert counts.backward_ended
        assert pump.is_over
        assert pump.wants() == []


def test_large_both_ways_at_once() -> None:
    data = random.Random(2).randbytes(8 * MIB)
    with pumped("unix", "tcp") as (a, b, pump):
        one, two = Peer(a, [data]), Peer(b, [data[::-1]])
        pump.run()
        one.join()
        two.join()
        assert bytes(two.found) == data
        assert bytes(one.found) == data[::-1]


def test_by_steps_and_one_pollable_descriptor() -> None:
    with pumped("unix", "unix") as (a, b, pump):
        assert pump.step()
        poll = select.poll()
        poll.register(pump.fileno(), select.POLLIN)
        assert poll.poll(0) == []  # idle: nothing wakes the loop
        a.sendall(b"hello")
        assert poll.poll(1000)
        assert pump.step()
        assert b.recv(100) == b"hello"
        assert poll.poll(0) == []
        a.shutdown(socket.SHUT_WR)
        assert poll.poll(1000)
        assert pump.step()  # the other direction goes on
        assert b.recv(100) == b""
        assert poll.poll(0) == []  # an ended direction is no busy loop
        b.sendall(b"answer")
        b.shutdown(socket.SHUT_WR)
        assert poll.poll(1000)
        assert not pump.step()
        assert a.recv(100) == b"answer"
        assert a.recv(100) == b""
        assert "5 bytes forward, 6 backward" in repr(pump)


def test_a_receiver_that_stalls_holds_the_sender_and_is_no_busy_loop() -> None:
    with pumped("unix", "unix") as (a, b, pump):
        a.setblocking(False)
        sent = 0
        while True:
            try:
                sent += a.send(bytes(MIB))
            except BlockingIOError:
                before = pump.statistics().steps
                pump.step()
                if pump.statistics().steps == before:
                    break
        poll = select.poll()
        poll.register(pump.fileno(), select.POLLIN)
        assert poll.poll(0) == []
        a.close()
        found = 0
        while not pump.statistics().forward_ended:
            found += len(b.recv(MIB))
            pump.step()
        while piece := b.recv(MIB):
            found += len(piece)
        assert found == sent


def test_pipes_on_one_side() -> None:
    """As of a subprocess: its output is read, its input is closed when the socket ends."""
    out_reader, out_writer = os.pipe()
    in_reader, in_writer = os.pipe()
    a, far = socket.socketpair()
    with ExitStack() as stack:
        files = [
            stack.enter_context(open(fd, mode, buffering=0))
            for fd, mode in (
                (out_reader, "rb"), (out_writer, "wb"), (in_reader, "rb"), (in_writer, "wb"),
            )
        ]  # fmt: skip
        stack.enter_context(a)
        stack.enter_context(far)
        pump = stack.enter_context(Pump(a, (files[0], files[3])))
        far.sendall(b"question")
        far.shutdown(socket.SHUT_WR)
        files[1].write(b"answer")
        files[1].close()
        pump.run()
        assert files[3].closed
        assert files[2].read() == b"question"
        assert far.recv(100) == b"answer"
        assert far.recv(100) == b""


def test_a_reset_is_an_error_and_is_passed_on() -> None:
    with pumped("tcp", "tcp") as (a, b, pump):
        a.sendall(b"half of it")
        pump.step()
        assert b.recv(100) == b"half of it"
        a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        a.close()
        with pytest.raises(naru.PeerGoneError, match="a to b"):
            pump.run()  # although b says nothing
        # When its owner closes the pump's end of b, b is reset: short never looks complete.
        forward, _ = pump._ways
        linger = forward.target_end.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        assert struct.unpack("ii", linger) == (1, 0)


def test_who_takes_no_more_ends_that_direction_and_the_other_is_drained() -> None:
    """As a server that answers early and closes, while the client still uploads."""
    with pumped("unix", "unix") as (a, b, pump):
        b.sendall(b"early answer")
        b.close()
        a.sendall(b"more")
        with pytest.raises(naru.PeerGoneError, match="EPIPE"):
            pump.run()
        assert a.recv(100) == b"early answer"


def test_limits() -> None:
    with pumped("unix", "unix", limit_bytes=10) as (a, _, pump):
        a.sendall(b"x" * 11)
        with pytest.raises(naru.LimitError, match="10 bytes"):
            pump.run()
    with pumped("unix", "unix", idle_timeout_s=0.02) as (_, _, pump):
        with pytest.raises(naru.TimedOutError, match=r"0.02 s"):
            pump.run()


def test_closing_gives_blocking_ends_back() -> None:
    a, b = socket.socketpair()
    c, d = socket.socketpair()
    with a, b, c, d:
        c.setblocking(False)
        pump = Pump(b, c)
        assert not os.get_blocking(b.fileno())
        pump.close()
        pump.close()
        assert os.get_blocking(b.fileno())
        assert not os.get_blocking(c.fileno())
        for verb in (pump.step, pump.fileno):
            with pytest.raises(naru.ClosedError):
                verb()
        assert isinstance(pump.statistics(), PumpStatistics)


def test_no_streams() -> None:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    a, b = socket.socketpair()
    with one, two, a, b, pytest.raises(naru.UnsupportedError):
        Pump(a, one)
    with open("/dev/null", "rb") as null, socket.socket() as other:
        with pytest.raises(naru.UnsupportedError):
            Pump(null, other)
