"""The mutex of a cache's first shard, in the hand of a test: held, left behind, or spoilt.

Holds: FirstShard, hold (a child that has it), keys_by_lock. It knows where the mutex lies
(docs/design/cache.md), because nothing that is shipped lets anybody hold one for longer than a change takes.
Must not know: what is tested.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path

import naru
from naru.testing.faults import Events

__all__ = ["FirstShard", "hold", "keys_by_lock"]

_SHARDS_AT = 516 << 10  # header, tags, claims
_MUTEX_AT = 64
_libc = ctypes.CDLL(None)


class FirstShard:
    """Locks as a program would that knows the file's layout, and nothing of repairs."""

    def __init__(self, path: Path) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._anchor = ctypes.c_char.from_buffer(self._map, _SHARDS_AT + _MUTEX_AT)
        self._at = ctypes.c_void_p(ctypes.addressof(self._anchor))

    def lock(self) -> int:
        """Waits. Returns: 0, EOWNERDEAD or ENOTRECOVERABLE."""
        result = int(_libc.pthread_mutex_lock(self._at))
        assert result in (0, errno.EOWNERDEAD, errno.ENOTRECOVERABLE), os.strerror(result)
        return result

    def unlock(self) -> None:
        """After EOWNERDEAD nobody can lock it any more: nothing was made consistent."""
        assert _libc.pthread_mutex_unlock(self._at) == 0


def hold(events: Events, path: Path) -> None:
    """In a child: says "held" and what lock() gave, and keeps it until it hears "let go"."""
    shard = FirstShard(path)
    events.tell("held", result=shard.lock())
    events.expect("let go", 60)
    shard.unlock()
    events.tell("free")
    events.hear(60)


def keys_by_lock(path: Path, count: int) -> tuple[list[str], list[str]]:
    """Of "key 0", "key 1", ...: those whose lock cannot be had now, and the others."""
    stuck, free = [], []
    with naru.Cache.open(path, lock_timeout_s=0.02) as impatient:
        for number in range(count):
            try:
                impatient.touch(f"key {number}", None)
                free.append(f"key {number}")
            except naru.TimedOutError:
                stuck.append(f"key {number}")
    return stuck, free
