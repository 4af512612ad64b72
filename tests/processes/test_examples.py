"""Every example is run as a reader would run it, and says what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
WATCHDOG_S = 60

# What each one prints, among other things: regular expressions.
PROMISES = {
    "access_log.py": [
        r"200000 lines, 199996 of them good, 4 errors",
        r"all of them looked at: True",
        r"at byte \d+: b' 500 '",
        r"a copy of \d{7} bytes by (copy_file_range|sendfile|read_write)",
    ],
    "counted_loss.py": [
        r"sent 5000, received \d+, lost \d+, duplicates 0, reordered 0",
        r"every message is accounted for: True",
    ],
    "frames.py": [
        r"200 frames of 921600 bytes, mean brightness 99\.5, ",
        r"10000 samples, sum of their first column 49995000",
    ],
    "http_over_unix.py": [
        r"status: HTTP/1\.[01] 200 OK",
        r"body: \{'path': '/containers/json', 'pid': \d+\}",
    ],
    "open_files.py": [
        r"keeper: a file with 0 names goes to Peer\(pid=\d+, ",
        r"keeper: the file says: written by pid \d+: hello from another process",
    ],
    "orders.py": [
        r"shop: a customer came: Peer\(pid=\d+, uid=\d+, gid=\d+\)",
        r"shop: 100000 orders in ",
        r"customer: receipt: 100000 orders, 300000 pieces, 262500\.00",
    ],
    "priorities.py": [
        r"\Apriority 9: sensor 1: fire\n(priority 1: sensor \d: door open\n){3}"
        r"(priority 0: sensor \d: all is well\n){3}\Z",
    ],
    "shell_logs.py": [
        r"log: INFO  request 3 served",
        r"4 lines, 1 of them an error, 0 after the end",
    ],
    "workers.py": [r"33860 primes below 400000", r"worker 2: \d+ jobs"],
}


@pytest.fixture
def runtime_directory() -> Iterator[str]:
    """Names of its own, so that two runs of the tests do not meet."""
    with tempfile.TemporaryDirectory(prefix="ne-") as name:
        yield name


def test_every_example_has_its_promises() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == set(PROMISES)


@pytest.mark.watchdog(seconds=90)
@pytest.mark.parametrize("name", PROMISES)
def test_example(name: str, runtime_directory: str) -> None:
    if name == "frames.py":
        pytest.importorskip("numpy")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONWARNINGS": "error",
        "XDG_RUNTIME_DIR": runtime_directory,
    }
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=WATCHDOG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    for promise in PROMISES[name]:
        assert re.search(promise, done.stdout), f"no {promise!r} in\n{done.stdout}"
    assert [path for path in Path(runtime_directory).rglob("*") if not path.is_dir()] == []
