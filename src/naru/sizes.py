"""Sizes as people write them ("64KiB", "1MB"), and how many messages make a batch.

Pure. Must not know: what is so large. Joins: benchmarks send such batches, predictions are of them.
"""

from __future__ import annotations

import re

__all__ = ["BATCH", "LARGEST_BYTES", "batch_length", "parse_size", "show_size"]

LARGEST_BYTES = 1 << 30
BATCH = 64
BATCH_BYTES = 4 << 20

_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
}  # fmt: skip
_SIZE = re.compile(r"([0-9]{1,12})\s*([A-Za-z]{0,3})")


def parse_size(text: str) -> int | None:
    """Bytes from "1024", "64KiB" (1024s), "1MB" (1000s); None: no size from 1 byte to 1 GiB."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _UNITS:
        return None
    size_bytes = int(match[1]) * _UNITS[match[2].lower()]
    return size_bytes if 1 <= size_bytes <= LARGEST_BYTES else None


def show_size(size_bytes: int) -> str:
    """As people write it: "1 KiB", "64 KiB", "1000 B"."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= scale and size_bytes % scale == 0:
            return f"{size_bytes // scale} {unit}"
    return f"{size_bytes} B"


def batch_length(size_bytes: int) -> int:
    """Messages of a batch: 64, or fewer of large ones."""
    return max(1, min(BATCH, BATCH_BYTES // max(1, size_bytes)))
