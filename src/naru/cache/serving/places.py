"""The file of a cache, for its server: the one that naru.Cache opens by the same name.

Must not know: what is in it. Joins: server.py makes it, process.py opens it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from naru.cache.cache import Cache
from naru.errors import NoSuchNameError, from_os_error

__all__ = ["make_if_missing", "open_file"]


def make_if_missing(path: Path, size_bytes: int | None) -> None:
    """Makes an empty cache of this size, unless there is one.

    Raises: NoSuchNameError: there is none, and no size was given; NoSpaceError; as Cache.open().
    """
    if size_bytes is not None:
        Cache.open_or_create(path, size_bytes).close()
    elif not path.exists():
        raise NoSuchNameError(
            f'cache "{path}": there is none; make one, or say how large (size_bytes=, --size)',
            errno=errno.ENOENT, operation="cache.open", address=path,
        )  # fmt: skip
    else:
        Cache.open(path).close()


def open_file(path: Path | str) -> int:
    """A descriptor of the cache's file, for reading and writing."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise from_os_error(error, "cache.open", path) from error
