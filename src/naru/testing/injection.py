"""System calls that fail on purpose, by strace's `-e inject=`: for logic, not for speed.

Holds: injected, each_failure (the Nth call fails, for N = 1, 2, 3... until none is left to fail).
Must not know: what the program does. Source: strace(1), "Tampering".
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Injected", "can_inject", "each_failure", "injected"]

_INJECTED = re.compile(r"\(INJECTED")


@dataclass(frozen=True, slots=True)
class Injected:
    """How a program took it."""

    returncode: int
    """Minus the signal, when one ended it."""
    output: str
    """stdout and stderr together."""
    count: int
    """Calls that were tampered with; 0: the program made fewer than that."""
    trace: str
    """strace's own lines: the calls that were named."""


def can_inject() -> bool:
    """Is there an strace, and may it trace?"""
    if shutil.which("strace") is None:
        return False
    probe = subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True)
    return probe.returncode == 0


def injected(
    source: str,
    *args: str,
    inject: str,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> Injected:
    """Runs a Python program under strace with calls tampered with.

    Args:
        source: its text; `args` is its sys.argv[1:].
        inject: strace's words, such as "sendmsg:error=ENOBUFS:when=3" or
            "fallocate:error=ENOSPC", "write:retval=1", "sendmsg:signal=SIGKILL:when=4".
        env: variables besides those of this process.

    Raises: subprocess.TimeoutExpired; the program and everything that it started is killed then.
    """
    calls = inject.partition(":")[0]
    with tempfile.TemporaryDirectory(prefix="naru-inject-") as directory:
        log = Path(directory, "trace")
        process = subprocess.Popen(
            [
                "strace", "-f", "-qq", "-e", f"trace={calls}", "-e", "signal=none",
                "-e", f"inject={inject}", "-o", os.fspath(log),
                sys.executable, "-c", source, *args,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        trace = log.read_text(errors="replace")
    return Injected(process.returncode, output, len(_INJECTED.findall(trace)), trace)


def each_failure(
    source: str,
    *args: str,
    call: str,
    error: str,
    first: int = 1,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> Iterator[tuple[int, Injected]]:
    """Runs a program again and again; each time the next call of that name fails.

    Args:
        call: a system call, such as "sendmsg"; error: such as "ENOMEM".
        first: start at this call (the interpreter's own start makes some, too).

    Yields: (N, how it took it), N = first, first + 1..., until a run makes fewer calls than N; that
    unharmed run comes last, with count == 0.
    """
    for number in itertools.count(first):
        inject = f"{call}:error={error}:when={number}"
        result = injected(source, *args, inject=inject, env=env, timeout_s=timeout_s)
        yield number, result
        if result.count == 0:
            return
