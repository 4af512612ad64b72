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
    "asyncio_service.py": [
        r"10 clients, 1000 questions each: all answers right: True",
        r"the clock went on beside them: True",
        r"the service was killed; everyone heard of it",
        r"its name is free for the next one: shm://naru-example-asyncio",
    ],
    "chat.py": [
        r"ann hears bob: hello from bob",
        r"bob hears eve: hello from eve",
        r"nobody is left\ndrained: True",
    ],
    "daemon_over_tcp.py": [
        r"list: 200 \['web', 'cache'\]",
        r"create: 201 \{'Id': 'c0de', 'Image': 'jobs'\}",
        r"logs: 200 20000 lines",
        r"proxy: naru: accepted=3 open=0 most_open=\d joined=3 target_failed=0 ended=6 broken=0 ",
    ],
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
    "one_loop.py": [
        *(rf"{kind}: " for kind in ("pipe", "socket", "queue", "channel", "timer", "file")),
        r"child: exit 7",
        r"SIGINT: good-bye\n\d+ callbacks, 0 errors, in one thread",
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
    "publish_subscribe.py": [
        r"ledger: 20000 received, 0 lost, 20000 in all, last 19999",
        r"chart: \d+ received, \d+ lost, 20000 in all, last 19999",
        r"display: \d+ received, \d+ lost, 20000 in all, last 19999",
    ],
    "shared_cache.py": [
        r"rendered 20 pages for two workers",
        r"one worker served 2000",
        r"the killed one served at least 2000: True",
        r"still writable and sound: True",
        r"hit ratio above 98 %: True",
    ],
    "shell_logs.py": [
        r"log: INFO  request 3 served",
        r"4 lines, 1 of them an error, 0 after the end",
    ],
    "video_frames.py": [
        r"100 frames of 1920 x 1080, mean brightness 49\.7",
        r"\d+ frames/s, \d+\.\d\d GB/s",
        r"CPU seconds: camera \d+\.\d+, viewer \d+\.\d+",
    ],
    "worker_pool.py": [
        r"12 files, 3 workers, all digests right: True",
        r"without a file: ValueError: not enough values to unpack",
        r"and after it: True",
    ],
    "workers.py": [r"33860 primes below 400000", r"worker 2: \d+ jobs"],
}
# A few frames are enough.
ARGUMENTS = {"video_frames.py": ["100"]}


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
    if name in ("frames.py", "video_frames.py"):
        pytest.importorskip("numpy")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONWARNINGS": "error",
        "XDG_RUNTIME_DIR": runtime_directory,
    }
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *ARGUMENTS.get(name, [])],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=WATCHDOG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    for promise in PROMISES[name]:
        assert re.search(promise, done.stdout), f"no {promise!r} in\n{done.stdout}"
    assert [path for path in Path(runtime_directory).rglob("*") if not path.is_dir()] == []
