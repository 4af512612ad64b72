"""The errors of naru, and the one place where an errno becomes one of them.

::

    NaruError
    |-- ClosedError                          this side closed it
    |-- PeerGoneError      (ConnectionError) the other side closed (orderly) or died
    |-- TimedOutError      (TimeoutError)    timeout_s went by; nothing was left behind
    |-- TooBigError        (ValueError)      a message above what this way can carry
    |-- BadAddressError    (ValueError)      an address or an option that cannot be
    |-- NotPermittedError  (PermissionError) the kernel, or the other side, said no
    |-- NameTakenError     (FileExistsError) a living process owns this name
    |-- NoSuchNameError    (FileNotFoundError) nobody listens under this name
    |-- LimitError         (OSError)         a limit of the machine: descriptors, ports, buffers
    |-- NoSpaceError       (OSError)         no memory, or no room in a file system
    |-- CorruptedError                       data that cannot have been written so
    |-- ProtocolError                        the other side does not speak naru, or another version
    |-- UnsupportedError                     this transport, or this kernel, cannot
    |-- RemoteError                          the handler of a server raised (request/reply)
    `-- ForkedHandleError                    this end belongs to another process

Holds: the classes, and a table from errno to class, words and remedy.
Must not know: any other module of naru, or how an endpoint works.
Joins: the native layer and the transports call ``from_errno`` and ``from_os_error``; a caller of
naru catches ``NaruError``, one leaf, or the builtin that the leaf also is.
"""

from __future__ import annotations

import errno as errnos
import os

TYPE_CHECKING = False  # what `import naru` loads does without typing: 15 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "BadAddressError",
    "ClosedError",
    "CorruptedError",
    "ForkedHandleError",
    "LimitError",
    "NameTakenError",
    "NaruError",
    "NoSpaceError",
    "NoSuchNameError",
    "NotPermittedError",
    "PeerGoneError",
    "ProtocolError",
    "RemoteError",
    "TimedOutError",
    "TooBigError",
    "UnsupportedError",
    "from_errno",
    "from_os_error",
]


class NaruError(Exception):
    """Root of every error that naru raises on purpose.

    Args:
        message: The whole text; ``str(error)`` gives it back unchanged.
        errno: The positive number that the kernel gave, or None when it was not asked.
        operation: What was tried, such as ``"shm.listen"``.
        address: On what. Kept as text, so that an error travels between processes by pickle.
    """

    errno: int | None
    operation: str | None
    address: str | None

    def __init__(
        self,
        message: str,
        *,
        errno: int | None = None,
        operation: str | None = None,
        address: object = None,
    ) -> None:
        # One argument only: with two, OSError takes them for (errno, strerror) and rewrites str().
        super().__init__(message)
        self.errno = errno
        self.operation = operation
        self.address = None if address is None else str(address)

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError keeps errno in a C member, and with one argument its own pickling forgets it.
        return type(self), self.args, {**self.__dict__, "errno": self.errno}


class ClosedError(NaruError):
    """The operation came after close() on this side, or close() came while it waited."""


class PeerGoneError(NaruError, ConnectionError):
    """The other side is gone.

    Args:
        orderly: True when it closed and everything it sent has been received; False when it died,
            or fell silent.
    """

    orderly: bool

    def __init__(
        self,
        message: str,
        *,
        errno: int | None = None,
        operation: str | None = None,
        address: object = None,
        orderly: bool = False,
    ) -> None:
        super().__init__(message, errno=errno, operation=operation, address=address)
        self.orderly = orderly


class TimedOutError(NaruError, TimeoutError):
    """``timeout_s`` went by. A send that timed out has left no byte behind."""


class TooBigError(NaruError, ValueError):
    """A message is larger than this transport, this machine or ``max_message_bytes`` allows."""


class BadAddressError(NaruError, ValueError):
    """An address or one of its options cannot be; nothing has been created."""


class NotPermittedError(NaruError, PermissionError):
    """The kernel refused, or the other side is not in ``allow_uids``."""


class NameTakenError(NaruError, FileExistsError):
    """A living process owns this name. (The name of a dead one is taken over.)"""


class NoSuchNameError(NaruError, FileNotFoundError):
    """Nobody listens under this name."""


class LimitError(NaruError, OSError):
    """A limit of the process or the machine is reached; the text names it."""


