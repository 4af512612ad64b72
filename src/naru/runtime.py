"""Where names live: the runtime directory, and locks that tell a living owner from a dead one.

Holds: the choice and the checks of the directory, and ``NameLock``.
Must not know: what stands under a name (a socket, a queue, counters).
Joins: a listener takes the ``NameLock`` of its name, then removes what a dead owner left behind;
the owner alone unlinks.

A name is held by an *open file description* lock (fcntl(2), F_OFD_SETLK) and not by a pid in a
file: the kernel drops it at the death of its holder, whatever killed it, and a pid may have been
reused. Not by flock(2): F_OFD_GETLK can ask who holds it without taking it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
import threading
import warnings
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

from naru.errors import NameTakenError, NotPermittedError, from_os_error

__all__ = ["NameLock", "is_held", "private_directory", "runtime_directory"]

F_OFD_GETLK = getattr(fcntl, "F_OFD_GETLK", 36)
F_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)
# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len (0: to the end), l_pid (must be 0).
_FLOCK = struct.Struct("@hhqqi4x")
_WHOLE_FILE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_PID = re.compile(rb"pid ([0-9]{1,10})\n")


def runtime_directory() -> Path:
    """The directory for sockets and locks of this user; made when it is missing.

    Returns:
        ``$XDG_RUNTIME_DIR/naru`` when that variable names a directory of ours that nobody else can
        write to, else ``/tmp/naru-<uid>``. Mode 0700.

    Raises:
        NotPermittedError: It is a symbolic link, belongs to another user, or others may enter it.
    """
    path = _choose_directory()
    _make_private(path)
    return path


def private_directory(path: Path) -> Path:
    """The directory, made when it is missing, and checked as runtime_directory() is.

    Raises: NotPermittedError.
    """
    _make_private(path)
    return path


def _choose_directory() -> Path:
    text = os.environ.get("XDG_RUNTIME_DIR", "")
    if text.startswith("/") and _is_ours(text):
        return Path(text, "naru")
    return Path(f"/tmp/naru-{os.geteuid()}")


def _is_ours(directory: str) -> bool:
    try:
        status = os.stat(directory)
    except (OSError, ValueError):
        return False
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return ours and not status.st_mode & 0o022


def _make_private(path: Path) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass  # usual; whose it is follows
    except OSError as exc:
        raise from_os_error(exc, "runtime.create", path) from exc
    _check_private(path)


def _check_private(path: Path) -> None:
    # lstat, after mkdir: in /tmp anybody may have put something there before us, and once it is a
    # directory of ours, the sticky bit keeps others from exchanging it.
    try:
        status = os.lstat(path)
    except OSError as exc:
        raise from_os_error(exc, "runtime.open", path) from exc
    if not stat.S_ISDIR(status.st_mode):
        wrong = "it is a symbolic link or a file, not a directory: remove it"
    elif status.st_uid != os.geteuid():
        wrong = f"it belongs to uid {status.st_uid}: set XDG_RUNTIME_DIR to a directory of your own"
    elif status.st_mode & 0o077:
        wrong = f"others may use it (mode {status.st_mode & 0o777:04o}): chmod 0700 it"
    else:
        return
    raise NotPermittedError(
        f'runtime.open "{path}": not safe for sockets and locks; {wrong}',
        errno=errno.EPERM,
        operation="runtime.open",
        address=path,
    )


def _lock_path(directory: Path, kind: str, name: str) -> Path:
    import hashlib  # late: it loads OpenSSL

    digest = hashlib.sha256(f"{kind}\0{name}".encode("utf-8", "surrogateescape")).hexdigest()
    return directory / "locks" / f"{digest[:32]}.lock"


class NameLock:
    """A name that this process owns until release(), close_in_child() or its death.

    The file of a released lock is gone. The file of a dead owner stays until the next acquire(),
    which takes it over.
    """

    kind: str
    name: str
    taken_over: bool
    """The last owner of the name died without releasing it; what it made may still be there."""

    def __init__(self, kind: str, name: str, path: Path, fd: int, taken_over: bool) -> None:
        """Takes over the descriptor, which holds the lock. Use acquire()."""
        self.kind, self.name, self.taken_over = kind, name, taken_over
        self._path, self._fd = path, fd
        with _fork_gate:
            _held.add(self)

    @classmethod
    def acquire(cls, kind: str, name: str) -> Self:
        """Takes the name, without waiting.

        Args:
            kind: A namespace, such as a transport: ``"shm"`` and ``"mq"`` names do not collide.
            name: The name within it.

        Raises:
            NameTakenError: A living process has it (this one too).
            NotPermittedError: The runtime directory is not safe.
        """
        path = _lock_path(runtime_directory(), kind, name)
        _make_private(path.parent)
        # A fork between open and registration would leave the child a lock that it knows not of.
        with _fork_gate:
            while True:
                fd, taken_over = _open_locked(path, kind, name)
                if _is_at(fd, path):
                    break
                # The holder released between our open and our lock: this file has no name any
                # more, and the next process would lock another one. Each turn means that another
                # process has made progress.
                os.close(fd)
            return cls(kind, name, path, fd, taken_over)

    @property
    def held(self) -> bool:
        """False after release(), and in a forked child."""
        return self._fd >= 0

    def release(self) -> None:
        """Gives the name up and removes its file. Idempotent."""
        with _fork_gate:
            if self._fd < 0:
                return
            # Unlink first, unlock after: the other way round, a new owner's file would be removed.
            try:
                if _is_at(self._fd, self._path):
                    os.unlink(self._path)
            except FileNotFoundError:
                pass  # somebody cleaned the directory up: the file is gone, which is what we want
            finally:
                self.close_in_child()

    def close_in_child(self) -> None:
        """Closes this process's descriptor only; the process that acquired keeps the name.

        Runs by itself after os.fork(): the lock belongs to the open file, which a child inherits,
        so that the name would stay taken until the last child has gone.
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        _held.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<NameLock {self.kind} {self.name!r}{'' if self.held else ' released'}>"

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"unreleased {self!r}", ResourceWarning, stacklevel=1, source=self)
            self.release()


