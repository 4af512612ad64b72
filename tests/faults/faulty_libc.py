"""The Python side of faulty_libc.c: builds it, and tells it what to do in a process that has it.

Holds: `library()` for tests (path, or a skip), `arm`, `disarm`, `shorten` for the scripts that run
under it. Must not know: what is tested.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

__all__ = ["arm", "disarm", "environment", "is_here", "shorten"]

SOURCE = Path(__file__).with_name("faulty_libc.c")


@functools.cache
def _built() -> Path:
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"needs a C compiler ({compiler[0]})")
    directory = Path(tempfile.gettempdir(), f"naru-faulty-libc-{os.geteuid()}")
    directory.mkdir(mode=0o700, exist_ok=True)
    made = directory / f"{int(SOURCE.stat().st_mtime_ns)}.so"
    if not made.exists():
        draft = made.with_suffix(f".{os.getpid()}")
        command = [*compiler, "-shared", "-fPIC", "-O1", "-o", draft, SOURCE, "-ldl", "-lrt"]
        subprocess.run(command, check=True)
        draft.replace(made)
    return made


def environment() -> dict[str, str]:
    """Variables that give a new process the faulty libc. Skips the test where it cannot be built."""
    return {"LD_PRELOAD": os.fspath(_built())}


# ---- in the process that has it ----


@functools.cache
def _functions() -> ctypes.CDLL:
    functions = ctypes.CDLL(None)
    if hasattr(functions, "fault_arm"):
        functions.fault_calls.restype = functions.fault_fired.restype = ctypes.c_long
    return functions


def is_here() -> bool:
    """Does this process have it?"""
    return hasattr(_functions(), "fault_arm")


def arm(call: str, error: int, nth: int, *, forever: bool = False) -> None:
    """The nth call of that name from now on fails with this errno (and all after it)."""
    _functions().fault_arm(call.encode(), error, ctypes.c_long(nth), int(forever))


def disarm() -> tuple[int, int]:
    """Returns how many such calls there were, and how many failed."""
    counts = _functions().fault_calls(), _functions().fault_fired()
    _functions().fault_arm(b"", 0, ctypes.c_long(0), 0)
    return counts


def shorten(most_bytes: int) -> None:
    """Reads from pipes and stream sockets, and writes to the latter, move 1..most_bytes; 0: whole."""
    _functions().fault_shorten(most_bytes)
