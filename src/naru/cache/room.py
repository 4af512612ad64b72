"""Is there room for a cache? Asked before a byte is allocated, so that nobody is killed for it later.

Holds: pure functions over the texts of the memory cgroup, and check_room(). Must not know: what a
cache is. Joins: files.py asks before it makes a file.

Pages of a tmpfs belong to the memory cgroup of whoever touches them first, and the kernel answers
with SIGKILL, not with an error, when the group is full (Source: Linux Documentation,
admin-guide/cgroup-v2 "memory.max", cgroup-v1/memory "shmem").
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from naru._native.tending import is_in_memory
from naru.errors import NoSpaceError, from_os_error

__all__ = ["check_room", "group_paths", "room_in_group"]

UNLIMITED = 1 << 60  # cgroup v1 says "no limit" as the largest multiple of a page
_MIB = 1 << 20


def room_in_group(limit: str, used: str, statistics: str) -> int | None:
    """Bytes that a memory cgroup still has, counting what the kernel could take back at once.

    Args:
        limit: the text of memory.max or memory.limit_in_bytes.
        used: of memory.current or memory.usage_in_bytes.
        statistics: of memory.stat; "": unknown.

    Returns: None when the group has no limit, or the texts make no sense.
    """
    try:
        limit_bytes, used_bytes = int(limit), int(used)
    except ValueError:  # "max"
        return None
    if limit_bytes >= UNLIMITED:
        return None
    facts = dict(line.split(maxsplit=1) for line in statistics.splitlines() if " " in line)
    try:
        file = int(facts.get("file", facts.get("total_cache", 0)))
        shared = int(facts.get("shmem", facts.get("total_shmem", 0)))
    except ValueError:
        file = shared = 0
    return max(0, limit_bytes - used_bytes + max(0, file - shared))


def group_paths(
    membership: str, v2_root: str = "/sys/fs/cgroup"
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The folders of the memory cgroup of a process and of the groups above it.

    Args:
        membership: the text of /proc/self/cgroup.

    Yields: (folder, names of its files: limit, used, statistics).
    """
    v2 = {"limit": "memory.max", "used": "memory.current", "statistics": "memory.stat"}
    v1 = {
        "limit": "memory.limit_in_bytes",
        "used": "memory.usage_in_bytes",
        "statistics": "memory.stat",
    }
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "" and number == "0":
            root, names = v2_root, v2
        elif "memory" in controllers.split(","):
            root, names = f"{v2_root}/memory", v1
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            yield "/".join([root, *parts[:depth]]), names


def check_room(directory: Path, size_bytes: int) -> None:
    """Raises NoSpaceError: the file system, or in a tmpfs the memory cgroup, has less than asked."""
    try:
        system = os.statvfs(directory)
        memory = is_in_memory(directory)
    except OSError as exc:
        raise from_os_error(exc, "cache.create", directory) from exc
    free = system.f_bavail * system.f_frsize
    if size_bytes > free:
        raise _no_room(directory, size_bytes, free, f"the file system at {directory}")
    if not memory:
        return
    for folder, names in group_paths(_read(Path("/proc/self/cgroup"))):
        room = room_in_group(*(_read(Path(folder, names[what])) for what in names))
        if room is not None and size_bytes > room:
            raise _no_room(directory, size_bytes, room, f"the memory cgroup {folder}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""  # no such group here (a namespace shows another root), or not ours to see


def _no_room(directory: Path, size_bytes: int, free: int, where: str) -> NoSpaceError:
    return NoSpaceError(
        f'cache.create "{directory}": no space (ENOSPC); {where} has {free // _MIB} MiB free, '
        f"{-(-size_bytes // _MIB)} MiB asked: raise its limit, or lower size_bytes",
        errno=errno.ENOSPC,
        operation="cache.create",
        address=directory,
    )
