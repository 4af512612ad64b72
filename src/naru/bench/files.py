"""Writing a result file so that a reader never sees half of it. Must not know: what is in it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

__all__ = ["check_target", "write_whole"]


def check_target(path: str | Path) -> None:
    """Raises OSError, naming the place, when a file cannot be made there."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if path.exists() and not path.is_file():
        return  # a device or a pipe
    directory = Path(os.path.realpath(path)).parent
    if not directory.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(directory))
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(directory))


def write_whole(path: str | Path, data: bytes) -> None:
    """Replaces the file in one step; on an error (a full disk) the old one is still there.

    What is no regular file (a pipe, /dev/stdout) is written to directly. Raises OSError.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    # A link stays a link: what it points to is replaced.
    target = Path(os.path.realpath(path))
    fd, temporary = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    """The process's umask, which can only be read by setting it; /proc tells it without."""
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            for line in file:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        return 0o077  # unknown: keep it to ourselves
    return 0o077
