"""Frames above 16 MiB between two processes, with the settings that nobody touched."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

import naru
from naru.testing.children import Child
from naru.testing.events import Events

MIB = 1 << 20


def frame(size_bytes: int) -> numpy.ndarray[Any, Any]:
    return numpy.arange(size_bytes // 4, dtype="u4").reshape(4, -1)


def send(events: Events, end: naru.Channel) -> None:
    for size_bytes in (16 * MIB, 33 * MIB):
        end.send_array(frame(size_bytes))
        end.send_array(frame(size_bytes)[:, ::-2])
        with end.reserve_array((size_bytes // 4,), "u4") as room:
            room[:] = frame(size_bytes).reshape(-1)
        end.send_object(b"x" * size_bytes)


@pytest.mark.watchdog(seconds=60)
@pytest.mark.parametrize("kind", ["shm", "unix", "tcp", "pipe"])
def test_large_frames(kind: str) -> None:
    ours, theirs = naru.pair(kind)
    with ours, Child.run(send, theirs) as child:
        theirs.close()
        for size_bytes in (16 * MIB, 33 * MIB):
            wanted = frame(size_bytes)
            with ours.lease_array(timeout_s=20) as array:
                assert numpy.array_equal(array, wanted)
            got = ours.receive_array(timeout_s=20)
            assert numpy.array_equal(got, wanted[:, ::-2])
            assert got.flags.writeable
            assert numpy.array_equal(ours.receive_array(timeout_s=20), wanted.reshape(-1))
            assert len(ours.receive_object(bytes, timeout_s=20)) == size_bytes
        child.check()