class NoSpaceError(NaruError, OSError):
    """No memory, or no room in the file system behind it."""


class CorruptedError(NaruError):
    """What was read cannot have been written so. The end is detached and not written to again."""


class ProtocolError(NaruError):
    """The other side does not speak naru, speaks another version, or broke the rules."""


class UnsupportedError(NaruError):
    """This transport, or this kernel, cannot do what was asked."""


class RemoteError(NaruError):
    """The handler of a server raised; this is what it said, and never its object.

    Args:
        type_name: The name of the exception's type there, such as ``"ValueError"``.
        remote_message: What it said.
        remote_traceback: Its traceback there, as Python prints it; "" when it was not sent.
    """

    type_name: str
    remote_message: str
    remote_traceback: str

    def __init__(
        self,
        message: str,
        *,
        errno: int | None = None,
        operation: str | None = None,
        address: object = None,
        type_name: str = "",
        remote_message: str = "",
        remote_traceback: str = "",
    ) -> None:
        super().__init__(message, errno=errno, operation=operation, address=address)
        self.type_name = type_name
        self.remote_message = remote_message
        self.remote_traceback = remote_traceback


class ForkedHandleError(NaruError):
    """This end belongs to the process that used it first; this is another one."""


class _Cause:
    __slots__ = ("leaf", "remedy", "said")

    def __init__(
        self, leaf: type[NaruError], said: str, remedy: str | Callable[[], str] = ""
    ) -> None:
        self.leaf, self.said, self.remedy = leaf, said, remedy


def _descriptor_remedy() -> str:
    import resource  # only ever needed here, and not on the way of `import naru`

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"RLIMIT_NOFILE is {soft} (at most {hard}): close some, or raise it (ulimit -n)"


def _port_remedy() -> str:
    setting = "net.ipv4.ip_local_port_range"
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            setting += " is " + "-".join(file.read().split())
    except OSError:
        # A sandbox without /proc: the name of the setting helps also without its value.
        setting += " is not readable here"
    return f"no such address on this machine, or its ports are used up: {setting}"


_GONE = _Cause(PeerGoneError, "the peer is gone", "connect again")
_MEMORY = "free some, or ask for less (capacity_bytes, depth, max_message_bytes)"
_PERMISSION = "the owner of the name decides by mode= and allow_uids="
_TAKEN = "close the process that owns it, or take another name"

_CAUSES: dict[int, _Cause] = {
    errnos.EPIPE: _GONE,
    errnos.ECONNRESET: _GONE,
    errnos.ENOTCONN: _GONE,
    errnos.ECONNABORTED: _GONE,
    errnos.ECONNREFUSED: _Cause(PeerGoneError, "nobody is there", "start the listening side first"),
    errnos.ESHUTDOWN: _Cause(PeerGoneError, "the peer closed"),
    errnos.EHOSTDOWN: _Cause(
        PeerGoneError,
        "nothing heard from the peer within the heartbeat",
        "it is stopped or unreachable: raise heartbeat_s if it may be silent that long",
    ),
    errnos.ECANCELED: _Cause(ClosedError, "closed on this side"),
    errnos.EBADF: _Cause(ClosedError, "closed on this side"),
    errnos.EBADMSG: _Cause(
        CorruptedError, "the data are corrupted", "both sides have to start anew"
    ),
    errnos.EPROTO: _Cause(
        ProtocolError,
        "the other side does not keep to naru's protocol",
        "is it naru? framing=raw or framing=lines talks to programs that are not",
    ),
    errnos.EPROTONOSUPPORT: _Cause(
        ProtocolError,
        "the other side speaks another version of naru's protocol",
        "install the same version of naru on both sides",
    ),
    errnos.EMSGSIZE: _Cause(
        TooBigError,
        "the message is too big",
        "send it in parts, or raise the limit (max_message_bytes, message_bytes)",
    ),
    errnos.ECHILD: _Cause(
        ForkedHandleError,
        "this end belongs to another process",
        "the first process that uses an end owns it: open one in each process",
    ),
    errnos.EOPNOTSUPP: _Cause(
        UnsupportedError,
        "this transport cannot do that",
        "`naru transports` shows what each can",
    ),
    errnos.EMFILE: _Cause(LimitError, "no descriptor free in this process", _descriptor_remedy),
    errnos.ENFILE: _Cause(
        LimitError, "no descriptor free on this machine", "raise fs.file-max, or close some"
    ),
    errnos.ETOOMANYREFS: _Cause(
        LimitError, "too many descriptors are on their way", "let the other side receive them first"
    ),
    errnos.ENOBUFS: _Cause(
        LimitError, "no buffer space in the kernel", "send less at once, or receive faster"
    ),
    errnos.EADDRNOTAVAIL: _Cause(LimitError, "no address or port to be had", _port_remedy),
    errnos.EFBIG: _Cause(
        LimitError,
        "larger than this process may make a file",
        "raise RLIMIT_FSIZE (ulimit -f), or ask for less (capacity_bytes)",
    ),
    errnos.ENOSPC: _Cause(NoSpaceError, "no space", _MEMORY),
    errnos.ENOMEM: _Cause(NoSpaceError, "no memory", _MEMORY),
    errnos.EACCES: _Cause(NotPermittedError, "not permitted", _PERMISSION),
    errnos.EPERM: _Cause(NotPermittedError, "not permitted", _PERMISSION),
    errnos.EADDRINUSE: _Cause(NameTakenError, "the name is taken", _TAKEN),
    errnos.EEXIST: _Cause(NameTakenError, "the name is taken", _TAKEN),
    errnos.ENOENT: _Cause(NoSuchNameError, "no such name", "start the side that owns it first"),
    errnos.ETIMEDOUT: _Cause(TimedOutError, "timed out", "give it more time (timeout_s)"),
    errnos.EBUSY: _Cause(
        NaruError, "another thread is half-way through a large message", "wait for it"
    ),
}


