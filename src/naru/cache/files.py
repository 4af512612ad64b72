"""Where caches are, and how their files come into being: whole, or not at all.

Holds: path_of, and making, replacing, opening and removing the file of a cache. Must not know: what is
in it (naru._native.table). Joins: the class methods of naru.Cache, and generations.py.

A file is made without a name (O_TMPFILE), filled, and linked into place: no half-made cache is ever
opened, whoever dies when, and of two that create the same name one is told so.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from naru._native.table import Mapping, attach, error_of
from naru._native.tending import is_in_memory
from naru.cache.room import check_room
from naru.errors import BadAddressError, NaruError, NotPermittedError, from_os_error
from naru.runtime import private_directory, runtime_directory

__all__ = ["directory_of_names", "make_file", "open_file", "path_of", "remove_file", "replace_file"]

LONGEST_NAME = 200
SHARED_MEMORY = Path("/dev/shm")
_ENDING = ".cache"


def path_of(name: str | os.PathLike[str]) -> Path:
    """The file of a cache.

    Args:
        name: a name, which stands for a file in this user's own directory in memory; or a path (with a
            slash in it, or a Path), where a file of a disk survives a reboot.

    Raises: BadAddressError; NotPermittedError: the directory of names is not safe.
    """
    if not isinstance(name, str):
        return Path(name).absolute()
    if "/" in name and "\0" not in name:
        return Path(name).absolute()
    if "\0" in name or not name or name.startswith("."):
        raise _bad(name, "a name has at least one character, no NUL, and no dot in front")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise _bad(name, f"a name has at most {LONGEST_NAME} bytes")
    return directory_of_names() / (name + _ENDING)


def _bad(name: str, why: str) -> BadAddressError:
    return BadAddressError(f'cache "{name}": {why}', operation="cache", address=name)


def directory_of_names() -> Path:
    """Made when it is missing: in the runtime directory if that is in memory, else in /dev/shm.

    Without either, it is in the runtime directory all the same: the cache then works from the page
    cache, and the kernel writes it to the disk behind it.
    """
    runtime = runtime_directory()
    if not is_in_memory(runtime) and _usable(SHARED_MEMORY):
        return private_directory(SHARED_MEMORY / f"naru-{os.geteuid()}")
    return private_directory(runtime / "caches")


def _usable(directory: Path) -> bool:
    return directory.is_dir() and is_in_memory(directory) and os.access(directory, os.W_OK)


Fill = Callable[[int], Mapping]
Action = Callable[[], None]


def make_file(path: Path, mode: int, size_bytes: int, fill: Fill) -> Mapping:
    """A new file, filled by `fill(fd)`, under a name that nobody has.

    Raises: NameTakenError, NoSpaceError, NotPermittedError, NoSuchNameError.
    """
    if os.path.lexists(path):
        raise error_of(-errno.EEXIST, "cache.create", path)
    return _make(path, mode, size_bytes, fill, None)


def replace_file(
    path: Path, mode: int, size_bytes: int, fill: Fill, at_the_end: Callable[[Action], None]
) -> Mapping:
    """As make_file(), in place of the one that is there.

    Args:
        at_the_end: called with what gives the new file the name, once that is filled.
    """
    return _make(path, mode, size_bytes, fill, at_the_end)


def _make(
    path: Path, mode: int, size_bytes: int, fill: Fill, at_the_end: Callable[[Action], None] | None
) -> Mapping:
    check_room(path.parent, size_bytes)
    try:
        fd, spare = _open_nameless(path)
        try:
            os.fchmod(fd, mode)
            made = fill(fd)
            if at_the_end is None:
                _give_name(fd, spare, path, replaces=False)
            else:
                at_the_end(partial(_give_name, fd, spare, path, replaces=True))
            return made
        finally:
            os.close(fd)
            if spare is not None and os.path.lexists(spare):
                os.unlink(spare)
    except FileExistsError as exc:
        raise error_of(-errno.EEXIST, "cache.create", path) from exc
    except NaruError:
        raise
    except OSError as exc:
        raise from_os_error(exc, "cache.create", path) from exc


def _open_nameless(path: Path) -> tuple[int, Path | None]:
    """A descriptor, and the name that it has where a file system cannot do without."""
    try:
        return os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), None
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT) or (
            not path.parent.is_dir()
        ):
            raise
    spare = _spare_name(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(spare, flags, 0o600), spare


def _spare_name(path: Path) -> Path:
    return path.parent / f".{path.name[:200]}.{os.urandom(8).hex()}"


def _give_name(fd: int, spare: Path | None, path: Path, replaces: bool) -> None:
    source = spare or Path(f"/proc/self/fd/{fd}")
    target = _spare_name(path) if replaces else path
    # With a directory's descriptor Python calls linkat(2) with AT_SYMLINK_FOLLOW, which the link in
    # /proc needs; without one it calls link(2), which takes the link itself.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(source, target.name, src_dir_fd=folder, dst_dir_fd=folder)
        if replaces:
            os.rename(target.name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


def open_file(path: Path, allow_uids: Iterable[int] = ()) -> Mapping:
    """Maps the cache in a file.

    Raises:
        NoSuchNameError: there is no such file.
        NotPermittedError: it belongs to somebody who is neither this user, root, nor in allow_uids; or
            it is a symbolic link, or no regular file.
        CorruptedError, ProtocolError: it is no cache, or of another version.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError as exc:
        raise error_of(-errno.ENOENT, "cache.open", path) from exc
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _refused(path, "it is a symbolic link, or no regular file") from exc
        raise from_os_error(exc, "cache.open", path) from exc
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _refused(path, "it is no regular file")
        if status.st_uid not in {os.geteuid(), 0, *allow_uids}:
            raise _refused(
                path,
                f"it belongs to uid {status.st_uid}, who could put anything into it: "
                f"allow_uids=[{status.st_uid}] if you trust them",
            )
        return attach(fd, address=path)
    finally:
        os.close(fd)


def _refused(path: Path, why: str) -> NotPermittedError:
    return NotPermittedError(
        f'cache.open "{path}": not permitted (EPERM); {why}',
        errno=errno.EPERM,
        operation="cache.open",
        address=path,
    )


def remove_file(path: Path) -> None:
    """Its name; what has it open keeps it. Nothing happens when it is gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # another process dropped it first
    except OSError as exc:
        raise from_os_error(exc, "cache.drop", path) from exc
