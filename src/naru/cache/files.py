"""Where caches are, and how their files come into being: whole, or not at all.

Holds: path_of, and making, replacing, opening and removing the file of a cache; writing a snapshot's.
Must not know: what is in them (naru._native.table_file, snapshots.py). Joins: the class methods of
naru.Cache, and generations.py.

A file is made without a name (O_TMPFILE), filled, and linked into place: no half-made cache is ever
opened, whoever dies when, and of two that create the same name one is told so.
"""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO

from naru._native.table_file import Mapping, attach, error_of
from naru._native.tending import is_in_memory, retire, successor_of
from naru.cache.room import check_room
from naru.errors import BadAddressError, NaruError, NotPermittedError, from_os_error
from naru.runtime import private_directory, runtime_directory

__all__ = [
    "directory_of_names",
    "make_file",
    "next_names",
    "open_file",
    "path_of",
    "remove_file",
    "replace_file",
    "succeed",
    "write_file",
]

LONGEST_NAME = 200
MOST_GENERATIONS = 100  # that can come and go while one process opens a cache
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
Link = Callable[[Path], None]


def make_file(path: Path, mode: int, size_bytes: int, fill: Fill) -> Mapping:
    """A new file, filled by `fill(fd)`, under a name that nobody has.

    Raises: NameTakenError, NoSpaceError, NotPermittedError, NoSuchNameError.
    """
    if os.path.lexists(path):
        raise error_of(-errno.EEXIST, "cache.create", path)
    return _make(path, mode, size_bytes, fill, None)


def replace_file(
    path: Path, mode: int, size_bytes: int, fill: Fill, take_place: Callable[[Link], None]
) -> Mapping:
    """A new file, filled, for the place of the one that is there.

    Args:
        take_place: called with what links the filled file to a name of the caller's choice.
    """
    return _make(path, mode, size_bytes, fill, take_place)


def _make(
    path: Path, mode: int, size_bytes: int, fill: Fill, take_place: Callable[[Link], None] | None
) -> Mapping:
    check_room(path.parent, size_bytes)
    try:
        fd, spare = _open_nameless(path)
        try:
            os.fchmod(fd, mode)
            made = fill(fd)
            link = partial(_link, fd, spare)
            (take_place or _take_name(path))(link)
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


def write_file(path: Path, write: Callable[[IO[bytes]], int]) -> int:
    """A file for the disk, under a name that it takes once it is whole and there; what had the name goes.

    Raises: OSError; what write() raises.
    """
    fd, spare = _open_nameless(path)
    try:
        with open(fd, "wb") as file:
            made = write(file)
            file.flush()
            os.fsync(fd)
            if spare is None:  # linkat(2) replaces nothing, but rename(2) does
                spare = _spare_name(path)
                _link(fd, None, spare)
        os.replace(spare, path)
    except BaseException:
        if spare is not None and os.path.lexists(spare):
            os.unlink(spare)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return made


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


def _take_name(path: Path) -> Callable[[Link], None]:
    return lambda link: link(path)


def _spare_name(path: Path) -> Path:
    return path.parent / f".{path.name[:200]}.new.{os.urandom(8).hex()}"


def _link(fd: int, spare: Path | None, target: Path) -> None:
    source = spare or Path(f"/proc/self/fd/{fd}")
    # With a directory's descriptor Python calls linkat(2) with AT_SYMLINK_FOLLOW, which the link in
    # /proc needs; without one it calls link(2), which takes the link itself.
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(source, target.name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


# ---- one generation after the other ----
# The new file gets a name of its own, the old one says whose turn it is, then the new one gets the
# cache's name. Whoever dies in between: the old one is still in use, or the next who opens it
# does the last step.


def succeed(path: Path, current: Mapping, link: Link) -> None:
    """The caller holds all shards of `current`, so that nobody else is in here."""
    for left in path.parent.glob(f".{glob.escape(path.name[:200])}.next.*"):
        left.unlink(missing_ok=True)  # of one who died before the old file said so
    number = int.from_bytes(os.urandom(7), "little") + 1
    link(_next_name(path, number))
    retire(current, number)
    _finish_succession(path, number)


def next_names(path: Path) -> str:
    """How the names of successors begin; 16 hexadecimal digits follow."""
    return f"{path.parent}/.{path.name[:200]}.next."


def _next_name(path: Path, number: int) -> Path:
    return Path(f"{next_names(path)}{number:016x}")


def _finish_succession(path: Path, number: int) -> None:
    try:
        os.rename(_next_name(path, number), path)
    except FileNotFoundError:
        pass  # another process did it, or the cache was dropped


def open_file(path: Path, allow_uids: Iterable[int] = ()) -> Mapping:
    """Maps the cache in a file; its newest generation.

    Raises:
        NoSuchNameError: there is no such file.
        NotPermittedError: it belongs to somebody who is neither this user, root, nor in allow_uids; or
            it is a symbolic link, or no regular file.
        CorruptedError, ProtocolError: it is no cache, or of another version.
    """
    uids = frozenset(allow_uids)
    for _ in range(MOST_GENERATIONS):
        mapping = _open_one(path, uids)
        number = successor_of(mapping)
        if number == 0:
            return mapping
        _finish_succession(path, number)
    raise error_of(
        -errno.EBADMSG, "cache.open", path, "it was replaced by a file that is not there"
    )


def _open_one(path: Path, allow_uids: frozenset[int]) -> Mapping:
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
