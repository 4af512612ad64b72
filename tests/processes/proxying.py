"""Conversations through a proxy: what each side sends, how it reads, how it ends; and a check of both.

Must not know: how the proxy is started, or which kinds of sockets it joins.
"""

from __future__ import annotations

import random
import select
import socket
import struct
from dataclasses import dataclass

from hypothesis import strategies as st

__all__ = ["End", "Plan", "check_pair", "converse", "plans"]

STUCK_S = 10.0
RESET_AT_ONCE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Plan:
    """One side of a conversation."""

    seed: int
    chunks: tuple[int, ...]
    """Sizes of its writes."""
    read_bytes: int
    laziness: float
    """The share of its turns in which it does not read though it could."""
    reset_after_bytes: int | None
    """Breaks the connection once it has sent so much; None: ends it in good order."""


def plans() -> st.SearchStrategy[Plan]:
    sizes = st.one_of(st.just(1), st.integers(1, 100), st.integers(1000, 300_000))
    return st.builds(
        Plan,
        seed=st.integers(0, 2**32),
        chunks=st.lists(sizes, max_size=10).map(tuple),
        read_bytes=st.sampled_from([1000, 65536, 300_000]),
        laziness=st.sampled_from([0.0, 0.5, 0.95]),
        reset_after_bytes=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 400_000)),
    )


class End:
    """A nonblocking socket that does what its plan says."""

    def __init__(self, sock: socket.socket, plan: Plan) -> None:
        sock.setblocking(False)
        self.sock, self.plan, self.family = sock, plan, sock.family
        self.random = random.Random(plan.seed)
        self.data = memoryview(self.random.randbytes(sum(plan.chunks)))
        self.sent_bytes = 0
        self._chunks = list(plan.chunks)
        self.received = bytearray()
        self.ended = False
        """Reads no more: `how` says why."""
        self.how = ""
        self.finished = False
        """Sends no more."""
        self.broken = False
        """Its own plan broke the connection."""
        self.told = False
        """It has seen that the connection is broken; the kernel says so once, to a read or a write."""

    def close(self) -> None:
        self.sock.close()

    def turn(self) -> bool:
        """One write and one read, as far as the kernel goes along. Returns: whether anything moved."""
        moved = self._write()
        if self._must_break():
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
            self.sock.close()
            self.ended = self.finished = self.broken = True
            self.how = "broke it"
            return True
        if self.ended or self.random.random() < self.plan.laziness:
            return moved
        return self._read() or moved

    def waits_for(self) -> tuple[bool, bool]:
        """(to read, to write)"""
        return not self.ended, not self.finished

    def _must_break(self) -> bool:
        limit = self.plan.reset_after_bytes
        return limit is not None and not self.broken and not self.finished and (
            self.sent_bytes >= limit or self.sent_bytes == len(self.data)
        )  # fmt: skip

    def _write(self) -> bool:
        if self.finished:
            return False
        if self.sent_bytes == len(self.data):
            if self.plan.reset_after_bytes is None:
                self.finished = True
                try:
                    self.sock.shutdown(socket.SHUT_WR)
                except OSError:
                    self.told = True
            return True
        try:
            size = self._chunks[0]
            sent = self.sock.send(self.data[self.sent_bytes : self.sent_bytes + size])
        except BlockingIOError:
            return False
        except OSError:
            self.finished = self.told = True
            return True
        self.sent_bytes += sent
        self._chunks[0] -= sent
        if self._chunks[0] == 0:
            del self._chunks[0]
        return True

    def _read(self) -> bool:
        try:
            got = self.sock.recv(self.plan.read_bytes)
        except BlockingIOError:
            return False
        except OSError as error:
            self.ended, self.how, self.told = True, type(error).__name__, True
            return True
        self.received += got
        if not got:
            self.ended, self.how = True, "end"
        return True


def converse(ends: list[End]) -> None:
    """Turns for all until all have ended. Raises: AssertionError when nothing moves any more."""
    while live := [end for end in ends if not (end.ended and end.finished)]:
        moved = [end.turn() for end in live]
        if any(moved):
            continue
        readers = [end.sock for end in live if end.waits_for()[0]]
        writers = [end.sock for end in live if end.waits_for()[1] and not end.broken]
        ready = select.select(readers, writers, [], STUCK_S)
        assert ready[0] or ready[1], f"stuck: {[(end.sent_bytes, end.how) for end in live]}"


def check_pair(one: End, other: End) -> None:
    """What each received is what the other sent, or after a break the beginning of it."""
    for end, peer in ((one, other), (other, one)):
        assert end.received == peer.data[: len(end.received)], "other bytes than were sent"
        if end.broken or peer.broken:
            continue
        assert len(end.received) == len(peer.data), "not all of it"
        assert end.how == "end"
    for end, peer in ((one, other), (other, one)):
        # A Unix socket has no reset: only TCP can tell a part from the whole.
        if peer.broken and not end.broken and {end.family, peer.family} == {socket.AF_INET}:
            assert end.told, "a part looks like the whole"
