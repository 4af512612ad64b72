"""May so much memory be taken at all? Asked before it is, because the other answer is a kill.

A memfd has no size limit of its own; the memory control group has, and beyond it the kernel kills
(FAULTS 40: touch and fallocate both end in 137). Must not know: what the memory is for.
Source: Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import re

from naru.errors import NoSpaceError

__all__ = ["check_headroom", "headroom_bytes"]

_AVAILABLE = re.compile(r"^MemAvailable:\s+([0-9]+) kB$", re.MULTILINE)
# Version 1 sums up what lies below a group under these names, version 2 always does.
_FILE_CACHE = re.compile(r"^(total_)?(?:in)?active_file ([0-9]+)$", re.MULTILINE)
NO_LIMIT_BYTES = 1 << 60
RESERVE_BYTES = 1 << 20
"""What is left to the process itself, so that not its own next page is what kills it."""


def _read(path: str) -> str:
    """The text of a file; empty where there is none, or it is not for us."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _reclaimable_bytes(directory: str) -> int:
    """The group's page cache: it counts as used, and goes when something better comes."""
    found = _FILE_CACHE.findall(_read(f"{directory}/memory.stat"))
    totals = [int(size) for total, size in found if total]
    return sum(totals or [int(size) for _, size in found])


def _room_of_group(directory: str, limit_name: str, used_name: str) -> int | None:
    limit = _read(f"{directory}/{limit_name}")
    if not limit.isdigit() or int(limit) >= NO_LIMIT_BYTES:
        return None  # "max", or as good as that, or unreadable
    used = _read(f"{directory}/{used_name}")
    if not used.isdigit():
        return None
    return max(0, int(limit) - int(used) + _reclaimable_bytes(directory))


def _group_headroom() -> list[int]:
    """What the control groups of this process still allow, as far as they can be read."""
    rooms: list[int] = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = "/sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root = "/sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # A group is bounded by every group above it; in a container the path may not be visible.
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            room = _room_of_group("/".join([root, *parts[:depth]]), *names)
            if room is not None:
                rooms.append(room)
    return rooms


def headroom_bytes() -> int:
    """The most that can be allocated now without being killed, as far as this process can see."""
    rooms = _group_headroom()
    match = _AVAILABLE.search(_read("/proc/meminfo"))
    if match:
        rooms.append(int(match[1]) * 1024)
    return max(0, min(rooms, default=NO_LIMIT_BYTES) - RESERVE_BYTES)


def check_headroom(size_bytes: int, operation: str, address: object) -> None:
    """Raises NoSpaceError when `size_bytes` would not fit. Costs about 0.1 ms."""
    room = headroom_bytes()
    if size_bytes > room:
        raise NoSpaceError(
            f'{operation} "{address}": no space (ENOMEM); {size_bytes >> 10} KiB asked, '
            f"{room >> 10} KiB may be had (free memory and memory control group): lower "
            "capacity_bytes",
            errno=errno.ENOMEM, operation=operation, address=address,
        )  # fmt: skip