def from_errno(
    error: int, operation: str, address: object = None, *, detail: str | None = None
) -> NaruError:
    """The error that stands for a negative errno; it is returned, not raised.

    Args:
        error: As the C core returns it: ``-errno``.
        operation: What was tried, such as ``"shm.listen"``.
        address: On what.
        detail: Facts of this very case; they stand before the remedy.

    Returns:
        The leaf for this errno, or a plain ``NaruError`` with the kernel's own words.
    """
    # abs(): whoever passes a positive errno by mistake should still see the error, not another one.
    number = abs(error)
    cause = _CAUSES.get(number) or _Cause(NaruError, os.strerror(number).lower())
    remedy = cause.remedy if isinstance(cause.remedy, str) else cause.remedy()
    said = f"{cause.said} ({errnos.errorcode.get(number, f'errno {number}')})"
    message = _compose(operation, address, said, detail, remedy)
    result = cause.leaf(message, errno=number, operation=operation, address=address)
    if isinstance(result, PeerGoneError):
        result.orderly = number == errnos.ESHUTDOWN
    return result


def from_os_error(
    exc: OSError, operation: str, address: object = None, detail: str | None = None
) -> NaruError:
    """The error that stands for an ``OSError`` of Python; write ``raise ... from exc``.

    A naru error passes unchanged. ``socket.timeout`` carries no errno and becomes TimedOutError;
    ``socket.gaierror`` carries a negative number that is no errno and becomes NoSuchNameError.
    """
    if isinstance(exc, NaruError):
        return exc
    if exc.errno is not None and exc.errno > 0:
        return from_errno(-exc.errno, operation, address, detail=detail or _place_of(exc, address))
    if isinstance(exc, TimeoutError):
        return from_errno(-errnos.ETIMEDOUT, operation, address, detail=detail)
    said = (exc.strerror or str(exc) or type(exc).__name__).lower()
    if exc.errno is None:
        message = _compose(operation, address, said, detail, "")
        return NaruError(message, operation=operation, address=address)
    message = _compose(operation, address, said, detail, "check the host, or write its number")
    return NoSuchNameError(message, operation=operation, address=address)


def _place_of(exc: OSError, address: object) -> str | None:
    """The file that Python names in its own error, unless the address shows it already."""
    if not isinstance(exc.filename, str | bytes) or os.fsdecode(exc.filename) in str(address):
        return None
    return f"at {os.fsdecode(exc.filename)!r}"


def _compose(operation: str, address: object, said: str, detail: str | None, remedy: str) -> str:
    place = operation if address is None else f'{operation} "{address}"'
    advice = ": ".join(part for part in (detail, remedy) if part)
    return f"{place}: {said}; {advice}" if advice else f"{place}: {said}"
