"""6 and 7: system calls that move a few bytes only, and the Nth system call fails, for N = 1, 2, 3...
until a whole life of ends passes unharmed.

What must hold is stories.py's judgement: only naru's errors come out; what a send accepted arrives,
what it refused never does, nothing is torn; every descriptor and name is given back; nothing hangs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faulty_libc
import pytest
from helpers import run_python, scaled

from naru.testing.faults import can_inject, each_failure

STORIES = [
    *(("pair", kind) for kind in ("shm", "pipe", "unix", "tcp", "udp")),
    *(("channel", kind) for kind in ("shm", "unix", "tcp", "udp")),
    *(("queue", kind) for kind in ("shm", "unix", "tcp", "udp", "fifo", "mq")),
]
HERE = Path(__file__).parent


def tell(shape: str, kind: str, directory: str, *calls: str) -> dict[str, Any]:
    """Runs stories.py in a process that has the faulty libc."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    paths = [str(HERE), *sys.path]
    environment = {
        **os.environ, **faulty_libc.environment(),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)), "XDG_RUNTIME_DIR": directory,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(HERE / "stories.py"), shape, kind, directory, *calls],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.watchdog(seconds=240)
def test_fault_07_nth_call_fails(tmp_path: Path) -> None:
    """All stories, some at a time: most of their time is waiting."""
    faulty_libc.environment()  # a skip must come from here, not from a thread
    with ThreadPoolExecutor(max_workers=5) as pool:
        futures = {
            story: pool.submit(tell, *story, str(tmp_path / "-".join(story))) for story in STORIES
        }
        results = {" ".join(story): future.result() for story, future in futures.items()}
    assert {story: result["wrong"] for story, result in results.items() if result["wrong"]} == {}
    failed = {story: result["failed"] for story, result in results.items()}
    assert min(failed.values()) > 100, failed


@pytest.mark.parametrize(("shape", "kind"), STORIES)
def test_fault_06_short_reads_and_writes(shape: str, kind: str, tmp_path: Path) -> None:
    result = tell(shape, kind, str(tmp_path), "short")
    assert result["wrong"] == {}
    assert result["told"] == 3


LEDGER_IN_SMALL_BITES = """
import sys, threading
import faulty_libc, naru
from naru.testing.ledger import LedgerReader, LedgerWriter

kind, count = sys.argv[1], int(sys.argv[2])
sizes = (24, 25, 31, 4095, 4096, 4097, 9000)
writer, reader = LedgerWriter(1, lambda number: sizes[number % len(sizes)]), LedgerReader()
ours, theirs = naru.pair(kind)
faulty_libc.shorten(7)
def send():
    for number in range(count):
        if number % 3:
            ours.send(writer.next())
        else:
            ours.send_many(writer.take(5))
    ours.close()
thread = threading.Thread(target=send)
thread.start()
for message in theirs:
    reader.add(message)
thread.join()
theirs.close()
report = reader.report({1: writer.count})
assert report.is_perfect, report
"""


@pytest.mark.parametrize("kind", ["pipe", "unix", "tcp"])
def test_fault_06_a_long_stream_in_bites_of_up_to_seven_bytes(kind: str) -> None:
    done = run_python(
        LEDGER_IN_SMALL_BITES, kind, scaled(60, 2000), timeout_s=300, **faulty_libc.environment()
    )
    assert (done.returncode, done.stderr) == (0, "")


ONE_LIFE = """
import json, sys, warnings
import faulty_libc, stories
bugs, _ = stories.tell(stories.TELLERS["pair"], sys.argv[1], sys.argv[2])
assert not bugs, bugs
"""


@pytest.mark.parametrize(
    ("kind", "call", "error"),
    [("shm", "memfd_create", "EMFILE"), ("shm", "fallocate", "ENOSPC"), ("unix", "socketpair", "ENFILE"),
     ("pipe", "pipe2", "EMFILE")],
)  # fmt: skip
def test_fault_07_nth_call_fails_in_the_kernel(
    kind: str, call: str, error: str, tmp_path: Path
) -> None:
    """The same with strace, which reaches what libc does by itself."""
    if not can_inject():
        pytest.skip("needs strace, and the permission to trace")
    code = f"import sys; sys.path[:0] = {[str(HERE), *sys.path]!r}\n{ONE_LIFE}"
    runs = list(each_failure(code, kind, str(tmp_path), call=call, error=error))
    assert len(runs) > 1, "no such call"
    for number, run in runs:
        assert run.returncode == 0, (number, run.output)
