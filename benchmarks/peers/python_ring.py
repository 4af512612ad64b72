"""A ring in shared memory written in plain Python: how far that goes.

One sender, one receiver, slots of one message, two positions that only grow.
A position is one aligned 8-byte store, which on x86-64 is enough to order it
after the bytes before it; elsewhere this ring is not correct.

Shape `views` is its best case: 64 messages go in as one slice, and the
receiver looks at them where they lie.
"""

from __future__ import annotations

import mmap
import platform
from collections.abc import Callable
from typing import Any

import loops
from peers.contract import Job, Peer, PolledEnd
from two_processes import SENDER, Meeting

SLOTS = 1024  # a multiple of a block, so that no block wraps
_HEADER_BYTES = 128
_WRITTEN, _TAKEN = 0, 8  # in words: two cache lines


def _try_send_into(words: memoryview, slots: memoryview, size: int) -> Callable[[bytes], bool]:
    written = seen = 0

    def try_send(message: bytes) -> bool:
        nonlocal written, seen
        if written - seen == SLOTS:
            seen = words[_TAKEN]
            if written - seen == SLOTS:
                return False
        at = written % SLOTS * size
        slots[at : at + size] = message
        written += 1
        words[_WRITTEN] = written
        return True

    return try_send


def _try_receive_from(words: memoryview, slots: memoryview, size: int) -> Callable[[], Any]:
    taken = seen = 0

    def try_receive() -> bytes | None:
        nonlocal taken, seen
        if taken == seen:
            seen = words[_WRITTEN]
            if taken == seen:
                return None
        at = taken % SLOTS * size
        message = bytes(slots[at : at + size])
        taken += 1
        words[_TAKEN] = taken
        return message

    return try_receive


class _End(PolledEnd):
    def __init__(self, incoming: mmap.mmap, outgoing: mmap.mmap, job: Job) -> None:
        size = job.size_bytes
        self._in_words, self._in_slots = _parts(incoming)
        self._out_words, self._out_slots = _parts(outgoing)
        self.try_send = _try_send_into(self._out_words, self._out_slots, size)
        self.try_receive = _try_receive_from(self._in_words, self._in_slots, size)
        self._size_bytes = size

    def send_batch(self, block: list[bytes]) -> None:
        written = self._out_words[_WRITTEN]
        while written + len(block) - self._out_words[_TAKEN] > SLOTS:
            pass
        at = written % SLOTS * self._size_bytes
        self._out_slots[at : at + self._size_bytes * len(block)] = b"".join(block)
        self._out_words[_WRITTEN] = written + len(block)

    def receive_in_place(self, shape: str, blocks: int, size_bytes: int) -> None:
        words, slots = self._in_words, self._in_slots
        taken = words[_TAKEN]
        for number in range(blocks):
            while words[_WRITTEN] - taken < loops.BLOCK:
                pass
            at = taken % SLOTS * size_bytes
            end = at + loops.BLOCK * size_bytes
            for start in range(at, end, size_bytes):
                slots[start]
            loops.check_marker(slots[end - size_bytes : end], number, size_bytes)
            taken += loops.BLOCK
            words[_TAKEN] = taken


def _parts(memory: mmap.mmap) -> tuple[memoryview, memoryview]:
    view = memoryview(memory)
    return view[:_HEADER_BYTES].cast("Q"), view[_HEADER_BYTES:]


class PythonRing(Peer):
    name = "python-ring"
    transport = "shm"
    shapes = frozenset({"per-message", "views", "trip"})

    def missing(self) -> str | None:
        return None if platform.machine() == "x86_64" else "its memory order needs x86-64"

    def prepare(self, job: Job) -> Any:
        size_bytes = _HEADER_BYTES + SLOTS * job.size_bytes
        return mmap.mmap(-1, size_bytes), mmap.mmap(-1, size_bytes)

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> PolledEnd:
        there, back = place
        return _End(back, there, job) if side == SENDER else _End(there, back, job)


PEERS = (PythonRing(),)
