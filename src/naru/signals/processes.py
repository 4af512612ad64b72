"""Sending a signal to a process, and never to another one that has got its number meanwhile.

Holds: ProcessHandle (a pidfd), notify. A number is opened to a pidfd at once; of an object that
reaps its child itself (Popen, multiprocessing.Process) it is then asked again whether the child was
still unreaped, because until then nobody else can have its number.
Must not know: how a signal is received.
"""

from __future__ import annotations

import errno
import os
import warnings
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from naru._native.signals import pidfd_open, pidfd_send
from naru.errors import ClosedError, LimitError, NotPermittedError, PeerGoneError, from_os_error
from naru.signals.record import FIRST_REAL_TIME, checked, name_of

__all__ = ["AnyProcess", "HasPid", "ProcessHandle", "notify", "open_process", "reap_children"]


class HasPid(Protocol):
    """subprocess.Popen, multiprocessing.Process, asyncio's and psutil's processes, naru.Peer."""

    @property
    def pid(self) -> int | None: ...


class HasFileno(Protocol):
    """What holds a pidfd."""

    def fileno(self) -> int: ...


AnyProcess: TypeAlias = int | HasPid | HasFileno
"""A pid, an object that has one, or an object whose fileno() is a pidfd."""


class ProcessHandle:
    """One process, whatever becomes of its number: a pidfd, readable once it has exited."""

    def __init__(self, fd: int, pid: int) -> None:
        """Use open_process(). Takes the descriptor over."""
        self._fd = fd
        self.pid = pid
        """Its number while it lives and until it is reaped."""

    def fileno(self) -> int:
        """The pidfd; polls readable when the process has exited. Raises ClosedError."""
        if self._fd < 0:
            raise ClosedError(f"{self!r}: closed on this side", operation="fileno")
        return self._fd

    def notify(self, number: int, value: int | None = None) -> None:
        """As naru.signals.notify()."""
        notify(self, number, value)

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._fd < 0

    def close(self) -> None:
        """Closes the descriptor; nothing happens to the process. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ProcessHandle {self.pid}{' (closed)' if self._fd < 0 else ''}>"

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)
            self.close()


def open_process(process: int | HasPid) -> ProcessHandle:
    """Takes hold of a process by a descriptor, so that its number may be used again.

    Args:
        process: a pid (at least 1), or an object with `.pid`. A bare pid is as good as your
            knowledge of it: somebody's child that may be reaped already is better given as the
            object that reaps it.

    Raises:
        PeerGoneError: there is no such process, or its object says that it was reaped.
        LimitError: no descriptor is free. ValueError: a number that is no process's.

    Source: pidfd_open(2).
    """
    pid = process if isinstance(process, int) else process.pid
    if not isinstance(pid, int) or isinstance(pid, bool) or pid < 1:
        raise ValueError(
            f"{process!r} is no process that runs: a pid is at least 1, this is {pid!r}"
        )
    try:
        fd = pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise _gone(process, pid) from None
        raise from_os_error(error, "signals.open_process", pid) from error
    if _was_reaped(process):
        os.close(fd)
        raise _gone(process, pid)
    return ProcessHandle(fd, pid)


def _was_reaped(process: Any) -> bool:
    if isinstance(process, int):
        return False
    return any(getattr(process, name, None) is not None for name in ("returncode", "exitcode"))


def _gone(process: object, pid: int) -> PeerGoneError:
    return PeerGoneError(
        f"signals.notify {pid}: the process is gone (ESRCH)",
        errno=errno.ESRCH,
        operation="signals.notify",
        address=process if isinstance(process, int) else pid,
    )


def notify(process: AnyProcess, number: int, value: int | None = None) -> None:
    """Sends a signal to a process, with a number along if you like. Never waits.

    Real-time signals (SIGRTMIN and above) queue: each that was sent arrives, in order, or this
    raises LimitError. A standard signal that is pending already swallows the next ones of its
    kind, with their values: it says "look", not "once more".

    Args:
        process: a pid, an object with `.pid` (Popen, multiprocessing.Process), or what holds a
            pidfd (ProcessHandle). For several signals to one process open it once.
        number: 1..64; 0 only asks whether the process is there and may be notified.
        value: -2**31..2**31-1; None = as kill(2) sends it. A real-time signal always carries one,
            0 if none is given, because only so the kernel tells when its queue is full.

    Raises:
        PeerGoneError: it has exited and was reaped. NotPermittedError: it is another user's.
        LimitError: RLIMIT_SIGPENDING signals wait already. ValueError: no such signal or value.

    Source: pidfd_send_signal(2), sigqueue(3).
    """
    if number != 0:
        checked(number)
    if value is not None and not -(2**31) <= value < 2**31:
        raise ValueError(f"value must be within 32 bits, signed, not {value!r}")
    if number >= FIRST_REAL_TIME and value is None:
        value = 0
    if isinstance(process, int) or not hasattr(process, "fileno"):
        with open_process(process) as handle:
            _send(handle.fileno(), handle.pid, number, value)
    else:
        _send(process.fileno(), process, number, value)


def reap_children() -> list[tuple[int, int]]:
    """Reaps every child of this process that has exited: for a program that owns all of them.

    SIGCHLD coalesces, so one of them may stand for fifty children. What this reaps is gone for
    `subprocess` and `multiprocessing`, whose objects then know no exit code: where they are used,
    wait for each process by itself (Reactor.on_exit).

    Returns: (pid, exit code, or minus the signal that ended it) of each; empty when none has.
        Never waits.

    Source: waitpid(2).
    """
    reaped: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return reaped
        if pid == 0:
            return reaped
        reaped.append((pid, os.waitstatus_to_exitcode(status)))


def _send(pidfd: int, process: object, number: int, value: int | None) -> None:
    result = pidfd_send(pidfd, number, value)
    if result == 0:
        return
    place = f"signals.notify {process} {name_of(number)}"
    facts: dict[str, Any] = {
        "errno": -result, "operation": "signals.notify", "address": process,
    }  # fmt: skip
    if result == -errno.ESRCH:
        raise PeerGoneError(f"{place}: the process is gone (ESRCH)", **facts)
    if result == -errno.EPERM:
        raise NotPermittedError(
            f"{place}: not permitted (EPERM); it belongs to another user", **facts
        )
    if result == -errno.EAGAIN:
        raise LimitError(
            f"{place}: too many signals are pending (EAGAIN); let it take some, or raise its "
            f"RLIMIT_SIGPENDING (ulimit -i)",
            **facts,
        )
    raise from_os_error(OSError(-result, os.strerror(-result)), "signals.notify", process)
