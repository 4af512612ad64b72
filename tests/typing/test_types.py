"""The types that naru promises, as mypy sees them, and the stubs against the compiled modules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import naru

pytest.importorskip("mypy", reason="types are checked where mypy is: naru-ipc[test]")
pytest.importorskip("numpy", reason="the stubs name numpy's types")

HERE = Path(__file__).parent


def run_mypy(cache: Path, *arguments: str | Path) -> str:
    """What mypy prints when it finds something, else nothing. The naru that is tested is the one
    that this interpreter imports: installed, or beside the sources."""
    environment = {**os.environ, "MYPY_CACHE_DIR": str(cache)}
    environment.pop("MYPYPATH", None)
    root = Path(naru.__file__).parents[1]
    if root.name not in ("site-packages", "dist-packages"):  # mypy looks there by itself
        environment["MYPYPATH"] = str(root)
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cache, env=environment, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.watchdog(300)
def test_users_get_the_types_that_are_promised(tmp_path: Path) -> None:
    found = run_mypy(tmp_path, "mypy", "--strict", "--no-error-summary", HERE / "cases.py")
    assert not found, found


@pytest.mark.watchdog(300)
def test_stubs_agree_with_the_compiled_modules(tmp_path: Path) -> None:
    allowed = HERE / "stubtest_allowlist.txt"
    # Unused entries are in order: which ones are needed depends on the version of Python.
    arguments = ("naru", "--concise", "--allowlist", allowed, "--ignore-unused-allowlist")
    found = run_mypy(tmp_path, "mypy.stubtest", *arguments)
    assert not found, found


def test_native_verbs_show_their_signatures() -> None:
    """What stubtest compares with, and what help() shows."""
    import inspect

    assert str(inspect.signature(naru.Sender.send)) == (
        "(self, /, data, timeout_s=None, *, priority=0)"
    )
