"""os.pipe: what `os.write` and `os.read` cost, one message a call.

Pipes are one way: two of them carry a round trip. Messages have no header, so
the reader must know their size.
"""

from __future__ import annotations

import fcntl
import os
from functools import partial
from typing import Any

import loops
from peers.contract import End, Job, Peer
from two_processes import SENDER, Meeting

CAPACITY_BYTES = 1 << 20
# F_SETPIPE_SZ; the name is in fcntl since 3.10, its value is Linux's.
SET_PIPE_SIZE = fcntl.F_SETPIPE_SZ


def _new_pipe() -> tuple[int, int]:
    read_fd, write_fd = os.pipe()
    fcntl.fcntl(write_fd, SET_PIPE_SIZE, CAPACITY_BYTES)
    return read_fd, write_fd


class _End(End):
    def __init__(self, read_fd: int, write_fd: int, size_bytes: int) -> None:
        self.send = partial(os.write, write_fd)
        # Messages divide a page, so a read never gives a part of one.
        self.receive = partial(os.read, read_fd, size_bytes)
        self._read_fd, self._write_fd, self._size_bytes = read_fd, write_fd, size_bytes

    def send_batch(self, block: list[bytes]) -> None:
        data = memoryview(b"".join(block))
        while data:
            data = data[os.write(self._write_fd, data) :]

    def receive_batch(self) -> list[bytes]:
        size, wanted = self._size_bytes, self._size_bytes * loops.BLOCK
        data = os.read(self._read_fd, wanted)
        while len(data) % size:
            data += os.read(self._read_fd, size - len(data) % size)
        return [data[at : at + size] for at in range(0, len(data), size)]


class OsPipe(Peer):
    name = "os.pipe"
    transport = "pipe"
    shapes = frozenset({"per-message", "batch", "trip", "idle"})

    def missing(self) -> str | None:
        return None

    def prepare(self, job: Job) -> Any:
        if 4096 % job.size_bytes:
            raise ValueError(f"os.pipe: {job.size_bytes} bytes do not divide a page")
        return _new_pipe(), _new_pipe()

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> End:
        there, back = place
        if side == SENDER:
            return _End(back[0], there[1], job.size_bytes)
        return _End(there[0], back[1], job.size_bytes)

    def clean_up(self, place: Any) -> None:
        for ends in place:
            for fd in ends:
                os.close(fd)


PEERS = (OsPipe(),)
