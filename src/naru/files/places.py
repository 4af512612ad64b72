"""A path, a file object, a socket, an end of naru or a number: one open descriptor.

Holds: Place, which closes what it opened and nothing else, and keeps the position of a file where its
user expects it. Must not know: how bytes are moved.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

from naru.errors import NaruError, UnsupportedError
from naru.files.failures import failed
from naru.files.kinds import Kind, is_stream, kind_of

SIGNALS_S = 1.0

__all__ = ["HasFileno", "Place", "Thing", "open_source", "open_target", "send_timeout"]


class HasFileno(Protocol):
    """A socket, a file object, an end of naru."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


Thing: TypeAlias = str | os.PathLike[str] | HasFileno | int
"""What can be read from or written to: a path, something with fileno(), a descriptor."""


class Place:
    """An open descriptor, what it is, and how to name it to people."""

    def __init__(self, fd: int, name: str, thing: Any, *, ours: bool) -> None:
        self.fd, self.name = fd, name
        self.kind: Kind = kind_of(fd)
        self.size_bytes = os.fstat(fd).st_size
        self.blocks = os.get_blocking(fd)
        self._thing, self._ours = thing, ours

    def position(self) -> int:
        """Of a file: where its user would read next, also one with a buffer of its own."""
        tell = getattr(self._thing, "tell", None)
        return int(tell()) if tell is not None else os.lseek(self.fd, 0, os.SEEK_CUR)

    def go_to(self, offset: int) -> None:
        """The user goes on from there."""
        seek = getattr(self._thing, "seek", None)
        if seek is not None:
            seek(offset)
        else:
            os.lseek(self.fd, offset, os.SEEK_SET)

    def close(self) -> None:
        """Only what was opened here. Raises OSError: the last moment a file system may complain."""
        if self._ours:
            self._ours = False
            os.close(self.fd)


def open_source(thing: Thing, operation: str) -> Place:
    """Raises: NoSuchNameError, NotPermittedError, UnsupportedError, NaruError, as the kernel says."""
    return _open(thing, operation, os.O_RDONLY)


def open_target(thing: Thing, operation: str, source: Place) -> Place:
    """A path becomes an empty file, once it is certain that it is not the source itself."""
    flush = getattr(thing, "flush", None)
    if flush is not None:
        flush()
    place = _open(thing, operation, os.O_WRONLY | os.O_CREAT)
    try:
        if source.kind == "file" and os.path.sameopenfile(source.fd, place.fd):
            raise UnsupportedError(
                f'{operation} "{place.name}": source and target are the same file',
                operation=operation,
                address=place.name,
            )
        if place._ours and place.kind == "file":
            os.ftruncate(place.fd, 0)
    except OSError as error:
        place.close()
        raise failed(error, operation, place.name) from error
    except NaruError:
        place.close()
        raise
    return place


def _open(thing: Thing, operation: str, flags: int) -> Place:
    name = _name_of(thing)
    try:
        if isinstance(thing, str | bytes | os.PathLike):
            fd = os.open(thing, flags | os.O_CLOEXEC | os.O_NOCTTY, 0o666)
            try:
                return _checked(Place(fd, name, None, ours=True), operation)
            except BaseException:
                os.close(fd)
                raise
        fd = thing if isinstance(thing, int) else thing.fileno()
        _refuse_records(thing, operation, name)
        return _checked(Place(fd, name, thing, ours=False), operation)
    except NaruError:
        raise
    except OSError as error:
        raise failed(error, operation, name) from error


def _checked(place: Place, operation: str) -> Place:
    if place.kind == "socket":
        raise UnsupportedError(
            f'{operation} "{place.name}": only stream sockets carry bytes without boundaries',
            operation=operation,
            address=place.name,
        )
    if os.path.isdir(place.fd):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return place


def _refuse_records(thing: object, operation: str, name: str) -> None:
    """Bytes without naru's headers would end a conversation of naru."""
    if not type(thing).__module__.startswith("naru."):
        return
    from naru.settings import settings_for

    address: Any = getattr(thing, "address", None)
    if address is not None and getattr(settings_for(address), "framing", "naru") != "raw":
        raise UnsupportedError(
            f'{operation} "{name}": this end carries messages; open it with ?framing=raw',
            operation=operation,
            address=name,
        )


def _name_of(thing: Thing) -> str:
    if isinstance(thing, str | bytes | os.PathLike):
        return os.fsdecode(thing)
    if isinstance(thing, int):
        return f"descriptor {thing}"
    address = getattr(thing, "address", None)
    if address is not None:
        return str(address)
    name = getattr(thing, "name", None)
    return str(name) if isinstance(name, str) else f"{type(thing).__name__} {thing.fileno()}"


@contextmanager
def send_timeout(place: Place, timeout_s: float | None) -> Iterator[None]:
    """sendfile(2) into a blocking socket gives up after `timeout_s`, and once a second in any case,
    because a signal that came just before it does not interrupt it. What was set comes back.

    O_NONBLOCK would do it, too, but belongs to the open file: another thread that receives on the
    same socket would meet it.
    """
    if not place.blocks or not is_stream(place.kind):
        yield
        return
    with socket.socket(fileno=os.dup(place.fd)) as ours:
        before = ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)
        limit_s = SIGNALS_S if timeout_s is None else min(timeout_s, SIGNALS_S)
        whole_s, rest_us = divmod(max(1, int(limit_s * 1e6)), 1_000_000)
        wanted = struct.pack("ll", whole_s, rest_us)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wanted)
        try:
            yield
        finally:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, before)
