"""Running `naru` as people do: a process of its own, its output, its exit code.

Must not know: any single command.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WATCHDOG_S = 45.0

STILL_WAITING = b"naru: waiting for somebody at "
"""Said after a second: the other side may take long to start."""

NARU = (sys.executable, "-m", "naru.cli")


def environment(**changes: str | None) -> dict[str, str]:
    """That of this process, with the modules under test; None takes a variable away."""
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        found.pop(name, None)
    for name, value in changes.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = value
    return found


def naru(
    *arguments: str | bytes, stdin: bytes = b"", env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command to its end."""
    return subprocess.run(
        [*NARU, *arguments], input=stdin, capture_output=True, check=False, timeout=WATCHDOG_S,
        env=env or environment(), **options,
    )  # fmt: skip


@contextmanager
def running(
    *arguments: str, env: dict[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that goes on; killed at the end if it still runs."""
    options = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    } | options
    with subprocess.Popen([*NARU, *arguments], env=env or environment(), **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Waits: exit code, what is left of its output, its errors."""
    out, errors = process.communicate(timeout=WATCHDOG_S)
    return process.returncode, out or b"", errors or b""


def sent(address: str, data: bytes, *arguments: str) -> None:
    """Sends lines and insists that it worked."""
    done = naru("send", address, *arguments, stdin=data)
    told = [line for line in done.stderr.splitlines() if not line.startswith(STILL_WAITING)]
    assert (done.returncode, told) == (0, [])


@contextmanager
def terminal(columns: int = 100) -> Iterator[tuple[int, int]]:
    """(ours, theirs): a pseudo-terminal of this width."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


def read_terminal(fd: int, until: bytes = b"") -> bytes:
    """What was written to a pseudo-terminal: until these bytes, or what is there now."""
    found = b""
    while select.select([fd], [], [], WATCHDOG_S if until else 0)[0]:
        found += os.read(fd, 65536)
        if until and until in found:
            break
    assert until in found
    return found
