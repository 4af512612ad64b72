"""One file takes the place of another under a cache's name: another size, or what a snapshot holds.

Holds: resize, snapshot, restore. Must not know: keys and values of users. Joins: the methods of the same
names.

A new generation is made whole, takes the name, and then the old one says that it has a successor:
readers never wait. Writers are kept out of the old one meanwhile by its own locks, which the kernel
gives back if this process dies: then everything is as it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from naru._native.table_file import Mapping, create
from naru._native.tending import AllShards, Records, settings_of, write_record
from naru.cache.files import Link, replace_file, succeed, write_file
from naru.cache.snapshots import Entry, Head, read_entries, read_head, write
from naru.errors import CorruptedError, NaruError, from_os_error

__all__ = ["fill_new", "read_snapshot", "resize", "restore", "write_snapshot"]

Record = tuple[bytes, bytes, int, int, tuple[int, ...]]
"""Key, value, kind, milliseconds left (-1: for ever), tags."""

PATIENCE_S = 30.0
"""For all shards' locks, when the cache itself would wait for ever."""


def resize(
    current: Mapping, path: Path, size_bytes: int, timeout_s: float | None
) -> Mapping | None:
    """Returns the new generation; None: another process made one meanwhile."""
    settings = {**settings_of(current), "size_bytes": size_bytes}
    with AllShards(current, PATIENCE_S if timeout_s is None else timeout_s, path) as ours:
        if not ours:
            return None

        return _replaced(path, settings, Records(current), partial(succeed, path, current))


def restore(
    current_of: Callable[[], Mapping],
    path: Path,
    settings: dict[str, Any],
    records: Iterable[Record],
    timeout_s: float,
) -> Mapping:
    """A new generation of these records; writers are kept out for the moment of the change only."""

    def take_place(link: Link) -> None:
        while True:
            current = current_of()
            with AllShards(current, timeout_s, path) as ours:
                if ours:
                    succeed(path, current, link)
                    return

    return _replaced(path, settings, records, take_place)


def _replaced(
    path: Path,
    settings: dict[str, Any],
    records: Iterable[Record],
    take_place: Callable[[Link], None],
) -> Mapping:
    mode = os.stat(path).st_mode & 0o777
    fill = partial(fill_new, path, settings, records)
    return replace_file(path, mode, settings["size_bytes"], fill, take_place)


def fill_new(path: Path, settings: dict[str, Any], records: Iterable[Record], fd: int) -> Mapping:
    """A table in an empty file, with these entries; those that are too large for it are left out."""
    made = create(
        fd,
        size_bytes=settings["size_bytes"],
        shards=_shards_for(settings["size_bytes"], settings["shards"]),
        entry_bytes=settings["entry_bytes"],
        small_percent=settings["small_percent"],
        seed=settings["seed"],
        codec=settings["codec"].encode("ascii"),
        address=path,
    )
    for record in records:
        write_record(made, *record)
    return made


def _shards_for(size_bytes: int, shards: int) -> int:
    """As many as before, or as many as 1 MiB each leaves."""
    while shards > 1 and size_bytes < shards << 20:
        shards //= 2
    return shards


# ---- snapshots ----


def write_snapshot(current: Mapping, path: Path) -> int:
    """All entries into a file that takes the name when it is whole and on the disk. Returns how many."""
    settings = settings_of(current)
    now_ms = time.time_ns() // 1_000_000
    head = Head(
        settings["size_bytes"], settings["shards"], settings["entry_bytes"],
        settings["small_percent"], settings["seed"], settings["codec"], now_ms,
    )  # fmt: skip
    try:
        return write_file(path, lambda file: write(file, head, _entries(current, now_ms)))
    except NaruError:
        raise
    except OSError as exc:
        raise from_os_error(exc, "cache.snapshot", path) from exc


def _entries(current: Mapping, now_ms: int) -> Iterator[Entry]:
    for key, value, kind, left_ms, tags in Records(current):
        yield Entry(key, value, kind, -1 if left_ms < 0 else now_ms + left_ms, tags)


def read_snapshot(file: IO[bytes], path: object) -> tuple[Head, Iterator[Record]]:
    """What it was, and its entries that have not expired by now. Raises: CorruptedError, ProtocolError."""
    try:
        head = read_head(file)
    except CorruptedError as exc:
        raise CorruptedError(f'{exc} ("{path}")', operation="cache.restore", address=path) from exc
    return head, _records(file)


def _records(file: IO[bytes]) -> Iterator[Record]:
    now_ms = time.time_ns() // 1_000_000
    for key, value, kind, expires_ms, tags in read_entries(file):
        if expires_ms < 0:
            yield key, value, kind, -1, tags
        elif expires_ms > now_ms:
            yield key, value, kind, expires_ms - now_ms, tags
