"""Names that a process owns; socket files: a dead server's is taken over, a living one's never.

A name is held by a lock file (runtime.NameLock), so two servers that start together cannot both
find the old socket dead. A socket whose server is not naru has no lock: it is asked by a
connection.
Must not know: what is said over the socket.
"""

from __future__ import annotations

import atexit
import errno
import os
import socket
import stat
import weakref
from collections.abc import Callable

from naru.errors import NameTakenError, from_os_error
from naru.runtime import NameLock

__all__ = ["OwnedName", "bind_path", "unlink_if"]


class OwnedName:
    """A name that this process owns: what is under it, and the lock that says so.

    close() removes both, once, and only in the process that made them; a process that ends without
    (a thread still waits in the end when the interpreter exits) closes them at its exit.
    """

    def __init__(self, lock: NameLock, remove: Callable[[], None]) -> None:
        self._lock, self._remove, self._owner = lock, remove, os.getpid()
        self._open = True  # not `lock.held`: in a collected cycle the lock may be finalised first
        _open_names.add(self)

    def close(self) -> None:
        if not self._open or os.getpid() != self._owner:
            return  # a forked child's copy: the name is its parent's
        self._open = False
        try:
            self._remove()
        except FileNotFoundError:
            pass  # somebody removed it: nothing is left to do
        finally:
            self._lock.release()


# The state of the module, and the reason for it: only one who knows all names can give up, at the
# exit, those whose ends are kept open by a blocked thread.
_open_names: weakref.WeakSet[OwnedName] = weakref.WeakSet()


@atexit.register
def _close_names() -> None:
    for name in list(_open_names):
        name.close()


def unlink_if(path: str, identity: tuple[int, int]) -> None:
    """Removes the file when it is still this one (device, inode)."""
    status = os.lstat(path)
    if (status.st_dev, status.st_ino) == identity:
        os.unlink(path)


def bind_path(
    sock: socket.socket, path: str, mode: int, operation: str, address: object
) -> OwnedName:
    """Binds a Unix socket to a path, with these permission bits from its first moment on.

    Raises:
        NameTakenError: a living server has it, or what is there is no socket (it is left alone).
        NotPermittedError, NoSuchNameError: as the file system says.
    """
    lock = NameLock.acquire("path", os.path.realpath(path))
    try:
        _remove_dead(path, sock.type, operation, address)
        os.fchmod(sock.fileno(), mode)  # bind(2) makes the file with these bits, less the umask
        try:
            sock.bind(path)
            os.chmod(path, mode)
        except OSError as error:
            raise from_os_error(error, operation, address) from error
        status = os.lstat(path)
    except BaseException:
        lock.release()
        raise
    identity = (status.st_dev, status.st_ino)
    return OwnedName(lock, lambda: unlink_if(path, identity))


def _remove_dead(path: str, kind: int, operation: str, address: object) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise from_os_error(error, operation, address) from error
    if not stat.S_ISSOCK(status.st_mode):
        raise NameTakenError(
            f'{operation} "{address}": there is something at {path} that is not a socket; it is '
            "left alone: remove it, or take another path",
            errno=errno.EEXIST, operation=operation, address=address,
        )  # fmt: skip
    if _is_alive(path, kind):
        raise NameTakenError(
            f'{operation} "{address}": a living server has {path}; close it, or take another path',
            errno=errno.EADDRINUSE, operation=operation, address=address,
        )  # fmt: skip
    try:
        os.unlink(path)
    except OSError as error:
        raise from_os_error(error, operation, address) from error


def _is_alive(path: str, kind: int) -> bool:
    """Only ECONNREFUSED proves that nobody listens: when in doubt, it lives."""
    for probe_kind in {kind, socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM}:
        with socket.socket(socket.AF_UNIX, probe_kind) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                return False
            except OSError as error:
                if error.errno == errno.EPROTOTYPE:
                    continue  # a socket of another kind: ask in its own
                return error.errno != errno.ENOENT
            return True
    return True
