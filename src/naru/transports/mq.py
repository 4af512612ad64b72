"""POSIX message queues: boundaries and priorities kept by the kernel; any program may take part.

The machine's limits are small (10 messages of 8 KiB) and only an administrator raises them, so each
refusal names the limit. A queue outlives its processes: one that a dead receiver left is taken over
with the messages in it. Source: mq_overview(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import struct
from typing import NoReturn

from naru._native.ends import Receiver, Sender
from naru._native.opening import open_mq
from naru._native.system import mq_attributes, mq_open, mq_unlink
from naru.address import Address
from naru.errors import (
    LimitError,
    NameTakenError,
    NotPermittedError,
    UnsupportedError,
    from_os_error,
)
from naru.runtime import NameLock
from naru.settings import MqSettings
from naru.transports.connecting import Deadline, persist
from naru.transports.contract import Capabilities, Place
from naru.transports.names import OwnedName

_FLOCK = struct.Struct("hhqqi4x")
F_OFD_SETLK = 37
DEFAULT_DEPTH = 10


def machine_limit(name: str) -> int:
    """fs.mqueue.<name>.

    Raises UnsupportedError where the kernel has no message queues, LimitError where no descriptor
    is left to read it with.
    """
    try:
        with open(f"/proc/sys/fs/mqueue/{name}", encoding="ascii") as file:
            return int(file.read())
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise from_os_error(error, "mq.open", None) from error
        raise UnsupportedError(
            f"mq: this kernel has no POSIX message queues (/proc/sys/fs/mqueue/{name} is missing)",
            errno=errno.ENOSYS, operation="mq.open",
        ) from error  # fmt: skip


capabilities = Capabilities(
    transport="mq",
    mechanism="POSIX message queue",
    channel=False,
    pair=False,
    many_senders=True,
    order=True,
    reliable=True,
    back_pressure=True,
    descriptors=False,
    priority=True,
    in_place=False,
    peer_credentials=False,
    peer_death="by a sender before a full queue; the queue keeps its messages",
    crosses_machines=False,
    max_message_bytes=lambda: machine_limit("msgsize_max"),
)


def _explain(error: OSError, operation: str, address: Address, depth: int, size: int) -> NoReturn:
    """The kernel's EINVAL, EMFILE and ENOSPC all mean limits; say which and how high it is."""
    if error.errno == errno.EINVAL and depth > machine_limit("msg_max"):
        text = (
            f"depth={depth} is above fs.mqueue.msg_max = {machine_limit('msg_max')}: lower it, or "
            "raise the sysctl"
        )
    elif error.errno == errno.EINVAL and size > machine_limit("msgsize_max"):
        text = (
            f"message_bytes={size} is above fs.mqueue.msgsize_max = "
            f"{machine_limit('msgsize_max')}: lower it, or raise the sysctl"
        )
    elif error.errno == errno.EMFILE:
        soft, _ = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        text = (
            f"the queues of this user would be above RLIMIT_MSGQUEUE = {soft} bytes (this one "
            f"needs about {depth * (size + 128)}), or the process above RLIMIT_NOFILE = {files}: "
            "close queues, lower depth= and message_bytes=, or raise the limit"
        )
    elif error.errno == errno.ENOSPC:
        queues_max = machine_limit("queues_max")
        text = f"the machine has fs.mqueue.queues_max = {queues_max} queues: remove some"
    else:
        raise from_os_error(error, operation, address) from error
    name = errno.errorcode[error.errno]
    raise LimitError(
        f'{operation} "{address}": limit reached ({name}); {text}',
        errno=error.errno, operation=operation, address=address,
    ) from error  # fmt: skip


def _check_sizes(address: Address, settings: MqSettings) -> tuple[int, int]:
    """(depth, message_bytes); limits are told before the kernel is asked."""
    msg_max, msgsize_max = machine_limit("msg_max"), machine_limit("msgsize_max")
    depth = settings.depth or min(DEFAULT_DEPTH, msg_max)
    size = settings.message_bytes or msgsize_max
    if depth > msg_max or size > msgsize_max:
        _explain(OSError(errno.EINVAL, ""), "mq.receiver", address, depth, size)
    return depth, size


def _create_or_open(address: Address, settings: MqSettings) -> tuple[int, bool]:
    """The queue and whether it was made here."""
    depth, size = _check_sizes(address, settings)
    name = str(address.name)
    try:
        return mq_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, settings.mode, depth, size), True
    except FileExistsError:
        pass  # a dead receiver's, or another program's
    except OSError as error:
        _explain(error, "mq.receiver", address, depth, size)
    try:
        return mq_open(name, os.O_RDWR, 0, 0, 0), False
    except OSError as error:
        raise from_os_error(error, "mq.receiver", address) from error


def _check_existing(queue: int, address: Address, settings: MqSettings) -> None:
    owner = os.fstat(queue).st_uid
    if owner != os.geteuid():
        raise NotPermittedError(
            f'mq.receiver "{address}": not permitted (EPERM); the queue belongs to uid {owner}',
            errno=errno.EPERM, operation="mq.receiver", address=address,
        )  # fmt: skip
    depth, size, _ = mq_attributes(queue)
    if (settings.depth or depth) != depth or (settings.message_bytes or size) != size:
        raise NameTakenError(
            f'mq.receiver "{address}": the queue exists with depth={depth} and message_bytes='
            f"{size}: ask for these, or for nothing, or remove it",
            errno=errno.EEXIST, operation="mq.receiver", address=address,
        )  # fmt: skip


def receiver(address: Address) -> Receiver:
    settings = MqSettings.from_address(address)
    lock = NameLock.acquire("mq", str(address.name))
    queue, made = -1, False
    try:
        queue, made = _create_or_open(address, settings)
        if not made:
            _check_existing(queue, address, settings)
        try:
            fcntl.fcntl(queue, F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
        except (BlockingIOError, PermissionError) as error:
            raise NameTakenError(
                f'mq.receiver "{address}": a living receiver has it; close that one, or take '
                "another name",
                errno=errno.EEXIST, operation="mq.receiver", address=address,
            ) from error  # fmt: skip
        owned = made or lock.taken_over
        name = OwnedName(lock, lambda: mq_unlink(str(address.name)) if owned else None)
        return open_mq(
            Receiver, settings, queue, True, address=address, place=Place(settings, name.close)
        )
    except BaseException:
        if queue >= 0:
            os.close(queue)
        if made:
            mq_unlink(str(address.name))
        lock.release()
        raise


def _reach(address: Address, settings: MqSettings) -> Sender:
    queue = mq_open(str(address.name), os.O_WRONLY, 0, 0, 0)
    try:
        return open_mq(Sender, settings, queue, False, address=address, place=Place(settings))
    except BaseException:
        os.close(queue)
        raise


def sender(address: Address, deadline: Deadline) -> Sender:
    settings = MqSettings.from_address(address)
    return persist(lambda: _reach(address, settings), deadline, "mq.sender", address)
