"""FIFOs: a path in the file system, many writers, one reader.

Opening never hangs. naru's own framing sends chunks of at most PIPE_BUF, so that writers never tear
each other's messages; each sender holds a lock on one byte of the FIFO itself, by which the
receiver knows that it lives. With framing=raw or lines any program may be at the other end.
Source: fifo(7), pipe(7), fcntl(2) open file description locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import struct

from naru._native.ends import Receiver, Sender
from naru._native.opening import open_fifo_receiver, open_fifo_sender, open_stream
from naru.address import Address
from naru.errors import NameTakenError, NotPermittedError, from_os_error
from naru.runtime import NameLock
from naru.settings import FifoSettings
from naru.transports.connecting import Deadline, persist
from naru.transports.contract import Capabilities, Place
from naru.transports.names import OwnedName, unlink_if
from naru.transports.pipe import set_capacity

capabilities = Capabilities(
    transport="fifo",
    mechanism="FIFO",
    channel=False,
    pair=False,
    many_senders=True,
    order=True,
    reliable=True,
    back_pressure=True,
    descriptors=False,
    priority=False,
    in_place=False,
    peer_credentials=False,
    peer_death="a sender sees it at once; a receiver goes on with the other senders",
    crosses_machines=False,
    max_message_bytes=lambda: FifoSettings().max_message_bytes,
)

_FLOCK = struct.Struct("hhqqi4x")
F_OFD_SETLK = 37


def _check_fifo(fd: int, operation: str, address: Address, trusted: set[int]) -> os.stat_result:
    """What was opened must be a FIFO, and of somebody who is trusted."""
    status = os.fstat(fd)
    if not stat.S_ISFIFO(status.st_mode):
        wrong = f"{address.path} is no FIFO; it is left alone"
    elif status.st_uid not in trusted:
        wrong = f"{address.path} belongs to uid {status.st_uid}"
    else:
        return status
    raise NotPermittedError(
        f'{operation} "{address}": not permitted (EPERM); {wrong}',
        errno=errno.EPERM, operation=operation, address=address,
    )  # fmt: skip


def _open_existing(path: str, flags: int, operation: str, address: Address) -> int:
    try:
        return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        wrong = {
            errno.ELOOP: "is a symbolic link, and is not followed",
            errno.EISDIR: "is a directory",
        }.get(error.errno or 0)
        if wrong:
            name = errno.errorcode[error.errno or 0]
            raise NotPermittedError(
                f'{operation} "{address}": not permitted ({name}); {path} {wrong}',
                errno=error.errno, operation=operation, address=address,
            ) from error  # fmt: skip
        raise


def receiver(address: Address) -> Receiver:
    settings = FifoSettings.from_address(address)
    path = str(address.path)
    lock = NameLock.acquire("path", os.path.realpath(path))
    fds: list[int] = []
    is_new = False
    try:
        is_new = _make(path, settings.mode, address)
        made = is_new or lock.taken_over
        try:
            fds.append(_open_existing(path, os.O_RDONLY, "fifo.receiver", address))
            status = _check_fifo(fds[0], "fifo.receiver", address, {os.geteuid()})
            set_capacity(fds[0], settings.capacity_bytes, address)
            if settings.framing == "naru":
                fds.append(_open_existing(path, os.O_WRONLY, "fifo.receiver", address))
        except OSError as error:
            raise from_os_error(error, "fifo.receiver", address) from error
        identity = (status.st_dev, status.st_ino)
        name = OwnedName(lock, lambda: unlink_if(path, identity) if made else None)
        place = Place(settings, name.close)
        if settings.framing == "naru":
            return open_fifo_receiver(
                Receiver, settings, fds[0], fds[1], address=address, place=place
            )
        return open_stream(Receiver, settings, "pipe", fds[0], -1, address=address, place=place)
    except BaseException:
        for fd in fds:
            os.close(fd)
        if is_new:
            os.unlink(path)
        lock.release()
        raise


def _make(path: str, mode: int, address: Address) -> bool:
    """True when the FIFO was made here; False when there was something (checked once open)."""
    try:
        os.mkfifo(path, mode)
        os.chmod(path, mode, follow_symlinks=True)  # less the umask otherwise; made a moment ago
    except FileExistsError:
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            raise NameTakenError(
                f'fifo.receiver "{address}": there is something at {path} that is no FIFO; it is '
                "left alone: remove it, or take another path",
                errno=errno.EEXIST, operation="fifo.receiver", address=address,
            ) from None  # fmt: skip
        return False
    except OSError as error:
        raise from_os_error(error, "fifo.receiver", address) from error
    return True


def _reach(address: Address, settings: FifoSettings) -> Sender:
    fd = _open_existing(str(address.path), os.O_WRONLY, "fifo.sender", address)
    try:
        _check_fifo(fd, "fifo.sender", address, {os.geteuid(), 0})
        place = Place(settings)
        if settings.framing != "naru":
            return open_stream(Sender, settings, "pipe", -1, fd, address=address, place=place)
        while True:
            number = secrets.randbits(62) | 1
            lock = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
            try:
                fcntl.fcntl(fd, F_OFD_SETLK, lock)
                break
            except (BlockingIOError, PermissionError):
                continue  # another sender drew the same 62 bits
        return open_fifo_sender(Sender, settings, fd, number, address=address, place=place)
    except BaseException:
        os.close(fd)
        raise


def sender(address: Address, deadline: Deadline) -> Sender:
    settings = FifoSettings.from_address(address)
    return persist(lambda: _reach(address, settings), deadline, "fifo.sender", address)
