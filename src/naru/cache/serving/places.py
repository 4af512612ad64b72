"""The file of a cache, for its server: found by name or path, made when it is missing.

Must not know: what is in it. Joins: server.py makes it, process.py opens it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from naru._native.cache_server import make_table
from naru.errors import BadAddressError, NoSuchNameError, from_os_error
from naru.runtime import runtime_directory

__all__ = ["make_if_missing", "open_file", "path_of"]


def path_of(name: str) -> Path:
    """A name stands for a file of this user's own; with a slash in it, it is a path."""
    if not name or "\0" in name or name.startswith("."):
        raise BadAddressError(
            f'cache "{name}": a name has at least one character, no NUL, and no dot in front',
            operation="cache", address=name,
        )  # fmt: skip
    if "/" in name:
        return Path(name).absolute()
    directory = runtime_directory() / "caches"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory / f"{name}.cache"


def make_if_missing(path: Path, size_bytes: int | None, shards: int = 0) -> bool:
    """Makes an empty cache of this size, unless there is one.

    Returns: True when it was made.
    Raises: NoSuchNameError: there is none, and no size was given; NoSpaceError.
    """
    if path.exists():
        return False
    if size_bytes is None:
        raise NoSuchNameError(
            f'cache "{path}": there is none; make one, or say how large (size_bytes=, --size)',
            errno=errno.ENOENT, operation="cache.open", address=path,
        )  # fmt: skip
    spare = path.parent / f".{path.name}.{os.urandom(8).hex()}"
    try:
        fd = os.open(spare, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise from_os_error(error, "cache.create", path) from error
    try:
        make_table(fd, size_bytes, shards, address=path)
        os.link(spare, path)  # whole, or not at all; somebody else's stays
    except FileExistsError:
        return False
    finally:
        os.close(fd)
        os.unlink(spare)
    return True


def open_file(path: Path | str) -> int:
    """A descriptor of the cache's file, for reading and writing."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise from_os_error(error, "cache.open", path) from error