def is_held(kind: str, name: str) -> bool:
    """Does a living process (this one too) own the name? Takes and makes nothing.

    Raises:
        NotPermittedError: The runtime directory is not safe, so that its answer is worth nothing.
    """
    directory = _choose_directory()
    if not os.path.lexists(directory):
        return False
    _check_private(directory)
    path = _lock_path(directory, kind, name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise from_os_error(exc, "name.query", f"{kind} {name}") from exc
    try:
        answer = fcntl.fcntl(fd, F_OFD_GETLK, _WHOLE_FILE)
    finally:
        os.close(fd)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _open_locked(path: Path, kind: str, name: str) -> tuple[int, bool]:
    """The locked descriptor, and whether a dead owner's note stood in the file."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as exc:
        raise from_os_error(exc, "name.acquire", f"{kind} {name}") from exc
    try:
        fcntl.fcntl(fd, F_OFD_SETLK, _WHOLE_FILE)
    except OSError as exc:
        holder = _read_holder(fd)
        os.close(fd)
        if not isinstance(exc, BlockingIOError | PermissionError):  # EAGAIN or EACCES, fcntl(2)
            raise from_os_error(exc, "name.acquire", f"{kind} {name}") from exc
        raise NameTakenError(
            f'name.acquire "{kind} {name}": a living process owns it{holder}; '
            "close that one, or take another name",
            errno=errno.EEXIST,
            operation="name.acquire",
            address=f"{kind} {name}",
        ) from exc
    taken_over = False
    try:
        taken_over = os.fstat(fd).st_size > 0
        note = b"pid %d\n" % os.getpid()
        # Over the old note first, cut after: a full disk, or a death between, leaves it a note.
        os.pwrite(fd, note, 0)
        os.ftruncate(fd, len(note))
    except BaseException as exc:
        if not taken_over and _is_at(fd, path):
            os.unlink(path)  # made here a moment ago, and locked: nobody else's
        os.close(fd)
        if isinstance(exc, OSError):
            raise from_os_error(exc, "name.acquire", f"{kind} {name}") from exc
        raise
    return fd, taken_over


def _read_holder(fd: int) -> str:
    """For the message only: the file may be a moment older, or newer, than the lock."""
    match = _PID.fullmatch(os.pread(fd, 64, 0))
    return f" (pid {match[1].decode()}, it says)" if match else ""


def _is_at(fd: int, path: Path) -> bool:
    ours = os.fstat(fd)
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return ours.st_nlink > 0 and (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


# The state of the module, and the reason for it: a fork hook cannot be taken back, so there is one
# for all locks. The gate keeps forks of other threads out of a half-done acquire.
_held: weakref.WeakSet[NameLock] = weakref.WeakSet()
_fork_gate = threading.RLock()


def _after_fork_in_child() -> None:
    try:
        for lock in list(_held):
            lock.close_in_child()
    finally:
        _fork_gate.release()


os.register_at_fork(
    before=_fork_gate.acquire,
    after_in_parent=_fork_gate.release,
    after_in_child=_after_fork_in_child,
)
