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
ASK_FROM_BYTES = 8 << 20
"""Smaller requests are not worth the look-up (0.2 ms)."""


def _read_number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _group_headroom() -> list[int]:
    """What the control groups of this process still allow, as far as they can be read."""
    rooms: list[int] = []
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return rooms
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit_name, used_name = "/sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root = "/sys/fs/cgroup/memory"
            limit_name, used_name = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # A group is bounded by every group above it; in a container the path may not be visible.
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            directory = "/".join([root, *parts[:depth]])
            limit = _read_number(f"{directory}/{limit_name}")
            used = _read_number(f"{directory}/{used_name}")
            if limit is not None and used is not None:
                rooms.append(max(0, limit - used))
    return rooms


def headroom_bytes() -> int:
    """The most that can be allocated now without being killed, as far as this process can see."""
    rooms = _group_headroom()
    with open("/proc/meminfo", encoding="ascii") as file:
        match = _AVAILABLE.search(file.read())
    if match:
        rooms.append(int(match[1]) * 1024)
    return min(rooms, default=1 << 62)


def check_headroom(size_bytes: int, operation: str, address: object) -> None:
    """Raises NoSpaceError when `size_bytes` would not fit."""
    if size_bytes < ASK_FROM_BYTES:
        return
    room = headroom_bytes()
    if size_bytes > room:
        raise NoSpaceError(
            f'{operation} "{address}": no space (ENOMEM); {size_bytes >> 20} MiB asked, '
            f"{room >> 20} MiB may be had (free memory and memory control group): lower "
            "capacity_bytes",
            errno=errno.ENOMEM, operation=operation, address=address,
        )  # fmt: skip
