"""39: the peer truncates, grows, seals or punches the shared memory, under traffic.

The seals make the first three EPERM for him (memfd_create(2)). Holes he may punch: they read as
zeroes, which is nonsense like any other.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import threading
from typing import Any

import pytest
from shm_helpers import F_ADD_SEALS, SEAL_WRITE, SEALS, RawClient
from victims import Victim

import naru

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
KEEP_SIZE, PUNCH_HOLE = 1, 2


def _fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    if _libc.fallocate(fd, mode, offset, size) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def echo(events: Any, address: str) -> int:
    """Answers every message until the peer leaves; how many there were."""
    with naru.listen(address) as listener:
        events.tell("listening")
        with listener.accept(timeout_s=4.0) as channel:
            for count, message in enumerate(channel):
                if message == b"the last":
                    return count
                channel.send(message, timeout_s=2.0)
    return -1


SIZES = {
    "truncate to 0": lambda fd, size: os.truncate(fd, 0),
    "truncate by a page": lambda fd, size: os.truncate(fd, size - 4096),
    "grow by ftruncate": lambda fd, size: os.truncate(fd, size + 4096),
    "grow by fallocate": lambda fd, size: _fallocate(fd, 0, size, 4096),
    "seal against writing": lambda fd, size: fcntl.fcntl(fd, F_ADD_SEALS, SEAL_WRITE),
    "seal again": lambda fd, size: fcntl.fcntl(fd, F_ADD_SEALS, SEALS),
}


@pytest.mark.parametrize("act", SIZES)
def test_39_the_size_stays(runtime: str, act: str) -> None:
    with Victim(echo, f"shm://{runtime}/s") as victim:
        victim.expect("listening")
        with RawClient(f"{runtime}/s") as client:
            size = os.fstat(client.memory.fd).st_size
            for number in range(200):
                with pytest.raises(PermissionError) as refused:
                    SIZES[act](client.memory.fd, size)
                assert refused.value.errno == errno.EPERM
                client.memory.put(1, b"%03d" % number)
                client.ring()
                assert os.fstat(client.memory.fd).st_size == size
            client.memory.put(1, b"the last")
            client.ring()
            outcome = victim.outcome()
    assert outcome.error is None, outcome
    assert outcome.value == 200


def test_39_by_another_name(runtime: str) -> None:
    """A descriptor opened anew through /proc, and the page in which a pair is claimed."""
    ours, theirs = naru.pair("shm")
    with ours, theirs:
        memfds = [
            int(name) for name in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{name}")
            and os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:naru")
        ]  # fmt: skip
        assert len(memfds) >= 2, "the segment and the claims"
        for fd in memfds:
            again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
            try:
                for act in ("truncate to 0", "grow by ftruncate", "seal again"):
                    with pytest.raises(PermissionError):
                        SIZES[act](again, os.fstat(fd).st_size)
            finally:
                os.close(again)
        ours.send(b"still here")
        assert theirs.receive(timeout_s=1.0) == b"still here"


def test_39_nothing_has_a_name_in_dev_shm(runtime: str) -> None:
    before = set(os.listdir("/dev/shm"))
    with naru.listen("shm://nothing") as listener:
        client: list[naru.Channel] = []
        thread = threading.Thread(target=lambda: client.append(naru.connect("shm://nothing")))
        thread.start()
        with listener.accept(timeout_s=5.0):
            thread.join()
            assert set(os.listdir("/dev/shm")) <= before
        client[0].close()


def test_39_holes(runtime: str) -> None:
    """The pages become zeroes while naru reads and writes: never a crash, at worst an error."""
    with Victim(echo, f"shm://{runtime}/s?linger_s=0") as victim:
        victim.expect("listening")
        with RawClient(f"{runtime}/s") as client:
            size = os.fstat(client.memory.fd).st_size
            for number in range(200):
                client.memory.put(1, b"%03d" % number)
                client.ring()
                _fallocate(client.memory.fd, KEEP_SIZE | PUNCH_HOLE, 4096 * (number % 4), size)
                client.memory.set_word(1, "tail", client.memory.word(1, "head"))
        outcome = victim.outcome()
    assert outcome.error is not None
    assert outcome.leaked == []
