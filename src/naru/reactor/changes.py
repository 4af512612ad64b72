"""Changes of files and directories, as inotify(7) tells them.

Holds: Change; parse, a pure function over what was read; Changes, one inotify for a reactor.
Must not know: a loop. Joins: a reactor polls `fileno()` and calls `dispatch()`.

A path is watched by its directory and its name there. So a file that is rotated (moved away, made
anew), replaced by a rename, or not there yet is seen under its name, whatever inode that is.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from naru._native.system import inotify_add, inotify_open, inotify_remove
from naru.errors import LimitError, NoSuchNameError, from_os_error

__all__ = ["Change", "Changes", "Event", "Kind", "parse"]

Kind = Literal[
    "created", "modified", "closed", "attributes", "deleted", "moved_away", "moved_here",
    "gone", "overflow",
]  # fmt: skip

IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE = 0x2, 0x4, 0x8
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
IN_DELETE_SELF, IN_MOVE_SELF, IN_UNMOUNT = 0x400, 0x800, 0x2000
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR = 0x4000, 0x8000, 0x01000000

KINDS: dict[int, Kind] = {
    IN_CREATE: "created",
    IN_MODIFY: "modified",
    IN_CLOSE_WRITE: "closed",
    IN_ATTRIB: "attributes",
    IN_DELETE: "deleted",
    IN_MOVED_FROM: "moved_away",
    IN_MOVED_TO: "moved_here",
    IN_MOVE_SELF: "gone",
    IN_IGNORED: "gone",
    IN_Q_OVERFLOW: "overflow",
}
WATCHED = sum(KINDS) & ~IN_IGNORED & ~IN_Q_OVERFLOW
HEAD = struct.Struct("=iIII")
READ_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened to a path."""

    path: str
    """What it happened to: the path that is watched, or an entry of the watched directory."""
    kind: Kind
    """created; modified (bytes were written, or it was cut); closed (by somebody who could write);
    attributes (mode, owner, times, number of names); deleted; moved_away; moved_here (it may have
    replaced another); gone: the directory itself was deleted, moved or unmounted, and nothing more
    will come; overflow: the kernel has dropped changes, so look at everything again."""
    other: str | None = None
    """Of moved_away and moved_here: the other path, when it is watched by the same reactor and was
    told at the same time."""


class Event(NamedTuple):
    """One record of inotify."""

    watch: int
    mask: int
    cookie: int
    name: str


def parse(data: bytes) -> list[Event]:
    """The records of one read; empty for none. What is cut short at the end is left out."""
    events = []
    place = 0
    while place + HEAD.size <= len(data):
        watch, mask, cookie, length = HEAD.unpack_from(data, place)
        place += HEAD.size
        if place + length > len(data):
            break
        name = data[place : place + length].split(b"\0", 1)[0]
        events.append(Event(watch, mask, cookie, os.fsdecode(name)))
        place += length
    return events


class _Directory:
    """What is watched in one directory."""

    __slots__ = ("path", "wanted")

    def __init__(self, path: str) -> None:
        self.path = path
        # Who wants it, and the one name they look at; None: all of them.
        self.wanted: dict[object, tuple[str | None, str, Callable[[Change], object]]] = {}


class Changes:
    """One inotify descriptor and everything that is watched by it."""

    def __init__(self) -> None:
        """Raises LimitError: no descriptor, or fs.inotify.max_user_instances are in use."""
        self._fd = inotify_open()
        self._directories: dict[int, _Directory] = {}

    def fileno(self) -> int:
        """Polls readable when something has changed."""
        return self._fd

    def add(self, path: str, callback: Callable[[Change], object]) -> object:
        """Watches a path; the returned key ends it by remove().

        Raises: NoSuchNameError: there is no such directory. NotPermittedError.
        LimitError: fs.inotify.max_user_watches are in use.
        """
        directory, name = (path, None) if os.path.isdir(path) else os.path.split(path)
        try:
            watch = inotify_add(self._fd, directory or ".", WATCHED | IN_ONLYDIR)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise LimitError(
                    f"reactor.on_change {path!r}: no watch is left (ENOSPC); raise "
                    "fs.inotify.max_user_watches",
                    errno=errno.ENOSPC, operation="reactor.on_change", address=path,
                ) from error  # fmt: skip
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise NoSuchNameError(
                    f"reactor.on_change {path!r}: there is no directory {directory!r} (ENOENT)",
                    errno=errno.ENOENT, operation="reactor.on_change", address=path,
                ) from error  # fmt: skip
            raise from_os_error(error, "reactor.on_change", path) from error
        key = object()
        place = self._directories.setdefault(watch, _Directory(directory))
        place.wanted[key] = (name, path, callback)
        return key

    def remove(self, key: object) -> None:
        """Ends what add() began. Idempotent."""
        for watch, directory in list(self._directories.items()):
            if directory.wanted.pop(key, None) is not None and not directory.wanted:
                del self._directories[watch]
                inotify_remove(self._fd, watch)

    def remove_all(self, keys: list[object]) -> None:
        """remove() for each."""
        for key in keys:
            self.remove(key)

    def dispatch(
        self, limit_bytes: int = READ_BYTES
    ) -> Iterator[tuple[Callable[[Change], object], Change]]:
        """Reads once; which callbacks are due, with what. Never waits."""
        try:
            data = os.read(self._fd, limit_bytes)
        except BlockingIOError:
            return
        events = parse(data)
        moved = {e.cookie: self._path_of(e) for e in events if e.mask & IN_MOVED_TO}
        left = {e.cookie: self._path_of(e) for e in events if e.mask & IN_MOVED_FROM}
        for event in events:
            if event.mask & IN_Q_OVERFLOW:
                for directory in list(self._directories.values()):
                    for _, path, callback in list(directory.wanted.values()):
                        yield callback, Change(path, "overflow")
                continue
            kind = next((k for bit, k in KINDS.items() if event.mask & bit), None)
            found = self._directories.get(event.watch)
            if kind is None or found is None:
                continue
            if kind == "gone":  # told once: by the move, or by the end of the watch
                del self._directories[event.watch]
                inotify_remove(self._fd, event.watch)
            other = None
            if event.mask & (IN_MOVED_FROM | IN_MOVED_TO):
                other = (moved if event.mask & IN_MOVED_FROM else left).get(event.cookie)
            for name, path, callback in list(found.wanted.values()):
                if kind == "gone":
                    yield callback, Change(path, kind)
                elif name is None and event.name:
                    yield callback, Change(os.path.join(path, event.name), kind, other)
                elif name == event.name:
                    # The directory's own events have no name, and are no file's.
                    yield callback, Change(path, kind, other)

    def _path_of(self, event: Event) -> str | None:
        directory = self._directories.get(event.watch)
        return None if directory is None else os.path.join(directory.path, event.name)

    def close(self) -> None:
        """Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
